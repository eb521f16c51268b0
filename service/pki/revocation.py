"""Certificate revocation lists (RFC 5280 5), built from a list that the operator maintains.

A CRL contains the certificates that were revoked before its window of five minutes started, and its CRL
number is that of the window. So all processes sign the same CRL, and the number grows. A serial number that
another issuer recognises is not in the CRL; one that no issuer recognises is. An entry remains for one
lifetime of a CRL after the end of its certificate, so that a CRL after the end contains it (RFC 5280
3.3). If the serial number does not contain the end, the entry remains. An entry with a revocation time in the
future appears from then on.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from service.pki import encoding, serial
from service.pki.errors import quote
from service.pki.serial import SerialNumbers

WINDOW: Final = timedelta(minutes=5)
NEXT_UPDATE: Final = timedelta(hours=24)
MAX_ENTRIES: Final = 80_000  # 4.2 MB as a CRL; in base64 less than the 6 MiB of a Lambda response

# The reasons of RFC 5280 5.3.1 that apply to end-entity certificates, except certificateHold, which needs a
# database to release, and unspecified, which the RFC says to omit.
REASONS: Final = {
    reason.value: reason
    for reason in (
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
    )
}
_ENTRY_KEYS: Final = {"serial", "at", "reason"}
_HEX: Final = re.compile(r"(?:0x)?0*([0-7]?[0-9a-f]{1,39})")  # RFC 5280 4.1.2.2: 20 octets, the first bit 0
_ENTRY: Final = re.compile(
    r'- \{"serial": "(?P<serial>[^"\\]*)", "at": "(?P<at>[^"\\]*)"(?:, "reason": "(?P<reason>[^"\\]*)")?\}'
    r"(?:\s+#.*)?|\s*(?:#.*)?"
)
_MAX_VIOLATIONS: Final = 20  # per message


class RevocationError(ValueError):
    """The list is invalid; the message lists the violations."""


@dataclass(frozen=True)
class RevokedCertificate:
    """A revoked certificate: serial number, time (UTC, whole seconds), and an optional reason."""

    serial_number: int
    revoked_at: datetime
    reason: x509.ReasonFlags | None = None

    @functools.cached_property
    def crl_entry(self) -> x509.RevokedCertificate:
        """The CRL entry (RFC 5280 5.1.2.6); raises `ValueError` if it cannot be encoded."""
        builder = x509.RevokedCertificateBuilder().serial_number(self.serial_number)
        builder = builder.revocation_date(self.revoked_at)
        if self.reason:
            builder = builder.add_extension(x509.CRLReason(self.reason), critical=False)
        return builder.build()


def parse_serial_number(text: str) -> int:
    """Parse `0a1b…`, `0A:1B:…` or `0x0a1b…`: positive, at most 159 bits; raises `ValueError`."""
    digits = _HEX.fullmatch(text.strip().replace(":", "").lower())
    number = int(digits[1], 16) if digits else 0
    if not number:
        raise ValueError(f"{quote(text)} is not a serial number: write at most 20 octets in hexadecimal")
    return number


def parse(entries: Iterable[tuple[int, object]]) -> Mapping[int, RevokedCertificate]:
    """Parse the entries of a list.

    Args:
        entries: of each entry, its line and `{serial: "0a1b", at: "2026-01-31T23:59:59Z", reason: …}`.

    Returns:
        the revoked certificates by serial number; each can be encoded in a CRL.

    Raises:
        RevocationError: an entry is invalid, or the list is too long; the message names the invalid lines.
    """
    result: dict[int, RevokedCertificate] = {}
    violations, count = [], 0
    for count, (line, value) in enumerate(entries, 1):  # noqa: B007 - counts the items of an iterator
        try:
            entry = _parse_entry(value)
            if entry.serial_number in result:
                serial = encoding.format_serial(entry.serial_number)
                raise ValueError(f"duplicate serial {serial}")  # noqa: TRY301
            result[entry.serial_number] = entry
        except ValueError as error:
            violations.append(f"line {line}: {error}")
    if count > MAX_ENTRIES:
        raise RevocationError(f"{count} entries; at most {MAX_ENTRIES} are accepted")
    if violations:
        more = f"; and {len(violations) - _MAX_VIOLATIONS} more" if len(violations) > _MAX_VIOLATIONS else ""
        raise RevocationError("; ".join(violations[:_MAX_VIOLATIONS]) + more)
    return result


def parse_canonical(text: str) -> Mapping[int, RevokedCertificate] | int:
    """Parse a list of lines in the form of `format_entry`, and comments.

    This is more than ten times as fast as parsing YAML, with the same result.

    Returns:
        the result of `parse`; or the number of the first line in another form, from 1.

    Raises:
        RevocationError: as `parse`.
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
    """Format an entry as a line of YAML that `parse_canonical` parses."""
    serial, at = encoding.format_serial(revoked.serial_number), encoding.format_timestamp(revoked.revoked_at)
    reason = f', "reason": "{revoked.reason.value}"' if revoked.reason else ""
    return f'- {{"serial": "{serial}", "at": "{at}"{reason}}}\n'


