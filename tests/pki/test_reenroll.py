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


def made(sans: Sequence[str] = ()) -> reenroll.ClientCertificate:
    """A certificate that the tests' CA signed, as it is presented."""
    by = factories.create_issuer()
    spec = factories.evaluate(csrs.build("a.example.com", sans), factories.context("peer", by))
    return reenroll.parse_client_certificate(
        by.sign(spec.builder(x509.random_serial_number())).public_bytes(Encoding.PEM)
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


@pytest.mark.parametrize(("had", "asked", "differences"), NAMES)
def test_names_are_compared_as_a_set(had: list[str], asked: list[str], differences: int) -> None:
    """Order and spelling do not count; each name too many, and each that is missing, is told."""
    spec = factories.evaluate(csrs.build("a.example.com", asked), factories.context("peer"))
    presented = made(sans=had)
    if not differences:
        reenroll.require_same_identity(presented, spec)
        return
    with pytest.raises(RequestError) as refusal:
        reenroll.require_same_identity(presented, spec)
    assert [type(each) for each in refusal.value.subproblems] == [RejectedIdentifier] * differences


@pytest.mark.parametrize(
    ("had", "asked"), [("Admin", "admin"), ("Straße", "strasse"), ("x2", "x²"), ("a b", " a  b ")]
)
def test_renewed_subject_keeps_its_letters(had: str, asked: str) -> None:
    """What RFC 5280 7.1 does not compare is the old certificate's, not the request's."""
    authority = factories.authority()
    old = authority.issue(factories.issuance_request(csrs.encode_pem(csrs.build(had)), "client")).certificate
    order = factories.issuance_request(csrs.encode_pem(csrs.build(asked)), "client", principal=None)
    new = authority.renew(order, old.public_bytes(Encoding.PEM)).certificate
    assert new.subject.public_bytes() == old.subject.public_bytes()
    assert new.serial_number != old.serial_number


def test_another_ca_s_may_not() -> None:
    """The very name of the issuer is not enough: its signature is what counts."""
    subject = factories.create_issuer().certificate.subject
    other = factories.ca(public_key=csrs.private_key("p-384").public_key(), subject=subject)
    by = Issuer(other, [factories.root()], csrs.private_key("p-384"))
    with pytest.raises(Unauthorized, match="not issued by this CA"):
        reenroll.verify_client_certificate(made(), by, [], DenyList(), NOW)


@pytest.mark.parametrize(("der", "problem"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_client_certificate_is_refused(der: bytes, problem: str) -> None:
    """Whichever field it is, it is no error of the service's; what is wrong stays in the log."""
    with pytest.raises(Unauthorized, match="cannot be parsed") as refusal:
        reenroll.parse_client_certificate(ssl.DER_cert_to_PEM_cert(der).encode())
    assert problem in str(refusal.value.__cause__)
