from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.pki import csr, encoding, evaluation
from service.pki.certificate import CertificateSpec
from service.pki.errors import (
    CAUnavailable,
    CompoundError,
    RejectedIdentifier,
    RejectedValidity,
    RequestError,
    Unauthorized,
)
from service.pki.evaluation import IssuanceContext
from service.pki.issuer import Issuer
from service.pki.name_policy import DnsPolicy, NamePolicy
from service.pki.names import Identifier, IdentifierKind
from service.pki.profile import SUBJECT_ATTRIBUTES
from service.pki.profile_loader import IssuancePolicy
from tests import csrs, factories
from tests.factories import NOW, SIGNING, ca, key_usage, root


def evaluate(
    request: x509.CertificateSigningRequest, profile: str = "server", issuer: Issuer | None = None
) -> CertificateSpec:
    """Evaluate a CSR for a profile."""
    return factories.evaluate(request, factories.context(profile, issuer))


def refusal_codes(request: x509.CertificateSigningRequest, *context: Any) -> Sequence[tuple[str, str]]:
    """The code and field of each reason for the refusal."""
    with pytest.raises(RequestError) as refusal:
        evaluate(request, *context)
    return factories.codes(refusal.value)


@pytest.mark.parametrize(
    ("profile", "cn", "sans", "names", "note"),
    [
        ("server", "a.example.com", ["dns:a.example.com"], ["dns:a.example.com"], ""),
        ("server", "a.example.com", [], ["dns:a.example.com"], "common name added"),
        ("server", "10.0.0.1", [], ["ip:10.0.0.1"], "common name added"),
        ("server", "2001:DB8::1", [], ["ip:2001:db8::1"], "common name added"),
        ("server", "*.example.com", [], ["dns:*.example.com"], "common name added"),
        ("server", "A.Example.com", ["dns:a.example.COM"], ["dns:a.example.com"], ""),
        ("server", "localhost", ["dns:localhost"], ["dns:localhost"], ""),
        ("server", "2001:db8:0::1", ["ip:2001:db8::1"], ["ip:2001:db8::1"], ""),
        ("server", None, ["dns:a.example.com"], ["dns:a.example.com"], ""),
        ("server", None, ["ip:10.0.0.1", "dns:b"], ["ip:10.0.0.1", "dns:b"], ""),
        ("server", None, ["dns:a.b", "dns:A.b"], ["dns:a.b"], "duplicate dns:a.b left out"),
        ("server", None, [f"dns:a{n}.example" for n in range(100)], [f"dns:a{n}.example" for n in range(100)], ""),
        ("peer", "a.example.com", ["uri:spiffe://x.y/z"], ["uri:spiffe://x.y/z", "dns:a.example.com"], "common name added"),
        ("client", "Anna Beispiel", [], [], ""),
        ("client", "a.example.com", [], [], ""),
        ("client", "é" * 64, [], [], ""),
        ("client", "<img src=x onerror=alert(1)>", [], [], ""),
        ("client", None, ["email:a@b.example"], ["email:a@b.example"], ""),
    ],
)  # fmt: skip
def test_requested_names_are_copied(
    profile: str, cn: str | None, sans: Sequence[str], names: Sequence[str], note: str
) -> None:
    """All names are copied, up to 100; a server's common name is added to the SANs, with a note."""
    spec = evaluate(csrs.build(cn, sans), profile)
    assert [attribute.value for attribute in spec.subject] == ([cn] if cn else [])
    assert [str(name) for name in spec.names] == names
    assert len(spec.notes) == bool(note)
    assert note in "".join(spec.notes)


CN, SAN0 = "subject.common_name", "subject_alt_name[0]"


@pytest.mark.parametrize(
    ("profile", "cn", "sans", "fields"),
    [
        ("server", None, [], [CN]),
        ("client", None, [], [CN]),
        ("server", "localhost", [], [CN]),
        ("server", "Anna", ["dns:a.example"], [CN]),
        ("server", "a_b.example.com", [], [CN]),
        ("server", "bücher.example", [], [CN]),
        ("server", "a.*.example", [], [CN]),
        ("server", "\u212aube.example", ["dns:kube.example"], [CN]),
        ("server", "fe80::1%eth0", [], [CN]),
        ("server", "a.example.com.", [], [CN]),
        ("client", "x\ny", [], [CN]),
        ("client", "x\x00y", [], [CN]),
        ("client", "x\u2028y", [], [CN]),
        ("server", None, ["email:a@b.example"], [SAN0]),
        ("peer", None, ["email:a@b.example"], [SAN0]),
        ("server", None, ["dns:a..b", "uri:x:y"], [SAN0, "subject_alt_name[1]"]),
        ("server", None, [f"dns:a{n}.example" for n in range(101)], ["subject_alt_name"]),
        ("server", "b.example", [f"dns:a{n}.example" for n in range(100)], [CN]),
    ],
)  # fmt: skip
def test_rejected_names_are_listed_by_field(
    profile: str, cn: str | None, sans: Sequence[str], fields: list[str]
) -> None:
    """One rejected name refuses the whole CSR, and every rejected name is listed with its field."""
    assert refusal_codes(csrs.build(cn, sans), profile) == [("rejectedIdentifier", field) for field in fields]


