from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID, NameOID

from service.pki import csr, encoding, keys, signing, template
from service.pki.draft import Plan
from service.pki.errors import (
    IssuerUnavailable,
    NotPermitted,
    Refused,
    RejectedIdentifier,
    RejectedValidity,
    RequestError,
)
from service.pki.issuer import Issuer
from service.pki.policy import Profiles
from service.pki.profile import ATTRIBUTES, Asked
from tests import authorities, csrs
from tests.authorities import NOW, SIGNING, ca, root


def plan(
    request: x509.CertificateSigningRequest, profile: str = "server", issuer: Issuer | None = None
) -> template.CertificateSpec:
    """What would be issued."""
    loaded = csr.load(csrs.der(request))
    return template.plan(loaded, authorities.under(profile, issuer))


@pytest.mark.parametrize(
    ("profile", "cn", "sans", "common_name", "given", "notes"),
    [
        ("server", "a.example.com", ["dns:a.example.com"], "a.example.com", ["dns:a.example.com"], []),
        ("server", "a.example.com", [], "a.example.com", ["dns:a.example.com"], ["common name added"]),
        ("server", "10.0.0.1", [], "10.0.0.1", ["ip:10.0.0.1"], ["common name added"]),
        ("server", "2001:DB8::1", [], "2001:DB8::1", ["ip:2001:db8::1"], ["common name added"]),
        ("server", "*.example.com", [], "*.example.com", ["dns:*.example.com"], ["common name added"]),
        ("server", "A.Example.com", ["dns:a.example.COM"], "A.Example.com", ["dns:a.example.com"], []),
        ("server", "localhost", ["dns:localhost"], "localhost", ["dns:localhost"], []),
        ("server", None, ["dns:a.example.com"], None, ["dns:a.example.com"], []),
        ("server", None, ["ip:10.0.0.1", "dns:b"], None, ["ip:10.0.0.1", "dns:b"], []),
        ("server", None, ["dns:a.b", "dns:A.b"], None, ["dns:a.b"], ["twice"]),
        ("peer", "a.example.com", ["uri:spiffe://x.y/z"], "a.example.com", ["uri:spiffe://x.y/z", "dns:a.example.com"], ["common name added"]),
        ("client", "Anna Beispiel", [], "Anna Beispiel", [], []),
        ("client", "a.example.com", [], "a.example.com", [], []),
        ("client", "é" * 64, [], "é" * 64, [], []),
        ("client", "<img src=x onerror=alert(1)>", [], "<img src=x onerror=alert(1)>", [], []),
        ("client", None, ["email:a@b.example"], None, ["email:a@b.example"], []),
    ],
)  # fmt: skip
def test_names_that_are_given(
    profile: str,
    cn: str | None,
    sans: Sequence[str],
    common_name: str | None,
    given: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Every name is honoured; a server's common name is added to its SANs, with a note."""
    planned = plan(csrs.build(cn, sans), profile)
    subject = [str(each.value) for each in planned.subject]
    assert subject == ([common_name] if common_name else [])
    assert [str(each) for each in planned.names] == list(given)
    assert len(planned.notes) == len(notes)
    assert all(word in note for word, note in zip(notes, planned.notes, strict=True))


CN, SAN0 = "subject.common_name", "subject_alt_name[0]"


@pytest.mark.parametrize(
    ("profile", "cn", "sans", "reasons"),
    [
        ("server", None, [], [("rejectedIdentifier", CN)]),
        ("client", None, [], [("rejectedIdentifier", CN)]),
        ("server", "localhost", [], [("rejectedIdentifier", CN)]),
        ("server", "Anna", ["dns:a.example"], [("rejectedIdentifier", CN)]),
        ("server", "a_b.example.com", [], [("rejectedIdentifier", CN)]),
        ("server", "bücher.example", [], [("rejectedIdentifier", CN)]),
        ("server", "a.*.example", [], [("rejectedIdentifier", CN)]),
        ("server", "\u212aube.example", ["dns:kube.example"], [("rejectedIdentifier", CN)]),
        ("server", "fe80::1%eth0", [], [("rejectedIdentifier", CN)]),
        ("server", "a.example.com.", [], [("rejectedIdentifier", CN)]),
        ("client", "x\ny", [], [("rejectedIdentifier", CN)]),
        ("client", "x\x00y", [], [("rejectedIdentifier", CN)]),
        ("client", "x\u2028y", [], [("rejectedIdentifier", CN)]),
        ("server", None, ["email:a@b.example"], [("rejectedIdentifier", SAN0)]),
        ("peer", None, ["email:a@b.example"], [("rejectedIdentifier", SAN0)]),
        ("server", None, ["dns:a..b", "uri:x:y"], [("rejectedIdentifier", SAN0), ("rejectedIdentifier", "subject_alt_name[1]")]),
        ("server", None, [f"dns:a{n}.example" for n in range(101)], [("rejectedIdentifier", "subject_alt_name")]),
        ("server", "b.example", [f"dns:a{n}.example" for n in range(100)], [("rejectedIdentifier", CN)]),
    ],
)  # fmt: skip
def test_names_that_are_refused(
    profile: str, cn: str | None, sans: Sequence[str], reasons: list[tuple[str, str]]
) -> None:
    """One bad name refuses the whole request, and every bad name is listed with its field."""
    with pytest.raises(RequestError) as refusal:
        plan(csrs.build(cn, sans), profile)
    assert authorities.codes(refusal.value) == reasons


def test_a_hundred_names_are_honoured() -> None:
    """The bound is a hundred, and a hundred are given, in order."""
    asked = [f"dns:a{n}.example" for n in range(100)]
    assert [str(each) for each in plan(csrs.build(None, asked)).names] == asked


@pytest.mark.parametrize(("length", "fits"), [(64, True), (65, False)])
def test_a_common_name_has_64_characters_at_most(length: int, *, fits: bool) -> None:
    """RFC 5280 A.1, ub-common-name: characters, whatever their octets."""
    loaded = csr.load(csrs.der(csrs.build("a")))
    request = replace(loaded, subject=((NameOID.COMMON_NAME, "a" * length),))
    if fits:
        assert template.plan(request, authorities.under("client"))
        return
    with pytest.raises(RequestError, match="65 characters"):
        template.plan(request, authorities.under("client"))


def test_two_common_names_are_refused() -> None:
    """More than one common name is ambiguous, and refused."""
    two = [x509.NameAttribute(NameOID.COMMON_NAME, text) for text in ("a.example", "b.example")]
    with pytest.raises(RequestError, match="several common names"):
        plan(csrs.build(subject=x509.Name(two), sans=["dns:a.example"]))


def test_other_subject_attributes_are_left_out_and_named() -> None:
    """openssl's defaults, and a hostile O=system:masters, are not certified; each is noted."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "AU"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Some-State"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(NameOID.COMMON_NAME, "a.example.com"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "7"),
        ]
    )
    planned = plan(csrs.build(subject=subject, sans=["dns:a.example.com"]))
    assert planned.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example.com")])
    assert planned.notes == (
        "subject attribute C='AU' left out",
        "subject attribute ST='Some-State' left out",
        "subject attribute O='system:masters' left out",
        "subject attribute serialNumber='7' left out",
    )


def key_usage(**bits: bool) -> x509.KeyUsage:
    """A key usage with these bits."""
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    names += ["key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{**dict.fromkeys(names, False), **bits})


@pytest.mark.parametrize(
    ("extension", "reasons"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), [("badCSR", "extensions.basic_constraints")]),
        (x509.BasicConstraints(ca=False, path_length=None), []),
        (key_usage(key_cert_sign=True), [("badCSR", "extensions.key_usage")]),
        (key_usage(crl_sign=True), [("badCSR", "extensions.key_usage")]),
        (key_usage(digital_signature=True), []),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), []),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), [("badCSR", "extensions.extended_key_usage")]),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), [("badCSR", "extensions.extended_key_usage")]),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), [("badCSR", "extensions.extended_key_usage")]),
    ],
)  # fmt: skip
def test_extensions_that_only_others_have(
    extension: x509.ExtensionType, reasons: list[tuple[str, str]]
) -> None:
    """What belongs to a CA, or to another profile, is refused, not dropped; its harmless twin is not."""
    request = csrs.build(extensions=[extension])
    if not reasons:
        assert plan(request)
        return
    with pytest.raises(RequestError) as refusal:
        plan(request)
    assert authorities.codes(refusal.value) == reasons


def test_a_refused_usage_names_the_profile_that_has_it() -> None:
    """Somebody who asks the wrong profile is told the right ones."""
    asked = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    with pytest.raises(
        RequestError,
        match=r"for clientAuth, which the profile server does not give; the profile client or peer does$",
    ):
        plan(csrs.build(extensions=[asked]))
    unknown = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    with pytest.raises(RequestError, match=r"; no profile does$"):
        plan(csrs.build(extensions=[unknown]))


@pytest.mark.parametrize(
    ("kind", "profile", "extension", "note"),
    [
        ("p-256", "server", key_usage(key_encipherment=True), "key usage keyEncipherment left out"),
        ("rsa-2048", "server", key_usage(key_agreement=True), "key usage keyAgreement left out"),
        ("p-256", "server", key_usage(content_commitment=True), "key usage contentCommitment left out"),
        ("p-256", "peer", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), "extended key usage clientAuth added by the profile"),
        ("p-256", "server", x509.TLSFeature([x509.TLSFeatureType.status_request]), "extension TLSFeature left out"),
        ("rsa-2048", "server", key_usage(key_agreement=True, encipher_only=True), "key usage keyAgreement left out, key usage encipherOnly left out"),
        ("p-256", "server", x509.OCSPNoCheck(), "extension OCSPNoCheck left out"),
        ("p-256", "server", x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), "extension 1.2.3.4 left out"),
        ("p-256", "server", x509.SubjectKeyIdentifier(b"\1" * 20), "extension subjectKeyIdentifier left out"),
    ],
)  # fmt: skip
def test_what_is_left_out_or_added_is_noted(
    kind: str, profile: str, extension: x509.ExtensionType, note: str
) -> None:
    """Nothing is dropped or added without a word; cert-manager's keyEncipherment for EC is a note."""
    planned = plan(csrs.build(sans=["dns:a.example.com"], extensions=[extension], kind=kind), profile)
    assert ", ".join(planned.notes) == note


def test_every_reason_at_once() -> None:
    """Faults of names and of extensions are told together, each with its own code and field."""
    request = csrs.build(
        "Anna", ["dns:a..b", "dns:_x.example"], [x509.BasicConstraints(ca=True, path_length=None)]
    )
    with pytest.raises(Refused) as refusal:
        plan(request)
    assert authorities.codes(refusal.value) == [
        ("rejectedIdentifier", "subject_alt_name[0]"),
        ("rejectedIdentifier", "subject.common_name"),
        ("rejectedIdentifier", "subject_alt_name[1]"),
        ("badCSR", "extensions.basic_constraints"),
    ]


def test_name_constraints_of_the_ca_are_checked_before_signing() -> None:
    """A name outside the CA's nameConstraints is 422, not a certificate that nobody accepts."""
    issuer = authorities.issuer(permitted=("example.com", "10.0.0.0/8"))
    assert plan(csrs.build("a.example.com", ["ip:10.1.2.3"]), issuer=issuer)
    for cn, sans in (("a.example.org", []), (None, ["ip:192.0.2.1"]), ("a.example.com", ["dns:x.org"])):
        with pytest.raises(RequestError, match="constrained"):
            plan(csrs.build(cn, sans), issuer=issuer)


def test_usages_of_the_ca_are_checked_before_signing() -> None:
    """A profile that the CA's own extended key usage does not allow is refused; the other is granted."""
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = Issuer(ca(extra=client), [root()], SIGNING)
    assert plan(csrs.build(), "client", issuer)
    with pytest.raises(RequestError, match="may not issue certificates for serverAuth") as refusal:
        plan(csrs.build(), "server", issuer)
    assert authorities.codes(refusal.value) == [("badCSR", "profile")]


def test_a_permitted_kind_excludes_the_other() -> None:
    """A CA that is permitted DNS names alone names no address, and the reverse."""
    dns_alone = authorities.issuer(permitted=("example.com",))
    with pytest.raises(RequestError, match="constrained"):
        plan(csrs.build(None, ["ip:10.0.0.1"]), issuer=dns_alone)
    ip_alone = authorities.issuer(permitted=("10.0.0.0/8",))
    with pytest.raises(RequestError, match="constrained"):
        plan(csrs.build(None, ["dns:a.example.com"]), issuer=ip_alone)


@pytest.mark.parametrize("kind", csrs.KINDS)
@pytest.mark.parametrize("profile", ["server", "client", "peer"])
def test_what_a_certificate_holds(kind: str, profile: str) -> None:
    """Every certificate has these extensions, critical where RFC 5280 says so, and no other."""
    issuer = authorities.issuer()
    request = csrs.build(sans=["dns:a.example.com"], kind=kind)
    planned = plan(request, profile, issuer)
    certificate = authorities.signed(issuer, planned, 0x1234)
    found = {each.oid: each for each in certificate.extensions}
    assert {oid: each.critical for oid, each in found.items()} == {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
        ExtensionOID.BASIC_CONSTRAINTS: True,
        ExtensionOID.KEY_USAGE: True,
        ExtensionOID.EXTENDED_KEY_USAGE: False,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: False,
        ExtensionOID.CERTIFICATE_POLICIES: False,
    }
    assert found[ExtensionOID.BASIC_CONSTRAINTS].value == x509.BasicConstraints(ca=False, path_length=None)
    assert found[ExtensionOID.KEY_USAGE].value == key_usage(
        digital_signature=True, key_encipherment=kind.startswith("rsa")
    )
    expected = {
        "server": [ExtendedKeyUsageOID.SERVER_AUTH],
        "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
        "peer": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    }
    assert list(found[ExtensionOID.EXTENDED_KEY_USAGE].value) == expected[profile]
    ski = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    aki = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki.key_identifier == ski.digest
    assert aki.authority_cert_issuer is None
    assert certificate.issuer.public_bytes() == issuer.certificate.subject.public_bytes()
    loaded = csr.load(csrs.der(request))
    assert loaded.subject_public_key_info in certificate.tbs_certificate_bytes
    assert certificate.serial_number == 0x1234


def rebuilt(certificate: x509.Certificate, by: Issuer) -> x509.CertificateBuilder:
    """The same certificate from the start, by the library, of what it reads in ours."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(by.certificate.subject)
        .public_key(certificate.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for each in certificate.extensions:
        builder = builder.add_extension(each.value, each.critical)
    return builder


WRITTEN = [
    csrs.build("a.example.com", ["dns:a.example.com", "ip:10.0.0.1", "ip:2001:db8::1"]),
    csrs.build("a.example.com", [f"dns:{number}.example.com" for number in range(100)], kind="rsa-2048"),
    csrs.build(None, ["dns:a.example.com"], kind="ed25519"),
    csrs.build("Zoë Ω", kind="ml-dsa-65"),
]


@pytest.mark.parametrize("request_number", range(len(WRITTEN)))
@pytest.mark.parametrize("kind", csrs.KINDS)
def test_the_library_writes_the_same(kind: str, request_number: int) -> None:
    """What stands in a certificate, written by the library's own builder, is the same octet for octet.

    So it is with each kind of CA key, and serial numbers of any length.
    """
    by, key = authorities.issuer(kind), authorities.signing_key(authorities.hierarchy(kind, ()))
    planned = plan(WRITTEN[request_number], "client", by)
    for serial_number in (1, 0x80, 2**159 - 1):
        signed = authorities.signed(by, planned, serial_number)
        again = rebuilt(signed, by).sign(
            key,
            signing.signature_hash(key.public_key()),
            ecdsa_deterministic=True if keys.kind_of(key.public_key()) in keys.EC_KINDS else None,
        )
        assert again.tbs_certificate_bytes == signed.tbs_certificate_bytes
        assert again.signature_algorithm_oid == signed.signature_algorithm_oid
        assert (encoding.der(again) == encoding.der(signed)) is by.is_deterministic


def test_a_certificate_without_a_subject_has_critical_names() -> None:
    """RFC 5280 4.2.1.6: with an empty subject the subjectAltName is critical."""
    issuer = authorities.issuer()
    certificate = authorities.signed(issuer, plan(csrs.build(None, ["dns:a.example.com"])))
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert not certificate.subject.rdns


def test_the_ca_s_own_identifier_is_copied() -> None:
    """The AKI is the issuer's SKI octet for octet, even where that is no hash of its key."""
    odd = x509.SubjectKeyIdentifier(b"chosen by somebody")
    issuer = Issuer(ca(ski=odd), [root()], SIGNING)
    certificate = authorities.signed(issuer, plan(csrs.build(), issuer=issuer))
    aki = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki.key_identifier == b"chosen by somebody"


def test_the_issuer_s_name_is_copied_octet_for_octet() -> None:
    """A CA subject in PrintableString is the issuer in PrintableString (RFC 5280 4.1.2.4)."""
    printable = x509.NameAttribute(NameOID.COMMON_NAME, "Signing", _ASN1Type.PrintableString)
    odd = x509.Name([printable])
    issuer = Issuer(ca(subject=odd), [root()], SIGNING)
    signed = authorities.signed(issuer, plan(csrs.build(), issuer=issuer))
    assert odd.public_bytes() in signed.tbs_certificate_bytes


def test_validity_is_cut_to_the_chain_with_a_note() -> None:
    """A default validity never outlives the chain: it is cut, and the cut is noted."""
    issuer = Issuer(ca(), [root(end=NOW + timedelta(days=3))], SIGNING)
    planned = plan(csrs.build(sans=["dns:a.example.com"]), issuer=issuer)
    assert planned.not_after == issuer.not_after
    assert planned.notes == (f"validity cut to the CA's own end, {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}",)


@pytest.mark.parametrize(
    ("start", "end", "ready"),
    [
        (timedelta(days=-1), timedelta(minutes=61), True),
        (timedelta(days=-1), timedelta(minutes=59), False),
        (timedelta(days=-2), timedelta(days=-1), False),
        (timedelta(seconds=2), timedelta(days=9), False),
        (timedelta(seconds=-2), timedelta(days=9), True),
    ],
)
def test_the_chain_s_life_binds(start: timedelta, end: timedelta, *, ready: bool) -> None:
    """Outside the chain's life, and in its last hour, nothing is issued."""
    issuer = Issuer(ca(start=NOW + start, end=NOW + end), [root(start=NOW - timedelta(days=9))], SIGNING)
    if ready:
        planned = plan(csrs.build(), issuer=issuer)
        assert issuer.not_before <= planned.not_before < planned.not_after <= issuer.not_after
        return
    with pytest.raises(IssuerUnavailable):
        plan(csrs.build(), issuer=issuer)


TEAM: dict[str, Any] = {
    "description": "x",
    "validity": "P30D",
    "backdate": "PT5M",
    "extended_key_usage": ["serverAuth"],
    "names": {"dns": {}},
}


def under(principal: str = "tests", asked: Asked | None = None, **change: Any) -> Plan:
    """A plan under one profile, which is TEAM with something changed."""
    held_to = change.pop("held_to", {})
    profiles = Profiles({"team": TEAM | change}, "team", held_to)
    return authorities.under("team", policy=profiles, principal=principal, asked=asked)


def decide(plan_under: Plan, **request: Any) -> template.CertificateSpec:
    """What would be issued for a request."""
    request.setdefault("sans", ["dns:a.example.com"])
    return template.plan(csr.load(csrs.der(csrs.build(**request))), plan_under)


def held(planned: template.CertificateSpec) -> dict[str, tuple[x509.ExtensionType, bool]]:
    """Its extensions by OID, and whether they are critical."""
    certificate = authorities.signed(authorities.issuer(), planned)
    return {each.oid.dotted_string: (each.value, each.critical) for each in certificate.extensions}


def dn(**attributes: str) -> x509.Name:
    """A subject."""
    return x509.Name([x509.NameAttribute(ATTRIBUTES[name][0], text) for name, text in attributes.items()])


def test_allowed_and_fixed_attributes() -> None:
    """What is allowed is taken, what is fixed is given, whatever is asked; the rest is left out and noted."""
    stated = {"allowed": ["CN", "OU"], "fixed": {"C": "CH", "O": "Example AG"}}
    asked = dn(O="Evil", OU="Ops", L="Bern", CN="a.example.com")
    planned = decide(under(subject=stated), subject=asked)
    assert planned.subject == dn(C="CH", O="Example AG", OU="Ops", CN="a.example.com")
    assert planned.notes == ("subject attribute O='Evil' left out", "subject attribute L='Bern' left out")
    same = decide(under(subject=stated), subject=dn(O="Example AG", CN="a.example.com"))
    assert same.subject == dn(C="CH", O="Example AG", CN="a.example.com")
    assert same.notes == ()


@pytest.mark.parametrize(
    ("asked", "field"),
    [({"OU": "x" * 65}, "subject.OU"), ({"OU": "a\x00"}, "subject.OU"), ({"CN": "x" * 64 + ".example"}, "subject.common_name")],
)  # fmt: skip
def test_allowed_attributes_are_held_to_their_bounds(asked: dict[str, str], field: str) -> None:
    """An attribute that is taken is well formed, or the request is refused."""
    request = csr.load(csrs.der(csrs.build(sans=["dns:a.example.com"])))
    odd = replace(request, subject=tuple((ATTRIBUTES[name][0], text) for name, text in asked.items()))
    with pytest.raises(RequestError) as refusal:
        template.plan(odd, under(subject={"allowed": ["CN", "OU"]}))
    assert authorities.codes(refusal.value) == [("rejectedIdentifier", field)]


def test_a_common_name_may_not_be_allowed() -> None:
    """The name is still certified, among the SANs, and the subject is left empty, with a note."""
    planned = decide(under(subject={"allowed": []}), cn="b.example.com")
    assert planned.subject == dn()
    assert [str(each) for each in planned.names] == ["dns:a.example.com", "dns:b.example.com"]
    assert planned.notes[0] == "common name 'b.example.com' left out of the subject"


@pytest.mark.parametrize("allowed", [[], ["O"]])
def test_a_certificate_names_somebody(allowed: list[str]) -> None:
    """RFC 5280 4.1.2.6: no subject, no certificate, unless there is an alternative name."""
    stated: dict[str, Any] = {"extended_key_usage": ["clientAuth"], "subject": {"allowed": allowed}}
    with pytest.raises(RequestError, match="the profile team takes no common name") as refusal:
        decide(under(**stated), cn="Anna", sans=[])
    assert authorities.codes(refusal.value) == [("rejectedIdentifier", "subject.common_name")]
    assert decide(under(**stated), cn="Anna").subject == dn()
    fixed = {**stated, "subject": {"allowed": allowed, "fixed": {"O": "Example AG"}}}
    assert decide(under(**fixed), cn="Anna", sans=[]).subject == dn(O="Example AG")


def test_what_a_profile_adds() -> None:
    """Policies, the issuer's address and the CRL's: each where it is stated, and not critical."""
    crl: dict[str, Any] = {"revocation": "crl", "crl": "http://ca.example/ca.crl"}
    planned = decide(
        under(certificate_policies=["1.2.3", "1.2.4"], ca_issuers="http://ca.example/ca.crt", **crl)
    )
    found = held(planned)
    (policies, _), (access, _), (points, _) = (
        found[oid] for oid in ("2.5.29.32", "1.3.6.1.5.5.7.1.1", "2.5.29.31")
    )
    assert [each.policy_identifier.dotted_string for each in policies] == ["1.2.3", "1.2.4"]  # type: ignore[attr-defined]
    assert [each.access_location.value for each in access] == ["http://ca.example/ca.crt"]  # type: ignore[attr-defined]
    assert [each.full_name[0].value for each in points] == ["http://ca.example/ca.crl"]  # type: ignore[attr-defined]
    assert not any(found[oid][1] for oid in ("2.5.29.32", "1.3.6.1.5.5.7.1.1", "2.5.29.31"))
    assert not held(decide(under())).keys() & {"2.5.29.32", "1.3.6.1.5.5.7.1.1", "2.5.29.31", "2.5.29.56"}


@pytest.mark.parametrize(
    ("change", "asked", "says"),
    [
        ({"validity": "P7D"}, Asked(), True),
        ({"validity": "P7DT1S", "short_lived": "P7D"}, Asked(), False),
        ({}, Asked(timedelta(days=7)), True),
        ({}, Asked(timedelta(days=8)), False),
        ({"short_lived": "PT0S"}, Asked(timedelta(days=1)), False),
        ({"revocation": "crl", "crl": "http://a.example/"}, Asked(timedelta(days=1)), False),
    ],
)  # fmt: skip
def test_no_revocation_available(change: dict[str, Any], asked: Asked, *, says: bool) -> None:
    """RFC 9608: short-lived certificates say it, not critical, as NULL; and never beside a CRL's address."""
    found = held(decide(under(asked=asked, **change)))
    assert ("2.5.29.56" in found) is says
    if says:
        value, critical = found["2.5.29.56"]
        assert (value.public_bytes(), critical) == (b"\5\0", False)
        # RFC 9608 3 and 4: none of these stands beside it.
        assert not found.keys() & {"2.5.29.31", "2.5.29.46", "1.3.6.1.5.5.7.1.1"}


def test_no_address_of_ocsp_or_crl_beside_no_rev_avail() -> None:
    """RFC 9608 4 forbids CDP, freshestCRL and an OCSP address; the issuer's own address may stand."""
    found = held(decide(under(validity="P7D", ca_issuers="http://ca.example/ca.crt")))
    assert "2.5.29.56" in found
    (access, _) = found["1.3.6.1.5.5.7.1.1"]
    assert [each.access_method for each in access] == [AuthorityInformationAccessOID.CA_ISSUERS]  # type: ignore[attr-defined]


def test_extensions_that_a_request_may_bring() -> None:
    """Those that the profile lists are copied, never critical; all others are left out with a note."""
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    own = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    planned = decide(under(extensions=["tlsFeature"]), extensions=[staple, own])
    assert held(planned)[staple.oid.dotted_string] == (staple, False)
    assert own.oid.dotted_string not in held(planned)
    assert planned.notes == ("extension 1.3.6.1.4.1.99999.1 left out",)


def test_keys_of_the_profile() -> None:
    """A kind that the profile does not take is refused beside every other reason."""
    with pytest.raises(Refused) as refusal:
        decide(under(public_keys=["RSA-3072"]), sans=["ip:10.0.0.1"])
    assert authorities.codes(refusal.value)[0] == ("badPublicKey", "public_key")
    assert decide(under(public_keys=["RSA-3072"]), kind="rsa-3072")


def test_the_ca_s_own_key_is_not_certified() -> None:
    """A request for the key of the issuer, or of its root, is refused: it would speak for the CA."""
    made = authorities.hierarchy()
    issuer = Issuer(made.signing, [made.root], authorities.signing_key(made))
    for key in (made.signing_key, made.root_key):
        assert key is not None
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(dn(CN="a.example.com"))
            .sign(key, hashes.SHA256())
        )
        with pytest.raises(RequestError) as refusal:
            plan(request, issuer=issuer)
        assert authorities.codes(refusal.value) == [("badPublicKey", "public_key")]


