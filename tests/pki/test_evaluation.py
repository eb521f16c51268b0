from __future__ import annotations

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
from service.pki.errors import CAUnavailable, CompoundError, RejectedValidity, RequestError, Unauthorized
from service.pki.evaluation import IssuanceContext
from service.pki.issuer import Issuer
from service.pki.profile import SUBJECT_ATTRIBUTES
from service.pki.profile_loader import IssuancePolicy
from tests import csrs, factories
from tests.factories import NOW, SIGNING, ca, key_usage, root


def evaluate(
    request: x509.CertificateSigningRequest, profile: str = "server", issuer: Issuer | None = None
) -> CertificateSpec:
    """What would be issued."""
    return factories.evaluate(request, factories.context(profile, issuer))


def refused(request: x509.CertificateSigningRequest, *context: Any) -> Sequence[tuple[str, str]]:
    """The code and field of each reason against it."""
    with pytest.raises(RequestError) as refusal:
        evaluate(request, *context)
    return factories.codes(refusal.value)


@pytest.mark.parametrize(
    ("profile", "cn", "sans", "given", "note"),
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
    profile: str, cn: str | None, sans: Sequence[str], given: Sequence[str], note: str
) -> None:
    """Every name is honoured, a hundred at most; a server's common name is added to its SANs, with a note."""
    spec = evaluate(csrs.build(cn, sans), profile)
    assert [each.value for each in spec.subject] == ([cn] if cn else [])
    assert [str(each) for each in spec.names] == given
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
def test_names_that_are_refused(profile: str, cn: str | None, sans: Sequence[str], fields: list[str]) -> None:
    """One bad name refuses the whole request, and every bad name is listed with its field."""
    assert refused(csrs.build(cn, sans), profile) == [("rejectedIdentifier", field) for field in fields]


@pytest.mark.parametrize(("length", "fits"), [(64, True), (65, False)])
def test_common_name_has_64_characters_at_most(length: int, *, fits: bool) -> None:
    """RFC 5280 A.1, ub-common-name: characters, whatever their octets."""
    loaded = csr.parse(csrs.encode_der(csrs.build("a")))
    request = replace(loaded, subject=((NameOID.COMMON_NAME, "a" * length),))
    if fits:
        assert evaluation.evaluate(request, factories.context("client"))
        return
    with pytest.raises(RequestError, match="65 characters"):
        evaluation.evaluate(request, factories.context("client"))


def test_two_common_names_are_refused() -> None:
    """More than one common name is ambiguous, and refused."""
    two = [x509.NameAttribute(NameOID.COMMON_NAME, text) for text in ("a.example", "b.example")]
    with pytest.raises(RequestError, match="several common names"):
        evaluate(csrs.build(subject=x509.Name(two), sans=["dns:a.example"]))


def test_other_subject_attributes_are_left_out_and_named() -> None:
    """openssl's defaults, and a hostile O=system:masters, are not certified; each is noted."""
    subject = dn(C="AU", ST="Some-State", O="system:masters", CN="a.example.com", serialNumber="7")
    spec = evaluate(csrs.build(subject=subject, sans=["dns:a.example.com"]))
    assert spec.subject == dn(CN="a.example.com")
    assert spec.notes == (
        "subject attribute C='AU' left out",
        "subject attribute ST='Some-State' left out",
        "subject attribute O='system:masters' left out",
        "subject attribute serialNumber='7' left out",
    )


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
def test_extensions_that_only_others_have(extension: x509.ExtensionType, field: str) -> None:
    """What belongs to a CA, or to another profile, is refused, not dropped; its harmless twin is not."""
    request = csrs.build(extensions=[extension])
    if field:
        assert refused(request) == [("badCSR", f"extensions.{field}")]
    else:
        assert evaluate(request)


def test_refused_usage_names_the_profile_that_has_it() -> None:
    """Somebody who asks the wrong profile is told the right ones."""
    told = "Profile 'server' does not have clientAuth; use profile 'client' or 'peer'"
    for asked, words in ((ExtendedKeyUsageOID.CLIENT_AUTH, told), (ExtendedKeyUsageOID.CODE_SIGNING, "; no profile has it")):  # fmt: skip
        with pytest.raises(RequestError, match=f"{words}$"):
            evaluate(csrs.build(extensions=[x509.ExtendedKeyUsage([asked])]))


