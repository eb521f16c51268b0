"""The issuer: CA certificate + chain + private key, proved at construction. It signs and re-verifies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from service.pki import constraints, encoding, keys, signing
from service.pki.errors import BadPublicKey, IssuerError
from service.pki.names import DistinguishedName, Name, distinguished_name

_T = TypeVar("_T", bound=x509.ExtensionType)

_HANDLED: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.NameConstraints,
)
_PROBE: Final = b"certlet: can this key sign?"  # no certificate: DER begins otherwise


class Issuer:
    """A CA that can sign now and be verified later.

    Attributes:
        certificate: the issuing CA's certificate.
        chain: the certificates above it, its issuer first, the self-signed root last; empty where
            the issuing CA is the root.
        intermediates: what a TLS server sends after its own certificate: issuer first, no root.
        previous: the certificates of the CA that this one succeeds, under which certificates may still
            be valid: served beside the chain, and never signed under.
        subject_der: the issuing CA's name, which stands as the issuer in what it signs, DER.
        signature_algorithm: AlgorithmIdentifier of what it signs, DER.
        public_keys: of every CA certificate that it knows, DER.
        is_deterministic: whether what it signs twice is the same twice, octet for octet.
        signs_slowly: whether a signature takes longer than handing it to another thread, which it then
            does not keep waiting: all but P-256 and Ed25519, and whatever is elsewhere.
        not_before: when the last certificate of the chain begins, UTC.
        not_after: when the first one of it ends, UTC.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        chain: Sequence[x509.Certificate],
        private_key: CertificateIssuerPrivateKeyTypes,
        previous: Sequence[x509.Certificate] = (),
        *,
        is_deterministic: bool = True,
    ) -> None:
        """Prove that relying parties will accept what this issuer signs.

        Args:
            certificate: as above.
            chain: as above.
            private_key: the certificate's.
            previous: as above.
            is_deterministic: whether it can be told to sign the same again; KMS's EC keys cannot.

        Raises:
            IssuerError: the key is not the certificate's; or the chain is out of order, badly
                signed, does not end in a self-signed root, or holds a certificate that is no CA,
                may not sign certificates, has too short a pathLen or an unknown critical extension;
                or one of `previous` is no CA.
        """
        self.certificate = certificate
        self.chain = tuple(chain)
        self.previous = tuple(previous)
        for each in self.previous:
            _verify_ca(each, 0)
        self._private_key = private_key
        path = (certificate, *self.chain)
        self.intermediates = path[:-1]
        _verify_path(path)
        if keys.subject_public_key_info(certificate.public_key()) != keys.subject_public_key_info(
            private_key.public_key()
        ):
            raise IssuerError("the private key is not the one in the CA certificate")
        self.not_before: datetime = max(ca.not_valid_before_utc for ca in path)
        self.not_after: datetime = min(ca.not_valid_after_utc for ca in path)
        self.authority_key_identifier = _authority_key_identifier(certificate)
        self.encoded_authority_key_identifier = encoding.extension(self.authority_key_identifier)
        constraining = [_extension(ca, x509.NameConstraints) for ca in path]
        self._constraints = [each.value for each in constraining if each]
        restricting = [_extension(ca, x509.ExtendedKeyUsage) for ca in path]
        self._usages = [each.value for each in restricting if each]
        self.subject_der = certificate.subject.public_bytes()
        self.public_keys = frozenset(
            keys.subject_public_key_info(each.public_key()) for each in self.authorities
        )
        public_key = private_key.public_key()
        kind = self._kind = keys.kind_of(public_key)
        self.signature_algorithm = signing.signature_algorithm(public_key)
        self._make = signing.signer(private_key, is_deterministic=is_deterministic)
        self._verify = signing.verifier(public_key)
        self.is_deterministic: bool = is_deterministic and kind not in keys.ML_DSA_KINDS
        self.signs_slowly: bool = not is_deterministic or kind not in keys.FAST_KINDS

    @property
    def root(self) -> x509.Certificate:
        """The self-signed end of the chain: the trust anchor."""
        return self.chain[-1] if self.chain else self.certificate

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """Every CA certificate that somebody may need: this one, its chain, and those before it."""
        return (self.certificate, *self.chain, *self.previous)

    def name_violations(self, subject: DistinguishedName, names: Sequence[Name]) -> list[str]:
        """What these names would violate in any nameConstraints of the chain, in sentences."""
        if not self._constraints:
            return []
        distinguished = distinguished_name(subject)
        return [
            violation
            for each in self._constraints
            for violation in constraints.violations(each, distinguished, names)
        ]

    def may_issue_for(self, usage: x509.ObjectIdentifier) -> bool:
        """Whether every extended key usage of the chain includes this very one.

        OpenSSL takes anyExtendedKeyUsage in a CA certificate for no usage in particular, so do we.
        """
        return all(usage in allowed for allowed in self._usages)

    def prove(self) -> None:
        """Sign a probe, which nobody sees, and verify it: that the key answers, and is the right one.

        Raises:
            IssuerError: it does not verify.
        """
        self._signature(_PROBE)

    def sign(self, to_be_signed: bytes) -> bytes:
        """Sign a certificate, and verify it before anyone sees it.

        Args:
            to_be_signed: TBSCertificate (RFC 5280 4.1), DER.

        Returns:
            the certificate, DER.

        Raises:
            IssuerError: the signature does not verify, or the certificate cannot be read, names another
                issuer, or would outlive this one.
        """
        signature = encoding.bit_string(self._signature(to_be_signed))
        der = encoding.sequence(to_be_signed, self.signature_algorithm, signature)
        try:
            certificate = x509.load_der_x509_certificate(der)
            outlives = certificate.not_valid_after_utc > self.not_after
            precedes = certificate.not_valid_before_utc < self.not_before
        except ValueError as error:
            raise IssuerError("the certificate cannot be read") from error
        if self.subject_der not in to_be_signed:
            raise IssuerError("the certificate does not name its issuer")
        if outlives or precedes:
            raise IssuerError("the certificate would be valid while its issuer is not")
        return der

    def _signature(self, data: bytes) -> bytes:
        """A signature, verified: a faulty deterministic one would give the key away, if it left."""
        signature = self._make(data)
        try:
            self._verify(signature, data)
        except InvalidSignature as error:
            raise IssuerError("the signature that was made does not verify") from error
        return signature

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Sign a certificate revocation list in this CA's name, and verify it before anyone sees it.

        Args:
            builder: everything but the issuer's name and key identifier.

        Raises:
            IssuerError: the CA may not sign CRLs (RFC 5280 4.2.1.3), or the signature does not verify.
        """
        usage = _extension(self.certificate, x509.KeyUsage)
        if usage is None or not usage.value.crl_sign:
            raise IssuerError(f"{_name(self.certificate)} may not sign CRLs")
        named = builder.issuer_name(self.certificate.subject)
        crl = named.add_extension(self.authority_key_identifier, critical=False).sign(
            self._private_key,
            signing.signature_hash(self.certificate.public_key()),
            # None where the algorithm leaves no choice, or the signer takes none.
            ecdsa_deterministic=True if self.is_deterministic and self._kind in keys.EC_KINDS else None,
        )
        try:
            self._verify(crl.signature, crl.tbs_certlist_bytes)
        except InvalidSignature as error:
            raise IssuerError("the signature that was made does not verify") from error
        return crl


def _verify_path(path: Sequence[x509.Certificate]) -> None:
    for depth, ca in enumerate(path):
        _verify_ca(ca, depth)
        above = path[depth + 1] if depth + 1 < len(path) else ca
        try:
            ca.verify_directly_issued_by(above)
        except (InvalidSignature, ValueError, TypeError) as error:
            what = "the certificate after it in the chain" if above is not ca else "itself"
            raise IssuerError(f"{_name(ca)} is not issued by {what}") from error


def _verify_ca(ca: x509.Certificate, depth: int) -> None:
    """Prove that one certificate may stand `depth` places above the issuing CA (RFC 5280 6.1.4)."""
    try:
        public_key = ca.public_key()
        keys.kind_of(public_key)
        keys.verify_bounds(ca.public_key_algorithm_oid, keys.subject_public_key_info(public_key))
        extensions = list(ca.extensions)
    except (ValueError, BadPublicKey) as error:
        raise IssuerError(f"{_name(ca)} cannot be read: {error}") from error
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _HANDLED):
            raise IssuerError(f"{_name(ca)} has a critical extension unknown here: {extension.oid}")
    basic = _extension(ca, x509.BasicConstraints)
    if basic is None or not basic.value.ca:
        raise IssuerError(f"{_name(ca)} is not a CA")
    if basic.value.path_length is not None and basic.value.path_length < depth:
        raise IssuerError(f"{_name(ca)} has a pathLen too short for its place in the chain")
    usage = _extension(ca, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        raise IssuerError(f"{_name(ca)} may not sign certificates")
    if _extension(ca, x509.SubjectKeyIdentifier) is None:
        raise IssuerError(f"{_name(ca)} has no subject key identifier")
    # A certificate's issuer must be its issuer's subject, octet for octet (RFC 5280 4.1.2.4).
    if ca.subject.public_bytes() not in ca.tbs_certificate_bytes:
        raise IssuerError(f"{_name(ca)} has a subject that cannot be written again unchanged")


def _authority_key_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The CA's subject key identifier, octet for octet: a hash of its key may be another value."""
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _extension(ca: x509.Certificate, kind: type[_T]) -> x509.Extension[_T] | None:
    try:
        return ca.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _name(ca: x509.Certificate) -> str:
    return f"the CA certificate {ca.subject.rfc4514_string()!r}"
