"""A delegated OCSP responder: a key, and a certificate by which an issuer authorises it (RFC 6960 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.ocsp import OCSPResponderEncoding, OCSPResponse, OCSPResponseBuilder
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.pki.certificate import CertificateSpec, encode_extension, static_extensions
from service.pki.certificate_reader import extension_value
from service.pki.issuer import Issuer
from service.pki.keys import KeyKind
from service.pki.name_constraints import violations
from service.pki.name_policy import NamePolicy
from service.pki.profile import Profile

COMMON_NAME: Final = "OCSP responder"
# No issuance policy can contain a profile of this name.
PROFILE: Final = Profile(
    name="service:ocsp-responder",
    description="Signs OCSP responses for the issuer",
    validity=timedelta(days=3),
    max_validity=timedelta(days=3),
    backdate=timedelta(hours=1),
    extended_key_usage=(ExtendedKeyUsageOID.OCSP_SIGNING.dotted_string,),
    names=NamePolicy(),
)


class DelegatedResponder:
    """A responder whose key exists only in memory.

    Attributes:
        certificate: the responder's certificate, which is part of each response.
        not_before, not_after: its validity period, UTC.
    """

    def __init__(self, certificate: x509.Certificate, private_key: ec.EllipticCurvePrivateKey) -> None:
        """Create a responder from the certificate of a key."""
        self.certificate = certificate
        self.not_before: datetime = certificate.not_valid_before_utc
        self.not_after: datetime = certificate.not_valid_after_utc
        self._private_key = private_key

    def sign_ocsp(self, builder: OCSPResponseBuilder) -> OCSPResponse:
        """Add the responder and its certificate to a builder, and sign the response."""
        builder = builder.responder_id(OCSPResponderEncoding.HASH, self.certificate)
        return builder.certificates([self.certificate]).sign(self._private_key, hashes.SHA256())


def why_forbidden(path: Sequence[x509.Certificate]) -> str:
    """Return why verifiers accept no responder of an issuer; '' if they accept one.

    Args:
        path: the issuer's certificate, and those above it.
    """
    for ca in path:
        usage = extension_value(ca, x509.ExtendedKeyUsage)
        if usage and ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
            return f"the extendedKeyUsage of {ca.subject.rfc4514_string()!r} does not contain OCSPSigning"
        constraints = extension_value(ca, x509.NameConstraints)
        if constraints and violations(constraints, _subject(path[0]), ()):
            return f"the nameConstraints of {ca.subject.rfc4514_string()!r} forbid the subject of a responder"
    return ""


def create_spec(issuer: Issuer, public_key: ec.EllipticCurvePublicKey, now: datetime) -> CertificateSpec:
    """Create the content of a responder's certificate.

    Args:
        issuer: the issuer, which is valid now.
        public_key: the responder's key, on P-256.
        now: the current time, UTC, in whole seconds.
    """
    authority_key, *others = static_extensions(issuer, PROFILE, KeyKind.P256)
    not_before = max(now - PROFILE.backdate, issuer.not_before)
    return CertificateSpec(
        subject=_subject(issuer.certificate),
        common_name=COMMON_NAME,
        names=(),
        public_key=public_key,
        profile=PROFILE,
        not_before=not_before,
        not_after=min(not_before + PROFILE.validity - timedelta(seconds=1), issuer.not_after),
        extensions=(
            authority_key,
            encode_extension(x509.SubjectKeyIdentifier.from_public_key(public_key)),
            *others,
            encode_extension(
                x509.OCSPNoCheck()
            ),  # it cannot be revoked (RFC 6960 4.2.2.2.1), so it ends soon
        ),
        notes=(),
    )


def _subject(issuer: x509.Certificate) -> x509.Name:
    """The issuer's subject, with another common name."""
    rdns = [rdn for rdn in issuer.subject.rdns if not rdn.get_attributes_for_oid(NameOID.COMMON_NAME)]
    common_name = x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)
    return x509.Name([*rdns, x509.RelativeDistinguishedName([common_name])])
