"""`docs/reference/certificate-specification.md`, line by line: the name of a check is the name of its line."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from service import openapi
from service.authority import Principal, PrincipalKind
from service.ocsp_responders import OCSPResponders
from service.overrides import YAMLSource
from service.pki import csr, keys
from service.pki.csr import CertificateSigningRequest
from service.pki.issuer import Issuer
from service.pki.profile import SUBJECT_ATTRIBUTES, Profile, RequestedValidity, Revocation, format_duration
from service.pki.serial import SerialNumbers
from tests import csrs, factories
from tests.adversarial import der
from tests.factories import NOW
from tests.servers import ROOT

TEXT = (ROOT / "docs" / "reference" / "certificate-specification.md").read_text()
CERTIFICATES, RESPONDER = TEXT.split("## The OCSP responder")
LINES, RESPONDER_LINES = (
    re.findall(r"^- \*\*([a-z-]+)\*\*: ", part, re.MULTILINE) for part in (CERTIFICATES, RESPONDER)
)
OVERRIDES = (ROOT / "tests" / "policies.yaml").read_text().replace("client: null", "client: {validity: P6D}")
DOCUMENT = openapi.with_overrides(openapi.load(), YAMLSource(OVERRIDES).data)
POLICY = openapi.parse_policy(DOCUMENT, "http://status.example.com")
NO_REV_AVAIL = "2.5.29.56"
_T = TypeVar("_T", bound=x509.ExtensionType)


@dataclass(frozen=True)
class Case:
    """A certificate, and what it was issued from."""

    certificate: x509.Certificate
    request: CertificateSigningRequest
    profile: Profile
    issuer: Issuer
    requested: RequestedValidity
    renewed: x509.Certificate | None = None

    def get(self, extension_type: type[_T]) -> _T | None:
        """Return the value of an extension; None if the certificate does not have it."""
        values = [
            extension.value
            for extension in self.certificate.extensions
            if isinstance(extension.value, extension_type)
        ]
        return values[0] if values else None

    def require(self, extension_type: type[_T]) -> _T:
        """Return the value of an extension that the certificate must have."""
        value = self.get(extension_type)
        assert value is not None
        return value

    @property
    def has_no_rev_avail(self) -> bool:
        """Whether the certificate has the extension noRevAvail (RFC 9608)."""
        return any(extension.oid.dotted_string == NO_REV_AVAIL for extension in self.certificate.extensions)

    @property
    def key_id(self) -> str:
        """The issuer's subjectKeyIdentifier in hexadecimal."""
        extensions = self.issuer.certificate.extensions
        return extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()

    @property
    def validity(self) -> timedelta:
        """The validity period, both ends included."""
        difference = self.certificate.not_valid_after_utc - self.certificate.not_valid_before_utc
        return difference + timedelta(seconds=1)


def version(case: Case) -> None:
    assert case.certificate.version is x509.Version.v3


def serial_number(case: Case) -> None:
    assert 64 < case.certificate.serial_number.bit_length() <= 159
    numbers = SerialNumbers(factories.SERIAL_KEYS, case.issuer.certificate)
    start, end = numbers.recognize(case.certificate.serial_number) or (None, None)
    assert start == case.certificate.not_valid_before_utc.replace(second=0)
    assert end == (case.certificate.not_valid_after_utc + timedelta(minutes=1)).replace(second=0)


def signature_algorithm(case: Case) -> None:
    expected = {
        "RSA": "1.2.840.113549.1.1.11",
        "P-256": "1.2.840.10045.4.3.2",
        "P-384": "1.2.840.10045.4.3.3",
        "P-521": "1.2.840.10045.4.3.4",
        "Ed25519": "1.3.101.112",
        "ML-DSA-44": "2.16.840.1.101.3.4.3.17",
    }[keys.kind_of(case.issuer.certificate.public_key())]
    assert case.certificate.signature_algorithm_oid.dotted_string == expected


def signature(case: Case) -> None:
    case.certificate.verify_directly_issued_by(case.issuer.certificate)