@pytest.mark.parametrize(
    ("kind", "profile", "extension", "note"),
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
def test_omitted_parts_are_noted(kind: str, profile: str, extension: x509.ExtensionType, note: str) -> None:
    """Nothing is dropped or added without a word; cert-manager's keyEncipherment for EC is a note."""
    spec = evaluate(csrs.build(sans=["dns:a.example.com"], extensions=[extension], key_type=kind), profile)
    assert ", ".join(spec.notes) == note


def test_every_reason_at_once() -> None:
    """Faults of names and of extensions are told together, each with its own code and field."""
    ca = x509.BasicConstraints(ca=True, path_length=None)
    assert refused(csrs.build("Anna", ["dns:a..b", "dns:_x.example"], [ca])) == [
        ("rejectedIdentifier", "subject_alt_name[0]"),
        ("rejectedIdentifier", "subject.common_name"),
        ("rejectedIdentifier", "subject_alt_name[1]"),
        ("badCSR", "extensions.basic_constraints"),
    ]


def test_name_constraints_of_the_ca_are_checked_before_signing() -> None:
    """A name outside the CA's nameConstraints is 422, not a certificate that nobody accepts."""
    issuer = factories.create_issuer(permitted=("example.com", "10.0.0.0/8"))
    assert evaluate(csrs.build("a.example.com", ["ip:10.1.2.3"]), issuer=issuer)
    for cn, sans in (("a.example.org", []), (None, ["ip:192.0.2.1"]), ("a.example.com", ["dns:x.org"])):
        with pytest.raises(RequestError, match="name constraints"):
            evaluate(csrs.build(cn, sans), issuer=issuer)


def test_usages_of_the_ca_are_checked_before_signing() -> None:
    """A profile that the CA's own extended key usage does not allow is refused; the other is granted."""
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = Issuer(ca(extra=client), [root()], SIGNING)
    assert evaluate(csrs.build(), "client", issuer)
    with pytest.raises(RequestError, match="may not issue certificates for serverAuth") as refusal:
        evaluate(csrs.build(), "server", issuer)
    assert factories.codes(refusal.value) == [("badCSR", "profile")]


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
def test_chain_s_life_binds(start: timedelta, end: timedelta, *, ready: bool) -> None:
    """Outside the chain's life, and in its last hour, nothing is issued."""
    issuer = Issuer(ca(start=NOW + start, end=NOW + end), [root(start=NOW - timedelta(days=9))], SIGNING)
    if ready:
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
    """The context of one profile, which is TEAM with something changed."""
    principals = change.pop("principals_names", {})
    profiles = IssuancePolicy({"team": TEAM | change}, "team", principals)
    return factories.context("team", policy=profiles, principal=principal)


def granted(context: IssuanceContext, **request: Any) -> CertificateSpec:
    """What would be issued for a request."""
    return factories.evaluate(csrs.build(**{"sans": ["dns:a.example.com"], **request}), context)


def extensions(spec: CertificateSpec) -> dict[str, tuple[x509.ExtensionType, bool]]:
    """Its extensions by OID, and whether they are critical."""
    certificate = factories.create_issuer().sign(spec.builder(1))
    return {each.oid.dotted_string: (each.value, each.critical) for each in certificate.extensions}


def dn(**attributes: str) -> x509.Name:
    """A subject."""
    return x509.Name(
        [x509.NameAttribute(SUBJECT_ATTRIBUTES[name][0], text) for name, text in attributes.items()]
    )


def test_allowed_and_fixed_attributes() -> None:
    """What is allowed is taken, what is fixed is given, whatever is asked; the rest is left out and noted."""
    stated = {"allowed": ["CN", "OU"], "fixed": {"C": "CH", "O": "Example AG"}}
    asked = dn(O="Evil", OU="Ops", L="Bern", CN="a.example.com")
    spec = granted(team(subject=stated), subject=asked)
    assert spec.subject == dn(C="CH", O="Example AG", OU="Ops", CN="a.example.com")
    assert spec.notes == ("subject attribute O='Evil' left out", "subject attribute L='Bern' left out")
    same = granted(team(subject=stated), subject=dn(O="Example AG", CN="a.example.com"))
    assert same.subject == dn(C="CH", O="Example AG", CN="a.example.com")
    assert same.notes == ()


@pytest.mark.parametrize(
    ("asked", "field"),
    [({"OU": "x" * 65}, "subject.OU"), ({"OU": "a\x00"}, "subject.OU"), ({"CN": "x" * 64 + ".example"}, "subject.common_name")],
)  # fmt: skip
def test_attribute_limits_are_enforced(asked: dict[str, str], field: str) -> None:
    """An attribute that is taken is well formed, or the request is refused."""
    request = csr.parse(csrs.encode_der(csrs.build(sans=["dns:a.example.com"])))
    odd = replace(request, subject=tuple((SUBJECT_ATTRIBUTES[name][0], text) for name, text in asked.items()))
    with pytest.raises(RequestError) as refusal:
        evaluation.evaluate(odd, team(subject={"allowed": ["CN", "OU"]}))
    assert factories.codes(refusal.value) == [("rejectedIdentifier", field)]


def test_common_name_may_not_be_allowed() -> None:
    """The name is still certified, among the SANs, and the subject is left empty, with a note."""
    spec = granted(team(subject={"allowed": []}), common_name="b.example.com")
    assert spec.subject == dn()
    assert [str(each) for each in spec.names] == ["dns:a.example.com", "dns:b.example.com"]
    assert spec.notes[0] == "common name 'b.example.com' left out of the subject"


@pytest.mark.parametrize("allowed", [[], ["O"]])
def test_certificate_without_any_name_is_refused(allowed: list[str]) -> None:
    """RFC 5280 4.1.2.6: no subject, no certificate, unless there is an alternative name."""
    stated: dict[str, Any] = {"extended_key_usage": ["clientAuth"], "subject": {"allowed": allowed}}
    with pytest.raises(RequestError, match="Profile 'team' does not copy the common name") as refusal:
        granted(team(**stated), common_name="Anna", sans=[])
    assert factories.codes(refusal.value) == [("rejectedIdentifier", "subject.common_name")]
    assert granted(team(**stated), common_name="Anna").subject == dn()
    fixed = {**stated, "subject": {"allowed": allowed, "fixed": {"O": "Example AG"}}}
    assert granted(team(**fixed), common_name="Anna", sans=[]).subject == dn(O="Example AG")


@pytest.mark.parametrize(
    ("change", "validity", "says"),
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
def test_no_revocation_available(change: dict[str, Any], validity: str | None, *, says: bool) -> None:
    """RFC 9608: short-lived certificates say it, not critical, as NULL; and never beside a CRL's address."""
    found = extensions(granted(team(**change)._replace(validity=validity)))
    assert ("2.5.29.56" in found) is says
    if says:
        value, critical = found["2.5.29.56"]
        assert (value.public_bytes(), critical) == (b"\5\0", False)
        assert not found.keys() & {"2.5.29.31", "2.5.29.46"}  # RFC 9608 3 and 4


def test_extensions_that_a_request_may_bring() -> None:
    """Those that the profile lists are copied, never critical; all others are left out with a note."""
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    own = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    spec = granted(team(extensions=["tlsFeature"]), extensions=[staple, own])
    assert extensions(spec)[staple.oid.dotted_string] == (staple, False)
    assert own.oid.dotted_string not in extensions(spec)
    assert spec.notes == ("extension 1.3.6.1.4.1.99999.1 left out",)


def test_keys_of_the_profile() -> None:
    """A kind that the profile does not take is refused beside every other reason."""
    with pytest.raises(CompoundError) as refusal:
        granted(team(public_keys=["RSA-3072"]), sans=["ip:10.0.0.1"])
    assert factories.codes(refusal.value)[0] == ("badPublicKey", "public_key")
    assert granted(team(public_keys=["RSA-3072"]), key_type="rsa-3072")


def test_ca_s_own_key_is_not_certified() -> None:
    """A request for the key of the issuer, or of its root, is refused: it would speak for the CA."""
    made = factories.hierarchy()
    issuer = Issuer(made.signing, [made.root], factories.signing_key(made))
    for key in (made.signing_key, made.root_key):
        assert key is not None
        request = x509.CertificateSigningRequestBuilder().subject_name(dn(CN="a.example.com"))
        found = refused(request.sign(key, hashes.SHA256()), "server", issuer)
        assert found == [("badPublicKey", "public_key")]


def test_profile_is_limited_to_its_principals() -> None:
    """Another principal is refused as such (403), before anything of its request is looked at."""
    assert granted(team(principals=["ci", "tests"]))
    with pytest.raises(Unauthorized, match="Caller 'tests' may not use profile 'team'"):
        granted(team(principals=["ci"]), sans=["dns:a..b"])


def test_policy_of_principal_applies_to_names() -> None:
    """Beyond what the profile gives: only in its subtrees, and only of the kinds that it has."""
    held_to = {"tests": {"dns": {"permitted": ["tests.example.com"]}}}
    own = team(principals_names=held_to, names={"dns": {}, "ip": {}})
    assert granted(own, common_name=None, sans=["dns:a.tests.example.com"])
    with pytest.raises(CompoundError) as refusal:
        granted(own, common_name=None, sans=["dns:a.example.com", "ip:10.0.0.1"])
    assert [str(each) for each in refusal.value.subproblems] == [
        "dns:a.example.com: the policy for caller 'tests' permits only names in tests.example.com",
        "ip:10.0.0.1: the policy for caller 'tests' permits only names of kind dns",
    ]
    assert granted(team("other", principals_names=held_to), common_name=None)


OF_EXAMPLE = {"dns": {"permitted": ["example.com"]}}
CLIENT: dict[str, Any] = {"extended_key_usage": ["clientAuth"], "names": OF_EXAMPLE}
HELD = CLIENT | {"principals_names": {"tests": {"dns": {"permitted": ["ci.example.com"]}}}}


@pytest.mark.parametrize(
    ("change", "cn", "whose"),
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
        (HELD, "Anna Beispiel", []),
        (HELD, "a.ci.example.com", []),
        (HELD, "a.example.com", ["caller 'tests'"]),
        (HELD, "a.example.org", ["profile 'team'", "caller 'tests'"]),
        (HELD, "192.0.2.1", ["caller 'tests'"]),
        (HELD, "root@example.com", ["caller 'tests'"]),
        (HELD, "db_1.ci.example.com", []),
        (HELD, "db_1.example.org", ["profile 'team'", "caller 'tests'"]),
        (HELD, "xn--a.example.org", ["profile 'team'", "caller 'tests'"]),
        (HELD, "127.1", ["profile 'team'", "caller 'tests'"]),
        (HELD, '"a b"@example.com', ["caller 'tests'"]),
        (CLIENT, '"a b"@example.org', []),
        (CLIENT | {"names": {"dns": {}}}, "sensor_1.hall", []),
    ],
)
def test_policies_apply_to_common_name(change: dict[str, Any], cn: str, whose: list[str]) -> None:
    """Programs that tell clients by their common name read names in it, which are no way round the rules."""
    if not whose:
        assert granted(team(**change), common_name=cn, sans=[]).names == ()
        return
    with pytest.raises(RequestError) as refusal:
        granted(team(**change), common_name=cn, sans=[])
    assert factories.codes(refusal.value) == [("rejectedIdentifier", "subject.common_name")] * len(whose)
    for reason, each in zip(refusal.value.subproblems, whose, strict=True):
        assert f"{each} permits" in reason.detail


def test_empty_san_extension_is_refused() -> None:
    """RFC 5280 4.2.1.6: if the extension is there it holds a name; one that is not there is none."""
    with pytest.raises(RequestError, match="extension is empty") as refusal:
        granted(team(), sans=[], extensions=[x509.SubjectAlternativeName([])])
    assert factories.codes(refusal.value) == [("rejectedIdentifier", "subject_alt_name")]
    assert granted(team(), sans=[])


@pytest.mark.parametrize("requested", [{"validity": "P31D"}, {"not_after": "2026-12-24T12:30:45Z"}])
def test_more_validity_than_the_profile_gives(requested: dict[str, Any]) -> None:
    """It is refused together with all other reasons; less is given."""
    with pytest.raises(CompoundError) as refusal:
        granted(team()._replace(**requested), sans=["ip:10.0.0.1"])
    (field,) = requested
    assert ("rejectedValidity", field) in factories.codes(refusal.value)
    spec = granted(team()._replace(validity="P2D"))
    assert spec.not_after - spec.not_before == timedelta(days=2, seconds=-1)


def test_more_validity_than_the_chain_has() -> None:
    """A default is cut with a note; an explicit request is refused."""
    issuer = Issuer(ca(), [root(end=NOW + timedelta(days=3))], SIGNING)
    context = factories.context("team", issuer, IssuancePolicy({"team": TEAM}, "team"))
    end = encoding.format_timestamp(issuer.not_after)
    assert granted(context).notes[-1] == f"validity shortened: the CA expires at {end}"
    requests: list[dict[str, Any]] = [{"validity": "P4D"}, {"not_after": "2026-11-27T12:30:45Z"}]
    for requested in requests:
        with pytest.raises(RejectedValidity, match="the CA expires at"):
            granted(context._replace(**requested))
    assert granted(context._replace(not_after=end)).not_after == issuer.not_after
