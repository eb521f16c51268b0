"""The issuer: CA certificate, chain and private key, verified at construction. It verifies what it signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.ocsp import OCSPResponderEncoding, OCSPResponse, OCSPResponseBuilder

from service.pki import keys, weak_keys
from service.pki.certificate_reader import extension_value, is_issued_by, names_key_of
from service.pki.encoding import oid_name
from service.pki.errors import BadPublicKey, BadSignatureAlgorithm, CAError
from service.pki.name_constraints import is_subject_permitted, violations
from service.pki.names import Identifier

_S = TypeVar("_S")

_REMEDY: Final = "verifiers reject it; have it reissued, or create another CA (certlet rollover or init)"
_SUPPORTED_EXTENSIONS: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.NameConstraints,
)


class Issuer:
    """A CA whose certificates relying parties accept.

    Attributes:
        certificate: the issuing CA's certificate.
        chain: the certificates above the issuing CA: its issuer first, the self-signed root last; empty if
            the issuing CA is the root.
        intermediates: the certificates that a TLS server sends after its own: issuer first, without the root.
        predecessors: the certificates of earlier CAs that have not ended, served with the chain.
        authority_key_identifier: the extension of all issued certificates (RFC 5280 4.2.1.1).
        public_keys: the `weak_keys.equivalent_encodings` of the key of each CA certificate.
        is_deterministic: whether signing the same data twice returns the same signature.
        signs_ocsp: whether it signs OCSP responses: its signatures are free, and its key usage permits it.
            Otherwise, a delegated responder does (RFC 6960 2.6).
        parallelise: whether signing takes longer than a switch to another thread.
        not_before, not_after: the period in which all certificates of the chain are valid, UTC.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        chain: Sequence[x509.Certificate],
        private_key: CertificateIssuerPrivateKeyTypes,
        predecessors: Sequence[x509.Certificate] = (),
        *,
        is_deterministic: bool = True,
        has_free_signatures: bool = True,
    ) -> None:
        """Verify that relying parties will accept what this issuer signs (RFC 5280 6.1).

        `is_deterministic` is False for EC keys in KMS, which cannot repeat a signature. `has_free_signatures`
        is False for all keys in KMS.

        Raises:
            CAError: relying parties would reject them, or the private key is not that of the certificate.
        """
        self.certificate = certificate
        self.chain = tuple(chain)
        self.predecessors = tuple(predecessors)
        for ca in self.predecessors:
            _verify_ca(ca, 0)
        self._private_key = private_key
        path = (certificate, *self.chain)
        self.intermediates = path[:-1]
        verify_path(path)
        public_key = certificate.public_key()
        if public_key != private_key.public_key():
            raise CAError("the private key does not match the CA certificate")
        self.not_before: datetime = max(ca.not_valid_before_utc for ca in path)
        self.not_after: datetime = min(ca.not_valid_after_utc for ca in path)
        self.authority_key_identifier = authority_key_identifier(certificate)
        self.signs_ocsp: bool = has_free_signatures and may_sign_ocsp(certificate)
        self._constraints = list(filter(None, (extension_value(ca, x509.NameConstraints) for ca in path)))
        self._usages = list(filter(None, (extension_value(ca, x509.ExtendedKeyUsage) for ca in path)))
        self.public_keys = frozenset(
            encoding
            for ca in self.ca_certificates
            for encoding in weak_keys.equivalent_encodings(ca.public_key())
        )
        kind = keys.kind_of(public_key)
        self._hash = keys.signature_hash(public_key)
        self._verify_signature = keys.signature_verifier(public_key)
        # None if the algorithm or the signer has no such option.
        self._ecdsa_deterministic = True if is_deterministic and kind in keys.EC_KINDS else None
        self.is_deterministic: bool = is_deterministic and kind not in keys.ML_DSA_KINDS
        self.parallelise: bool = not is_deterministic or kind not in keys.FAST_SIGNING_KINDS

    @property
    def root(self) -> x509.Certificate:
        """The self-signed last certificate of the chain: the trust anchor."""
        return self.chain[-1] if self.chain else self.certificate

    @property
    def ca_certificates(self) -> tuple[x509.Certificate, ...]:
        """All CA certificates that clients may need: this one, its chain, and its predecessors."""
        return (self.certificate, *self.chain, *self.predecessors)

    def name_violations(
        self, subject: x509.Name, names: Sequence[Identifier]
    ) -> list[tuple[int | None, str]]:
        """The position of each name that violates nameConstraints of the chain, and a message.

        The subject has no position.
        """
        return [
            violation
            for constraints in self._constraints
            for violation in violations(constraints, subject, names)
        ]

    def may_issue_for(self, usage: x509.ObjectIdentifier) -> bool:
        """Whether every extendedKeyUsage of the chain contains this usage.

        anyExtendedKeyUsage does not count: OpenSSL does not accept it in a CA certificate either.
        """
        return all(usage in allowed for allowed in self._usages)

    def self_test(self) -> None:
        """Sign a CSR and discard it; raise `CAError` if the signature does not verify."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(self.certificate.subject)
        request = self._sign(builder.sign)
        self._verify(request.signature, request.tbs_certrequest_bytes)

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Add the issuer's name to a builder, sign the certificate, and verify the signature.

        The verification protects the private key: a faulty deterministic signature would reveal it.

        Raises:
            CAError: the signature does not verify, or the certificate is valid longer than the chain.
        """
        certificate = self._sign(builder.issuer_name(self.certificate.subject).sign)
        self._verify(certificate.signature, certificate.tbs_certificate_bytes)
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not self.not_before <= not_before <= not_after <= self.not_after:
            raise CAError("the certificate would be valid when its issuer is not")
        return certificate

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Add the issuer's name and key identifier to a builder, sign the CRL, and verify the signature.

        Raises:
            CAError: the CA may not sign CRLs (RFC 5280 4.2.1.3), or the signature does not verify.
        """
        usage = extension_value(self.certificate, x509.KeyUsage)
        if usage is None or not usage.crl_sign:
            raise CAError(f"{_name(self.certificate)} may not sign CRLs")
        builder = builder.issuer_name(self.certificate.subject)
        crl = self._sign(builder.add_extension(self.authority_key_identifier, critical=False).sign)
        self._verify(crl.signature, crl.tbs_certlist_bytes)
        return crl

    def sign_ocsp(self, builder: OCSPResponseBuilder) -> OCSPResponse:
        """Add the issuer's key as the responder to a builder, sign the response, and verify the signature.

        Raises:
            CAError: the signature does not verify.
        """
        builder = builder.responder_id(OCSPResponderEncoding.HASH, self.certificate)
        response = builder.sign(self._private_key, self._hash)
        self._verify(response.signature, response.tbs_response_bytes)
        return response

    def _sign(self, sign: Callable[..., _S]) -> _S:
        return sign(self._private_key, self._hash, ecdsa_deterministic=self._ecdsa_deterministic)

    def _verify(self, signature: bytes, data: bytes) -> None:
        try:
            self._verify_signature(signature, data)
        except InvalidSignature as error:
            raise CAError("the new signature does not verify") from error


def verify_path(path: Sequence[x509.Certificate]) -> None:
    """Verify that relying parties accept a CA (RFC 5280 6.1), at whatever time.

    Args:
        path: the CA's certificate, and those above it; the self-signed root is the last.

    Raises:
        CAError: they would reject it; the message names the certificate.
    """
    for depth, ca in enumerate(path):
        _verify_ca(ca, depth)
        issuer = path[depth + 1] if depth + 1 < len(path) else ca
        if issuer is not ca:
            _verify_signature_algorithm(ca)
        if not is_issued_by(ca, issuer):
            expected = "the next certificate in the chain" if issuer is not ca else "itself"
            raise CAError(f"{_name(ca)} is not issued by {expected}")
        if violation := _check_link(ca, issuer):
            raise CAError(f"{_name(ca)} {violation}: {_REMEDY}")
        constraints = [extension_value(issuer, x509.NameConstraints) for issuer in path[depth + 1 :]]
        if not all(is_subject_permitted(item, ca.subject) for item in constraints if item):
            raise CAError(f"{_name(ca)} has a subject outside the nameConstraints of its issuers: {_REMEDY}")


def _verify_signature_algorithm(ca: x509.Certificate) -> None:
    try:
        keys.verify_signature_algorithm(ca.signature_algorithm_oid, ca.signature_hash_algorithm)
    except BadSignatureAlgorithm as error:
        algorithm = oid_name(ca.signature_algorithm_oid)
        raise CAError(f"{_name(ca)} is signed with {algorithm}: {_REMEDY}") from error


def _check_link(ca: x509.Certificate, issuer: x509.Certificate) -> str:
    """The reason why OpenSSL, or Python 3.13 in its strict mode, rejects the link to `issuer`; '' if none."""
    if not ca.subject.rdns:
        return "has an empty subject"
    if not ca.extensions.get_extension_for_class(x509.BasicConstraints).critical:
        return "has basicConstraints that are not critical"
    identifier = extension_value(ca, x509.AuthorityKeyIdentifier)
    if issuer is not ca and (identifier is None or identifier.key_identifier is None):
        return "has no key identifier in authorityKeyIdentifier"
    if not names_key_of(ca, issuer):
        return f"has an authorityKeyIdentifier of another key than that of {_name(issuer)}"
    return ""


def _verify_ca(ca: x509.Certificate, depth: int) -> None:
    """Verify that a certificate may be a CA `depth` places above the issuing CA (RFC 5280 6.1.4)."""
    try:
        public_key = ca.public_key()
        keys.kind_of(public_key)
        keys.verify_encoded_key(ca.public_key_algorithm_oid, keys.encode_public_key(public_key))
        extensions = list(ca.extensions)
    except (ValueError, BadPublicKey) as error:
        raise CAError(f"{_name(ca)} cannot be parsed: {error}") from error
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _SUPPORTED_EXTENSIONS):
            raise CAError(f"{_name(ca)} has an unsupported critical extension: {extension.oid.dotted_string}")
    basic = extension_value(ca, x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise CAError(f"{_name(ca)} is not a CA")
    if basic.path_length is not None and basic.path_length < depth:
        raise CAError(f"{_name(ca)} has a pathLen that is too small for its place in the chain")
    usage = extension_value(ca, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        raise CAError(f"{_name(ca)} may not sign certificates")
    if extension_value(ca, x509.SubjectKeyIdentifier) is None:
        raise CAError(f"{_name(ca)} has no subject key identifier")
    # The issuer of a certificate must equal its issuer's subject, octet for octet (RFC 5280 4.1.2.4).
    if ca.subject.public_bytes() not in ca.tbs_certificate_bytes:
        raise CAError(f"{_name(ca)} has a subject that cannot be re-encoded unchanged")


def may_sign_ocsp(ca: x509.Certificate) -> bool:
    """Whether a CA's key usage permits OCSP responses: it contains digitalSignature (RFC 5280 4.2.1.3)."""
    usage = extension_value(ca, x509.KeyUsage)
    return usage is not None and usage.digital_signature


def authority_key_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The authorityKeyIdentifier that refers to a CA: its subjectKeyIdentifier, not a new hash of its key.

    Raises:
        CAError: the CA has no subjectKeyIdentifier.
    """
    identifier = extension_value(ca, x509.SubjectKeyIdentifier)
    if identifier is None:
        raise CAError(f"{_name(ca)} has no subject key identifier")
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _name(ca: x509.Certificate) -> str:
    return f"the CA certificate {ca.subject.rfc4514_string()!r}"
