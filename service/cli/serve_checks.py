"""What is wrong with the options of `certlet serve`; these checks create and change nothing."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import atomic_write
from service.cli import input_files
from service.cli.options import API_KEY, KEY_FILE
from service.cli.terminal import CommandError
from service.gateway import api_keys, sandbox
from service.keystore import acme_principals, ca_directory, revocation_file
from service.keystore.acme_principals import ACME_PRINCIPALS
from service.ledger.sqlite import SqliteLedger
from service.pki import certificate_reader
from service.pki.errors import CAError, CAUnavailable, IssuanceError
from service.pki.profile_loader import IssuancePolicy
from service.settings import AUDIT_LOG, CA_KEY, Settings, identity_directory, is_loopback


def verify_tls_options(settings: SimpleNamespace) -> bool:
    """Verify the options about HTTPS and HTTP, and return whether the server uses HTTPS."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise click.UsageError("--tls-cert and --tls-key require each other")
    if settings.tls and settings.tls_cert:
        raise click.UsageError("--tls-cert is not allowed with --tls")
    if (settings.tls_name or settings.tls_profile) and not settings.tls:
        raise click.UsageError("--tls-name and --tls-profile require --tls")
    is_https = bool(settings.tls or settings.tls_cert)
    if settings.status_port is not None and not is_https:
        raise click.UsageError("--status-port requires --tls, or --tls-cert and --tls-key")
    if not is_loopback(settings.host) and not settings.insecure_http and not is_https:
        raise CommandError(
            f"{settings.host} is not loopback, so API keys would be sent unencrypted: pass --tls, or "
            "--tls-cert and --tls-key, or (behind a TLS proxy) --insecure-http"
        )
    return is_https


def verify_environment(settings: SimpleNamespace, environ: Mapping[str, str]) -> None:
    """Verify the settings of the workers, and that the audit log can be written.

    Raises:
        SettingsError, CommandError: a variable is invalid, or the audit log cannot be written.
    """
    audit_log = Settings.from_environ(environ, datetime.now(UTC)).audit_log
    if audit_log:
        label = f"--audit-log {settings.audit_log}" if settings.audit_log else f"{AUDIT_LOG}: {audit_log}"
        try:
            _verify_log_writable(audit_log)
        except OSError as error:
            raise CommandError(f"{label}: {error.strerror}") from error
    if settings.tls_cert and settings.tls_key:
        _verify_key_pair(settings.tls_cert, settings.tls_key)
    if settings.acme_networks and not settings.ledger:
        raise click.UsageError("--acme-network requires --ledger")


def _verify_log_writable(path: Path) -> None:
    """Raise OSError if a log cannot be written. A pipe is not opened: its reader would see an early EOF."""
    if not path.exists():
        atomic_write.verify_writable(path)
    elif not path.is_fifo():
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def verify_policy(settings: SimpleNamespace, policy: IssuancePolicy, *, has_ledger: bool) -> None:
    """Verify the profile of --tls, the files of the rules for tokens, and that they have a ledger.

    Raises:
        CommandError: one of them is not usable.
    """
    if settings.tls:
        try:
            profile = policy.get(settings.tls_profile)
        except IssuanceError as error:
            raise CommandError(f"--tls-profile: {error}") from error
        if not profile.is_tls_server:
            raise CommandError(f"profile {profile.name!r} is not for TLS servers: pass another --tls-profile")
    if policy.once_rule and not has_ledger:
        raise CommandError(
            f"rule '{policy.once_rule}' of identities has once: true, which needs a ledger: pass --ledger"
        )
    if policy.identities:
        from service.oidc.tokens import create_verifier  # noqa: PLC0415 - saves time without rules

        try:
            create_verifier(
                policy.identities, identity_directory(settings.profiles), lambda: datetime.now(UTC)
            )
        except ValueError as error:
            raise CommandError(str(error)) from error


def verify_ca(settings: SimpleNamespace) -> None:
    """Verify that there is a CA, unless the options create one, and that its file of API keys is usable.

    Raises:
        CommandError: there is no CA, or $CERTLET_API_KEY is malformed.
        KeyFileError: the file is unusable.
    """
    if value := os.environ.get(API_KEY):
        try:
            api_keys.hash_key(value)
        except api_keys.KeyFileError as error:
            raise CommandError(f"{API_KEY}: {error}") from error
    if settings.ephemeral:
        return
    if ca_directory.has_ca(settings.ca):
        api_keys.KeyFile(settings.ca / KEY_FILE).read()
    elif not settings.create:
        raise CommandError(
            f"no CA in {settings.ca}: pass another directory as --ca, or create a CA with certlet init or "
            "--create"
        )
    elif os.path.lexists(settings.ca) and not settings.ca.is_dir():
        raise CommandError(f"--ca {settings.ca}: Not a directory")


def verify_lists(directory: Path) -> None:
    """Verify the lists in the directory of a CA; a start does without those that are malformed.

    Raises:
        CAError: one of them is malformed, or there is no list of revoked certificates.
    """
    revocation_file.verify_revoked(directory)
    revocation_file.load_deny_list(directory)
    acme_principals.load_all(directory)


