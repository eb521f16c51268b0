"""What EST's tests share: requests as devices send them, and client certificates, good and forged."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from service.pki import encoding, signing, template
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
    from service.pki import csr  # noqa: PLC0415

    asked = csr.load(csrs.pem(request or csrs.build("device.example.com")))
    now = datetime.now(UTC)
    planned = template.plan(asked, authorities.under(profile, by, now=now))
    members = {
        "not_before": planned.not_before - age,
        "not_after": planned.not_after - age,
        **change,
    }
    made = template.CertificateSpec(
        **{**{name: getattr(planned, name) for name in planned.__dataclass_fields__}, **members}
    )
    to_be_signed = made.to_be_signed(x509.random_serial_number())
    signature = encoding.bit_string(signing.signer(by._private_key, is_deterministic=True)(to_be_signed))
    return x509.load_der_x509_certificate(encoding.sequence(to_be_signed, by.signature_algorithm, signature))


def pem(certificate: x509.Certificate) -> str:
    """One certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()
