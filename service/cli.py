"""The command line. Errors are one clear line on stderr and a non-zero exit, never a traceback."""

from __future__ import annotations

import argparse
import functools
import ipaddress
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service import check, client, contract, foreman, many, secrecy
from service.foreman import Foreman, ServeError
from service.gateway import usage
from service.gateway.server import Configuration
from service.pki import ceremony, encoding, keys, names, revocation
from service.pki.errors import IssuanceError
from service.pki.policy import ProfileError
from service.settings import AUDIT_LOG, CA, CA_PASSPHRASE, PROFILES
from service.signers import file, lists

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - its only name

API_KEY: Final = "CERTLET_API_KEY"  # the variable's name, not its value
KEY_FILE: Final = "api-keys.json"
HANDLER: Final = "service.aws_lambda.handler"
DEFAULT_CA: Final = Path("ca")
DEFAULT_URL: Final = "http://127.0.0.1:8080"


class CommandError(Exception):
    """What the command was asked cannot be done; the message is for people."""


def main(arguments: list[str] | None = None) -> int:
    """Run `certlet` with these arguments (those of the process for None).

    Returns:
        0; 1 if it failed; 2 if the arguments make no sense.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (CommandError, client.ClientError, ServeError, usage.KeyFileError, IssuanceError) as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt:
        return 130
    sys.stderr.write(f"certlet: {message}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="certlet", description="A private certificate authority.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serving(commands)
    _add_ceremonies(commands)
    _add_using(commands)
    return parser


def _add_serving(commands: _Commands) -> None:
    serve = commands.add_parser("serve", help="serve the contract on this machine")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=_port, default=8080, help="0 takes a free one")
    where = serve.add_mutually_exclusive_group()
    where.add_argument("--ca", type=Path, default=DEFAULT_CA, metavar="DIR", help="made if there is none")
    where.add_argument("--ephemeral", action="store_true", help="a CA that ends with the server")
    _take_profiles(serve)
    serve.add_argument("--audit-log", type=Path, metavar="FILE", help="added to; else stderr")
    serve.add_argument("--workers", type=_count, default=1, metavar="N", help="calls at once")
    serve.add_argument("--unlimited", action="store_true", help="no usage plan: no 429")
    serve.add_argument("--stage", type=_stage, help="first segment of every path, as on AWS")
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS with this, PEM")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    serve.add_argument("--tls", action="store_true", help="serve HTTPS with a certificate of the CA itself")
    serve.add_argument(
        "--tls-name", action="append", type=_host, metavar="NAME", help="a DNS name or IP address of it"
    )
    serve.add_argument("--tls-profile", metavar="NAME", help="its certificate profile; else the default one")
    serve.add_argument("--insecure-http", action="store_true", help="allow HTTP off loopback")
    serve.set_defaults(run=_serve)

    key = commands.add_parser("key", help="API keys of the local gateway")
    actions = key.add_subparsers(metavar="ACTION", required=True)
    for name, run in (("add", _key_add), ("list", _key_list), ("remove", _key_remove)):
        action = actions.add_parser(name)
        action.set_defaults(run=run)
        action.add_argument("--ca", type=Path, default=DEFAULT_CA, metavar="DIR")
        if name != "list":
            action.add_argument("name", metavar="NAME")


def _add_ceremonies(commands: _Commands) -> None:
    init = commands.add_parser("init", help="make a root CA and a signing CA")
    init.add_argument("directory", type=Path, metavar="DIR")
    init.add_argument("--key", choices=sorted(keys.GENERATORS), default="p-256", type=str.lower)
    init.add_argument("--name", default="Certlet")
    init.add_argument("--permit-dns", action="append", default=[], metavar="DOMAIN", type=_domain)
    init.add_argument("--permit-ip", action="append", default=[], metavar="CIDR", type=_network)
    init.add_argument("--kms", metavar="KEY-ID", help="the signing key is this one in AWS KMS")
    init.set_defaults(run=_init)

    rollover = commands.add_parser("rollover", help="make the CA that takes over from another")
    rollover.add_argument("old", type=Path, metavar="OLD")
    rollover.add_argument("new", type=Path, metavar="NEW", help="a directory, which gets the API keys too")
    rollover.add_argument("--key", choices=sorted(keys.GENERATORS), default="p-256", type=str.lower)
    rollover.add_argument("--kms", metavar="KEY-ID", help="the signing key is this one in AWS KMS")
    beneath = rollover.add_mutually_exclusive_group()
    beneath.add_argument("--root-key", type=Path, metavar="FILE", help=f"else OLD/{file.ROOT_KEY}")
    beneath.add_argument("--new-root", action="store_true", help="which everybody has to trust anew")
    rollover.set_defaults(run=_rollover)

    revoke = commands.add_parser("revoke", help="take a certificate back: GET /ca.crl will list it")
    revoke.add_argument(
        "certificate", metavar="SERIAL|FILE", help="its serial number in hexadecimal, or its file"
    )
    revoke.add_argument("--reason", choices=sorted(revocation.REASONS))
    revoke.add_argument("--ca", type=Path, default=DEFAULT_CA, metavar="DIR")
    revoke.set_defaults(run=_revoke)


def _add_using(commands: _Commands) -> None:
    sign = commands.add_parser("sign", help="have certification requests signed")
    sign.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a request, PEM or DER; - alone is stdin"
    )
    sign.add_argument("--url", default=os.environ.get("CERTLET_URL", DEFAULT_URL))
    sign.add_argument("--api-key", help=f"else ${API_KEY}")
    sign.add_argument("--profile", help="else the default one")
    sign.add_argument("--validity", metavar="P1D", help="how long, ISO 8601; else the profile's")
    sign.add_argument("--not-after", metavar="TIME", help="until when instead, RFC 3339, UTC")
    sign.add_argument("--dry-run", action="store_true", help="say what would be signed, and sign nothing")
    where = sign.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FILE", help="for one request; else stdout")
    where.add_argument(
        "--beside", action="store_true", help="NAME.crt beside each NAME.csr, as for several requests"
    )
    sign.add_argument("--force", action="store_true", help="beside: replace what is there")
    sign.set_defaults(run=_sign)

    document = commands.add_parser("openapi", help="print the document that API Gateway imports")
    document.add_argument("--region")
    document.add_argument("--account", type=_account)
    document.add_argument("--function", metavar="NAME")
    document.add_argument(
        "--template", action="store_true", help="for a CloudFormation template: no ARNs yet"
    )
    document.add_argument("--plain", action="store_true", help="for people and tools: no vendor extensions")
    document.add_argument("--est", action="store_true", help="with EST, which needs a domain of its own")
    _take_profiles(document)
    document.set_defaults(run=_openapi)

    check = commands.add_parser("check", help="check the certificate profiles, your own among them")
    _take_profiles(check)
    check.set_defaults(run=_check)


def _take_profiles(parser: argparse.ArgumentParser) -> None:
    given = os.environ.get(PROFILES)
    parser.add_argument(
        "--profiles",
        type=Path,
        default=Path(given) if given else None,
        metavar="FILE",
        help="your own, merged over the contract's",
    )


def _serve(options: argparse.Namespace) -> int:
    secrecy.seal()
    if bool(options.tls_cert) != bool(options.tls_key):
        raise CommandError("--tls-cert and --tls-key go together")
    if options.tls and options.tls_cert:
        raise CommandError("--tls makes a certificate, and --tls-cert names one: give one of the two")
    if (options.tls_name or options.tls_profile) and not options.tls:
        raise CommandError("--tls-name and --tls-profile go with --tls")
    is_https = bool(options.tls or options.tls_cert)
    if not _is_loopback(options.host) and not options.insecure_http and not is_https:
        raise CommandError(
            f"{options.host} is not loopback, and API keys would cross the network in clear text: "
            "give --tls, or --tls-cert and --tls-key, put a TLS proxy in front, or say --insecure-http"
        )
    # From here on a signal unwinds, so that an ephemeral CA is never left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    document = _contract(options.profiles)
    with ExitStack() as stack:
        if options.ephemeral:
            options.ca = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certlet-")))
        directory = Path(os.path.abspath(options.ca))  # noqa: PTH100 - resolve() fails on a loop of links
        if not file.exists(directory):
            _init_in_child(directory)
            kept = "until this server ends" if options.ephemeral else f"move {directory / file.ROOT_KEY} away"
            _say(f"New CA    {directory} ({kept})")
        key_file = usage.KeyFile(directory / KEY_FILE)
        extra, shown = _api_key(key_file)
        configuration = Configuration(
            document=document,
            host=options.host,
            port=options.port,
            workers=options.workers,
            key_file=str(key_file.path),
            extra_keys=extra,
            unlimited=options.unlimited,
            stage=options.stage or "",
            **_tls(options, document, stack),
        )
        if options.unlimited:
            _say("Warning   the usage plan is off (--unlimited)")

        def announce(port: int) -> None:
            host = f"[{options.host}]" if ":" in options.host else options.host
            scheme = "https" if is_https else "http"
            stage = f"/{options.stage}" if options.stage else ""
            trust = f"--cacert {directory / file.ROOT_CERTIFICATE} " if options.tls else ""
            _announce(f"{scheme}://{host}:{port}{stage}", shown, trust)

        return Foreman(HANDLER, _environ(options, directory)).run(configuration, announce)


def _tls(options: argparse.Namespace, document: contract.Document, stack: ExitStack) -> dict[str, Any]:
    """The gateway's HTTPS: none, with the operator's files, or with a certificate of the CA itself."""
    if options.tls_cert:
        files = {"tls_certificate": str(options.tls_cert), "tls_key": str(options.tls_key)}
    elif options.tls:
        try:
            profile = contract.profiles(document).named(options.tls_profile)
        except IssuanceError as error:
            raise CommandError(f"--tls-profile: {error}") from error
        if not profile.is_for_servers:
            raise CommandError(f"the profile {profile.name} is not for servers: name one with --tls-profile")
        usual = ["localhost", "127.0.0.1", "::1"]
        if not (options.tls_name or options.host in usual or _is_unspecified(options.host)):
            usual.append(options.host)
        files = stack.enter_context(foreman.own_certificate(options.tls_name or usual, options.tls_profile))
    else:
        return {}
    return {**files, "tls_clients": foreman.event("GET", "/ca.pem")}


def _contract(own: Path | None) -> contract.Document:
    try:
        document = contract.load(own)
        contract.profiles(document)
    except contract.ContractError as error:
        raise CommandError(f"{own}: {error}") from error
    except ProfileError as error:
        raise CommandError(f"the profiles have faults, and certlet check gives the lines: {error}") from error
    return document


def _check(options: argparse.Namespace) -> int:
    found = check.findings(options.profiles)
    for each in found:
        print(each)  # noqa: T201 - what the command is for
    return int(any(each.is_fault for each in found))


def _environ(options: argparse.Namespace, directory: Path) -> dict[str, str]:
    """The function's environment: ours, and what the options say."""
    stated = {CA: directory, PROFILES: options.profiles, AUDIT_LOG: options.audit_log}
    given = {name: os.path.abspath(path) for name, path in stated.items() if path}  # noqa: PTH100 - as above
    return {**os.environ, **given}


