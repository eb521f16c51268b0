"""`certlet renew`: signs again what ends soon, for cron and systemd timers."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from service import client, files, secrecy
from service.cli import arguments, making
from service.cli.arguments import API_KEY, KEY_PASSPHRASE, Commands
from service.cli.terminal import ArgumentsError, CommandError, say, warn
from service.pki import csr, encoding, keys
from service.pki.errors import IssuanceError

RENEWED: Final = "CERTLET_RENEWED"

_USUAL: Final = timedelta(days=30)


@dataclass(frozen=True)
class _Held:
    """A certificate in a file, and its key.

    Attributes:
        path: the file itself, of which a symbolic link may be the name.
        key_path: the key's, likewise.
        certificate: the first in the file.
        key: its private key.
    """

    path: Path
    key_path: Path
    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


def add_to(commands: Commands) -> None:
    """Add `renew`."""
    renew = commands.add_parser(
        "renew",
        help="have certificates that end soon signed again",
        epilog=f"${KEY_PASSPHRASE} opens a key that is encrypted, and encrypts one that is made. "
        "Exit status: 0 if all that was due was renewed, be it nothing; 1 if any was not, or the hook "
        "failed. One that fails is told, stays as it was, and stops no other.",
    )
    renew.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a certificate, PEM, its key beside it as .key"
    )
    renew.add_argument(
        "--within",
        type=arguments.span,
        metavar="30d",
        help="what ends within so many h, d or w; else 30d, or the last third of a shorter life",
    )
    renew.add_argument(
        "--hook",
        type=_hook,
        metavar="COMMAND",
        help=f"run once if anything was renewed, without a shell; ${RENEWED} has the files, a line each",
    )
    renew.add_argument("--key-file", type=Path, metavar="FILE", help="the key, for one certificate")
    renew.add_argument("--new-key", action="store_true", help="make another key of the same kind")
    arguments.take_profile(renew, "the one that its policy names")
    arguments.take_service(renew)
    renew.set_defaults(run=_renew)


def _renew(options: argparse.Namespace) -> int:
    secrecy.seal()
    if options.key_file and len(options.files) > 1:
        raise ArgumentsError("--key-file is for one certificate; several have theirs beside them")
    offers = functools.cache(lambda: client.offers(options.url, arguments.api_key(options)))
    revoked = functools.cache(lambda: _revoked(options.url))
    renewed, failed = [], False
    for path in dict.fromkeys(options.files):
        try:
            certificate = _certificate(path)
            if not _is_due(certificate, options.within, datetime.now(UTC)):
                continue
            held = _held(path, options.key_file or path.with_suffix(".key"), certificate)
            _verify(certificate, revoked())
            end = _sign_again(held, options, None if options.profile else offers())
            renewed.append(os.path.abspath(path))  # noqa: PTH100 - a link stays one
            say(f"Renewed   {path}, until {encoding.timestamp(end)}")
        except OSError as error:
            other = f"{error.filename}: " if error.filename not in (None, str(path)) else ""
            warn(f"certlet: {path}: {other}{error.strerror}")
            failed = True
        except (CommandError, client.ClientError, IssuanceError) as error:
            warn(f"certlet: {path}: {error}")
            failed = True
    if renewed and options.hook:
        failed |= not _run(options.hook, renewed)
    return int(failed)


def _certificate(path: Path) -> x509.Certificate:
    data = path.read_bytes()
    if csr.holds_private_key(data):
        raise CommandError("it holds a private key too, which would be lost: give them files of their own")
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise CommandError("it holds no certificate in PEM") from error


def _is_due(certificate: x509.Certificate, within: timedelta | None, now: datetime) -> bool:
    end = certificate.not_valid_after_utc
    if within is None:
        within = min(_USUAL, (end - certificate.not_valid_before_utc) / 3)
    return end - now <= within


def _revoked(url: str) -> frozenset[int]:
    """The serial numbers that the service's CRL lists; without it nothing is renewed, as with EST."""
    try:
        return frozenset(each.serial_number for each in x509.load_der_x509_crl(client.crl(url)))
    except ValueError as error:
        raise CommandError(f"what answers at {url}/ca.crl is no list of what was revoked") from error