def issuer(case: Case) -> None:
    assert case.certificate.issuer.public_bytes() == case.issuer.certificate.subject.public_bytes()


def not_before(case: Case) -> None:
    start = NOW.replace(microsecond=0) - case.profile.backdate
    assert case.certificate.not_valid_before_utc == max(start, case.issuer.not_before)


def not_after(case: Case) -> None:
    expected = case.requested.validity or case.profile.validity
    assert case.validity <= case.profile.max_validity
    assert case.validity == expected or case.certificate.not_valid_after_utc == case.issuer.not_after


def outlive(case: Case) -> None:
    for ca in (case.issuer.certificate, *case.issuer.chain):
        assert ca.not_valid_before_utc <= case.certificate.not_valid_before_utc
        assert case.certificate.not_valid_after_utc <= ca.not_valid_after_utc


def subject(case: Case) -> None:
    attributes = [(attribute.oid, str(attribute.value)) for attribute in case.certificate.subject]
    fixed = [(SUBJECT_ATTRIBUTES[name][0], text) for name, text in case.profile.fixed_attributes]
    allowed = {SUBJECT_ATTRIBUTES[name][0] for name in case.profile.allowed_attributes}
    assert set(fixed) <= set(attributes)
    assert attributes or case.get(x509.SubjectAlternativeName)
    for oid, text in attributes:
        assert (oid, text) in fixed or (oid in allowed and (oid, text) in case.request.subject)


def common_name(case: Case) -> None:
    names = case.get(x509.SubjectAlternativeName)
    for attribute in case.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        assert not case.profile.is_tls_server or attribute.value in [str(name.value) for name in names or []]
        assert "*" not in str(attribute.value).removeprefix("*.")


def preparation(case: Case) -> None:
    for attribute in case.certificate.subject:
        text = str(attribute.value)
        assert text == unicodedata.normalize("NFKC", text) == " ".join(text.split())
        assert text.isprintable()


def renewal(case: Case) -> None:
    if case.renewed:
        copied = (x509.ObjectIdentifier("2.5.29.17"), *case.profile.extensions)
        old, new = (
            (
                certificate.subject,
                {
                    (extension.oid, extension.value)
                    for extension in certificate.extensions
                    if extension.oid in copied
                },
            )
            for certificate in (case.renewed, case.certificate)
        )
        assert old == new


def public_key(case: Case) -> None:
    assert case.request.subject_public_key_info in case.certificate.tbs_certificate_bytes
    case.profile.verify_key(case.certificate.public_key())
    for ca in (case.issuer.certificate, *case.issuer.chain):
        assert ca.public_key() != case.certificate.public_key()


def unique_identifiers(case: Case) -> None:
    """RFC 5280 4.1: unique identifiers, [1] and [2], would be between the key and the extensions."""
    tbs, key = case.certificate.tbs_certificate_bytes, case.request.subject_public_key_info
    after = tbs.index(key) + len(key)
    assert tbs[after : after + 1] == b"\xa3"


def extensions(case: Case) -> None:
    oids = [extension.oid.dotted_string for extension in case.certificate.extensions]
    copied = [oid.dotted_string for oid in case.profile.extensions]
    known = [f"2.5.29.{arc}" for arc in (14, 15, 17, 19, 31, 32, 35, 37, 56)] + ["1.3.6.1.5.5.7.1.1"]
    assert set(oids) <= {*known, *copied}
    assert len(oids) == len(set(oids))


def criticality(case: Case) -> None:
    critical = {type(extension.value) for extension in case.certificate.extensions if extension.critical}
    names = set() if case.certificate.subject.rdns else {x509.SubjectAlternativeName}
    assert critical == {x509.BasicConstraints, x509.KeyUsage} | names


def authority_key_identifier(case: Case) -> None:
    ca_key_id = case.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    value = case.require(x509.AuthorityKeyIdentifier)
    assert (value.key_identifier, value.authority_cert_issuer, value.authority_cert_serial_number) == (ca_key_id.digest, None, None)  # fmt: skip


