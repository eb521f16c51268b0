"""Values -> text and bytes: PEM, DER, PKCS#7 certs-only, readable text, hexadecimal, RFC 3339."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

_INTEGER: Final = 0x02  # tags of X.690 8
_BIT_STRING: Final = 0x03
_OCTET_STRING: Final = 0x04
_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_TRUE: Final = b"\x01\x01\xff"
NULL: Final = b"\x05\x00"

# What RFC 5280 A.1 has as PrintableString alone, of what a subject may hold here.
_PRINTABLE: Final = frozenset({NameOID.COUNTRY_NAME, NameOID.SERIAL_NUMBER})

_PEM_LINE: Final = 64  # characters (RFC 7468 2)


def tagged(tag: int, *contents: bytes) -> bytes:
    """DER: a tag of one octet, the length, and the contents, one after another (X.690 8.1, 10.1)."""
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:  # noqa: PLR2004 - the short form has seven bits (X.690 8.1.3.4)
        return b"%c%c%b" % (tag, length, content)
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return b"%c%c%b%b" % (tag, 0x80 | len(octets), octets, content)


def sequence(*contents: bytes) -> bytes:
    """SEQUENCE, DER."""
    return tagged(_SEQUENCE, *contents)


def integer(number: int) -> bytes:
    """INTEGER, DER, of what is not negative."""
    return tagged(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1))


def bit_string(octets: bytes) -> bytes:
    """BIT STRING of whole octets, DER."""
    return tagged(_BIT_STRING, b"\0", octets)


@functools.lru_cache(maxsize=256)  # a profile's, and a window's
def validity(not_before: datetime, not_after: datetime) -> bytes:
    """Validity (RFC 5280 4.1.2.5), DER, of two times in UTC, whole seconds."""
    return sequence(_time(not_before), _time(not_after))


def _time(moment: datetime) -> bytes:
    """Of 1950 to 2049 as UTCTime, later as GeneralizedTime."""
    is_short = moment.year < 2050  # noqa: PLR2004 - the RFC's own year, where two digits end
    tag, form = (_UTC_TIME, "%y") if is_short else (_GENERALIZED_TIME, "%Y")
    return tagged(tag, f"{moment:{form}%m%d%H%M%SZ}".encode("ascii"))


def name(attributes: Iterable[tuple[x509.ObjectIdentifier, str]]) -> bytes:
    """Name (RFC 5280 4.1.2.4), DER, of attributes one to an RDN, in their order."""
    return sequence(*[tagged(_SET, _attribute(oid, text)) for oid, text in attributes])


def _attribute(oid: x509.ObjectIdentifier, text: str) -> bytes:
    string = _PRINTABLE_STRING if oid in _PRINTABLE else _UTF8_STRING
    return sequence(object_identifier(oid), tagged(string, text.encode()))


def extension(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    """Extension (RFC 5280 4.1), DER."""
    held = tagged(_OCTET_STRING, value.public_bytes())
    return sequence(object_identifier(value.oid), _TRUE if critical else b"", held)


def algorithm(oid: x509.ObjectIdentifier, *parameters: bytes) -> bytes:
    """AlgorithmIdentifier (RFC 5280 4.1.1.2), DER."""
    return sequence(object_identifier(oid), *parameters)


@functools.lru_cache(maxsize=256)
def object_identifier(oid: x509.ObjectIdentifier) -> bytes:
    """OBJECT IDENTIFIER, DER."""
    return asn1.encode_der(oid)


def joined(parts: Iterable[bytes]) -> bytes:
    """Parts one after another, each after its length, so that no two lists of parts give the same."""
    return b"".join([b"%d:%s" % (len(each), each) for each in parts])


def pem(certificates: Iterable[x509.Certificate]) -> str:
    """PEM blocks one after another (RFC 7468 5)."""
    return "".join([pem_block(each.public_bytes(Encoding.DER)) for each in certificates])


def pem_block(certificate: bytes) -> str:
    """One PEM block (RFC 7468 5) of a certificate, DER."""
    text = base64.b64encode(certificate).decode("ascii")
    lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


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
