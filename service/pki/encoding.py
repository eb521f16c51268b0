"""Values -> text and bytes: PEM, DER, PKCS#7 certs-only, readable text, hexadecimal, RFC 3339."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto


@dataclass(frozen=True, eq=False)
class Encoded:
    """An extension whose value is DER already, so that what is the same in many certificates is encoded once.

    Attributes:
        extension: it.
        octets: all of it, in one unambiguous form.
    """

    extension: x509.Extension[x509.ExtensionType]
    octets: bytes


def extension(value: x509.ExtensionType, *, critical: bool = False) -> Encoded:
    """An extension, encoded."""
    der = value.public_bytes()
    held: x509.Extension[x509.ExtensionType] = x509.Extension(
        value.oid, critical, x509.UnrecognizedExtension(value.oid, der)
    )
    return Encoded(held, b"%d %b %b" % (critical, value.oid.dotted_string.encode(), der))


def joined(parts: Iterable[bytes]) -> bytes:
    """Parts one after another, each after its length, so that no two lists of parts give the same."""
    return b"".join([b"%d:%s" % (len(each), each) for each in parts])


def pem(certificates: Iterable[x509.Certificate]) -> str:
    """PEM blocks one after another (RFC 7468 5)."""
    return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in certificates)


def der(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """The certificate, or the list, itself."""
    return signed.public_bytes(Encoding.DER)


def certs_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """A degenerate PKCS#7 SignedData that holds certificates alone (RFC 5652, RFC 5751 3.7), DER."""
    # It imports the email package, which a cold start that only signs does without.
    from cryptography.hazmat.primitives.serialization import pkcs7  # noqa: PLC0415

    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def text(certificate: x509.Certificate) -> str:
    """The certificate for people, as `openssl x509 -text` shows it."""
    readable = crypto.X509.from_cryptography(certificate)
    return crypto.dump_certificate(crypto.FILETYPE_TEXT, readable).decode("utf-8", "replace")


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def serial(number: int) -> str:
    """A serial number in lower-case hexadecimal, whole octets, as openssl prints it."""
    digits = f"{number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


@functools.lru_cache(maxsize=256)  # one certificate's times are written five times
def timestamp(moment: datetime) -> str:
    """RFC 3339, UTC, whole seconds: `2026-01-31T23:59:59Z`."""
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