def subject_key_identifier(case: Case) -> None:
    method_1 = x509.SubjectKeyIdentifier.from_public_key(case.request.public_key)
    assert case.require(x509.SubjectKeyIdentifier) == method_1


def basic_constraints(case: Case) -> None:
    assert case.require(x509.BasicConstraints) == x509.BasicConstraints(ca=False, path_length=None)


def key_usage(case: Case) -> None:
    is_rsa = keys.kind_of(case.request.public_key) is keys.KeyKind.RSA
    assert case.require(x509.KeyUsage) == factories.key_usage("digital_signature", key_encipherment=is_rsa)


def extended_key_usage(case: Case) -> None:
    oids = list(case.require(x509.ExtendedKeyUsage))
    assert oids == list(case.profile.extended_key_usage_oids)
    forbidden = {"2.5.29.37.0", "1.3.6.1.5.5.7.3.9", "1.3.6.1.5.5.7.3.8"}
    assert not {oid.dotted_string for oid in oids} & forbidden


def subject_alternative_name(case: Case) -> None:
    requested = [
        str(name.value).lower()
        for extension in case.request.extensions
        if isinstance(extension.value, x509.SubjectAlternativeName)
        for name in extension.value
    ]
    value = case.get(x509.SubjectAlternativeName)
    names = [str(name.value).lower() for name in value or []]
    assert names[: len(requested)] == list(dict.fromkeys(requested))
    common_names = [text.lower() for oid, text in case.request.subject if oid == NameOID.COMMON_NAME]
    assert set(names[len(requested) :]) <= set(common_names)
    assert value is None or 0 < len(names) <= 100


def names(case: Case) -> None:
    types: list[tuple[type, str]] = [
        (x509.DNSName, "dns"),
        (x509.IPAddress, "ip"),
        (x509.RFC822Name, "email"),
        (x509.UniformResourceIdentifier, "uri"),
        (x509.GeneralName, "none of these"),
    ]
    for name in case.get(x509.SubjectAlternativeName) or []:
        name_type = next(prefix for base, prefix in types if isinstance(name, base))
        assert getattr(case.profile.names, name_type) is not None
        if isinstance(name, x509.DNSName):
            assert re.fullmatch(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9-]{1,63}", name.value)


def certificate_policies(case: Case) -> None:
    policies = case.get(x509.CertificatePolicies) or ()
    assert tuple(policy.policy_identifier for policy in policies) == case.profile.certificate_policies
    assert not any(policy.policy_qualifiers for policy in policies)


def authority_information_access(case: Case) -> None:
    descriptions = case.get(x509.AuthorityInformationAccess) or ()
    urls = {
        AuthorityInformationAccessOID.OCSP: case.profile.ocsp,
        AuthorityInformationAccessOID.CA_ISSUERS: case.profile.ca_issuers,
    }
    expected = [(method, url.replace("{key_id}", case.key_id)) for method, url in urls.items() if url]
    assert [(access.access_method, access.access_location.value) for access in descriptions] == expected


def crl_distribution_points(case: Case) -> None:
    points = case.get(x509.CRLDistributionPoints)
    assert (points is not None) is (case.profile.revocation is Revocation.CRL)
    for point in points or ():
        url = case.profile.crl.replace("{key_id}", case.key_id)
        assert point.full_name == [x509.UniformResourceIdentifier(url)]


def no_rev_avail(case: Case) -> None:
    is_short = case.profile.revocation is Revocation.NONE and case.validity <= case.profile.short_lived
    assert case.has_no_rev_avail is is_short
    assert not (case.has_no_rev_avail and case.get(x509.CRLDistributionPoints))


