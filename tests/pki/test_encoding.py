from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtensionOID, SignatureAlgorithmOID

from service.pki import encoding
from tests import factories


def test_pem_chain_is_concatenated_blocks() -> None:
    """RFC 7468 5: the blocks are those that the library writes."""
    certificates = [factories.ca(), factories.root()]
    blocks = [certificate.public_bytes(Encoding.PEM) for certificate in certificates]
    assert encoding.encode_pem(certificates).encode() == b"".join(blocks)
    assert encoding.encode_pem([]) == ""


@pytest.mark.parametrize(
    ("oid", "name"),
    [
        (AttributeOID.CHALLENGE_PASSWORD, "challengePassword"),
        (ExtensionOID.TLS_FEATURE, "tlsFeature"),
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, "subjectAltName"),
        (SignatureAlgorithmOID.RSA_WITH_SHA1, "sha1WithRSAEncryption"),
        (SignatureAlgorithmOID.RSA_WITH_SHA3_256, "id-rsassa-pkcs1-v1-5-with-sha3-256"),
        (SignatureAlgorithmOID.ECDSA_WITH_SHA384, "ecdsa-with-SHA384"),
        (SignatureAlgorithmOID.ECDSA_WITH_SHA3_256, "id-ecdsa-with-sha3-256"),
        (SignatureAlgorithmOID.DSA_WITH_SHA256, "id-dsa-with-sha256"),
        (SignatureAlgorithmOID.ML_DSA_44, "id-ml-dsa-44"),
        (x509.ObjectIdentifier("1.2.3.4"), "1.2.3.4"),
    ],
)
def test_oid_name_is_that_of_its_rfc_or_dotted_decimals(oid: x509.ObjectIdentifier, name: str) -> None:
    """The name of RFC 5280 or of the algorithm's RFC; an unknown OID is in digits."""
    assert encoding.oid_name(oid) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-29T08:00:00Z", "2026-11-29T08:00:00+00:00"),
        ("2026-11-29t08:00:00z", "2026-11-29T08:00:00+00:00"),
        ("2026-11-29 08:00:00.123456789-00:00", "2026-11-29T08:00:00.123456+00:00"),
        ("2026-11-29T08:00:00+05:45", "2026-11-29T02:15:00+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59+00:00"),
    ],
)
def test_timestamp_of_rfc_3339_is_parsed(text: str, expected: str) -> None:
    assert encoding.parse_timestamp(text).isoformat() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-11-29",
        "2026-11-29T08:00:00",
        "2026-11-29T08:00Z",
        "2026-W48-7T08:00:00Z",
        "2026-333T08:00:00Z",
        "20261129T080000Z",
        "2026-11-29T08:00:00,5Z",
        "2026-11-29T08:00:00+0100",
        "2026-11-29T08:00:00+01:60",
        "2026-11-29T08:00:00+24:00",
        "2026-11-29T08:00:00+01:00:30",
        "2026-11-29T24:00:00Z",
        "2026-12-31T23:59:60Z",
        "2026-02-29T08:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "12026-11-29T08:00:00Z",
        "2026-11-29T08:00:00Z\n",
        "\u0662026-11-29T08:00:00Z",
    ],
)
def test_other_time_is_refused(text: str) -> None:
    """Also other forms of ISO 8601, leap seconds, and times before year 1 or after year 9999."""
    with pytest.raises(ValueError, match="RFC 3339"):
        encoding.parse_timestamp(text)


@pytest.mark.parametrize(
    ("text", "octets"), [("", b""), ("AA", b"\0"), ("-_8", b"\xfb\xff"), ("AAAA", b"\0\0\0")]
)
def test_base64url_is_decoded(text: str, octets: bytes) -> None:
    """RFC 7515 2."""
    assert encoding.decode_base64url(text) == octets


@pytest.mark.parametrize(
    "text", ["A", "AB", "AA==", "AA=", "+/8", "AA\n", " AA", "A A", "\uff21\uff21", "AAAAA", "AA\0"]
)
def test_other_base64_than_the_only_encoding_is_refused(text: str) -> None:
    """Padding, other alphabets, white space, spare bits and a single left-over character."""
    with pytest.raises(ValueError, match="base64url"):
        encoding.decode_base64url(text)
