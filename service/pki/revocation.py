"""Certificate revocation lists (RFC 5280 5) from a list that somebody keeps: nothing is stored here.

A list is signed once in each window of five minutes, holds what was revoked before the window began, and
has the window's number: so it says the same whoever signs it, and its number grows. What is revoked now is in
the next window's; an entry that somebody dates back by hand would change a list that is out already.
Every certificate of the CA is in its scope, so it needs no issuingDistributionPoint; entries stay when their
certificates end, for nobody here knows when that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from service.pki import encoding
from service.pki.errors import quoted

WINDOW: Final = timedelta(minutes=5)
NEXT_UPDATE: Final = timedelta(hours=24)
MAX_ENTRIES: Final = 100_000  # 4 MB signed, within what a Lambda may answer

# RFC 5280 5.3.1, those that an end entity's certificate can have. No hold: what cannot be stored cannot be
# released; no unspecified: the RFC wants the reason left out instead.
REASONS: Final = {
    each.value: each
    for each in (
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
    )
}
_MEMBERS: Final = {"serial", "at", "reason"}
_HEX: Final = re.compile(r"(?:0x)?[0-9a-f]{1,40}")  # RFC 5280 4.1.2.2: 20 octets at most
_MAX_FAULTS: Final = 20  # in one message


class RevocationError(ValueError):
    """The list is not well formed; the message names every fault."""


@dataclass(frozen=True)
class Revoked:
    """One certificate that was revoked.

    Attributes:
        serial_number: its.
        revoked_at: since when, UTC, whole seconds.
        reason: why; None if nobody says.
    """

    serial_number: int
    revoked_at: datetime
    reason: x509.ReasonFlags | None = None


def serial_number(text: str) -> int:
    """A serial number in hexadecimal, as this CA and openssl write it: `0a1b…`, `0A:1B:…`, `0x0a1b…`.

    Raises:
        ValueError: it is none, or is not positive, or has more than 20 octets.
    """
    digits = text.strip().replace(":", "").lower()
    if not _HEX.fullmatch(digits) or not int(digits, 16):
        raise ValueError(f"{quoted(text)} is not a serial number in hexadecimal")
    return int(digits, 16)


def load(stated: object) -> tuple[Revoked, ...]:
    """Read a list: `[{serial: "0a1b", at: "2026-01-31T23:59:59Z", reason: keyCompromise}]`.

    Args:
        stated: parsed JSON or YAML; `at` may be a time, `reason` may be missing.

    Raises:
        RevocationError: it is not one; every fault is named at once.
    """
    if not isinstance(stated, list):
        raise RevocationError("it is not a list of serial, at and reason")
    if len(stated) > MAX_ENTRIES:
        raise RevocationError(f"it has {len(stated)} entries; {MAX_ENTRIES} are accepted")
    faults: list[str] = []
    entries: dict[int, Revoked] = {}
    for position, value in enumerate(stated):
        entry = _entry(value, lambda fault, at=position: faults.append(f"entry {at + 1}: {fault}"))  # type: ignore[misc]
        if entry and entries.setdefault(entry.serial_number, entry) is not entry:
            faults.append(f"entry {position + 1}: {encoding.serial(entry.serial_number)} stands in it twice")
    if faults:
        more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise RevocationError("; ".join(faults[:_MAX_FAULTS]) + more)
    return tuple(entries.values())


def entry(revoked: Revoked) -> dict[str, str]:
    """One entry, as `load` reads it."""
    stated = {
        "serial": encoding.serial(revoked.serial_number),
        "at": encoding.timestamp(revoked.revoked_at),
    }
    return stated | ({"reason": revoked.reason.value} if revoked.reason else {})


def window(now: datetime) -> int:
    """The number of the window that a time (UTC) is in, which is the CRL's number (RFC 5280 5.2.3)."""
    return int(now.timestamp()) // int(WINDOW.total_seconds())


def builder(
    revoked: Iterable[Revoked], number: int, not_after: datetime
) -> x509.CertificateRevocationListBuilder:
    """The list of one window, ready for `Issuer.sign_crl`.

    Args:
        revoked: everything that was revoked.
        number: the window's.
        not_after: the end of the issuer's life, UTC, which the list does not outlive.
    """
    start = datetime.fromtimestamp(number * WINDOW.total_seconds(), UTC)
    made = (
        x509.CertificateRevocationListBuilder()
        .last_update(start)
        .next_update(min(start + NEXT_UPDATE, not_after))
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for each in sorted(revoked, key=lambda each: each.serial_number):
        if each.revoked_at > start:
            continue
        listed = x509.RevokedCertificateBuilder().serial_number(each.serial_number)
        listed = listed.revocation_date(each.revoked_at)
        if each.reason:
            listed = listed.add_extension(x509.CRLReason(each.reason), critical=False)
        made = made.add_revoked_certificate(listed.build())
    return made


def _entry(value: object, fault: Callable[[str], None]) -> Revoked | None:
    """One entry; None, and its faults reported, if it is none."""
    if not isinstance(value, Mapping) or not _MEMBERS >= value.keys() >= {"serial", "at"}:
        fault("it is not a mapping of serial, at and reason")
        return None
    serial, at, reason = value["serial"], _time(value["at"]), value.get("reason")
    number = None
    if not isinstance(serial, str):  # 10 would be ten to YAML, and sixteen to us
        fault("serial is not text: write it in hexadecimal, between quotes")
    else:
        try:
            number = serial_number(serial)
        except ValueError as error:
            fault(str(error))
    if at is None:
        fault(f"at is not a time (RFC 3339, UTC): {quoted(str(value['at']))}")
    if reason is not None and not (isinstance(reason, str) and reason in REASONS):
        fault(f"reason is none of {', '.join(REASONS)}: {quoted(str(reason))}")
        return None
    return Revoked(number, at, REASONS[reason] if reason else None) if number and at else None


def _time(value: object) -> datetime | None:
    """A time from text or from YAML, UTC, whole seconds; None if it is none."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        return None
    try:
        return moment.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        return None