def _announce(url: str, api_key: str | None, trust: str) -> None:
    _say(f"Form      {url}/sign")
    _say(f"Contract  {url}/docs")
    if api_key:
        _say(f"API key   {api_key}  (shown once)")
    _say("Sign one  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\")
    _say("            -keyout my.key -subj /CN=my.example.com -out my.csr")
    key = api_key or f"${API_KEY}"
    _say(f'          curl -sS {trust}-H "x-api-key: {key}" --data-binary @my.csr {url}/sign.pem')


def _api_key(key_file: usage.KeyFile) -> tuple[dict[str, str], str | None]:
    """Keys that are in no file, and the value to be shown, which is a new key's alone."""
    if given := os.environ.get(API_KEY):
        return {"default": usage.digest(given)}, None
    if key_file.read():
        return {}, None
    value = usage.generate()
    key_file.add("default", value)
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


def _init(options: argparse.Namespace) -> None:
    secrecy.seal()
    passphrase = _passphrase()
    try:
        hierarchy = ceremony.hold(
            options.name,
            secrets.token_hex(3),
            options.key,
            datetime.now(UTC),
            [*options.permit_dns, *options.permit_ip],
            _kms_public_key(options.kms) if options.kms else None,
        )
        file.save(options.directory, hierarchy, passphrase)
    except ValueError as error:
        raise CommandError(str(error)) from error
    _say(f"Made a CA in {options.directory}. Move {options.directory / file.ROOT_KEY} to a safe place:")
    _say("it is not needed for issuing.")


def _rollover(options: argparse.Namespace) -> None:
    secrecy.seal()
    passphrase = _passphrase()
    certificate, chain = file.chain(options.old)
    if not chain:
        raise CommandError(f"{options.old} holds a CA without a root above it")
    root_key = options.root_key or options.old / file.ROOT_KEY
    if not options.new_root and not root_key.exists():
        raise CommandError(f"{root_key} is not there: say where it is with --root-key, or --new-root")
    try:
        hierarchy = ceremony.succeed(
            ceremony.Predecessor(certificate, chain, file.previous(options.old)),
            None if options.new_root else file.private_key(root_key, passphrase),
            secrets.token_hex(3),
            options.key,
            datetime.now(UTC),
            _kms_public_key(options.kms) if options.kms else None,
        )
        file.save(options.new, hierarchy, passphrase)
    except ValueError as error:
        raise CommandError(str(error)) from error
    usage.KeyFile(options.new / KEY_FILE).take_over(usage.KeyFile(options.old / KEY_FILE))
    if (options.old / lists.DENY_LIST).exists():
        shutil.copy(options.old / lists.DENY_LIST, options.new)
    _say(f"Made a CA in {options.new}. Serve it in place of {options.old}: it signs, and both are served.")
    _say(f"Delete {options.new / file.PREVIOUS} when the last certificate of the old one has ended.")


def _revoke(options: argparse.Namespace) -> None:
    given = options.certificate
    certificate = _issued_by(options.ca, Path(given)) if Path(given).is_file() else None
    try:
        number = certificate.serial_number if certificate else revocation.serial_number(given)
    except ValueError as error:
        raise CommandError(f"{error}, nor is there such a file") from error
    now = datetime.now(UTC).replace(microsecond=0)
    reason = revocation.REASONS[options.reason] if options.reason else None
    lists.add_revoked(options.ca, revocation.Revoked(number, now, reason))
    listed = encoding.timestamp(now + revocation.WINDOW)
    _say(f"Revoked {encoding.serial(number)} in {options.ca / lists.REVOKED}; in GET /ca.crl by {listed},")
    _say("if that is the file that is served: on AWS, make and deploy the zip again.")
    if certificate and not _names_a_crl(certificate):
        _say("Warning   the certificate names no CRL (revocation: none): nobody will look, until it ends at")
        _say(f"          {encoding.timestamp(certificate.not_valid_after_utc)}.")


def _issued_by(ca: Path, path: Path) -> x509.Certificate:
    """The certificate in a file, PEM or DER, which the CA must have issued."""
    data = path.read_bytes()
    try:
        load = x509.load_der_x509_certificate if data[:1] == b"0" else x509.load_pem_x509_certificate
        certificate = load(data)
        certificate.verify_directly_issued_by(file.chain(ca)[0])
    except InvalidSignature as error:
        raise CommandError(f"{path} is not signed by the CA in {ca}") from error
    except ValueError as error:
        raise CommandError(f"{path} is no certificate of the CA in {ca}") from error
    return certificate


def _names_a_crl(certificate: x509.Certificate) -> bool:
    return any(isinstance(each.value, x509.CRLDistributionPoints) for each in certificate.extensions)


def _passphrase() -> bytes | None:
    passphrase = os.environ.get(CA_PASSPHRASE)
    if passphrase == "":  # there is none in it  # nosec B105
        raise CommandError(f"{CA_PASSPHRASE} is set but empty")
    return os.fsencode(passphrase) if passphrase else None


def _kms_public_key(key_id: str) -> CertificatePublicKeyTypes:
    try:
        from service.signers import kms  # noqa: PLC0415 - boto3 only where it is asked for
    except ImportError as error:
        raise CommandError("--kms needs boto3: pip install boto3") from error
    return kms.private_key(key_id).public_key()


def _key_add(options: argparse.Namespace) -> None:
    value = os.environ.get(API_KEY) or usage.generate()
    usage.KeyFile(options.ca / KEY_FILE).add(options.name, value)
    if not os.environ.get(API_KEY):
        print(value)  # noqa: T201 - the one time that it is shown


def _key_list(options: argparse.Namespace) -> None:
    for name, digest in usage.KeyFile(options.ca / KEY_FILE).read().items():
        print(f"{digest}  {name}")  # noqa: T201


def _key_remove(options: argparse.Namespace) -> None:
    usage.KeyFile(options.ca / KEY_FILE).remove(options.name)


def _sign(options: argparse.Namespace) -> int:
    api_key = options.api_key or os.environ.get(API_KEY)
    if not api_key:
        raise CommandError(f"an API key is needed: --api-key, or ${API_KEY}")
    wish = client.Wish("", options.profile, options.validity, options.not_after)
    if options.dry_run:
        for path in options.files:
            if len(options.files) > 1:
                _say(f"File      {path}")
            _show(client.examine(options.url, api_key, replace(wish, csr=many.read(path))))
        return 0
    if options.beside or len(options.files) > 1:
        return _sign_beside(options, api_key, wish)
    signed = client.sign(options.url, api_key, replace(wish, csr=many.read(options.files[0])))
    for note in signed.notes:
        sys.stderr.write(f"note: {note}\n")
    bundle = signed.crt_pem + signed.chain_pem
    if options.out:
        options.out.write_text(bundle, encoding="ascii")
    else:
        sys.stdout.write(bundle)
    return 0


def _sign_beside(options: argparse.Namespace, api_key: str, wish: client.Wish) -> int:
    if options.out:
        raise CommandError("--out is for one request; several go beside theirs")
    meant: dict[Path, Path] = {}
    for path in options.files:
        target = many.beside(path)
        if str(path) == "-" or path == target or meant.setdefault(target, path) != path:
            raise CommandError(f"{path}: no certificate can be written beside it, as {target}")
    signing = many.Signing(wish, functools.partial(client.sign_batch, options.url, api_key))
    try:
        signing.run(list(meant.values()), anew=options.force)
    finally:
        tally = signing.tally
        left = f", {tally.total - tally.done} left" if tally.done < tally.total else ""
        _say(f"{tally.signed} signed, {tally.present} there already, {tally.failed} not signed{left}")
    return int(tally.failed > 0)


def _show(planned: client.Planned) -> None:
    _say(f"Subject   {planned.subject or '(empty)'}")
    _say(f"Names     {', '.join(planned.names) or '(none)'}")
    _say(f"Valid     {planned.not_before} to {planned.not_after}")
    _say(f"Profile   {planned.profile}")
    for note in planned.notes:
        _say(f"Note      {note}")


def _openapi(options: argparse.Namespace) -> None:
    target = (options.region, options.account, options.function)
    wanted = (options.template, options.plain, any(target))
    if sum(wanted) != 1 or (any(target) and not all(target)):
        raise CommandError(
            "give --region, --account and --function together, or --template alone, or --plain alone"
        )
    document = _contract(options.profiles)
    if options.plain:
        rendered = contract.plain(document)
    elif options.template:
        rendered = contract.includable(document, est=options.est)
    else:
        rendered = contract.importable(document, *target, est=options.est)
    json.dump(rendered, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


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


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _dns_name(text)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:  # noqa: PLR2004 - TCP's bound
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _stage(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]{1,128}", text):
        raise argparse.ArgumentTypeError("a stage has 1 to 128 letters, digits, _ and -")
    return text


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 64:  # noqa: PLR2004 - more serve nobody
        raise argparse.ArgumentTypeError("a number from 1 to 64")
    return int(text)


def _account(text: str) -> str:
    if not re.fullmatch("[0-9]{12}", text):
        raise argparse.ArgumentTypeError("an AWS account id has 12 digits")
    return text


def _domain(text: str) -> str:
    return _dns_name(text.removeprefix("."))


def _dns_name(text: str) -> str:
    try:
        return names.dns_name(text, "", wildcard=False)
    except IssuanceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
