"""`certlet serve`: run the certificate authority on this machine."""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import hardening, log_level, openapi, self_issued
from service.cli import options
from service.cli.options import API_KEY, KEY_FILE
from service.cli.terminal import CommandError, echo
from service.gateway import api_keys, sandbox
from service.gateway.configuration import AccessLogFormat, Configuration
from service.keystore import ca_directory
from service.keystore.acme_principals import ACME_PRINCIPALS
from service.ledger.sqlite import SqliteLedger
from service.pki import certificate_reader
from service.pki.errors import CAError, CAUnavailable, IssuanceError
from service.pki.profile_loader import IssuancePolicy
from service.settings import (
    AUDIT_LOG,
    CA,
    CA_KEY,
    CA_PASSPHRASE,
    CA_PASSPHRASE_FILE,
    DEFAULT_RENEW_OVER,
    EST_LINE_LENGTH,
    EST_LINE_LENGTHS,
    LEDGER,
    LEDGER_TABLE,
    ORDER_QUOTA,
    PROFILES,
    PUBLIC_URL,
    RENEW_BEFORE,
    RENEW_OVER,
    STATUS_URL,
    find_ledger_problems,
    is_loopback,
    parse_public_url,
)
from service.supervisor import Supervisor

HANDLER: Final = "service.aws_lambda.handler"
DEFAULT_KEY: Final = "default"  # the name of the API key of the first start or the environment