class MergedList:
    """Merges lists of revoked certificates; of two entries for a certificate, the earlier one remains."""

    def __init__(self, *loaders: Callable[[], Mapping[int, RevokedCertificate]]) -> None:
        """Create the list from functions that load the others."""
        self._loaders = loaders
        self._lists: list[Mapping[int, RevokedCertificate]] = []
        self._merged: Mapping[int, RevokedCertificate] = {}

    def load(self) -> Mapping[int, RevokedCertificate]:
        """Return the revoked certificates by serial number: the same object until a list is another one."""
        lists = [load() for load in self._loaders]
        if len(lists) != len(self._lists) or any(map(operator.is_not, lists, self._lists)):
            self._lists, self._merged = lists, functools.reduce(_merge, lists)
        return self._merged


def _merge(
    first: Mapping[int, RevokedCertificate], second: Mapping[int, RevokedCertificate]
) -> Mapping[int, RevokedCertificate]:
    if not (first and second):
        return first or second
    earlier = {
        number: min(first[number], second[number], key=lambda entry: entry.revoked_at)
        for number in first.keys() & second.keys()
    }
    return {**first, **second, **earlier}


def crl_number(now: datetime) -> int:
    """The CRL number (RFC 5280 5.2.3) at a time, UTC: the number of its window."""
    return int(now.timestamp()) // int(WINDOW.total_seconds())


def window_start(number: int) -> datetime:
    """The time, UTC, at which the window of a CRL number starts."""
    return datetime.fromtimestamp(number * WINDOW.total_seconds(), UTC)


def crl_builder(
    revoked: Iterable[RevokedCertificate],
    number: int,
    not_after: datetime,
    issuer: SerialNumbers | None = None,
    others: Sequence[SerialNumbers] = (),
) -> x509.CertificateRevocationListBuilder:
    """Build the CRL with a number, for `Issuer.sign_crl`.

    Args:
        revoked: the revoked certificates.
        number: the CRL number.
        not_after: the issuer's end, UTC, which the CRL does not outlive.
        issuer: recognises the serial numbers of the issuer, to omit the certificates that ended long ago.
        others: recognise those of other issuers, whose certificates are omitted.

    Raises:
        ValueError: an entry cannot be encoded, or its revocation time is after the issuer's end, so that no
            CRL would contain it; or there are too many entries.
    """
    start = window_start(number)
    listed = (entry for entry in revoked if _is_listed(entry.serial_number, start, issuer, others))
    ordered = sorted(listed, key=lambda entry: entry.serial_number)
    for entry in ordered:
        if entry.revoked_at > not_after:
            serial, at = (
                encoding.format_serial(entry.serial_number),
                encoding.format_timestamp(entry.revoked_at),
            )
            raise ValueError(f"{serial} would be revoked at {at}, after the CA expires")
    if len(ordered) > MAX_ENTRIES:
        raise ValueError(f"{len(ordered)} entries; at most {MAX_ENTRIES} are accepted")
    # One call: each `add_revoked_certificate` copies the whole list.
    entries = [entry.crl_entry for entry in ordered if entry.revoked_at <= start]
    return (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .last_update(start)
        .next_update(min(start + NEXT_UPDATE, not_after))
        .add_extension(x509.CRLNumber(number), critical=False)
    )


def _is_listed(
    serial_number: int, start: datetime, issuer: SerialNumbers | None, others: Sequence[SerialNumbers]
) -> bool:
    """Whether the serial number is, or may be, of a certificate of the issuer that did not end long ago."""
    if issuer and (lifetime := issuer.recognize(serial_number)):
        return lifetime.end + NEXT_UPDATE >= start
    return serial.recognize(serial_number, others) is None


def _parse_entry(value: object) -> RevokedCertificate:
    if not isinstance(value, Mapping) or not _ENTRY_KEYS >= value.keys() >= {"serial", "at"}:
        raise ValueError("expected a mapping of serial, at and (optional) reason")
    serial, at, reason = value["serial"], value["at"], value.get("reason")
    if not isinstance(serial, str):  # YAML parses 10 as ten, but it means sixteen
        raise ValueError("serial is not a string: write it in hexadecimal, in quotes")  # noqa: TRY004 - see `parse`
    return _parse_fields(
        serial, at if isinstance(at, datetime) else str(at), None if reason is None else str(reason)
    )


@functools.lru_cache(2 * MAX_ENTRIES)  # when a list changes, only changed entries are parsed
def _parse_fields(serial: str, at: str | datetime, reason: str | None) -> RevokedCertificate:
    revoked_at = _parse_time(at)
    if revoked_at is None:
        raise ValueError(f"at {quote(str(at))} is not a time (RFC 3339, UTC)")
    if reason is not None and reason not in REASONS:
        raise ValueError(f"reason {quote(reason)} is not one of {', '.join(REASONS)}")
    entry = RevokedCertificate(parse_serial_number(serial), revoked_at, REASONS[reason] if reason else None)
    entry.crl_entry  # noqa: B018 - cached for signing
    return entry


def _parse_time(value: str | datetime) -> datetime | None:
    """Parse a time, a string or a value of YAML, to UTC in whole seconds; None if it is invalid."""
    with contextlib.suppress(ValueError, OverflowError):
        time = encoding.parse_timestamp(value) if isinstance(value, str) else value
        if time.tzinfo is not None:
            return time.astimezone(UTC).replace(microsecond=0)
    return None
