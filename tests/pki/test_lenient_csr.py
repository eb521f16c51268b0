from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import pytest

from service.pki import csr, keys, lenient_csr
from service.pki.errors import BadCSR, RequestError
from tests import csrs
from tests.csrs import WWW, attribute, extension, extension_request, oid, sign_parts, subject, tlv

SAN: Final = tlv(0x30, tlv(0x82, b"www.example.com"))
NULL: Final = b"\5\0"
BASIC, USAGE, ALT = "2.5.29.19", "2.5.29.15", "2.5.29.17"
CHALLENGE: Final = "1.2.840.113549.1.9.7"
ECDSA: Final = oid("1.2.840.10045.4.3.2")


def long_length(value: bytes, extra: int = 1) -> bytes:
    """Encode the length of a value in more octets than necessary."""
    count = value[1] & 0x7F if value[1] & 0x80 else 0
    octets = bytes(extra if count else extra - 1) + (value[2 : 2 + count] if count else value[1:2])
    return value[:1] + bytes([0x80 + len(octets)]) + octets + value[2 + count :]


def rsa_key(null: bytes) -> bytes:
    """Encode an RSA key with these parameters."""
    spki = keys.encode_public_key(csrs.private_key("rsa-2048").public_key())
    return tlv(0x30, tlv(0x30, oid("1.2.840.113549.1.1.1"), null), spki[spki.index(b"\3\x82") :])


def with_san(value: bytes) -> bytes:
    return sign_parts(attributes=extension_request(extension(ALT, value)))


def with_extension(dotted: str, value: bytes) -> bytes:
    return sign_parts(attributes=extension_request(extension(ALT, SAN), extension(dotted, value)))


ACCEPTED: Final[dict[str, tuple[bytes, str]]] = {
    "NULL in ECDSA": (sign_parts(algorithm=tlv(0x30, ECDSA, NULL)), "ecdsa-with-SHA256 has NULL parameters"),
    "curve in ECDSA": (
        sign_parts(algorithm=tlv(0x30, ECDSA, oid("1.2.840.10045.3.1.7"))),
        "ecdsa-with-SHA256 has unexpected parameters",
    ),
    "NULL in Ed25519": (
        sign_parts(algorithm=tlv(0x30, oid("1.3.101.112"), NULL), key_type="ed25519"),
        "id-Ed25519 has NULL parameters (RFC 8410 6)",
    ),
    "no NULL in the RSA key": (
        sign_parts(public_key=rsa_key(b""), key_type="rsa-2048"),
        "the public key rsaEncryption has no parameters (RFC 3279 2.3.1)",
    ),
    "other parameters of RSA": (
        sign_parts(algorithm=tlv(0x30, oid("1.2.840.113549.1.1.11"), b"\x30\0"), key_type="rsa-2048"),
        "sha256WithRSAEncryption has unexpected parameters (RFC 4055 5)",
    ),
    "length of the curve": (
        sign_parts(
            public_key=keys.encode_public_key(csrs.private_key("p-256").public_key())
            .replace(b"\x30\x59\x30\x13", b"\x30\x5a\x30\x14")
            .replace(b"\x06\x08", b"\x06\x81\x08")
        ),
        "a length is not minimal",
    ),
    "no attributes": (sign_parts(attributes=b""), "there is no attributes field"),
    "no value of extensionRequest": (
        sign_parts(attributes=tlv(0xA0, attribute("1.2.840.113549.1.9.14"))),
        "extensionRequest has no value",
    ),
    "version 1": (sign_parts(version=b"\2\1\1"), "the version is 1, not 0"),
    "version 2": (sign_parts(version=b"\2\1\2"), "the version is 2, not 0"),
    "attributes not sorted": (
        sign_parts(attributes=tlv(0xA0, attribute(CHALLENGE, tlv(12, b"x" * 99)), WWW[2:])),
        "the attributes are not in the order of DER",
    ),
    "two challengePasswords in one attribute": (
        sign_parts(
            attributes=tlv(0xA0, *sorted([attribute(CHALLENGE, tlv(12, b"a"), tlv(12, b"b")), WWW[2:]]))
        ),
        "",
    ),
    "critical FALSE": (
        sign_parts(attributes=extension_request(extension(ALT, SAN, b"\1\1\0"))),
        "subjectAltName has critical FALSE",
    ),
    "critical 01": (
        sign_parts(attributes=extension_request(extension(ALT, SAN, b"\1\1\1"))),
        "subjectAltName has critical TRUE that is not FF",
    ),
    "cA FALSE": (with_extension(BASIC, b"\x30\3\1\1\0"), "basicConstraints has cA FALSE"),
    "pathLen": (with_extension(BASIC, b"\x30\3\2\1\0"), "basicConstraints has pathLen without CA:TRUE"),
    "unused bits": (with_extension(USAGE, b"\3\2\5\xbf"), "the value of an extension is not DER"),
    "length of the CSR": (long_length(sign_parts()), "a length is not minimal"),
    "length of the signed octets": (
        sign_parts(
            info=long_length(tlv(0x30, b"\2\1\0", b"\x30\0", rsa_key(NULL), WWW)), key_type="rsa-2048"
        ),
        "a length is not minimal",
    ),
    "length in an extension": (with_san(long_length(SAN)), "a length is not minimal"),
}