def test_a_profile_names_who_may_use_it() -> None:
    """Another principal is refused as such (403), before anything of its request is looked at."""
    assert decide(under(principals=["ci", "tests"]))
    with pytest.raises(NotPermitted, match="team is not for this caller"):
        decide(under(principals=["ci"]), sans=["dns:a..b"])


def test_a_principal_is_held_to_its_own_names() -> None:
    """Beyond what the profile gives: only in its subtrees, and only of the kinds that it has."""
    held_to = {"tests": {"dns": {"permitted": ["tests.example.com"]}}}
    own = under(held_to=held_to, names={"dns": {}, "ip": {}})
    assert decide(own, cn=None, sans=["dns:a.tests.example.com"])
    with pytest.raises(Refused) as refusal:
        decide(own, cn=None, sans=["dns:a.example.com", "ip:10.0.0.1"])
    assert [str(each) for each in refusal.value.reasons] == [
        "dns:a.example.com: the principal tests permits names in tests.example.com",
        "ip:10.0.0.1: the principal tests permits dns",
    ]
    assert decide(under("other", held_to=held_to), cn=None)


CLIENT: dict[str, Any] = {
    "extended_key_usage": ["clientAuth"],
    "names": {"dns": {"permitted": ["example.com"]}},
}
HELD = CLIENT | {"held_to": {"tests": {"dns": {"permitted": ["ci.example.com"]}}}}


