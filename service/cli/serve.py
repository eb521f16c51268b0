"""`certlet serve`: the contract, served on this machine."""

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
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import hardening, openapi, self_issued
from service.cli import options
from service.cli.options import API_KEY, KEY_FILE
from service.cli.terminal import CommandError, say
from service.gateway import api_keys, sandbox
from service.gateway.configuration import Configuration
from service.keystore import ca_directory
from service.pki import certificate_reader
from service.pki.errors import IssuanceError
from service.settings import AUDIT_LOG, CA, CA_KEY, CA_PASSPHRASE, PROFILES, PUBLIC_URL
from service.supervisor import Supervisor

HANDLER: Final = "service.aws_lambda.handler"
DEFAULT_KEY: Final = "default"  # the name of the API key that the first start makes, or the environment gives


@click.command(epilog="Example: certlet serve --tls --host 0.0.0.0 --tls-name ca.example.com")
@click.option("--host", metavar="HOST", default="127.0.0.1", help="Listen at this address.")
@click.option(
    "--port", metavar="PORT", type=click.IntRange(0, 65535), default=8080, help="0 takes a free one."
)
@click.option(
    "--ca",
    type=options.DIRECTORY,
    default=options.DEFAULT_CA,
    help="Use the CA in this directory. One is made if there is none.",
)
@click.option("--ephemeral", is_flag=True, help="Make a CA that ends with the server.")
@options.profiles_option
@click.option("--audit-log", type=options.FILE, show_default="stderr", help="Append to this file.")
@click.option(
    "--workers", metavar="N", type=click.IntRange(1, 64), default=1, help="Handle this many calls at once."
)
@click.option("--no-usage-plan", is_flag=True, help="Apply no usage plan: no 429.")
@click.option(
    "--stage",
    type=options.matching("[A-Za-z0-9_-]{1,128}", "a stage: 1 to 128 letters, digits, _ and -"),
    metavar="STAGE",
    help="Begin every path with this segment, as on AWS.",
)
@options.public_url_option("--url")
@click.option("--tls-cert", type=options.FILE, help="Serve HTTPS with this certificate, PEM.")
@click.option("--tls-key", type=options.FILE, help="Use its key, PEM.")
@click.option("--tls", is_flag=True, help="Serve HTTPS with a certificate of the CA itself.")
@click.option(
    "--tls-name",
    multiple=True,
    type=options.parse_host,
    metavar="NAME",
    help="Name this DNS name or IP address in it (repeatable).",
)
@click.option(
    "--tls-profile", metavar="NAME", show_default="the default one", help="Issue it under this profile."
)
@click.option("--insecure-http", is_flag=True, help="Allow HTTP off loopback.")
def serve(**arguments: Any) -> int:  # noqa: ANN401 - each option has its own type
    """Serve the contract on this machine."""
    options.forbid_together("--ca", "--ephemeral")
    settings = SimpleNamespace(**arguments)
    hardening.disable_core_dumps_and_ptrace()
    is_https = _is_https(settings)
    if settings.tls_cert and settings.tls_key:
        _verify_pair(settings.tls_cert, settings.tls_key)
    if settings.audit_log:
        _try(settings.audit_log)
    # From here on a signal unwinds, so that an ephemeral CA is never left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    document = openapi.with_public_url(options.load_document(settings.profiles), settings.public_url)
    with ExitStack() as stack:
        directory = settings.ca
        if settings.ephemeral:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certlet-")))
            os.environ[CA_PASSPHRASE] = secrets.token_urlsafe()  # nobody can decrypt what SIGKILL leaves
        directory = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() fails on a loop of links
        if not ca_directory.has_ca(directory):
            _init_in_child(directory)
            root_key = directory / ca_directory.ROOT_KEY
            hint = (
                "deleted when the server stops" if settings.ephemeral else f"move {root_key} to a safe place"
            )
            say(f"New CA    {directory} ({hint})")
        key_file = api_keys.KeyFile(directory / KEY_FILE)
        extra, shown = _api_key(key_file)
        unseen = stack.enter_context(ExitStack())
        if shown:  # a key that nobody ever saw is of no use, and the next start would show none
            unseen.callback(key_file.remove, DEFAULT_KEY)
        configuration = Configuration(
            document=document,
            public_document=openapi.public(document),
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            key_file=str(key_file.path),
            env_keys=extra,
            no_usage_plan=settings.no_usage_plan,
            stage=settings.stage or "",
            **_tls(settings, document, stack),
        )
        for warning in (*_warnings(settings), *options.exposures(_secret_files(settings, directory))):
            say(f"Warning   {warning}")

        def announce(port: int) -> None:
            unseen.pop_all()
            scheme = "https" if is_https else "http"
            stage = f"/{settings.stage}" if settings.stage else ""
            trust = f"--cacert {directory / ca_directory.ROOT_CERTIFICATE} " if settings.tls else ""
            _announce(f"{scheme}://{_address(settings)}:{port}{stage}", shown, trust)

        return Supervisor(HANDLER, _environ(settings, directory)).run(configuration, announce)


