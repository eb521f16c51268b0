"""The inventory: the certificates that are valid now, from the intents and results of the audit log.

An intent without a result counts as a certificate. Expired certificates are not stored, so that memory grows
with the valid certificates and not with the log.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from service.pki import encoding, revocation

_EVENTS: Final = ("intent", "result", "refusal", "revocation")
_CLIENT_CERTIFICATE: Final = "certificate:"  # how the principal of a renewal with a client certificate starts


class InventoryError(Exception):
    """The audit log cannot be read completely; the message says why and what to do."""


class Status(StrEnum):
    """The status of a certificate: the first that applies."""

    REVOKED = "revoked"
    REPLACED = "replaced"
    UNCONFIRMED = "unconfirmed"
    VALID = "valid"


class Certificate(NamedTuple):
    """A certificate that the audit log records.

    Attributes:
        not_after: its end, UTC.
        time: the time of the request, UTC.
        names: its subject alternative names, sorted.
        fingerprint: its SHA-256; empty if there is an intent but no result.
    """

    serial_number: int
    not_after: datetime
    time: datetime
    profile: str
    principal: str
    names: tuple[str, ...]
    common_name: str
    fingerprint: bytes


class LineCounts(NamedTuple):
    """How many lines an audit log has, how many of them are not records, and the first of these, from 1."""

    total: int
    damaged: int
    first_damaged: int


def parse_certificate(line: bytes, now: datetime) -> Certificate | None:
    """Parse a line of the audit log.

    Args:
        line: a line of the audit log, or of stderr, where lines of the access log are between them.
        now: the time, UTC.

    Returns:
        the certificate of an intent or a result; None if it has expired, and for other records.

    Raises:
        ValueError: the line is not a record, or it is damaged.
    """
    try:
        record = json.loads(line.decode())
        event = record.get("event")
        if event in ("intent", "result"):
            not_after = _parse_time(record["not_after"])
            return None if not_after < now else _parse_record(record, not_after)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a record") from error
    if event not in _EVENTS and "access" not in record:
        raise ValueError("not a record")
    return None


def _parse_record(record: dict[str, Any], not_after: datetime) -> Certificate:
    """Convert a record; each conversion raises TypeError or AttributeError if the value is not a string."""
    names = record.get("names", [])
    if not isinstance(names, list):
        raise TypeError("names are not a list")
    return Certificate(
        serial_number=revocation.parse_serial_number(record["serial_number"]),
        not_after=not_after,
        time=_parse_time(record["time"]),
        profile=sys.intern(record["profile"]),
        principal=sys.intern(record.get("principal", "")),
        names=tuple(sorted(map(sys.intern, names))),
        common_name=sys.intern(record.get("common_name", "")),
        fingerprint=b"" if record["event"] == "intent" else _parse_fingerprint(record["fingerprint_sha256"]),
    )


def _parse_fingerprint(text: str) -> bytes:
    if not (fingerprint := bytes.fromhex(text)):
        raise ValueError("an empty fingerprint")
    return fingerprint


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is not UTC:
        raise ValueError("not a time in UTC")
    return time


class Inventory:
    """The valid certificates of one or more audit logs, which may be read in any order."""

    def __init__(self, now: datetime, matches: Callable[[Certificate], bool] = lambda _: True) -> None:
        """Start without certificates.

        Args:
            now: the time, UTC.
            matches: whether a certificate is part of the inventory; the same for a certificate and its
                successor, which have the same profile, names and common name.
        """
        self._now = now
        self._matches = matches
        self._certificates: dict[int, Certificate] = {}

    def add_lines(self, lines: Iterable[bytes]) -> LineCounts:
        """Add the certificates of an audit log."""
        total = damaged = first_damaged = 0
        for line in lines:
            total += 1
            try:
                certificate = parse_certificate(line, self._now)
            except ValueError:
                damaged += 1
                first_damaged = first_damaged or total
                continue
            if certificate and self._matches(certificate):
                self._add(certificate)
        return LineCounts(total, damaged, first_damaged)

    def _add(self, certificate: Certificate) -> None:
        """Add a certificate; a result is preferred to its intent, and to the result of a retry."""
        existing = self._certificates.get(certificate.serial_number)
        if existing is None or (bool(certificate.fingerprint), existing.time) > (
            bool(existing.fingerprint),
            certificate.time,
        ):
            self._certificates[certificate.serial_number] = certificate

    def certificates(self, revoked: Container[int] = ()) -> Iterator[tuple[Certificate, Status]]:
        """Yield each certificate with its status, by the end of the certificates.

        A certificate is replaced if a later result for the same profile, names, common name and principal
        ends later, and is not revoked. A renewal with a client certificate has the principal of that
        certificate.

        Args:
            revoked: the serial numbers of the revoked certificates.
        """
        statuses: dict[int, Status] = {}
        latest_end: dict[tuple[object, ...], datetime] = {}
        for certificate in sorted(self._certificates.values(), key=_by_time, reverse=True):
            key = (
                certificate.profile,
                certificate.names,
                certificate.common_name,
                self._original_principal(certificate),
            )
            status = Status.VALID if certificate.fingerprint else Status.UNCONFIRMED
            if certificate.serial_number in revoked:
                status = Status.REVOKED
            elif latest_end.get(key, certificate.not_after) > certificate.not_after:
                status = Status.REPLACED
            elif status is Status.VALID:
                latest_end[key] = certificate.not_after
            statuses[certificate.serial_number] = status
        for certificate in sorted(self._certificates.values(), key=_by_end):
            yield certificate, statuses[certificate.serial_number]

    def _original_principal(self, certificate: Certificate) -> str:
        """Return the principal of the first in a series of renewals with client certificates."""
        serial_numbers = {certificate.serial_number}
        while certificate.principal.startswith(_CLIENT_CERTIFICATE):
            try:
                number = revocation.parse_serial_number(certificate.principal[len(_CLIENT_CERTIFICATE) :])
            except ValueError:
                break
            if number in serial_numbers or number not in self._certificates:
                break
            serial_numbers.add(number)
            certificate = self._certificates[number]
        return certificate.principal


def find_certificate(lines: Iterable[bytes], serial_number: int) -> Certificate | None:
    """Find a certificate in an audit log, even if it has expired; None if there is none."""
    text = encoding.format_serial(serial_number).encode()
    inventory = Inventory(datetime.min.replace(tzinfo=UTC), lambda item: item.serial_number == serial_number)
    inventory.add_lines(line for line in lines if text in line)
    return next((certificate for certificate, _ in inventory.certificates()), None)


def _by_time(certificate: Certificate) -> tuple[datetime, datetime]:
    return certificate.time, certificate.not_after


def _by_end(certificate: Certificate) -> tuple[datetime, int]:
    return certificate.not_after, certificate.serial_number
