"""`certlet revoke`: show a certificate, and revoke it after confirmation."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
from cryptography import x509

from service import audit, inventory
from service.cli import options
from service.cli.input_files import FILE
from service.cli.terminal import (
    Command,
    CommandError,
    describe_os_error,
    echo,
    has_text,
    json_option,
    report,
    warn,
)
from service.inventory import log_files
from service.keystore import ca_directory, revocation_file
from service.pki import certificate_reader, encoding, names, pem, revocation, serial
from service.pki.certificate_reader import extension_value, is_issued_by
from service.pki.serial import SerialNumbers
from service.settings import AUDIT_LOG


@click.command(cls=Command, epilog="Example: certlet revoke www.crt --reason keyCompromise")
@click.argument("certificate", type=click.Path(readable=False), metavar="SERIAL|FILE")
@click.option(
    "--reason",
    type=click.Choice(sorted(revocation.REASONS)),
    metavar="REASON",
    help=f"Record this reason: {', '.join(sorted(revocation.REASONS))}.",
)
@click.option(
    "--audit-log",
    type=FILE,
    envvar=AUDIT_LOG,
    show_envvar=True,
    show_default="stderr",
    help="Find the certificate in this file, and append the event to it. It must exist.",
)
@json_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@options.ca_option
def revoke(*, certificate: str, reason: str | None, audit_log: Path | None, yes: bool, ca: Path) -> None:
    """Revoke a certificate.

    The CRL at /ca.crl will list it. SERIAL is a serial number in hexadecimal, and FILE a certificate. What is
    known of the certificate is shown before you confirm. The audit log records your user name.
    """
    signing, above = ca_directory.load_chain(options.require_ca(ca))
    issuers = (signing, *ca_directory.load_predecessors(ca))
    path, revoked = Path(certificate), None
    if path.is_file():
        revoked = _load_issued_certificate(ca, path, issuers)
    try:
        number = revoked.serial_number if revoked else revocation.parse_serial_number(certificate)
    except ValueError as error:
        raise CommandError(f"{error}, or an existing file") from error
    ca_end, now = min(authority.not_valid_after_utc for authority in (signing, *above)), datetime.now(UTC)
    if now > ca_end:  # it cannot sign a CRL
        raise CommandError(f"the CA has expired (now: {encoding.format_timestamp(now)})")
    numbers = ca_directory.load_serial_numbers(ca)
    end, note = _find_end(ca, number, numbers, is_issued=revoked is not None)
    target = _Target.find(number, revoked, end, audit_log)
    if has_text() or not yes:
        write = echo if has_text() else warn  # the question is on stderr, too
        for label, text in target.describe():
            write(f"{label:<9} {text}")
    _confirm(note, yes=yes)
    now = datetime.now(UTC).replace(microsecond=0)
    event = audit.AuditRecord(
        event="revocation",
        time=encoding.format_timestamp(now),
        request_id="",
        principal=_principal(),
        profile="",
        serial_number=encoding.format_serial(number),
        reasons=(reason,) if reason else (),
    )
    record: Callable[[], None] = partial(warn, audit.serialize(event).decode().rstrip())
    if audit_log:
        record = partial(audit.fd_recorder(audit.open_log(audit_log, create=False)), [event])
    entry = revocation.RevokedCertificate(number, now, revocation.REASONS[reason] if reason else None)
    revocation_file.add_revoked(ca, entry, record)
    facts = target.to_json() | {"time": event.time, "reason": reason}
    done = f"Revoked {encoding.format_serial(number)} in {ca / revocation_file.REVOKED}."
    if end and end + revocation.NEXT_UPDATE < now:
        effect = [f"The CRL does not list it: the certificate ended by {encoding.format_timestamp(end)}."]
        report({**facts, "notes": effect}, done, *effect)
        return
    issuer = (
        certificate_reader.find_issuer(revoked, issuers)
        if revoked
        else serial.find_recognizing_issuer(number, issuers, numbers)
    )
    has_key = issuer in (None, issuers[0]) or (ca / ca_directory.previous_key_name(issuer)).exists()
    last = revoked.not_valid_after_utc if revoked else end
    effect = [*_describe_effect(revoked, now, ca_end, last, has_key=has_key)]
    report({**facts, "notes": effect}, done, *effect)


def _describe_effect(
    certificate: x509.Certificate | None,
    now: datetime,
    ca_end: datetime,
    end: datetime | None,
    *,
    has_key: bool,
) -> Iterator[str]:
    """Yield when the CRL lists a revoked certificate, and until when verifiers may accept it."""
    accepted = f"verifiers accept it until {encoding.format_timestamp(end) if end else 'it ends'}"
    if not has_key:
        yield f"Warning   no CRL lists it, as the key of its issuer, a previous CA, is gone: {accepted}"
        return
    listed_by = now + revocation.WINDOW
    time = encoding.format_timestamp(listed_by)
    yield f"The CRL lists it by {time}; on AWS, only after you build and deploy the zip again."
    if certificate and not certificate_reader.names_status(certificate):
        yield f"Warning   this certificate names neither CRL nor OCSP, so {accepted}"
        return
    time = encoding.format_timestamp(min(listed_by + revocation.NEXT_UPDATE, ca_end))
    yield f"Verifiers may use an earlier CRL or OCSP response, until {time} at the latest."
    if certificate is None:
        yield (
            f"If the certificate names neither CRL nor OCSP, {accepted}: "
            "its serial number does not say (pass its file to know)."
        )


@dataclass(frozen=True)
class _Target:
    """What is known of a certificate to revoke: from its file, its serial number and the audit log.

    Attributes:
        serial_number: its serial number.
        names: its names, or else its subject.
        end: the end of its validity, UTC; None if it is not known.
        record: its record in the audit log; None if there is none.
        note: why there is no record; '' if that is not worth a note.
    """

    serial_number: int
    names: Sequence[str]
    end: datetime | None
    record: inventory.Certificate | None
    note: str

    @classmethod
    def find(
        cls,
        serial_number: int,
        certificate: x509.Certificate | None,
        end: datetime | None,
        audit_log: Path | None,
    ) -> _Target:
        """Find what is known; `end` is that in the serial number."""
        record, note = _find_record(audit_log, serial_number)
        texts: Sequence[str] = ()
        if certificate:
            sans = extension_value(certificate, x509.SubjectAlternativeName) or ()
            texts = [*map(names.describe, sans)] or [certificate.subject.rfc4514_string()]
            end = certificate.not_valid_after_utc
        elif record:
            texts, end = record.names or (record.common_name,), record.not_after
        return cls(serial_number, texts, end, record, note)

    def describe(self) -> Iterator[tuple[str, str]]:
        """Yield labels and texts."""
        yield "Serial", encoding.format_serial(self.serial_number)
        if self.names:
            yield "Names", ", ".join(self.names)
        if record := self.record:
            time = encoding.format_timestamp(record.time)
            result = "" if record.fingerprint else ", without a result in the audit log"
            yield "Requested", f"{time} by {record.principal}, profile {record.profile}{result}"
        if self.end:
            yield "Ends", encoding.format_timestamp(self.end)
        if self.note:
            yield "Note", self.note

    def to_json(self) -> dict[str, object]:
        """Return the members with the field names of the audit log."""
        end = encoding.format_timestamp(self.end) if self.end else None
        serial_number = encoding.format_serial(self.serial_number)
        return {"serial_number": serial_number, "names": list(self.names), "not_after": end}


def _find_record(audit_log: Path | None, serial_number: int) -> tuple[inventory.Certificate | None, str]:
    """Find a certificate in the audit log; return it, or None and the reason."""
    if audit_log is None or not audit_log.is_file():  # opening it for the record reports a missing file
        return None, ""
    try:
        with audit_log.open("rb") as file:
            record = inventory.find_certificate(log_files.read_lines(file, str(audit_log)), serial_number)
    except (OSError, inventory.InventoryError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        return None, f"the audit log cannot be read: {reason}"
    return record, "" if record else f"{audit_log} has no certificate with this serial number"


def _confirm(note: str, *, yes: bool) -> None:
    """Ask whether to revoke the certificate, unless `yes`; raise CommandError if the answer is not yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{note or 'no terminal to ask for confirmation'}: pass --yes to revoke it")
    question = f"{note[:1].upper()}{note[1:]}. Revoke it?" if note else "Revoke it?"
    if not click.confirm(question, err=True):
        raise CommandError("nothing was revoked")


