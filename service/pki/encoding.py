"""Values -> text and bytes: PEM, DER, PKCS#7 certs-only, readable text, hexadecimal, RFC 3339."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID
from OpenSSL import crypto


def _camel_case(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(map(str.capitalize, rest))


_OID_NAMES: Final = {  # such as challengePassword, of the library's CHALLENGE_PASSWORD
    value: _camel_case(name)
    for names in (AttributeOID, ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID)
    for name, value in vars(names).items()
    if isinstance(value, x509.ObjectIdentifier)
}


def oid_name(oid: x509.ObjectIdentifier) -> str:
    """The name of an attribute, extension, usage or signature algorithm, or its digits where it has none."""
    return _OID_NAMES.get(oid, oid.dotted_string)


def length_prefixed(parts: Iterable[bytes]) -> bytes:
    """Parts one after another, each after its length, so that no two lists of parts give the same."""
    return b"".join([b"%d:%b" % (len(part), part) for part in parts])


def encode_pem(certificates: Iterable[x509.Certificate]) -> str:
    """PEM blocks one after another (RFC 7468 5)."""
    return b"".join([certificate.public_bytes(Encoding.PEM) for certificate in certificates]).decode("ascii")


def encode_der(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """The certificate, or the list, itself."""
    return signed.public_bytes(Encoding.DER)


def encode_certs_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """A degenerate PKCS#7 SignedData that holds certificates alone (RFC 5652, RFC 5751 3.7), DER."""
    # It imports the email package, which a cold start that only signs does without.
    from cryptography.hazmat.primitives.serialization import pkcs7  # noqa: PLC0415

    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def to_text(certificate: x509.Certificate) -> str:
    """The certificate for people, as `openssl x509 -text` shows it."""
    readable = crypto.X509.from_cryptography(certificate)
    return crypto.dump_certificate(crypto.FILETYPE_TEXT, readable).decode("utf-8", "replace")


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def format_serial(number: int) -> str:
    """A serial number in lower-case hexadecimal, whole octets, as openssl prints it."""
    digits = f"{number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


@functools.lru_cache(maxsize=256)  # one certificate's times are written five times
def format_timestamp(moment: datetime) -> str:
    """RFC 3339, UTC, whole seconds: `2026-01-31T23:59:59Z`."""
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
