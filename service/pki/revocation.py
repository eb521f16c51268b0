"""Certificate revocation lists (RFC 5280 5) from a list that the operator keeps.

A CRL holds what was revoked before its window of five minutes began, and has the window's number: so it is
the same whichever process signs it, and its number grows. Entries stay when their certificates end, since
the list does not say when that is. An entry whose revocation time is in the future is listed from then on.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from service.pki import encoding
from service.pki.errors import quote

WINDOW: Final = timedelta(minutes=5)
NEXT_UPDATE: Final = timedelta(hours=24)
MAX_ENTRIES: Final = 80_000  # 4.2 MB signed; in base64 within the 6 MiB that a Lambda may answer

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
_HEX: Final = re.compile(r"(?:0x)?0*([0-7]?[0-9a-f]{1,39})")  # RFC 5280 4.1.2.2: 20 octets, the first bit 0
_ENTRY: Final = re.compile(
    r'- \{"serial": "(?P<serial>[^"\\]*)", "at": "(?P<at>[^"\\]*)"(?:, "reason": "(?P<reason>[^"\\]*)")?\}'
    r"(?:\s+#.*)?|\s*(?:#.*)?"
)
_MAX_FAULTS: Final = 20  # in one message


class RevocationError(ValueError):
    """The list is not well formed; the message lists what is wrong."""


@dataclass(frozen=True)
class RevokedCertificate:
    """A revoked certificate: serial number, time (UTC, whole seconds), and the reason if there is one."""

    serial_number: int
    revoked_at: datetime
    reason: x509.ReasonFlags | None = None

    @functools.cached_property
    def crl_entry(self) -> x509.RevokedCertificate:
        """The entry of a CRL (RFC 5280 5.1.2.6); raise `ValueError` if a CRL cannot hold it."""
        builder = x509.RevokedCertificateBuilder().serial_number(self.serial_number)
        builder = builder.revocation_date(self.revoked_at)
        if self.reason:
            builder = builder.add_extension(x509.CRLReason(self.reason), critical=False)
        return builder.build()


def parse_serial_number(text: str) -> int:
    """Parse `0a1b…`, `0A:1B:…` or `0x0a1b…`, positive and of 159 bits at most; raise `ValueError`."""
    digits = _HEX.fullmatch(text.strip().replace(":", "").lower())
    number = int(digits[1], 16) if digits else 0
    if not number:
        raise ValueError(f"{quote(text)} is not a serial number in hexadecimal, of 20 octets at most")
    return number


def parse(entries: Iterable[tuple[int, object]]) -> Mapping[int, RevokedCertificate]:
    """Read a list: of each entry its line, and `{serial: "0a1b", at: "2026-01-31T23:59:59Z", reason: …}`.

    Returns:
        the entries by serial number, each of which a CRL can hold.

    Raises:
        RevocationError: it is not such a list; the message names each line that is wrong.
    """
    result: dict[int, RevokedCertificate] = {}
    faults, number = [], 0
    for number, (line, value) in enumerate(entries, 1):  # noqa: B007 - it is the length of an iterator
        try:
            entry = _entry(value)
            if entry.serial_number in result:
                raise ValueError(f"{encoding.format_serial(entry.serial_number)} stands in it twice")  # noqa: TRY301
            result[entry.serial_number] = entry
        except ValueError as error:
            faults.append(f"line {line}: {error}")
    if number > MAX_ENTRIES:
        raise RevocationError(f"it has {number} entries; {MAX_ENTRIES} are accepted")
    if faults:
        more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise RevocationError("; ".join(faults[:_MAX_FAULTS]) + more)
    return result


def parse_canonical(text: str) -> Mapping[int, RevokedCertificate] | int:
    """Read a list that is written as `encode` does it, a line for each entry, comments aside.

    It is read more than ten times as fast as YAML, and what it says is the same.

    Returns:
        as `load`; or the first line that is written otherwise, from 1.

    Raises:
        RevocationError: as `load`.
    """
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _ENTRY.fullmatch(line)
        if not match:
            return number
        if match["serial"] is not None:
            entries.append((number, match.groupdict()))
    return parse(entries)


def format_entry(revoked: RevokedCertificate) -> str:
    """One entry, as a line that `load_plain` reads; it is YAML, too."""
    serial, at = encoding.format_serial(revoked.serial_number), encoding.format_timestamp(revoked.revoked_at)
    reason = f', "reason": "{revoked.reason.value}"' if revoked.reason else ""
    return f'- {{"serial": "{serial}", "at": "{at}"{reason}}}\n'


def crl_number(now: datetime) -> int:
    """The number of the window that a time (UTC) is in, which is the CRL's number (RFC 5280 5.2.3)."""
    return int(now.timestamp()) // int(WINDOW.total_seconds())


def crl_builder(
    revoked: Iterable[RevokedCertificate], number: int, not_after: datetime
) -> x509.CertificateRevocationListBuilder:
    """The CRL of a window, for `Issuer.sign_crl`; it does not outlive the issuer (`not_after`, UTC).

    Raises:
        ValueError: a CRL cannot hold an entry; or its time is after the issuer's end, a slip that would keep
            it out of every CRL.
    """
    start = datetime.fromtimestamp(number * WINDOW.total_seconds(), UTC)
    ordered = sorted(revoked, key=lambda entry: entry.serial_number)
    for entry in ordered:
        if entry.revoked_at > not_after:
            serial, at = (
                encoding.format_serial(entry.serial_number),
                encoding.format_timestamp(entry.revoked_at),
            )
            raise ValueError(f"{serial} would be revoked at {at}, after the CA's end")
    # At once: the builder copies what it has for each entry that is added to it.
    entries = [entry.crl_entry for entry in ordered if entry.revoked_at <= start]
    return (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .last_update(start)
        .next_update(min(start + NEXT_UPDATE, not_after))
        .add_extension(x509.CRLNumber(number), critical=False)
    )


def _entry(value: object) -> RevokedCertificate:
    if not isinstance(value, Mapping) or not _MEMBERS >= value.keys() >= {"serial", "at"}:
        raise ValueError("it is not a mapping of serial, at and reason")
    serial, at, reason = value["serial"], value["at"], value.get("reason")
    if not isinstance(serial, str):  # 10 would be ten to YAML, and sixteen to us
        raise ValueError("serial is not text: write it in hexadecimal, between quotes")  # noqa: TRY004 - as all
    return _parse(
        serial, at if isinstance(at, datetime) else str(at), None if reason is None else str(reason)
    )


@functools.lru_cache(2 * MAX_ENTRIES)  # of a list that changed only the entries that did are read
def _parse(serial: str, at: str | datetime, reason: str | None) -> RevokedCertificate:
    moment = _time(at)
    if moment is None:
        raise ValueError(f"at is not a time (RFC 3339, UTC): {quote(str(at))}")
    if reason is not None and reason not in REASONS:
        raise ValueError(f"reason is none of {', '.join(REASONS)}: {quote(reason)}")
    entry = RevokedCertificate(parse_serial_number(serial), moment, REASONS[reason] if reason else None)
    entry.crl_entry  # noqa: B018 - built here, so that signing finds it
    return entry


def _time(value: str | datetime) -> datetime | None:
    """A time from text or from YAML, UTC, whole seconds; None if it is none."""
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment.tzinfo is not None:
            return moment.astimezone(UTC).replace(microsecond=0)
    return None
