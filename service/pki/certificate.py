"""What a certificate will hold, as a value, and the library's builder for it."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from service.pki import encoding
from service.pki.issuer import Issuer
from service.pki.keys import KeyKind
from service.pki.names import Name
from service.pki.profile import MIN_VALIDITY, Profile, Revocation, key_usage

Extension = x509.Extension[x509.UnrecognizedExtension]

# RFC 9608 3: no revocation information will ever be published. The library has no class for it; it is NULL.
NO_REV_AVAIL: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00")


@dataclass(frozen=True)
class CertificateSpec:
    """All that a certificate will hold, except the issuer's name, the serial number and the signature.

    Attributes:
        subject: may be empty.
        names: the subject alternative names, each once, in the request's order.
        public_key: the subject public key.
        subject_public_key_info: the same, DER.
        profile: the certificate profile.
        not_before, not_after: the first and the last second of the validity period, UTC.
        extensions: every extension, in order.
        notes: what the request asks for and does not get, or what was added, in sentences.
    """

    subject: x509.Name
    names: tuple[Name, ...]
    public_key: CertificatePublicKeyTypes
    subject_public_key_info: bytes
    profile: Profile
    not_before: datetime
    not_after: datetime
    extensions: tuple[Extension, ...]
    notes: tuple[str, ...]

    def builder(self, serial_number: int) -> x509.CertificateBuilder:
        """Everything but the issuer's name, for `Issuer.sign`."""
        return x509.CertificateBuilder(
            subject_name=self.subject,
            public_key=self.public_key,
            serial_number=serial_number,
            not_valid_before=self.not_before,
            not_valid_after=self.not_after,
            extensions=list(self.extensions),
        )

    @property
    def usable_until(self) -> datetime:
        """Until when the certificate is worth handing out: a minute before its end, UTC."""
        return self.not_after + timedelta(seconds=1) - MIN_VALIDITY

    @property
    def common_name(self) -> str:
        """The common name in the subject; '' for none."""
        return next((str(each.value) for each in self.subject if each.oid == NameOID.COMMON_NAME), "")

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of every field that the certificate will hold, in DER or text, each after its length."""
        kinds = " ".join([f"{each.oid.dotted_string} {each.critical}" for each in self.extensions])
        return hashlib.sha256(
            encoding.length_prefixed(
                [
                    self.subject.public_bytes(),
                    self.subject_public_key_info,
                    f"{self.not_before.timestamp()} {self.not_after.timestamp()} {kinds}".encode(),
                    *[each.value.value for each in self.extensions],
                ]
            )
        ).digest()


@functools.lru_cache(maxsize=256)
def static_extensions(issuer: Issuer, profile: Profile, kind: KeyKind) -> tuple[Extension, ...]:
    """What is in every certificate of an issuer and a profile for a kind of key."""
    result = [
        extension(issuer.authority_key_identifier),
        extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
        extension(key_usage(kind), critical=True),
        extension(x509.ExtendedKeyUsage(profile.usages)),
    ]
    if profile.certificate_policies:
        policies = [x509.PolicyInformation(oid, None) for oid in profile.certificate_policies]
        result.append(extension(x509.CertificatePolicies(policies)))
    if profile.ca_issuers:
        url = x509.UniformResourceIdentifier(profile.ca_issuers)
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url)
        result.append(extension(x509.AuthorityInformationAccess([access])))
    if profile.revocation is Revocation.CRL:
        url = x509.UniformResourceIdentifier(profile.crl)
        result.append(
            extension(x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)]))
        )
    return tuple(result)


def extension(value: x509.ExtensionType, *, critical: bool = False) -> Extension:
    """An extension, encoded already, so that the digest and the signature do not encode it again."""
    return x509.Extension(value.oid, critical, x509.UnrecognizedExtension(value.oid, value.public_bytes()))
