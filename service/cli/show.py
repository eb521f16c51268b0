"""`certlet show`: explain a CSR, a certificate or a chain, and list its errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service import hardening
from service.cli import input_files, inspection
from service.cli.input_files import FILE, KEY_PASSPHRASE
from service.cli.inspection import Inspection
from service.cli.terminal import Command, CommandError, json_option, report
from service.pki import certificate_reader, encoding, input_formats, pem
from service.pki.errors import describe_error, escape_controls

_MAX_BYTES: Final = 1_048_576  # four times the size of an operating system's bundle of roots
_NO_CERTIFICATE: Final = "it contains no certificate either, in PEM, DER, base64 or PKCS#7"
_MAX_CERTIFICATES: Final = 300  # the time is quadratic

# RFC 7468 5 and 8, and OpenSSL's older names.
_CERTIFICATE_LABELS: Final = ("CERTIFICATE", "X509 CERTIFICATE")
_PKCS7_LABELS: Final = ("PKCS7", "CMS")
_LABELS: Final = ("", *pem.CSR_LABELS, *_CERTIFICATE_LABELS, *_PKCS7_LABELS)
_DER_LABELS: Final = {
    input_formats.CERTIFICATE: _CERTIFICATE_LABELS[0],
    input_formats.PKCS7: _PKCS7_LABELS[0],
}


@click.command(cls=Command, epilog="Example: certlet show www.example.com.crt --key-file www.example.com.key")
@click.argument("file", type=click.Path(readable=False))
@click.option(
    "--key-file",
    type=FILE,
    help=f"Check that this private key matches; ${KEY_PASSPHRASE} decrypts it.",
)
@json_option
def show(*, file: str, key_file: Path | None) -> int:
    """Explain a CSR, a certificate or the chain of a server, and list errors.

    FILE is PEM, DER, base64 or PKCS#7; - is stdin. It may also be the address of a TLS server: HOST:PORT or
    https://HOST. certlet sign --dry-run finds the errors of a CSR that depend on the profile, too. certlet
    verify says whether a chain is trusted.

    Exit status: 0 if there is no error; 1 if there is one, or FILE cannot be read; 2 if the arguments are
    invalid; 4 without permission; 5 if the server cannot be reached.
    """
    hardening.disable_core_dumps_and_ptrace()
    address = input_files.find_address(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `inspection` reports the same
        key = input_files.load_private_key(key_file).public_key() if key_file else None
        if address:
            from service.cli import tls_peer  # noqa: PLC0415 - imports OpenSSL, which is slow to import

            chain = tls_peer.fetch_chain(address)
            inspections = inspection.inspect_chain(chain, datetime.now(UTC), key, address.host)
        else:
            inspections = _inspect(Path(file), key)
    for number, inspected in enumerate(inspections, 1):
        position = f" {number} of {len(inspections)}" if len(inspections) > 1 else ""
        lines = [*([""] if number > 1 else ()), inspected.kind + position, *_describe(inspected)]
        prefix = f"{file}: {inspected.kind}{position}: " if position else f"{file}: "
        errors = [escape_controls(prefix + text) for text in inspected.problems]
        report(inspected.to_json(), *lines, result="\n".join(errors))
    return int(any(inspected.problems for inspected in inspections))


def _describe(inspected: Inspection) -> Iterator[str]:
    problems = [("Error", text) for text in inspected.problems]
    notes = [("Note", text) for text in inspected.notes]
    for label, text in (*inspected.facts, *problems, *notes):
        yield f"  {label:<9} {text}"


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates in a file (`-`: stdin), in its order; CommandError if there is none."""
    certificates = _read(path, None, "pass a file with certificates only")[1]
    if not certificates:
        raise CommandError(f"{path} contains no certificate")
    return certificates


def _inspect(path: Path, key: CertificatePublicKeyTypes | None) -> list[Inspection]:
    remedy = "pass the key in PEM as --key-file, together with its CSR or certificate"
    inspections, certificates = _read(path, key, remedy)
    return inspections + inspection.inspect_chain(certificates, datetime.now(UTC), key)


def _read(
    path: Path, key: CertificatePublicKeyTypes | None, key_remedy: str
) -> tuple[list[Inspection], list[x509.Certificate]]:
    """Read the CSRs and the certificates in a file; a file with neither counts as a malformed CSR.

    Args:
        path: the file; `-` is stdin.
        key: a public key that must be that of each CSR.
        key_remedy: what to do with a file that has only a private key.
    """
    data = _read_bytes(path)
    blocks = [block for block in pem.parse(data) if block.label in _LABELS]
    _verify_blocks(path, data, blocks, key_remedy)
    inspections: list[Inspection] = []
    certificates: list[x509.Certificate] = []
    load_certificate = partial(certificate_reader.parse_der, whole=False)
    for number, block in enumerate(blocks, 1):
        der = block.der or b""
        label = block.label or _DER_LABELS.get(input_formats.name_der(der))
        try:
            if label in _CERTIFICATE_LABELS:
                certificates.append(load_certificate(der))
            elif label in _PKCS7_LABELS:
                unordered = map(encoding.encode_der, _load_pkcs7(der))
                certificates += inspection.sort_chain([*map(load_certificate, unordered)])
            elif der:
                inspections.append(inspection.inspect_csr(der, data, key))
        except Exception as error:  # the library has no common class for what malformed bytes raise
            if label in _PKCS7_LABELS and len(blocks) == 1:  # such as a CMC request
                break
            location = f"{path}: PEM block {number} of {len(blocks)}" if len(blocks) > 1 else path
            message = f"{location} is not a readable certificate: {describe_error(error)}"
            raise CommandError(message) from error
    if not inspections and not certificates:
        inspected = inspection.inspect_csr(b"", data)
        notes = () if any(block.label for block in blocks) else (_NO_CERTIFICATE,)
        inspections.append(replace(inspected, notes=inspected.notes + notes))
    if len(certificates) > _MAX_CERTIFICATES:
        raise CommandError(f"{path} contains more than {_MAX_CERTIFICATES} certificates")
    return inspections, certificates


def _read_bytes(path: Path) -> bytes:
    with click.open_file(str(path), "rb") as file:
        data: bytes = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise CommandError(f"{path} has more than {_MAX_BYTES} bytes")
    if not data.strip():
        raise CommandError(f"{path}: the file is empty")
    return data


def _load_pkcs7(der: bytes) -> list[x509.Certificate]:
    """Load the certificates of PKCS#7, an unordered set (RFC 5652 5.1)."""
    from cryptography.hazmat.primitives.serialization import pkcs7  # noqa: PLC0415 - imports the email package

    return pkcs7.load_der_pkcs7_certificates(der)


def _verify_blocks(path: Path, data: bytes, blocks: Sequence[pem.Block], key_remedy: str) -> None:
    """Raise CommandError for a damaged PEM block with certificates, or a file with only a private key."""
    for number, block in enumerate(blocks, 1):
        if block.der is None and block.label in (*_CERTIFICATE_LABELS, *_PKCS7_LABELS):
            position = f" {number} of {len(blocks)}" if len(blocks) > 1 else ""
            raise CommandError(f"{path}: PEM block{position} is damaged: invalid base64 or END line")
    private_key = input_formats.describe_private_key(data)
    if private_key and not any(block.label for block in blocks):
        raise CommandError(f"{path} {private_key}: {key_remedy}")