@pytest.mark.parametrize(("request_der", "note"), ACCEPTED.values(), ids=ACCEPTED)
def test_encoding_that_is_not_der_is_read_with_a_note(request_der: bytes, note: str) -> None:
    """The CSR is accepted, the key is encoded canonically, and the note says what is not DER."""
    parsed = csr.parse(request_der)
    assert parsed.names == (("dns:www.example.com",) if b"www.example.com" in request_der else ())
    assert parsed.subject_public_key_info == keys.encode_public_key(parsed.public_key)
    assert parsed.der == request_der
    assert len(parsed.notes) == bool(note)
    assert all(text.startswith("read leniently: ") and note in text for text in parsed.notes)


@pytest.mark.parametrize(("request_der", "note"), ACCEPTED.values(), ids=ACCEPTED)
def test_changed_csr_is_refused_after_lenient_reading(request_der: bytes, note: str) -> None:
    """The signature covers the octets as sent: a changed octet in them is refused."""
    changed = request_der.replace(b"www.example.com", b"wwx.example.com")
    if changed == request_der:
        changed = request_der.replace(b"\2\1\0\x30\0", b"\2\1\1\x30\0", 1)
    with pytest.raises(BadCSR, match="does not match the key"):
        csr.parse(changed)


@pytest.mark.parametrize(
    ("tag", "content", "text", "note"),
    [
        (0x13, b"*.example.com", "*.example.com", "PrintableString, despite its characters"),
        (0x13, b"a_b&c!d@e", "a_b&c!d@e", "PrintableString, despite its characters"),
        (0x13, b"M\xfcller", "Müller", "PrintableString, which is read as ISO 8859-1"),
        (0x14, b"M\xfcller", "Müller", "TeletexString, which is read as ISO 8859-1"),
        (0x14, "ü".encode(), "Ã¼", "TeletexString, which is read as ISO 8859-1"),
        (0x16, b"M\xfcller", "Müller", "IA5String, which is read as ISO 8859-1"),
        (0x16, "Zoë".encode(), "ZoÃ«", "IA5String, which is read as ISO 8859-1"),
        (0x12, "1ë".encode(), "1Ã«", "NumericString, which is read as ISO 8859-1"),
        (0x1E, "Mü".encode("utf-16-be"), "Mü", ""),
        (0x1C, "Mü".encode("utf-32-be"), "Mü", ""),
        (0x12, b"12 3", "12 3", ""),
    ],
)
def test_common_name_of_every_string_type_is_read(tag: int, content: bytes, text: str, note: str) -> None:
    """The text is that of OpenSSL; a note says if its type does not have the characters."""
    parsed = csr.parse(sign_parts(subject=subject(tlv(tag, content))))
    assert parsed.common_name == text
    assert [note in item for item in parsed.notes] == [True] * bool(note)


@pytest.mark.parametrize(("tag", "content"), [(0x14, b"D\xc9"), (0x13, b"D_")])
def test_country_of_every_string_type_is_read(tag: int, content: bytes) -> None:
    """The value of an attribute with a length in RFC 5280 is not measured here."""
    parsed = csr.parse(sign_parts(subject=subject(tlv(tag, content), dotted="2.5.4.6")))
    assert [text for _, text in parsed.subject] == [content.decode("latin-1")]
    assert "the subject attribute C is a" in parsed.notes[0]


