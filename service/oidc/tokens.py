"""Verify tokens by the operator's rules.

The form of a token is verified first, then what a rule says about issuer, audience and algorithm, so that
strangers cost no work with public keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum, auto
from pathlib import Path
from typing import Final

from service.oidc.key_sets import KeySet, create_key_sets
from service.oidc.signed_token import SignedToken, name_safely
from service.pki.encoding import format_timestamp
from service.pki.errors import escape_controls, shorten
from service.pki.identity_rules import IdentityRule
from service.pki.json_pointer import resolve_pointer
from service.pki.token_identity import LEEWAY, InvalidTokenError, KeysUnavailableError, TokenIdentity

_UNSAFE: Final = re.compile(r"[^ !#-&(-\[\]-~]")  # a reason becomes part of a JSON template


class _Step(IntEnum):
    """How far a token came with a rule."""

    ISSUER = auto()
    AUDIENCE = auto()
    ALGORITHM = auto()
    SIGNATURE = auto()
    TIMES = auto()
    CLAIMS = auto()
    NAMES = auto()


class _MismatchError(Exception):
    """A token does not match a rule."""

    def __init__(self, step: _Step, reason: str, detail: str = "", claims: Sequence[str] = ()) -> None:
        """Describe the mismatch.

        Args:
            step: what differs.
            reason: why, for the caller: without values of the rule.
            detail: why, for the operator; '' for the reason.
            claims: JSON pointers of the claims that differ.
        """
        super().__init__(reason)
        self.step, self.reason, self.claims = step, reason, claims
        self.detail = detail or reason


def create_verifier(
    rules: Sequence[IdentityRule], directory: Path, clock: Callable[[], datetime]
) -> TokenVerifier:
    """Create the verifier of rules; arguments and errors are those of `create_key_sets`."""
    return TokenVerifier(rules, create_key_sets(rules, directory, clock), clock)


class TokenVerifier:
    """Verifies tokens by rules."""

    def __init__(
        self, rules: Sequence[IdentityRule], key_sets: Mapping[str, KeySet], clock: Callable[[], datetime]
    ) -> None:
        """Prepare to verify.

        Args:
            rules: the rules; the first that matches applies.
            key_sets: name of a rule -> the keys of its issuer.
            clock: returns the current time, UTC.
        """
        self._rules = rules
        self._key_sets = key_sets
        self._clock = clock

    def verify(self, token: str) -> TokenIdentity:
        """Verify a token (RFC 7519 7.2).

        Raises:
            InvalidTokenError: it identifies no caller. The message is ASCII without quotes, backslashes and
                control characters.
            KeysUnavailableError: no rule matches without the keys of an issuer that are not available.
        """
        parsed = SignedToken.parse(token)
        mismatches: list[_MismatchError] = []
        unavailable: KeysUnavailableError | None = None
        for rule in self._rules:
            try:
                return self._match(rule, parsed)
            except _MismatchError as error:
                mismatches.append(error)
            except KeysUnavailableError as error:
                unavailable = unavailable or error
        if unavailable:
            raise unavailable
        raise InvalidTokenError(_UNSAFE.sub("?", _summarize(mismatches)))

    def explain(self, token: str) -> list[tuple[str, str]]:
        """Explain to the operator which rules match a token.

        Returns:
            for each rule its name, and '' if it matches, otherwise why not, with values of the rule.
        """
        try:
            parsed = SignedToken.parse(token)
        except InvalidTokenError as error:
            return [(rule.name, str(error)) for rule in self._rules]
        return [(rule.name, self._explain(rule, parsed)) for rule in self._rules]

    def _explain(self, rule: IdentityRule, token: SignedToken) -> str:
        try:
            self._match(rule, token)
        except _MismatchError as error:
            return error.detail
        except KeysUnavailableError as error:
            return str(error)
        return ""

    def _match(self, rule: IdentityRule, token: SignedToken) -> TokenIdentity:
        """Verify a token by one rule; raise _MismatchError or KeysUnavailableError."""
        _verify_recipient(rule, token)
        key = self._key_sets[rule.name].find(token.key_id, token.algorithm)
        if key is None:
            reason = "the issuer has no key with the kid and the algorithm of the token: request a new one"
            raise _MismatchError(_Step.SIGNATURE, reason)
        if not token.is_signed_by(key):
            raise _MismatchError(_Step.SIGNATURE, "the signature of the token is wrong: request a new one")
        _verify_times(rule, token, self._clock().timestamp())
        _verify_claims(rule, token)
        if rule.is_once and not token.token_id:
            raise _MismatchError(_Step.NAMES, "the token has no jti, so it cannot be accepted only once")
        try:
            names = rule.expand_names(token.claims)
        except ValueError as error:
            raise _MismatchError(_Step.NAMES, str(error)) from error
        return TokenIdentity(
            rule=rule.name,
            issuer=rule.issuer,
            subject=token.subject,
            token_id=token.token_id,
            expires_at=datetime.fromtimestamp(token.expires_at, UTC),
            is_once=rule.is_once,
            names=names,
        )


def _verify_recipient(rule: IdentityRule, token: SignedToken) -> None:
    issuer, audience = token.claims.get("iss"), token.claims.get("aud")
    if issuer != rule.issuer:
        detail = f"iss is {_format(issuer)}, not {_format(rule.issuer)}"
        raise _MismatchError(_Step.ISSUER, "no rule accepts tokens of this issuer", detail)
    if audience not in (rule.audience, [rule.audience]):
        reason = "the token is not for this CA: request one with the audience of the CA, and no others"
        detail = f"aud is {_format(audience)}, not {_format(rule.audience)}"
        raise _MismatchError(_Step.AUDIENCE, reason, detail)
    if token.algorithm not in rule.algorithms:
        algorithm = name_safely("algorithm", token.algorithm)
        reason = f"no rule accepts {algorithm} for tokens of this issuer"
        detail = f"alg is {_format(token.algorithm)}, not {' or '.join(rule.algorithms)}"
        raise _MismatchError(_Step.ALGORITHM, reason, detail)


def _verify_times(rule: IdentityRule, token: SignedToken, now: float) -> None:
    max_age = rule.max_age.total_seconds()
    if now >= token.expires_at + LEEWAY:
        reason, time = "the token is expired: request a new one", token.expires_at
    elif now < token.not_before - LEEWAY:
        reason, time = "the token is not valid yet: compare the clocks", token.not_before
    elif now < token.issued_at - LEEWAY:
        reason, time = "the token was issued in the future: compare the clocks", token.issued_at
    elif now >= token.issued_at + max_age + LEEWAY:
        reason, time = "the token was issued too long ago: request a new one", token.issued_at
    else:
        return
    detail = f"{reason} ({format_timestamp(datetime.fromtimestamp(time, UTC))})"
    raise _MismatchError(_Step.TIMES, reason, detail)


def _verify_claims(rule: IdentityRule, token: SignedToken) -> None:
    differing = rule.find_differing_claims(token.claims)
    if not differing:
        return
    details = [
        f"{pointer} is {_format(resolve_pointer(pointer, token.claims))}, not {_format(rule.claims[pointer])}"
        for pointer in differing
    ]
    raise _MismatchError(_Step.CLAIMS, "", ", ".join(details), differing)


def _summarize(mismatches: Sequence[_MismatchError]) -> str:
    """Describe the mismatches of the rules that are nearest to match."""
    step = max((mismatch.step for mismatch in mismatches), default=_Step.ISSUER)
    nearest = [mismatch for mismatch in mismatches if mismatch.step == step]
    if step is _Step.CLAIMS:
        claims = sorted({claim for mismatch in nearest for claim in mismatch.claims})
        return f"claims of the token are missing, or differ from the rules: {', '.join(claims)}"
    return "; ".join(dict.fromkeys(mismatch.reason for mismatch in nearest)) or "no rules accept tokens"


def _format(value: object) -> str:
    """Format a value as JSON, which shows its type, for a terminal."""
    if value is None:
        return "missing"
    return shorten(escape_controls(json.dumps(value)), 200)
