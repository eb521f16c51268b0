"""What each judge says of each twin, and where a judge cannot judge: the gaps, each with its reason.

A gap is an assertion too: the judge must fail as it is said here. A newer judge that no longer does fails the test, and
the gap is to be taken out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.interop.certificate_cases import Case, keys_of
from tests.interop.verifiers import NAMES

ACCEPTED: Final = "ok"

_JAVA: Final = {
    "expired": r"java\.security\.cert\.CertificateExpiredException: .*",
    "wrong name": r".*CertPathValidatorException: target certificate constraints check failed",
    "wrong usage": r".*CertPathValidatorException: target certificate constraints check failed",
    "wrong CA": r".*CertPathValidatorException: Path does not chain with any of the trust anchors",
    "tampered": r"java\.security\.SignatureException: Signature does not match\.",
    "outside nameConstraints": r".*CertPathValidatorException: name constraints check failed",
}
# What a refusal says, as a pattern of the whole verdict.
REFUSALS: Final[dict[str, dict[str, str]]] = {
    "pkilint": {},
    "pkilint-chain": {
        "wrong CA": r"pkix\.issuer_and_subject_key_identifier_not_equal pkix\.signature_verification_failed",
        "tampered": r"pkix\.signature_verification_failed",
    },
    "openssl": {
        "expired": r".* error 10 at 0 depth lookup: certificate has expired .*",
        "wrong name": r".* error 62 at 0 depth lookup: hostname mismatch .*",
        "wrong usage": r".* error 26 at 0 depth lookup: unsuitable certificate purpose .*",
        "wrong CA": r".* error 20 at 1 depth lookup: unable to get local issuer certificate .*",
        "tampered": r".* error 7 at 0 depth lookup: certificate signature failure .*",
        "outside nameConstraints": r".* error 47 at 0 depth lookup: permitted subtree violation .*",
    },
    "cryptography": {
        "expired": r"validation failed: cert is not valid at validation time .*",
        "wrong name": r"validation failed: leaf certificate has no matching subjectAltName .*",
        "wrong usage": r"validation failed: required EKU not found .*",
        "wrong CA": r"validation failed: candidates exhausted: signature does not match",
        "tampered": r"validation failed: candidates exhausted: signature does not match",
        "outside nameConstraints": r".* no permitted name constraints matched SAN",
    },
    "certtool": {
        "expired": r"Not verified\. .* The certificate chain uses expired certificate\.",
        "wrong name": r"Not verified\. .* The name in the certificate does not match the expected\.",
        "wrong usage": r"Not verified\. .* The certificate chain does not match the intended purpose\.",
        "wrong CA": r"Not verified\. .* The certificate issuer is unknown\.",
        "tampered": r"Not verified\. .* The signature in the certificate is invalid\.",
        "outside nameConstraints": r"Not verified\. .* The certificate chain violates the signer's constraints\.",
    },
    "vfychain": {  # the last but two are what NSS's newer library makes of a wrong key identifier and of constraints
        "expired": r"Chain is bad! .* ERROR -8181: Peer's Certificate has expired\.",
        "wrong usage": r"Chain is bad! .* ERROR -8101: Certificate type not approved for application\. .*",
        "wrong CA": r"Chain is bad! .* CERT 2\. .* ERROR -8157: Certificate extension not found\.",
        "tampered": r"Chain is bad! .* ERROR -8182: Peer's certificate has an invalid signature\.",
        "outside nameConstraints": r"Chain is bad! .* CERT 1\. .* ERROR -8187: security library: invalid arguments\.",
    },
    "java": _JAVA,
    "java-tls": {
        **_JAVA,
        "wrong name": r".*CertificateException: No subject alternative DNS name matching .* found\.",
        "wrong usage": r".*ValidatorException: Extended key usage does not permit use for TLS (server|client) authentication",
    },
    "go": {
        "expired": r"x509: certificate has expired or is not yet valid: .*",
        "wrong name": r"x509: certificate is valid for a\.team\.example\.com, not b\.team\.example\.com",
        "wrong usage": r"x509: certificate specifies an incompatible key usage",
        "wrong CA": r"x509: .* unknown authority .*verification (failure|error).* \"Judged Root CA .*",
        "tampered": r"x509: .* unknown authority .*verification (failure|error).* \"Judged Signing CA .*",
        "outside nameConstraints": r"x509: .* \"a\.team\.example\.com\" is not permitted by any constraint",
    },
    "node": {
        "expired": "CERT_HAS_EXPIRED",
        "wrong name": "ERR_TLS_CERT_ALTNAME_INVALID.*",
        "wrong usage": "INVALID_PURPOSE",
        "wrong CA": "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
        "tampered": "CERT_SIGNATURE_FAILURE",
        "outside nameConstraints": "UNSPECIFIED",  # Node has no word for OpenSSL's "permitted subtree violation"
    },
    "nginx+curl": {  # the former of a client, the latter of a server
        "expired": r"FAILED:certificate has expired|curl: \(60\) .* certificate has expired .*",
        "wrong name": r"curl: \(60\) SSL: no alternative certificate subject name matches target host name .*",
        "wrong usage": r"FAILED:unsuitable certificate purpose|curl: \(60\) .* unsuitable certificate purpose .*",
        "wrong CA": r"FAILED:unable to get local issuer certificate|curl: \(60\) .* unable to get local issuer certificate .*",
        "tampered": r"FAILED:certificate signature failure|curl: \(35\) .*(rsa routines::bad signature|asn1 encoding routines::EVP lib)",
        "outside nameConstraints": r"FAILED:permitted subtree violation|curl: \(60\) .* permitted subtree violation .*",
    },
}


@dataclass(frozen=True)
class Gap:
    """What a judge cannot judge.

    Attributes:
        judge: its name.
        why: the reason, in a sentence.
        says: what it says then, as a pattern of the whole verdict.
        covers: which cases; those with a twin are judged wrongly, those without cannot be judged.
    """

    judge: str
    why: str
    says: str
    covers: Callable[[Case], bool]


def _ca(*kinds: str) -> Callable[[Case], bool]:
    return lambda case: keys_of(case.ca).startswith(kinds)


def _key(*kinds: str) -> Callable[[Case], bool]:
    return lambda case: case.kind.startswith(kinds) and not keys_of(case.ca).startswith(kinds)


def _twin(*twins: str) -> Callable[[Case], bool]:
    return lambda case: case.twin in twins


KINDS: Final = (
    Gap("pkilint", "pkilint 0.13 cannot verify ML-DSA, so it wants an authority key identifier in a self-signed root", r"pkix\.aki_absent_self_issued_and_unsupported_algorithm", _ca("ml-dsa")),
    Gap("pkilint-chain", "pkilint 0.13 cannot verify ML-DSA", r"pkix\.unsupported_algorithm pkix\.unsupported_algorithm", _ca("ml-dsa")),
    Gap("openssl", "OpenSSL 3.0 does not know ML-DSA: no chain is found", r".* error 20 at 0 depth lookup: unable to get local issuer certificate .*", _ca("ml-dsa")),
    Gap("openssl", "OpenSSL 3.0 does not know ML-DSA: under -x509_strict it wants to read the key", r".* error 1 at 0 depth lookup: unspecified certificate verification error .*X509_PUBKEY_get0:decode error.*", _key("ml-dsa")),
    Gap("cryptography", "its policy, which is that of the web, takes no Ed25519 key of a CA", r"validation failed: .* Forbidden public key algorithm: .*", _ca("ed25519")),
    Gap("certtool", "GnuTLS 3.7 does not know ML-DSA: no signature can be verified", r"Not verified\. The certificate is NOT trusted\.", _ca("ml-dsa")),
    Gap("certtool", "GnuTLS 3.7 does not know ML-DSA: a key of no known strength is an insecure one", r"Not verified\. .* The certificate chain uses insecure algorithm\.", _key("ml-dsa")),
    Gap("vfychain", "NSS 3.87 knows neither Ed25519 nor ML-DSA: no signature can be verified", r"Chain is bad! .* ERROR (-8049: Unrecognized Object Identifier\.|-8102: .*)", _ca("ed25519", "ml-dsa")),
    Gap("vfychain", "NSS 3.87 knows neither Ed25519 nor ML-DSA: a key of no known use is good for none", r"Chain is bad! .* ERROR (-8049: Unrecognized Object Identifier\.|-8102: .*)", _key("ed25519", "ml-dsa")),
    Gap("java", "Java 17 does not know ML-DSA", r".*NoSuchAlgorithmException: 2\.16\.840\.1\.101\.3\.4\.3\.1[789] Signature not available", _ca("ml-dsa")),
    Gap("java-tls", "Java 17 does not know ML-DSA: it shows no certificate that is signed with it", r".*(KeyFactory not available|SSLHandshakeException: (Empty client certificate chain|.* handshake_failure))", _ca("ml-dsa")),
    Gap("java-tls", "Java 17 does not know ML-DSA: it cannot load the key", r".*NoSuchAlgorithmException: .* KeyFactory not available", _key("ml-dsa")),
    Gap("go", "Go 1.19 does not know ML-DSA", r"x509: .* \"x509: cannot verify signature: algorithm unimplemented\" .*", _ca("ml-dsa")),
    Gap("nginx+curl", "OpenSSL 3.0 does not know ML-DSA: neither shows a certificate that is signed with it", r"curl: \(35\) .* alert internal error|curl: \(58\) could not load PEM client certificate .*", _ca("ml-dsa")),
    Gap("nginx+curl", "OpenSSL 3.0 does not know ML-DSA: neither can load the key", r"curl: \(35\) .* alert internal error|curl: \(58\) could not load PEM client certificate .*", _key("ml-dsa")),
)  # fmt: skip
OVERSIGHTS: Final = (
    Gap("pkilint", "it reads certificates alone: it has no clock, and knows no name, purpose or root", ACCEPTED, _twin("expired", "wrong name", "wrong usage", "wrong CA")),
    Gap("pkilint", "it verifies no signature but a root's own", ACCEPTED, _twin("tampered")),
    Gap("pkilint", "it holds no certificate to another's nameConstraints", ACCEPTED, _twin("outside nameConstraints")),
    Gap("pkilint-chain", "it has no clock, and knows no name or purpose", ACCEPTED, _twin("expired", "wrong name", "wrong usage")),
    Gap("pkilint-chain", "it holds no certificate to another's nameConstraints", ACCEPTED, _twin("outside nameConstraints")),
    Gap("vfychain", "it cannot be told a host's name", ACCEPTED, _twin("wrong name")),
    *(Gap(judge, "RFC 5280 6.1 asks of each certificate alone whether it is valid now", ACCEPTED, _twin("outliving its issuer")) for judge in NAMES),
)  # fmt: skip


def gap(judge: str, case: Case) -> Gap | None:
    """What keeps a judge from judging a case, if anything does: first the keys, then what is wrong."""
    return next((each for each in (*KINDS, *OVERSIGHTS) if each.judge == judge and each.covers(case)), None)


def fault(judge: str, case: Case, verdict: str) -> str:
    """Why a verdict is not what was expected; '' if it is."""
    found = gap(judge, case)
    if found in KINDS and case.twin:  # refused, whatever is said first of two faults
        return "" if verdict != ACCEPTED else "accepted"
    expected = found.says if found else REFUSALS[judge].get(case.twin, "a refusal") if case.twin else ACCEPTED
    if re.fullmatch(expected, verdict):
        return ""
    return f"{verdict} instead of {expected}" + (f" ({found.why}: has the gap closed?)" if found else "")