def test_multivalued_rdn_in_any_order_is_read() -> None:
    """The attributes of an RDN keep their order; equal ones are read, too."""
    parsed = csr.parse(sign_parts(subject=subject(tlv(12, b"b"), tlv(12, b"a"), tlv(12, b"a"))))
    assert [text for _, text in parsed.subject] == ["b", "a", "a"]
    assert "not in the order of DER (X.690 10.3)" in parsed.notes[0]


def names(*general_names: bytes) -> bytes:
    return with_san(tlv(0x30, *general_names))


REFUSED: Final[dict[str, tuple[bytes, str, str]]] = {
    "iPAddress": (names(tlv(0x87, b"10.0.0.1")), "subject_alt_name[0]", "iPAddress has 8 octets; 4 or 16"),
    "dNSName": (names(tlv(0x82, b"a"), tlv(0x82, b"\xfc")), "subject_alt_name[1]", "dNSName is not ASCII"),
    "constructed": (names(tlv(0xA2, tlv(0x16, b"a"))), "subject_alt_name[0]", "dNSName is constructed"),
    "x400Address": (names(tlv(0xA3)), "subject_alt_name[0]", "Names of kind x400Address are not"),
    "tag of a name": (names(tlv(0x89, b"a")), "subject_alt_name[0]", "tag 0x89 is not that of a GeneralName"),
    "a text as names": (with_san(tlv(12, b"DNS:a")), "subject_alt_name", "subjectAltName is malformed"),
    "octets after the names": (with_san(SAN + b"\0"), "subject_alt_name", "subjectAltName is malformed"),
    "names twice": (with_extension(ALT, SAN), "subject_alt_name", "subjectAltName occurs twice"),
    "basicConstraints": (with_extension(BASIC, b"\x30\1x"), "extensions.basic_constraints", "is malformed"),
    "BOOLEAN without octets": (
        with_extension(BASIC, b"\x30\2\1\0"),
        "extensions.basic_constraints",
        "basicConstraints is malformed",
    ),
    "extendedKeyUsage": (with_extension("2.5.29.37", b"\x30\0"), "extensions.extended_key_usage", "malformed"),
    "other extension": (with_extension("2.5.29.14", b"a"), "extensions.subjectKeyIdentifier", "malformed"),
    "deep extension": (with_extension(USAGE, b"\x30\x80"), "extensions.key_usage", "malformed"),
    "UTF8String": (sign_parts(subject=subject(b"\x0c\1\xfc")), "subject.common_name", "not a valid UTF8String"),
    "BMPString": (sign_parts(subject=subject(b"\x1e\1a")), "subject.common_name", "not a valid BMPString"),
    "BOOLEAN": (
        sign_parts(subject=subject(b"\1\1\xff", dotted="2.5.4.10")),
        "subject.O",
        "O is not a valid character string",
    ),
    "two parameters": (
        sign_parts(algorithm=tlv(0x30, ECDSA, NULL, NULL)),
        "signature_algorithm",
        "the signature algorithm ecdsa-with-SHA256 has malformed parameters",
    ),
    "NULL with content": (
        sign_parts(algorithm=tlv(0x30, ECDSA, b"\5\1\0")),
        "signature_algorithm",
        "the signature algorithm ecdsa-with-SHA256 has malformed parameters",
    ),
    "parameters of ML-DSA": (
        sign_parts(public_key=tlv(0x30, tlv(0x30, oid("2.16.840.1.101.3.4.3.17"), NULL), b"\3\1\0")),
        "csr",
        "The algorithm of the public key or the signature has malformed parameters",
    ),
    "octets after the CSR": (sign_parts() + b"abc", "csr", "3 trailing octets after the CSR"),
    "VisibleString": (
        sign_parts(subject=subject(b"\x1a\1a")),
        "subject.common_name",
        "CN is not a valid character string",
    ),
    "length of five octets": (long_length(sign_parts(), 4), "csr", "a length of 5 octets"),
    "indefinite length": (b"\x30\x80" + sign_parts()[3:] + b"\0\0", "csr", "indefinite length"),
    "fifth field": (
        sign_parts(attributes=WWW + NULL),
        "csr",
        "tags in CertificationRequestInfo are 02 30 30 a0 05, not 02 30 30 a0",
    ),
    "version": (sign_parts(version=b"\2\2\1\0"), "version", "the version has 2 octets"),
    "value of an attribute": (
        sign_parts(algorithm=tlv(0x30, ECDSA, NULL), attributes=tlv(0xA0, attribute(CHALLENGE, b"\x0c\5a"))),
        "attributes",
        "an attribute is truncated",
    ),
    "attribute": (sign_parts(attributes=tlv(0xA0, tlv(0x30, oid(CHALLENGE)))), "attributes", "an attribute"),
    "critical": (
        sign_parts(attributes=extension_request(extension(ALT, SAN, b"\1\0"))),
        "extensions",
        "critical of the extension subjectAltName",
    ),
    "two values of extensionRequest": (
        sign_parts(attributes=tlv(0xA0, attribute("1.2.840.113549.1.9.14", b"\x30\0", b"\x30\0"))),
        "extensions",
        "extensionRequest does not have one SEQUENCE",
    ),
    "tag of an extension": (
        sign_parts(attributes=extension_request(extension(ALT, SAN, b"\1\1\0"), b"\x80" + extension(ALT, b"")[1:])),
        "extensions",
        "an extension has the tag 0x80, not that of a SEQUENCE",
    ),
    "tag of an attribute": (
        sign_parts(attributes=tlv(0xA0, b"\x31" + attribute(CHALLENGE)[1:])),
        "attributes",
        "an attribute has the tag 0x31",
    ),
    "two extensionRequests": (
        sign_parts(attributes=tlv(0xA0, WWW[2:], WWW[2:])),
        "extensions",
        "several extensionRequest",
    ),
    "OBJECT IDENTIFIER": (
        sign_parts(subject=tlv(0x30, tlv(0x31, tlv(0x30, b"\6\0", tlv(12, b"a"))))),
        "subject",
        "no valid OBJECT IDENTIFIER",
    ),
    "RDN": (sign_parts(subject=tlv(0x30, b"\x30\0")), "subject", "relative distinguished name is not a SET"),
    "subject": (sign_parts(subject=tlv(0x30, tlv(0x31, b"\x31\0"))), "subject", "is not a SET of types"),
    "many extensions": (
        sign_parts(
            attributes=extension_request(
                *(extension(f"1.2.3.{number}", b"", b"\1\1\0") for number in range(lenient_csr.MAX_EXTENSIONS + 1))
            )
        ),
        "extensions",
        "101 extensions are requested; at most 100",
    ),
}  # fmt: skip


