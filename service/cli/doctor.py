"""`certlet doctor`: find what is wrong on this machine, with the CA in a directory and with a service."""

from __future__ import annotations

import contextlib
import platform
import shlex
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import click
import cryptography
from cryptography import x509
from cryptography.hazmat.backends.openssl import backend

from service import client, exit_status
from service.cli import check, contexts, input_files, inspection, options, serve_checks
from service.cli.options import KEY_FILE
from service.cli.terminal import Command, describe_os_error, json_option, report
from service.exit_status import ExitStatus
from service.gateway import api_keys, sandbox
from service.keystore import ca_directory
from service.pki import encoding
from service.pki.errors import CAError
from service.settings import CA_KEY, CA_PASSPHRASE

_MAX_CLOCK_ERROR: Final = timedelta(seconds=60)  # certificates are valid from five minutes ago on
_CA_ENDS_IN: Final = timedelta(days=90)
_KEY_ENDS_IN: Final = timedelta(days=14)

_ROLLOVER: Final = "certlet rollover creates its successor (docs/how-to/rollover.md)"
_RESTORE: Final = "restore the file from your backup (docs/how-to/backup.md)"
_NEXT_ROOT: Final = "ask the operator for the next root, and run certlet login with it"

# The remedy of a ClientError -> that after the comparison of the clocks.
_REMEDIES: Final = {client.COMPARE_CLOCKS: "if the clocks agree, renew the certificate of the server"}
_DEFAULT_REMEDIES: Final = {
    ExitStatus.NOT_PERMITTED: "ask the operator for an API key, and run certlet login",
    ExitStatus.UNREACHABLE: "check the URL, the network and the server",
    ExitStatus.TRY_LATER: "try again later",
    ExitStatus.REFUSED: "check the URL, which includes the stage",
}


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """What was found about a subject, and what to do; no remedy if nothing is wrong."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


@click.command(cls=Command, uses_service=True, epilog="Example: certlet doctor --ca /var/lib/certlet/ca")
@options.ca_option
@json_option
@options.service_options
def doctor(*, ca: Path, service: client.Service, credentials: Callable[[], client.Credentials]) -> int:
    """Find what is wrong with this machine, a CA and a service.

    The CA is that in --ca, if there is one: its files, their modes, its chain and key, what ends when, and
    the URLs in its certificates. The service is that of --url or certlet login: its root, its clock, and
    whether it accepts the API key. Each finding has a remedy.

    Exit status: 0 if there is no error, even with warnings; 1 if there is one; 2 if the arguments are
    invalid; 4 if the file of --token-file cannot be read.
    """
    findings = [*_machine(), *_ca(ca, datetime.now(UTC)), *_service(service, credentials)]
    for finding in findings:
        remedy = f": {finding.remedy}" if finding.remedy else ""
        line = f"{finding.level.capitalize():<9} {finding.subject}: {finding.text}{remedy}"
        report(finding._asdict(), line, result=line if finding.level is Level.ERROR else "")
    return int(any(finding.level is Level.ERROR for finding in findings))


def _machine() -> Iterator[Finding]:
    """Examine the versions, the sandbox and the files of this user."""
    document = options.load_document(None)
    versions = (
        f"certlet {document['info']['version']}",
        f"Python {platform.python_version()}",
        f"cryptography {cryptography.__version__}",
        backend.openssl_version_text(),
    )
    yield Finding(Level.OK, "versions", ", ".join(versions))
    plan = document["x-usage-plan"]
    limits = (
        f"{plan['rate']} requests a second, {plan['burst']} at once and {plan['quota']} a {plan['period']}"
    )
    yield Finding(Level.OK, "usage plan", f"certlet serve permits each API key {limits.lower()}")
    if sandbox.is_supported():
        yield Finding(Level.OK, "sandbox", "this kernel has Landlock")
    else:
        yield Finding(Level.WARNING, "sandbox", sandbox.UNSUPPORTED, "use Linux 5.13 or newer with Landlock")
    yield from _exposed([contexts.path()])


def _exposed(paths: Iterable[Path]) -> Iterator[Finding]:
    for text, remedy in input_files.find_exposed(paths):
        yield Finding(Level.ERROR, "file", text, remedy)


def _ca(ca: Path, now: datetime) -> Iterator[Finding]:
    """Examine the CA in a directory, if there is one."""
    try:
        if not check.has_ca(ca):
            yield Finding(Level.OK, "CA", f"there is none in {ca}, which a client does not need")
            return
        signing, chain = ca_directory.load_chain(ca)
        yield from _exposed(serve_checks.secret_files(ca))
        for certificate in (signing, *chain):
            yield _end("CA", certificate, now, _ROLLOVER)
        for text in check.find_ca_errors(ca):
            variables = (f"correct {name}, or " for name in (CA_PASSPHRASE, CA_KEY) if name in text)
            yield Finding(Level.ERROR, "CA", text, f"{next(variables, '')}{_RESTORE}")
        for path, problem in check.find_ca_problems(ca):
            text, _, remedy = problem.removesuffix(")").rpartition(" (" if problem.endswith(")") else ": ")
            yield Finding(Level.WARNING, str(path), text or remedy, remedy if text else "")
        yield from _ending_api_keys(ca, now)
    except (CAError, OSError, api_keys.KeyFileError, click.ClickException) as error:
        yield _ca_failure(error)
        return
    for url in dict.fromkeys(url for _, url in check.status_urls(ca)):
        yield _reachability(url)


def _ca_failure(error: Exception) -> Finding:
    """Return the finding of an error after which the CA is not examined any more."""
    text, remedy = describe_os_error(error) if isinstance(error, OSError) else str(error), _RESTORE
    if exit_status.of_error(error) is ExitStatus.NOT_PERMITTED:
        remedy = "run certlet doctor as the user of certlet serve"
    elif isinstance(error, click.ClickException):
        text, _, remedy = text.partition(": ")
    return Finding(Level.ERROR, "CA", text, remedy)


def _ending_api_keys(ca: Path, now: datetime) -> Iterator[Finding]:
    with contextlib.suppress(api_keys.KeyFileError):  # it is a finding already
        for key in api_keys.KeyFile(ca / KEY_FILE).read():
            if key.expires and key.expires < now + _KEY_ENDS_IN:
                text = f"{key.key_id} of {key.name} ends at {encoding.format_timestamp(key.expires)}"
                remedy = f"certlet api-key add {shlex.quote(key.name)} creates another one"
                yield Finding(Level.WARNING, "API key", text, remedy)


def _end(subject: str, certificate: x509.Certificate, now: datetime, remedy: str) -> Finding:
    """Examine when a certificate of a CA ends; `remedy` is for one that has ended, or ends soon."""
    name, end = certificate.subject.rfc4514_string(), certificate.not_valid_after_utc
    text = f"{name} ends at {encoding.format_timestamp(end)}"
    if now < certificate.not_valid_before_utc:
        start = encoding.format_timestamp(certificate.not_valid_before_utc)
        return Finding(Level.ERROR, "clock", f"it is before the start of {name}, {start}", "set the clock")
    level = Level.ERROR if end <= now else Level.WARNING if end < now + _CA_ENDS_IN else Level.OK
    return Finding(level, subject, text, "" if level is Level.OK else remedy)


def _reachability(url: str) -> Finding:
    """Examine a URL at which verifiers fetch the CRL, OCSP responses or the issuer."""
    try:
        client.fetch_date(url)
    except client.ClientError:
        remedy = "let its host and port lead to the server, for all who verify certificates"
        return Finding(Level.WARNING, "URL in certificates", f"{url} does not respond", remedy)
    return Finding(Level.OK, "URL in certificates", f"{url} responds")


def _service(service: client.Service, credentials: Callable[[], client.Credentials]) -> Iterator[Finding]:
    """Examine the root, the clock, TLS and the API key of a service."""
    now = datetime.now(UTC)
    if service.root_pem:
        yield _end("root", x509.load_pem_x509_certificate(service.root_pem.encode()), now, _NEXT_ROOT)
    try:
        date, now = client.fetch_date(service.url), datetime.now(UTC)
    except client.ClientError as error:
        yield _failure(Level.WARNING, error)
        return
    difference = now - date
    if abs(difference) > _MAX_CLOCK_ERROR:
        here, there = map(encoding.format_timestamp, (now, date))
        relation = "ahead of" if now > date else "behind"
        text = (
            f"this machine's ({here}) is {inspection.format_duration(abs(difference))} {relation} that of "
            f"{service.url} ({there})"
        )
        yield Finding(Level.ERROR, "clock", text, "synchronise the wrong one, for example with chrony")
    else:
        yield Finding(Level.OK, "clock", f"it agrees with that of {service.url}")
    try:
        profiles = ", ".join(profile.name for profile in client.list_profiles(service, credentials()))
    except click.ClickException as error:  # there are no credentials
        text, _, remedy = error.message.partition(": ")
        yield Finding(Level.WARNING, "service", text, remedy)
    except client.ClientError as error:
        yield _failure(Level.ERROR, error)
    else:
        yield Finding(Level.OK, "service", f"{service.url} accepts the API key, for the profiles {profiles}")


def _failure(level: Level, error: client.ClientError) -> Finding:
    """Return the finding of a request that failed."""
    text = "; ".join(line.strip() for line in error.reason.splitlines())
    remedy = _REMEDIES.get(error.remedy, error.remedy) or _DEFAULT_REMEDIES[error.exit_status]
    return Finding(level, "service", text, remedy)
