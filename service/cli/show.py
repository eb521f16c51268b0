"""`certlet show`: what is in a request, a certificate or a chain, and what is wrong with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key, pkcs7

from service import hardening
from service.cli import inspection, options
from service.cli.inspection import Inspection
from service.cli.options import KEY_PASSPHRASE
from service.cli.terminal import CommandError, say
from service.pki import certificate_reader, csr, encoding, pem
from service.pki.errors import describe_error

_MAX_BYTES: Final = 1_048_576  # a bundle of all the roots of an operating system has a quarter of it
_MAX_CERTIFICATES: Final = 300  # each may be compared with each

# RFC 7468 5 and 8, and OpenSSL's older names.
_CERTIFICATE_LABELS: Final = ("CERTIFICATE", "X509 CERTIFICATE")
_PKCS7_LABELS: Final = ("PKCS7", "CMS")
_LABELS: Final = ("", *pem.CSR_LABELS, *_CERTIFICATE_LABELS, *_PKCS7_LABELS)


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
    hardening.disable_core_dumps_and_ptrace()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library warns of is told in plain words
        key = options.load_private_key(key_file).public_key() if key_file else None
        inspections = _inspect(file, key)
    for number, one in enumerate(inspections, 1):
        if number > 1:
            say("")
        say(f"{one.kind}{f' {number} of {len(inspections)}' if len(inspections) > 1 else ''}")
        problems, notes = (("Error", text) for text in one.problems), (("Note", text) for text in one.notes)
        for label, text in (*one.facts, *problems, *notes):
            say(f"  {label:<9} {text}")
    return int(any(one.problems for one in inspections))


def _inspect(path: Path, key: CertificatePublicKeyTypes | None) -> list[Inspection]:
    with click.open_file(str(path), "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise CommandError(f"{path} has more than {_MAX_BYTES} octets")
    blocks = [block for block in pem.parse(data) if block.label in _LABELS]
    _verify_blocks(path, data, blocks)
    inspections: list[Inspection] = []
    certificates: list[x509.Certificate] = []
    load_certificate = partial(certificate_reader.parse_der, whole=False)
    for number, block in enumerate(blocks, 1):
        der = block.der or b""
        label = block.label or _guess_label(der)
        try:
            if label in pem.CSR_LABELS:
                inspections.append(inspection.inspect_csr(der, data, key))
            elif label in _CERTIFICATE_LABELS:
                certificates.append(load_certificate(der))
            else:  # a set without order (RFC 5652 5.1)
                unordered = map(encoding.encode_der, pkcs7.load_der_pkcs7_certificates(der))
                certificates += inspection.sort_chain([*map(load_certificate, unordered)])
        except Exception as error:  # the library has no common class for what malformed bytes raise
            place = f"{path}: the PEM block {number} of {len(blocks)}" if len(blocks) > 1 else path
            message = f"{place} holds no request and no certificate that can be read: {describe_error(error)}"
            raise CommandError(message) from error
    if not inspections and not certificates:
        raise CommandError(f"{path} holds no request and no certificate")
    if len(certificates) > _MAX_CERTIFICATES:
        raise CommandError(f"{path} holds more than {_MAX_CERTIFICATES} certificates")
    return inspections + inspection.inspect_chain(certificates, datetime.now(UTC), key)


def _verify_blocks(path: Path, data: bytes, blocks: Sequence[pem.Block]) -> None:
    """Say why a file cannot be read that has something in it after all."""
    for number, block in enumerate(blocks, 1):
        if block.label and block.der is None:
            which = f"the PEM block {number} of {len(blocks)}" if len(blocks) > 1 else "the PEM block"
            raise CommandError(f"{path}: {which} is damaged: its base64 or its END line is wrong")
    if not any(block.label for block in blocks) and (csr.contains_private_key(data) or _is_private_key(data)):
        hint = "give it with --key-file, beside its request or certificate"
        raise CommandError(f"{path}: it holds a private key alone: {hint}")


def _is_private_key(der: bytes) -> bool:
    try:
        load_der_private_key(der, None)
    except TypeError:  # encrypted
        return True
    except Exception:  # noqa: BLE001 - the library has no common class for what malformed bytes raise
        return False
    return True


def _guess_label(der: bytes) -> str:
    for label, load in (
        (pem.CSR_LABELS[0], x509.load_der_x509_csr),
        (_CERTIFICATE_LABELS[0], x509.load_der_x509_certificate),
    ):
        with contextlib.suppress(ValueError):
            with contextlib.suppress(x509.InvalidVersion):
                load(der)
            return label
    return _PKCS7_LABELS[0]
