"""`certlet new`: create a private key and get a certificate for it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import click
import idna
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from service import atomic_write, client, hardening
from service.cli import input_files, inspection, options
from service.cli.input_files import FILE, KEY_PASSPHRASE
from service.cli.terminal import Command, CommandError, json_option, note, prompt_secret, report, warn
from service.pki import certificate_reader, encoding, keys
from service.pki.errors import RejectedIdentifier, describe_error, quote
from service.pki.names import Identifier, IdentifierKind, parse_general_name

P12_PASSWORD: Final = "CERTLET_P12_PASSWORD"  # noqa: S105 - the variable's name, not its value

_MAX_COMMON_NAME: Final = 64  # RFC 5280 A.1: ub-common-name
_NUMBERS: Final = re.compile(r"[0-9]+(\.[0-9]+)+")  # such as 300.1.1.1, which is not a DNS name either
_SUFFIXES: Final = (".crt", ".key", ".pem")
_URI_PREFIX: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*://|urn:", re.IGNORECASE)


def _parse_name(text: str) -> Identifier:
    """Parse a name; its kind is a prefix such as `dns:`, or is guessed."""
    kind, colon, rest = text.partition(":")
    if not (colon and kind.lower() in set(IdentifierKind)):
        kind, rest = _guess_kind(text), text
    try:
        match IdentifierKind(kind.lower()):
            case IdentifierKind.IP:
                general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(rest))
            case IdentifierKind.EMAIL:
                general = x509.RFC822Name(rest)
            case IdentifierKind.URI:
                general = x509.UniformResourceIdentifier(rest)
            case IdentifierKind.DNS:
                general = x509.DNSName(_encode_idna(rest))
        return parse_general_name(general, "")
    except RejectedIdentifier as error:
        raise ValueError(str(error)) from error
    except ValueError as error:  # includes idna.IDNAError
        raise ValueError(f"{quote(rest)} is not a valid name of the kind {kind}") from error


def _guess_kind(text: str) -> IdentifierKind:
    if _URI_PREFIX.match(text):
        return IdentifierKind.URI
    if "@" in text:
        return IdentifierKind.EMAIL
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(text)
        return IdentifierKind.IP
    return IdentifierKind.IP if _NUMBERS.fullmatch(text) else IdentifierKind.DNS


def _encode_idna(text: str) -> str:
    """Encode a host name for a certificate: `bücher.example` to `xn--bcher-kva.example` (RFC 5891)."""
    if text.isascii():
        return text
    wildcard = "*." if text.startswith("*.") else ""
    return wildcard + idna.encode(text.removeprefix(wildcard), uts46=True).decode("ascii")


@click.command(
    cls=Command, uses_service=True, epilog="Example: certlet new www.example.com 192.0.2.1 --p12 www.p12"
)
@click.argument("names", nargs=-1, required=True, type=_parse_name, metavar="NAME...")
@options.key_type_option
@options.profile_option("chosen by the service")
@options.validity_options
@click.option(
    "--out",
    metavar="PATH",  # not a Path, which would drop a trailing slash
    show_default="the first name",
    help="Write PATH.key and PATH.crt; if PATH is a directory, write to it.",
)
@click.option(
    "--p12",
    type=FILE,
    help=f"Also write a PKCS#12 file. Its password is ${P12_PASSWORD}, or prompted for.",
)
@click.option(
    "--p12-legacy",
    is_flag=True,
    help="Encrypt --p12 with 3DES and SHA-1, which macOS and older Windows read, instead of AES and SHA-256.",
)
@options.force_option
@json_option
@options.service_options
def new(
    *,
    names: tuple[Identifier, ...],
    key_type: str,
    out: str | None,
    p12: Path | None,
    p12_legacy: bool,
    force: bool,
    service: client.Service,
    credentials: Callable[[], client.Credentials],
    **members: str | None,
) -> None:
    """Create a private key and get a certificate for it.

    NAME is a DNS name, IP address, email address or URI; a prefix dns:, ip:, email: or uri: sets its kind.
    If $CERTLET_KEY_PASSPHRASE is set, the key is encrypted with that passphrase.
    """
    options.forbid_together("--validity", "--not-after")
    if p12_legacy and not p12:
        raise click.UsageError("--p12-legacy requires --p12")
    hardening.disable_core_dumps_and_ptrace()
    stem = _stem(out, names[0])
    key_path, path = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.crt")
    if p12 and os.path.realpath(p12) in map(os.path.realpath, (key_path, path)):
        raise CommandError(f"--p12 {p12} is the same file as the key or certificate")
    existing = next((file for file in (key_path, path, p12) if file and os.path.lexists(file)), None)
    if existing and not force:
        raise CommandError(f"{existing} exists; not overwritten (--force overwrites it)")
    for file in (key_path, path, p12):
        if file:
            atomic_write.verify_writable(file)
    caller, passphrase = credentials(), input_files.read_new_secret(KEY_PASSPHRASE)
    key = keys.generate_private_key(key_type)
    if p12 and isinstance(key, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey):
        raise CommandError("PKCS#12 does not support ML-DSA keys: omit --p12 or choose another --key-type")
    password = _p12_password() if p12 else b""
    if p12:
        _verify_pkcs12(names[0].value, key, password, legacy=p12_legacy)
    san = x509.SubjectAlternativeName([name.general_name() for name in dict.fromkeys(names)])
    request = client.SignRequest(create_csr(key, _subject(names), [san]), **members)
    with atomic_write.locked_directory(path.parent), atomic_write.atomic_files(overwrite=force) as write:
        # Write the key before signing: the disk may be full. A certificate without its key would be lost.
        write(key_path, keys.encode_private_key(key, passphrase), 0o600)
        signed = client.sign(service, caller, request)
        certificates = parse_signed(signed, key)
        write(path, encoding.encode_pem(certificates).encode(), 0o644)
        if p12:
            write(p12, _encode_pkcs12(names[0].value, key, certificates, password, legacy=p12_legacy), 0o600)
    for text in signed.notes:
        note(text)
    files = {"key": key_path, "certificate": path} | ({"p12": p12} if p12 else {})
    facts = {name: str(file) for name, file in files.items()}
    end = encoding.format_timestamp(certificates[0].not_valid_after_utc)
    lines = [f"Key       {key_path}", f"Signed    {path}, valid until {end}"]
    report(
        {**facts, **inspection.certificate_facts(certificates[0]), "notes": signed.notes},
        *lines,
        *([f"PKCS#12   {p12}"] if p12 else []),
    )


def _subject(names: Sequence[Identifier]) -> x509.Name:
    """Return a subject whose common name is the first DNS name; empty if there is none or it is too long."""
    first = next((name.value for name in names if name.kind is IdentifierKind.DNS), "")
    fits = 0 < len(first) <= _MAX_COMMON_NAME
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first)] if fits else [])


def _stem(out: str | None, first: Identifier) -> Path:
    """Return the path of the files without their suffixes."""
    if out and not (out.endswith("/") or Path(out).is_dir()):
        stem = Path(out)
        if stem.suffix in _SUFFIXES:
            base = stem.with_suffix("")
            raise click.UsageError(
                f"--out is a path without {stem.suffix}: --out {base} writes {base}.key and {base}.crt"
            )
    else:
        stem = Path(out or "") / re.sub("[^A-Za-z0-9._@-]", "_", first.value.replace("*", "_wildcard"))
    if not stem.name.strip("."):
        raise CommandError(f"--out {out} is not a file name")
    return stem


def create_csr(
    key: CertificateIssuerPrivateKeyTypes, subject: x509.Name, extensions: Sequence[x509.ExtensionType]
) -> str:
    """Create a CSR (PEM) and sign it; BadPublicKey if the kind of key is not supported."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    csr = builder.sign(key, keys.signature_hash(key.public_key()))
    return csr.public_bytes(Encoding.PEM).decode("ascii")