@pytest.mark.parametrize(
    ("change", "cn", "whose"),
    [
        (CLIENT, "Anna Beispiel", []),
        (CLIENT, "a.example.com", []),
        (CLIENT, "A.Example.org", ["profile team"]),
        (CLIENT, "a.example.org.", ["profile team"]),
        (CLIENT, "192.0.2.1", []),
        (CLIENT, "anna@example.org", []),
        (CLIENT | {"names": {"email": {"permitted": ["example.com"]}}}, "anna.beispiel", []),
        (CLIENT | {"names": {"email": {"permitted": ["example.com"]}}}, "anna@example.com", []),
        (CLIENT | {"names": {"email": {"permitted": ["example.com"]}}}, "anna@example.org", ["profile team"]),
        (CLIENT | {"names": {"ip": {"permitted": ["10.0.0.0/8"]}}}, "192.0.2.1", ["profile team"]),
        (HELD, "Anna Beispiel", []),
        (HELD, "a.ci.example.com", []),
        (HELD, "a.example.com", ["principal tests"]),
        (HELD, "a.example.org", ["profile team", "principal tests"]),
        (HELD, "192.0.2.1", ["principal tests"]),
        (HELD, "root@example.com", ["principal tests"]),
        (HELD, "db_1.ci.example.com", []),
        (HELD, "db_1.example.org", ["profile team", "principal tests"]),
        (HELD, "xn--a.example.org", ["profile team", "principal tests"]),
        (HELD, "127.1", ["profile team", "principal tests"]),
        (HELD, '"a b"@example.com', ["principal tests"]),
        (CLIENT, '"a b"@example.org', []),
        (CLIENT | {"names": {"dns": {}}}, "sensor_1.hall", []),
    ],
)
def test_a_common_name_is_held_to_the_rules_of_names(
    change: dict[str, Any], cn: str, whose: list[str]
) -> None:
    """Programs that tell clients by their common name read names in it, which are no way round the rules."""
    if not whose:
        assert decide(under(**change), cn=cn, sans=[]).names == ()
        return
    with pytest.raises(RequestError) as refusal:
        decide(under(**change), cn=cn, sans=[])
    assert authorities.codes(refusal.value) == [("rejectedIdentifier", "subject.common_name")] * len(whose)
    for reason, each in zip(refusal.value.reasons, whose, strict=True):
        assert f"the {each} permits" in reason.detail


