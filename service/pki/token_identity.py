"""The caller that a token identified: the rule that matched, and what its certificates may name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self

from service.pki.name_policy import NamePolicy
from service.pki.policy_parser import parse_name_policy

PRINCIPAL_PREFIX: Final = "oidc:"  # of the name of a principal; the name of the rule follows


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

    def to_context(self) -> dict[str, str | int | bool]:
        """Convert to the `context` of an authorizer's result, which has no objects and lists."""
        return {
            "rule": self.rule,
            "issuer": self.issuer,
            "subject": self.subject,
            "tokenId": self.token_id,
            "expiresAt": int(self.expires_at.timestamp()),
            "isOnce": self.is_once,
            "names": json.dumps(self.names.to_dict()),
        }

    @classmethod
    def from_context(cls, context: Mapping[str, Any]) -> Self:
        """Parse `requestContext.authorizer`, in which API Gateway makes each value a string.

        Raises:
            KeyError, ValueError, ProfileError: it is not what `to_context` returns.
        """
        return cls(
            rule=str(context["rule"]),
            issuer=str(context["issuer"]),
            subject=str(context["subject"]),
            token_id=str(context["tokenId"]),
            expires_at=datetime.fromtimestamp(int(context["expiresAt"]), UTC),
            is_once=str(context["isOnce"]).lower() != "false",
            names=parse_name_policy(json.loads(context["names"])),
        )
