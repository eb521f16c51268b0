"""The expected error of every verifier for every defect, and the known deviations with their reasons.

A known deviation is an assertion too: the verifier must return exactly this result. If a newer verifier returns another
one, the test fails; then remove the deviation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.interop.certificate_cases import Case, ca_key_type
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
# The expected errors, as patterns of the whole result.
EXPECTED_ERRORS: Final[dict[str, dict[str, str]]] = {
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
    "vfychain": {  # "wrong CA" and "outside nameConstraints" are the newer library's unspecific errors
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
        "wrong CA": r"x509: .* unknown authority .*verification (failure|error).* \"Interop Root CA .*",
        "tampered": r"x509: .* unknown authority .*verification (failure|error).* \"Interop Signing CA .*",
        "outside nameConstraints": r"x509: .* \"a\.team\.example\.com\" is not permitted by any constraint",
    },
    "node": {
        "expired": "CERT_HAS_EXPIRED",
        "wrong name": "ERR_TLS_CERT_ALTNAME_INVALID.*",
        "wrong usage": "INVALID_PURPOSE",
        "wrong CA": "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
        "tampered": "CERT_SIGNATURE_FAILURE",
        "outside nameConstraints": "UNSPECIFIED",  # Node has no code for OpenSSL's "permitted subtree violation"
    },
    "nginx+curl": {  # nginx's error for a client, then curl's for a server
        "expired": r"FAILED:certificate has expired|curl: \(60\) .* certificate has expired .*",
        "wrong name": r"curl: \(60\) SSL: no alternative certificate subject name matches target host name .*",
        "wrong usage": r"FAILED:unsuitable certificate purpose|curl: \(60\) .* unsuitable certificate purpose .*",
        "wrong CA": r"FAILED:unable to get local issuer certificate|curl: \(60\) .* unable to get local issuer certificate .*",
        "tampered": r"FAILED:certificate signature failure|curl: \(35\) .*(rsa routines::bad signature|asn1 encoding routines::EVP lib)",
        "outside nameConstraints": r"FAILED:permitted subtree violation|curl: \(60\) .* permitted subtree violation .*",
    },
}


@dataclass(frozen=True)
class KnownDeviation:
    """Cases in which a verifier refuses a valid certificate, or accepts a defect.

    Attributes:
        verifier: the verifier's name.
        reason: the reason, in a sentence.
        result: the result, as a pattern of the whole text.
        covers: returns whether a case deviates.
    """

    verifier: str
    reason: str
    result: str
    covers: Callable[[Case], bool]


def _ca(*key_types: str) -> Callable[[Case], bool]:
    return lambda case: ca_key_type(case.ca).startswith(key_types)


def _key(*key_types: str) -> Callable[[Case], bool]:
    return lambda case: case.key_type.startswith(key_types) and not ca_key_type(case.ca).startswith(key_types)


def _defect(*defects: str) -> Callable[[Case], bool]:
    return lambda case: case.defect in defects


UNSUPPORTED_KEYS: Final = (
    KnownDeviation("pkilint", "pkilint 0.13 cannot verify ML-DSA, so it requires an authority key identifier in a self-signed root", r"pkix\.aki_absent_self_issued_and_unsupported_algorithm", _ca("ml-dsa")),
    KnownDeviation("pkilint-chain", "pkilint 0.13 cannot verify ML-DSA", r"pkix\.unsupported_algorithm pkix\.unsupported_algorithm", _ca("ml-dsa")),
    KnownDeviation("openssl", "OpenSSL 3.0 does not support ML-DSA: no chain is found", r".* error 20 at 0 depth lookup: unable to get local issuer certificate .*", _ca("ml-dsa")),
    KnownDeviation("openssl", "OpenSSL 3.0 does not support ML-DSA: -x509_strict requires a readable key", r".* error 1 at 0 depth lookup: unspecified certificate verification error .*X509_PUBKEY_get0:decode error.*", _key("ml-dsa")),
    KnownDeviation("cryptography", "its policy, that of the web PKI, permits no Ed25519 CA key", r"validation failed: .* Forbidden public key algorithm: .*", _ca("ed25519")),
    KnownDeviation("certtool", "GnuTLS 3.7 does not support ML-DSA: no signature can be verified", r"Not verified\. The certificate is NOT trusted\.", _ca("ml-dsa")),
    KnownDeviation("certtool", "GnuTLS 3.7 does not support ML-DSA: a key of unknown strength counts as insecure", r"Not verified\. .* The certificate chain uses insecure algorithm\.", _key("ml-dsa")),
    KnownDeviation("vfychain", "NSS 3.87 supports neither Ed25519 nor ML-DSA: no signature can be verified", r"Chain is bad! .* ERROR (-8049: Unrecognized Object Identifier\.|-8102: .*)", _ca("ed25519", "ml-dsa")),
    KnownDeviation("vfychain", "NSS 3.87 supports neither Ed25519 nor ML-DSA: a key of unknown type has no permitted use", r"Chain is bad! .* ERROR (-8049: Unrecognized Object Identifier\.|-8102: .*)", _key("ed25519", "ml-dsa")),
    KnownDeviation("java", "Java 17 does not support ML-DSA", r".*NoSuchAlgorithmException: 2\.16\.840\.1\.101\.3\.4\.3\.1[789] Signature not available", _ca("ml-dsa")),
    KnownDeviation("java-tls", "Java 17 does not support ML-DSA: it sends no certificate with an ML-DSA signature", r".*(KeyFactory not available|SSLHandshakeException: (Empty client certificate chain|.* handshake_failure))", _ca("ml-dsa")),
    KnownDeviation("java-tls", "Java 17 does not support ML-DSA: it cannot load the key", r".*NoSuchAlgorithmException: .* KeyFactory not available", _key("ml-dsa")),
    KnownDeviation("go", "Go 1.19 does not support ML-DSA", r"x509: .* \"x509: cannot verify signature: algorithm unimplemented\" .*", _ca("ml-dsa")),
    KnownDeviation("nginx+curl", "OpenSSL 3.0 does not support ML-DSA: neither sends a certificate with an ML-DSA signature", r"curl: \(35\) .* alert internal error|curl: \(58\) could not load PEM client certificate .*", _ca("ml-dsa")),
    KnownDeviation("nginx+curl", "OpenSSL 3.0 does not support ML-DSA: neither can load the key", r"curl: \(35\) .* alert internal error|curl: \(58\) could not load PEM client certificate .*", _key("ml-dsa")),
)  # fmt: skip
UNCHECKED_DEFECTS: Final = (
    KnownDeviation("pkilint", "it lints certificates: it checks no time, name, purpose or root", ACCEPTED, _defect("expired", "wrong name", "wrong usage", "wrong CA")),
    KnownDeviation("pkilint", "it verifies only a root's signature", ACCEPTED, _defect("tampered")),
    KnownDeviation("pkilint", "it does not apply a CA's nameConstraints to other certificates", ACCEPTED, _defect("outside nameConstraints")),
    KnownDeviation("pkilint-chain", "it checks no time, name or purpose", ACCEPTED, _defect("expired", "wrong name", "wrong usage")),
    KnownDeviation("pkilint-chain", "it does not apply a CA's nameConstraints to other certificates", ACCEPTED, _defect("outside nameConstraints")),
    KnownDeviation("vfychain", "it has no option for a host name", ACCEPTED, _defect("wrong name")),
    *(KnownDeviation(verifier, "RFC 5280 6.1 requires only that each certificate is valid now", ACCEPTED, _defect("outliving its issuer")) for verifier in NAMES),
)  # fmt: skip


def known_deviation(verifier: str, case: Case) -> KnownDeviation | None:
    """Return the deviation that covers a case, if any: unsupported keys first, then unchecked defects."""
    deviations = (*UNSUPPORTED_KEYS, *UNCHECKED_DEFECTS)
    return next((entry for entry in deviations if entry.verifier == verifier and entry.covers(case)), None)


def mismatch(verifier: str, case: Case, result: str) -> str:
    """Describe the difference between a result and the expected one; return '' if they agree."""
    deviation = known_deviation(verifier, case)
    if deviation in UNSUPPORTED_KEYS and case.defect:  # refused, for either reason
        return "" if result != ACCEPTED else "accepted"
    expected = EXPECTED_ERRORS[verifier].get(case.defect, "a refusal") if case.defect else ACCEPTED
    if deviation:
        expected = deviation.result
    if re.fullmatch(expected, result):
        return ""
    hint = f" ({deviation.reason}: is this fixed?)" if deviation else ""
    return f"{result} instead of {expected}{hint}"
