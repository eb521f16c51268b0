"""`certlet renew`: renew certificates that expire soon; for cron and systemd timers."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shlex
import signal
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtensionOID

from service import client, exit_status, hardening
from service.atomic_write import atomic_files, locked_directory
from service.cli import input_files, inspection, options
from service.cli.input_files import FILE, KEY_PASSPHRASE
from service.cli.new import create_csr, parse_signed
from service.cli.terminal import Command, CommandError, describe_os_error, json_option, note, report, warn
from service.exit_status import ExitStatus
from service.pki import certificate_reader, encoding, input_formats, keys
from service.pki.errors import CAError, IssuanceError
from service.pki.profile import parse_duration
from service.pki.renewal_info import CertificateId

RENEWED: Final = "CERTLET_RENEWED"
EARLY: Final = " (early: the service asked for it)"

_DEFAULT_EXPIRES_IN: Final = timedelta(days=30)
_HOOK_REMEDY: Final = "the certificates are renewed, so run the hook yourself"
_STDERR: Final = 2
_STOP: Final = (signal.SIGTERM, signal.SIGINT)
_MIN_DELAY: Final = 60.0  # seconds
_MAX_RETRY_DELAY: Final = 3600.0  # seconds
_MAX_DELAY: Final = 21_600.0  # seconds: the Retry-After of renewal information


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
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
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
    "one per line. The environment has no passphrase, API key, token or AWS_ variable. Output is on stderr.",
)
@click.option("--key-file", type=FILE, help="Use this key, for a single FILE.", show_default="FILE.key")
@click.option("--new-key", is_flag=True, help="Create a new key of the same type.")
@click.option("--dry-run", is_flag=True, help="Say what would be renewed, without issuing or writing.")
@click.option(
    "--daemon",
    is_flag=True,
    help="Do not exit: renew each certificate when it is due, and ask the service every six hours whether to "
    "renew early. SIGTERM ends it.",
)
@options.profile_option("the profile of the certificate's policy")
@json_option
@options.service_options
def renew(
    *,
    files: tuple[Path, ...],
    expires_in: timedelta | None,
    deploy_hook: list[str] | None,
    key_file: Path | None,
    dry_run: bool,
    daemon: bool,
    **session: Any,  # noqa: ANN401 - the options of `_Session`
) -> int:
    """Renew certificates that expire soon.

    FILE is a PEM certificate, whose key is next to it with the suffix .key. $CERTLET_KEY_PASSPHRASE decrypts
    the key, and encrypts a new one.

    Certificates that the service asks to renew now are renewed early. One that was revoked needs --new-key.
    A failure is reported, leaves that certificate unchanged, and does not stop the others. With --daemon, it
    is tried again after a minute, then after twice that time, up to an hour.

    Exit status: 0 if every due certificate was renewed (or none was due); 1 if any, or the hook, failed; 2 if
    the arguments are invalid. If all failures are alike: 3 if a later attempt may succeed; 4 without
    permission; 5 if the service cannot be reached.
    """
    hardening.disable_core_dumps_and_ptrace()
    options.forbid_together("--dry-run", "--daemon")
    if key_file and len(files) > 1:
        raise click.UsageError("--key-file accepts only one certificate: omit it, or renew each separately")

    def renew_due() -> tuple[ExitStatus, datetime | None]:
        return _renew_due(_Session(**session), files, key_file, expires_in, deploy_hook, dry_run=dry_run)

    return _run_daemon(renew_due) if daemon else renew_due()[0]


def _run_daemon(renew_due: Callable[[], tuple[ExitStatus, datetime | None]]) -> int:
    """Renew until SIGTERM or SIGINT, which do not interrupt a renewal; return the exit status."""
    numbers: list[int] = []  # of the signals that arrived
    failures = 0
    for number in _STOP:
        signal.signal(number, lambda number, _: numbers.append(number))
    while not numbers:
        status, due = renew_due()
        failures = failures + 1 if status else 0
        delay = _delay(due, failures, datetime.now(UTC)) * random.uniform(0.9, 1.1)  # noqa: S311 - spreads the load  # nosec B311
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)  # one that arrives now ends the wait
        if numbers or signal.sigtimedwait(_STOP, delay):
            break
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    return ExitStatus.DONE


def _delay(due: datetime | None, failures: int, now: datetime) -> float:
    """Return the seconds until certificates are examined again.

    Args:
        due: when the first of them is due, UTC; None if none can be read.
        failures: how often renewing failed since it last succeeded.
        now: the time, UTC.
    """
    if failures:
        return min(_MIN_DELAY * 2.0 ** min(failures - 1, 10), _MAX_RETRY_DELAY)
    seconds = (due - now).total_seconds() if due else _MAX_DELAY
    return max(_MIN_DELAY, min(seconds, _MAX_DELAY))


def _renew_due(
    session: _Session,
    files: Sequence[Path],
    key_file: Path | None,
    expires_in: timedelta | None,
    deploy_hook: Sequence[str] | None,
    *,
    dry_run: bool,
) -> tuple[ExitStatus, datetime | None]:
    """Renew the certificates that are due, and run the hook; return the exit status and the next due time."""
    renewed: list[str] = []
    failures: list[ExitStatus] = []
    due: list[datetime] = []
    for path in dict.fromkeys(files):
        try:
            # with_suffix() raises ValueError for a directory such as `.`, which has no name.
            key_path = _target(key_file or path.parent / f"{path.stem}.key")
            target = _target(path)
            # A concurrent command waits, and then reads the new certificate.
            with locked_directory(target.parent):
                certificate = _load_certificate(target)
                due_time = _due_time(certificate, expires_in)
                is_early = due_time > datetime.now(UTC)
                if is_early and not session.is_wanted_now(certificate):
                    _report_not_due(path, certificate, due_time)
                elif dry_run:
                    session.dry_run(path, key_path, certificate)
                else:
                    issuer = certificate.issuer
                    certificate = session.renew(target, key_path, certificate, may_end_earlier=is_early)
                    _report_renewed(path, certificate, is_early=is_early)
                    if certificate.issuer != issuer:
                        _note_other_issuer(path, certificate.issuer, issuer)
                    renewed.append(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link
                due.append(_due_time(certificate, expires_in))
        except OSError as error:
            warn(f"certlet: {path}: {describe_os_error(error, path)}")
            failures.append(exit_status.of_error(error))
        except (CommandError, client.ClientError, IssuanceError) as error:
            warn(f"certlet: {path}: {error}")
            failures.append(exit_status.of_error(error))
    if renewed and deploy_hook and not _run_hook(deploy_hook, renewed):
        failures.append(ExitStatus.REFUSED)
    return exit_status.of_all(failures), min(due, default=None)


@dataclass
class _Session:
    """Requests to one service, which answers each question about itself once.

    Args:
        service: the service.
        credentials: loads the caller's.
        profile: the profile to request; None for that of each certificate.
        new_key: whether to create new keys.
    """

    service: client.Service
    credentials: Callable[[], client.Credentials]
    profile: str | None
    new_key: bool

    @functools.cached_property
    def _caller(self) -> client.Credentials:
        return self.credentials()

    @functools.cached_property
    def _profiles(self) -> Sequence[client.ProfileInfo]:
        return client.list_profiles(self.service, self._caller)

    @functools.cached_property
    def _revoked(self) -> frozenset[int]:
        """The serial numbers on the CRL; without a CRL nothing is renewed, as with EST."""
        crl = client.fetch_crl(self.service)
        try:
            return frozenset(entry.serial_number for entry in x509.load_der_x509_crl(crl))
        except Exception as error:  # the library has no common class for what malformed bytes raise
            raise CommandError(f"{self.service.url}/ca.crl did not return a valid CRL") from error

    def is_wanted_now(self, certificate: x509.Certificate) -> bool:
        """Whether a random time in the window of ARI has passed (RFC 9773 4.2); False without ARI."""
        identifier = certificate_reader.extension_value(certificate, x509.AuthorityKeyIdentifier)
        if identifier is None or identifier.key_identifier is None or certificate.serial_number <= 0:
            return False
        certificate_id = CertificateId(identifier.key_identifier, certificate.serial_number).encode()
        try:
            start, end = client.fetch_renewal_window(self.service, certificate_id)
        except client.ClientError:
            return False
        return start + (end - start) * random.random() <= datetime.now(UTC)  # noqa: S311 - spreads the load  # nosec B311

    def dry_run(self, path: Path, key_path: Path, certificate: x509.Certificate) -> None:
        """Report the certificate that the service would issue; raises the errors of `renew`."""
        result = client.dry_run(self.service, self._caller, self._create_request(key_path, certificate)[1])
        facts = {"file": str(path), "renewed": False, "due": True, "profile": result.profile}
        report(
            facts | {"not_after": result.not_after, "notes": result.notes},
            f"Due       {path}: would be valid until {result.not_after}, profile {result.profile}",
        )

    def renew(
        self, path: Path, key_path: Path, certificate: x509.Certificate, *, may_end_earlier: bool
    ) -> x509.Certificate:
        """Replace a certificate, and its key if that is new; return the new certificate."""
        key, request = self._create_request(key_path, certificate)
        with atomic_files() as write:
            # Reserve space, since a certificate that cannot be written would be lost.
            write(path, path.read_bytes() * 2, 0o644)
            if self.new_key:  # a reader between the two renames sees a mismatch
                passphrase, mode = input_files.read_new_secret(KEY_PASSPHRASE), key_path.stat().st_mode
                write(key_path, keys.encode_private_key(key, passphrase), stat.S_IMODE(mode))
            certificates = parse_signed(client.sign(self.service, self._caller, request), key)
            _verify_replacement(certificates[0], certificate, may_end_earlier=may_end_earlier)
            write(path, encoding.encode_pem(certificates).encode(), 0o644)
        return certificates[0]

    def _create_request(
        self, key_path: Path, certificate: x509.Certificate
    ) -> tuple[CertificateIssuerPrivateKeyTypes, client.SignRequest]:
        """Return the key and the request of a certificate's successor."""
        key = _load_key(key_path, certificate)
        if not self.new_key and certificate.serial_number in self._revoked:
            raise CommandError("the certificate was revoked: create a new key with --new-key")
        info = None if self.profile else _find_profile(certificate, self._profiles)
        key = _create_key_like(key) if self.new_key else key
        extensions = _extensions(certificate, info.extensions if info else ())
        csr_pem = create_csr(key, certificate.subject, extensions)
        return key, client.SignRequest(csr_pem, info.name if info else self.profile)


