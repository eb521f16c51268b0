"""Request + profile + issuer + time + serial number -> the certificate that will be signed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID

from service.pki.csr import CertificationRequest
from service.pki.draft import Draft, Plan
from service.pki.errors import BadCSR, IssuerUnavailable, NotPermitted, refuse
from service.pki.issuer import Issuer
from service.pki.names import Name
from service.pki.profile import Profile, Revocation, usage_oid

LEAST_REMAINING: Final = timedelta(hours=1)  # of the issuer's own life, to be worth issuing
# RFC 9608 3: no revocation information will ever be published. The library has no class for it.
_NO_REV_AVAIL: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00")


@dataclass(frozen=True)
class Template:
    """All that a certificate will hold, except the serial number and the signature.

    Attributes:
        issuer: the issuer's name.
        subject: what was asked for of what the profile allows; may be empty.
        names: the subject alternative names, each once, in the request's order.
        public_key: the request's subject public key.
        subject_public_key_info: the same, DER.
        profile: the certificate profile.
        not_before: the first second of the validity period, UTC.
        not_after: its last second, UTC.
        extensions: every extension, and whether it is critical, in their order.
        notes: what was asked for and left out, or added, in sentences.
    """

    issuer: x509.Name
    subject: x509.Name
    names: tuple[Name, ...]
    public_key: CertificatePublicKeyTypes
    subject_public_key_info: bytes
    profile: Profile
    not_before: datetime
    not_after: datetime
    extensions: tuple[tuple[x509.ExtensionType, bool], ...]
    notes: tuple[str, ...]

    def builder(self, serial_number: int) -> x509.CertificateBuilder:
        """The certificate, ready for `Issuer.sign`."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.issuer)
            .public_key(self.public_key)
            .serial_number(serial_number)
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical)
        return builder

    def inputs(self) -> tuple[bytes, ...]:
        """Everything of the above that stands in the certificate, in one unambiguous form."""
        parts = [
            self.issuer.public_bytes(),
            self.subject.public_bytes(),
            self.subject_public_key_info,
            self.not_before.isoformat().encode(),
            self.not_after.isoformat().encode(),
        ]
        for extension, critical in self.extensions:
            parts += [
                extension.oid.dotted_string.encode(),
                b"\1" if critical else b"\0",
                extension.public_bytes(),
            ]
        return tuple(parts)

    def digest(self) -> str:
        """SHA-256 of `inputs`, each after its length, hexadecimal."""
        digest = hashlib.sha256()
        for each in self.inputs():
            digest.update(len(each).to_bytes(8, "big") + each)
        return digest.hexdigest()


def plan(request: CertificationRequest, under: Plan) -> Template:
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
    if not profile.permits(under.principal):
        raise NotPermitted(f"The profile {profile.name} is not for this caller.")
    draft = Draft(request, under)
    draft.verify_key()
    draft.read_names()
    subject = draft.read_subject()
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
    return Template(
        issuer=issuer.certificate.subject,
        subject=subject,
        names=tuple(draft.names),
        public_key=request.public_key,
        subject_public_key_info=request.subject_public_key_info,
        profile=profile,
        not_before=not_before,
        not_after=not_after,
        extensions=(
            (issuer.authority_key_identifier, False),
            *_extensions(request, profile, tuple(draft.names), subject),
            *_revocation(profile, not_before, not_after),
            *draft.copied,
        ),
        notes=tuple(draft.notes),
    )


def _extensions(
    request: CertificationRequest, profile: Profile, names: tuple[Name, ...], subject: x509.Name
) -> list[tuple[x509.ExtensionType, bool]]:
    """What the profile says of the certificate."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectKeyIdentifier.from_public_key(request.public_key), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (profile.key_usage(request.public_key), True),
        (x509.ExtendedKeyUsage(profile.usages), False),
    ]
    if names:  # RFC 5280 4.2.1.6: critical where there is no subject
        sans = x509.SubjectAlternativeName([name.general_name() for name in names])
        extensions.append((sans, not subject.rdns))
    if profile.certificate_policies:
        policies = [x509.PolicyInformation(oid, None) for oid in profile.certificate_policies]
        extensions.append((x509.CertificatePolicies(policies), False))
    if profile.ca_issuers:
        where = x509.UniformResourceIdentifier(profile.ca_issuers)
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where)
        extensions.append((x509.AuthorityInformationAccess([access]), False))
    return extensions


def _revocation(
    profile: Profile, not_before: datetime, not_after: datetime
) -> list[tuple[x509.ExtensionType, bool]]:
    """Where the CRL is, or that there will be none; never both (RFC 9608 4)."""
    if profile.revocation is Revocation.CRL:
        where = x509.UniformResourceIdentifier(profile.crl)
        return [(x509.CRLDistributionPoints([x509.DistributionPoint([where], None, None, None)]), False)]
    return [(_NO_REV_AVAIL, False)] if profile.is_irrevocable(not_before, not_after) else []


def verify_time(issuer: Issuer, now: datetime) -> None:
    """Refuse to issue outside the issuer's chain's life, or in its last hour.

    Raises:
        IssuerUnavailable: that is the case at `now` (UTC).
    """
    if now < issuer.not_before:
        raise IssuerUnavailable(f"the CA's chain is not valid before {issuer.not_before:%Y-%m-%dT%H:%M:%SZ}")
    if now > issuer.not_after - LEAST_REMAINING:
        raise IssuerUnavailable(f"the CA's chain ends at {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}")