def _is_https(settings: SimpleNamespace) -> bool:
    """Whether it speaks HTTPS, of options that go together."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if settings.tls and settings.tls_cert:
        raise click.UsageError("--tls makes a certificate, and --tls-cert names one: give one of the two")
    if (settings.tls_name or settings.tls_profile) and not settings.tls:
        raise click.UsageError("--tls-name and --tls-profile go with --tls")
    is_https = bool(settings.tls or settings.tls_cert)
    if not _is_loopback(settings.host) and not settings.insecure_http and not is_https:
        raise CommandError(
            f"{settings.host} is not loopback, and API keys would cross the network in clear text: "
            "give --tls, or --tls-cert and --tls-key, put a TLS proxy in front, or say --insecure-http"
        )
    return is_https


def _try(audit_log: Path) -> None:
    """Open it before anything is made; but no pipe, whose reader would take our leaving for the end."""
    try:
        if not audit_log.is_fifo():
            os.close(os.open(audit_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise CommandError(f"--audit-log {audit_log}: {error.strerror}") from error


def _warnings(settings: SimpleNamespace) -> Iterator[str]:
    if settings.no_usage_plan:
        yield "the usage plan is off (--no-usage-plan)"
    if settings.tls and not settings.tls_name and _is_unspecified(settings.host):
        yield "its certificate is for localhost, and clients elsewhere refuse it: give --tls-name"
    if not sandbox.is_supported():
        yield "this kernel has no Landlock, so the HTTP process may read what this user may read"


def _secret_files(settings: SimpleNamespace, directory: Path) -> Iterator[Path]:
    """The files that only this user should be able to read, whether they exist or not."""
    names = (ca_directory.ROOT_KEY, ca_directory.SIGNING_KEY, ca_directory.SERIAL_KEY, KEY_FILE)
    yield from (directory / name for name in (*names, os.environ.get(CA_KEY, "").removeprefix("file:")))
    if settings.tls_key:
        yield settings.tls_key


def _tls(settings: SimpleNamespace, document: openapi.OpenAPIDocument, stack: ExitStack) -> dict[str, Any]:
    """The gateway's HTTPS: none, with the operator's files, or with a certificate of the CA itself."""
    if settings.tls_cert:
        files = {"tls_certificate": str(settings.tls_cert), "tls_key": str(settings.tls_key)}
    elif settings.tls:
        try:
            profile = openapi.parse_policy(document).get(settings.tls_profile)
        except IssuanceError as error:
            raise CommandError(f"--tls-profile: {error}") from error
        if not profile.is_tls_server:
            raise CommandError(f"the profile {profile.name} is not for servers: name one with --tls-profile")
        files = stack.enter_context(self_issued.self_issued_tls(_names(settings), settings.tls_profile))
    else:
        return {}
    return {**files, "tls_client_ca_event": self_issued.internal_event("GET", "/ca.pem")}


def _verify_pair(certificate: Path, key: Path) -> None:
    """Whether the operator's files are a certificate and its key, told in words that OpenSSL has not."""
    try:
        public_key = certificate_reader.parse_pem(_read("--tls-cert", certificate)).public_key()
    except ValueError as error:
        raise CommandError(f"--tls-cert {certificate}: {error}") from error
    data = _read("--tls-key", key)
    try:
        fits = load_pem_private_key(data, None).public_key() == public_key
    except TypeError:
        if sys.stdin.isatty():  # where OpenSSL asks
            return
        message = f"{key} is encrypted, and there is no terminal to ask for its passphrase"
        raise CommandError(message) from None
    except UnsupportedAlgorithm:  # of a rare kind, which OpenSSL may know
        return
    except Exception:  # noqa: BLE001 - of no common class; its text may quote the file, so it is not kept
        raise CommandError(f"there is no private key in {key}, in PEM (--tls-key)") from None
    if not fits:
        raise CommandError(f"the key in {key} is not the one of the certificate in {certificate}")


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{option} {path}: {error.strerror}") from error


def _names(settings: SimpleNamespace) -> list[str]:
    """What the certificate of HTTPS names, if it is the CA's own; else nothing."""
    if settings.tls_name or not settings.tls:
        return list(settings.tls_name)
    usual = ["localhost", "127.0.0.1", "::1"]
    return usual if settings.host in usual or _is_unspecified(settings.host) else [*usual, settings.host]


def _address(settings: SimpleNamespace) -> str:
    """The host of its URL: what it listens at, unless that is no one's address, or not in the certificate."""
    host, names = settings.host, _names(settings)
    if names and host not in names:
        host = names[0]
    elif _is_unspecified(host):
        host = "localhost"
    return f"[{host}]" if ":" in host else host


def _environ(settings: SimpleNamespace, directory: Path) -> dict[str, str]:
    """The function's environment: ours, and what the arguments say."""
    paths = {CA: directory, PROFILES: settings.profiles, AUDIT_LOG: settings.audit_log}
    environ = os.environ | {PUBLIC_URL: settings.public_url or ""}
    return environ | {name: os.path.abspath(path) for name, path in paths.items() if path}  # noqa: PTH100 - as above


def _announce(url: str, api_key: str | None, trust: str) -> None:
    say(f"Web form  {url}/sign")
    say(f"API docs  {url}/docs")
    if api_key:
        say(f"API key   {api_key}  (shown once)")
    say("Try it    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\")
    say("            -keyout my.key -subj /CN=my.example.com -out my.csr")
    key = api_key or f"${API_KEY}"
    say(f'          curl -sS {trust}-H "x-api-key: {key}" --data-binary @my.csr {url}/sign.pem')


def _api_key(key_file: api_keys.KeyFile) -> tuple[dict[str, str], str | None]:
    """Keys that are in no file, and the value to be shown, which is a new key's alone."""
    if given := os.environ.get(API_KEY):
        return {DEFAULT_KEY: api_keys.hash_key(given)}, None
    if key_file.read():
        return {}, None
    value = api_keys.generate_key()
    key_file.add(DEFAULT_KEY, value)
    return {}, value


def _init_in_child(directory: Path) -> None:
    """Make the CA in a process that ends at once, so that this one never holds a key."""
    command = [sys.executable, "-P", "-m", "service.cli", "init", str(directory)]
    init = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if init.returncode:
        raise CommandError(init.stderr.strip().removeprefix("certlet: ") or "the CA could not be made")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host