def verify_ledger(settings: SimpleNamespace) -> None:
    """Verify that there is a ledger if the options name one, unless they create it.

    An empty ledger knows no revoked certificate, so it must not replace one whose disk is not mounted.

    Raises:
        CommandError: there is none, or it cannot be opened or created.
    """
    path: Path | None = settings.ledger
    if not path:
        return
    try:
        if path.exists() and not path.is_dir():
            open_ledger(path, create=False)
            return
        atomic_write.verify_writable(path)
    except OSError as error:
        raise CommandError(f"--ledger: {path}: {error.strerror}") from error
    if not settings.create and not settings.ephemeral:
        raise CommandError(
            f"no ledger at {path}: restore a copy, or create one, without revoked certificates, with --create"
        )


def open_ledger(path: Path, *, create: bool) -> None:
    """Open a ledger, or create it, and close it.

    Raises:
        CommandError: it cannot be opened or created.
    """
    try:
        SqliteLedger(path, lambda: datetime.now(UTC), create=create).close()
    except CAError as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else cause or error.detail
        detail = f"{path}: {reason}" if isinstance(error, CAUnavailable) else error.detail
        raise CommandError(f"--ledger: {detail}") from error


def remarks(settings: SimpleNamespace, directory: Path) -> Iterator[tuple[str, str]]:
    """Yield `Warning` or `Note`, and what to know about the options and the CA's directory."""
    files = [path for path in (settings.ledger, settings.tls_key) if path]
    exposed = input_files.exposure_warnings([*secret_files(directory), *files])
    for warning in (*_warnings(settings), *exposed):
        yield "Warning", warning
    if note := _status_url_note(settings, ca_directory.load_status_url(directory)):
        yield "Note", note
    keys = api_keys.KeyFile(directory / KEY_FILE).read()
    if not os.environ.get(API_KEY) and all(key.is_expired(datetime.now(UTC)) for key in keys):
        label, state = ("Warning", "every API key has expired") if keys else ("Note", "there is no API key")
        yield label, f"{state}: create one with certlet api-key add NAME --ca {directory}"


def _warnings(settings: SimpleNamespace) -> Iterator[str]:
    if settings.no_usage_plan:
        yield "the usage plan is disabled (--no-usage-plan)"
    if settings.tls and not settings.tls_name and is_unspecified(settings.host):
        yield "the TLS certificate is only for localhost: pass --tls-name to accept other clients"
    if not sandbox.is_supported():
        yield sandbox.UNSUPPORTED


def _status_url_note(settings: SimpleNamespace, stored: str) -> str:
    """Return which status URL is in use, if the CA was created with another one than the options; or ''."""
    if not stored or (settings.status_url or settings.public_url or stored) == stored:
        return ""
    if settings.status_url:
        change = f"without --status-url, they name {stored} (certlet init --url)"
    else:
        change = f"not {settings.public_url} (--url), as certlet init --url set it; --status-url changes it"
    return f"new certificates name {settings.status_url or stored} for CRL and OCSP: {change}"


def secret_files(directory: Path) -> Iterator[Path]:
    """Yield the files of a CA that only this user should be able to read; they need not exist."""
    keys = (ca_directory.ROOT_KEY, ca_directory.SIGNING_KEY, ca_directory.SERIAL_KEY, ca_directory.ACME_KEY)
    configured_key = os.environ.get(CA_KEY, "").removeprefix("file:")
    yield from (directory / name for name in (*keys, ACME_PRINCIPALS, KEY_FILE, configured_key))
    yield from directory.glob(f"{ca_directory.PREVIOUS_KEY_PREFIX}*")


def tls_names(settings: SimpleNamespace) -> list[str]:
    """Return the names of the self-issued certificate; empty without --tls."""
    if settings.tls_name or not settings.tls:
        return list(settings.tls_name)
    names = ["localhost", "127.0.0.1", "::1"]
    is_included = settings.host in names or is_unspecified(settings.host)
    return names if is_included else [*names, settings.host]


def is_unspecified(host: str) -> bool:
    """Return whether a host is all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _verify_key_pair(certificate: Path, key: Path) -> None:
    """Verify that the files contain a certificate and its key, with clearer errors than OpenSSL's."""
    try:
        public_key = certificate_reader.parse_pem(_read_file("--tls-cert", certificate)).public_key()
    except ValueError as error:
        raise CommandError(f"--tls-cert {certificate}: {error}") from error
    data = _read_file("--tls-key", key)
    try:
        matches = load_pem_private_key(data, None).public_key() == public_key
    except TypeError:
        if sys.stdin.isatty():  # OpenSSL prompts for the passphrase
            return
        message = f"--tls-key {key} is encrypted, and there is no terminal to prompt for its passphrase"
        raise CommandError(message) from None
    except UnsupportedAlgorithm:  # OpenSSL may support it
        return
    except Exception:  # noqa: BLE001 - they have no common class; their text may quote the key
        raise CommandError(f"--tls-key {key} is not a PEM private key") from None
    if not matches:
        raise CommandError(f"--tls-key {key} does not match --tls-cert {certificate}")


def _read_file(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{option} {path}: {error.strerror}") from error
