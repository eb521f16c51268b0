"""The issuance policy: profiles and principals, read from what the contract states, all of it or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from service.pki import keys
from service.pki.errors import UnknownProfile, quoted
from service.pki.keys import KeyKind
from service.pki.profile import (
    ANYBODY,
    ATTRIBUTES,
    EXTENDED_KEY_USAGES,
    LEAST_VALIDITY,
    Profile,
    Revocation,
    attribute_fault,
    duration,
    iso8601,
    usage_oid,
)
from service.pki.rules import NameRules, Path, Report

_NOT_FOR_LEAVES: Final = {  # what would let a certificate speak for the CA, or for everything
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ExtendedKeyUsageOID.OCSP_SIGNING,
    ExtendedKeyUsageOID.TIME_STAMPING,  # RFC 3161 2.3 wants it alone and critical
}
# What the CA itself puts in, or what is the CA's to say; RFC 9608's and RFC 5280 4.2.1.15's besides.
_OURS: Final = frozenset(
    {
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.FRESHEST_CRL,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        x509.ObjectIdentifier("2.5.29.56"),
    }
)
_EXTENSIONS: Final = {"tlsFeature": ExtensionOID.TLS_FEATURE, "ocspNoCheck": ExtensionOID.OCSP_NO_CHECK}
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")  # the library takes leading zeros too
_RSA: Final = re.compile(r"RSA(?:-([0-9]{4,5}))?")
_REQUIRED: Final = ("description", "validity", "backdate", "extended_key_usage", "names")
_OPTIONAL: Final = (
    "max_validity",
    "short_lived",
    "subject",
    "public_keys",
    "extensions",
    "certificate_policies",
    "ca_issuers",
    "revocation",
    "crl",
    "principals",
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the profiles."""

    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.detail}"


class ProfileError(ValueError):
    """The profiles are not well formed; the message lists every fault, and so does `faults`."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = tuple(faults)


class Profiles:
    """All certificate profiles of a contract, the default one, and what each principal is held to."""

    def __init__(
        self,
        stated: Mapping[str, object],
        default: str,
        principals: Mapping[str, object] | None = None,
    ) -> None:
        """Read `x-certificate-profiles` and `x-certificate-principals`.

        Raises:
            ProfileError: they are not well formed; every fault is named at once.
        """
        faults: list[Fault] = []
        self._by_name = {name: _Reader(name, value, faults).profile() for name, value in stated.items()}
        self.default = default
        if default not in self._by_name:
            known = ", ".join(self._by_name)
            faults.append(Fault(("default",), f"{quoted(default)} is not among the profiles: {known}"))
        self._principals = {
            name: NameRules.load(value, _reporting(faults, ("principals", name)))
            for name, value in (principals or {}).items()
        }
        faults += [
            Fault(("principals", name), f"{quoted(name)} is not the name of one principal")
            for name in ("", ANYBODY)
            if name in self._principals
        ]
        _verify_policies(self._by_name.values(), faults)
        if faults:
            raise ProfileError(faults)

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._by_name.values())

    def named(self, name: str | None) -> Profile:
        """The profile of that name; the default one for None.

        Raises:
            UnknownProfile: there is none.
        """
        if not (known := self.known(name)):
            raise UnknownProfile(f"{quoted(str(name))} is none of: {', '.join(self._by_name)}", "profile")
        return self._by_name[known]

    def known(self, name: str | None) -> str:
        """The name of the profile that `named` gives; '' if there is none."""
        found = self._by_name.get(self.default if name is None else name)
        return found.name if found else ""

    def held_to(self, principal: str) -> NameRules | None:
        """The names that a principal may have of what its profiles give; None for all of them."""
        return self._principals.get(principal)

    def offering(self, usage: x509.ObjectIdentifier) -> list[str]:
        """The names of the profiles that give this extended key usage."""
        return [profile.name for profile in self if usage in profile.usages]

    def warnings(self) -> list[tuple[str, str]]:
        """What is well formed and may still not be meant: the profile's name, and a sentence."""
        return [
            (
                each.name,
                f"{each.name}: certificates of up to {iso8601(each.max_validity)} that nobody can revoke",
            )
            for each in self
            if each.revocation is Revocation.NONE and each.max_validity > each.short_lived
        ]