@click.command(epilog="Example: certlet serve --tls --host 0.0.0.0 --tls-name ca.example.com")
@click.option("--host", metavar="HOST", default="127.0.0.1", help="Listen on this address.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    help="Listen on this port (0: any).",
)
@click.option(
    "--ca",
    type=options.DIRECTORY,
    default=options.DEFAULT_CA,
    help="Use the CA in this directory; create it if it does not exist.",
)
@click.option("--ephemeral", is_flag=True, help="Create a CA that is deleted when the server stops.")
@options.profiles_option
@click.option("--audit-log", type=options.FILE, show_default="stderr", help="Append events to this file.")
@click.option(
    "--access-log-format",
    type=click.Choice([value.value for value in AccessLogFormat]),
    default=AccessLogFormat.JSON.value,
    help="Write the access log as JSON, or in the combined format of Apache and nginx.",
)
@click.option(
    "--log-level",
    type=click.Choice(log_level.LEVELS),
    default=log_level.DEFAULT,
    envvar=log_level.VARIABLE,
    show_envvar=True,
    help="Log from this level on; the audit log and the access log do not depend on it.",
)
@click.option(
    "--ledger",
    type=options.FILE,
    envvar=LEDGER,
    show_envvar=True,
    help="Remember ACME accounts, orders and revoked certificates in this file; create it if necessary.",
)
@click.option(
    "--acme-network",
    "acme_networks",
    multiple=True,
    type=options.parse_network,
    metavar="NETWORK",
    show_default="all, without loopback and link-local",
    help="For http-01, connect only to this network, such as 10.0.0.0/8 (repeatable).",
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(1, 64), default=1, help="Run this many worker processes."
)
@click.option("--no-usage-plan", is_flag=True, help="Disable the usage plan (rate limits and quotas).")
@click.option(
    "--stage",
    type=options.create_parser("[A-Za-z0-9_-]{1,128}", "a stage of 1 to 128 letters, digits, _ and -"),
    metavar="STAGE",
    help="Prefix every path with this segment, as on AWS.",
)
@options.public_url_option("--url")
@click.option(
    "--status-url",
    metavar="URL",
    envvar=STATUS_URL,
    show_envvar=True,
    type=parse_public_url,
    show_default="that of certlet init --url, or --url",
    help="Name this URL of the server in certificates, for CRL, OCSP and the issuer's certificate.",
)
@click.option(
    "--renew-before",
    type=options.parse_renew_before,
    metavar="TIME",
    envvar=RENEW_BEFORE,
    show_envvar=True,
    help="Ask clients to renew certificates that were issued before this time: 2030-12-31T23:59:59Z.",
)
@click.option(
    "--renew-over",
    type=options.parse_renew_over,
    metavar="DURATION",
    envvar=RENEW_OVER,
    show_envvar=True,
    show_default=DEFAULT_RENEW_OVER,
    help="Spread the renewals of --renew-before over this time after it: PT6H or P7D.",
)
@click.option("--tls-cert", type=options.FILE, help="Serve HTTPS with this PEM certificate.")
@click.option("--tls-key", type=options.FILE, help="Use this PEM key for --tls-cert.")
@click.option("--tls", is_flag=True, help="Serve HTTPS with a certificate from this CA.")
@click.option(
    "--tls-name",
    multiple=True,
    type=options.parse_host,
    metavar="NAME",
    help="Add this DNS name or IP address to the certificate of --tls (repeatable).",
)
@click.option(
    "--tls-profile",
    metavar="NAME",
    show_default="the default profile",
    help="Use this profile for --tls.",
)
@click.option(
    "--status-port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    show_default="the one after --port; 80 with 443",
    help="With HTTPS, serve OCSP, CRL and CA certificates by plain HTTP on this port (0: any).",
)
@click.option("--no-status-port", is_flag=True, help="With HTTPS, serve nothing by plain HTTP.")
@click.option(
    "--est-line-length",
    type=click.Choice(EST_LINE_LENGTHS),
    default="0",
    envvar=EST_LINE_LENGTH,
    show_envvar=True,
    help="Break the base64 of EST responses into lines of this length, as libest requires; 0 for one line.",
)
@click.option("--insecure-http", is_flag=True, help="Allow plain HTTP on addresses other than loopback.")
def serve(**arguments: Any) -> int:  # noqa: ANN401 - each option has its own type
    """Run the certificate authority on this machine.

    The first start creates a CA and an API key, and prints them.
    """
    options.forbid_together("--ca", "--ephemeral")
    options.forbid_together("--status-port", "--no-status-port")
    settings = SimpleNamespace(**arguments)
    hardening.disable_core_dumps_and_ptrace()
    log_level.configure(settings.log_level)
    is_https = _validate_tls_options(settings)
    _validate_files(settings)
    if CA_PASSPHRASE_FILE in os.environ:  # the workers get the passphrase, and need no access to the file
        os.environ[CA_PASSPHRASE] = os.fsdecode(options.read_secret(CA_PASSPHRASE) or b"")
        del os.environ[CA_PASSPHRASE_FILE]
    # From here on SIGTERM raises SystemExit, so that an ephemeral CA is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    document = openapi.with_public_url(options.load_document(settings.profiles), settings.public_url)
    policy = openapi.parse_policy(document)
    _verify_ledger_suffices(settings, policy)
    with ExitStack() as stack:
        directory = settings.ca
        if settings.ephemeral:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certlet-")))
            os.environ[CA_PASSPHRASE] = secrets.token_urlsafe()  # SIGKILL may leave the files, encrypted
        directory = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() fails on a loop of links
        if not ca_directory.has_ca(directory):
            _init_in_child(directory)
            root_key = directory / ca_directory.ROOT_KEY
            hint = (
                "deleted when the server stops" if settings.ephemeral else f"move {root_key} to a safe place"
            )
            echo(f"New CA    {directory} ({hint})")
        key_file = api_keys.KeyFile(directory / KEY_FILE)
        env_keys, new_key = _load_or_create_api_key(key_file)
        rollback_key = stack.enter_context(ExitStack())
        if new_key:  # if the start fails, the key was never printed, so the next start must create another
            rollback_key.callback(key_file.remove, api_keys.key_id(api_keys.hash_key(new_key)))
        configuration = Configuration(
            document=openapi.with_greedy_parameters(document),
            public_document=openapi.public(document),
            host=settings.host,
            port=settings.port,
            status_port=_status_port(settings) if is_https else None,
            workers=settings.workers,
            key_file=str(key_file.path),
            env_keys=env_keys,
            ledger=os.path.abspath(settings.ledger) if settings.ledger else "",  # noqa: PTH100 - as for the directory
            no_usage_plan=settings.no_usage_plan,
            access_log_format=settings.access_log_format,
            stage=settings.stage or "",
            **_configure_tls(settings, policy, stack),
        )
        for warning in (*_warnings(settings), *options.exposure_warnings(_secret_files(settings, directory))):
            echo(f"Warning   {warning}")
        if note := _status_url_note(settings, ca_directory.load_status_url(directory)):
            echo(f"Note      {note}")

        def announce(port: int, status_port: int | None) -> None:
            rollback_key.pop_all()
            scheme = "https" if is_https else "http"
            stage = f"/{settings.stage}" if settings.stage else ""
            trust = f"--cacert {directory / ca_directory.ROOT_CERTIFICATE} " if settings.tls else ""
            host = _url_host(settings)
            status_url = "" if status_port is None else f"http://{host}:{status_port}{stage}"
            url = f"{scheme}://{host}:{port}{stage}"
            has_acme = settings.ledger and (directory / ca_directory.ACME_KEY).exists()
            acme_url = f"{settings.public_url or url}/acme/directory" if has_acme else ""
            _announce(url, status_url, acme_url, new_key, trust)

        environ = _worker_environ(settings, directory)
        validator = _validator_arguments(settings, policy, directory)
        accepts_tokens = bool(policy.identities)
        supervisor = Supervisor(HANDLER, environ, validator, accepts_tokens=accepts_tokens)
        return supervisor.run(configuration, announce)


