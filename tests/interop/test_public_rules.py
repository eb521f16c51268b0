"""Rules that were published for TLS servers: Apple's, as assertions, and the CA/Browser Forum's, by pkilint."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID
from pkilint import finding_filter
from pkilint.cabf import serverauth
from pkilint.cabf.serverauth import serverauth_constants
from pkilint.pkix import certificate as linting

from service.pki import encoding
from tests import factories
from tests.factories import NOW, SIGNING
from tests.interop.certificate_cases import Case, Exhibit, Exhibits
from tests.interop.pkilint_runner import LOADER, found, lint, lint_pair

# https://support.apple.com/HT210176 and, for the roots that Apple ships, https://support.apple.com/HT211025.
LONGEST: Final = timedelta(days=825)
LONGEST_PUBLIC: Final = timedelta(days=398)
SHA_2: Final = {
    SignatureAlgorithmOID.RSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512,
}
CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
# Apple's rules name RSA and SHA-2; of Ed25519 and ML-DSA they say nothing, so nothing there promises them.
UNNAMED: Final = {"ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"}


def apple(
    leaf: x509.Certificate, issuers: Sequence[x509.Certificate] = (), host: str = "a.example.com"
) -> set[str]:
    """Which of Apple's rules for TLS servers a certificate breaks."""
    broken = set()
    for each in (leaf, *issuers):
        key = each.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < 2048:
                broken.add("key")
        elif not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
            broken.add("key")
        if each.signature_algorithm_oid not in SHA_2:
            broken.add("hash")
    values = [each.value for each in leaf.extensions]
    names = [name for each in values if isinstance(each, x509.SubjectAlternativeName) for name in each]
    if x509.DNSName(host) not in names:
        broken.add("name")
    usages = [usage for each in values if isinstance(each, x509.ExtendedKeyUsage) for usage in each]
    if ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        broken.add("usage")
    span = leaf.not_valid_after_utc - leaf.not_valid_before_utc + timedelta(seconds=1)
    broken |= {name for name, most in (("825 days", LONGEST), ("398 days", LONGEST_PUBLIC)) if span > most}
    return broken


def servers(exhibits: Exhibits) -> list[tuple[Case, Exhibit]]:
    """All that are shown for servers, and nothing is wrong with."""
    return [(case, each) for case, each in exhibits.items() if case.purpose == "server" and not case.twin]


def test_apple_s_rules(exhibits: Exhibits) -> None:
    """RSA of 2048 bits or a NIST curve, SHA-2, a DNS name, serverAuth, at most 825 (and 398) days: leaf, signing CA and root;
    but Apple's rules do not name Ed25519 and ML-DSA.
    """
    for case, each in servers(exhibits):
        expected = {"hash", "key"} if case.ca in UNNAMED else {"key"} if case.kind in UNNAMED else set()
        assert apple(each.leaf, [each.signing, each.root], case.host) == expected, case


GOOD: Final[dict[str, Any]] = {
    "basic": x509.BasicConstraints(ca=False, path_length=None),
    "san": x509.SubjectAlternativeName([x509.DNSName("a.example.com")]),
    "eku": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    "subject": "a.example.com",
    "signing_key": SIGNING,
}
BROKEN: Final[dict[str, tuple[dict[str, Any], set[str]]]] = {
    "nothing": ({}, set()),
    "a name in the subject alone": ({"san": None}, {"name"}),
    "an address alone": ({"san": x509.SubjectAlternativeName([x509.RFC822Name("a@example.com")])}, {"name"}),
    "no usage": ({"eku": None}, {"usage"}),
    "for clients": ({"eku": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])}, {"usage"}),
    "826 days": ({"end": NOW + timedelta(days=825)}, {"825 days", "398 days"}),
    "825 days": ({"end": NOW + timedelta(days=824, seconds=-1)}, {"398 days"}),
    "another curve": ({"public_key": ec.generate_private_key(ec.SECP256K1()).public_key()}, {"key"}),
    "a short key": ({"public_key": rsa.generate_private_key(65537, 1024).public_key()}, {"key"}),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), BROKEN.values(), ids=BROKEN)
def test_apple_s_rules_can_be_broken(change: dict[str, Any], expected: set[str]) -> None:
    """The negative twins: each rule is broken by a certificate that breaks it, and by no other."""
    assert apple(factories.ca(**{**GOOD, **change})) == expected


def test_another_hash_breaks_apple_s_rules() -> None:
    """The negative twin of the hash, which `factories.ca` does not leave open."""
    good = factories.ca(**GOOD)
    builder = x509.CertificateBuilder(
        good.issuer, good.subject, good.public_key(), 1, good.not_valid_before_utc.replace(tzinfo=None),
        good.not_valid_after_utc.replace(tzinfo=None), list(good.extensions),
    )  # fmt: skip
    assert apple(builder.sign(SIGNING, hashes.SHA3_256())) == {"hash"}


# What the CA/Browser Forum asks of a public CA, and a private one need not do.
PUBLIC_ALONE: Final = {
    "cabf.serverauth.dv.common_name_attribute_present": "discouraged, but what many a program still shows",
    "cabf.serverauth.subscriber.revocation_information_absent": "certificates are short-lived, or a profile has a CRL",
    "msft.end_entity.revocation_information_absent": "as above, by Microsoft's programme",
    "cabf.serverauth.subscriber_missing_reserved_policy_oid": "a public CA's policy is not a private one's to claim",
    "cabf.internal_ip_address": "a private CA is for internal addresses too",
    "cabf.serverauth.subscriber.subject_key_identifier_extension_present": "discouraged for size; RFC 5280 4.2.1.2 wants it",
    "cabf.serverauth.subscriber.authority_info_access_extension_absent": "there is no address unless a profile has one",
    "cabf.serverauth.subscriber_rsa_digitalsignature_and_keyencipherment_present": "discouraged; TLS 1.2 with RSA wants both",
}


def public(text: str) -> set[str]:
    """What the linter of the CA/Browser Forum's Baseline Requirements finds in a subscriber's certificate, PEM."""
    kind = serverauth_constants.CertificateType.DV_FINAL_CERTIFICATE
    container = linting.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind)
    )
    results = container.validate(LOADER.load_pem_document(text).root)
    return set(
        found(finding_filter.filter_results(serverauth.create_serverauth_finding_filters(kind), results)[0])
    )


def test_baseline_requirements(exhibits: Exhibits) -> None:
    """The contract's server certificates with keys that the Baseline Requirements know break none of them but those
    that are for public CAs alone, each with its reason.
    """
    asked = [
        each
        for case, each in servers(exhibits)
        if case.profile == "server" and case.ca == "p-256" and case.kind not in UNNAMED
    ]
    codes = [public(encoding.encode_pem([each.leaf])) for each in asked]
    assert set().union(*codes) == PUBLIC_ALONE.keys()


def test_baseline_requirements_can_be_broken(exhibits: Exhibits) -> None:
    """The negative twin: a client's certificate breaks more of them."""
    client = next(each for case, each in exhibits.items() if case.profile == "client" and case.ca == "p-256")
    assert public(encoding.encode_pem([client.leaf])) - PUBLIC_ALONE.keys()


def test_pkilint_finds_what_is_wrong() -> None:
    """The negative twins of pkilint's two other linters: no authority key identifier, another signer."""
    naive = encoding.encode_pem([factories.ca(basic=None, usage=None, aki=None, signing_key=SIGNING)])
    assert "pkix.authority_key_identifier_extension_absent" in lint(naive)
    assert "pkix.signature_verification_failed" in lint_pair(encoding.encode_pem([factories.root()]), naive)
