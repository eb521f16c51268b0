"""The issuance policy: profiles and principals, loaded from the contract's JSON, all of it or nothing.

`service.overrides` checks it by `profiles.schema.json`. This module checks what a schema cannot say, and the
type of each value: a profile of another shape is an error, never a laxer profile.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from service.pki import keys, names
from service.pki.errors import IssuanceError, UnknownProfile, escape_controls, quote
from service.pki.keys import KeyKind
from service.pki.name_policy import DnsPolicy, EmailPolicy, IpPolicy, NamePolicy, UriPolicy
from service.pki.profile import (
    ANY_PRINCIPAL,
    EXTENDED_KEY_USAGES,
    MIN_VALIDITY,
    SERVER_USAGES,
    SUBJECT_ATTRIBUTES,
    Profile,
    Revocation,
    check_subject_attribute,
    eku_oid,
    parse_duration,
)

JSONPath = tuple[str | int, ...]
"""A place in JSON: `("profiles", "server", "validity")`."""
_Parse = Callable[[Any], Any]
"""Converts JSON of the right type; raises ValueError, IssuanceError, or ProfileError for what is within."""
_Fields = Mapping[Any, tuple[type, _Parse]]
"""What a JSON object may have: the type of each value in JSON, and what converts it."""
_Check = Callable[[dict[Any, Any]], Iterable["ProfileViolation"]]

_CA_ONLY_USAGES: Final = {  # what would let a certificate speak for the CA, or for everything
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ExtendedKeyUsageOID.OCSP_SIGNING,
    ExtendedKeyUsageOID.TIME_STAMPING,  # RFC 3161 2.3: it must be the only one, and critical
}
# The arcs of extensions that only the CA sets: verifiers read rights, names or revocation in them.
_CA_CONTROLLED_ARCS: Final = (
    "2.5.29",  # RFC 5280 4.2.1, and what was there before: to Windows 2.5.29.7 is a subjectAltName too
    "1.3.6.1.4.1.311",  # Microsoft: application policies, certificate templates, the SID of an account
    "2.16.840.1.113730.1",  # Netscape: nsCertType, nsSslServerName
    "1.3.6.1.4.1.11129.2.4",  # RFC 6962 3: SCTs, poison
    "1.3.6.1.4.1.44363.44",  # RFC 9345 4.2: delegated credentials
    "1.3.36.8.3",  # ISIS-MTT: procuration, admission, monetary limit
    # RFC 5280 4.2.2.1, 5755 4.4.3 and 7.4, 3779 (IP addresses, AS numbers), 3820 3.8 (proxies), 6010, 5913,
    # 8226 (telephone numbers), 8360, 9118
    *(f"1.3.6.1.5.5.7.1.{arc}" for arc in (1, 6, 7, 8, 10, 14, 18, 21, 26, 27, 28, 29, 33)),
)
_EXTENSIONS: Final = {"tlsFeature": ExtensionOID.TLS_FEATURE, "ocspNoCheck": ExtensionOID.OCSP_NO_CHECK}
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")  # the library accepts leading zeros
_RSA: Final = re.compile(r"RSA(?:-([0-9]{4,5}))?")
_NO_PRINCIPALS: Final[dict[str, object]] = {}
_REQUIRED: Final = ("description", "validity", "backdate", "extended_key_usage", "names")


@dataclass(frozen=True)
class ProfileViolation:
    """One thing that is wrong with the profiles, and where."""

    path: JSONPath
    detail: str

    def __str__(self) -> str:
        place = escape_controls(".".join(map(str, self.path)))
        return f"{place}: {self.detail}" if place else self.detail


class ProfileError(ValueError):
    """The profiles are not well formed; the message and `faults` list every fault."""

    def __init__(self, faults: Iterable[ProfileViolation]) -> None:
        self.violations = tuple(faults)
        super().__init__("; ".join(map(str, self.violations)))


class IssuancePolicy:
    """All certificate profiles of a contract, the default one, and the names that each principal may have."""

    def __init__(self, profiles: object, default: object, principals: object = _NO_PRINCIPALS) -> None:
        """Load what `profiles.schema.json` describes, JSON.

        Raises:
            ProfileError: it is not well formed; it lists every fault.
        """
        fields: _Fields = {
            "profiles": _members(dict, _profile, _first_policy_faults),
            "default": (str, str),
            "principals": _members(dict, _principal),
        }
        data = {"profiles": profiles, "default": default, "principals": principals}
        parsed = _object(data, fields, partial(_default_faults, profiles))
        self._by_name: dict[str, Profile] = parsed["profiles"]
        self._principals: dict[str, NamePolicy] = parsed["principals"]
        self.default: str = parsed["default"]

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._by_name.values())

    def get(self, name: str | None) -> Profile:
        """The profile of that name; the default one for None.

        Raises:
            UnknownProfile: there is none.
        """
        profile = self._by_name.get(self.default if name is None else name)
        if profile is None:
            raise UnknownProfile(f"{quote(str(name))} is none of: {', '.join(self._by_name)}", "profile")
        return profile

    def resolve_name(self, name: str | None) -> str:
        """The name of the profile that `get` returns; '' if there is none."""
        resolved = self.default if name is None else name
        return resolved if resolved in self._by_name else ""

    def names_permitted_for(self, principal: str) -> NamePolicy | None:
        """The names that a principal may have among those that its profiles permit; None for all of them."""
        return self._principals.get(principal)

    def with_extended_key_usage(self, usage: x509.ObjectIdentifier) -> list[str]:
        """The names of the profiles with this extended key usage."""
        return [profile.name for profile in self if usage in profile.extended_key_usage_oids]


def _object(data: dict[Any, Any], fields: _Fields, check: _Check = lambda _: ()) -> dict[Any, Any]:
    """Parse each member of an object; `check` yields the faults of the well-formed members together."""
    parsed: dict[Any, Any] = {}
    faults: list[ProfileViolation] = []
    for key, value in data.items():
        if key not in fields:
            faults.append(ProfileViolation((key,), f"unknown key; known: {', '.join(fields)}"))
        elif not isinstance(value, kind := fields[key][0]):
            faults.append(ProfileViolation((key,), f"{quote(str(value))} is not of the type {kind.__name__}"))
        else:
            try:
                parsed[key] = fields[key][1](value)
            except ProfileError as error:
                faults += [ProfileViolation((key, *fault.path), fault.detail) for fault in error.violations]
            except (ValueError, IssuanceError) as error:
                faults.append(ProfileViolation((key,), str(error)))
    faults += check(parsed)
    if faults:
        raise ProfileError(faults)
    return parsed


def _members(
    kind: type, parse: Callable[[str, Any], Any], check: _Check = lambda _: ()
) -> tuple[type, _Parse]:
    """An object with members of any name; `parse` takes the name and the value, of the type `kind`."""
    return dict, lambda data: _object(data, {name: (kind, partial(parse, name)) for name in data}, check)


def _list(parse: _Parse, identity: _Parse | None = None, *, min_items: int = 0) -> tuple[type, _Parse]:
    """A list of text; no two of its values have the same `identity`."""

    def parse_list(data: list[Any]) -> tuple[Any, ...]:
        if len(data) < min_items:
            raise ValueError("it is empty")
        values = _object(dict(enumerate(data)), dict.fromkeys(range(len(data)), (str, parse)))
        seen = [identity(value) for value in values.values()] if identity else []
        for index, value in enumerate(seen):
            if value in seen[:index]:
                raise ValueError(f"{quote(data[index])} is listed twice")
        return tuple(values.values())

    return list, parse_list


def _oid(text: str) -> x509.ObjectIdentifier:
    try:
        if _OID.fullmatch(text):
            return x509.ObjectIdentifier(text)
    except ValueError:  # an arc is too large
        pass
    raise ValueError(f"{quote(text)} is not an OID in dotted decimals")


def _usage(text: str) -> str:
    if text not in EXTENDED_KEY_USAGES and _oid(text) in _CA_ONLY_USAGES:
        raise ValueError(f"{quote(text)} is not for certificates of an end entity")
    return text


def _extension_oid(text: str) -> x509.ObjectIdentifier:
    oid = _EXTENSIONS.get(text) or _oid(text)
    if f"{oid.dotted_string}.".startswith(tuple(f"{arc}." for arc in _CA_CONTROLLED_ARCS)):
        raise ValueError(f"{quote(text)} is the CA's to set, not a request's: verifiers read rights in it")
    return oid


def _public_key(text: str) -> tuple[KeyKind, int]:
    """The kind of a key, and the least size in bits (0 for all kinds but RSA)."""
    if not (rsa := _RSA.fullmatch(text)):
        return KeyKind(text), 0
    least = int(rsa.group(1) or keys.RSA_MIN_BITS)
    if not keys.RSA_MIN_BITS <= least <= keys.RSA_MAX_BITS:
        raise ValueError(f"RSA keys have {keys.RSA_MIN_BITS} to {keys.RSA_MAX_BITS} bits, not {least}")
    return KeyKind.RSA, least


def _url(text: str) -> str:
    if text and not urlsplit(text).hostname:
        raise ValueError(f"{quote(text)} has no host")
    return text


def _allowed_attribute(text: str) -> str:
    if text not in SUBJECT_ATTRIBUTES:
        raise ValueError(f"{quote(text)} is none of {', '.join(SUBJECT_ATTRIBUTES)}")
    return text


def _fixed_attribute(name: str, text: str) -> str:
    if fault := check_subject_attribute(_allowed_attribute(name), text):
        raise ValueError(fault)
    return text


def _domain(text: str, *, underscores: bool = False) -> str:
    below = "." if text.startswith(".") else ""
    return below + names.dns_name(text.removeprefix("."), "", wildcard=False, underscores=underscores)


# A domain whose labels may have an underscore, as those of services and trust domains do.
_subtree: Final = partial(_domain, underscores=True)


def _subtrees(parse: _Parse) -> _Fields:
    return dict.fromkeys(("permitted", "excluded"), _list(parse, min_items=1))


def _policy(policy: type, fields: _Fields) -> tuple[type, _Parse]:
    return dict, lambda data: policy(**_object(data, fields))


_FLAGS: Final = dict.fromkeys(("wildcards", "single_label", "underscores"), (bool, bool))
_NAMES: Final[_Fields] = {
    "dns": _policy(DnsPolicy, {**_subtrees(_subtree), **_FLAGS}),
    "ip": _policy(IpPolicy, _subtrees(ipaddress.ip_network)),
    "email": _policy(EmailPolicy, _subtrees(_domain)),
    "uri": _policy(UriPolicy, {"schemes": _list(str, min_items=1), "hosts": _list(_subtree, min_items=1)}),
}


def parse_name_policy(data: dict[str, Any]) -> NamePolicy:
    """Load the names that a profile or a principal may have: `{dns: {permitted: [example.com]}, ip: {}}`.

    Raises:
        ProfileError: they are not well formed; it lists every fault.
    """
    return NamePolicy(**_object(data, _NAMES))


_SUBJECT: Final[_Fields] = {"allowed": _list(_allowed_attribute), "fixed": _members(str, _fixed_attribute)}
_PROFILE: Final[_Fields] = {
    **dict.fromkeys(("validity", "max_validity", "backdate", "short_lived"), (str, parse_duration)),
    **dict.fromkeys(("ca_issuers", "crl"), (str, _url)),
    "description": (str, str),
    "extended_key_usage": _list(_usage, eku_oid, min_items=1),
    "names": (dict, parse_name_policy),
    "subject": (dict, partial(_object, fields=_SUBJECT)),
    "public_keys": _list(_public_key, lambda key: key[0], min_items=1),
    "extensions": _list(_extension_oid, lambda oid: oid),
    "certificate_policies": _list(_oid, lambda oid: oid),
    "revocation": (str, Revocation),
    "principals": _list(str, str),
}


def _profile(name: str, data: dict[str, Any]) -> Profile:
    parsed = _object(data, _PROFILE, partial(_profile_faults, data))
    subject = parsed.pop("subject", {"allowed": ("CN",)})
    return Profile(
        **{"name": name, "max_validity": parsed["validity"], **parsed},
        allowed_attributes=subject.get("allowed", ()),
        fixed_attributes=tuple(subject.get("fixed", {}).items()),
    )


def _profile_faults(data: dict[str, Any], parsed: dict[str, Any]) -> Iterator[ProfileViolation]:
    """Missing members, and well-formed members that contradict one another."""
    if missing := [member for member in _REQUIRED if member not in data]:
        yield ProfileViolation((), f"{', '.join(missing)} missing")
    if "validity" in parsed:
        if parsed["validity"] - parsed.get("backdate", timedelta()) < MIN_VALIDITY:
            yield ProfileViolation(("validity",), "less than a minute is left after the backdate")
        if parsed.get("max_validity", timedelta.max) < parsed["validity"]:
            yield ProfileViolation(("max_validity",), "it is shorter than validity")
    usages = map(eku_oid, parsed.get("extended_key_usage", ()))
    if "CN" in parsed.get("subject", {}).get("fixed", {}) and not SERVER_USAGES.isdisjoint(usages):
        detail = "the common name of a TLS server must be one of its names (CA/Browser Forum 7.1.4.3)"
        yield ProfileViolation(("subject", "fixed", "CN"), detail)
    has_crl = parsed.get("revocation") is Revocation.CRL
    if data.keys() & {"revocation", "crl"} <= parsed.keys() and has_crl != bool(parsed.get("crl")):
        yield ProfileViolation(("crl",), "required if revocation is crl, and only then")


def _first_policy_faults(profiles: dict[str, Profile]) -> Iterator[ProfileViolation]:
    """A certificate's profile is known by its first policy, so no two profiles have the same."""
    owners: dict[x509.ObjectIdentifier, str] = {}
    for name, profile in profiles.items():
        for policy_oid in profile.certificate_policies[:1]:
            if owners.setdefault(policy_oid, name) != name:
                detail = f"it is the first policy of the profile {owners[policy_oid]} already"
                yield ProfileViolation((name, "certificate_policies", 0), detail)


def _default_faults(profiles: object, parsed: dict[str, Any]) -> Iterator[ProfileViolation]:
    default = parsed.get("default")
    if default is not None and isinstance(profiles, dict) and default not in profiles:
        known = escape_controls(", ".join(profiles))
        yield ProfileViolation(("default",), f"{quote(default)} is not among the profiles: {known}")


def _principal(name: str, data: dict[str, Any]) -> NamePolicy:
    if name in {"", ANY_PRINCIPAL}:  # no caller has such a name, so the rules would restrict nobody
        raise ValueError(f"{quote(name)} is not the name of one principal")
    return parse_name_policy(data)
