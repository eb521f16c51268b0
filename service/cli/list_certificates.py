"""`certlet list`: list the certificates that have not expired, from the audit log."""

from __future__ import annotations

import csv
import fnmatch
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

import click

from service import ocsp_responders
from service.cli import options
from service.cli.input_files import DIRECTORY, FILE
from service.cli.terminal import (
    Command,
    CommandError,
    echo_lines,
    format_table,
    is_json,
    json_option,
    note,
    warn,
)
from service.inventory import Certificate, Inventory, LineCounts, Status, cloudwatch_logs, log_files
from service.keystore import ca_directory, revocation_file
from service.ledger import open_ledger
from service.pki import encoding, serial
from service.pki.errors import escape_controls
from service.pki.profile import parse_duration
from service.settings import AUDIT_LOG, LEDGER, LEDGER_TABLE

_MATCHED: Final = 6  # exit status; 1 to 5 are for errors
_CSV_FIELDS: Final = (
    "not_after",
    "status",
    "profile",
    "principal",
    "serial_number",
    "names",
    "common_name",
    "time",
    "fingerprint_sha256",
)
_HEADINGS: Final = ("End", "Status", "Profile", "Principal", "Serial number", "Names")
_Select = Callable[[], Iterator[tuple[Certificate, Status]]]  # reads the certificates to list


