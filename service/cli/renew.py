"""`certlet renew`: signs again what ends soon, for cron and systemd timers."""

from __future__ import annotations

import functools
import os
import shlex
import stat
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtensionOID

from service import client, hardening
from service.atomic_write import atomic_files, locked_directory
from service.cli import options
from service.cli.new import read, request
from service.cli.options import KEY_PASSPHRASE
from service.cli.terminal import CommandError, os_error, say, warn
from service.pki import certificate_reader, csr, encoding, keys
from service.pki.errors import IssuanceError

RENEWED: Final = "CERTLET_RENEWED"

_USUAL: Final = timedelta(days=30)


def _parse_hook(text: str) -> list[str]:
    command = shlex.split(text)
    if not command:
        raise ValueError("a command is needed")
    return command


@click.command(epilog="Example: certlet renew www.example.com.crt --deploy-hook 'systemctl reload nginx'")
@click.argument("files", nargs=-1, required=True, type=options.FILE, metavar="FILE...")
@click.option(
    "--expires-in",
    type=options.parse_span,
    metavar="DURATION",
    show_default="30d, or the last third of a shorter life",
    help="Renew what ends within so many h, d or w, such as 30d.",
)
@click.option(
    "--deploy-hook",
    type=_parse_hook,
    metavar="COMMAND",
    help=f"Run this once, without a shell, if anything was renewed; ${RENEWED} has the files, one a line. "
    "It gets no passphrase, API key or AWS_ variable from the environment.",
)
@click.option(
    "--key-file", type=options.FILE, help="Use this key, for one certificate.", show_default="FILE.key"
)
@click.option("--new-key", is_flag=True, help="Make another key of the same kind.")
@options.profile_option("the one that its policy names")
@options.service_options
def renew(
    *,
    files: tuple[Path, ...],
    expires_in: timedelta | None,
    deploy_hook: list[str] | None,
    key_file: Path | None,
    new_key: bool,
    profile: str | None,
    url: str,
    api_key: str | None,
) -> int:
    """Have certificates that end soon signed again.

    FILE is a certificate, PEM, with its key beside it as .key. $CERTLET_KEY_PASSPHRASE opens a key that is
    encrypted, and encrypts one that is made.

    Exit status: 0 if all that was due was renewed, even if nothing was; 1 if any was not, or the hook failed.
    A certificate that cannot be renewed is reported, stays as it was, and stops no other.
    """
    hardening.disable_core_dumps_and_ptrace()
    if key_file and len(files) > 1:
        raise click.UsageError("--key-file is for one certificate; several have theirs beside them")
    offers = functools.cache(lambda: client.list_profiles(url, options.require_api_key(api_key)))
    revoked = functools.cache(lambda: _revoked(url))
    renewed, failed = [], False
    for path in dict.fromkeys(files):
        try:
            target, key_path = _target(path), _target(key_file or path.with_suffix(".key"))
            # Another command waits, and then finds what this one wrote.
            with locked_directory(target.parent):
                certificate = _certificate(target)
                if not _is_due(certificate, expires_in, datetime.now(UTC)):
                    continue
                key = _load_key(key_path, certificate, revoked)
                offer = None if profile else _offer(certificate, offers())
                key = _another(key) if new_key else key
                csr_pem = request(
                    key, certificate.subject, _extensions(certificate, offer.extensions if offer else ())
                )
                sign_request = client.SignRequest(csr_pem, offer.name if offer else profile)
                certificates = read(client.sign(url, options.require_api_key(api_key), sign_request), key)
                _verify(certificates[0], certificate)
                with atomic_files() as write:
                    if new_key:  # anyone who reads both files between the two renames sees a mismatch
                        mode = stat.S_IMODE(key_path.stat().st_mode)
                        data = keys.encode_private_key(key, options.read_secret(KEY_PASSPHRASE))
                        write(key_path, data, mode)
                    write(target, encoding.encode_pem(certificates).encode(), 0o644)
            renewed.append(os.path.abspath(path))  # noqa: PTH100 - a link stays one
            say(f"Renewed   {path}, until {encoding.format_timestamp(certificates[0].not_valid_after_utc)}")
        except OSError as error:
            warn(f"certlet: {path}: {os_error(error, path)}")
            failed = True
        except (CommandError, client.ClientError, IssuanceError) as error:
            warn(f"certlet: {path}: {error}")
            failed = True
    if renewed and deploy_hook:
        failed |= not _run(deploy_hook, renewed)
    return int(failed)