def copied_extensions(case: Case) -> None:
    copied, requested = (
        {extension.value for extension in source.extensions if extension.oid in case.profile.extensions}
        for source in (case.certificate, case.request)
    )
    assert copied == requested
    assert not any(oid.dotted_string.startswith("2.5.29.") for oid in case.profile.extensions)
    for octets in (value.public_bytes() for value in copied):
        assert [node.encode() for node in der.parse(octets)] == [octets]


Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {
    check.__name__.replace("_", "-"): check
    for check in (
        version, serial_number, signature_algorithm, signature, issuer, not_before, not_after, outlive, subject,
        preparation, common_name, renewal, public_key, unique_identifiers, extensions, criticality, authority_key_identifier,
        subject_key_identifier, basic_constraints, key_usage, extended_key_usage, subject_alternative_name, names,
        certificate_policies, authority_information_access, crl_distribution_points, no_rev_avail, copied_extensions,
    )
}  # fmt: skip


def responder_fields(case: Case) -> None:
    for check in (version, serial_number, signature_algorithm, signature, issuer, outlive, unique_identifiers, criticality):  # fmt: skip
        check(case)
    for check in (authority_key_identifier, subject_key_identifier, basic_constraints, key_usage):
        check(case)


def responder_validity(case: Case) -> None:
    start = NOW.replace(microsecond=0) - timedelta(hours=1)
    assert case.certificate.not_valid_before_utc == max(start, case.issuer.not_before)
    assert case.validity == timedelta(days=3) or case.certificate.not_valid_after_utc == case.issuer.not_after


def responder_subject(case: Case) -> None:
    names = [case.issuer.certificate.subject, case.certificate.subject]
    ca, others = ([item for item in name if item.oid != NameOID.COMMON_NAME] for name in names)
    assert (others, len(names[1])) == (ca, len(ca) + 1)
    (attribute,) = names[1].get_attributes_for_oid(NameOID.COMMON_NAME)
    assert attribute.value == "OCSP responder"
    assert not case.issuer.name_violations(names[1], ())


def responder_public_key(case: Case) -> None:
    key = case.certificate.public_key()
    assert keys.kind_of(key) == "P-256"
    assert key not in (ca.public_key() for ca in case.issuer.ca_certificates)


def responder_extensions(case: Case) -> None:
    oids = [extension.oid.dotted_string for extension in case.certificate.extensions]
    assert sorted(oids) == [
        "1.3.6.1.5.5.7.48.1.5", "2.5.29.14", "2.5.29.15", "2.5.29.19", "2.5.29.35", "2.5.29.37",
    ]  # fmt: skip


def responder_usage(case: Case) -> None:
    assert list(case.require(x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert case.issuer.may_issue_for(ExtendedKeyUsageOID.OCSP_SIGNING)


def responder_no_check(case: Case) -> None:
    assert case.require(x509.OCSPNoCheck).public_bytes() == b"\5\0"


RESPONDER_CHECKS: dict[str, Check] = {
    check.__name__.replace("_", "-"): check
    for check in (
        responder_fields, responder_validity, responder_subject, responder_public_key, responder_extensions,
        responder_usage, responder_no_check,
    )
}  # fmt: skip

SUBJECT = x509.Name.from_rfc4514_string("CN=a.team.example.com,OU=Ops,O=system:masters,C=AU")
SUBJECT_WITH_A_BLANK = x509.Name.from_rfc4514_string("CN=a.team.example.com\\ ,OU=Ops,O=system:masters,C=AU")
REJECTED = (  # extensions that a request may contain, and that no certificate gets from it
    x509.TLSFeature([x509.TLSFeatureType.status_request]),
    x509.SubjectKeyIdentifier(b"\1" * 20),
    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"),
    x509.UnrecognizedExtension(x509.ObjectIdentifier(NO_REV_AVAIL), b"\5\0"),
    x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier("http://evil.example/")], None, None, None)]
    ),
    x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)]),
)
REQUESTS = {
    "plain": csrs.build("a.team.example.com", ["dns:a.team.example.com"]),
    "only a common name": csrs.build("a.team.example.com"),
    "only names": csrs.build(None, ["dns:A.Team.example.com", "dns:b.team.example.com"]),
    "many extensions": csrs.build(subject=SUBJECT, sans=["dns:b.team.example.com"], extensions=REJECTED),
    **{
        kind: csrs.build("a.team.example.com", key_type=kind) for kind in ("rsa-3072", "ed25519", "ml-dsa-65")
    },
}
REQUESTED_VALIDITIES = {
    "default": RequestedValidity(),
    "renewal": RequestedValidity(),
    "a day": RequestedValidity(timedelta(days=1)),
    "seven days": RequestedValidity(timedelta(days=7)),
}
CAS = ("p-256", "p-384", "p-521", "rsa-2048", "ed25519", "ml-dsa-44")


