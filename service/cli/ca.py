"""`certlet init`, `rollover`, `rotate-serial-key` and `sign-ca-status`: create a CA, or a part of it."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service import hardening, keystore
from service.cli import input_files, inspection, options
from service.cli.input_files import FILE
from service.cli.options import KEY_FILE
from service.cli.terminal import Command, CommandError, json_option, report, warn
from service.gateway import api_keys
from service.keystore import acme_principals, ca_directory, revocation_file
from service.pki import ca_status, certificate_reader, encoding, hierarchy, keys, ocsp
from service.pki.ca_status import CAStatus
from service.pki.errors import CAError, CAUnavailable
from service.pki.hierarchy import SigningCA
from service.settings import CA_PASSPHRASE, KeySource, Settings, parse_key_location, parse_public_url

NO_KEY: Final = "none"

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def _parse_network(text: str) -> _Network:
    """Parse a network in CIDR notation; ValueError if it is malformed, or has bits of a host."""
    try:
        network = ipaddress.ip_interface(text).network
    except ValueError:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8 or fd00::/8") from None
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is an address in a network: pass {network}") from None


@click.command(cls=Command, epilog="Example: certlet init ca --permit-dns example.com")
@click.argument("directory", type=FILE, metavar="DIR")
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
    type=_parse_network,
    help="Restrict the CA to IP addresses in this network (repeatable).",
)
@click.option(
    "--url",
    metavar="URL",
    type=parse_public_url,
    help="Name this URL of the service in certificates, for CRL, OCSP and the issuer's certificate: "
    "http://ca.example.com",
)
@options.kms_option
@json_option
def init(
    *,
    directory: Path,
    key_type: str,
    name: str,
    permit_dns: tuple[str, ...],
    permit_ip: tuple[_Network, ...],
    url: str | None,
    kms: str | None,
) -> None:
    """Create a root CA and a signing CA.

    Both are written to DIR. An existing CA is never overwritten. $CERTLET_CA_PASSPHRASE encrypts the keys.
    """
    hardening.disable_core_dumps_and_ptrace()
    passphrase = input_files.read_new_secret(CA_PASSPHRASE)
    try:
        created = hierarchy.create_hierarchy(
            name,
            secrets.token_hex(hierarchy.SUFFIX_BYTES),
            key_type,
            datetime.now(UTC),
            [*permit_dns, *permit_ip],
            SigningCA(_kms_public_key(kms) if kms else None, url or ""),
        )
        carried = {ca_directory.STATUS_URL: f"{url}\n".encode()} if url else {}
        ca_directory.save_hierarchy(directory, created, passphrase, carried)
    except ValueError as error:
        raise CommandError(str(error)) from error
    report(
        _facts(directory, created),
        f"Created a CA in {directory}. Move {directory / ca_directory.ROOT_KEY} to a safe place:",
        "it is not needed to issue certificates.",
        *_backup_list(directory, kms, is_encrypted=passphrase is not None),
    )


def _facts(directory: Path, created: hierarchy.Hierarchy) -> dict[str, object]:
    """Describe a new CA in JSON."""
    certificates = {"signing_ca": created.signing, "root": created.root}
    facts = {name: inspection.certificate_facts(certificate) for name, certificate in certificates.items()}
    return {"directory": str(directory), **facts}


def _backup_list(directory: Path, kms: str | None, *, is_encrypted: bool) -> Iterator[str]:
    """Yield lines about what a backup of a CA must contain."""
    yield "Back up:"
    yield f"  {directory / ca_directory.ROOT_KEY}  (offline; it signs the next CA)"
    if kms:
        yield f"  KMS key {kms}  (it cannot be copied: prevent its deletion)"
    else:
        yield f"  {directory / ca_directory.SIGNING_KEY}  (it signs certificates)"
    yield f"  {directory / ca_directory.SERIAL_KEY}  (it recognises the CA's serial numbers)"
    changing = (KEY_FILE, revocation_file.REVOKED, ca_directory.ACME_KEY, acme_principals.ACME_PRINCIPALS)
    yield f"  {directory}  (the rest, often: {', '.join(changing)} change or appear later)"
    if is_encrypted:
        yield f"  ${CA_PASSPHRASE}  (it decrypts the keys, and is in no file)"
    yield "  the files that certlet serve uses: --ledger, --audit-log, --profiles"


@click.command(
    cls=Command, epilog="Example: certlet rollover ca ca-2027 --root-key /somewhere/safe/root-ca.key"
)
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@options.key_type_option
@options.kms_option
@click.option(
    "--root-key",
    type=FILE,
    show_default=f"OLD/{ca_directory.ROOT_KEY}",
    help="Use this file as the root's key.",
)
@click.option("--new-root", is_flag=True, help="Create a new root, which every client must be made to trust.")
@json_option
@click.option(
    "--old-key",
    metavar="KEY",
    show_default=f"file:OLD/{ca_directory.SIGNING_KEY}",
    help="Find the old CA's key at file:PATH, secretsmanager:NAME or kms:KEY-ID; 'none' if it is lost.",
)
def rollover(
    *,
    old: Path,
    new: Path,
    key_type: str,
    kms: str | None,
    root_key: Path | None,
    new_root: bool,
    old_key: str | None,
) -> None:
    """Create the successor of a CA.

    OLD is the existing CA's directory, and NEW the successor's. API keys, ACME's key and principals,
    revocations, denied keys and the keys of serial numbers are copied. The old CA's key is copied too: it
    still signs its CRL and OCSP responses, but no certificates.
    """
    options.forbid_together("--root-key", "--new-root")
    hardening.disable_core_dumps_and_ptrace()
    passphrase = input_files.read_new_secret(CA_PASSPHRASE)
    certificate, chain = ca_directory.load_chain(options.require_ca(old, "OLD"))
    if not chain:
        raise CommandError(f"the CA in {old} has no root: only a CA under a root has a successor")
    root_key = root_key or old / ca_directory.ROOT_KEY
    if not new_root and not root_key.exists():
        raise CommandError(f"{root_key} does not exist: pass --root-key FILE or --new-root")
    predecessors = ca_directory.load_predecessors(old)
    statuses = _load_statuses(old, [certificate, *chain, *predecessors])
    carried, carried_keys = revocation_file.load_lists(old), api_keys.KeyFile(old / KEY_FILE).read()
    carried |= acme_principals.load_files(old)
    if status_url := ca_directory.load_status_url(old):
        carried[ca_directory.STATUS_URL] = f"{status_url}\n".encode()
    previous_keys = _load_previous_keys(old, predecessors, passphrase)
    if old_key != NO_KEY:
        name = ca_directory.previous_key_name(certificate)
        previous_keys[name] = _load_old_key(old, certificate, old_key, passphrase)
    try:
        created = hierarchy.create_successor(
            hierarchy.Predecessor(certificate, chain, predecessors, statuses),
            None if new_root else input_files.load_private_key(root_key, CA_PASSPHRASE),
            secrets.token_hex(hierarchy.SUFFIX_BYTES),
            key_type,
            datetime.now(UTC),
            SigningCA(_kms_public_key(kms) if kms else None, status_url),
        )
        ca_directory.save_hierarchy(
            new,
            created,
            passphrase,
            carried
            | previous_keys
            | ({KEY_FILE: api_keys.encode_keys(carried_keys)} if carried_keys else {}),
            ca_directory.load_serial_keys(old),
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    missing = [
        f"Warning   no key of {ca.subject.rfc4514_string()}, so its certificates have no CRL and no "
        f"OCSP responses, until {encoding.format_timestamp(ca.not_valid_after_utc)} at the latest"
        for ca in certificate_reader.omit_superiors(created.predecessors)
        if ca_directory.previous_key_name(ca) not in previous_keys
    ]
    names = (ca_directory.PREVIOUS_CERTIFICATES, *previous_keys)
    report(
        _facts(new, created),
        f"Created a CA in {new}. Serve it instead of {old}: it signs, and both chains are served.",
        *missing,
        f"When all certificates of the old CA have expired, delete {', '.join(names)} in {new}.",
    )


def _load_old_key(
    directory: Path, certificate: x509.Certificate, location: str | None, passphrase: bytes | None
) -> bytes:
    """Load the key of the CA that is replaced: the content of its file in the successor's directory.

    Raises:
        CommandError: the key is not available, or is not that of the certificate.
    """
    path = str((directory / ca_directory.SIGNING_KEY).absolute())
    try:
        source, name = parse_key_location(location or f"file:{path}")
        if source is KeySource.FILE:
            name = str(Path(name).absolute())
        key = keystore.load_private_key(Settings(directory, source, name, ca_passphrase=passphrase))
    except ImportError as error:
        raise CommandError(f"--old-key {location} requires boto3: run pip install boto3") from error
    except (CAError, ValueError) as error:
        detail = _describe(error) if isinstance(error, CAError) else f"--old-key: {error}"
        raise CommandError(
            f"{detail}: pass --old-key KEY, or --old-key {NO_KEY} to end the old CA's CRL and OCSP responses"
        ) from error
    if key.public_key() != certificate.public_key():
        raise CommandError(f"{location or path} is not the key of the CA in {directory}: pass --old-key KEY")
    return keys.encode_private_key(key, passphrase) if source is KeySource.FILE else f"{location}\n".encode()


def _load_previous_keys(
    directory: Path, predecessors: Sequence[x509.Certificate], passphrase: bytes | None
) -> dict[str, bytes]:
    """Load the keys of CAs from before an earlier rollover that have not ended: name -> content."""
    result = {}
    for certificate in predecessors:
        path = directory / ca_directory.previous_key_name(certificate)
        if os.path.lexists(path) and certificate.not_valid_after_utc > datetime.now(UTC):
            for problem in keystore.find_key_problems(path, certificate, passphrase):
                raise CommandError(f"{problem}; to leave this key out, delete {path}")
            result[path.name] = revocation_file.read_file(path)
    return result


@click.command(cls=Command, epilog="Example: certlet rotate-serial-key --ca /var/lib/certlet/ca")
@options.ca_option
@json_option
def rotate_serial_key(*, ca: Path) -> None:
    """Add a new key for serial numbers.

    It creates the serial numbers from now on. The earlier keys still recognise theirs.
    """
    count = ca_directory.add_serial_key(options.require_ca(ca))
    path = ca / ca_directory.SERIAL_KEY
    report(
        {"file": str(path), "keys": count},
        f"Added a key to {path}. Back it up: it recognises the serial numbers of the CA.",
    )


@click.command(cls=Command, epilog="Example: certlet sign-ca-status --root-key /somewhere/safe/root-ca.key")
@options.ca_option
@click.option(
    "--root-key",
    type=FILE,
    show_default=f"DIR/{ca_directory.ROOT_KEY}",
    help="Use this file as the root's key.",
)
@click.option("--revoke", type=FILE, help="Revoke this certificate of the signing CA, or of an old one.")
@click.option(
    "--reason",
    type=click.Choice(sorted(ca_status.REASONS)),
    metavar="REASON",
    help=f"Record this reason: {', '.join(sorted(ca_status.REASONS))}.",
)
@json_option
def sign_ca_status(*, ca: Path, root_key: Path | None, revoke: Path | None, reason: str | None) -> None:
    """Sign the OCSP responses about the signing CA again.

    They are valid for a year. $CERTLET_CA_PASSPHRASE decrypts the root's key.
    """
    if reason and not revoke:
        raise click.UsageError("--reason requires --revoke")
    hardening.disable_core_dumps_and_ptrace()
    certificates = ca_directory.load_ca_certificates(options.require_ca(ca))
    revoked = None
    if revoke:
        revoked = ca_directory.load_certificates(revoke)[0], ca_status.REASONS[reason] if reason else None
        if revoked[0] not in certificates:
            raise CommandError(f"{revoke} is not a CA certificate in {ca}")
    root_key = root_key or ca / ca_directory.ROOT_KEY
    if not root_key.exists():
        raise CommandError(f"{root_key} does not exist: pass --root-key FILE")
    _load_statuses(ca, certificates)
    key = input_files.load_private_key(root_key, CA_PASSPHRASE)
    signed = ca_directory.sign_statuses(ca, key, datetime.now(UTC), revoked)
    path = ca / ca_directory.CA_STATUS
    responses = [
        {
            "subject": entry.certificate.subject.rfc4514_string(),
            "status": entry.status.status.name.lower(),
            "next_update": encoding.format_timestamp(entry.next_update),
        }
        for entry in signed[:: len(ocsp.HASHES)]  # the responses about a certificate are the same
    ]
    report(
        {"file": str(path), "responses": responses},
        *["{subject}: {status} until {next_update}".format_map(response) for response in responses],
        f"Signed {path}. A running server uses it at once.",
    )


def _load_statuses(ca: Path, certificates: Sequence[x509.Certificate]) -> tuple[CAStatus, ...]:
    """Load the OCSP responses about CA certificates, and warn about those that are lost."""
    statuses, problems = ca_directory.load_statuses(ca, certificates)
    for problem in problems:
        warn(
            f"warning: {ca / ca_directory.CA_STATUS}: {problem}; if it revoked a certificate, pass it to "
            "certlet sign-ca-status --revoke"
        )
    return statuses


def _kms_public_key(key_id: str) -> CertificatePublicKeyTypes:
    try:
        from service.keystore import kms  # noqa: PLC0415 - boto3 is optional
    except ImportError as error:
        raise CommandError("--kms requires boto3: run pip install boto3") from error
    try:
        return kms.load_private_key(key_id).public_key()
    except CAError as error:
        raise CommandError(f"--kms {key_id}: {_describe(error)}") from error


def _describe(error: CAError) -> str:
    """Describe an error of a key, with what AWS said."""
    reason = f": {error.__cause__}" if isinstance(error, CAUnavailable) and error.__cause__ else ""
    return f"{error.detail}{reason}".removesuffix(".")
