"""`certlet check`: check the certificate profiles."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from cryptography import x509

from service import keystore, openapi, profile_lint
from service.cli import input_files, options
from service.cli.input_files import FILE
from service.cli.options import KEY_FILE
from service.cli.terminal import Command, CommandError, json_option, note, report
from service.gateway import api_keys
from service.keystore import acme_principals, ca_directory, revocation_file
from service.pki import ca_status, certificate_reader, issuer, ocsp_responder
from service.pki.certificate_reader import extension_value
from service.pki.errors import CAError
from service.settings import (
    CA_KEY,
    CA_PASSPHRASE,
    PUBLIC_URL,
    STATUS_URL,
    KeySource,
    find_ledger_problems,
    identity_directory,
    parse_key_location,
)


@click.command(cls=Command, epilog="Example: certlet check --profiles own.yaml")
@options.profiles_option
@options.ca_option
@click.option(
    "--token",
    type=FILE,
    help="Show which rules accept the token in this file (-: stdin), and why others do not.",
)
@json_option
def check(*, profiles: Path | None, ca: Path, token: Path | None) -> int:
    """Check the certificate profiles.

    If there is a CA, its chain, its key, its keys of serial numbers, the keys of the CAs before it, its
    lists, its API keys, its OCSP, the URLs in certificates, and ACME's key and principals are checked, too.
    $CERTLET_CA_PASSPHRASE decrypts the keys.

    Exit status: 0 if the profiles, the CA and $CERTLET_LEDGER are valid, even with warnings, or if a rule
    accepts the token; 1 if not; 2 if the arguments are invalid; 4 without permission.
    """
    logging.getLogger("service.oidc").addHandler(logging.NullHandler())  # the output has the same problems
    if token:
        return _explain_token(token, profiles)
    is_ca = has_ca(ca)
    configured, public_url = os.environ.get(STATUS_URL, ""), os.environ.get(PUBLIC_URL, "")
    status_url = ca_directory.resolve_status_url(ca, configured, public_url)
    findings = profile_lint.lint(profiles, has_status_url=bool(status_url))
    for finding in findings:
        level = "error" if finding.is_error else "warning"
        facts = {"level": level, "file": finding.file, "line": finding.line, "text": finding.text}
        report(facts, str(finding), result=str(finding) if finding.is_error else "")
    for problem in profile_lint.find_url_problems(status_url):
        _report_warning(problem)
    errors = [*find_ledger_problems(os.environ), *(find_ca_errors(ca) if is_ca else ())]
    for problem in errors:
        report({"level": "error", "text": problem}, problem, result=problem)
    has_errors = any(finding.is_error for finding in findings)
    if is_ca:
        acme_files = (ca_directory.ACME_KEY, acme_principals.ACME_PRINCIPALS)
        for warning in input_files.exposure_warnings(ca / name for name in acme_files):
            _report_warning(warning)
        for path, problem in find_ca_problems(ca):
            _report_warning(problem, path)
        if not has_errors and (problem := _responder_problem(ca, profiles, status_url)):
            _report_warning(problem, ca / ca_directory.SIGNING_CERTIFICATE)
    if has_errors or errors:
        return 1
    note(f"checked the profiles {f'and the CA in {ca}' if is_ca else f'only: there is no CA in {ca}'}")
    return 0


def has_ca(ca: Path) -> bool:
    """Whether there is a CA in this directory, the value of --ca.

    Raises:
        CommandError: there is none, and --ca is among the arguments.
        PermissionError: the directory cannot be read.
    """
    if options.is_option("ca"):
        options.require_ca(ca)
    return ca_directory.has_ca(ca)


def _report_warning(text: str, path: Path | None = None) -> None:
    prefix = f"{path}: " if path else ""
    report({"level": "warning", "text": f"{prefix}{text}"}, f"{prefix}warning: {text}")


def _explain_token(path: Path, profiles: Path | None) -> int:
    """Print which rules accept a token, and why others do not; return the exit status."""
    from service.oidc import signed_token, tokens  # noqa: PLC0415 - slow to import, and most checks need neither

    rules = openapi.parse_policy(options.load_document(profiles)).identities
    if profiles is None or not rules:
        raise CommandError("there are no rules for tokens: pass a file with identities as --profiles")
    with click.open_file(str(path), "rb") as file:
        token = str(file.read(signed_token.MAX_LENGTH + 2), "utf-8", "replace").strip()
    try:
        verifier = tokens.create_verifier(rules, identity_directory(profiles), lambda: datetime.now(UTC))
    except ValueError as error:
        raise CommandError(str(error)) from error
    applies = ""  # the name of the first rule that accepts the token
    for rule, (name, reason) in zip(rules, verifier.explain(token), strict=True):
        facts: dict[str, object] = {"rule": name, "accepts": not reason, "reason": reason or None}
        if reason:
            report(facts, f"{name}: no: {reason}")
        elif applies:
            report(facts, f"{name}: yes, but {applies} applies, since it is first")
        else:
            applies = name
            names = verifier.verify(token).names.to_dict()
            facts |= {"profiles": rule.profiles, "names": names}
            report(facts, f"{name}: yes: profiles {', '.join(rule.profiles)}; names {json.dumps(names)}")
    return int(not applies)


def find_ca_errors(ca: Path) -> Iterator[str]:
    """Yield why `certlet serve` refuses a CA or its API keys, or cannot read the lists of the CA.

    Raises:
        CAError, KeyFileError: there is no permission to read a file.
    """
    verifiers: tuple[Callable[[Path], object], ...] = (
        _verify_chain,
        _verify_key,
        revocation_file.verify_revoked,
        revocation_file.load_deny_list,
        lambda ca: api_keys.KeyFile(ca / KEY_FILE).read(),
    )
    for verify in verifiers:
        try:
            verify(ca)
        except (CAError, CommandError, api_keys.KeyFileError) as error:
            if isinstance(error.__cause__, PermissionError):
                raise
            yield str(error)


def _verify_chain(ca: Path) -> None:
    certificate, chain = ca_directory.load_chain(ca)
    try:
        issuer.verify_path([certificate, *chain])
    except CAError as error:
        raise CAError(f"{ca / ca_directory.SIGNING_CERTIFICATE}: {error.detail}") from error


def _verify_key(ca: Path) -> None:
    """Verify that the key in a file is that of the signing CA, unless it cannot be checked here."""
    path = _key_path(ca)
    if path is None or _why_unchecked(path):
        return
    key = ca_directory.load_private_key(path, input_files.read_secret(CA_PASSPHRASE))
    certificate, _ = ca_directory.load_chain(ca)
    if key.public_key() != certificate.public_key():
        name = certificate.subject.rfc4514_string()
        raise CAError(f"{path} is not the key of {name} in {ca / ca_directory.SIGNING_CERTIFICATE}")


def _key_path(ca: Path) -> Path | None:
    """Return the file of the signing CA's key; None if the key is in AWS."""
    try:
        source, name = parse_key_location(os.environ.get(CA_KEY, "file:"))
    except ValueError as error:
        raise CommandError(f"{CA_KEY} is invalid; {error}") from error
    return ca / (name or ca_directory.SIGNING_KEY) if source is KeySource.FILE else None


