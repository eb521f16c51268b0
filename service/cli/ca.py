"""`certlet init`, `rollover`, `revoke` and `rotate-serial-key`: create CAs, and revoke certificates."""

from __future__ import annotations

import ipaddress
import os
import pwd
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service import audit, hardening
from service.cli import options
from service.cli.options import KEY_FILE
from service.cli.terminal import CommandError, echo, warn
from service.gateway import api_keys
from service.keystore import ca_directory, revocation_file
from service.pki import certificate_reader, encoding, hierarchy, pem, revocation, serial
from service.pki.certificate_reader import extension_value, is_issued_by
from service.settings import AUDIT_LOG, CA_PASSPHRASE


@click.command(epilog="Example: certlet init ca --permit-dns example.com")
@click.argument("directory", type=options.FILE, metavar="DIR")
@options.key_type_option
@click.option(
    "--name",
    metavar="NAME",
    default="Certlet",
    help=f"Start the names of both CAs with this, at most {hierarchy.MAX_NAME_CHARS} characters.",
)
@click.option(
    "--permit-dns",
    multiple=True,
    metavar="DOMAIN",
    type=options.parse_domain,
    help="Restrict the CA to host names, URIs and email addresses in this domain (repeatable).",
)
@click.option(
    "--permit-ip",
    multiple=True,
    metavar="CIDR",
    type=ipaddress.ip_network,
    help="Restrict the CA to IP addresses in this network (repeatable).",
)
@options.kms_option
def init(
    *,
    directory: Path,
    key_type: str,
    name: str,
    permit_dns: tuple[str, ...],
    permit_ip: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...],
    kms: str | None,
) -> None:
    """Create a root CA and a signing CA.

    Both are written to DIR. An existing CA is never overwritten. $CERTLET_CA_PASSPHRASE encrypts the keys.
    """
    hardening.disable_core_dumps_and_ptrace()
    passphrase = options.read_secret(CA_PASSPHRASE)
    try:
        created = hierarchy.create_hierarchy(
            name,
            secrets.token_hex(hierarchy.SUFFIX_BYTES),
            key_type,
            datetime.now(UTC),
            [*permit_dns, *permit_ip],
            _kms_public_key(kms) if kms else None,
        )
        ca_directory.save_hierarchy(directory, created, passphrase)
    except ValueError as error:
        raise CommandError(str(error)) from error
    echo(f"Created a CA in {directory}. Move {directory / ca_directory.ROOT_KEY} to a safe place:")
    echo("it is not needed to issue certificates.")