@pytest.mark.parametrize(("length", "fits"), [(64, True), (65, False)])
def test_common_name_has_at_most_64_characters(length: int, *, fits: bool) -> None:
    """RFC 5280 A.1, ub-common-name: the limit is in characters, not octets."""
    loaded = csr.parse(csrs.encode_der(csrs.build("a")))
    request = replace(loaded, subject=((NameOID.COMMON_NAME, "a" * length),))
    if fits:
        assert evaluation.evaluate(request, factories.context("client"))
        return
    with pytest.raises(RequestError, match="65 characters"):
        evaluation.evaluate(request, factories.context("client"))


def test_two_common_names_are_refused() -> None:
    """A subject with several common names is ambiguous."""
    common_names = [x509.NameAttribute(NameOID.COMMON_NAME, text) for text in ("a.example", "b.example")]
    with pytest.raises(RequestError, match="several common names"):
        evaluate(csrs.build(subject=x509.Name(common_names), sans=["dns:a.example"]))


def test_other_subject_attributes_are_omitted_with_notes() -> None:
    """OpenSSL's defaults and a hostile O=system:masters are not copied; a note lists each attribute."""
    subject = dn(C="AU", ST="Some-State", O="system:masters", CN="a.example.com", serialNumber="7")
    spec = evaluate(csrs.build(subject=subject, sans=["dns:a.example.com"]))
    assert spec.subject == dn(CN="a.example.com")
    assert spec.notes == (
        "subject attribute C='AU' left out",
        "subject attribute ST='Some-State' left out",
        "subject attribute O='system:masters' left out",
        "subject attribute serialNumber='7' left out",
    )


def test_omitted_subject_attributes_have_short_names() -> None:
    """The names of RFC 4514 and OpenSSL; an attribute without a name has its OID."""
    oids = {
        "DC": NameOID.DOMAIN_COMPONENT,
        "UID": NameOID.USER_ID,
        "STREET": NameOID.STREET_ADDRESS,
        "GN": NameOID.GIVEN_NAME,
        "SN": NameOID.SURNAME,
        "title": NameOID.TITLE,
        "emailAddress": NameOID.EMAIL_ADDRESS,
        "1.2.3.4": x509.ObjectIdentifier("1.2.3.4"),
    }
    subject = x509.Name([x509.NameAttribute(oid, "example") for oid in oids.values()])
    notes = evaluate(csrs.build(subject=subject, sans=["dns:a.example.com"])).notes
    assert notes == tuple(f"subject attribute {name}='example' left out" for name in oids)


@pytest.mark.parametrize(
    ("cn", "sans", "remedy"),
    [
        ("printer", [], ": with openssl, add -addext subjectAltName=DNS:printer, or use profile 'client'"),
        (
            "Printer-7",
            [],
            ": with openssl, add -addext subjectAltName=DNS:Printer-7, or use profile 'client'",
        ),
        ("printer", ["dns:a.example.com"], ": add DNS:printer, or use profile 'client'"),
        ("Anna Beispiel", [], ", and is not a host name: omit it, or use profile 'client'"),
        ("$(reboot)", [], ", and is not a host name: omit it, or use profile 'client'"),
        ("-config", [], ", and is not a host name: omit it, or use profile 'client'"),
        ("dev_1", [], ": use a full host name, or use profile 'client'"),
    ],
)
def test_common_name_that_is_no_san_gets_a_remedy(cn: str, sans: list[str], remedy: str) -> None:
    """A host name is suggested as a SAN if the profile permits it; other texts never reach an option."""
    with pytest.raises(RequestError) as refusal:
        evaluate(csrs.build(cn, sans))
    assert refusal.value.detail == f"'{cn}' is not among the subject alternative names{remedy}"
    assert factories.codes(refusal.value) == [("rejectedIdentifier", CN)]