def _find_end(
    ca: Path, serial_number: int, numbers: Sequence[SerialNumbers], *, is_issued: bool
) -> tuple[datetime | None, str]:
    """Return the end of a certificate, UTC, and a note.

    There is no end if the serial number does not contain it. The note is '' if the CA issued the certificate:
    it recognises the serial number, or `is_issued` (the signature was verified).

    Raises:
        CommandError: the CA never issued the serial number.
    """
    text, lifetime = encoding.format_serial(serial_number), serial.recognize(serial_number, numbers)
    if lifetime or is_issued:
        return lifetime.end if lifetime else None, ""
    if numbers and all(item.all_tagged for item in numbers):
        raise CommandError(
            f"{text} is not a serial number of the CA in {ca}: it never issued such a certificate. "
            "If there is one, revoke its file"
        )
    return None, f"the CA in {ca} does not know whether it issued {text}"


def _principal() -> str:
    """Return the operating system's user, which no environment variable can forge."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # the user has no entry, as in a container
        name = ""
    return f"user:{name}:{os.getuid()}"


def _load_issued_certificate(ca: Path, path: Path, issuers: Sequence[x509.Certificate]) -> x509.Certificate:
    """Load a certificate, PEM or DER, that one of these issuers issued: the CA, and its predecessors."""
    data, message = path.read_bytes(), f"{path} is not a certificate of the CA in {ca}"
    parse = certificate_reader.parse_der if pem.is_der(data) else certificate_reader.parse_pem
    try:
        certificate = parse(data)
    except ValueError as error:
        raise CommandError(f"{message}: {error}") from error
    if certificate in ca_directory.load_ca_certificates(ca):
        remedy = f"certlet sign-ca-status --revoke {shlex.quote(str(path))} revokes it"
        raise CommandError(f"{path} is a CA certificate ({remedy})")
    if not any(is_issued_by(certificate, issuer) for issuer in issuers):
        raise CommandError(message)
    return certificate
