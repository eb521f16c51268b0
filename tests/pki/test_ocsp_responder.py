from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library
from cryptography.x509.ocsp import OCSPCertStatus
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.pki import ocsp, ocsp_responder
from service.pki.issuer import Issuer
from service.pki.ocsp import CertificateStatus
from service.pki.ocsp_responder import DelegatedResponder
from tests import factories
from tests.factories import NOW
from tests.pki.test_ocsp import build_request

SERVER_AUTH, OCSP_SIGNING = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING
OTHER = [x509.DirectoryName(factories.distinguished_name("Other"))]
START = NOW.replace(microsecond=0)


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        (None, ""),
        (
            x509.ExtendedKeyUsage([SERVER_AUTH]),
            "the extendedKeyUsage of 'CN=Signing' does not",
        ),
        (x509.ExtendedKeyUsage([SERVER_AUTH, OCSP_SIGNING]), ""),
        (x509.NameConstraints(OTHER, None), "the nameConstraints of 'CN=Signing' forbid"),
        (x509.NameConstraints(None, OTHER), ""),
        (x509.NameConstraints([x509.DNSName("example.com")], None), ""),
    ],
)
def test_chain_permits_or_forbids_a_responder(extension: x509.ExtensionType | None, expected: str) -> None:
    """Verifiers refuse a responder by the chain's extendedKeyUsage and its directoryName constraints."""
    reason = ocsp_responder.why_forbidden([factories.ca(extra=extension), factories.root()])
    assert reason.startswith(expected)
    assert bool(reason) == bool(expected)


def test_subject_has_the_issuers_attributes_except_its_common_name() -> None:
    """A name constraint on an organisation permits the responder, too."""
    subject = x509.Name.from_rfc4514_string("CN=Signing,O=Example,C=AU")
    issuer = Issuer(factories.ca(subject=subject), [factories.root()], factories.SIGNING)
    spec = ocsp_responder.create_spec(issuer, factories.ROOT.public_key(), START)
    assert spec.subject.rfc4514_string() == "CN=OCSP responder,O=Example,C=AU"


@pytest.mark.parametrize(
    ("before_end", "remaining"),
    [(timedelta(days=9), timedelta(days=3, hours=-1, seconds=-1)), (timedelta(hours=2), timedelta(hours=2))],
)
def test_certificate_does_not_outlive_the_issuer(before_end: timedelta, remaining: timedelta) -> None:
    """It is valid for three days, of which one hour has passed, or until the issuer ends."""
    issuer = factories.create_issuer()
    now = issuer.not_after - before_end
    spec = ocsp_responder.create_spec(issuer, factories.ROOT.public_key(), now)
    assert (spec.not_before, spec.not_after) == (now - timedelta(hours=1), now + remaining)


def test_response_contains_the_responder_and_is_signed_by_its_key() -> None:
    """The response names the responder by its key."""
    issuer, key = factories.create_issuer(), ec.generate_private_key(ec.SECP256R1())
    certificate = issuer.sign(ocsp_responder.create_spec(issuer, key.public_key(), START).builder(2**80))
    request = ocsp.parse_request(build_request(1))
    responder = DelegatedResponder(certificate, key)
    builder = ocsp.response_builder(
        request, CertificateStatus(OCSPCertStatus.UNKNOWN), START, responder.not_after
    )
    response = library.load_der_ocsp_response(responder.sign_ocsp(builder).public_bytes(Encoding.DER))
    assert response.certificates == [certificate]
    assert response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    key.public_key().verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