def _report_not_due(path: Path, certificate: x509.Certificate, due: datetime) -> None:
    end, start = (encoding.format_timestamp(time) for time in (certificate.not_valid_after_utc, due))
    report(
        {"file": str(path), "renewed": False, "due": False, "not_after": end, "renew_after": start},
        f"Not due   {path}, valid until {end}: is renewed from {start} on",
    )


def _report_renewed(path: Path, certificate: x509.Certificate, *, is_early: bool) -> None:
    facts = {
        "file": str(path),
        "renewed": True,
        "early": is_early,
        **inspection.certificate_facts(certificate),
    }
    suffix = EARLY if is_early else ""
    report(facts, f"Renewed   {path}, valid until {facts['not_after']}{suffix}")


def _note_other_issuer(path: Path, new: x509.Name, old: x509.Name) -> None:
    """Note that the CA was replaced, or that this is the service of another one."""
    issuer, previous = new.rfc4514_string(), old.rfc4514_string()
    note(f"{path}: the issuer is now {issuer}, not {previous}: clients must trust its root")


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
        raise CommandError(_describe_format(path, data) or str(error)) from error


def _describe_format(path: Path, data: bytes) -> str:
    """Describe a file that has no certificate in PEM, and say what to do; '' if its format is not known."""
    if input_formats.name_der(data) == input_formats.CERTIFICATE:
        new = path.with_suffix(".pem" if path.suffix == ".crt" else ".crt")
        command = shlex.join(["openssl", "x509", "-inform", "der", "-in", str(path), "-out", str(new)])
        return f"the certificate is in DER: convert it to PEM with {command}"
    with contextlib.suppress(Exception):  # the library has no common class for what malformed bytes raise
        x509.load_der_x509_csr(input_formats.find_csr(data)[0])
        return "this is a CSR, not a certificate: certlet sign gets a certificate for it"
    return ""


