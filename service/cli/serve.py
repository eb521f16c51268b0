"""`certlet serve`: run the certificate authority on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import click

from service import hardening, log_level, openapi, self_issued
from service.cli import first_start, input_files, options, serve_announcement, serve_checks
from service.cli.first_start import DEFAULT_KEY
from service.cli.input_files import DIRECTORY, FILE
from service.cli.options import API_KEY, KEY_FILE
from service.cli.serve_reload import Reloads
from service.cli.terminal import Command, json_option
from service.gateway import api_keys, listening
from service.gateway.configuration import AccessLogFormat, Configuration
from service.pki.profile_loader import IssuancePolicy
from service.settings import (
    AUDIT_LOG,
    CA,
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
    parse_public_url,
)
from service.supervisor import Setup, Supervisor
from service.systemd import Notifier

HANDLER: Final = "service.aws_lambda.handler"


@click.command(cls=Command, epilog="Example: certlet serve --tls --host 0.0.0.0 --tls-name ca.example.com")
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
    type=DIRECTORY,
    default=options.DEFAULT_CA,
    help="Use the CA in this directory.",
)
@click.option(
    "--create",
    is_flag=True,
    help="Create the CA, the file of --ledger and an API key if they do not exist.",
)
@click.option("--ephemeral", is_flag=True, help="Create a CA that is deleted when the server stops.")
@options.profiles_option
@click.option("--audit-log", type=FILE, show_default="stderr", help="Append events to this file.")
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
    type=FILE,
    envvar=LEDGER,
    show_envvar=True,
    help="Remember ACME accounts, orders and revoked certificates in this file.",
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
@click.option("--tls-cert", type=FILE, help="Serve HTTPS with this PEM certificate.")
@click.option("--tls-key", type=FILE, help="Use this PEM key for --tls-cert.")
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
    "--metrics",
    type=options.parse_listener,
    metavar="[ADDRESS:]PORT",
    help="Serve metrics for Prometheus, and probes, by plain HTTP on this port of 127.0.0.1 or the address.",
)
@click.option(
    "--est-line-length",
    type=click.Choice(EST_LINE_LENGTHS),
    default="0",
    envvar=EST_LINE_LENGTH,
    show_envvar=True,
    help="Break the base64 of EST responses into lines of this length, as libest requires; 0 for one line.",
)
@click.option("--insecure-http", is_flag=True, help="Allow plain HTTP on addresses other than loopback.")
@json_option
def serve(**arguments: Any) -> int:  # noqa: ANN401 - each option has its own type
    """Run the certificate authority on this machine.

    The first start with --create or --ephemeral creates a CA and an API key, and prints them. The output
    appears when the server is ready, with --json as one object.
    """
    options.forbid_together("--ca", "--ephemeral")
    options.forbid_together("--status-port", "--no-status-port")
    if options.is_option("renew_over") and not arguments["renew_before"]:
        raise click.UsageError("--renew-over requires --renew-before")
    settings = SimpleNamespace(**arguments)
    hardening.disable_core_dumps_and_ptrace()
    log_level.configure(settings.log_level)
    notifier = Notifier.take(os.environ)
    is_https = serve_checks.verify_tls_options(settings)
    # SIGTERM raises SystemExit, so that what a start created is deleted; SIGHUP waits from here on.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    document, policy = _load_document(settings, settings.ca)
    serve_checks.verify_ca(settings)
    with ExitStack() as stack:
        listeners = _listen(settings.host, settings.port, "--port", stack)
        status_listeners = []
        if is_https and not settings.no_status_port:
            status_listeners = _listen(settings.host, _status_port(settings), "--status-port", stack)
        metrics_listeners = []
        if settings.metrics:
            host, port = settings.metrics
            metrics_listeners = _listen(host, port, "--metrics", stack, "--metrics")
        ports = _port(listeners), _port(status_listeners), _port(metrics_listeners)
        serve_checks.verify_ledger(settings)
        directory = settings.ca
        if settings.ephemeral:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certlet-")))
            os.environ.pop(CA_PASSPHRASE_FILE, None)
            os.environ[CA_PASSPHRASE] = secrets.token_urlsafe()  # SIGKILL may leave the files, encrypted
        directory = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() fails on a loop of links
        rollback = stack.enter_context(ExitStack())  # removes what this start creates, if it fails
        environ = _worker_environ(settings, directory)
        created = first_start.create_missing(settings, directory, environ, rollback)
        configuration = Configuration(
            document={},
            public_document={},
            listeners=[listener.fileno() for listener in listeners],
            port=ports[0],
            status_listeners=[listener.fileno() for listener in status_listeners],
            workers=settings.workers,
            key_file=str(directory / KEY_FILE),
            env_keys=_load_env_keys(),
            ledger=environ.get(LEDGER, ""),
            no_usage_plan=settings.no_usage_plan,
            access_log_format=settings.access_log_format,
            stage=settings.stage or "",
            **_configure_monitoring(settings, metrics_listeners, has_ledger=_has_ledger(settings)),
            health_event=self_issued.internal_event("GET", "/health"),
            **_configure_tls(settings, stack),
        )
        # A reload creates nothing.
        existing = SimpleNamespace(**vars(settings) | {"ca": directory, "create": False, "ephemeral": False})

        def load() -> Setup:
            document, policy = _load_document(existing, directory)
            serve_checks.verify_ca(existing)
            serve_checks.verify_ledger(existing)
            serve_checks.verify_lists(directory)
            return _setup(existing, directory, configuration, document, policy)

        setup = _setup(settings, directory, configuration, document, policy)
        reloads = Reloads(existing, load)

        def announce() -> None:
            reloads.remember(setup)
            serve_announcement.announce(settings, directory, policy, ports, created)
            rollback.pop_all()  # what was created stays, since the operator has the API key

        listening_sockets = [*listeners, *status_listeners, *metrics_listeners]
        return Supervisor(HANDLER, notifier).run(setup, listening_sockets, announce, reloads.reload)


def _load_document(
    settings: SimpleNamespace, directory: Path
) -> tuple[openapi.OpenAPIDocument, IssuancePolicy]:
    """Load the contract, and verify the settings and the policy."""
    serve_checks.verify_environment(settings, _worker_environ(settings, directory))
    document = openapi.with_public_url(options.load_document(settings.profiles), settings.public_url)
    policy = openapi.parse_policy(document)
    serve_checks.verify_policy(settings, policy, has_ledger=_has_ledger(settings))
    return document, policy


def _has_ledger(settings: SimpleNamespace) -> bool:
    return bool(settings.ledger or os.environ.get(LEDGER_TABLE))


def _setup(
    settings: SimpleNamespace,
    directory: Path,
    configuration: Configuration,
    document: openapi.OpenAPIDocument,
    policy: IssuancePolicy,
) -> Setup:
    """Return what to start the processes with; `configuration` has the parts that stay."""
    return Setup(
        replace(
            configuration,
            document=openapi.with_greedy_parameters(document),
            public_document=openapi.public(document),
        ),
        _worker_environ(settings, directory),
        _validator_arguments(settings, policy, directory),
        accepts_tokens=bool(policy.identities),
    )


def _listen(
    host: str, port: int, option: str, stack: ExitStack, host_option: str = "--host"
) -> list[socket.socket]:
    """Listen until the end of the stack."""
    listeners = listening.listen(host, port, option, host_option)
    stack.callback(listening.close_all, listeners)
    return listeners


def _port(listeners: list[socket.socket]) -> int:
    """Return the port of listeners; 0 if there are none."""
    return int(listeners[0].getsockname()[1]) if listeners else 0


def _status_port(settings: SimpleNamespace) -> int:
    """Return the port of plain HTTP next to HTTPS."""
    port: int | None = settings.status_port
    return {0: 0, 443: 80, 65535: 65534}.get(settings.port, settings.port + 1) if port is None else port


def _configure_tls(settings: SimpleNamespace, stack: ExitStack) -> dict[str, Any]:
    """Return the gateway's TLS configuration: empty, the operator's files, or a self-issued certificate."""
    if settings.tls_cert:
        files = {"tls_certificate": str(settings.tls_cert), "tls_key": str(settings.tls_key)}
    elif settings.tls:
        names = serve_checks.tls_names(settings)
        files = stack.enter_context(self_issued.self_issued_tls(names, settings.tls_profile))
        files["tls_name"] = next(iter(settings.tls_name), "")
    else:
        return {}
    return {**files, "tls_client_ca_event": self_issued.internal_event("GET", "/ca.pem")}


def _configure_monitoring(
    settings: SimpleNamespace, listeners: list[socket.socket], *, has_ledger: bool
) -> dict[str, Any]:
    """Return the gateway's configuration of the listener for monitoring; empty without --metrics."""
    if not settings.metrics:
        return {}
    paths = {"health": "/health", "ca": "/ca", "crl": "/ca.crl"}
    return {
        "metrics_listeners": [listener.fileno() for listener in listeners],
        "probe_events": {name: self_issued.internal_event("GET", path) for name, path in paths.items()},
        "has_ledger": has_ledger,
    }


def _worker_environ(settings: SimpleNamespace, directory: Path) -> dict[str, str]:
    """Return the environment of the workers: that of this process, and the settings from the arguments.

    They get the passphrase of CERTLET_CA_PASSPHRASE_FILE, and need no access to the file.
    """
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
    if environ.pop(CA_PASSPHRASE_FILE, None) is not None:
        environ[CA_PASSPHRASE] = os.fsdecode(input_files.read_secret(CA_PASSPHRASE) or b"")
    return environ | {name: os.path.abspath(path) for name, path in paths.items() if path}  # noqa: PTH100 - as above


def _validator_arguments(settings: SimpleNamespace, policy: IssuancePolicy, directory: Path) -> list[str]:
    """Return the arguments of the validator of challenges; empty if no policy requires a challenge."""
    if not settings.ledger or not policy.has_challenges:
        return []
    return [str(directory), os.path.abspath(settings.ledger), *settings.acme_networks]  # noqa: PTH100 - resolve() fails on a loop of links


def _load_env_keys() -> dict[str, str]:
    """Return the digest of the API key from the environment, by its name."""
    value = os.environ.get(API_KEY)
    return {DEFAULT_KEY: api_keys.hash_key(value)} if value else {}
