"""Certificate profiles (RFC 5280 section 4): what is issued, stated in the contract, validated once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.pki import keys
from service.pki.errors import UnknownProfile, quoted
from service.pki.keys import KeyKind
from service.pki.names import NameKind

EXTENDED_KEY_USAGES: Final = {  # RFC 5280 4.2.1.12
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
}
_DURATION: Final = re.compile(r"P(?=.)(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_MEMBERS: Final = frozenset({"description", "validity", "backdate", "extended_key_usage", "names"})


class ProfileError(ValueError):
    """The contract's profiles are not well formed; the message lists every fault."""


@dataclass(frozen=True)
class Profile:
    """One certificate profile.

    Attributes:
        name: what a request calls it.
        description: one sentence for people.
        validity: the length of the validity period, both ends included.
        backdate: how far not_before lies before the time of issue, for clocks that are behind.
        extended_key_usage: what certificates are for, by RFC 5280's names.
        names: the kinds of subject alternative name that it takes.
    """

    name: str
    description: str
    validity: timedelta
    backdate: timedelta
    extended_key_usage: tuple[str, ...]
    names: tuple[NameKind, ...]

    @property
    def is_for_servers(self) -> bool:
        """Whether certificates are for TLS servers, which are known by their SANs alone (RFC 9525)."""
        return "serverAuth" in self.extended_key_usage

    def key_usage(self, public_key: CertificatePublicKeyTypes) -> x509.KeyUsage:
        """The key usage for a key: keyEncipherment for RSA alone (RFC 8813 3, RFC 9881 5)."""
        return x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=keys.kind_of(public_key) is KeyKind.RSA,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )

    def period(self, now: datetime, not_before: datetime) -> tuple[datetime, datetime]:
        """not_before and not_after for an issue at `now`, whole seconds, the last one included.

        Args:
            now: the time of issue, UTC.
            not_before: the earliest that the issuer's chain allows, UTC.
        """
        start = max(now.replace(microsecond=0) - self.backdate, not_before)
        return start, start + self.validity - timedelta(seconds=1)


class Profiles:
    """All certificate profiles of a contract, and the one that is meant when none is named."""

    def __init__(self, stated: Mapping[str, object], default: str) -> None:
        """Read `x-certificate-profiles`.

        Raises:
            ProfileError: it is not well formed; every fault is named at once.
        """
        faults: list[str] = []
        self._by_name = {name: _load(name, value, faults) for name, value in stated.items()}
        self.default = default
        if default not in self._by_name:
            faults.append(f"the default profile {quoted(default)} is not among the profiles")
        if faults:
            raise ProfileError("; ".join(faults))

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._by_name.values())

    def named(self, name: str | None) -> Profile:
        """The profile of that name; the default one for None.

        Raises:
            UnknownProfile: there is none.
        """
        profile = self._by_name.get(self.default if name is None else name)
        if profile is None:
            known = ", ".join(self._by_name)
            raise UnknownProfile(f"{quoted(str(name))} is none of: {known}", "profile")
        return profile

    def offering(self, usage: x509.ObjectIdentifier) -> list[str]:
        """The names of the profiles that give this extended key usage."""
        return [
            profile.name
            for profile in self
            if any(EXTENDED_KEY_USAGES[name] == usage for name in profile.extended_key_usage)
        ]


def duration(text: str) -> timedelta:
    """An ISO 8601 duration of days and smaller: `P90D`, `PT5M`, `P1DT12H`.

    Raises:
        ValueError: it is not one, or larger than ten thousand days.
    """
    match = _DURATION.fullmatch(text)
    if not match or len(text) > 32:  # noqa: PLR2004 - no duration needs more digits
        raise ValueError(f"{quoted(text)} is not an ISO 8601 duration of days and smaller")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if max(days, hours // 24, minutes // 1440, seconds // 86400) > 10_000:  # noqa: PLR2004
        raise ValueError(f"{quoted(text)} is longer than 10000 days")
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def iso8601(length: timedelta) -> str:
    """A duration in ISO 8601, as `duration` reads it."""
    hours, rest = divmod(length.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n)
    days = f"{length.days}D" if length.days else ""
    return f"P{days}" + (f"T{time}" if time else "") if days or time else "PT0S"


def _load(name: str, value: object, faults: list[str]) -> Profile:
    """Read one profile, adding what is wrong to `faults`; what it returns then is not used."""

    def fault(what: str) -> None:
        faults.append(f"profile {name}: {what}")

    stated: Mapping[str, object] = value if isinstance(value, Mapping) else {}
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        fault("the name is not 1 to 32 lower-case letters, digits and hyphens")
    if missing := sorted(_MEMBERS - stated.keys()):
        fault(f"{', '.join(missing)} missing")
    if unknown := sorted(stated.keys() - _MEMBERS):
        fault(f"{', '.join(unknown)} unknown")
    lengths = {}
    for member in ("validity", "backdate"):
        try:
            lengths[member] = duration(str(stated.get(member, "PT0S")))
        except ValueError as error:
            fault(f"{member}: {error}")
            lengths[member] = timedelta()
    if lengths["validity"] - lengths["backdate"] < timedelta(minutes=1) and not missing:
        fault("validity leaves less than a minute after the backdate")
    return Profile(
        name=name,
        description=str(stated.get("description", "")),
        validity=lengths["validity"],
        backdate=lengths["backdate"],
        extended_key_usage=_words(stated, "extended_key_usage", list(EXTENDED_KEY_USAGES), fault),
        names=tuple(
            NameKind(word) for word in _words(stated, "names", [kind.value for kind in NameKind], fault)
        ),
    )


def _words(
    stated: Mapping[str, object], member: str, known: list[str], fault: Callable[[str], None]
) -> tuple[str, ...]:
    words = stated.get(member)
    if not isinstance(words, list) or not words or len(set(map(str, words))) != len(words):
        fault(f"{member} is not a list of different words")
        return ()
    if unknown := [str(word) for word in words if word not in known]:
        fault(f"{member}: {', '.join(unknown)} is none of {', '.join(known)}")
        return ()
    return tuple(words)
