"""Published rules for TLS server certificates: Apple's as assertions, the CA/Browser Forum's with pkilint."""

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
from tests.interop.certificate_cases import Case, Chain, Chains
from tests.interop.pkilint_runner import LOADER, finding_codes, lint, lint_pair

# https://support.apple.com/HT210176 and, for the roots that Apple ships, https://support.apple.com/HT211025.
MAX_VALIDITY: Final = timedelta(days=825)
MAX_PUBLIC_VALIDITY: Final = timedelta(days=398)
SHA_2: Final = {
    SignatureAlgorithmOID.RSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512,
}
CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
# Apple's rules name only RSA and ECDSA keys and SHA-2, not Ed25519 or ML-DSA.
UNNAMED_KEY_TYPES: Final = {"ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"}


def apple_rule_violations(
    leaf: x509.Certificate, issuers: Sequence[x509.Certificate] = (), host: str = "a.example.com"
) -> set[str]:
    """Return Apple's rules for TLS servers that a certificate violates."""
    violations = set()
    for certificate in (leaf, *issuers):
        key = certificate.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < 2048:
                violations.add("key")
        elif not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
            violations.add("key")
        if certificate.signature_algorithm_oid not in SHA_2:
            violations.add("hash")
    values = [extension.value for extension in leaf.extensions]
    names = [name for value in values if isinstance(value, x509.SubjectAlternativeName) for name in value]
    if x509.DNSName(host) not in names:
        violations.add("name")
    usages = [usage for value in values if isinstance(value, x509.ExtendedKeyUsage) for usage in value]
    if ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        violations.add("usage")
    validity = leaf.not_valid_after_utc - leaf.not_valid_before_utc + timedelta(seconds=1)
    violations |= {
        name
        for name, limit in (("825 days", MAX_VALIDITY), ("398 days", MAX_PUBLIC_VALIDITY))
        if validity > limit
    }
    return violations


def server_chains(chains: Chains) -> list[tuple[Case, Chain]]:
    """Return the cases with valid server certificates."""
    return [(case, chain) for case, chain in chains.items() if case.purpose == "server" and not case.defect]


def test_server_certificates_follow_the_rules_of_apple(chains: Chains) -> None:
    """Chains satisfy Apple's rules for key, hash, DNS name, usage and lifetime.

    The rules do not name Ed25519 and ML-DSA.
    """
    for case, chain in server_chains(chains):
        expected = (
            {"hash", "key"}
            if case.ca in UNNAMED_KEY_TYPES
            else {"key"}
            if case.key_type in UNNAMED_KEY_TYPES
            else set()
        )
        assert apple_rule_violations(chain.leaf, [chain.signing, chain.root], case.host) == expected, case


VALID: Final[dict[str, Any]] = {
    "basic": x509.BasicConstraints(ca=False, path_length=None),
    "san": x509.SubjectAlternativeName([x509.DNSName("a.example.com")]),
    "eku": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    "subject": "a.example.com",
    "signing_key": SIGNING,
}
VIOLATIONS: Final[dict[str, tuple[dict[str, Any], set[str]]]] = {
    "no change": ({}, set()),
    "a name only in the subject": ({"san": None}, {"name"}),
    "only an email address": ({"san": x509.SubjectAlternativeName([x509.RFC822Name("a@example.com")])}, {"name"}),
    "no usage": ({"eku": None}, {"usage"}),
    "for clients": ({"eku": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])}, {"usage"}),
    "826 days": ({"end": NOW + timedelta(days=825)}, {"825 days", "398 days"}),
    "825 days": ({"end": NOW + timedelta(days=824, seconds=-1)}, {"398 days"}),
    "another curve": ({"public_key": ec.generate_private_key(ec.SECP256K1()).public_key()}, {"key"}),
    "a short key": ({"public_key": rsa.generate_private_key(65537, 1024).public_key()}, {"key"}),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_apple_rule_check_finds_each_violation(change: dict[str, Any], expected: set[str]) -> None:
    """A certificate with one change violates exactly the expected rules."""
    assert apple_rule_violations(factories.ca(**{**VALID, **change})) == expected


def test_apple_rule_check_finds_unsupported_hash() -> None:
    """SHA-3 violates the rule for hashes; `factories.ca` cannot set the hash."""
    certificate = factories.ca(**VALID)
    builder = x509.CertificateBuilder(
        certificate.issuer, certificate.subject, certificate.public_key(), 1, certificate.not_valid_before_utc.replace(tzinfo=None),
        certificate.not_valid_after_utc.replace(tzinfo=None), list(certificate.extensions),
    )  # fmt: skip
    assert apple_rule_violations(builder.sign(SIGNING, hashes.SHA3_256())) == {"hash"}


# Rules of the CA/Browser Forum for public CAs that do not apply to a private one.
PUBLIC_CA_RULES: Final = {
    "cabf.serverauth.dv.common_name_attribute_present": "discouraged, but many programs still display it",
    "cabf.serverauth.subscriber_missing_reserved_policy_oid": "a private CA must not claim a public CA's policy",
    "cabf.internal_ip_address": "a private CA may certify internal addresses",
    "cabf.serverauth.subscriber.subject_key_identifier_extension_present": "discouraged for size; RFC 5280 4.2.1.2 recommends it",
    "cabf.serverauth.subscriber_rsa_digitalsignature_and_keyencipherment_present": "discouraged; TLS 1.2 with RSA requires both",
}


def lint_baseline_requirements(text: str) -> set[str]:
    """Lint a PEM subscriber certificate by the CA/Browser Forum's Baseline Requirements; return the codes."""
    kind = serverauth_constants.CertificateType.DV_FINAL_CERTIFICATE
    container = linting.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind)
    )
    results = container.validate(LOADER.load_pem_document(text).root)
    return set(
        finding_codes(
            finding_filter.filter_results(serverauth.create_serverauth_finding_filters(kind), results)[0]
        )
    )


def test_server_certificates_follow_baseline_requirements(chains: Chains) -> None:
    """Server certificates with permitted keys violate only the listed rules for public CAs."""
    server_certificates = [
        chain.leaf
        for case, chain in server_chains(chains)
        if case.profile == "server" and case.ca == "p-256" and case.key_type not in UNNAMED_KEY_TYPES
    ]
    codes = [lint_baseline_requirements(encoding.encode_pem([leaf])) for leaf in server_certificates]
    assert set().union(*codes) == PUBLIC_CA_RULES.keys()


def test_client_certificate_violates_more_baseline_requirements(chains: Chains) -> None:
    """The check finds violations: a client certificate violates further rules."""
    client = next(chain for case, chain in chains.items() if case.profile == "client" and case.ca == "p-256")
    assert lint_baseline_requirements(encoding.encode_pem([client.leaf])) - PUBLIC_CA_RULES.keys()


def test_pkilint_finds_missing_identifier_and_wrong_issuer() -> None:
    """`lint` finds a missing authority key identifier, and `lint_pair` a wrong issuer."""
    without_aki = encoding.encode_pem([factories.ca(basic=None, usage=None, aki=None, signing_key=SIGNING)])
    assert "pkix.authority_key_identifier_extension_absent" in lint(without_aki)
    assert "pkix.signature_verification_failed" in lint_pair(
        encoding.encode_pem([factories.root()]), without_aki
    )
