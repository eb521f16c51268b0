"""`certlet serve`, and `certlet key`: the API keys of what is served."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import contract, foreman, secrecy
from service.cli import arguments
from service.cli.arguments import API_KEY, DEFAULT_CA, KEY_FILE, Commands
from service.cli.terminal import ArgumentsError, CommandError, say, warn
from service.foreman import Foreman
from service.gateway import usage
from service.gateway.configuration import Configuration
from service.pki.errors import IssuanceError
from service.settings import AUDIT_LOG, CA, PROFILES
from service.signers import file

HANDLER: Final = "service.aws_lambda.handler"
DEFAULT_KEY: Final = "default"  # the name of the API key that the first start makes, or the environment gives


def add_to(commands: Commands) -> None:
    """Add `serve` and `key`."""
    serve = commands.add_parser("serve", help="serve the contract on this machine")
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen at; else 127.0.0.1")
    serve.add_argument("--port", type=arguments.port, default=8080, help="0 takes a free one; else 8080")
    where = serve.add_mutually_exclusive_group()
    where.add_argument("--ca", type=Path, default=DEFAULT_CA, metavar="DIR", help="made if there is none")
    where.add_argument("--ephemeral", action="store_true", help="a CA that ends with the server")
    arguments.take_profiles(serve)
    serve.add_argument("--audit-log", type=Path, metavar="FILE", help="added to; else stderr")
    serve.add_argument("--workers", type=arguments.count, default=1, metavar="N", help="calls at once")
    serve.add_argument("--unlimited", action="store_true", help="no usage plan: no 429")
    serve.add_argument("--stage", type=arguments.stage, help="first segment of every path, as on AWS")
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS with this, PEM")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    serve.add_argument("--tls", action="store_true", help="serve HTTPS with a certificate of the CA itself")
    serve.add_argument(
        "--tls-name",
        action="append",
        type=arguments.host,
        metavar="NAME",
        help="a DNS name or IP address of it",
    )
    serve.add_argument("--tls-profile", metavar="NAME", help="its certificate profile; else the default one")
    serve.add_argument("--insecure-http", action="store_true", help="allow HTTP off loopback")
    serve.set_defaults(run=_serve)

    key = commands.add_parser("key", help="API keys of the local gateway")
    actions = key.add_subparsers(metavar="ACTION", required=True)
    for name, run, told in (
        ("add", _key_add, f"make one, and show it, the one time that it is shown; or keep ${API_KEY}"),
        ("list", _key_list, "the names, and the SHA-256 of each"),
        ("remove", _key_remove, "which a running server notices"),
    ):
        action = actions.add_parser(name, help=told)
        action.set_defaults(run=run)
        arguments.take_ca(action)
        if name != "list":
            action.add_argument("name", metavar="NAME", help="whose key it is")


def _serve(options: argparse.Namespace) -> int:
    secrecy.seal()
    is_https = _is_https(options)
    if options.tls_cert:
        _verify_pair(options.tls_cert, options.tls_key)
    if options.audit_log:
        _try(options.audit_log)
    # From here on a signal unwinds, so that an ephemeral CA is never left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    document = arguments.document(options.profiles)
    with ExitStack() as stack:
        if options.ephemeral:
            options.ca = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certlet-")))
        directory = Path(os.path.abspath(options.ca))  # noqa: PTH100 - resolve() fails on a loop of links
        if not file.exists(directory):
            _init_in_child(directory)
            kept = "until this server ends" if options.ephemeral else f"move {directory / file.ROOT_KEY} away"
            say(f"New CA    {directory} ({kept})")
        key_file = usage.KeyFile(directory / KEY_FILE)
        extra, shown = _api_key(key_file)
        unseen = stack.enter_context(ExitStack())
        if shown:  # a key that nobody ever saw is of no use, and the next start would show none
            unseen.callback(key_file.remove, DEFAULT_KEY)
        configuration = Configuration(
            document=document,
            published=contract.plain(document),
            host=options.host,
            port=options.port,
            workers=options.workers,
            key_file=str(key_file.path),
            extra_keys=extra,
            unlimited=options.unlimited,
            stage=options.stage or "",
            **_tls(options, document, stack),
        )
        for warning in _warnings(options):
            say(f"Warning   {warning}")

        def announce(port: int) -> None:
            unseen.pop_all()
            scheme = "https" if is_https else "http"
            stage = f"/{options.stage}" if options.stage else ""
            trust = f"--cacert {directory / file.ROOT_CERTIFICATE} " if options.tls else ""
            _announce(f"{scheme}://{_address(options)}:{port}{stage}", shown, trust)

        return Foreman(HANDLER, _environ(options, directory)).run(configuration, announce)


def _is_https(options: argparse.Namespace) -> bool:
    """Whether it speaks HTTPS, of options that go together."""
    if bool(options.tls_cert) != bool(options.tls_key):
        raise ArgumentsError("--tls-cert and --tls-key go together")
    if options.tls and options.tls_cert:
        raise ArgumentsError("--tls makes a certificate, and --tls-cert names one: give one of the two")
    if (options.tls_name or options.tls_profile) and not options.tls:
        raise ArgumentsError("--tls-name and --tls-profile go with --tls")
    is_https = bool(options.tls or options.tls_cert)
    if not _is_loopback(options.host) and not options.insecure_http and not is_https:
        raise CommandError(
            f"{options.host} is not loopback, and API keys would cross the network in clear text: "
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


def _warnings(options: argparse.Namespace) -> Iterator[str]:
    if options.unlimited:
        yield "the usage plan is off (--unlimited)"
    if options.tls and not options.tls_name and _is_unspecified(options.host):
        yield "its certificate is for localhost, and clients elsewhere refuse it: give --tls-name"


def _tls(options: argparse.Namespace, document: contract.Document, stack: ExitStack) -> dict[str, Any]:
    """The gateway's HTTPS: none, with the operator's files, or with a certificate of the CA itself."""
    if options.tls_cert:
        files = {"tls_certificate": str(options.tls_cert), "tls_key": str(options.tls_key)}
    elif options.tls:
        try:
            profile = contract.profiles(document).get(options.tls_profile)
        except IssuanceError as error:
            raise CommandError(f"--tls-profile: {error}") from error
        if not profile.is_tls_server:
            raise CommandError(f"the profile {profile.name} is not for servers: name one with --tls-profile")
        files = stack.enter_context(foreman.own_certificate(_names(options), options.tls_profile))
    else:
        return {}
    return {**files, "tls_clients": foreman.event("GET", "/ca.pem")}


def _verify_pair(certificate: Path, key: Path) -> None:
    """Whether the operator's files are a certificate and its key, told in words that OpenSSL has not."""
    try:
        held = x509.load_pem_x509_certificate(_read("--tls-cert", certificate))
    except ValueError as error:
        raise CommandError(f"there is no certificate in {certificate}, in PEM (--tls-cert)") from error
    data = _read("--tls-key", key)
    try:
        fits = load_pem_private_key(data, None).public_key() == held.public_key()
    except TypeError:
        if sys.stdin.isatty():  # where OpenSSL asks
            return
        raise CommandError(
            f"{key} is encrypted, and there is no terminal to ask for its passphrase"
        ) from None
    except UnsupportedAlgorithm:  # of a rare kind, which OpenSSL may know
        return
    except ValueError:  # its text may quote the file, so it is not kept
        raise CommandError(f"there is no private key in {key}, in PEM (--tls-key)") from None
    if not fits:
        raise CommandError(f"the key in {key} is not the one of the certificate in {certificate}")


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{option} {path}: {error.strerror}") from error