def _target(path: Path) -> Path:
    """What a symbolic link names now: it is read and replaced, even if the link names another file later."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _certificate(path: Path) -> x509.Certificate:
    data = path.read_bytes()
    if csr.contains_private_key(data):
        raise CommandError("it holds a private key too, which would be lost: give them files of their own")
    try:
        return certificate_reader.parse_pem(data)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _is_due(certificate: x509.Certificate, expires_in: timedelta | None, now: datetime) -> bool:
    end = certificate.not_valid_after_utc
    if expires_in is None:
        expires_in = min(_USUAL, (end - certificate.not_valid_before_utc) / 3)
    return end - now <= expires_in


def _revoked(url: str) -> frozenset[int]:
    """The serial numbers that the service's CRL lists; without it nothing is renewed, as with EST."""
    crl = client.fetch_crl(url)
    try:
        return frozenset(each.serial_number for each in x509.load_der_x509_crl(crl))
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError(f"what answers at {url}/ca.crl is no list of what was revoked") from error


def _load_key(
    path: Path, certificate: x509.Certificate, revoked: Callable[[], frozenset[int]]
) -> CertificateIssuerPrivateKeyTypes:
    key = options.load_private_key(path)
    if key.public_key() != certificate.public_key():
        left = [str(file) for file in path.resolve().parent.glob(".certlet.*")]
        hint = f"; a command that was killed left {', '.join(left)}" if left else ""
        raise CommandError(f"{path} is not its key{hint}")
    if certificate.serial_number in revoked():
        raise CommandError("it was revoked: make another key and certificate with certlet new")
    return key


def _verify(new: x509.Certificate, old: x509.Certificate) -> None:
    """Whether a certificate may take the place of another."""
    if _names(new) != _names(old):
        raise CommandError("the certificate that the service sent has other names; nothing was replaced")
    if new.not_valid_after_utc < old.not_valid_after_utc:
        raise CommandError("the new certificate would end earlier; nothing was replaced")


def _offer(certificate: x509.Certificate, offers: Sequence[client.ProfileInfo]) -> client.ProfileInfo:
    """The profile that a certificate was issued under, which its first policy says."""
    policies = list(certificate_reader.extension_value(certificate, x509.CertificatePolicies) or ())
    if not policies:
        raise CommandError("it names no profile (certificate policy): give --profile")
    own = policies[0].policy_identifier.dotted_string
    found = next((each for each in offers if each.policies[:1] == (own,)), None)
    if found is None:
        raise CommandError(f"no profile that this API key may use has its policy {own}: give --profile")
    return found


def _extensions(certificate: x509.Certificate, copied: Sequence[str] = ()) -> list[x509.ExtensionType]:
    """The names, and the extensions that the profile copies from a request."""
    oids = {ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, *copied}
    return [each.value for each in certificate.extensions if each.oid.dotted_string in oids]


def _names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    return {name for names in _extensions(certificate) for name in cast("x509.SubjectAlternativeName", names)}


def _another(key: CertificateIssuerPrivateKeyTypes) -> CertificateIssuerPrivateKeyTypes:
    """A new key of the same kind and size."""
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, key.key_size)
    return keys.generate_private_key(keys.describe_key(key.public_key()))


def _run(command: Sequence[str], renewed: Sequence[str]) -> bool:
    """Run the hook, which gets no secret in its environment; whether it went well."""
    prefixes = hardening.SECRET_ENV_PREFIXES
    environ = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
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