def _verify_policies(profiles: Iterable[Profile], faults: list[Fault]) -> None:
    """A certificate's profile is known by its first policy, so no two have the same."""
    owners: dict[x509.ObjectIdentifier, str] = {}
    for profile in profiles:
        for own in profile.certificate_policies[:1]:
            if own in owners:
                path = ("profiles", profile.name, "certificate_policies", 0)
                faults.append(Fault(path, f"the profile {owners[own]} has it as its own already"))
            owners.setdefault(own, profile.name)


def _reporting(faults: list[Fault], prefix: Path) -> Report:
    def report(path: Path, detail: str) -> None:
        faults.append(Fault((*prefix, *path), detail))

    return report


class _Reader:
    """Reads one profile of any JSON, adding what is wrong to `faults`; what it returns then is not used."""

    def __init__(self, name: str, stated: object, faults: list[Fault]) -> None:
        self._report = _reporting(faults, ("profiles", name))
        self._faulty: set[str | int] = set()  # the members that cannot be held against others
        self._stated: Mapping[str, object] = stated if isinstance(stated, Mapping) else {}
        if not isinstance(stated, Mapping):
            self._fault((), "a profile is a mapping")
        self._name = name

    def profile(self) -> Profile:
        self._read_members()
        validity = self._duration("validity", "PT0S")
        max_validity = self._duration("max_validity", iso8601(validity))
        backdate = self._duration("backdate", "PT0S")
        known = self._stated.keys() - self._faulty
        if {"validity", "backdate"} <= known and validity - backdate < LEAST_VALIDITY:
            self._fault(("validity",), "it leaves less than a minute after the backdate")
        if {"validity", "max_validity"} <= known and max_validity < validity:
            self._fault(("max_validity",), "it is shorter than the validity")
        allowed, fixed = self._subject()
        usages = self._usages()
        if "CN" in dict(fixed) and ExtendedKeyUsageOID.SERVER_AUTH in map(usage_oid, usages):
            why = "a TLS server's common name is one of its names (CA/Browser Forum 7.1.4.3)"
            self._fault(("subject", "fixed", "CN"), why)
        revocation, crl = self._revocation()
        return Profile(
            name=self._name,
            description=self._text("description"),
            validity=validity,
            max_validity=max_validity,
            backdate=backdate,
            extended_key_usage=usages,
            names=NameRules.load(self._stated.get("names"), self._within("names")),
            allowed_attributes=allowed,
            fixed_attributes=fixed,
            public_keys=self._public_keys(),
            extensions=self._each("extensions", _extension_oid, ()),
            certificate_policies=self._each("certificate_policies", _oid, ()),
            ca_issuers=self._url("ca_issuers"),
            revocation=revocation,
            crl=crl,
            short_lived=self._duration("short_lived", "P7D"),
            principals=self._each("principals", _principal, (ANYBODY,)),
        )

    def _fault(self, path: Path, detail: str) -> None:
        self._faulty |= {*path[:1]}
        self._report(path, detail)

    def _within(self, member: str) -> Report:
        return lambda path, detail: self._fault((member, *path), detail)

    def _read_members(self) -> None:
        if not _NAME.fullmatch(self._name):
            self._fault((), "the name is not 1 to 32 lower-case letters, digits and hyphens")
        if missing := [member for member in _REQUIRED if member not in self._stated]:
            self._fault((), f"{', '.join(missing)} missing")
        for unknown in sorted(map(str, self._stated.keys() - {*_REQUIRED, *_OPTIONAL})):
            self._fault((unknown,), "there is no such member")

    def _text(self, member: str) -> str:
        value = self._stated.get(member, "")
        if not isinstance(value, str):
            self._fault((member,), "it is not text")
        return str(value)

    def _url(self, member: str) -> str:
        url = self._text(member)
        try:
            parts = urlsplit(url)
            sound = not url or (url.startswith(("http://", "https://")) and bool(parts.hostname))
        except ValueError:
            sound = False
        if not sound or not url.isascii() or len(url) > 2048 or not url.isprintable() or " " in url:  # noqa: PLR2004
            self._fault((member,), f"{quoted(url)} is not an http or https URL")
        return url

    def _duration(self, member: str, default: str) -> timedelta:
        try:
            return duration(str(self._stated.get(member, default)))
        except ValueError as error:
            self._fault((member,), str(error))
            return timedelta()

    def _each(
        self, member: str, read: Callable[[str], _T], default: tuple[_T, ...], *, least: int = 0
    ) -> tuple[_T, ...]:
        """A list of different things, each read by `read`, which raises ValueError."""
        if member not in self._stated:
            return default
        stated = self._stated[member]
        if not isinstance(stated, list) or len(stated) < least:
            self._fault((member,), "it is not a list" if least == 0 else "it is not a list of one or more")
            return default
        found: list[_T] = []
        for position, value in enumerate(stated):
            try:
                found.append(read(_text(value)))
            except ValueError as error:
                self._fault((member, position), str(error))
            if found[-1:] and found[-1] in found[:-1]:
                self._fault((member, position), f"{quoted(str(found.pop()))} stands in it twice")
        return tuple(found)

    def _usages(self) -> tuple[str, ...]:
        read = self._each("extended_key_usage", _usage, (), least=1)
        for position, usage in enumerate(read):
            if usage_oid(usage) in map(usage_oid, read[:position]):
                self._fault(("extended_key_usage",), f"{usage} stands in it by name and by OID")
        return read

    def _public_keys(self) -> tuple[tuple[KeyKind, int], ...]:
        read = self._each("public_keys", _public_key, tuple((kind, 0) for kind in KeyKind), least=1)
        if len(dict(read)) != len(read):
            self._fault(("public_keys",), "RSA stands in it twice")
        return read

    def _subject(self) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        stated = self._stated.get("subject", {"allowed": ["CN"]})
        if not isinstance(stated, Mapping):
            self._fault(("subject",), "it is not a mapping of allowed and fixed")
            return (), ()
        for unknown in sorted(map(str, stated.keys() - {"allowed", "fixed"})):
            self._fault(("subject", unknown), "there is no such member")
        allowed, fixed = stated.get("allowed", []), stated.get("fixed", {})
        if not isinstance(allowed, list) or any(each not in ATTRIBUTES for each in map(str, allowed)):
            self._fault(("subject", "allowed"), f"it is not a list of some of {', '.join(ATTRIBUTES)}")
            allowed = []
        if not isinstance(fixed, Mapping) or any(str(each) not in ATTRIBUTES for each in fixed):
            self._fault(("subject", "fixed"), f"it is not a mapping of some of {', '.join(ATTRIBUTES)}")
            fixed = {}
        for name, text in fixed.items():
            wrong = attribute_fault(name, text) if isinstance(text, str) else "it is not text"
            if wrong:
                self._fault(("subject", "fixed", name), wrong)
        return tuple(map(str, allowed)), tuple((str(name), str(text)) for name, text in fixed.items())

    def _revocation(self) -> tuple[Revocation, str]:
        stated, crl = str(self._stated.get("revocation", Revocation.NONE)), self._url("crl")
        if stated not in list(Revocation):
            self._fault(("revocation",), f"{quoted(stated)} is neither none nor crl")
            return Revocation.NONE, crl
        if (stated == Revocation.CRL) != bool(crl):
            self._fault(("crl",), "a URL for revocation crl, and for no other")
        return Revocation(stated), crl


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(str(value))} is not text")  # noqa: TRY004 - as its callers have it
    return value


