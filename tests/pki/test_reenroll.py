from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.pki import reenroll
from service.pki.errors import NotPermitted, RejectedIdentifier, RequestError, UnknownProfile
from service.pki.issuer import Issuer
from service.pki.weak_keys import DenyList
from tests import authorities, csrs
from tests.authorities import NOW


def made(
    profile: str = "peer", cn: str | None = "a.example.com", sans: Sequence[str] = (), now: datetime = NOW
) -> reenroll.ClientCertificate:
    """A certificate that the tests' CA signed, as it is presented."""
    by = authorities.issuer()
    spec = authorities.evaluate(csrs.build(cn, sans), authorities.context(profile, by, now=now))
    return reenroll.load(by.sign(spec.builder(x509.random_serial_number())).public_bytes(Encoding.PEM))


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
    spec = authorities.evaluate(csrs.build("a.example.com", asked), authorities.context("peer"))
    presented = made(sans=had)
    if not differences:
        assert reenroll.require_same_identity(presented, spec) == spec
        return
    with pytest.raises(RequestError) as refusal:
        reenroll.require_same_identity(presented, spec)
    assert [type(each) for each in refusal.value.reasons] == [RejectedIdentifier] * differences


@pytest.mark.parametrize(
    ("had", "asked"), [("Admin", "admin"), ("Straße", "strasse"), ("x²", "x2"), ("a  b", "a b")]
)
def test_a_renewed_subject_keeps_its_letters(had: str, asked: str) -> None:
    """What RFC 5280 7.1 does not compare is the old certificate's, not the request's."""
    authority = authorities.authority()
    old = authority.issue(authorities.order(csrs.pem(csrs.build(had)), "client")).certificate
    order = authorities.order(csrs.pem(csrs.build(asked)), "client", principal=None)
    new = authority.renew(order, old.public_bytes(Encoding.PEM)).certificate
    assert new.subject.public_bytes() == old.subject.public_bytes()
    assert new.serial_number != old.serial_number


LATER = NOW + timedelta(days=89)
WHO = [
    ("peer", NOW, None),
    ("client", LATER, None),
    ("server", NOW, "clientAuth"),
    ("peer", NOW + timedelta(days=91), "not valid now"),
    ("peer", NOW - timedelta(minutes=6), "not valid now"),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "now", "word"), WHO)
def test_who_may_renew(profile: str, now: datetime, word: str | None) -> None:
    """A certificate of this CA, for clients, from its first second to its last."""
    presented, by = made(profile, sans=["dns:a.example.com"]), authorities.issuer()
    if word is None:
        reenroll.verify(presented, by, [1], DenyList(), now)
        return
    with pytest.raises(NotPermitted, match=word):
        reenroll.verify(presented, by, [1], DenyList(), now)


def test_what_was_revoked_or_denied_may_not() -> None:
    """Its serial number is on the list; or the SHA-256 of its key is."""
    import hashlib  # noqa: PLC0415

    presented, by = made(), authorities.issuer()
    with pytest.raises(NotPermitted, match="revoked"):
        reenroll.verify(presented, by, [1, presented.certificate.serial_number], DenyList(), NOW)
    digest = hashlib.sha256(presented.subject_public_key_info).digest()
    with pytest.raises(NotPermitted, match="deny list"):
        reenroll.verify(presented, by, [], DenyList(frozenset({digest})), NOW)


def test_another_ca_s_may_not() -> None:
    """The very name of the issuer is not enough: its signature is what counts."""
    other = authorities.ca(
        public_key=csrs.key("p-384").public_key(), subject=authorities.issuer().certificate.subject
    )
    by = Issuer(other, [authorities.root()], csrs.key("p-384"))
    with pytest.raises(NotPermitted, match="not one of this CA"):
        reenroll.verify(made(), by, [], DenyList(), NOW)


def test_the_profile_is_the_policy_s() -> None:
    """The first policy says the profile; a label may say the same, and nothing else."""
    policy = authorities.profiles()
    presented = made("client", sans=["dns:a.example.com"])
    assert reenroll.profile(presented, policy, None).name == "client"
    assert reenroll.profile(presented, policy, "client").name == "client"
    with pytest.raises(NotPermitted, match="of the profile client, not server"):
        reenroll.profile(presented, policy, "server")
    with pytest.raises(UnknownProfile):
        reenroll.profile(presented, policy, "nope")


@pytest.mark.parametrize(
    "pem", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate(pem: bytes) -> None:
    """Whatever cannot be read is refused, without a word of it."""
    with pytest.raises(NotPermitted, match="cannot be read"):
        reenroll.load(pem)
