"""The inventory: the certificates that are valid now, from the intents and results of the audit log.

An intent without a result counts as a certificate. Certificates that have not expired are in a temporary
database on disk, so that memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from service.pki import encoding, revocation

_EVENTS: Final = ("intent", "result", "refusal", "revocation")
_CLIENT_CERTIFICATE: Final = "certificate:"  # how the principal of a renewal with a client certificate starts
_MAX_INTENTS: Final = 1000  # in memory, until their results follow
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_Row = tuple[bytes | int | None, ...]

# Times are microseconds. The subject is the profile, common name and names. The predecessor is the client
# certificate of a renewal. The cache has 2 MB; the rest is in a file that only this process can open.
_CREATE: Final = """
PRAGMA journal_mode = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -2000;
CREATE TABLE certificates (
    serial_number BLOB PRIMARY KEY, not_after INTEGER, time INTEGER, fingerprint BLOB, principal BLOB,
    subject BLOB, predecessor BLOB
);
CREATE INDEX renewals ON certificates (predecessor) WHERE predecessor IS NOT NULL;
CREATE TABLE revoked (serial_number BLOB PRIMARY KEY);
"""

# A result is preferred to its intent, and to the result of a retry.
_ADD: Final = """
INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    not_after = excluded.not_after, time = excluded.time, fingerprint = excluded.fingerprint,
    principal = excluded.principal, subject = excluded.subject, predecessor = excluded.predecessor
WHERE (excluded.fingerprint <> x'', time) > (fingerprint <> x'', excluded.time)
"""

# `origins` has the principal of the first in a series of renewals with client certificates.
_LIST: Final = """
WITH RECURSIVE origins (serial_number, principal) AS (
    SELECT renewal.serial_number, origin.principal
    FROM certificates AS renewal JOIN certificates AS origin ON origin.serial_number = renewal.predecessor
    WHERE origin.predecessor IS NULL OR origin.predecessor NOT IN (SELECT serial_number FROM certificates)
    UNION ALL
    SELECT renewal.serial_number, origins.principal
    FROM certificates AS renewal JOIN origins ON origins.serial_number = renewal.predecessor
)
SELECT
    certificate.serial_number, not_after, time, fingerprint, certificate.principal, subject,
    CASE
        WHEN revoked.serial_number IS NOT NULL THEN 'revoked'
        WHEN not_after < max(not_after) FILTER (WHERE fingerprint <> x'' AND revoked.serial_number IS NULL)
            OVER (PARTITION BY subject, ifnull(origins.principal, certificate.principal) ORDER BY time DESC)
            THEN 'replaced'
        WHEN fingerprint = x'' THEN 'unconfirmed'
        ELSE 'valid'
    END