def _names(options: argparse.Namespace) -> list[str]:
    """What the certificate of HTTPS names, if it is the CA's own; else nothing."""
    if options.tls_name or not options.tls:
        return list(options.tls_name or ())
    usual = ["localhost", "127.0.0.1", "::1"]
    return usual if options.host in usual or _is_unspecified(options.host) else [*usual, options.host]


def _address(options: argparse.Namespace) -> str:
    """The host of its URL: what it listens at, unless that is no one's address, or not in the certificate."""
    host, names = options.host, _names(options)
    if names and host not in names:
        host = names[0]
    elif _is_unspecified(host):
        host = "localhost"
    return f"[{host}]" if ":" in host else host


def _environ(options: argparse.Namespace, directory: Path) -> dict[str, str]:
    """The function's environment: ours, and what the options say."""
    stated = {CA: directory, PROFILES: options.profiles, AUDIT_LOG: options.audit_log}
    given = {name: os.path.abspath(path) for name, path in stated.items() if path}  # noqa: PTH100 - as above
    return {**os.environ, **given}


def _announce(url: str, api_key: str | None, trust: str) -> None:
    say(f"Form      {url}/sign")
    say(f"Contract  {url}/docs")
    if api_key:
        say(f"API key   {api_key}  (shown once)")
    say("Sign one  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\")
    say("            -keyout my.key -subj /CN=my.example.com -out my.csr")
    key = api_key or f"${API_KEY}"
    say(f'          curl -sS {trust}-H "x-api-key: {key}" --data-binary @my.csr {url}/sign.pem')


def _api_key(key_file: usage.KeyFile) -> tuple[dict[str, str], str | None]:
    """Keys that are in no file, and the value to be shown, which is a new key's alone."""
    if given := os.environ.get(API_KEY):
        return {DEFAULT_KEY: usage.digest(given)}, None
    if key_file.read():
        return {}, None
    value = usage.generate()
    key_file.add(DEFAULT_KEY, value)
    return {}, value


def _init_in_child(directory: Path) -> None:
    """Make the CA in a process that ends at once, so that this one never holds a key."""
    made = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", "service.cli", "init", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise CommandError(made.stderr.strip().removeprefix("certlet: ") or "the CA could not be made")


def _key_add(options: argparse.Namespace) -> None:
    given = os.environ.get(API_KEY)
    value = given or usage.generate()
    try:
        _key_file(options).add(options.name, value)
    except usage.KeyFileError as error:
        hint = f" (${API_KEY} is taken for it: unset that to have another made)" if given else ""
        raise CommandError(f"{error}{hint}") from error
    if given:
        warn(f"note: the key is the one in ${API_KEY}")
    else:
        print(value)  # noqa: T201 - the one time that it is shown


def _key_list(options: argparse.Namespace) -> None:
    for name, digest in _key_file(options).read().items():
        print(f"{digest}  {name}")  # noqa: T201 - what the command is for


def _key_remove(options: argparse.Namespace) -> None:
    _key_file(options).remove(options.name)


def _key_file(options: argparse.Namespace) -> usage.KeyFile:
    return usage.KeyFile(arguments.ca(options.ca) / KEY_FILE)


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