@pytest.mark.parametrize(
    ("profile", "remedy"),
    [
        ("server", "-addext subjectAltName=DNS:www.example.com"),
        ("client", "-addext subjectAltName=DNS:www.example.com"),
    ],
)
def test_request_without_a_name_gets_a_remedy(profile: str, remedy: str) -> None:
    """The message has an openssl option with an example of the first kind that the profile permits."""
    with pytest.raises(RequestError, match=f"with openssl, add {remedy}$"):
        evaluate(csrs.build(None), profile)
    assert evaluate(csrs.build(None, ["dns:www.example.com"]), profile)
    uri = "-addext subjectAltName=URI:urn:example:device"
    for kinds, option in (((), "-subj /CN=Anna"), (("uri",), uri)):
        with pytest.raises(RequestError, match=f"with openssl, add {option}$"):
            evaluate_in(team(names={kind: {} for kind in kinds}), common_name=None, sans=[])


@pytest.mark.parametrize(
    ("extension", "field"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), "basic_constraints"),
        (x509.BasicConstraints(ca=False, path_length=None), ""),
        (key_usage("key_cert_sign"), "key_usage"),
        (key_usage("crl_sign"), "key_usage"),
        (key_usage("digital_signature"), ""),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), ""),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), "extended_key_usage"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), "extended_key_usage"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "extended_key_usage"),
    ],
)
def test_extension_outside_the_profile_is_refused(extension: x509.ExtensionType, field: str) -> None:
    """An extension of a CA or of another profile is refused, not dropped; a harmless value is accepted."""
    request = csrs.build(extensions=[extension])
    if field:
        assert refusal_codes(request) == [("badCSR", f"extensions.{field}")]
    else:
        assert evaluate(request)


def test_refused_usage_names_the_profiles_that_have_it() -> None:
    """The error suggests the profiles that have the requested extended key usage."""
    suggestion = "Profile 'server' does not have clientAuth; use profile 'client' or 'peer'"
    for usage, message in ((ExtendedKeyUsageOID.CLIENT_AUTH, suggestion), (ExtendedKeyUsageOID.CODE_SIGNING, "; omit it: no profile fits the requested usages")):  # fmt: skip
        with pytest.raises(RequestError, match=f"{message}$"):
            evaluate(csrs.build(extensions=[x509.ExtendedKeyUsage([usage])]))


@pytest.mark.parametrize(
    ("key_type", "profile", "extension", "note"),
    [
        ("p-256", "server", key_usage("key_encipherment"), "key usage keyEncipherment left out"),
        ("rsa-2048", "server", key_usage("key_agreement"), "key usage keyAgreement left out"),
        ("p-256", "server", key_usage("content_commitment"), "key usage contentCommitment left out"),
        ("p-256", "peer", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), "extended key usage clientAuth added by the profile"),
        ("p-256", "server", x509.TLSFeature([x509.TLSFeatureType.status_request]), "extension tlsFeature left out"),
        ("rsa-2048", "server", key_usage("key_agreement", "encipher_only"), "key usage keyAgreement left out, key usage encipherOnly left out"),
        ("p-256", "server", x509.OCSPNoCheck(), "extension ocspNoCheck left out"),
        ("p-256", "server", x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), "extension 1.2.3.4 left out"),
        ("p-256", "server", x509.SubjectKeyIdentifier(b"\1" * 20), "extension subjectKeyIdentifier left out"),
    ],
)  # fmt: skip
def test_omitted_extensions_are_noted(
    key_type: str, profile: str, extension: x509.ExtensionType, note: str
) -> None:
    """Everything that is dropped or added has a note, such as cert-manager's keyEncipherment for EC keys."""
    spec = evaluate(
        csrs.build(sans=["dns:a.example.com"], extensions=[extension], key_type=key_type), profile
    )
    assert ", ".join(spec.notes) == note


def test_refusal_lists_every_reason() -> None:
    """One refusal lists the violations of names and extensions, each with its code and field."""
    ca = x509.BasicConstraints(ca=True, path_length=None)
    assert refusal_codes(csrs.build("Anna", ["dns:a..b", "dns:_x.example"], [ca])) == [
        ("rejectedIdentifier", "subject_alt_name[0]"),
        ("rejectedIdentifier", "subject.common_name"),
        ("rejectedIdentifier", "subject_alt_name[1]"),
        ("badCSR", "extensions.basic_constraints"),
    ]