@click.command(epilog="Example: certlet rollover ca ca-2027 --root-key /somewhere/safe/root-ca.key")
@click.argument("old", type=options.FILE)
@click.argument("new", type=options.FILE)
@options.key_type_option
@options.kms_option
@click.option(
    "--root-key",
    type=options.FILE,
    show_default=f"OLD/{ca_directory.ROOT_KEY}",
    help="Use this file as the root's key.",
)
@click.option("--new-root", is_flag=True, help="Create a new root, which every client must be made to trust.")
def rollover(
    *, old: Path, new: Path, key_type: str, kms: str | None, root_key: Path | None, new_root: bool
) -> None:
    """Create the successor of a CA.

    OLD is the existing CA's directory, and NEW the successor's. API keys, revocations, denied keys and the
    keys of serial numbers are copied.
    """
    options.forbid_together("--root-key", "--new-root")
    hardening.disable_core_dumps_and_ptrace()
    passphrase = options.read_secret(CA_PASSPHRASE)
    certificate, chain = ca_directory.load_chain(options.require_ca(old, "OLD"))
    if not chain:
        raise CommandError(f"the CA in {old} has no root: only a CA under a root has a successor")
    root_key = root_key or old / ca_directory.ROOT_KEY
    if not new_root and not root_key.exists():
        raise CommandError(f"{root_key} does not exist: pass --root-key FILE or --new-root")
    lists, keys = revocation_file.load_lists(old), api_keys.KeyFile(old / KEY_FILE).read()
    try:
        created = hierarchy.create_successor(
            hierarchy.Predecessor(certificate, chain, ca_directory.load_predecessors(old)),
            None if new_root else options.load_private_key(root_key, CA_PASSPHRASE),
            secrets.token_hex(hierarchy.SUFFIX_BYTES),
            key_type,
            datetime.now(UTC),
            _kms_public_key(kms) if kms else None,
        )
        ca_directory.save_hierarchy(
            new,
            created,
            passphrase,
            lists | ({KEY_FILE: api_keys.encode_keys(keys)} if keys else {}),
            ca_directory.load_serial_keys(old),
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    echo(f"Created a CA in {new}. Serve it instead of {old}: it signs, and both chains are served.")
    predecessors = new / ca_directory.PREVIOUS_CERTIFICATES
    echo(f"Delete {predecessors} when all certificates of the old CA have expired.")


@click.command(epilog="Example: certlet revoke www.crt --reason keyCompromise")
@click.argument("certificate", type=click.Path(readable=False), metavar="SERIAL|FILE")
@click.option(
    "--reason",
    type=click.Choice(sorted(revocation.REASONS)),
    metavar="REASON",
    help=f"Record this reason: {', '.join(sorted(revocation.REASONS))}.",
)
@click.option(
    "--audit-log",
    type=options.FILE,
    envvar=AUDIT_LOG,
    show_envvar=True,
    show_default="stderr",
    help="Append the event to this file, which must exist.",
)
@click.option("--yes", is_flag=True, help="Also revoke a serial number that the CA cannot recognise.")
@options.ca_option
def revoke(*, certificate: str, reason: str | None, audit_log: Path | None, yes: bool, ca: Path) -> None:
    """Revoke a certificate.

    The CRL at /ca.crl will list it. SERIAL is a serial number in hexadecimal, and FILE a certificate. The
    audit log records your user name.
    """
    options.require_ca(ca)
    revoked = _load_issued_certificate(ca, Path(certificate)) if Path(certificate).is_file() else None
    try:
        number = revoked.serial_number if revoked else revocation.parse_serial_number(certificate)
    except ValueError as error:
        raise CommandError(f"{error}, or an existing file") from error
    now, (signing, above) = datetime.now(UTC).replace(microsecond=0), ca_directory.load_chain(ca)
    if now > min(authority.not_valid_after_utc for authority in (signing, *above)):  # it cannot sign a CRL
        raise CommandError(f"the CA has expired (now: {encoding.format_timestamp(now)})")
    end = _find_end(ca, number, is_issued=revoked is not None, yes=yes)
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
    listed_by = encoding.format_timestamp(now + revocation.WINDOW)
    file = ca / revocation_file.REVOKED
    echo(f"Revoked {encoding.format_serial(number)} in {file}.")
    if end and end + revocation.NEXT_UPDATE < now:
        echo(f"The CRL does not list it: the certificate ended by {encoding.format_timestamp(end)}.")
        return
    echo(f"The CRL lists it by {listed_by}; on AWS, only after you build and deploy the zip again.")
    if revoked and (reason_not_listed := _why_not_on_crl(ca, revoked)):
        last = encoding.format_timestamp(revoked.not_valid_after_utc)
        echo(f"Warning   {reason_not_listed}, so verifiers will accept it until {last}")


@click.command(epilog="Example: certlet rotate-serial-key --ca /var/lib/certlet/ca")
@options.ca_option
def rotate_serial_key(*, ca: Path) -> None:
    """Add a new key for serial numbers.

    It creates the serial numbers from now on. The earlier keys still recognise theirs.
    """
    ca_directory.add_serial_key(options.require_ca(ca))
    path = ca / ca_directory.SERIAL_KEY
    echo(f"Added a key to {path}. Back it up: it recognises the serial numbers of the CA.")


def _find_end(ca: Path, serial_number: int, *, is_issued: bool, yes: bool) -> datetime | None:
    """Return the end of a certificate, UTC; None if its serial number does not contain it.

    `is_issued` is set if the signature of the certificate was verified.

    Raises:
        CommandError: the CA never issued the serial number, or may not have, and the user does not confirm.
    """
    serial_keys, predecessors = ca_directory.load_serial_keys(ca), ca_directory.load_predecessors(ca)
    signing, text = ca_directory.load_chain(ca)[0], encoding.format_serial(serial_number)
    issuers = serial.for_issuers(serial_keys, signing, predecessors) if serial_keys else ()
    lifetime = serial.recognize(serial_number, issuers)
    if lifetime or is_issued:
        return lifetime.end if lifetime else None
    if issuers and all(numbers.all_tagged for numbers in issuers):
        raise CommandError(
            f"{text} is not a serial number of the CA in {ca}: it never issued such a certificate. "
            "If there is one, revoke its file"
        )
    if not yes:
        message = f"the CA in {ca} does not know whether it issued {text}"
        if not sys.stdin.isatty():
            raise CommandError(f"{message}: pass --yes to revoke it")
        if not click.confirm(f"{message[:1].upper()}{message[1:]}. Revoke it?", err=True):
            raise CommandError("nothing was revoked")
    return None


def _principal() -> str:
    """Return the operating system's user, which no environment variable can forge."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # the user has no entry, as in a container
        name = ""
    return f"user:{name}:{os.getuid()}"


def _load_issued_certificate(ca: Path, path: Path) -> x509.Certificate:
    """Load a certificate, PEM or DER, that the CA or one of its predecessors issued."""
    data, message = path.read_bytes(), f"{path} is not a certificate of the CA in {ca}"
    parse = certificate_reader.parse_der if pem.is_der(data) else certificate_reader.parse_pem
    try:
        certificate = parse(data)
    except ValueError as error:
        raise CommandError(f"{message}: {error}") from error
    if not any(
        is_issued_by(certificate, issuer)
        for issuer in (ca_directory.load_chain(ca)[0], *ca_directory.load_predecessors(ca))
    ):
        raise CommandError(message)
    return certificate


def _why_not_on_crl(ca: Path, certificate: x509.Certificate) -> str:
    """Return why verifiers find no CRL that lists a revoked certificate; '' if they find one."""
    if certificate.issuer != ca_directory.load_chain(ca)[0].subject:
        return "this certificate is from the previous CA, whose CRL is no longer signed"
    if extension_value(certificate, x509.CRLDistributionPoints) is None:
        return "this certificate names no CRL (revocation: none)"
    return ""


def _kms_public_key(key_id: str) -> CertificatePublicKeyTypes:
    try:
        from service.keystore import kms  # noqa: PLC0415 - boto3 is optional
    except ImportError as error:
        raise CommandError("--kms requires boto3: run pip install boto3") from error
    return kms.load_private_key(key_id).public_key()
