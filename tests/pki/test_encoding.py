from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtensionOID, SignatureAlgorithmOID

from service.pki import encoding
from tests import factories


def test_pem_blocks_follow_one_another() -> None:
    """RFC 7468 5: as the library writes each of them."""
    certificates = [factories.ca(), factories.root()]
    blocks = [each.public_bytes(Encoding.PEM) for each in certificates]
    assert encoding.encode_pem(certificates).encode() == b"".join(blocks)
    assert encoding.encode_pem([]) == ""


@pytest.mark.parametrize(
    ("oid", "name"),
    [
        (AttributeOID.CHALLENGE_PASSWORD, "challengePassword"),
        (ExtensionOID.TLS_FEATURE, "tlsFeature"),
        (SignatureAlgorithmOID.RSA_WITH_SHA1, "rsaWithSha1"),
        (x509.ObjectIdentifier("1.2.3.4"), "1.2.3.4"),
    ],
)
def test_object_identifier_has_a_name_or_its_digits(oid: x509.ObjectIdentifier, name: str) -> None:
    """Names are the library's constants in camel case, as RFC 5280 writes most of them."""
    assert encoding.oid_name(oid) == name
