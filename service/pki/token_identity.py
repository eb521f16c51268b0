"""The caller that a token identified: the rule that matched, and what its certificates may name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

from service.pki.name_policy import NamePolicy
from service.pki.policy_parser import parse_name_policy
from service.pki.strict_json import parse_json

PRINCIPAL_PREFIX: Final = "oidc:"  # of the name of a principal; the name of the rule follows
LEEWAY: Final = 60  # seconds that the clocks of an issuer and of the CA may differ
CONTEXT_MEMBERS: Final = frozenset(
    {"rule", "issuer", "subject", "tokenId", "expiresAt", "isOnce", "names"}
)  # of the context of an authorizer's result
_UNIX_TIME: Final = re.compile(r"[0-9]{1,12}")
_BOOLEANS: Final = {"true": True, "false": False}


class InvalidTokenError(Exception):
    """The token identifies no caller; the message says why, without values of the rules."""


class KeysUnavailableError(Exception):
    """The issuer's keys have never been loaded, or too long ago; the message names the rule."""


class TokenIdentity(NamedTuple):
    """The identity that a verified token proves (RFC 7519).

    Attributes:
        rule: the name of the rule that matched (`x-certificate-identities`).
        issuer, subject, token_id: the claims `iss`, `sub` and `jti`; the last two are '' if there are none.
        expires_at: the claim `exp`, UTC.
        is_once: whether the token is good for one certificate.
        names: the names that its certificates may have, besides what profiles and principals permit.
    """

    rule: str
    issuer: str
    subject: str
    token_id: str
    expires_at: datetime
    is_once: bool
    names: NamePolicy

    @property
    def principal(self) -> str:
        """The name of the principal: `oidc:` and the name of the rule."""
        return f"{PRINCIPAL_PREFIX}{self.rule}"

    @property
    def accepted_until(self) -> datetime:
        """The time from which it is not accepted, UTC."""
        return self.expires_at + timedelta(seconds=LEEWAY)

    def to_context(self) -> dict[str, str]:
        """Convert to the `context` of an authorizer's result. API Gateway makes each value a string."""
        return {
            "rule": self.rule,
            "issuer": self.issuer,
            "subject": self.subject,
            "tokenId": self.token_id,
            "expiresAt": str(int(self.expires_at.timestamp())),
            "isOnce": "true" if self.is_once else "false",
            "names": json.dumps(self.names.to_dict()),
        }

    @classmethod
    def from_context(cls, context: Mapping[str, Any]) -> Self:
        """Parse `requestContext.authorizer`, which has further members.

        Raises:
            ValueError: it has not what `to_context` returns.
        """
        texts = {name: value for name in CONTEXT_MEMBERS if isinstance(value := context.get(name), str)}
        if texts.keys() != CONTEXT_MEMBERS or not texts["rule"]:
            raise ValueError("a member is missing, or is not a string")
        names = parse_json(texts["names"])
        if not _UNIX_TIME.fullmatch(texts["expiresAt"]) or texts["isOnce"] not in _BOOLEANS:
            raise ValueError("a value is malformed")
        if not isinstance(names, dict):
            raise ValueError("the names are not an object")  # noqa: TRY004 - JSON errors are ValueErrors too
        return cls(
            rule=texts["rule"],
            issuer=texts["issuer"],
            subject=texts["subject"],
            token_id=texts["tokenId"],
            expires_at=datetime.fromtimestamp(int(texts["expiresAt"]), UTC),
            is_once=_BOOLEANS[texts["isOnce"]],
            names=parse_name_policy(names),
        )
