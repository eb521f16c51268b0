"""Request + profile + issuer + time + serial number -> the certificate that will be signed."""

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
from service.pki.csr import CertificationRequest
from service.pki.draft import Draft, Plan
from service.pki.errors import BadCSR, IssuerUnavailable, NotPermitted, refuse
from service.pki.issuer import Issuer
from service.pki.keys import KeyKind
from service.pki.names import DistinguishedName, Name, distinguished_name
from service.pki.profile import LEAST_VALIDITY, Profile, Revocation, usage_oid

LEAST_REMAINING: Final = timedelta(hours=1)  # of the issuer's own life, to be worth issuing
_VERSION_3: Final = b"\xa0\x03\x02\x01\x02"  # [0] EXPLICIT INTEGER 2 (RFC 5280 4.1.2.1)
_EXTENSIONS: Final = 0xA3  # [3] EXPLICIT
# RFC 9608 3: no revocation information will ever be published. The library has no class for it.
_NO_REV_AVAIL: Final = encoding.extension(
    x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), encoding.NULL)
)


@dataclass(frozen=True)
class CertificateSpec:
    """All that a certificate will hold, except the serial number and the signature.

    Attributes:
        signature_algorithm: AlgorithmIdentifier of the signature that it will have, DER.
        issuer: the issuer's name, DER.
        attributes: the subject: what was asked for of what the profile allows; may be empty.
        names: the subject alternative names, each once, in the request's order.
        public_key: the request's subject public key.
        subject_public_key_info: the same, DER.
        profile: the certificate profile.
        not_before: the first second of the validity period, UTC.
        not_after: its last second, UTC.
        extensions: every extension, in their order, DER.
        notes: what was asked for and left out, or added, in sentences.
    """

    signature_algorithm: bytes
    issuer: bytes
    attributes: DistinguishedName
    names: tuple[Name, ...]
    public_key: CertificatePublicKeyTypes
    subject_public_key_info: bytes
    profile: Profile
    not_before: datetime
    not_after: datetime
    extensions: tuple[bytes, ...]
    notes: tuple[str, ...]

    def to_be_signed(self, serial_number: int) -> bytes:
        """TBSCertificate (RFC 5280 4.1), DER, for `Issuer.sign`."""
        return encoding.sequence(_VERSION_3, encoding.integer(serial_number), self._after_serial_number)

    @functools.cached_property
    def _after_serial_number(self) -> bytes:
        extensions = encoding.tagged(_EXTENSIONS, encoding.sequence(*self.extensions))
        return b"".join(
            (
                self.signature_algorithm,
                self.issuer,
                encoding.validity(self.not_before, self.not_after),
                encoding.name(self.attributes),
                self.subject_public_key_info,
                extensions,
            )
        )

    @property
    def useful_until(self) -> datetime:
        """Until when the certificate is worth handing out: a minute before its end, UTC."""
        return self.not_after + timedelta(seconds=1) - LEAST_VALIDITY

    @property
    def common_name(self) -> str:
        """The common name in the subject; '' for none."""
        return next((text for oid, text in self.attributes if oid == NameOID.COMMON_NAME), "")

    @property
    def subject(self) -> x509.Name:
        """The subject as the library's value."""
        return distinguished_name(self.attributes)

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of the above that the certificate holds: to be signed with the serial number 0."""
        return hashlib.sha256(self.to_be_signed(0)).digest()


def plan(request: CertificationRequest, under: Plan) -> CertificateSpec:
    """Decide what the certificate will hold.

    Args:
        request: the proved request.
        under: profile, principal, issuer and time.

    Raises:
        NotPermitted: the profile is not for this principal.
        RequestError: the request cannot be granted; every reason at once.
        IssuerUnavailable: the issuer is not valid now, or ends within the hour.
    """
    profile, issuer = under.profile, under.issuer
    if not (under.is_renewal or profile.permits(under.principal)):
        raise NotPermitted(f"The profile {profile.name} is not for this caller.", "profile")
    draft = Draft(request, under)
    draft.verify_key()
    draft.read_names()
    attributes = draft.read_subject()
    draft.verify_names()
    draft.read_extensions()
    draft.reasons += [
        BadCSR(f"this CA may not issue certificates for {usage}", "profile")
        for usage in profile.extended_key_usage
        if not issuer.may_issue_for(usage_oid(usage))
    ]
    verify_time(issuer, under.now)
    not_before, not_after = draft.read_validity()
    refuse(draft.reasons)
    return CertificateSpec(
        signature_algorithm=issuer.signature_algorithm,
        issuer=issuer.subject_der,
        attributes=attributes,
        names=tuple(draft.names),
        public_key=request.public_key,
        subject_public_key_info=request.subject_public_key_info,
        profile=profile,
        not_before=not_before,
        not_after=not_after,
        extensions=_extensions(request, issuer, draft, (not_before, not_after)),
        notes=tuple(draft.notes),
    )


def _extensions(
    request: CertificationRequest, issuer: Issuer, draft: Draft, period: tuple[datetime, datetime]
) -> tuple[bytes, ...]:
    profile = draft.profile
    extensions = [
        issuer.encoded_authority_key_identifier,
        encoding.extension(x509.SubjectKeyIdentifier(request.key_identifier)),
        *_constant(profile, request.key_kind),
    ]
    if draft.names:  # RFC 5280 4.2.1.6: critical where there is no subject
        sans = x509.SubjectAlternativeName([name.general_name() for name in draft.names])
        extensions.append(encoding.extension(sans, critical=not draft.subject))
    if profile.is_irrevocable(*period):  # never beside the address of a CRL (RFC 9608 4)
        extensions.append(_NO_REV_AVAIL)
    return (*extensions, *(encoding.extension(value) for value in draft.copied))


@functools.lru_cache(maxsize=256)
def _constant(profile: Profile, kind: KeyKind) -> tuple[bytes, ...]:
    """What is in every certificate of a profile for a kind of key."""
    extensions = [
        encoding.extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
        encoding.extension(profile.key_usage(kind), critical=True),
        encoding.extension(x509.ExtendedKeyUsage(profile.usages)),
    ]
    if profile.certificate_policies:
        policies = [x509.PolicyInformation(oid, None) for oid in profile.certificate_policies]
        extensions.append(encoding.extension(x509.CertificatePolicies(policies)))
    if profile.ca_issuers:
        where = x509.UniformResourceIdentifier(profile.ca_issuers)
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where)
        extensions.append(encoding.extension(x509.AuthorityInformationAccess([access])))
    if profile.revocation is Revocation.CRL:
        where = x509.UniformResourceIdentifier(profile.crl)
        point = x509.DistributionPoint([where], None, None, None)
        extensions.append(encoding.extension(x509.CRLDistributionPoints([point])))
    return tuple(extensions)


def verify_time(issuer: Issuer, now: datetime) -> None:
    """Refuse to issue outside the issuer's chain's life, or in its last hour.

    Raises:
        IssuerUnavailable: that is the case at `now` (UTC).
    """
    if now < issuer.not_before:
        raise IssuerUnavailable(f"the CA's chain is not valid before {issuer.not_before:%Y-%m-%dT%H:%M:%SZ}")
    if now > issuer.not_after - LEAST_REMAINING:
        raise IssuerUnavailable(f"the CA's chain ends at {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}")
