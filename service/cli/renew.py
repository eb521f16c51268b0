"""`certlet renew`: renew certificates that expire soon; for cron and systemd timers."""

from __future__ import annotations

import functools
import os
import random
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

from service import client, exit_status, hardening
from service.atomic_write import atomic_files, locked_directory
from service.cli import options
from service.cli.new import create_csr, parse_signed
from service.cli.options import KEY_PASSPHRASE
from service.cli.terminal import Command, CommandError, describe_os_error, echo, warn
from service.exit_status import ExitStatus
from service.pki import certificate_reader, encoding, input_formats, keys
from service.pki.errors import IssuanceError
from service.pki.profile import parse_duration
from service.pki.renewal_info import CertificateId

RENEWED: Final = "CERTLET_RENEWED"
EARLY: Final = " (early: the service asked for it)"

_DEFAULT_EXPIRES_IN: Final = timedelta(days=30)


def _parse_hook(text: str) -> list[str]:
    command = shlex.split(text)
    if not command:
        raise ValueError("the command is empty")
    return command


@click.command(
    cls=Command,
    uses_service=True,
    epilog="Example: certlet renew www.example.com.crt --deploy-hook 'systemctl reload nginx'",
)
@click.argument("files", nargs=-1, required=True, type=options.FILE, metavar="FILE...")
@click.option(
    "--expires-in",
    type=parse_duration,
    metavar="DURATION",
    show_default="30d, or a third of the validity if that is shorter",
    help="Renew certificates that expire within this time: 12h, 30d, 4w, or in ISO 8601 PT12H or P30D.",
)
@click.option(
    "--deploy-hook",
    type=_parse_hook,
    metavar="COMMAND",
    help=f"Run this command once, without a shell, if a certificate was renewed. ${RENEWED} lists the files, "
    "one per line. The environment has no passphrase, API key, token or AWS_ variable.",
)
@click.option(
    "--key-file", type=options.FILE, help="Use this key, for a single FILE.", show_default="FILE.key"
)
@click.option("--new-key", is_flag=True, help="Create a new key of the same type.")
@options.profile_option("the profile of the certificate's policy")
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
    credentials: Callable[[], client.Credentials],
) -> int:
    """Renew certificates that expire soon.

    FILE is a PEM certificate, whose key is next to it with the suffix .key. $CERTLET_KEY_PASSPHRASE decrypts
    the key, and encrypts a new one.

    Certificates that the service asks to renew now are renewed early. One that was revoked needs --new-key.

    A failure is reported, leaves that certificate unchanged, and does not stop the others.

    Exit status: 0 if every due certificate was renewed (or none was due); 1 if any, or the hook, failed. If
    all failures are alike: 3 if a later attempt may succeed; 4 without permission; 5 if the service cannot be
    reached.
    """
    hardening.disable_core_dumps_and_ptrace()
    if key_file and len(files) > 1:
        raise click.UsageError("--key-file accepts only one certificate: omit it, or renew each separately")
    caller = functools.cache(credentials)
    profiles = functools.cache(lambda: client.list_profiles(url, caller()))
    revoked = functools.cache(lambda: _fetch_revoked(url))
    renewed: list[str] = []
    failures: list[ExitStatus] = []
    for path in dict.fromkeys(files):
        try:
            target, key_path = _target(path), _target(key_file or path.with_suffix(".key"))
            # A concurrent command waits, and then reads the new certificate.
            with locked_directory(target.parent):
                certificate = _load_certificate(target)
                is_early = not _is_due(certificate, expires_in, datetime.now(UTC))
                if is_early and not _is_wanted_now(url, certificate):
                    continue
                key = _load_key(key_path, certificate)
                if not new_key:
                    _verify_not_revoked(certificate, revoked())
                info = None if profile else _find_profile(certificate, profiles())
                key = _create_key_like(key) if new_key else key
                csr_pem = create_csr(
                    key, certificate.subject, _extensions(certificate, info.extensions if info else ())
                )
                request = client.SignRequest(csr_pem, info.name if info else profile)
                signed = client.sign(url, caller(), request)
                certificates = parse_signed(signed, key)
                _verify_replacement(certificates[0], certificate, may_end_earlier=is_early)
                with atomic_files() as write:
                    if new_key:  # a reader between the two renames sees a mismatch
                        mode = stat.S_IMODE(key_path.stat().st_mode)
                        data = keys.encode_private_key(key, options.read_new_secret(KEY_PASSPHRASE))
                        write(key_path, data, mode)
                    write(target, encoding.encode_pem(certificates).encode(), 0o644)
            renewed.append(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link
            end = encoding.format_timestamp(certificates[0].not_valid_after_utc)
            echo(f"Renewed   {path}, valid until {end}{EARLY if is_early else ''}")
        except OSError as error:
            warn(f"certlet: {path}: {describe_os_error(error, path)}")
            failures.append(exit_status.of_error(error))
        except (CommandError, client.ClientError, IssuanceError) as error:
            warn(f"certlet: {path}: {error}")
            failures.append(exit_status.of_error(error))
    if renewed and deploy_hook and not _run_hook(deploy_hook, renewed):
        failures.append(ExitStatus.REFUSED)
    return exit_status.of_all(failures)


def _target(path: Path) -> Path:
    """Resolve a symbolic link once, so that the same file is read and replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _load_certificate(path: Path) -> x509.Certificate:
    data = path.read_bytes()
    if input_formats.contains_private_key(data):
        raise CommandError("the file also contains a private key: move it to its own file")
    try:
        return certificate_reader.parse_pem(data)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _is_due(certificate: x509.Certificate, expires_in: timedelta | None, now: datetime) -> bool:
    end = certificate.not_valid_after_utc
    if expires_in is None:
        expires_in = min(_DEFAULT_EXPIRES_IN, (end - certificate.not_valid_before_utc) / 3)
    return end - now <= expires_in


def _is_wanted_now(url: str, certificate: x509.Certificate) -> bool:
    """Whether a random time in the window of ARI has passed (RFC 9773 4.2); False without ARI."""
    identifier = certificate_reader.extension_value(certificate, x509.AuthorityKeyIdentifier)
    if identifier is None or identifier.key_identifier is None or certificate.serial_number <= 0:
        return False
    certificate_id = CertificateId(identifier.key_identifier, certificate.serial_number).encode()
    try:
        start, end = client.fetch_renewal_window(url, certificate_id)
    except client.ClientError:
        return False
    return start + (end - start) * random.random() <= datetime.now(UTC)  # noqa: S311 - spreads the load  # nosec B311


def _fetch_revoked(url: str) -> frozenset[int]:
    """Fetch the serial numbers on the CRL; without a CRL nothing is renewed, as with EST."""
    crl = client.fetch_crl(url)
    try:
        return frozenset(entry.serial_number for entry in x509.load_der_x509_crl(crl))
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError(f"{url}/ca.crl did not return a valid CRL") from error


def _load_key(path: Path, certificate: x509.Certificate) -> CertificateIssuerPrivateKeyTypes:
    key = options.load_private_key(path)
    if key.public_key() != certificate.public_key():
        temporary = [str(file) for file in path.resolve().parent.glob(".certlet.*")]
        hint = f"; an interrupted command left {', '.join(temporary)}" if temporary else ""
        raise CommandError(f"{path} does not match the certificate{hint}")
    return key


def _verify_not_revoked(certificate: x509.Certificate, revoked: frozenset[int]) -> None:
    """Verify that the key may stay in use; CommandError if not."""
    if certificate.serial_number in revoked:
        raise CommandError("the certificate was revoked: create a new key with --new-key")


def _verify_replacement(new: x509.Certificate, old: x509.Certificate, *, may_end_earlier: bool) -> None:
    """Verify that a certificate may replace another; CommandError if not."""
    if _names(new) != _names(old):
        raise CommandError("the service returned a certificate with other names; nothing was replaced")
    if not may_end_earlier and new.not_valid_after_utc < old.not_valid_after_utc:
        raise CommandError("the new certificate would end earlier; nothing was replaced")


def _find_profile(
    certificate: x509.Certificate, profiles: Sequence[client.ProfileInfo]
) -> client.ProfileInfo:
    """Find the profile of a certificate by its first policy."""
    policies = list(certificate_reader.extension_value(certificate, x509.CertificatePolicies) or ())
    if not policies:
        raise CommandError("the certificate has no policy that identifies its profile: pass --profile")
    policy = policies[0].policy_identifier.dotted_string
    profile = next((info for info in profiles if info.policies[:1] == (policy,)), None)
    if profile is None:
        raise CommandError(f"this caller may use no profile with the policy {policy}: pass --profile")
    return profile


def _extensions(
    certificate: x509.Certificate, extension_oids: Sequence[str] = ()
) -> list[x509.ExtensionType]:
    """Return the extensions for the CSR: the SAN, and those that the profile copies from a CSR."""
    oids = {ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, *extension_oids}
    return [extension.value for extension in certificate.extensions if extension.oid.dotted_string in oids]


def _names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    return {name for names in _extensions(certificate) for name in cast("x509.SubjectAlternativeName", names)}


def _create_key_like(key: CertificateIssuerPrivateKeyTypes) -> CertificateIssuerPrivateKeyTypes:
    """Create a key of the same type and size."""
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, key.key_size)
    return keys.generate_private_key(keys.describe_key(key.public_key()))


def _run_hook(command: Sequence[str], renewed: Sequence[str]) -> bool:
    """Run the hook without secrets in its environment; return whether it succeeded."""
    prefixes = hardening.SECRET_ENV_PREFIXES
    environ = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    try:
        status = subprocess.run(  # noqa: S603 - the operator's own command
            command, env={**environ, RENEWED: "\n".join(renewed)}, check=False
        ).returncode
    except OSError as error:
        warn(f"certlet: deploy hook {command[0]}: {error.strerror}")
        return False
    if status:
        warn(f"certlet: deploy hook {command[0]} failed with exit status {status}")
    return not status
