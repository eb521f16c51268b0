"""`certlet new`: a private key, its request, and its certificate, in one go."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import idna
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from service import client, files, secrecy
from service.cli import arguments
from service.cli.arguments import KEY_PASSPHRASE, Commands
from service.cli.terminal import CommandError, say, warn
from service.pki import encoding, keys, names
from service.pki.errors import RejectedIdentifier, quoted
from service.pki.names import Name, NameKind

P12_PASSWORD: Final = "CERTLET_P12_PASSWORD"  # noqa: S105 - the variable's name, not its value

_MAX_COMMON_NAME: Final = 64  # RFC 5280 A.1: ub-common-name
_LIKE_URI: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*://|urn:", re.IGNORECASE)


@dataclass(frozen=True)
class _Targets:
    """The files that are to be made."""

    key: Path
    certificate: Path
    pkcs12: Path | None

    def present(self) -> Iterator[Path]:
        """Those that are there already."""
        for each in (self.key, self.certificate, self.pkcs12):
            if each and os.path.lexists(each):
                yield each


def add_to(commands: Commands) -> None:
    """Add `new`."""
    new = commands.add_parser(
        "new",
        help="make a private key and have its certificate signed",
        epilog=f"The key is encrypted if ${KEY_PASSPHRASE} is set, under what it holds.",
    )
    new.add_argument(
        "names",
        nargs="+",
        type=_name,
        metavar="NAME",
        help="a DNS name, IP address, email address or URI; dns:, ip:, email: or uri: before it decides",
    )
    arguments.take_key(new)
    arguments.take_profile(new, "the default one")
    arguments.take_validity(new)
    new.add_argument(
        "--out",
        type=str,  # a Path forgets a slash at the end
        metavar="PATH",
        help="PATH.key and PATH.crt, or if it is a directory files in it; else named after the first name",
    )
    new.add_argument(
        "--p12", type=Path, metavar="FILE", help=f"PKCS#12 too; its password is asked for, or ${P12_PASSWORD}"
    )
    new.add_argument("--force", action="store_true", help="replace the files that are there")
    arguments.take_service(new)
    new.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> None:
    secrecy.seal()
    targets = _targets(options.out, options.names[0], options.p12)
    if not options.force and (there := next(targets.present(), None)):
        raise CommandError(f"{there} is there already; nothing was changed (--force replaces it)")
    if targets.pkcs12:
        files.verify_writable(targets.pkcs12)
    api_key, passphrase = arguments.api_key(options), arguments.secret(KEY_PASSPHRASE)
    key = keys.generate(options.key)
    if targets.pkcs12 and isinstance(
        key, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
    ):
        raise CommandError("no PKCS#12 can be made of an ML-DSA key: leave --p12 out")
    password = _p12_password() if targets.pkcs12 else b""
    wish = client.Wish(
        request(key, _subject(options.names), [_alternative(options.names)]),
        options.profile,
        options.validity,
        options.not_after,
    )
    with files.atomic_files(overwrite=options.force) as write:
        # Before anything is signed, so that no certificate is without its key for want of room or rights.
        write(targets.key, key_pem(key, passphrase), 0o600)
        signed = client.sign(options.url, api_key, wish)
        certificates = read(signed, key)
        write(targets.certificate, encoding.pem(certificates).encode(), 0o644)
        if targets.pkcs12:
            write(targets.pkcs12, _pkcs12(options.names[0], key, certificates, password), 0o600)
    for note in signed.notes:
        warn(f"note: {note}")
    say(f"Key       {targets.key}")
    say(f"Signed    {targets.certificate}, until {encoding.timestamp(certificates[0].not_valid_after_utc)}")
    if targets.pkcs12:
        say(f"PKCS#12   {targets.pkcs12}")


def _name(text: str) -> Name:
    """One name, of the kind that it looks like, or that is said before it."""
    kind, colon, rest = text.partition(":")
    if not (colon and kind.lower() in set(NameKind)):
        kind, rest = _kind(text), text
    try:
        match NameKind(kind.lower()):
            case NameKind.IP:
                general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(rest))
            case NameKind.EMAIL:
                general = x509.RFC822Name(rest)
            case NameKind.URI:
                general = x509.UniformResourceIdentifier(rest)
            case NameKind.DNS:
                general = x509.DNSName(_a_labels(rest))
        return names.load(general, "")
    except RejectedIdentifier as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except ValueError as error:  # of which idna's own errors are a kind
        raise argparse.ArgumentTypeError(f"{quoted(rest)} is no name of the kind {kind}") from error


def _kind(text: str) -> NameKind:
    if _LIKE_URI.match(text):
        return NameKind.URI
    if "@" in text:
        return NameKind.EMAIL
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(text)
        return NameKind.IP
    return NameKind.DNS


def _a_labels(text: str) -> str:
    """A host's name as certificates hold it: `bücher.example` is `xn--bcher-kva.example` (RFC 5891)."""
    if text.isascii():
        return text
    wildcard = "*." if text.startswith("*.") else ""
    return wildcard + idna.encode(text.removeprefix(wildcard), uts46=True).decode("ascii")