def test_name_constraints_of_the_ca_are_checked_before_signing() -> None:
    """A name outside the CA's nameConstraints is refused: no verifier would accept the certificate."""
    issuer = factories.create_issuer(permitted=("example.com", "10.0.0.0/8"))
    assert evaluate(csrs.build("a.example.com", ["ip:10.1.2.3"]), issuer=issuer)
    for cn, sans, field in (
        ("a.example.org", [], "subject.common_name"),
        (None, ["ip:192.0.2.1"], "subject_alt_name[0]"),
        ("a.example.com", ["dns:a.example.com", "dns:x.org"], "subject_alt_name[1]"),
    ):
        with pytest.raises(RequestError, match="name constraints") as refusal:
            evaluate(csrs.build(cn, sans), issuer=issuer)
        assert factories.codes(refusal.value) == [("rejectedIdentifier", field)]


def test_extended_key_usage_of_the_ca_is_checked_before_signing() -> None:
    """A profile is refused unless the CA's extended key usage allows it."""
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = Issuer(ca(extra=client), [root()], SIGNING)
    assert evaluate(csrs.build(), "client", issuer)
    with pytest.raises(RequestError, match="may not issue certificates for serverAuth") as refusal:
        evaluate(csrs.build(), "server", issuer)
    assert factories.codes(refusal.value) == [("badCSR", "profile")]


@pytest.mark.parametrize(
    ("start", "end", "available"),
    [
        (timedelta(days=-1), timedelta(minutes=61), True),
        (timedelta(days=-1), timedelta(minutes=59), False),
        (timedelta(days=-2), timedelta(days=-1), False),
        (timedelta(seconds=2), timedelta(days=9), False),
        (timedelta(seconds=-2), timedelta(days=9), True),
    ],
)
def test_certificate_is_issued_only_within_the_chain_s_validity(
    start: timedelta, end: timedelta, *, available: bool
) -> None:
    """Nothing is issued outside the chain's validity period, or in its last hour."""
    issuer = Issuer(ca(start=NOW + start, end=NOW + end), [root(start=NOW - timedelta(days=9))], SIGNING)
    if available:
        spec = evaluate(csrs.build(), issuer=issuer)
        assert issuer.not_before <= spec.not_before < spec.not_after <= issuer.not_after
        return
    with pytest.raises(CAUnavailable):
        evaluate(csrs.build(), issuer=issuer)


TEAM: dict[str, Any] = {
    "description": "x",
    "validity": "P30D",
    "backdate": "PT5M",
    "extended_key_usage": ["serverAuth"],
    "names": {"dns": {}},
}


def team(principal: str = "tests", **change: Any) -> IssuanceContext:
    """An issuance context with one profile: TEAM with changed members."""
    principal_policies = change.pop("principals_names", {})
    policy = IssuancePolicy({"team": TEAM | change}, "team", principal_policies)
    return factories.context("team", policy=policy, principal=principal)


def evaluate_in(context: IssuanceContext, **request: Any) -> CertificateSpec:
    """Evaluate a CSR in a context."""
    return factories.evaluate(csrs.build(**{"sans": ["dns:a.example.com"], **request}), context)


def extensions(spec: CertificateSpec) -> dict[str, tuple[x509.ExtensionType, bool]]:
    """The value and criticality of each extension of the signed certificate, by OID."""
    certificate = factories.create_issuer().sign(spec.builder(1))
    return {
        extension.oid.dotted_string: (extension.value, extension.critical)
        for extension in certificate.extensions
    }


def dn(**attributes: str) -> x509.Name:
    """A distinguished name of these attributes."""
    return x509.Name(
        [x509.NameAttribute(SUBJECT_ATTRIBUTES[name][0], text) for name, text in attributes.items()]
    )


def test_allowed_attributes_are_copied_and_fixed_ones_are_set() -> None:
    """Fixed attributes override those of the CSR; other attributes are omitted with a note."""
    attributes = {"allowed": ["CN", "OU"], "fixed": {"C": "CH", "O": "Example AG"}}
    requested = dn(O="Evil", OU="Ops", L="Bern", CN="a.example.com")
    spec = evaluate_in(team(subject=attributes), subject=requested)
    assert spec.subject == dn(C="CH", O="Example AG", OU="Ops", CN="a.example.com")
    assert spec.notes == ("subject attribute O='Evil' left out", "subject attribute L='Bern' left out")
    same = evaluate_in(team(subject=attributes), subject=dn(O="Example AG", CN="a.example.com"))
    assert same.subject == dn(C="CH", O="Example AG", CN="a.example.com")
    assert same.notes == ()