@functools.cache
def issue(ca: str, profile: str, request: str, validity: str) -> Case:
    """Issue a certificate with an `Authority`."""
    parsed = csr.parse(csrs.encode_der(REQUESTS[request]))
    issuer, requested = factories.create_issuer(ca), REQUESTED_VALIDITIES[validity]
    certificate_profile = POLICY.get(profile)
    if requested.validity:
        requested = RequestedValidity(min(requested.validity, certificate_profile.max_validity))
    issuance_request = factories.issuance_request(
        parsed.der,
        profile,
        validity=format_duration(requested.validity) if requested.validity else None,
        principal=Principal(PrincipalKind.API_KEY, "default"),
    )
    authority = factories.authority(issuer=issuer, policy=POLICY)
    certificate, renewed = authority.issue(issuance_request).certificate, None
    if validity == "renewal":
        renewed, issuance_request = certificate, replace(issuance_request, principal=None)
        certificate = authority.renew(issuance_request, renewed.public_bytes(Encoding.PEM)).certificate
    return Case(certificate, parsed, certificate_profile, issuer, requested, renewed)


CASES = [
    *[("p-256", profile, request, validity) for profile in ("server", "client", "peer", "team") for request in REQUESTS for validity in REQUESTED_VALIDITIES if validity != "renewal"],
    *[("p-256", profile, request, "renewal") for profile in ("client", "peer") for request in REQUESTS],
    *[(ca, "team", "many extensions", "default") for ca in CAS],
]  # fmt: skip


def test_every_specification_line_has_a_check() -> None:
    """The document's lines and the checks are the same, in the same order."""
    assert list(CHECKS) == LINES
    assert list(RESPONDER_CHECKS) == RESPONDER_LINES
    assert all(re.search(rf"\*\*{line}\*\*:[^-]*(MUST|may)", TEXT) for line in (*LINES, *RESPONDER_LINES))


@pytest.mark.parametrize("line", CHECKS)
def test_every_certificate_meets_the_specification(line: str) -> None:
    """Certificates of every profile, request, validity and type of CA key conform to one line of the document."""
    for case in CASES:
        CHECKS[line](issue(*case))


def builder(key: CertificatePublicKeyTypes, serial: int, before: int, after: int) -> x509.CertificateBuilder:
    """Return a builder for another CA's certificate, valid from `before` days ago until `after` days from now."""
    start, end = (NOW.replace(tzinfo=None) + timedelta(days=days) for days in (-before, after))
    return x509.CertificateBuilder(
        factories.distinguished_name("Other CA"), SUBJECT_WITH_A_BLANK, key, serial, start, end
    )


def naive_certificate() -> x509.Certificate:
    """Create a certificate as tutorials do: the request's subject and key, ten years, version 1, serial number 1000."""
    key = REQUESTS["rsa-3072"].public_key()
    certificate = builder(key, 1000, 400, 3650).sign(factories.SIGNING, hashes.SHA384())
    # Without the version's five octets it is version 1; both lengths before it decrease.
    der, version_field = certificate.public_bytes(Encoding.DER), b"\xa0\x03\x02\x01\x02"
    outer, inner = (int.from_bytes(der[at : at + 2], "big") - len(version_field) for at in (2, 6))
    lengths = b"\x30\x82" + outer.to_bytes(2, "big") + b"\x30\x82" + inner.to_bytes(2, "big")
    return x509.load_der_x509_certificate(lengths + der[8:].replace(version_field, b"", 1))


