"""What a certificate will hold, as a value, and the library's builder for it."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID

from service.pki import encoding, keys
from service.pki.errors import CAError
from service.pki.issuer import Issuer
from service.pki.keys import KeyKind
from service.pki.names import Identifier
from service.pki.profile import MIN_VALIDITY, Profile, Revocation, key_usage

# RFC 9608 3: no revocation information will ever be published. The library has no class for it; it is NULL.
NO_REV_AVAIL: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00")


class EncodedExtension(NamedTuple):
    """An extension, encoded already, and its part of `CertificateSpec.digest`."""

    value: x509.Extension[x509.UnrecognizedExtension]
    digest_input: bytes


@dataclass(frozen=True)
class CertificateSpec:
    """All that a certificate will hold, except the issuer's name, the serial number and the signature.

    Attributes:
        subject: may be empty.
        common_name: the one in the subject; '' for none.
        names: the subject alternative names, each once, in the request's order.
        public_key: the subject public key.
        profile: the certificate profile.
        not_before, not_after: the first and the last second of the validity period, UTC.
        extensions: every extension, in order.
        notes: what the request asks for and does not get, or what was added, in sentences.
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
        """Everything but the issuer's name, for `Issuer.sign`.

        Raises:
            CAError: a field was replaced after the evaluation.
        """
        if self.evaluated_digest != self.digest:
            raise CAError("what would be signed is not what was evaluated_digest")
        return x509.CertificateBuilder(
            subject_name=self.subject,
            public_key=self.public_key,
            serial_number=serial_number,
            not_valid_before=self.not_before,
            not_valid_after=self.not_after,
            extensions=[each.value for each in self.extensions],
        )

    @property
    def usable_until(self) -> datetime:
        """Until when the certificate is worth handing out: a minute before its end, UTC."""
        return self.not_after + timedelta(seconds=1) - MIN_VALIDITY

    @functools.cached_property
    def subject_public_key_info(self) -> bytes:
        """The subject public key, DER."""
        return keys.encode_public_key(self.public_key)

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of every field that the certificate will hold, in DER or text, each after its length."""
        times = encoding.format_timestamp(self.not_before) + encoding.format_timestamp(self.not_after)
        parts = [self.subject.public_bytes(), self.subject_public_key_info, times.encode("ascii")]
        parts += [each.digest_input for each in self.extensions]
        return hashlib.sha256(encoding.length_prefixed(parts)).digest()


@functools.lru_cache(maxsize=256)
def static_extensions(issuer: Issuer, profile: Profile, kind: KeyKind) -> tuple[EncodedExtension, ...]:
    """What is in every certificate of an issuer and a profile for a kind of key."""
    result = [
        encode_extension(issuer.authority_key_identifier),
        encode_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
        encode_extension(key_usage(kind), critical=True),
        encode_extension(x509.ExtendedKeyUsage(profile.extended_key_usage_oids)),
    ]
    if profile.certificate_policies:
        policies = [x509.PolicyInformation(oid, None) for oid in profile.certificate_policies]
        result.append(encode_extension(x509.CertificatePolicies(policies)))
    if profile.ca_issuers:
        url = x509.UniformResourceIdentifier(profile.ca_issuers)
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url)
        result.append(encode_extension(x509.AuthorityInformationAccess([access])))
    if profile.revocation is Revocation.CRL:
        url = x509.UniformResourceIdentifier(profile.crl)
        result.append(
            encode_extension(x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)]))
        )
    return tuple(result)


def encode_extension(value: x509.ExtensionType, *, critical: bool = False) -> EncodedExtension:
    """An extension of this value."""
    oid, der = value.oid, value.public_bytes()
    digest_input = f"{oid.dotted_string} {critical} ".encode("ascii") + der
    return EncodedExtension(x509.Extension(oid, critical, x509.UnrecognizedExtension(oid, der)), digest_input)