def _subject(asked: Sequence[Name]) -> x509.Name:
    """The first DNS name as the common name, if it is one and fits; else no subject."""
    first = next((each.value for each in asked if each.kind is NameKind.DNS), "")
    fits = 0 < len(first) <= _MAX_COMMON_NAME
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first)] if fits else [])


def _alternative(asked: Sequence[Name]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([each.general_name() for each in dict.fromkeys(asked)])


def _targets(out: str | None, first: Name, p12: Path | None) -> _Targets:
    if out and not (out.endswith("/") or Path(out).is_dir()):
        stem = Path(out)
    else:
        stem = Path(out or "") / re.sub("[^A-Za-z0-9._@-]", "_", first.value.replace("*", "_wildcard"))
    if not stem.name.strip("."):
        raise CommandError(f"{out} names no file")
    # A stem has dots of its own, and with_suffix would cut at the last.
    key, certificate = (stem.with_name(stem.name + suffix) for suffix in (".key", ".crt"))
    if p12 in (key, certificate):
        raise CommandError(f"{p12} is to be two files at once")
    return _Targets(key, certificate, p12)


def request(
    key: CertificateIssuerPrivateKeyTypes, subject: x509.Name, extensions: Sequence[x509.ExtensionType]
) -> str:
    """A certification request, PEM, signed with its key.

    Raises:
        BadPublicKey: the key is of a kind that is not certified.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(key, keys.signature_hash(key.public_key()))
    return made.public_bytes(Encoding.PEM).decode("ascii")


def read(signed: client.Signed, key: CertificateIssuerPrivateKeyTypes) -> list[x509.Certificate]:
    """The certificate that came back, its chain after it.

    Raises:
        CommandError: it cannot be read, or is not for the key.
    """
    try:
        found = x509.load_pem_x509_certificates((signed.crt_pem + signed.chain_pem).encode())
        is_ours = found[0].public_key() == key.public_key()
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError("the certificate that the service sent cannot be read") from error
    if not is_ours:
        raise CommandError("the certificate that the service sent is for another key")
    return found


def key_pem(key: CertificateIssuerPrivateKeyTypes, passphrase: bytes | None) -> bytes:
    """A private key, PKCS#8 in PEM, encrypted if there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _pkcs12(
    name: Name,
    key: CertificateIssuerPrivateKeyTypes,
    certificates: Sequence[x509.Certificate],
    password: bytes,
) -> bytes:
    return pkcs12.serialize_key_and_certificates(
        name.value.encode(),
        cast("pkcs12.PKCS12PrivateKeyTypes", key),
        certificates[0],
        list(certificates[1:]),
        BestAvailableEncryption(password),
    )


def _p12_password() -> bytes:
    if given := arguments.secret(P12_PASSWORD):
        return given
    if not sys.stdin.isatty():
        raise CommandError(f"no terminal to ask for the PKCS#12's password: set {P12_PASSWORD}")
    typed = getpass.getpass("Password of the PKCS#12: ")
    if not typed or getpass.getpass("The same again: ") != typed:
        raise CommandError("the password is empty, or the two are not the same")
    return typed.encode()
