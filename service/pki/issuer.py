"""The issuer: CA certificate, chain and private key, verified at construction. It signs and verifies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from service.pki import keys, weak_keys
from service.pki.certificate_reader import extension_value, is_issued_by, names_key_of
from service.pki.encoding import oid_name
from service.pki.errors import BadPublicKey, BadSignatureAlgorithm, CAError
from service.pki.name_constraints import is_subject_permitted, violations
from service.pki.names import Identifier

_S = TypeVar("_S")

_AGAIN: Final = "verifiers refuse it; have it issued again, or create another CA (certlet rollover or init)"
_HANDLED: Final = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.NameConstraints)


class Issuer:
    """A CA that can sign now and be verified later.

    Attributes:
        certificate: the issuing CA's certificate.
        chain: the certificates above it, its issuer first, the self-signed root last; empty if the
            issuing CA is the root.
        intermediates: what a TLS server sends after its own certificate: issuer first, no root.
        predecessors: the certificates of the CA that this one succeeds: served beside the chain.
        authority_key_identifier: of all that it signs (RFC 5280 4.2.1.1).
        public_keys: of every CA certificate that it knows, each in all its `weak_keys.equivalent_encodings`.
        is_deterministic: whether it signs the same data to the same signature, octet for octet.
        parallelise: whether a signature takes longer than handing it to another thread.
        not_before, not_after: when all certificates of the chain are valid, UTC.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        chain: Sequence[x509.Certificate],
        private_key: CertificateIssuerPrivateKeyTypes,
        predecessors: Sequence[x509.Certificate] = (),
        *,
        is_deterministic: bool = True,
    ) -> None:
        """Verify that relying parties will accept what this issuer signs (RFC 5280 6.1).

        `is_deterministic` says whether the key can repeat a signature; KMS's EC keys cannot.

        Raises:
            CAError: they would not, or the key is not the certificate's.
        """
        self.certificate = certificate
        self.chain = tuple(chain)
        self.predecessors = tuple(predecessors)
        for each in self.predecessors:
            _verify_ca(each, 0)
        self._private_key = private_key
        path = (certificate, *self.chain)
        self.intermediates = path[:-1]
        _verify_path(path)
        public_key = certificate.public_key()
        if public_key != private_key.public_key():
            raise CAError("the private key is not the one in the CA certificate")
        self.not_before: datetime = max(ca.not_valid_before_utc for ca in path)
        self.not_after: datetime = min(ca.not_valid_after_utc for ca in path)
        self.authority_key_identifier = authority_key_identifier(certificate)
        self._constraints = list(filter(None, (extension_value(ca, x509.NameConstraints) for ca in path)))
        self._usages = list(filter(None, (extension_value(ca, x509.ExtendedKeyUsage) for ca in path)))
        self.public_keys = frozenset(
            form
            for each in self.ca_certificates
            for form in weak_keys.equivalent_encodings(each.public_key())
        )
        kind = keys.kind_of(public_key)
        self._hash = keys.signature_hash(public_key)
        self._verify_signature = keys.signature_verifier(public_key)
        # None where the algorithm leaves no choice, or the signer takes none.
        self._ecdsa_deterministic = True if is_deterministic and kind in keys.EC_KINDS else None
        self.is_deterministic: bool = is_deterministic and kind not in keys.ML_DSA_KINDS
        self.parallelise: bool = not is_deterministic or kind not in keys.FAST_SIGNING_KINDS

    @property
    def root(self) -> x509.Certificate:
        """The self-signed end of the chain: the trust anchor."""
        return self.chain[-1] if self.chain else self.certificate

    @property
    def ca_certificates(self) -> tuple[x509.Certificate, ...]:
        """Every CA certificate that somebody may need: this one, its chain, and those before it."""
        return (self.certificate, *self.chain, *self.predecessors)

    def name_violations(self, subject: x509.Name, names: Sequence[Identifier]) -> list[str]:
        """What these names would violate in any nameConstraints of the chain, in sentences."""
        return [violation for each in self._constraints for violation in violations(each, subject, names)]

    def may_issue_for(self, usage: x509.ObjectIdentifier) -> bool:
        """Whether every extended key usage of the chain includes this very one.

        OpenSSL takes anyExtendedKeyUsage in a CA certificate for no usage in particular, so do we.
        """
        return all(usage in allowed for allowed in self._usages)

    def self_test(self) -> None:
        """Sign a certification request, which nobody sees; raise `CAError` if that does not verify."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(self.certificate.subject)
        request = self._sign(builder.sign)
        self._verify(request.signature, request.tbs_certrequest_bytes)

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Sign a certificate, of which the builder has all but the issuer's name, and verify it.

        A faulty deterministic signature would give the key away, if it left.

        Raises:
            CAError: the signature does not verify, or the certificate would outlive this one.
        """
        certificate = self._sign(builder.issuer_name(self.certificate.subject).sign)
        self._verify(certificate.signature, certificate.tbs_certificate_bytes)
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not self.not_before <= not_before <= not_after <= self.not_after:
            raise CAError("the certificate would be valid while its issuer is not")
        return certificate

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Sign a CRL, of which the builder has all but the issuer's name and key identifier, and verify it.

        Raises:
            CAError: the CA may not sign CRLs (RFC 5280 4.2.1.3), or the signature does not verify.
        """
        usage = extension_value(self.certificate, x509.KeyUsage)
        if usage is None or not usage.crl_sign:
            raise CAError(f"{_name(self.certificate)} may not sign CRLs")
        named = builder.issuer_name(self.certificate.subject)
        crl = self._sign(named.add_extension(self.authority_key_identifier, critical=False).sign)
        self._verify(crl.signature, crl.tbs_certlist_bytes)
        return crl

    def _sign(self, sign: Callable[..., _S]) -> _S:
        return sign(self._private_key, self._hash, ecdsa_deterministic=self._ecdsa_deterministic)

    def _verify(self, signature: bytes, data: bytes) -> None:
        try:
            self._verify_signature(signature, data)
        except InvalidSignature as error:
            raise CAError("the signature that was made does not verify") from error


def _verify_path(path: Sequence[x509.Certificate]) -> None:
    for depth, ca in enumerate(path):
        _verify_ca(ca, depth)
        above = path[depth + 1] if depth + 1 < len(path) else ca
        if above is not ca:
            _verify_signature_algorithm(ca)
        if not is_issued_by(ca, above):
            what = "the certificate after it in the chain" if above is not ca else "itself"
            raise CAError(f"{_name(ca)} is not issued by {what}")
        if fault := _link_fault(ca, above):
            raise CAError(f"{_name(ca)} {fault}: {_AGAIN}")
        constraints = [extension_value(each, x509.NameConstraints) for each in path[depth + 1 :]]
        if not all(is_subject_permitted(each, ca.subject) for each in constraints if each):
            raise CAError(f"{_name(ca)} has a subject outside the nameConstraints above it: {_AGAIN}")


def _verify_signature_algorithm(ca: x509.Certificate) -> None:
    try:
        keys.verify_signature_algorithm(ca.signature_algorithm_oid, ca.signature_hash_algorithm)
    except BadSignatureAlgorithm as error:
        algorithm = oid_name(ca.signature_algorithm_oid)
        raise CAError(f"{_name(ca)} is signed with {algorithm}: {_AGAIN}") from error


def _link_fault(ca: x509.Certificate, above: x509.Certificate) -> str:
    """Why OpenSSL does not accept `above` as the issuer, or Python 3.13, which is strict, does not."""
    if not ca.subject.rdns:
        return "has an empty subject"
    if not ca.extensions.get_extension_for_class(x509.BasicConstraints).critical:
        return "has basicConstraints that are not critical"
    identifier = extension_value(ca, x509.AuthorityKeyIdentifier)
    if above is not ca and (identifier is None or identifier.key_identifier is None):
        return "does not say which key signed it (authorityKeyIdentifier)"
    if not names_key_of(ca, above):
        return f"says that another key signed it (authorityKeyIdentifier) than that of {_name(above)}"
    return ""


def _verify_ca(ca: x509.Certificate, depth: int) -> None:
    """Verify that a certificate may stand `depth` places above the issuing CA (RFC 5280 6.1.4)."""
    try:
        public_key = ca.public_key()
        keys.kind_of(public_key)
        keys.verify_key_size(ca.public_key_algorithm_oid, keys.encode_public_key(public_key))
        extensions = list(ca.extensions)
    except (ValueError, BadPublicKey) as error:
        raise CAError(f"{_name(ca)} cannot be read: {error}") from error
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _HANDLED):
            raise CAError(f"{_name(ca)} has a critical extension unknown here: {extension.oid}")
    basic = extension_value(ca, x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise CAError(f"{_name(ca)} is not a CA")
    if basic.path_length is not None and basic.path_length < depth:
        raise CAError(f"{_name(ca)} has a pathLen too short for its place in the chain")
    usage = extension_value(ca, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        raise CAError(f"{_name(ca)} may not sign certificates")
    if extension_value(ca, x509.SubjectKeyIdentifier) is None:
        raise CAError(f"{_name(ca)} has no subject key identifier")
    # A certificate's issuer must be its issuer's subject, octet for octet (RFC 5280 4.1.2.4).
    if ca.subject.public_bytes() not in ca.tbs_certificate_bytes:
        raise CAError(f"{_name(ca)} has a subject that cannot be written again unchanged")


def authority_key_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The CA's subject key identifier, octet for octet: a hash of its key may be another value.

    Raises CAError if it has none.
    """
    identifier = extension_value(ca, x509.SubjectKeyIdentifier)
    if identifier is None:
        raise CAError(f"{_name(ca)} has no subject key identifier")
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _name(ca: x509.Certificate) -> str:
    return f"the CA certificate {ca.subject.rfc4514_string()!r}"