def permissive_certificate() -> x509.Certificate:
    """Create the certificate of a CA that grants every request: critical extensions, duplicates, all usages."""
    http, oid = x509.UniformResourceIdentifier("http://evil.example/"), x509.ObjectIdentifier
    values: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=None), False),
        (factories.key_usage("content_commitment", "data_encipherment", "key_cert_sign", "crl_sign"), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), True),
        (x509.SubjectAlternativeName([x509.RegisteredID(oid("1.2.3"))] * 2), False),
        (x509.SubjectKeyIdentifier(b"\1" * 20), True),
        (x509.AuthorityKeyIdentifier(b"\1" * 20, [x509.DirectoryName(SUBJECT)], 7), False),
        (x509.CertificatePolicies([x509.PolicyInformation(oid("2.5.29.32.0"), ["cps"])]), False),
        (x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, http)]), False),
        (x509.CRLDistributionPoints([x509.DistributionPoint([http], None, None, None)]), False),
        (x509.UnrecognizedExtension(oid(NO_REV_AVAIL), b"\5\0"), False),
        (x509.TLSFeature([x509.TLSFeatureType.status_request_v2]), False),
        (x509.UnrecognizedExtension(oid("1.2.3.4"), b"\5\0"), False),
    ]  # fmt: skip
    certificate = builder(factories.signing_key(factories.hierarchy("p-256", ())).public_key(), 2**100, 0, 1)
    for value, critical in values:
        certificate = certificate.add_extension(value, critical)
    return certificate.sign(factories.SIGNING, hashes.SHA384())


@pytest.mark.parametrize("line", CHECKS)
def test_specification_check_finds_violations(line: str) -> None:
    """Every check rejects the naive certificate or the permissive one."""
    good = issue("p-256", "team", "plain", "default")
    for certificate in (naive_certificate(), permissive_certificate()):
        try:
            CHECKS[line](
                Case(certificate, good.request, good.profile, good.issuer, good.requested, good.certificate)
            )
        except (AssertionError, AttributeError, InvalidSignature, ValueError):
            return
    raise AssertionError(f"no certificate violates {line}")


@functools.cache
def issue_responder(ca: str, permitted: tuple[str, ...] = ()) -> Case:
    """Issue the certificate of a delegated OCSP responder, for its first request."""
    hierarchy = factories.hierarchy(ca, permitted)
    issuer = Issuer(
        hierarchy.signing, [hierarchy.root], factories.signing_key(hierarchy), has_free_signatures=False
    )
    responders = OCSPResponders(lambda: NOW, factories.RecordingLog().extend)
    numbers = SerialNumbers(factories.SERIAL_KEYS, issuer.certificate)
    responder = responders.get(issuer, numbers, NOW.replace(microsecond=0), "")
    good = issue("p-256", "team", "plain", "default")
    key = responder.certificate.public_key()
    request = replace(good.request, public_key=key, subject_public_key_info=keys.encode_public_key(key))
    return replace(good, certificate=responder.certificate, request=request, issuer=issuer)


@pytest.mark.parametrize("line", RESPONDER_CHECKS)
def test_responders_certificate_meets_the_specification(line: str) -> None:
    """For each type of CA key, and with name constraints."""
    for case in (*map(issue_responder, CAS), issue_responder("p-256", ("example.com", "10.0.0.0/8"))):
        RESPONDER_CHECKS[line](case)


@pytest.mark.parametrize("line", RESPONDER_CHECKS)
def test_responder_check_finds_violations(line: str) -> None:
    """Every check rejects the naive certificate, the permissive one, or that of a TLS server."""
    responder = issue_responder("p-256")
    server = issue("p-256", "team", "plain", "default").certificate
    for certificate in (naive_certificate(), permissive_certificate(), server):
        try:
            RESPONDER_CHECKS[line](replace(responder, certificate=certificate))
        except (AssertionError, AttributeError, InvalidSignature, ValueError):
            return
    raise AssertionError(f"no certificate violates {line}")