@pytest.mark.parametrize(
    ("attributes", "field"),
    [({"OU": "x" * 65}, "subject.OU"), ({"OU": "a\x00"}, "subject.OU"), ({"CN": "x" * 64 + ".example"}, "subject.common_name")],
)  # fmt: skip
def test_attribute_limits_are_enforced(attributes: dict[str, str], field: str) -> None:
    """A malformed attribute of a kind that the profile allows is refused."""
    request = csr.parse(csrs.encode_der(csrs.build(sans=["dns:a.example.com"])))
    subject = tuple((SUBJECT_ATTRIBUTES[name][0], text) for name, text in attributes.items())
    with pytest.raises(RequestError) as refusal:
        evaluation.evaluate(replace(request, subject=subject), team(subject={"allowed": ["CN", "OU"]}))
    assert factories.codes(refusal.value) == [("rejectedIdentifier", field)]


def test_common_name_that_the_profile_does_not_copy_is_in_the_sans() -> None:
    """The common name is added to the SANs; the subject is empty, with a note."""
    spec = evaluate_in(team(subject={"allowed": []}), common_name="b.example.com")
    assert spec.subject == dn()
    assert [str(name) for name in spec.names] == ["dns:a.example.com", "dns:b.example.com"]
    assert spec.notes[0] == "common name 'b.example.com' left out of the subject"


@pytest.mark.parametrize("allowed", [[], ["O"]])
def test_certificate_without_any_name_is_refused(allowed: list[str]) -> None:
    """RFC 5280 4.1.2.6: a certificate has a subject or a subject alternative name."""
    profile: dict[str, Any] = {"extended_key_usage": ["clientAuth"], "subject": {"allowed": allowed}}
    with pytest.raises(RequestError, match="Profile 'team' does not copy the common name") as refusal:
        evaluate_in(team(**profile), common_name="Anna", sans=[])
    assert factories.codes(refusal.value) == [("rejectedIdentifier", "subject.common_name")]
    assert evaluate_in(team(**profile), common_name="Anna").subject == dn()
    fixed = {**profile, "subject": {"allowed": allowed, "fixed": {"O": "Example AG"}}}
    assert evaluate_in(team(**fixed), common_name="Anna", sans=[]).subject == dn(O="Example AG")


@pytest.mark.parametrize(
    ("change", "validity", "asserted"),
    [
        ({"validity": "P7D"}, None, True),
        ({"validity": "P7D", "ca_issuers": "http://ca.example/ca.crt"}, None, True),
        ({"validity": "P7DT1S", "short_lived": "P7D"}, None, False),
        ({}, "P7D", True),
        ({}, "P8D", False),
        ({"short_lived": "PT0S"}, "P1D", False),
        ({"revocation": "crl", "crl": "http://a.example/"}, "P1D", False),
    ],
)  # fmt: skip
def test_short_lived_certificate_asserts_no_rev_avail(
    change: dict[str, Any], validity: str | None, *, asserted: bool
) -> None:
    """RFC 9608: noRevAvail is NULL, not critical, and only in short-lived certificates without a CRL URL."""
    by_oid = extensions(evaluate_in(team(**change)._replace(validity=validity)))
    assert ("2.5.29.56" in by_oid) is asserted
    if asserted:
        value, critical = by_oid["2.5.29.56"]
        assert (value.public_bytes(), critical) == (b"\5\0", False)
        assert not by_oid.keys() & {"2.5.29.31", "2.5.29.46"}  # RFC 9608 3 and 4


def test_extensions_that_the_profile_lists_are_copied() -> None:
    """A copied extension is never critical; the others are omitted with a note."""
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    spec = evaluate_in(team(extensions=["tlsFeature"]), extensions=[staple, other])
    assert extensions(spec)[staple.oid.dotted_string] == (staple, False)
    assert other.oid.dotted_string not in extensions(spec)
    assert spec.notes == ("extension 1.3.6.1.4.1.99999.1 left out",)


def test_key_that_the_profile_does_not_accept_is_refused() -> None:
    """The key type is one of the listed reasons for the refusal."""
    with pytest.raises(CompoundError) as refusal:
        evaluate_in(team(public_keys=["RSA-3072"]), sans=["ip:10.0.0.1"])
    assert factories.codes(refusal.value)[0] == ("badPublicKey", "public_key")
    assert evaluate_in(team(public_keys=["RSA-3072"]), key_type="rsa-3072")


