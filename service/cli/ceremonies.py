"""What is done to a CA beside serving it: init, rollover, revoke; and to its contract: openapi, check."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service import contract, secrecy
from service.cli import arguments
from service.cli.arguments import KEY_FILE, Commands
from service.cli.terminal import ArgumentsError, CommandError, say
from service.gateway import usage
from service.pki import encoding, hierarchy, revocation
from service.settings import CA_PASSPHRASE
from service.signers import file, lists


def add_to(commands: Commands) -> None:
    """Add `init`, `rollover`, `revoke`, `openapi` and `check`."""
    init = commands.add_parser("init", help="make a root CA and a signing CA")
    init.add_argument("directory", type=Path, metavar="DIR", help="a CA that is in it is never replaced")
    arguments.take_key(init)
    init.add_argument(
        "--name",
        default="Certlet",
        help=f"what its names begin with, at most {hierarchy.MAX_NAME} characters; else Certlet",
    )
    init.add_argument(
        "--permit-dns",
        action="append",
        default=[],
        metavar="DOMAIN",
        type=arguments.domain,
        help="the only domain that it may ever name hosts, URIs, mailboxes of; several if said several times",
    )
    init.add_argument(
        "--permit-ip",
        action="append",
        default=[],
        metavar="CIDR",
        type=arguments.network,
        help="the only network that it may ever name addresses of, likewise",
    )
    init.add_argument("--kms", metavar="KEY-ID", help="the signing key is this one in AWS KMS")
    init.set_defaults(run=_init)

    rollover = commands.add_parser("rollover", help="make the CA that takes over from another")
    rollover.add_argument("old", type=Path, metavar="OLD", help="the directory of the one that there is")
    rollover.add_argument("new", type=Path, metavar="NEW", help="a directory, which gets the API keys too")
    arguments.take_key(rollover)
    rollover.add_argument("--kms", metavar="KEY-ID", help="the signing key is this one in AWS KMS")
    beneath = rollover.add_mutually_exclusive_group()
    beneath.add_argument("--root-key", type=Path, metavar="FILE", help=f"else OLD/{file.ROOT_KEY}")
    beneath.add_argument("--new-root", action="store_true", help="which everybody has to trust anew")
    rollover.set_defaults(run=_rollover)

    revoke = commands.add_parser("revoke", help="take a certificate back: GET /ca.crl will list it")
    revoke.add_argument(
        "certificate", metavar="SERIAL|FILE", help="its serial number in hexadecimal, or its file"
    )
    revoke.add_argument(
        "--reason",
        choices=sorted(revocation.REASONS),
        metavar="REASON",
        help=", ".join(sorted(revocation.REASONS)),
    )
    arguments.take_ca(revoke)
    revoke.set_defaults(run=_revoke)

    openapi = commands.add_parser("openapi", help="print the document that API Gateway imports")
    openapi.add_argument("--region", help="of AWS, where the function is")
    openapi.add_argument("--account", type=arguments.account, help="of AWS, 12 digits")
    openapi.add_argument("--function", metavar="NAME", help="the function's name")
    openapi.add_argument("--template", action="store_true", help="for a CloudFormation template: no ARNs yet")
    openapi.add_argument("--plain", action="store_true", help="for people and tools: no vendor extensions")
    openapi.add_argument("--est", action="store_true", help="with EST, which needs a domain of its own")
    arguments.take_profiles(openapi)
    openapi.set_defaults(run=_openapi)

    checked = commands.add_parser("check", help="check the certificate profiles, your own among them")
    arguments.take_profiles(checked)
    checked.set_defaults(run=_check)


def _init(options: argparse.Namespace) -> None:
    secrecy.seal()
    passphrase = arguments.secret(CA_PASSPHRASE)
    try:
        created = hierarchy.create_hierarchy(
            options.name,
            secrets.token_hex(hierarchy.SUFFIX_BYTES),
            options.key,
            datetime.now(UTC),
            [*options.permit_dns, *options.permit_ip],
            _kms_public_key(options.kms) if options.kms else None,
        )
        file.save(options.directory, created, passphrase)
    except ValueError as error:
        raise CommandError(str(error)) from error
    say(f"Made a CA in {options.directory}. Move {options.directory / file.ROOT_KEY} to a safe place:")
    say("it is not needed for issuing.")


def _rollover(options: argparse.Namespace) -> None:
    secrecy.seal()
    passphrase = arguments.secret(CA_PASSPHRASE)
    certificate, chain = file.chain(arguments.ca(options.old, "OLD"))
    if not chain:
        raise CommandError(f"{options.old} holds a CA without a root above it")
    root_key = options.root_key or options.old / file.ROOT_KEY
    if not options.new_root and not root_key.exists():
        raise CommandError(f"{root_key} is not there: say where it is with --root-key, or --new-root")
    kept, key_file = lists.load(options.old), usage.KeyFile(options.old / KEY_FILE)
    key_file.read()  # what cannot be taken over is found before anything is made
    try:
        created = hierarchy.create_successor(
            hierarchy.Predecessor(certificate, chain, file.previous(options.old)),
            None if options.new_root else file.private_key(root_key, passphrase),
            secrets.token_hex(hierarchy.SUFFIX_BYTES),
            options.key,
            datetime.now(UTC),
            _kms_public_key(options.kms) if options.kms else None,
        )
        file.save(options.new, created, passphrase, kept)
    except ValueError as error:
        raise CommandError(str(error)) from error
    usage.KeyFile(options.new / KEY_FILE).take_over(key_file)
    say(f"Made a CA in {options.new}. Serve it in place of {options.old}: it signs, and both are served.")
    say(f"Delete {options.new / file.PREVIOUS} when the last certificate of the old one has ended.")


def _revoke(options: argparse.Namespace) -> None:
    ca, given = arguments.ca(options.ca), options.certificate
    certificate = _issued_by(ca, Path(given)) if Path(given).is_file() else None
    try:
        number = certificate.serial_number if certificate else revocation.serial_number(given)
    except ValueError as error:
        raise CommandError(f"{error}, nor is there such a file") from error
    now = datetime.now(UTC).replace(microsecond=0)
    reason = revocation.REASONS[options.reason] if options.reason else None
    lists.add_revoked(ca, revocation.Revoked(number, now, reason))
    listed = encoding.timestamp(now + revocation.WINDOW)
    say(f"Revoked {encoding.serial(number)} in {ca / lists.REVOKED}; in GET /ca.crl by {listed},")
    say("if that is the file that is served: on AWS, make and deploy the zip again.")
    if certificate and (why := _why_nobody_learns(ca, certificate)):
        say(f"Warning   {why}: who verifies it never learns of it,")
        say(f"          until it ends at {encoding.timestamp(certificate.not_valid_after_utc)}.")


def _issued_by(ca: Path, path: Path) -> x509.Certificate:
    """The certificate in a file, PEM or DER, which the CA must have issued, or the one before a rollover."""
    data = path.read_bytes()
    authorities = [file.chain(ca)[0], *file.previous(ca)]
    load = x509.load_der_x509_certificate if data[:1] == b"0" else x509.load_pem_x509_certificate
    for each in authorities:
        with contextlib.suppress(ValueError, InvalidSignature):
            certificate = load(data)
            certificate.verify_directly_issued_by(each)
            return certificate
    raise CommandError(f"{path} is no certificate of the CA in {ca}")


def _why_nobody_learns(ca: Path, certificate: x509.Certificate) -> str:
    """Why no CRL tells who verifies a certificate that it was revoked; '' where one does."""
    if certificate.issuer != file.chain(ca)[0].subject:
        return "the certificate is of the CA before, for which no CRL is signed any more"
    if not any(isinstance(each.value, x509.CRLDistributionPoints) for each in certificate.extensions):
        return "the certificate names no CRL (revocation: none)"
    return ""


def _kms_public_key(key_id: str) -> CertificatePublicKeyTypes:
    try:
        from service.signers import kms  # noqa: PLC0415 - boto3 only where it is asked for
    except ImportError as error:
        raise CommandError("--kms needs boto3: pip install boto3") from error
    return kms.private_key(key_id).public_key()


def _check(options: argparse.Namespace) -> int:
    from service import profile_lint  # noqa: PLC0415 - with jsonschema, which no other command needs

    findings = profile_lint.lint(options.profiles)
    for finding in findings:
        print(finding)  # noqa: T201 - what the command is for
    return int(any(finding.is_fault for finding in findings))


def _openapi(options: argparse.Namespace) -> None:
    target = (options.region, options.account, options.function)
    wanted = (options.template, options.plain, any(target))
    if sum(wanted) != 1 or (any(target) and not all(target)):
        raise ArgumentsError(
            "give --region, --account and --function together, or --template alone, or --plain alone"
        )
    document = arguments.document(options.profiles)
    if options.plain:
        rendered = contract.plain(document)
    elif options.template:
        rendered = contract.includable(document, est=options.est)
    else:
        rendered = contract.importable(document, *target, est=options.est)
    json.dump(rendered, sys.stdout, indent=2)
    sys.stdout.write("\n")
