"""Certificate revocation lists (RFC 5280 5) from a list that the operator keeps.

A CRL holds what was revoked before its window of five minutes began, and has the window's number: so it is
the same whichever process signs it, and its number grows. Entries stay when their certificates end, since
nobody here knows when that is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
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
    """The list is not well formed; the message lists what is wrong."""


@dataclass(frozen=True)
class Revoked:
    """A revoked certificate: serial number, time (UTC, whole seconds), and the reason if there is one."""

    serial_number: int
    revoked_at: datetime
    reason: x509.ReasonFlags | None = None


def serial_number(text: str) -> int:
    """Parse `0a1b…`, `0A:1B:…` or `0x0a1b…`, positive and of 20 octets at most; raise `ValueError`."""
    digits = text.strip().replace(":", "").lower()
    if not _HEX.fullmatch(digits) or not int(digits, 16):
        raise ValueError(f"{quoted(text)} is not a serial number in hexadecimal")
    return int(digits, 16)


def load(data: object) -> tuple[Revoked, ...]:
    """Read parsed JSON or YAML: `[{serial: "0a1b", at: "2026-01-31T23:59:59Z", reason: keyCompromise}]`.

    Raises:
        RevocationError: it is not such a list; the message lists all that is wrong.
    """
    if not isinstance(data, list):
        raise RevocationError("it is not a list of serial, at and reason")
    if len(data) > MAX_ENTRIES:
        raise RevocationError(f"it has {len(data)} entries; {MAX_ENTRIES} are accepted")
    faults: list[str] = []
    entries: dict[int, Revoked] = {}
    for position, value in enumerate(data, 1):
        entry, problems = _entry(value)
        if entry and entries.setdefault(entry.serial_number, entry) is not entry:
            problems.append(f"{encoding.serial(entry.serial_number)} stands in it twice")
        faults += [f"entry {position}: {problem}" for problem in problems]
    if faults:
        more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise RevocationError("; ".join(faults[:_MAX_FAULTS]) + more)
    return tuple(entries.values())


def entry(revoked: Revoked) -> dict[str, str]:
    """One entry, as `load` reads it."""
    serial, at = encoding.serial(revoked.serial_number), encoding.timestamp(revoked.revoked_at)
    return {"serial": serial, "at": at} | ({"reason": revoked.reason.value} if revoked.reason else {})


def window(now: datetime) -> int:
    """The number of the window that a time (UTC) is in, which is the CRL's number (RFC 5280 5.2.3)."""
    return int(now.timestamp()) // int(WINDOW.total_seconds())


def builder(
    revoked: Iterable[Revoked], number: int, not_after: datetime
) -> x509.CertificateRevocationListBuilder:
    """The CRL of a window, for `Issuer.sign_crl`; it does not outlive the issuer (`not_after`, UTC)."""
    start = datetime.fromtimestamp(number * WINDOW.total_seconds(), UTC)
    result = (
        x509.CertificateRevocationListBuilder()
        .last_update(start)
        .next_update(min(start + NEXT_UPDATE, not_after))
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for each in sorted(revoked, key=lambda each: each.serial_number):
        if each.revoked_at <= start:
            entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number)
            entry = entry.revocation_date(each.revoked_at)
            if each.reason:
                entry = entry.add_extension(x509.CRLReason(each.reason), critical=False)
            result = result.add_revoked_certificate(entry.build())
    return result


def _entry(value: object) -> tuple[Revoked | None, list[str]]:
    """One entry, or what is wrong with it."""
    if not isinstance(value, Mapping) or not _MEMBERS >= value.keys() >= {"serial", "at"}:
        return None, ["it is not a mapping of serial, at and reason"]
    number, at, reason, problems = 0, _time(value["at"]), value.get("reason"), []
    try:
        if not isinstance(value["serial"], str):  # 10 would be ten to YAML, and sixteen to us
            raise ValueError("serial is not text: write it in hexadecimal, between quotes")  # noqa: TRY004, TRY301
        number = serial_number(value["serial"])
    except ValueError as error:
        problems.append(str(error))
    if at is None:
        problems.append(f"at is not a time (RFC 3339, UTC): {quoted(str(value['at']))}")
    if reason is not None and not (isinstance(reason, str) and reason in REASONS):
        problems.append(f"reason is none of {', '.join(REASONS)}: {quoted(str(reason))}")
    if problems or at is None:
        return None, problems
    return Revoked(number, at, REASONS[reason] if reason else None), problems


def _time(value: object) -> datetime | None:
    """A time from text or from YAML, UTC, whole seconds; None if it is none."""
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            return moment.astimezone(UTC).replace(microsecond=0)
    return None