def test_key_of_the_ca_is_refused() -> None:
    """A certificate for a key of the issuer or its root could impersonate the CA."""
    hierarchy = factories.hierarchy()
    issuer = Issuer(hierarchy.signing, [hierarchy.root], factories.signing_key(hierarchy))
    for key in (hierarchy.signing_key, hierarchy.root_key):
        assert key is not None
        request = x509.CertificateSigningRequestBuilder().subject_name(dn(CN="a.example.com"))
        codes = refusal_codes(request.sign(key, hashes.SHA256()), "server", issuer)
        assert codes == [("badPublicKey", "public_key")]


def test_profile_is_limited_to_its_principals() -> None:
    """Another principal is unauthorized, even if the CSR has other violations."""
    assert evaluate_in(team(principals=["ci", "tests"]))
    with pytest.raises(Unauthorized, match="Caller 'tests' may not use profile 'team'"):
        evaluate_in(team(principals=["ci"]), sans=["dns:a..b"])


def test_policy_of_principal_applies_to_names() -> None:
    """The principal's policy restricts subtrees and kinds of name further than the profile."""
    principal_policies = {"tests": {"dns": {"permitted": ["tests.example.com"]}}}
    context = team(principals_names=principal_policies, names={"dns": {}, "ip": {}})
    assert evaluate_in(context, common_name=None, sans=["dns:a.tests.example.com"])
    with pytest.raises(CompoundError) as refusal:
        evaluate_in(context, common_name=None, sans=["dns:a.example.com", "ip:10.0.0.1"])
    assert [str(problem) for problem in refusal.value.subproblems] == [
        "dns:a.example.com: the policy for caller 'tests' permits only names in tests.example.com",
        "ip:10.0.0.1: the policy for caller 'tests' permits only names of kind dns; omit the name",
    ]
    assert evaluate_in(team("other", principals_names=principal_policies), common_name=None)


def test_names_of_a_token_apply_besides_those_of_its_principal() -> None:
    """Both limit names and common names; neither widens the other, nor the profile."""
    policies = {"tests": {"dns": {"permitted": ["a.example.com"]}}}
    context = team(principals_names=policies, names={"dns": {"permitted": ["example.com"]}})._replace(
        token_names=NamePolicy(dns=DnsPolicy(permitted=("b.a.example.com", "example.org")))
    )
    assert evaluate_in(context, common_name=None, sans=["dns:b.a.example.com"])
    for name, labels in (
        ("a.example.com", ["the token of caller 'tests'"]),
        ("example.org", ["profile 'team'", "the policy for caller 'tests'"]),
        ("example.com", ["the policy for caller 'tests'", "the token of caller 'tests'"]),
    ):
        with pytest.raises(RequestError) as refusal:
            evaluate_in(context, common_name=None, sans=[f"dns:{name}"])
        details = [problem.detail for problem in refusal.value.subproblems]
        assert [detail.removeprefix(f"dns:{name}: ").partition(" permits")[0] for detail in details] == labels
        assert [detail for _, detail in evaluation.name_violations([dns(name)], context)] == details
        assert not context.permits_name(dns(name), context.profile)
    assert context.permits_name(dns("b.a.example.com"), context.profile)


def test_token_without_names_permits_none() -> None:
    """Its policy is empty: that is not the same as no token."""
    context = team(names={"dns": {}})._replace(token_names=NamePolicy())
    with pytest.raises(RejectedIdentifier, match="the token of caller 'tests' permits no names"):
        evaluate_in(context, common_name=None, sans=["dns:a.example.com"])


def test_names_of_a_token_apply_to_the_common_name() -> None:
    context = team(**CLIENT)._replace(token_names=NamePolicy(dns=DnsPolicy(permitted=("a.example.com",))))
    assert evaluate_in(context, common_name="a.example.com", sans=[])
    with pytest.raises(RejectedIdentifier, match="the token of caller 'tests' permits only") as refusal:
        evaluate_in(context, common_name="b.example.com", sans=[])
    assert refusal.value.field == "subject.common_name"


def dns(name: str) -> Identifier:
    return Identifier(IdentifierKind.DNS, name)


def test_names_without_a_request_have_the_same_violations() -> None:
    """The profile, the principal's policy and the CA's name constraints apply; the position is of the name."""
    context = team(
        names={"dns": {}},
        principals_names={"tests": {"dns": {"permitted": ["tests.example.com", "example.org"]}, "ip": {}}},
    )._replace(issuer=factories.create_issuer(permitted=("example.com",)))
    names = [
        Identifier(IdentifierKind.DNS, "a.tests.example.com"),
        Identifier(IdentifierKind.IP, "192.0.2.1"),
        Identifier(IdentifierKind.DNS, "*.tests.example.com"),
        Identifier(IdentifierKind.DNS, "a.example.com"),
        Identifier(IdentifierKind.DNS, "a.example.org"),
    ]
    violations = evaluation.name_violations(names, context)
    assert {position for position, _ in violations} == {1, 2, 3, 4}
    with pytest.raises(CompoundError) as refusal:
        evaluate_in(context, common_name=None, sans=[str(name) for name in names])
    assert [(f"subject_alt_name[{position}]", detail) for position, detail in violations] == [
        (problem.field, problem.detail) for problem in refusal.value.subproblems
    ]
    assert not evaluation.name_violations(names[:1], context)


