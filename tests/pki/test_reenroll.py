from __future__ import annotations

import ssl
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.pki import reenroll
from service.pki.errors import RejectedIdentifier, RequestError, Unauthorized
from service.pki.issuer import Issuer
from service.pki.weak_keys import DenyList
from tests import csrs, factories
from tests.factories import NOW
from tests.pki.test_certificate_reader import MALFORMED


def create_client_certificate(sans: Sequence[str] = ()) -> reenroll.ClientCertificate:
    """Create a client certificate that the tests' CA issued."""
    issuer = factories.create_issuer()
    spec = factories.evaluate(csrs.build("a.example.com", sans), factories.context("peer", issuer))
    return reenroll.parse_client_certificate(
        issuer.sign(spec.builder(x509.random_serial_number())).public_bytes(Encoding.PEM)
    )


NAMES = [
    (["dns:a.example.com", "dns:b.example.com"], ["dns:b.example.com", "dns:a.example.com"], 0),
    (["dns:a.example.com"], ["dns:A.Example.COM"], 0),
    (["ip:2001:db8::1", "dns:a.example.com"], ["ip:2001:DB8:0::1", "dns:a.example.com"], 0),
    (["dns:a.example.com"], ["dns:a.example.com", "dns:b.example.com"], 1),
    (["dns:a.example.com", "dns:b.example.com"], ["dns:a.example.com"], 1),
    (["dns:a.example.com", "dns:b.example.com"], ["dns:a.example.com", "dns:c.example.com"], 2),
    (["dns:a.example.com"], ["dns:a.example.com", "ip:10.0.0.1"], 1),
]  # fmt: skip


@pytest.mark.parametrize(("old", "requested", "differences"), NAMES)
def test_names_are_compared_as_a_set(old: list[str], requested: list[str], differences: int) -> None:
    """Order and spelling do not count; the refusal lists each additional and each missing name."""
    spec = factories.evaluate(csrs.build("a.example.com", requested), factories.context("peer"))
    client_certificate = create_client_certificate(sans=old)
    if not differences:
        reenroll.require_same_identity(client_certificate, spec)
        return
    with pytest.raises(RequestError) as refusal:
        reenroll.require_same_identity(client_certificate, spec)
    assert [type(problem) for problem in refusal.value.subproblems] == [RejectedIdentifier] * differences


@pytest.mark.parametrize(
    ("old", "requested"), [("Admin", "admin"), ("Straße", "strasse"), ("x2", "x²"), ("a b", " a  b ")]
)
def test_renewed_subject_keeps_its_spelling(old: str, requested: str) -> None:
    """If RFC 5280 7.1 compares the subjects as equal, the spelling of the old certificate is used."""
    authority = factories.authority()
    first = factories.issuance_request(csrs.encode_pem(csrs.build(old)), "client")
    certificate = authority.issue(first).certificate
    renewal = factories.issuance_request(csrs.encode_pem(csrs.build(requested)), "client", principal=None)
    renewed = authority.renew(renewal, certificate.public_bytes(Encoding.PEM)).certificate
    assert renewed.subject.public_bytes() == certificate.subject.public_bytes()
    assert renewed.serial_number != certificate.serial_number


def test_certificate_of_another_ca_with_the_same_name_is_refused() -> None:
    """The signature is verified, not only the issuer's name."""
    subject = factories.create_issuer().certificate.subject
    other = factories.ca(public_key=csrs.private_key("p-384").public_key(), subject=subject)
    issuer = Issuer(other, [factories.root()], csrs.private_key("p-384"))
    with pytest.raises(Unauthorized, match="not issued by this CA"):
        reenroll.verify_client_certificate(create_client_certificate(), issuer, [], DenyList(), NOW)


@pytest.mark.parametrize(("der", "problem"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_client_certificate_is_refused(der: bytes, problem: str) -> None:
    """A malformed field is the client's error; only the log has the details."""
    with pytest.raises(Unauthorized, match="cannot be parsed") as refusal:
        reenroll.parse_client_certificate(ssl.DER_cert_to_PEM_cert(der).encode())
    assert problem in str(refusal.value.__cause__)