def _why_unchecked(path: Path) -> str:
    """Return why the signing CA's key is not checked, with a remedy in parentheses; '' if it is.

    A key that is in AWS has no file, and only the service has to know where it is. Only the service needs the
    passphrase, too.
    """
    if not os.path.lexists(path):
        remedy = f"restore it, or set {CA_KEY} if the key is elsewhere"
        return "" if CA_KEY in os.environ else f"does not exist, so certlet serve does not start ({remedy})"
    if input_files.read_secret(CA_PASSPHRASE) is None and b"ENCRYPTED" in revocation_file.read_file(path):
        return f"is encrypted, so it was not checked (set {CA_PASSPHRASE})"
    return ""


def find_ca_problems(ca: Path) -> Iterator[tuple[Path, str]]:
    """Yield files of a CA, and what is wrong with them, except for what `find_ca_errors` yields.

    Raises:
        CAError: a file is unreadable or malformed.
    """
    with contextlib.suppress(CommandError):  # an error of `find_ca_errors`
        if (path := _key_path(ca)) and (problem := _why_unchecked(path)):
            yield path, problem
    if ca_directory.load_serial_keys(ca) is None:
        effect = "the CA does not recognise its serial numbers: no OCSP, no ARI, no end of CRL entries"
        remedy = "certlet rotate-serial-key creates it"
        yield ca / ca_directory.SERIAL_KEY, f"does not exist, so {effect} ({remedy})"
    key, principals = ca_directory.load_acme_key(ca), acme_principals.load_all(ca)
    if principals and not key:
        yield ca / ca_directory.ACME_KEY, "does not exist, so there is no ACME (certlet acme add creates it)"
    certificates = ca_directory.load_ca_certificates(ca)
    statuses, problems = ca_directory.load_statuses(ca, certificates)
    remedy = "certlet sign-ca-status signs the OCSP responses about CA certificates"
    for problem in (*problems, *ca_status.find_gaps(statuses, certificates, datetime.now(UTC))):
        yield ca / ca_directory.CA_STATUS, f"{problem} ({remedy})"
    for certificate in certificate_reader.omit_superiors(ca_directory.load_predecessors(ca)):
        for path, problem in _previous_key_problems(ca, certificate):
            effect = "so this CA has no CRL and no OCSP responses (docs/how-to/rollover.md)"
            yield path, f"{problem}, {effect}"
    for name, url in status_urls(ca):
        for problem in profile_lint.find_url_problems(url):
            yield ca / name, problem