EXAMPLE_NAMES = {"dns": {"permitted": ["example.com"]}}
CLIENT: dict[str, Any] = {"extended_key_usage": ["clientAuth"], "names": EXAMPLE_NAMES}
LIMITED = CLIENT | {"principals_names": {"tests": {"dns": {"permitted": ["ci.example.com"]}}}}


@pytest.mark.parametrize(
    ("change", "cn", "policies"),
    [
        (CLIENT, "Anna Beispiel", []),
        (CLIENT, "a.example.com", []),
        (CLIENT, "A.Example.org", ["profile 'team'"]),
        (CLIENT, "a.example.org.", ["profile 'team'"]),
        (CLIENT, "192.0.2.1", []),
        (CLIENT, "anna@example.org", []),
        (CLIENT | {"names": {"email": {"permitted": ["example.com"]}}}, "anna.beispiel", []),
        (CLIENT | {"names": {"email": {"permitted": ["example.com"]}}}, "anna@example.com", []),
        (
            CLIENT | {"names": {"email": {"permitted": ["example.com"]}}},
            "anna@example.org",
            ["profile 'team'"],
        ),
        (CLIENT | {"names": {"ip": {"permitted": ["10.0.0.0/8"]}}}, "192.0.2.1", ["profile 'team'"]),
        (LIMITED, "Anna Beispiel", []),
        (LIMITED, "a.ci.example.com", []),
        (LIMITED, "a.example.com", ["caller 'tests'"]),
        (LIMITED, "a.example.org", ["profile 'team'", "caller 'tests'"]),
        (LIMITED, "192.0.2.1", ["caller 'tests'"]),
        (LIMITED, "root@example.com", ["caller 'tests'"]),
        (LIMITED, "db_1.ci.example.com", []),
        (LIMITED, "db_1.example.org", ["profile 'team'", "caller 'tests'"]),
        (LIMITED, "xn--a.example.org", ["profile 'team'", "caller 'tests'"]),
        (LIMITED, "127.1", ["profile 'team'", "caller 'tests'"]),
        (LIMITED, '"a b"@example.com', ["caller 'tests'"]),
        (CLIENT, '"a b"@example.org', []),
        (CLIENT | {"names": {"dns": {}}}, "sensor_1.hall", []),
    ],
)
def test_policies_apply_to_common_name(change: dict[str, Any], cn: str, policies: list[str]) -> None:
    """Some programs identify clients by common name, so names in it must not evade the policies."""
    if not policies:
        assert evaluate_in(team(**change), common_name=cn, sans=[]).names == ()
        return
    with pytest.raises(RequestError) as refusal:
        evaluate_in(team(**change), common_name=cn, sans=[])
    assert factories.codes(refusal.value) == [("rejectedIdentifier", "subject.common_name")] * len(policies)
    for problem, policy in zip(refusal.value.subproblems, policies, strict=True):
        assert f"{policy} permits" in problem.detail


def test_empty_san_extension_is_refused() -> None:
    """RFC 5280 4.2.1.6: the extension contains at least one name; a CSR without it is accepted."""
    with pytest.raises(RequestError, match="extension is empty") as refusal:
        evaluate_in(team(), sans=[], extensions=[x509.SubjectAlternativeName([])])
    assert factories.codes(refusal.value) == [("rejectedIdentifier", "subject_alt_name")]
    assert evaluate_in(team(), sans=[])


@pytest.mark.parametrize("requested", [{"validity": "P31D"}, {"not_after": "2026-12-24T12:30:45Z"}])
def test_validity_beyond_the_profile_is_refused(requested: dict[str, Any]) -> None:
    """The validity is one of the listed reasons for the refusal; a shorter validity is granted."""
    with pytest.raises(CompoundError) as refusal:
        evaluate_in(team()._replace(**requested), sans=["ip:10.0.0.1"])
    (field,) = requested
    assert ("rejectedValidity", field) in factories.codes(refusal.value)
    spec = evaluate_in(team()._replace(validity="P2D"))
    assert spec.not_after - spec.not_before == timedelta(days=2, seconds=-1)


