"""Rules that turn a token's claims into a principal: `x-certificate-identities` of the contract."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from service.pki.errors import quote
from service.pki.json_pointer import parse_pointer, resolve_pointer
from service.pki.name_policy import NamePolicy
from service.pki.name_templates import (
    expand_dns_template,
    expand_uri_template,
    parse_dns_template,
    parse_uri_template,
)
from service.pki.policy_parser import (
    Fields,
    ProfileViolation,
    list_of,
    members_of,
    name_policy_fields,
    parse_object,
)
from service.pki.profile import parse_duration

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""The algorithms of signatures that a rule may accept, all asymmetric (RFC 7518 3.1, RFC 8037 3.1)."""

_DEFAULT_MAX_AGE: Final = timedelta(hours=1)
_MIN_MAX_AGE: Final = timedelta(minutes=1)
_MAX_MAX_AGE: Final = timedelta(days=30)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_URL: Final = re.compile(r"https://[!-~]{1,2000}")
_MAX_TEXT: Final = 2048
# Other members check them: issuer, audience, max_age; and the times always count.
_OWN_MEMBERS: Final = {"iss": "issuer", "aud": "audience", "iat": "max_age", "exp": "", "nbf": ""}
_REQUIRED: Final = ("issuer", "audience", "algorithms", "claims", "profiles", "names")


@dataclass(frozen=True)
class IdentityRule:
    """A rule for tokens of one issuer.

    Attributes:
        name: the name of the rule; its principal is `oidc:` and this name.
        issuer, audience: the exact values of the claims `iss` and `aud`.
        algorithms: the algorithms of signatures that it accepts (RFC 7518 3.1), all asymmetric.
        jwks_url, jwks_file: where the issuer's keys are (JWK Set, RFC 7517 5); one of them is ''.
        ca_file: PEM certificates that verify the host of `jwks_url`; '' for those of the system.
        claims: JSON pointer (RFC 6901) -> the exact value.
        max_age: the longest time since the claim `iat`.
        is_once: whether a token is good for one certificate.
        profiles: the profiles that the principal may use.
        names: what `expand_names` expands: a policy whose permitted names may have placeholders.
    """

    name: str
    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    claims: Mapping[str, str | int | bool]
    profiles: tuple[str, ...]
    names: NamePolicy
    jwks_url: str = ""
    jwks_file: str = ""
    ca_file: str = ""
    max_age: timedelta = _DEFAULT_MAX_AGE
    is_once: bool = False

    def find_differing_claims(self, claims: Mapping[str, Any]) -> list[str]:
        """Return the JSON pointers of the claims that are missing, or have another value or type."""
        return [
            pointer
            for pointer, expected in self.claims.items()
            if type(value := resolve_pointer(pointer, claims)) is not type(expected) or value != expected
        ]

    def expand_names(self, claims: Mapping[str, Any]) -> NamePolicy:
        """Return the names that these claims permit.

        Raises:
            ValueError: a claim of a template is missing, or has characters that its place does not allow;
                the message names the claim, not its value.
        """
        dns, uri = self.names.dns, self.names.uri
        return replace(
            self.names,
            dns=dns
            and replace(dns, permitted=tuple(expand_dns_template(name, claims) for name in dns.permitted)),
            uri=uri
            and replace(uri, permitted=tuple(expand_uri_template(name, claims) for name in uri.permitted)),
        )


def parse_rule(name: str, data: dict[str, Any]) -> IdentityRule:
    """Parse a rule, a member of `x-certificate-identities`.

    Raises:
        ValueError: the name is not one of a rule.
        ProfileError: the rule is invalid; lists all violations.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{quote(name)} is not 1 to 32 lower-case letters, digits and hyphens")
    parsed = parse_object(data, _FIELDS, partial(_rule_violations, data))
    return IdentityRule(name=name, is_once=parsed.pop("once", False), **parsed)


def _rule_violations(data: dict[str, Any], _: dict[str, Any]) -> Iterator[ProfileViolation]:
    """Missing members, and members that contradict each other."""
    if missing := [member for member in _REQUIRED if member not in data]:
        yield ProfileViolation((), f"missing: {', '.join(missing)}")
    if ("jwks_url" in data) == ("jwks_file" in data):
        yield ProfileViolation((), "exactly one of jwks_url and jwks_file is required")
    if "ca_file" in data and "jwks_url" not in data:
        yield ProfileViolation(("ca_file",), "allowed only with jwks_url")


def _text(text: str) -> str:
    """Parse a text that is compared exactly."""
    if text.startswith("^") or text.endswith("$") or "*" in text:
        raise ValueError(f"{quote(text)} looks like a pattern, but values are compared exactly")
    return text


def _name(text: str) -> str:
    """Parse an issuer, an audience or a file name."""
    if not 0 < len(text) <= _MAX_TEXT or not text.isascii() or not text.isprintable():
        raise ValueError(f"{quote(text)} is not 1 to {_MAX_TEXT} printable ASCII characters")
    return text


def _exact_name(text: str) -> str:
    return _text(_name(text))


def _algorithm(text: str) -> str:
    if text not in ALGORITHMS:
        raise ValueError(f"{quote(text)} is not an asymmetric algorithm; use one of {', '.join(ALGORITHMS)}")
    return text


def _jwks_url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if _URL.fullmatch(text) and parts.port != 0 and parts.hostname and not {"@", "#"} & set(text):
            return text
    raise ValueError(f"{quote(text)} is not an https URL without user name and fragment")


def _claim(pointer: str, value: object) -> str | int | bool:
    own = parse_pointer(pointer).split("/")[1]
    if own in _OWN_MEMBERS:
        remedy = f"set {_OWN_MEMBERS[own]}" if _OWN_MEMBERS[own] else "it is always checked"
        raise ValueError(f"{own} is not a claim to compare; {remedy}")
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):  # or a boolean
        return value
    raise ValueError("claims are compared with text, an integer, true or false")


def _claims(data: dict[str, Any]) -> dict[str, str | int | bool]:
    if not data:
        raise ValueError("at least one claim is required, or every token of the issuer would match")
    claims: dict[str, str | int | bool] = members_of(object, _claim)[1](data)
    return claims


def _max_age(text: str) -> timedelta:
    length = parse_duration(text)
    if not _MIN_MAX_AGE <= length <= _MAX_MAX_AGE:
        raise ValueError(f"{quote(text)} is not between a minute and {_MAX_MAX_AGE.days} days")
    return length


_NAMES: Final = name_policy_fields(parse_dns_template, parse_uri_template)


def _name_policy(data: dict[str, Any]) -> NamePolicy:
    return NamePolicy(**parse_object(data, _NAMES))


_FIELDS: Final[Fields] = {
    "issuer": (str, _exact_name),
    "audience": (str, _exact_name),
    "algorithms": list_of(_algorithm, str, min_items=1),
    "jwks_url": (str, _jwks_url),
    "jwks_file": (str, _name),
    "ca_file": (str, _name),
    "claims": (dict, _claims),
    "max_age": (str, _max_age),
    "once": (bool, bool),
    "profiles": list_of(str, str, min_items=1),
    "names": (dict, _name_policy),
}