def test_a_list_of_no_names_is_refused() -> None:
    """RFC 5280 4.2.1.6: if the extension is there it holds a name; one that is not there is none."""
    with pytest.raises(RejectedIdentifier, match="holds no name") as refusal:
        decide(under(), sans=[], extensions=[x509.SubjectAlternativeName([])])
    assert refusal.value.field == "subject_alt_name"
    assert decide(under(), sans=[])


@pytest.mark.parametrize(
    ("asked", "field"),
    [(Asked(timedelta(days=31)), "validity"), (Asked(not_after=NOW + timedelta(days=31)), "not_after")],
)
def test_more_validity_than_the_profile_gives(asked: Asked, field: str) -> None:
    """It is refused among all other reasons; less is given."""
    with pytest.raises(Refused) as refusal:
        decide(under(asked=asked), sans=["ip:10.0.0.1"])
    assert ("rejectedValidity", field) in authorities.codes(refusal.value)
    planned = decide(under(asked=Asked(timedelta(days=2))))
    assert planned.not_after - planned.not_before == timedelta(days=2, seconds=-1)


def test_more_validity_than_the_chain_has() -> None:
    """A default is cut with a note; what was asked for in so many words is refused."""
    issuer = Issuer(ca(), [root(end=NOW + timedelta(days=3))], SIGNING)
    profiles = Profiles({"team": TEAM}, "team")

    def chained(asked: Asked) -> Plan:
        return authorities.under("team", issuer, profiles, asked=asked)

    assert "validity cut" in decide(chained(Asked())).notes[-1]
    for asked in (Asked(timedelta(days=4)), Asked(not_after=NOW + timedelta(days=4))):
        with pytest.raises(RejectedValidity, match="the CA's own certificates end at"):
            decide(chained(asked))
    assert decide(chained(Asked(not_after=issuer.not_after))).not_after == issuer.not_after


def test_the_digest_is_of_all_that_is_signed() -> None:
    """Two templates that differ anywhere differ in their digest; equal ones do not."""
    first, again = decide(under()), decide(under())
    assert first.digest == again.digest
    for other in (
        under(validity="P29D"),
        under(certificate_policies=["1.2.3"]),
        under(subject={"allowed": []}),
    ):
        assert decide(other).digest != first.digest
