"""The content of a certificate to issue, and its conversion to the library's builder, and to text."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID as _Access
from OpenSSL import crypto

from service.pki import certificate_reader, encoding, keys
from service.pki.errors import CAError
from service.pki.issuer import Issuer
from service.pki.keys import KeyKind
from service.pki.names import Identifier
from service.pki.profile import KEY_ID, MIN_VALIDITY, Profile, Revocation, key_usage

# RFC 9608 3: the CA never publishes revocation information. The value is NULL; the library has no class for
# it.
NO_REV_AVAIL: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00")


class EncodedExtension(NamedTuple):
    """An encoded extension, and its contribution to `CertificateSpec.digest`."""

    value: x509.Extension[x509.UnrecognizedExtension]
    digest_input: bytes


@dataclass(frozen=True)
class CertificateSpec:
    """The content of a certificate, except the issuer's name, the serial number and the signature.

    Attributes:
        subject: may be empty.
        common_name: the subject's common name; '' if it has none.
        names: the subject alternative names without duplicates, in the request's order.
        public_key: the subject public key.
        profile: the certificate profile.
        not_before, not_after: first and last second of the validity period, UTC.
        extensions: all extensions, in order.
        notes: what was dropped from the request or added to it, in sentences.
        evaluated_digest: the `digest` at evaluation, kept by `dataclasses.replace`; `builder` compares it.
    """

    subject: x509.Name
    common_name: str
    names: tuple[Identifier, ...]
    public_key: CertificatePublicKeyTypes
    profile: Profile
    not_before: datetime
    not_after: datetime
    extensions: tuple[EncodedExtension, ...]
    notes: tuple[str, ...]
    evaluated_digest: bytes = b""

    def __post_init__(self) -> None:
        if not self.evaluated_digest:
            object.__setattr__(self, "evaluated_digest", self.digest)  # the class is frozen

    def builder(self, serial_number: int) -> x509.CertificateBuilder:
        """A builder with all fields except the issuer's name, for `Issuer.sign`.

        Raises:
            CAError: a field was replaced after the evaluation.
        """
        if self.evaluated_digest != self.digest:
            raise CAError("the certificate's content changed after its evaluation")
        return x509.CertificateBuilder(
            subject_name=self.subject,
            public_key=self.public_key,
            serial_number=serial_number,
            not_valid_before=self.not_before,
            not_valid_after=self.not_after,
            extensions=[extension.value for extension in self.extensions],
        )

    @property
    def usable_until(self) -> datetime:
        """The end of its usefulness: one minute before the certificate expires, UTC."""
        return self.not_after + timedelta(seconds=1) - MIN_VALIDITY

    @functools.cached_property
    def subject_public_key_info(self) -> bytes:
        """The subject public key, DER."""
        return keys.encode_public_key(self.public_key)

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of all fields of the certificate, in DER or text, each after its length."""
        times = encoding.format_timestamp(self.not_before) + encoding.format_timestamp(self.not_after)
        parts = [self.subject.public_bytes(), self.subject_public_key_info, times.encode("ascii")]
        parts += [extension.digest_input for extension in self.extensions]
        return hashlib.sha256(encoding.length_prefixed(parts)).digest()


@functools.lru_cache(maxsize=256)
def static_extensions(issuer: Issuer, profile: Profile, kind: KeyKind) -> tuple[EncodedExtension, ...]:
    """The extensions that are the same in all certificates of an issuer, a profile and a kind of key."""
    result = [
        encode_extension(issuer.authority_key_identifier),
        encode_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
        encode_extension(key_usage(kind), critical=True),
        encode_extension(x509.ExtendedKeyUsage(profile.extended_key_usage_oids)),
    ]
    if profile.certificate_policies:
        policies = [x509.PolicyInformation(oid, None) for oid in profile.certificate_policies]
        result.append(encode_extension(x509.CertificatePolicies(policies)))
    if profile.ocsp or profile.ca_issuers:
        access = authority_information_access(profile.ocsp, profile.ca_issuers, issuer.certificate)
        result.append(encode_extension(access))
    if profile.revocation is Revocation.CRL:
        point = x509.DistributionPoint([_url(profile.crl, issuer.certificate)], None, None, None)
        result.append(encode_extension(x509.CRLDistributionPoints([point])))
    return tuple(result)


def authority_information_access(
    ocsp: str, ca_issuers: str, issuer: x509.Certificate
) -> x509.AuthorityInformationAccess:
    """Create the extension of an issuer's certificates (RFC 5280 4.2.2.1) from the URLs that are not ''."""
    urls = ((_Access.OCSP, ocsp), (_Access.CA_ISSUERS, ca_issuers))
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(method, _url(url, issuer)) for method, url in urls if url]
    )


def _url(url: str, issuer: x509.Certificate) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(url.replace(KEY_ID, certificate_reader.key_id(issuer)))


def encode_extension(value: x509.ExtensionType, *, critical: bool = False) -> EncodedExtension:
    """Encode an extension."""
    oid, der = value.oid, value.public_bytes()
    digest_input = f"{oid.dotted_string} {critical} ".encode("ascii") + der
    return EncodedExtension(x509.Extension(oid, critical, x509.UnrecognizedExtension(oid, der)), digest_input)


def to_text(certificate: x509.Certificate) -> str:
    """Format a certificate as `openssl x509 -text` does."""
    openssl_certificate = crypto.X509.from_cryptography(certificate)
    return crypto.dump_certificate(crypto.FILETYPE_TEXT, openssl_certificate).decode("utf-8", "replace")
