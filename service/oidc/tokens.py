"""Verify tokens: JSON Web Tokens (RFC 7519) in the compact serialization, signed by an issuer of the rules.

The form is verified first, then what the rules say about issuer, audience and algorithm, so that strangers
cost no work with public keys.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, auto
from typing import Any, Final, Self

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key, OKPKey
from joserfc.jws import JWSRegistry

from service.oidc.key_sets import KeySet
from service.pki.encoding import decode_base64url, format_timestamp
from service.pki.errors import escape_controls, shorten
from service.pki.identity_rules import IdentityRule
from service.pki.strict_json import parse_json
from service.pki.token_identity import InvalidTokenError, KeysUnavailableError, TokenIdentity

MAX_LENGTH: Final = 8_192  # characters of a token; API Gateway limits all headers together to 10,240 octets
LEEWAY: Final = 60  # seconds that clocks may differ
_MAX_TEXT: Final = 1_024  # characters of `sub` and `jti`
_MAX_TIME: Final = 253_402_214_400  # 9999-12-31: a day before the last time that Python can represent
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_TYPES: Final = frozenset({"jwt", "at+jwt"})  # RFC 7519 5.1, RFC 9068 2.1; not logout+jwt, dpop+jwt, ...
_SAFE_WORD: Final = re.compile(r"[A-Za-z0-9#+./_-]{1,32}")  # what a reason may quote from a token
_UNSAFE: Final = re.compile(r"[^ !#-&(-\[\]-~]")  # a reason becomes part of a JSON template
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_A_JWT: Final = (
    "the token is not a signed JWT: send three parts in base64url without padding, separated by dots"
)


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


@dataclass(frozen=True)
class _Token:
    """A token whose form is right, and whose signature is not verified yet. Times are in Unix time."""

    encoded: str = field(repr=False)
    algorithm: str
    key_id: str
    claims: Mapping[str, Any]
    subject: str
    token_id: str
    expires_at: float
    not_before: float
    issued_at: float

    @classmethod
    def parse(cls, encoded: str) -> Self:
        """Parse a token; raise InvalidTokenError if its form is wrong."""
        if len(encoded) > MAX_LENGTH:
            raise InvalidTokenError(f"the token has more than {MAX_LENGTH} characters: request a shorter one")
        try:
            header_part, claims_part, _signature = map(decode_base64url, encoded.split("."))
        except ValueError as error:
            raise InvalidTokenError(_NOT_A_JWT) from error
        header = _parse_header(header_part)
        claims = _parse_object(claims_part, "the claims of the token are")
        return cls(
            encoded,
            algorithm=header["alg"],
            key_id=header["kid"],
            claims=claims,
            subject=_parse_text(claims, "sub"),
            token_id=_parse_text(claims, "jti"),
            expires_at=_parse_time(claims, "exp"),
            not_before=_parse_time(claims, "nbf") if "nbf" in claims else 0,
            issued_at=_parse_time(claims, "iat"),
        )

    def is_signed_by(self, key: Key) -> bool:
        """Whether the signature is that of a key."""
        if isinstance(key, OKPKey) and key.curve_name != "Ed25519":  # EdDSA is also the name for Ed448
            return False
        try:
            jws.deserialize_compact(self.encoded, key, registry=_registry(self.algorithm))
        except (JoseError, ValueError):
            return False
        return True


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
        parsed = _Token.parse(token)
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
            parsed = _Token.parse(token)
        except InvalidTokenError as error:
            return [(rule.name, str(error)) for rule in self._rules]
        return [(rule.name, self._explain(rule, parsed)) for rule in self._rules]

    def _explain(self, rule: IdentityRule, token: _Token) -> str:
        try:
            self._match(rule, token)
        except _MismatchError as error:
            return error.detail
        except KeysUnavailableError as error:
            return str(error)
        return ""

    def _match(self, rule: IdentityRule, token: _Token) -> TokenIdentity:
        """Verify a token by one rule; raise _MismatchError or KeysUnavailableError."""
        _verify_recipient(rule, token)
        key = self._key_sets[rule.name].find(token.key_id, token.algorithm)
        if key is None:
            reason = "the issuer has no key with the kid and the algorithm of the token: request a new one"
            raise _MismatchError(_Step.SIGNATURE, reason)
        if not token.is_signed_by(key):
            raise _MismatchError(_Step.SIGNATURE, "the signature of the token is wrong: request a new one")
        _verify_times(rule, token, self._clock().timestamp())
        if differing := rule.find_differing_claims(token.claims):
            detail = ", ".join(f"{pointer} is not {_format(rule.claims[pointer])}" for pointer in differing)
            raise _MismatchError(_Step.CLAIMS, "", detail, differing)
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


@functools.cache
def _registry(algorithm: str) -> JWSRegistry:
    """Accept one algorithm. Its name is in a rule, so there are few."""
    registry = JWSRegistry(algorithms=[algorithm])
    registry.max_header_length = registry.max_signature_length = MAX_LENGTH
    return registry


def _parse_object(data: bytes, label: str) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise InvalidTokenError(f"{label} not JSON, or not JSON that all parsers read alike") from error
    if not isinstance(value, dict):
        raise InvalidTokenError(f"{label} not a JSON object")
    return value


def _parse_header(data: bytes) -> Mapping[str, str]:
    """Parse the header, which has `alg` and `kid`, and no member that could refer to another key."""
    header = _parse_object(data, "the header of the token is")
    for name, value in header.items():
        if name not in _HEADER_MEMBERS:
            raise InvalidTokenError(f"the header of the token has {_member(name)}: send a token without it")
        if not isinstance(value, str):
            raise InvalidTokenError(f"the member {name} of the header of the token is not a string")
    for name in ("alg", "kid"):
        if not header.get(name):
            raise InvalidTokenError(f"the header of the token has no {name}: the issuer has to add it")
    if header.get("typ", "JWT").lower().removeprefix("application/") not in _TYPES:
        raise InvalidTokenError("the typ of the token is neither JWT nor at+jwt: send an ID or access token")
    return header


def _member(name: str) -> str:
    return f"the member {name}" if _SAFE_WORD.fullmatch(name) else "an unknown member"


def _parse_text(claims: Mapping[str, Any], name: str) -> str:
    """Parse an optional claim that goes into the audit log; '' if there is none."""
    text = claims.get(name, "")
    if not isinstance(text, str) or len(text) > _MAX_TEXT or _CONTROLS.search(text):
        limits = f"at most {_MAX_TEXT} characters without control characters"
        raise InvalidTokenError(f"the claim {name} of the token is not a string of {limits}")
    return text


def _parse_time(claims: Mapping[str, Any], name: str) -> float:
    """Parse a NumericDate (RFC 7519 2), which may have a fraction."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_TIME:
        raise InvalidTokenError(f"the claim {name} of the token is missing, or not a Unix time in seconds")
    return float(value)


def _verify_recipient(rule: IdentityRule, token: _Token) -> None:
    issuer, audience = token.claims.get("iss"), token.claims.get("aud")
    if issuer != rule.issuer:
        detail = f"iss is {_format(issuer)}, not {_format(rule.issuer)}"
        raise _MismatchError(_Step.ISSUER, "no rule accepts tokens of this issuer", detail)
    if audience not in (rule.audience, [rule.audience]):
        reason = "the token is not for this CA: request one with the audience of the CA, and no others"
        detail = f"aud is {_format(audience)}, not {_format(rule.audience)}"
        raise _MismatchError(_Step.AUDIENCE, reason, detail)
    if token.algorithm not in rule.algorithms:
        algorithm = token.algorithm if _SAFE_WORD.fullmatch(token.algorithm) else "an unknown algorithm"
        reason = f"the token is signed with {algorithm}, which no rule for its issuer accepts"
        detail = f"alg is {_format(token.algorithm)}, not {' or '.join(rule.algorithms)}"
        raise _MismatchError(_Step.ALGORITHM, reason, detail)


def _verify_times(rule: IdentityRule, token: _Token, now: float) -> None:
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
    return shorten(escape_controls(json.dumps(value)), 200)