def violations(data: bytes) -> Sequence[RequestError]:
    with pytest.raises(RequestError) as refusal:
        csr.parse(data)
    return refusal.value.subproblems  # type: ignore[return-value]


@pytest.mark.parametrize(("request_der", "field", "fragment"), REFUSED.values(), ids=REFUSED)
def test_part_that_cannot_be_read_is_named(request_der: bytes, field: str, fragment: str) -> None:
    """One reason names the field in the terms of the RFCs."""
    (violation,) = violations(request_der)
    assert violation.field == field
    assert fragment in violation.detail
    assert "DER" not in violation.detail


def test_every_part_that_cannot_be_read_is_reported() -> None:
    """Names, subject attributes and extensions that cannot be read are reported together."""
    request = sign_parts(
        subject=subject(b"\x0c\1\xfc"),
        attributes=extension_request(
            extension(ALT, tlv(0x30, tlv(0x87, b"text"), tlv(0x87, b""), tlv(0x82, b"\xfc"))),
            extension(BASIC, b""),
        ),
    )
    assert [violation.field for violation in violations(request)] == [
        "subject.common_name",
        "subject_alt_name[1]",
        "subject_alt_name[2]",
        "extensions.basic_constraints",
    ]


def test_largest_csr_is_read_in_linear_time() -> None:
    """A CSR of 64 KiB with 20,000 values or nested lengths takes less than a second."""
    many = tlv(0x30, *[tlv(0x31)] * 20_000)
    nested = b""
    for _ in range(8_000):
        nested = tlv(0x30, nested)
    for request in (
        sign_parts(subject=many, version=b"\2\1\1"),
        with_extension(USAGE, nested),
        names(*[tlv(0x87)] * 20_000),
    ):
        assert len(request) <= csr.MAX_DER_BYTES
        start = time.process_time()
        csr.read(request)
        assert time.process_time() - start < 1