def _verify(certificate: x509.Certificate, revoked: frozenset[int]) -> None:
    if certificate.serial_number in revoked:
        raise CommandError("it was revoked: make another key and certificate with certlet new")


def _held(path: Path, key_path: Path, certificate: x509.Certificate) -> _Held:
    key = arguments.private_key(key_path)
    if key.public_key() != certificate.public_key():
        raise CommandError(f"{key_path} is not its key")
    return _Held(Path(os.path.realpath(path)), Path(os.path.realpath(key_path)), certificate, key)


def _sign_again(held: _Held, options: argparse.Namespace, offers: Sequence[client.Offer] | None) -> datetime:
    """Replace the certificate, and the key if wished, once both are there whole.

    Returns:
        when the new one ends, UTC.
    """
    offer = None if offers is None else _offer(held.certificate, offers)
    key = _another(held.key) if options.new_key else held.key
    wanted = making.request(key, held.certificate.subject, _extensions(held.certificate, offer))
    wish = client.Wish(wanted, offer.name if offer else options.profile)
    certificates = making.read(client.sign(options.url, arguments.api_key(options), wish), key)
    if _names(certificates[0]) != _names(held.certificate):
        raise CommandError("the certificate that the service sent has other names; nothing was replaced")
    end = certificates[0].not_valid_after_utc
    if end < held.certificate.not_valid_after_utc:
        raise CommandError("the new certificate would end earlier; nothing was replaced")
    with files.atomic_files() as write:
        if options.new_key:  # anyone who reads both files between the two renames sees a mismatch
            pem = making.key_pem(key, arguments.secret(KEY_PASSPHRASE))
            write(held.key_path, pem, stat.S_IMODE(held.key_path.stat().st_mode))
        write(held.path, encoding.pem(certificates).encode(), 0o644)
    return end


def _offer(certificate: x509.Certificate, offers: Sequence[client.Offer]) -> client.Offer:
    """The profile that a certificate was issued under, which its first policy says."""
    try:
        policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except (x509.ExtensionNotFound, ValueError):
        raise CommandError("it names no profile (certificate policy): give --profile") from None
    own = policies[0].policy_identifier.dotted_string
    found = next((each for each in offers if each.policies[:1] == (own,)), None)
    if found is None:
        raise CommandError(f"no profile that this API key may use has its policy {own}: give --profile")
    return found


def _extensions(certificate: x509.Certificate, offer: client.Offer | None) -> list[x509.ExtensionType]:
    """The names, and what else the profile lets a request bring along."""
    brought = set(offer.extensions) if offer else set()
    return [
        each.value
        for each in certificate.extensions
        if isinstance(each.value, x509.SubjectAlternativeName) or each.oid.dotted_string in brought
    ]


def _names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    return {
        name
        for each in certificate.extensions
        if isinstance(each.value, x509.SubjectAlternativeName)
        for name in each.value
    }


def _another(key: CertificateIssuerPrivateKeyTypes) -> CertificateIssuerPrivateKeyTypes:
    """A new key of the same kind and size."""
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, key.key_size)
    return keys.generate(keys.describe(key.public_key()))


def _run(command: Sequence[str], renewed: Sequence[str]) -> bool:
    """Run the hook, which gets neither the API key nor the passphrase; whether it went well."""
    environ = {name: value for name, value in os.environ.items() if name not in (API_KEY, KEY_PASSPHRASE)}
    try:
        status = subprocess.run(  # noqa: S603 - the operator's own command
            command, env={**environ, RENEWED: "\n".join(renewed)}, check=False
        ).returncode
    except OSError as error:
        warn(f"certlet: the hook {command[0]}: {error.strerror}")
        return False
    if status:
        warn(f"certlet: the hook {command[0]} ended with {status}")
    return not status


def _hook(text: str) -> list[str]:
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not found:
        raise argparse.ArgumentTypeError("a command is needed")
    return found