FROM certificates AS certificate
LEFT JOIN origins USING (serial_number)
LEFT JOIN revoked USING (serial_number)
ORDER BY not_after, certificate.serial_number
"""


class InventoryError(Exception):
    """The audit log cannot be read completely; the message says why and what to do."""


class Status(StrEnum):
    """The status of a certificate: the first that applies."""

    REVOKED = "revoked"
    REPLACED = "replaced"
    UNCONFIRMED = "unconfirmed"
    UNKNOWN = "unknown"
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
    profile, principal, common_name = (
        record["profile"],
        record.get("principal", ""),
        record.get("common_name", ""),
    )
    names = record.get("names", [])
    if not isinstance(names, list):
        raise TypeError("names are not a list")
    if "\0" in "".join((profile, principal, common_name, *names)):
        raise ValueError("no certificate has a NUL character")
    return Certificate(
        serial_number=revocation.parse_serial_number(record["serial_number"]),
        not_after=not_after,
        time=_parse_time(record["time"]),
        profile=profile,
        principal=principal,
        names=tuple(sorted(names)),
        common_name=common_name,
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


@contextlib.contextmanager
def _describe_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        text = "a temporary file cannot be written: set $TMPDIR to a directory with free space"
        raise InventoryError(text) from error


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
        self._database = sqlite3.connect("")  # temporary, and without a name
        self._database.executescript(_CREATE)

    def close(self) -> None:
        """Delete the certificates."""
        self._database.close()

    @_describe_errors()
    def add_lines(self, lines: Iterable[bytes]) -> LineCounts:
        """Add the certificates of an audit log.

        Raises:
            InventoryError: a temporary file cannot be written.
        """
        total = damaged = first_damaged = 0

        def parse_certificates() -> Iterator[Certificate]:
            nonlocal total, damaged, first_damaged
            for line in lines:
                total += 1
                try:
                    certificate = parse_certificate(line, self._now)
                except ValueError:
                    damaged += 1
                    first_damaged = first_damaged or total
                    continue
                if certificate and self._matches(certificate):
                    yield certificate

        self._database.executemany(_ADD, map(_to_row, _skip_intents(parse_certificates())))
        return LineCounts(total, damaged, first_damaged)

    def certificates(
        self, revoked: Iterable[int] = (), is_covered: Callable[[int], bool] = lambda _: True
    ) -> Iterator[tuple[Certificate, Status]]:
        """Yield each certificate with its status, by the end of the certificates.

        A certificate is replaced if a later result for the same profile, names, common name and principal
        ends later, and is not revoked. A renewal with a client certificate has the principal of that
        certificate.

        Args:
            revoked: the serial numbers of the revoked certificates.
            is_covered: whether `revoked` would have a serial number; otherwise the status is unknown.

        Raises:
            InventoryError: a temporary file cannot be written.
        """
        with _describe_errors():
            serial_numbers = ((_to_octets(number),) for number in revoked)
            self._database.executemany("INSERT OR IGNORE INTO revoked VALUES (?)", serial_numbers)
            for row in self._database.execute(_LIST):
                certificate, status = _parse_row(row)
                if status is Status.VALID and not is_covered(certificate.serial_number):
                    status = Status.UNKNOWN
                yield certificate, status


def _skip_intents(certificates: Iterable[Certificate]) -> Iterator[Certificate]:
    """Skip intents whose result soon follows, as most do: the database then has half as much to write."""
    intents: dict[int, Certificate] = {}
    for certificate in certificates:
        intent = intents.pop(certificate.serial_number, None)
        if certificate.fingerprint:
            yield certificate
            continue
        intents[certificate.serial_number] = certificate
        if intent or len(intents) > _MAX_INTENTS:
            yield intent or intents.pop(next(iter(intents)))
    yield from intents.values()


def _to_octets(serial_number: int) -> bytes:
    return serial_number.to_bytes(20, "big")


def _to_row(certificate: Certificate) -> _Row:
    """Convert a certificate to a row; its texts may have characters that are not valid in UTF-8."""
    subject = "\0".join((certificate.profile, certificate.common_name, *certificate.names))
    predecessor = None
    if certificate.principal.startswith(_CLIENT_CERTIFICATE):
        with contextlib.suppress(ValueError):
            text = certificate.principal.removeprefix(_CLIENT_CERTIFICATE)
            predecessor = _to_octets(revocation.parse_serial_number(text))
    return (
        _to_octets(certificate.serial_number),
        (certificate.not_after - _EPOCH) // _MICROSECOND,
        (certificate.time - _EPOCH) // _MICROSECOND,
        certificate.fingerprint,
        certificate.principal.encode("utf-8", "surrogatepass"),
        subject.encode("utf-8", "surrogatepass"),
        predecessor,
    )


def _parse_row(row: tuple[Any, ...]) -> tuple[Certificate, Status]:
    serial_number, not_after, time, fingerprint, principal, subject, status = row
    profile, common_name, *names = subject.decode("utf-8", "surrogatepass").split("\0")
    certificate = Certificate(
        serial_number=int.from_bytes(serial_number, "big"),
        not_after=_EPOCH + not_after * _MICROSECOND,
        time=_EPOCH + time * _MICROSECOND,
        profile=profile,
        principal=principal.decode("utf-8", "surrogatepass"),
        names=tuple(names),
        common_name=common_name,
        fingerprint=fingerprint,
    )
    return certificate, Status(status)


def find_certificate(lines: Iterable[bytes], serial_number: int) -> Certificate | None:
    """Find a certificate in an audit log, even if it has expired; None if there is none."""
    text = encoding.format_serial(serial_number).encode()
    everything = datetime.min.replace(tzinfo=UTC)
    with contextlib.closing(
        Inventory(everything, lambda item: item.serial_number == serial_number)
    ) as inventory:
        inventory.add_lines(line for line in lines if text in line)
        return next((certificate for certificate, _ in inventory.certificates()), None)