def _due_time(certificate: x509.Certificate, expires_in: timedelta | None) -> datetime:
    """Return when to renew a certificate, UTC."""
    end = certificate.not_valid_after_utc
    if expires_in is None:
        expires_in = min(_DEFAULT_EXPIRES_IN, (end - certificate.not_valid_before_utc) / 3)
    return end - expires_in


def _load_key(path: Path, certificate: x509.Certificate) -> CertificateIssuerPrivateKeyTypes:
    try:
        key = input_files.load_private_key(path)
    except CAError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise CommandError(f"{error} (--key-file names another file)") from error
        raise
    if key.public_key() != certificate.public_key():
        temporary = [str(file) for file in path.resolve().parent.glob(".certlet.*")]
        hint = f"; an interrupted command left {', '.join(temporary)}" if temporary else ""
        raise CommandError(f"{path} does not match the certificate{hint}")
    return key


def _verify_replacement(new: x509.Certificate, old: x509.Certificate, *, may_end_earlier: bool) -> None:
    """Verify that a certificate may replace another; CommandError if not."""
    if _names(new) != _names(old):
        raise CommandError("the service returned a certificate with other names; nothing was replaced")
    if not may_end_earlier and new.not_valid_after_utc < old.not_valid_after_utc:
        raise CommandError(
            "the new certificate would end earlier; nothing was replaced (check --context and --url; "
            "certlet new --force replaces it, and its key)"
        )


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
    """Run the hook without secrets in its environment; return whether it succeeded.

    Its output is on stderr, since stdout has the results.
    """
    prefixes = hardening.SECRET_ENV_PREFIXES
    environ = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    try:
        status = subprocess.run(  # noqa: S603 - the operator's own command
            command, stdout=_STDERR, env={**environ, RENEWED: "\n".join(renewed)}, check=False
        ).returncode
    except OSError as error:
        warn(f"certlet: deploy hook {command[0]}: {error.strerror} ({_HOOK_REMEDY})")
        return False
    if status:
        reason = f"failed with exit status {status}"
        if status < 0:
            reason = f"was ended by signal {-status} ({signal.strsignal(-status)})"
        warn(f"certlet: deploy hook {command[0]} {reason} ({_HOOK_REMEDY})")
    return not status
