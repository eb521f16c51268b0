"""`certlet new`: a private key, its request, and its certificate, in one go."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import click
import idna
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from service import atomic_write, client, hardening
from service.cli import options
from service.cli.options import KEY_PASSPHRASE
from service.cli.terminal import CommandError, say, warn
from service.pki import certificate_reader, encoding, keys
from service.pki.errors import RejectedIdentifier, quote
from service.pki.names import Identifier, IdentifierKind, parse_general_name

P12_PASSWORD: Final = "CERTLET_P12_PASSWORD"  # noqa: S105 - the variable's name, not its value

_MAX_COMMON_NAME: Final = 64  # RFC 5280 A.1: ub-common-name
_LIKE_URI: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*://|urn:", re.IGNORECASE)


def _parse_name(text: str) -> Identifier:
    """One name, of the kind that it looks like, or that the text says before it."""
    kind, colon, rest = text.partition(":")
    if not (colon and kind.lower() in set(IdentifierKind)):
        kind, rest = _kind(text), text
    try:
        match IdentifierKind(kind.lower()):
            case IdentifierKind.IP:
                general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(rest))
            case IdentifierKind.EMAIL:
                general = x509.RFC822Name(rest)
            case IdentifierKind.URI:
                general = x509.UniformResourceIdentifier(rest)
            case IdentifierKind.DNS:
                general = x509.DNSName(_a_labels(rest))
        return parse_general_name(general, "")
    except RejectedIdentifier as error:
        raise ValueError(str(error)) from error
    except ValueError as error:  # of which idna's own errors are a kind
        raise ValueError(f"{quote(rest)} is no name of the kind {kind}") from error


def _kind(text: str) -> IdentifierKind:
    if _LIKE_URI.match(text):
        return IdentifierKind.URI
    if "@" in text:
        return IdentifierKind.EMAIL
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(text)
        return IdentifierKind.IP
    return IdentifierKind.DNS


def _a_labels(text: str) -> str:
    """A host's name as certificates hold it: `bücher.example` is `xn--bcher-kva.example` (RFC 5891)."""
    if text.isascii():
        return text
    wildcard = "*." if text.startswith("*.") else ""
    return wildcard + idna.encode(text.removeprefix(wildcard), uts46=True).decode("ascii")


@click.command(epilog="Example: certlet new www.example.com 192.0.2.1 --p12 www.p12")
@click.argument("names", nargs=-1, required=True, type=_parse_name, metavar="NAME...")
@options.key_type_option
@options.profile_option("the default one")
@options.validity_options
@click.option(
    "--out",
    metavar="PATH",  # a Path would lose a slash at the end
    show_default="the first name",
    help="Write PATH.key and PATH.crt, or files in PATH if it is a directory.",
)
@click.option(
    "--p12", type=options.FILE, help=f"Write a PKCS#12 too. Its password is ${P12_PASSWORD}, or is asked for."
)
@options.force_option
@options.service_options
def new(
    *,
    names: tuple[Identifier, ...],
    key_type: str,
    out: str | None,
    p12: Path | None,
    force: bool,
    url: str,
    api_key: str | None,
    **members: str | None,
) -> None:
    """Make a private key and have its certificate signed.

    NAME is a DNS name, IP address, email address or URI; dns:, ip:, email: or uri: before it decides which.
    The key is encrypted if $CERTLET_KEY_PASSPHRASE is set.
    """
    options.forbid_together("--validity", "--not-after")
    hardening.disable_core_dumps_and_ptrace()
    stem = _stem(out, names[0])
    key_path, path = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.crt")
    if p12 and os.path.realpath(p12) in map(os.path.realpath, (key_path, path)):
        raise CommandError(f"{p12} is to be two files at once")
    existing = next((file for file in (key_path, path, p12) if file and os.path.lexists(file)), None)
    if existing and not force:
        raise CommandError(f"{existing} is there already; nothing was changed (--force replaces it)")
    for file in (key_path, path, p12):
        if file:
            atomic_write.verify_writable(file)
    api_key, passphrase = options.require_api_key(api_key), options.read_secret(KEY_PASSPHRASE)
    key = keys.generate_private_key(key_type)
    if p12 and isinstance(key, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey):
        raise CommandError("no PKCS#12 can be made of an ML-DSA key: leave --p12 out")
    password = _p12_password() if p12 else b""
    alternative = x509.SubjectAlternativeName([name.general_name() for name in dict.fromkeys(names)])
    csr = request(key, _subject(names), [alternative])
    sign_request = client.SignRequest(csr, **members)
    with atomic_write.locked_directory(path.parent), atomic_write.atomic_files(overwrite=force) as write:
        # Before anything is signed, so that no certificate is without its key for want of room or rights.
        write(key_path, keys.encode_private_key(key, passphrase), 0o600)
        signed = client.sign(url, api_key, sign_request)
        certificates = read(signed, key)
        write(path, encoding.encode_pem(certificates).encode(), 0o644)
        if p12:
            p12_key = cast("pkcs12.PKCS12PrivateKeyTypes", key)
            name, encryption = names[0].value.encode(), BestAvailableEncryption(password)
            leaf, *chain = certificates
            write(p12, pkcs12.serialize_key_and_certificates(name, p12_key, leaf, chain, encryption), 0o600)
    for note in signed.notes:
        warn(f"note: {note}")
    say(f"Key       {key_path}")
    say(f"Signed    {path}, until {encoding.format_timestamp(certificates[0].not_valid_after_utc)}")
    if p12:
        say(f"PKCS#12   {p12}")


def _subject(names: Sequence[Identifier]) -> x509.Name:
    """The first DNS name as the common name, if it is one and fits; else no subject."""
    first = next((name.value for name in names if name.kind is IdentifierKind.DNS), "")
    fits = 0 < len(first) <= _MAX_COMMON_NAME
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first)] if fits else [])


def _stem(out: str | None, first: Identifier) -> Path:
    """The path of the files without their suffixes."""
    if out and not (out.endswith("/") or Path(out).is_dir()):
        stem = Path(out)
    else:
        stem = Path(out or "") / re.sub("[^A-Za-z0-9._@-]", "_", first.value.replace("*", "_wildcard"))
    if not stem.name.strip("."):
        raise CommandError(f"{out} names no file")
    return stem


def request(
    key: CertificateIssuerPrivateKeyTypes, subject: x509.Name, extensions: Sequence[x509.ExtensionType]
) -> str:
    """A CSR, PEM, signed with its key; BadPublicKey if that is of a kind that is not certified."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    csr = builder.sign(key, keys.signature_hash(key.public_key()))
    return csr.public_bytes(Encoding.PEM).decode("ascii")


def read(signed: client.Signed, key: CertificateIssuerPrivateKeyTypes) -> list[x509.Certificate]:
    """The certificate that came back, its chain after it; CommandError if it is not for the key."""
    try:
        certificates = certificate_reader.parse_pem_chain(signed.pem.encode())
        is_ours = certificates[0].public_key() == key.public_key()
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError("the certificate that the service sent cannot be read") from error
    if not is_ours:
        raise CommandError("the certificate that the service sent is for another key")
    return certificates


def _p12_password() -> bytes:
    if password := options.read_secret(P12_PASSWORD):
        return password
    if not sys.stdin.isatty():
        raise CommandError(f"no terminal to ask for the PKCS#12's password: set {P12_PASSWORD}")
    typed = click.prompt("Password of the PKCS#12", hide_input=True, confirmation_prompt=True, err=True)
    return str(typed).encode()
