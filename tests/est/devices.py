"""What EST's tests share: requests as devices send them, and client certificates, good and forged."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from service.pki import keys
from service.pki.issuer import Issuer
from service.signers import file
from tests import authorities, csrs

EST = "/.well-known/est"
PKCS10 = "application/pkcs10"


def body(request: x509.CertificateSigningRequest) -> bytes:
    """Base64 of the DER, in one line."""
    return base64.b64encode(csrs.der(request))


def certificates(answer: bytes) -> list[x509.Certificate]:
    """What an answer holds: base64, in one line, of PKCS#7."""
    assert b"\n" not in answer
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer, validate=True))


def issuer(directory: Path) -> Issuer:
    """The CA of a directory, with its key."""
    return file.load(directory, None)


def forged(
    by: Issuer,
    profile: str = "peer",
    request: x509.CertificateSigningRequest | None = None,
    age: timedelta = timedelta(),
    **change: Any,
) -> x509.Certificate:
    """A certificate as the service issues them, signed so many days ago, or with members changed."""
    context = authorities.context(profile, by, now=datetime.now(UTC))
    spec = authorities.evaluate(request or csrs.build("device.example.com"), context)
    period = {"not_before": spec.not_before - age, "not_after": spec.not_after - age}
    builder = replace(spec, **(period | change)).builder(x509.random_serial_number())
    key = by._private_key
    return builder.issuer_name(by.certificate.subject).sign(key, keys.signature_hash(key.public_key()))


def pem(certificate: x509.Certificate) -> str:
    """One certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()
