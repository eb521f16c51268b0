"""`certlet show`: what is in a request, a certificate or a chain, and what is wrong with it."""

from __future__ import annotations

import base64
import contextlib
import re
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key, pkcs7

from service import secrecy
from service.cli import inspection, options
from service.cli.inspection import Report
from service.cli.options import KEY_PASSPHRASE
from service.cli.terminal import CommandError, say
from service.pki import csr

_MAX_BYTES: Final = 1_048_576  # a bundle of all the roots of an operating system has a quarter of it
_MAX_CERTIFICATES: Final = 300  # each may be held against each

# RFC 7468 3; what `csr` takes for a request, and OpenSSL's older names for a certificate and a PKCS#7.
_PEM: Final = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,64})-----(?P<body>[^-]*)-----END (?P=label)-----"
)
_PEM_BEGIN: Final = re.compile(rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,64})-----")
_REQUESTS: Final = (b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST")
_CERTIFICATES: Final = (b"CERTIFICATE", b"X509 CERTIFICATE")
_BAGS: Final = (b"PKCS7", b"CMS")


@click.command(epilog="Example: certlet show www.example.com.crt --key-file www.example.com.key")
@click.argument("file", type=options.FILE)
@click.option(
    "--key-file",
    type=options.FILE,
    help=f"Compare with this private key, which ${KEY_PASSPHRASE} opens if it is encrypted.",
)
def show(*, file: Path, key_file: Path | None) -> int:
    """Print what is in a request or certificate.

    What is wrong with it is printed too. FILE is PEM, DER, base64 or PKCS#7; - is stdin.

    Exit status: 0 if nothing is wrong; 1 if something is, or the file holds neither.
    """
    secrecy.seal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library warns of is told in plain words
        reports = _reports(file, _public_key(key_file))
    for number, report in enumerate(reports, 1):
        if number > 1:
            say("")
        say(f"{report.kind}{f' {number} of {len(reports)}' if len(reports) > 1 else ''}")
        for label, text in report.facts:
            say(f"  {label:<9} {text}")
        for fault in report.faults:
            say(f"  {'Wrong':<9} {fault}")
        for note in report.notes:
            say(f"  {'Note':<9} {note}")
    return int(any(report.faults for report in reports))


def _public_key(path: Path | None) -> CertificatePublicKeyTypes | None:
    return options.load_private_key(path).public_key() if path else None


def _reports(path: Path, key: CertificatePublicKeyTypes | None) -> list[Report]:
    data = _contents(path)
    if len(data) > _MAX_BYTES:
        raise CommandError(f"{path} has more than {_MAX_BYTES} octets")
    if fault := _fault(data):
        raise CommandError(f"{path}: {fault}")
    try:
        requests, certificates = _held(data)
        reports = [inspection.of_request(each, key) for each in requests]
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError(f"{path} holds no request and no certificate that can be read") from error
    if not requests and not certificates:
        raise CommandError(f"{path} holds no request and no certificate")
    if len(certificates) > _MAX_CERTIFICATES:
        raise CommandError(f"{path} holds more than {_MAX_CERTIFICATES} certificates")
    return reports + inspection.of_chain(certificates, datetime.now(UTC), key)


def _contents(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(_MAX_BYTES + 1)
    with path.open("rb") as opened:
        return opened.read(_MAX_BYTES + 1)


def _fault(data: bytes) -> str:
    """Why a file cannot be read that has something in it after all; '' if it is not known."""
    whole = {found.start() for found in _PEM.finditer(data) if _is_base64(found["body"])}
    begun = [found.start() for found in _PEM_BEGIN.finditer(data) if _is_ours(found)]
    for number, start in enumerate(begun, 1):
        if start not in whole:  # in the service's words
            which = f"the PEM block {number} of {len(begun)}" if len(begun) > 1 else "the PEM block"
            return f"{which} is damaged: its base64 or its END line is wrong"
    if not begun and (csr.holds_private_key(data) or _is_key(data)):
        return "it holds a private key alone: give it with --key-file, beside its request or certificate"
    return ""


def _is_base64(text: bytes) -> bool:
    try:
        return bool(_decoded(text))
    except ValueError:
        return False


def _is_key(der: bytes) -> bool:
    try:
        load_der_private_key(der, None)
    except TypeError:  # encrypted
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _held(data: bytes) -> tuple[list[bytes], list[x509.Certificate]]:
    """The requests, DER, and the certificates that there are; what else is in PEM does not count."""
    blocks = [(found["label"], _decoded(found["body"])) for found in _PEM.finditer(data) if _is_ours(found)]
    if not blocks and b"-----BEGIN " not in data:
        return _in_der(data if data[:1] == b"\x30" and not data.isascii() else _decoded(data))
    requests = [der for label, der in blocks if label in _REQUESTS]
    certificates = [x509.load_der_x509_certificate(der) for label, der in blocks if label in _CERTIFICATES]
    bags = [der for label, der in blocks if label in _BAGS]
    return requests, certificates + [each for bag in bags for each in _in_bag(bag)]


def _in_der(der: bytes) -> tuple[list[bytes], list[x509.Certificate]]:
    with contextlib.suppress(ValueError):
        x509.load_der_x509_csr(der)
        return [der], []
    with contextlib.suppress(ValueError):
        return [], [x509.load_der_x509_certificate(der)]
    return [], _in_bag(der)


def _in_bag(der: bytes) -> list[x509.Certificate]:
    """The certificates of a PKCS#7 (RFC 5652 5.1), a set without order."""
    return inspection.arranged(pkcs7.load_der_pkcs7_certificates(der))


def _is_ours(found: re.Match[bytes]) -> bool:
    return found["label"] in _REQUESTS + _CERTIFICATES + _BAGS


def _decoded(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.split()), validate=True)