def _responder_problem(ca: Path, profiles: Path | None, status_url: str) -> str:
    """Return why there are no OCSP responses about certificates that name OCSP; '' if there are."""
    has_ocsp = ca_directory.load_serial_keys(ca) is not None
    policy = openapi.parse_policy(openapi.load(profiles), status_url, has_ocsp=has_ocsp)
    certificate, chain = ca_directory.load_chain(ca)
    is_in_kms = os.environ.get(CA_KEY, "").startswith(f"{KeySource.KMS}:")
    if not any(profile.ocsp for profile in policy) or (issuer.may_sign_ocsp(certificate) and not is_in_kms):
        return ""
    reason = ocsp_responder.why_forbidden([certificate, *chain])
    return reason and f"{reason}, so OCSP answers unauthorized, but profiles name it (docs/how-to/revoke.md)"


def _previous_key_problems(ca: Path, certificate: x509.Certificate) -> Iterator[tuple[Path, str]]:
    """Yield the file of the key of a CA from before a rollover, and what is wrong with it."""
    path, name = ca / ca_directory.previous_key_name(certificate), certificate.subject.rfc4514_string()
    if not os.path.lexists(path):
        yield path, f"the key of {name} does not exist"
        return
    for problem in keystore.find_key_problems(path, certificate, input_files.read_secret(CA_PASSPHRASE)):
        yield path, problem.removeprefix(f"{path}: ")


def status_urls(ca: Path) -> Iterator[tuple[str, str]]:
    """Yield the file and each URL at which its certificates say that verifiers fetch CRL, OCSP or issuer."""
    for file in (ca_directory.SIGNING_CERTIFICATE, ca_directory.ROOT_CERTIFICATE):
        for certificate in ca_directory.load_certificates(ca / file) if (ca / file).exists() else ():
            points = extension_value(certificate, x509.CRLDistributionPoints) or ()
            names = [name for point in points for name in point.full_name or ()]
            access = extension_value(certificate, x509.AuthorityInformationAccess) or ()
            names += [description.access_location for description in access]
            yield from (
                (file, name.value) for name in names if isinstance(name, x509.UniformResourceIdentifier)
            )