def _validate_tls_options(settings: SimpleNamespace) -> bool:
    """Validate the options about HTTPS and HTTP, and return whether the server uses HTTPS."""
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


def _validate_files(settings: SimpleNamespace) -> None:
    """Validate the files that the options name, and what needs them."""
    if settings.tls_cert and settings.tls_key:
        _verify_key_pair(settings.tls_cert, settings.tls_key)
    if settings.audit_log:
        _verify_audit_log_writable(settings.audit_log)
    if settings.ledger:
        _verify_ledger(settings.ledger)
    elif settings.acme_networks:
        raise click.UsageError("--acme-network requires --ledger")


def _status_port(settings: SimpleNamespace) -> int | None:
    """Return the port of plain HTTP next to HTTPS; None for none."""
    if settings.no_status_port:
        return None
    port: int | None = settings.status_port
    return {0: 0, 443: 80, 65535: 65534}.get(settings.port, settings.port + 1) if port is None else port


def _verify_audit_log_writable(audit_log: Path) -> None:
    """Open the file before anything is created; but not a pipe, whose reader would see an early EOF."""
    try:
        if not audit_log.is_fifo():
            os.close(os.open(audit_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise CommandError(f"--audit-log {audit_log}: {error.strerror}") from error


def _verify_ledger(path: Path) -> None:
    """Open the ledger before anything else is created, and create it if it does not exist."""
    if problems := find_ledger_problems(os.environ | {LEDGER: str(path)}):
        raise CommandError(problems[0])
    try:
        SqliteLedger(path, lambda: datetime.now(UTC)).close()
    except CAError as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else error.detail
        detail = f"{path}: {reason}" if isinstance(error, CAUnavailable) else error.detail
        raise CommandError(f"--ledger: {detail}") from error


def _verify_ledger_suffices(settings: SimpleNamespace, policy: IssuancePolicy) -> None:
    """Verify that there is a ledger, if a rule accepts each token once."""
    rule = policy.once_rule
    if rule and not (settings.ledger or os.environ.get(LEDGER_TABLE)):
        raise CommandError(f"rule '{rule}' of identities has once: true, which needs a ledger: pass --ledger")


def _warnings(settings: SimpleNamespace) -> Iterator[str]:
    if settings.no_usage_plan:
        yield "the usage plan is disabled (--no-usage-plan)"
    if settings.tls and not settings.tls_name and _is_unspecified(settings.host):
        yield "the TLS certificate is only for localhost: pass --tls-name to accept other clients"
    if not sandbox.is_supported():
        yield "this kernel has no Landlock, so the HTTP process can read all files of this user"


def _status_url_note(settings: SimpleNamespace, stored: str) -> str:
    """Return which status URL is in use, if the CA was created with another one than the options; or ''."""
    if not stored or (settings.status_url or settings.public_url or stored) == stored:
        return ""
    if settings.status_url:
        change = f"without --status-url, they name {stored} (certlet init --url)"
    else:
        change = f"not {settings.public_url} (--url), as certlet init --url set it; --status-url changes it"
    return f"new certificates name {settings.status_url or stored} for CRL and OCSP: {change}"


def _secret_files(settings: SimpleNamespace, directory: Path) -> Iterator[Path]:
    """Yield the files that only this user should be able to read; they need not exist."""
    keys = (ca_directory.ROOT_KEY, ca_directory.SIGNING_KEY, ca_directory.SERIAL_KEY, ca_directory.ACME_KEY)
    configured_key = os.environ.get(CA_KEY, "").removeprefix("file:")
    yield from (directory / name for name in (*keys, ACME_PRINCIPALS, KEY_FILE, configured_key))
    yield from directory.glob(f"{ca_directory.PREVIOUS_KEY_PREFIX}*")
    if settings.ledger:
        yield settings.ledger
    if settings.tls_key:
        yield settings.tls_key


def _configure_tls(settings: SimpleNamespace, policy: IssuancePolicy, stack: ExitStack) -> dict[str, Any]:
    """Return the gateway's TLS configuration: empty, the operator's files, or a self-issued certificate."""
    if settings.tls_cert:
        files = {"tls_certificate": str(settings.tls_cert), "tls_key": str(settings.tls_key)}
    elif settings.tls:
        try:
            profile = policy.get(settings.tls_profile)
        except IssuanceError as error:
            raise CommandError(f"--tls-profile: {error}") from error
        if not profile.is_tls_server:
            raise CommandError(f"profile {profile.name!r} is not for TLS servers: pass another --tls-profile")
        files = stack.enter_context(self_issued.self_issued_tls(_tls_names(settings), settings.tls_profile))
        files["tls_name"] = next(iter(settings.tls_name), "")
    else:
        return {}
    return {**files, "tls_client_ca_event": self_issued.internal_event("GET", "/ca.pem")}


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


def _tls_names(settings: SimpleNamespace) -> list[str]:
    """Return the names of the self-issued certificate; empty without --tls."""
    if settings.tls_name or not settings.tls:
        return list(settings.tls_name)
    names = ["localhost", "127.0.0.1", "::1"]
    return names if settings.host in names or _is_unspecified(settings.host) else [*names, settings.host]


def _url_host(settings: SimpleNamespace) -> str:
    """Return the host of the URL to print: --host, if it is a usable address and in the certificate."""
    host, names = settings.host, _tls_names(settings)
    if names and host not in names:
        host = names[0]
    elif _is_unspecified(host):
        host = "localhost"
    return f"[{host}]" if ":" in host else host


def _worker_environ(settings: SimpleNamespace, directory: Path) -> dict[str, str]:
    """Return the environment of the workers: that of this process, and the settings from the arguments."""
    paths = {
        CA: directory,
        PROFILES: settings.profiles,
        AUDIT_LOG: settings.audit_log,
        LEDGER: settings.ledger,
    }
    values = {
        PUBLIC_URL: settings.public_url,
        STATUS_URL: settings.status_url,
        EST_LINE_LENGTH: settings.est_line_length,
        log_level.VARIABLE: settings.log_level,
        RENEW_BEFORE: settings.renew_before,
        RENEW_OVER: settings.renew_over,
        ORDER_QUOTA: os.environ.get(ORDER_QUOTA) or ("none" if settings.no_usage_plan else ""),
    }
    environ = os.environ | {name: value or "" for name, value in values.items()}
    return environ | {name: os.path.abspath(path) for name, path in paths.items() if path}  # noqa: PTH100 - as above


def _validator_arguments(settings: SimpleNamespace, policy: IssuancePolicy, directory: Path) -> list[str]:
    """Return the arguments of the validator of challenges; empty if no policy requires a challenge."""
    if not settings.ledger or not policy.has_challenges:
        return []
    return [str(directory), os.path.abspath(settings.ledger), *settings.acme_networks]  # noqa: PTH100 - resolve() fails on a loop of links


def _announce(url: str, status_url: str, acme_url: str, api_key: str | None, trust: str) -> None:
    echo(f"Web pages {url}/")
    if status_url:
        echo(f"Status    {status_url} (OCSP, CRL, CA certificates)")
    if acme_url:
        echo(f"ACME      {acme_url}")
    if api_key:
        echo(f"API key   {api_key}  (shown once)")
    echo("Try it    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\")
    echo("            -keyout my.key -subj /CN=my.example.com -out my.csr")
    key = api_key or f"${API_KEY}"
    echo(f'          curl -sS {trust}-H "x-api-key: {key}" --data-binary @my.csr {url}/sign.pem')


def _load_or_create_api_key(key_file: api_keys.KeyFile) -> tuple[dict[str, str], str | None]:
    """Return the keys from the environment, and a new key to print, if one was created."""
    if value := os.environ.get(API_KEY):
        return {DEFAULT_KEY: api_keys.hash_key(value)}, None
    now = datetime.now(UTC)
    if keys := key_file.read():
        if all(key.is_expired(now) for key in keys):
            echo("Warning   every API key has expired: create one with certlet api-key add NAME")
        return {}, None
    value = api_keys.generate_key()
    key_file.add(DEFAULT_KEY, value, now)
    return {}, value


def _init_in_child(directory: Path) -> None:
    """Create the CA in a child process, so that no key is ever in the memory of this one."""
    command = [sys.executable, "-P", "-m", "service.cli", "init", str(directory)]
    init = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if init.returncode:
        raise CommandError(init.stderr.strip().removeprefix("certlet: ") or "cannot create the CA")


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host
