"""Encode values as bytes and text: PEM, DER, PKCS#7, hexadecimal, base64url, RFC 3339."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import (
    AttributeOID,
    ExtendedKeyUsageOID,
    ExtensionOID,
    NameOID,
    PublicKeyAlgorithmOID,
    SignatureAlgorithmOID,
)

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")


def _camel_case(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(map(str.capitalize, rest))


def _signature_algorithm_name(constant: str) -> str:
    """The name in RFC 4055, 5758, 9688 or 9881 of the library's RSA_WITH_SHA256, and so on."""
    name = constant.strip("_").lower().replace("_", "-")
    key, _, digest = name.partition("-with-")
    if key == "rsa" and not digest.startswith("sha3-"):
        return f"{digest}WithRSAEncryption"
    if key == "ecdsa" and not digest.startswith("sha3-"):
        return f"ecdsa-with-{digest.upper()}"
    return f"id-{name.replace('rsa-with', 'rsassa-pkcs1-v1-5-with')}"


_OID_NAMES: Final = {  # challengePassword for the library's CHALLENGE_PASSWORD, and so on
    value: _signature_algorithm_name(name) if oids is SignatureAlgorithmOID else _camel_case(name)
    for oids in (AttributeOID, ExtendedKeyUsageOID, ExtensionOID, NameOID, SignatureAlgorithmOID)
    for name, value in vars(oids).items()
    if isinstance(value, x509.ObjectIdentifier)
} | {
    SignatureAlgorithmOID.RSASSA_PSS: "id-RSASSA-PSS",  # RFC 8017 A.2.3
    SignatureAlgorithmOID.ED25519: "id-Ed25519",  # RFC 8410 3
    SignatureAlgorithmOID.ED448: "id-Ed448",
    PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5: "rsaEncryption",  # RFC 3279 2.3.1
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: "subjectAltName",  # RFC 5280 4.2.1.6
}

_ATTRIBUTE_NAMES: Final = {  # RFC 4514 3; the last two as in OpenSSL
    NameOID.COMMON_NAME: "CN",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STREET_ADDRESS: "STREET",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
    NameOID.GIVEN_NAME: "GN",
    NameOID.SURNAME: "SN",
}


def attribute_name(oid: x509.ObjectIdentifier) -> str:
    """The short name of a subject attribute, such as `CN`, `DC` or `emailAddress`; or the dotted OID."""
    return _ATTRIBUTE_NAMES.get(oid) or oid_name(oid)


def oid_name(oid: x509.ObjectIdentifier) -> str:
    """The name of an attribute, extension, usage or signature algorithm; the dotted OID if it has no name."""
    return _OID_NAMES.get(oid, oid.dotted_string)


def length_prefixed(parts: Iterable[bytes]) -> bytes:
    """Join parts, each after its length, so that different lists of parts have different results."""
    return b"".join([b"%d:%b" % (len(part), part) for part in parts])


def encode_pem(certificates: Iterable[x509.Certificate]) -> str:
    """Encode certificates as PEM blocks (RFC 7468 5)."""
    return b"".join([certificate.public_bytes(Encoding.PEM) for certificate in certificates]).decode("ascii")


def encode_der(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """Encode a certificate or CRL as DER."""
    return signed.public_bytes(Encoding.DER)


def encode_certs_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """Encode certificates as PKCS#7 certs-only, DER: SignedData without signers (RFC 5652, RFC 5751 3.7)."""
    # The import is lazy because it loads the email package, which a cold start that only signs does not need.
    from cryptography.hazmat.primitives.serialization import pkcs7  # noqa: PLC0415

    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def format_serial(number: int) -> str:
    """Format a serial number in lower-case hexadecimal, with an even number of digits."""
    digits = f"{number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def decode_base64url(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515 2).

    Raises:
        ValueError: it is not base64url, or not the only encoding of its octets.
    """
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("not base64url without padding")
    octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii") != text:
        raise ValueError("not the only encoding in base64url")
    return octets


@functools.lru_cache(maxsize=256)  # the times of each certificate are formatted five times
def format_timestamp(time: datetime) -> str:
    """Format a time, UTC, by RFC 3339 in whole seconds: `2026-01-31T23:59:59Z`."""
    return time.isoformat("T", "seconds")[:19] + "Z"


_TIMESTAMP: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)


def parse_timestamp(text: str) -> datetime:
    """Parse a time of RFC 3339 (5.6), in any time zone, to UTC.

    Python parses more: times without a zone, and other forms of ISO 8601. It knows no leap seconds.

    Raises:
        ValueError: it is not such a time, or outside of the years 1 to 9999.
    """
    if _TIMESTAMP.fullmatch(text):
        with contextlib.suppress(ValueError, OverflowError):  # no such day; year 0 or 10000
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    raise ValueError("not a time with a zone (RFC 3339)")