@click.command("list", cls=Command, epilog="Example: certlet list audit.log* --expires-in 30d")
@click.argument("files", nargs=-1, type=FILE, metavar="[FILE...]")
@click.option(
    "--log-group",
    metavar="NAME",
    help="Read this log group of CloudWatch Logs instead of files, with a query of Logs Insights.",
)
@click.option("--name", metavar="PATTERN", help="List certificates with a name like this: '*.example.com'.")
@click.option("--principal", metavar="NAME", help="List certificates that this caller requested.")
@click.option("--profile", metavar="NAME", help="List certificates of this profile.")
@click.option(
    "--expires-in",
    type=parse_duration,
    metavar="DURATION",
    help="List certificates that expire within this time, 12h, 30d or 4w, and have no successor.",
)
@click.option("--revoked", is_flag=True, help="List revoked certificates that have not expired.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option("--exit-code", is_flag=True, help=f"Exit with status {_MATCHED} if a certificate is listed.")
@click.option(
    "--ca",
    type=DIRECTORY,
    show_default=f"{options.DEFAULT_CA}, if it exists",
    help="Read the list of revoked certificates in this directory.",
)
def list_certificates(
    *,
    files: tuple[Path, ...],
    log_group: str | None,
    name: str | None,
    principal: str | None,
    profile: str | None,
    expires_in: timedelta | None,
    revoked: bool,
    as_csv: bool,
    exit_code: bool,
    ca: Path | None,
) -> int:
    """List the certificates that have not expired.

    They are read from the audit log. FILE is an audit log, plain or compressed by gzip; - is stdin. Default:
    the file of $CERTLET_AUDIT_LOG. The list is sorted by the end of the certificates. Times are UTC. The
    ledger of $CERTLET_LEDGER or $CERTLET_LEDGER_TABLE says which are revoked, too. The status of certificates
    that the CA in --ca did not issue is unknown.

    Exit status: 0 on success; 1 if an audit log or a list cannot be read; 2 if the arguments are invalid; 4
    without permission; 6 with --exit-code if a certificate is listed.
    """
    options.forbid_together("--expires-in", "--revoked")
    if is_json() and as_csv:
        raise click.UsageError("--csv is not allowed with --json")
    if files and log_group:
        raise click.UsageError("--log-group is not allowed with FILE")
    paths = files or tuple(Path(path) for path in [os.environ.get(AUDIT_LOG)] if path)
    if not paths and not log_group:
        raise click.UsageError(f"no audit log: pass FILE, - for stdin or --log-group, or set ${AUDIT_LOG}")
    now = datetime.now(UTC)
    known = _load_revoked(ca, required=revoked)
    hints: set[str] = set()
    with closing(Inventory(now, _create_filter(name, profile))) as inventory:
        _read_logs(inventory, paths, log_group, now)

        def select() -> Iterator[tuple[Certificate, Status]]:
            for certificate, status in inventory.certificates(known.serial_numbers, known.covers):
                if (
                    principal in (None, certificate.principal)
                    and (not revoked or status is Status.REVOKED)
                    and (expires_in is None or _is_due(certificate, status, now + expires_in))
                ):
                    if status is Status.UNKNOWN:
                        hints.add(known.hint)
                    yield certificate, status

        format_lines = _format_json if is_json() else _format_csv if as_csv else _format_table
        echo_lines(format_lines(select))
        for text in hints:
            note(text)
        return _MATCHED if exit_code and any(select()) else 0


class _Revoked(NamedTuple):
    """The revoked certificates.

    Attributes:
        serial_numbers: their serial numbers.
        covers: whether a certificate with this serial number would be among them.
        hint: what to do about the others.
    """

    serial_numbers: Collection[int]
    covers: Callable[[int], bool]
    hint: str


def _load_revoked(ca: Path | None, *, required: bool) -> _Revoked:
    """Load the revoked certificates of the CA, if there is one in the default directory, and the ledger."""
    path = Path(os.environ[LEDGER]) if os.environ.get(LEDGER) else None
    if path and not path.is_file():  # it would be created
        raise CommandError(f"${LEDGER}: {path} does not exist")
    ledger = open_ledger(path, os.environ.get(LEDGER_TABLE, ""), lambda: datetime.now(UTC))
    recorded = ledger.load_revoked() if ledger else {}
    if ca is None and not required and not options.DEFAULT_CA.exists():
        hint = "without the directory of the CA, the status of certificates is unknown: pass it as --ca"
        return _Revoked(recorded, lambda _: ledger is not None, hint)
    ca = options.require_ca(ca or options.DEFAULT_CA)
    numbers = ca_directory.load_serial_numbers(ca)
    has_issued_others = not numbers or not all(item.all_tagged for item in numbers)

    def covers(serial_number: int) -> bool:
        return has_issued_others or serial.recognize(serial_number, numbers) is not None

    hint = f"the CA in {ca} did not issue the certificates with the status unknown: pass their CA as --ca"
    return _Revoked({*recorded, *revocation_file.load_revoked(ca)}, covers, hint)


def _create_filter(pattern: str | None, profile: str | None) -> Callable[[Certificate], bool]:
    """Create a filter of certificates by name, with or without its kind, and by profile."""

    def has_name(certificate: Certificate) -> bool:
        names = [certificate.common_name, *certificate.names]
        names += [name.partition(":")[2] for name in certificate.names]
        return any(fnmatch.fnmatchcase(name.lower(), str(pattern).lower()) for name in names)

    def matches(certificate: Certificate) -> bool:
        return profile in (None, certificate.profile) and (pattern is None or has_name(certificate))

    return matches


def _is_due(certificate: Certificate, status: Status, until: datetime) -> bool:
    """Whether someone has to renew a certificate; the service renews its OCSP responders itself."""
    if certificate.principal == ocsp_responders.PRINCIPAL:
        return False
    return certificate.not_after <= until and status not in (Status.REVOKED, Status.REPLACED)


def _read_logs(inventory: Inventory, paths: Sequence[Path], log_group: str | None, now: datetime) -> None:
    """Read a log group, or files."""
    if log_group:
        client = cloudwatch_logs.create_client()
        counts = inventory.add_lines(cloudwatch_logs.read_lines(log_group, now, client, time.sleep))
        _warn_of_damage(counts, log_group)
        return
    for path in paths:
        _read_file(inventory, path)


def _read_file(inventory: Inventory, path: Path) -> None:
    with (
        click.open_file(str(path), "rb") as file,
        closing(log_files.read_lines(cast(BinaryIO, file), str(path))) as lines,
    ):
        counts = inventory.add_lines(lines)
    if counts.total and counts.damaged == counts.total:
        raise CommandError(f"{path} is not an audit log: no line is a record")
    _warn_of_damage(counts, str(path))


def _warn_of_damage(lines: LineCounts, name: str) -> None:
    """Warn of lines that are not records."""
    if lines.damaged:
        count = f"{lines.damaged} of {lines.total} lines are not records"
        warn(f"warning: {name}: {count}; the first is line {lines.first_damaged}")


def _format_table(select: _Select) -> Iterator[str]:
    return format_table(_HEADINGS, lambda: itertools.starmap(_to_cells, select()))


def _to_cells(certificate: Certificate, status: Status) -> tuple[str, ...]:
    return (
        encoding.format_timestamp(certificate.not_after),
        status.value,
        certificate.profile,
        certificate.principal,
        encoding.format_serial(certificate.serial_number),
        ", ".join(certificate.names or (certificate.common_name,)),
    )


def _format_json(select: _Select) -> Iterator[str]:
    for certificate, status in select():
        yield json.dumps(_to_dict(certificate, status))


def _format_csv(select: _Select) -> Iterator[str]:
    writer = csv.writer(_Row(), lineterminator="")
    yield writer.writerow(_CSV_FIELDS)
    for certificate, status in select():
        fields = _to_dict(certificate, status) | {"names": " ".join(certificate.names)}
        yield writer.writerow([_escape_cell(str(fields[name])) for name in _CSV_FIELDS])


class _Row:
    """A file whose `write` returns the row, as `csv.writer.writerow` then does."""

    def write(self, row: str) -> str:
        """Return a row."""
        return row


def _escape_cell(text: str) -> str:
    """Escape a cell, so that no spreadsheet evaluates it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else escape_controls(text)


def _to_dict(certificate: Certificate, status: Status) -> dict[str, object]:
    """Convert a certificate to a JSON object with the field names of the audit log."""
    return {
        "not_after": encoding.format_timestamp(certificate.not_after),
        "status": status.value,
        "profile": certificate.profile,
        "principal": certificate.principal,
        "serial_number": encoding.format_serial(certificate.serial_number),
        "names": certificate.names,
        "common_name": certificate.common_name,
        "time": encoding.format_timestamp(certificate.time),
        "fingerprint_sha256": certificate.fingerprint.hex(),
    }
