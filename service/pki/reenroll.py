"""Renewal by the certificate itself (RFC 7030 4.2.2): who may renew what, and that the names stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.pki import encoding, keys, names
from service.pki.certificate import CertificateSpec
from service.pki.errors import (
    BadPublicKey,
    NotPermitted,
    RejectedIdentifier,
    RequestError,
    quoted,
    refuse,
)
from service.pki.issuer import Issuer, extension_value
from service.pki.names import Name
from service.pki.profile import Profile
from service.pki.profile_loader import IssuancePolicy
from service.pki.weak_keys import DenyList


@dataclass(frozen=True)
class ClientCertificate:
    """A client certificate, read whole. Nothing is proved of it but that; `verify` does the rest.

    Attributes:
        certificate: it.
        names: its subject alternative names.
        subject_public_key_info: its key, DER.
        extended_key_usage: what it is for.
        policies: its certificate policies, in their order.
    """

    certificate: x509.Certificate
    names: tuple[Name, ...]
    subject_public_key_info: bytes
    extended_key_usage: tuple[x509.ObjectIdentifier, ...]
    policies: tuple[x509.ObjectIdentifier, ...]


def load(pem: bytes) -> ClientCertificate:
    """Read a client certificate, every part of it that counts.

    Args:
        pem: one certificate, PEM, as the gateway got it in the TLS handshake.

    Raises:
        NotPermitted: it cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        sans = extension_value(certificate, x509.SubjectAlternativeName) or ()
        usages = extension_value(certificate, x509.ExtendedKeyUsage) or ()
        policies = extension_value(certificate, x509.CertificatePolicies) or ()
        return ClientCertificate(
            certificate=certificate,
            names=tuple(names.load(each, "") for each in sans),
            subject_public_key_info=keys.subject_public_key_info(certificate.public_key()),
            extended_key_usage=tuple(usages),
            policies=tuple(each.policy_identifier for each in policies),
        )
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise NotPermitted("The client certificate cannot be read.") from error


def verify(
    client_certificate: ClientCertificate,
    issuer: Issuer,
    revoked: Iterable[int],
    denied: DenyList,
    now: datetime,
) -> None:
    """Prove that a client certificate is one of this CA's that may still be used.

    What TLS proved before counts for nothing here: a gateway may prove less, or trust more.

    Args:
        client_certificate: the certificate.
        issuer: this CA, and with it the one before a rollover.
        revoked: the serial numbers of what was revoked.
        denied: keys that are never certified.
        now: the time, UTC.

    Raises:
        NotPermitted: it is not; the first reason is told.
    """
    certificate = client_certificate.certificate
    if not any(_is_issued_by(certificate, ca, now) for ca in (issuer.certificate, *issuer.previous)):
        raise NotPermitted("The client certificate is not one of this CA.")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        end = encoding.timestamp(certificate.not_valid_after_utc)
        raise NotPermitted(f"The client certificate is not valid now; it ends at {end}.")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in client_certificate.extended_key_usage:
        raise NotPermitted("The client certificate is not for TLS clients (clientAuth).")
    if client_certificate.certificate.serial_number in revoked:
        raise NotPermitted("The client certificate was revoked.")
    try:
        denied.verify(client_certificate.subject_public_key_info)
    except BadPublicKey as error:
        raise NotPermitted("The client certificate's key is on the deny list of this CA.") from error


def _is_issued_by(certificate: x509.Certificate, ca: x509.Certificate, now: datetime) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return ca.not_valid_before_utc <= now <= ca.not_valid_after_utc


def profile(client_certificate: ClientCertificate, profiles: IssuancePolicy, label: str | None) -> Profile:
    """The profile that a certificate was issued under, which its first policy says.

    Args:
        client_certificate: the certificate.
        profiles: all of them.
        label: the profile that the request names; None if it names none.

    Raises:
        UnknownProfile: the request names one that does not exist.
        NotPermitted: no profile has that policy for its own, or the request names another.
    """
    named = None if label is None else profiles.get(label)
    own = client_certificate.policies[:1]
    found = next((each for each in profiles if own and each.certificate_policies[:1] == own), None)
    if found is None:
        raise NotPermitted("No profile has the client certificate's first policy for its own.")
    if named is not None and named is not found:
        raise NotPermitted(f"The client certificate is of the profile {found.name}, not {named.name}.")
    return found


def require_same_identity(client_certificate: ClientCertificate, spec: CertificateSpec) -> CertificateSpec:
    """Require the subject and the names, in any order, of the certificate that is renewed.

    Returns:
        the same for the client certificate's subject, octet for octet: letters that RFC 5280 7.1 does not
        compare make another subject for a program that compares octets.

    Raises:
        RequestError: they differ; every difference is listed.
    """
    reasons: list[RequestError] = []
    if names.canonical_dn(spec.subject) != names.canonical_dn(client_certificate.certificate.subject):
        has, would = client_certificate.certificate.subject.rfc4514_string(), spec.subject.rfc4514_string()
        detail = f"the subject would be {quoted(would)}, and the client certificate has {quoted(has)}"
        reasons.append(RejectedIdentifier(detail, "subject"))
    field = "subject_alt_name"
    reasons += [
        RejectedIdentifier(f"{quoted(str(each))} is not in the client certificate", field)
        for each in spec.names
        if each not in client_certificate.names
    ]
    reasons += [
        RejectedIdentifier(f"{quoted(str(each))} of the client certificate is not asked for", field)
        for each in client_certificate.names
        if each not in spec.names
    ]
    refuse(reasons)
    return replace(spec, subject=client_certificate.certificate.subject)