def _oid(text: str) -> x509.ObjectIdentifier:
    try:
        if not _OID.fullmatch(text):
            raise ValueError(text)  # noqa: TRY301 - the library's own refusal says no more
        return x509.ObjectIdentifier(text)
    except ValueError as error:
        raise ValueError(f"{quoted(text)} is not an OID in dotted decimals") from error


def _usage(text: str) -> str:
    if text not in EXTENDED_KEY_USAGES and _oid(text) in _NOT_FOR_LEAVES:
        raise ValueError(f"{quoted(text)} is not for certificates of an end entity here")
    return text


def _extension_oid(text: str) -> x509.ObjectIdentifier:
    oid = _EXTENSIONS.get(text) or _oid(text)
    if oid in _OURS:
        raise ValueError(f"{quoted(text)} is the CA's to say, not a request's")
    return oid


def _public_key(text: str) -> tuple[KeyKind, int]:
    if rsa := _RSA.fullmatch(text):
        least = int(rsa.group(1) or keys.RSA_MIN_BITS)
        if keys.RSA_MIN_BITS <= least <= keys.RSA_MAX_BITS:
            return KeyKind.RSA, least
    elif text in list(KeyKind):
        return KeyKind(text), 0
    known = ", ".join(["RSA-2048 (the least size)", *list(KeyKind)[1:]])
    raise ValueError(f"{quoted(text)} is none of {known}")


def _principal(text: str) -> str:
    if not text:
        raise ValueError("'' is not the name of a principal")
    return text
