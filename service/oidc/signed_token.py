"""Signed tokens: JSON Web Tokens (RFC 7519) in the compact serialization of JWS (RFC 7515 7.1).

Stricter than both: no token has two readings, and no header refers to a key.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key, OKPKey
from joserfc.jws import JWSRegistry

from service.pki.encoding import decode_base64url
from service.pki.strict_json import parse_json
from service.pki.token_identity import InvalidTokenError

MAX_LENGTH: Final = 8_192  # characters of a token; API Gateway limits all headers together to 10,240 octets
_MAX_TEXT: Final = 1_024  # characters of `sub` and `jti`
_MAX_TIME: Final = 253_402_214_400  # 9999-12-31: a day before the last time that Python can represent
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_TYPES: Final = frozenset({"jwt", "at+jwt"})  # RFC 7519 5.1, RFC 9068 2.1; not logout+jwt, dpop+jwt, ...
_SAFE_WORD: Final = re.compile(r"[A-Za-z0-9#+./_-]{1,32}")  # what a reason may quote from a token
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_A_JWT: Final = (
    "the token is not a signed JWT: send three parts in base64url without padding, separated by dots"
)


@dataclass(frozen=True)
class SignedToken:
    """A token whose form is right, and whose signature is not verified yet.

    Attributes:
        algorithm, key_id: the members `alg` and `kid` of the header.
        claims: all claims.
        subject, token_id: the claims `sub` and `jti`; '' if there are none.
        expires_at, not_before, issued_at: the claims `exp`, `nbf` (or 0) and `iat`, in Unix time.
    """

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
        """Parse a token.

        Raises:
            InvalidTokenError: its form is wrong.
        """
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


@functools.cache
def _registry(algorithm: str) -> JWSRegistry:
    """Accept one algorithm. Its name is in a rule, so there are few."""
    warnings.filterwarnings("ignore", "EdDSA is deprecated", UserWarning)  # RFC 9864; issuers use this name
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
            raise InvalidTokenError(
                f"the header of the token has {name_safely('member', name)}: send a token without it"
            )
        if not isinstance(value, str):
            raise InvalidTokenError(f"the member {name} of the header of the token is not a string")
    for name in ("alg", "kid"):
        if not header.get(name):
            raise InvalidTokenError(f"the header of the token has no {name}: the issuer has to add it")
    if header.get("typ", "JWT").lower().removeprefix("application/") not in _TYPES:
        raise InvalidTokenError("the typ of the token is neither JWT nor at+jwt: send an ID or access token")
    return header


def name_safely(label: str, name: str) -> str:
    """Name a member or an algorithm of a token in a reason: only what has safe characters."""
    return f"the {label} {name}" if _SAFE_WORD.fullmatch(name) else f"an unknown {label}"


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