def test_validity_beyond_the_chain_is_shortened_or_refused() -> None:
    """The default validity is shortened with a note; a requested validity is refused."""
    issuer = Issuer(ca(), [root(end=NOW + timedelta(days=3))], SIGNING)
    context = factories.context("team", issuer, IssuancePolicy({"team": TEAM}, "team"))
    end = encoding.format_timestamp(issuer.not_after)
    assert evaluate_in(context).notes[-1] == f"validity shortened: the CA expires at {end}"
    requests: list[dict[str, Any]] = [{"validity": "P4D"}, {"not_after": "2026-11-27T12:30:45Z"}]
    for requested in requests:
        with pytest.raises(RejectedValidity, match="the CA expires at"):
            evaluate_in(context._replace(**requested))
    assert evaluate_in(context._replace(not_after=end)).not_after == issuer.not_after


OTHER_PROFILES: dict[str, Any] = {
    "server": TEAM | {"names": {"dns": {}}},
    "spiffe": TEAM | {"names": {"uri": {"schemes": ["spiffe"]}}},
    "client": TEAM | {"extended_key_usage": ["clientAuth"], "names": {"dns": {}, "uri": {}}},
    "secret": TEAM | {"names": {"uri": {}}, "principals": ["ops"]},
    "people": TEAM | {"extended_key_usage": ["clientAuth"], "names": {}, "principals": ["ops"]},
}


def refusal_detail(principal: str, request: x509.CertificateSigningRequest, **change: Any) -> str:
    """The only reason for a refusal of the profile `server` of OTHER_PROFILES."""
    principal_policies: dict[str, Any] = {"limited": {"dns": {}}}
    policy = IssuancePolicy(OTHER_PROFILES, "server", principal_policies)
    context = factories.context("server", policy=policy, principal=principal, **change)
    with pytest.raises(RequestError) as refusal:
        factories.evaluate(request, context)
    (problem, *_) = refusal.value.subproblems
    return problem.detail


SERVER_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


@pytest.mark.parametrize(
    ("principal", "uri", "extensions", "remedy"),
    [
        ("ci", "spiffe://example.com/x", [], "use profile 'spiffe' or 'client'"),
        ("ops", "spiffe://example.com/x", [], "use profile 'spiffe' or 'client' or 'secret'"),
        ("ci", "urn:x:y", [], "use profile 'client'"),
        ("ci", "spiffe://example.com/x", [SERVER_USAGE], "use profile 'spiffe'"),
        ("ci", "urn:x:y", [SERVER_USAGE], "omit the name"),
        ("limited", "urn:x:y", [], "omit the name"),
    ],
)
def test_kind_that_the_profile_lacks_names_the_profiles_that_permit_the_name(
    principal: str, uri: str, extensions: list[x509.ExtensionType], remedy: str
) -> None:
    """Only profiles that the caller may use, that permit the name, and have the requested usages."""
    request = csrs.build(None, [f"uri:{uri}"], extensions)
    detail = f"uri:{uri}: profile 'server' permits only names of kind dns; {remedy}"
    assert refusal_detail(principal, request) == detail


@pytest.mark.parametrize(
    ("principal", "profiles"), [("ci", "use profile 'client'"), ("ops", "use profile 'client' or 'people'")]
)
def test_suggested_profiles_are_those_of_the_caller(principal: str, profiles: str) -> None:
    """A refused usage and common name suggest no profile of other callers; a renewal suggests none."""
    client = csrs.build(extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
    assert refusal_detail(principal, client).endswith(f"does not have clientAuth; {profiles}")
    assert refusal_detail(principal, client, is_renewal=True).endswith(
        "; omit it: no profile fits the requested usages"
    )
    assert refusal_detail(principal, csrs.build("Anna")).endswith(f"use a full host name, or {profiles}")
    assert refusal_detail(principal, csrs.build("Anna"), is_renewal=True).endswith(": use a full host name")


def test_usages_of_a_large_request_are_evaluated_once() -> None:
    """The suggestion does not depend on the single usage, so 5,000 usages take less than a second."""
    usages = x509.ExtendedKeyUsage([x509.ObjectIdentifier(f"1.2.3.{n}") for n in range(5000)])
    request = csr.parse(csrs.encode_der(csrs.build(extensions=[usages])))
    start = time.process_time()
    with pytest.raises(CompoundError):
        evaluation.evaluate(request, factories.context("server"))
    assert time.process_time() - start < 1
