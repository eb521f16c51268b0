"""`certlet init`, `certlet rollover` and `certlet revoke`: what is done to a CA, apart from serving it."""

from __future__ import annotations

import ipaddress
import os
import pwd
import secrets
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
from service.cli.terminal import CommandError, say, warn
from service.gateway import api_keys
from service.keystore import ca_directory, revocation_file
from service.pki import certificate_reader, encoding, hierarchy, pem, revocation
from service.pki.certificate_reader import extension_value, is_issued_by
from service.settings import AUDIT_LOG, CA_PASSPHRASE


@click.command(epilog="Example: certlet init ca --permit-dns example.com")
@click.argument("directory", type=options.FILE, metavar="DIR")
@options.key_type_option
@click.option(
    "--name",
    metavar="NAME",
    default="Certlet",
    help=f"Begin the names of both CAs with this, at most {hierarchy.MAX_NAME_CHARS} characters.",
)
@click.option(
    "--permit-dns",
    multiple=True,
    metavar="DOMAIN",
    type=options.parse_domain,
    help="Restrict the CA to hosts, URIs and mailboxes of this domain (repeatable).",
)
@click.option(
    "--permit-ip",
    multiple=True,
    metavar="CIDR",
    type=ipaddress.ip_network,
    help="Restrict the CA to addresses of this network (repeatable).",
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
    """Make a root CA and a signing CA.

    DIR gets both. A CA that is in it already is never replaced.
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
    say(f"Made a CA in {directory}. Move {directory / ca_directory.ROOT_KEY} to a safe place:")
    say("it is not needed for issuing.")


@click.command(epilog="Example: certlet rollover ca ca-2027 --root-key /somewhere/safe/root-ca.key")
@click.argument("old", type=options.FILE)
@click.argument("new", type=options.FILE)
@options.key_type_option
@options.kms_option
@click.option(
    "--root-key",
    type=options.FILE,
    show_default=f"OLD/{ca_directory.ROOT_KEY}",
    help="Sign with the root's key in this file.",
)
@click.option("--new-root", is_flag=True, help="Make another root, which everybody has to trust again.")
def rollover(
    *, old: Path, new: Path, key_type: str, kms: str | None, root_key: Path | None, new_root: bool
) -> None:
    """Make the CA that takes over from another.

    NEW gets it, and the API keys and the lists of the CA in OLD too.
    """
    options.forbid_together("--root-key", "--new-root")
    hardening.disable_core_dumps_and_ptrace()
    passphrase = options.read_secret(CA_PASSPHRASE)
    certificate, chain = ca_directory.load_chain(options.require_ca(old, "OLD"))
    if not chain:
        raise CommandError(f"{old} holds a CA without a root above it")
    root_key = root_key or old / ca_directory.ROOT_KEY
    if not new_root and not root_key.exists():
        raise CommandError(f"{root_key} is not there: say where it is with --root-key, or --new-root")
    carried, keys = revocation_file.load_lists(old), api_keys.KeyFile(old / KEY_FILE).read()
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
            new, created, passphrase, carried | ({KEY_FILE: api_keys.encode_keys(keys)} if keys else {})
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    say(f"Made a CA in {new}. Serve it in place of {old}: it signs, and both are served.")
    previous = new / ca_directory.PREVIOUS_CERTIFICATES
    say(f"Delete {previous} when the last certificate of the old one has ended.")


@click.command(epilog="Example: certlet revoke www.crt --reason keyCompromise")
@click.argument("certificate", type=click.Path(readable=False), metavar="SERIAL|FILE")
@click.option(
    "--reason",
    type=click.Choice(sorted(revocation.REASONS)),
    metavar="REASON",
    help=f"Give a reason: {', '.join(sorted(revocation.REASONS))}.",
)
@click.option(
    "--audit-log",
    type=options.FILE,
    envvar=AUDIT_LOG,
    show_envvar=True,
    show_default="stderr",
    help="Append to this file, which the server made.",
)
@options.ca_option
def revoke(*, certificate: str, reason: str | None, audit_log: Path | None, ca: Path) -> None:
    """Revoke a certificate.

    GET /ca.crl will list it. SERIAL is its serial number in hexadecimal. The audit log gets your name.
    """
    options.require_ca(ca)
    revoked = _issued_by(ca, Path(certificate)) if Path(certificate).is_file() else None
    try:
        number = revoked.serial_number if revoked else revocation.parse_serial_number(certificate)
    except ValueError as error:
        raise CommandError(f"{error}, nor is there such a file") from error
    now, (signing, above) = datetime.now(UTC).replace(microsecond=0), ca_directory.load_chain(ca)
    if now > min(each.not_valid_after_utc for each in (signing, *above)):  # there would be no CRL at all
        raise CommandError(f"it is {encoding.format_timestamp(now)} by this clock, after the CA's end")
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
    listed = encoding.format_timestamp(now + revocation.WINDOW)
    file = ca / revocation_file.REVOKED
    say(f"Revoked {encoding.format_serial(number)} in {file}; in GET /ca.crl by {listed},")
    say("if that is the file that is served: on AWS, make and deploy the zip again.")
    if revoked and (why := _why_nobody_learns(ca, revoked)):
        say(f"Warning   {why}: who verifies it never learns of it,")
        say(f"          until it ends at {encoding.format_timestamp(revoked.not_valid_after_utc)}.")


def _principal() -> str:
    """Who runs this, as the system knows it: no variable of the environment can say otherwise."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container
        name = ""
    return f"user:{name}:{os.getuid()}"


def _issued_by(ca: Path, path: Path) -> x509.Certificate:
    """The certificate in a file, PEM or DER, which the CA must have issued, or the one before a rollover."""
    data, what = path.read_bytes(), f"{path} is no certificate of the CA in {ca}"
    load = certificate_reader.parse_der if pem.is_der(data) else certificate_reader.parse_pem
    try:
        certificate = load(data)
    except ValueError as error:
        raise CommandError(f"{what}: {error}") from error
    if not any(
        is_issued_by(certificate, each)
        for each in (ca_directory.load_chain(ca)[0], *ca_directory.load_predecessors(ca))
    ):
        raise CommandError(what)
    return certificate


def _why_nobody_learns(ca: Path, certificate: x509.Certificate) -> str:
    """Why no CRL tells who verifies a certificate that it was revoked; '' where one does."""
    if certificate.issuer != ca_directory.load_chain(ca)[0].subject:
        return "the certificate is of the CA before, for which no CRL is signed any more"
    if extension_value(certificate, x509.CRLDistributionPoints) is None:
        return "the certificate names no CRL (revocation: none)"
    return ""


def _kms_public_key(key_id: str) -> CertificatePublicKeyTypes:
    try:
        from service.keystore import kms  # noqa: PLC0415 - boto3 only where it is asked for
    except ImportError as error:
        raise CommandError("--kms needs boto3: pip install boto3") from error
    return kms.load_private_key(key_id).public_key()