def parse_signed(signed: client.Signed, key: CertificateIssuerPrivateKeyTypes) -> list[x509.Certificate]:
    """Parse the certificate and its chain from the service, and warn if it is not valid by this clock.

    Raises:
        CommandError: the certificate is malformed, or for another key.
    """
    try:
        certificates = certificate_reader.parse_pem_chain(signed.pem.encode())
        matches = certificates[0].public_key() == key.public_key()
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError("the service returned a malformed certificate") from error
    if not matches:
        raise CommandError("the service returned a certificate for another key")
    if problem := inspection.date_problem(certificates[0], datetime.now(UTC)):
        hint = "certlet doctor compares the clock of this machine with the service's"
        warn(f"warning: new certificate: {problem}: {hint}")
    return certificates


def _verify_pkcs12(
    name: str, key: CertificateIssuerPrivateKeyTypes, password: bytes, *, legacy: bool
) -> None:
    """Encode PKCS#12 without a certificate, before one is issued; CommandError if that fails."""
    try:
        _encode_pkcs12(name, key, (), password, legacy=legacy)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CommandError(f"PKCS#12 cannot be encrypted: {describe_error(error)}") from error


def _encode_pkcs12(
    name: str,
    key: CertificateIssuerPrivateKeyTypes,
    certificates: Sequence[x509.Certificate],
    password: bytes,
    *,
    legacy: bool,
) -> bytes:
    """Encode a key and its chain as PKCS#12 (RFC 7292), encrypted by PBES2 or, for old programs, by PBES1."""
    encryption: KeySerializationEncryption = BestAvailableEncryption(password)
    if legacy:
        builder = PrivateFormat.PKCS12.encryption_builder()
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        encryption = builder.hmac_hash(hashes.SHA1()).build(password)  # noqa: S303 - what such programs verify  # nosec B303
    leaf = certificates[0] if certificates else None
    p12_key = cast("pkcs12.PKCS12PrivateKeyTypes", key)
    return pkcs12.serialize_key_and_certificates(name.encode(), p12_key, leaf, certificates[1:], encryption)


def _p12_password() -> bytes:
    if password := input_files.read_new_secret(P12_PASSWORD):
        return password
    typed = prompt_secret("PKCS#12 password", P12_PASSWORD, is_repeated=True)
    input_files.warn_if_weak("the password", typed)
    return typed.encode()
