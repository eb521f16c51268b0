"""Renewal by the certificate itself (RFC 7030 4.2.2): who may renew what, and that the names stay."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.pki import certificate_reader, encoding, names, weak_keys
from service.pki.certificate import CertificateSpec
from service.pki.certificate_reader import extension_value, is_issued_by
from service.pki.csr import CertificateSigningRequest
from service.pki.encoding import oid_name
from service.pki.errors import (
    BadCSR,
    BadPublicKey,
    RejectedIdentifier,
    RequestError,
    Unauthorized,
    quote,
    raise_all,
)
from service.pki.issuer import Issuer
from service.pki.names import Identifier
from service.pki.profile import MAX_ATTRIBUTE_CHARS, Profile
from service.pki.profile_loader import IssuancePolicy
from service.pki.weak_keys import DenyList


@dataclass(frozen=True)
class ClientCertificate:
    """A parsed, unverified client certificate; `key_encodings` are its key's `equivalent_encodings`."""

    certificate: x509.Certificate
    names: tuple[Identifier, ...]
    key_encodings: tuple[bytes, ...]
    extended_key_usage: tuple[x509.ObjectIdentifier, ...]
    policies: tuple[x509.ObjectIdentifier, ...]


def parse_client_certificate(pem: bytes) -> ClientCertificate:
    """Read a client certificate, PEM, as the gateway got it in the TLS handshake.

    Raises:
        Unauthorized: it cannot be read.
    """
    try:
        certificate = certificate_reader.parse_pem(pem)
        sans = extension_value(certificate, x509.SubjectAlternativeName) or ()
        usages = extension_value(certificate, x509.ExtendedKeyUsage) or ()
        policies = extension_value(certificate, x509.CertificatePolicies) or ()
        return ClientCertificate(
            certificate=certificate,
            names=tuple(names.parse_general_name(san, "") for san in sans),
            key_encodings=weak_keys.equivalent_encodings(certificate.public_key()),
            extended_key_usage=tuple(usages),
            policies=tuple(policy.policy_identifier for policy in policies),
        )
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise Unauthorized("The client certificate cannot be read.") from error


def verify_client_certificate(
    client_certificate: ClientCertificate,
    issuer: Issuer,
    revoked: Container[int],
    denied: DenyList,
    now: datetime,
) -> None:
    """Prove that a client certificate is of this CA, or the one before a rollover, and still usable.

    It relies on nothing that TLS proved: a gateway may prove less, or trust more. `revoked` has serial
    numbers, and `denied` keys that are never certified; `now` is UTC.

    Raises:
        Unauthorized: it is not; the detail has the first reason.
    """
    certificate = client_certificate.certificate
    if not any(
        ca.not_valid_before_utc <= now <= ca.not_valid_after_utc and is_issued_by(certificate, ca)
        for ca in (issuer.certificate, *issuer.predecessors)
    ):
        raise Unauthorized("The client certificate is not one of this CA.")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        end = encoding.format_timestamp(certificate.not_valid_after_utc)
        raise Unauthorized(f"The client certificate is not valid now; it ends at {end}.")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in client_certificate.extended_key_usage:
        raise Unauthorized("The client certificate is not for TLS clients (clientAuth).")
    if certificate.serial_number in revoked:
        raise Unauthorized("The client certificate was revoked.")
    try:
        denied.verify(client_certificate.key_encodings)
    except BadPublicKey as error:
        raise Unauthorized("The client certificate's key is on the deny list of this CA.") from error


def find_profile(
    client_certificate: ClientCertificate, profiles: IssuancePolicy, label: str | None
) -> Profile:
    """The profile that a certificate was issued under, by its first policy.

    Raises:
        UnknownProfile: the request's `label`, if not None, is no profile.
        Unauthorized: no profile has that policy first, or it is not the profile `label`.
    """
    requested = None if label is None else profiles.get(label)
    policy = client_certificate.policies[:1]
    issued_under = next(
        (item for item in profiles if policy and item.certificate_policies[:1] == policy), None
    )
    if issued_under is None:
        raise Unauthorized("No profile has the client certificate's first policy for its own.")
    if requested not in {None, issued_under}:
        raise Unauthorized(f"The client certificate is of the profile {issued_under.name}, not {label}.")
    return issued_under


def with_subject_spelling_of(
    client_certificate: ClientCertificate, request: CertificateSigningRequest
) -> CertificateSigningRequest:
    """A request with the client certificate's spelling of each attribute that compares equal (RFC 5280 7.1).

    The result is evaluated, so that what is judged is what is signed; programs may compare octets. A text
    that is longer than any attribute may be is refused later: normalising it takes quadratic time.
    """
    spellings = {
        (each.oid, names.fold(str(each.value))): str(each.value)
        for each in client_certificate.certificate.subject
    }
    subject = tuple(
        (oid, spellings.get((oid, names.fold(text)), text) if len(text) <= MAX_ATTRIBUTE_CHARS else text)
        for oid, text in request.subject
    )
    return replace(request, subject=subject)


def require_same_identity(client_certificate: ClientCertificate, spec: CertificateSpec) -> None:
    """Require the subject, the names in any order, and the copied extensions of what is renewed.

    Raises:
        RequestError: they differ; every difference is listed.
    """
    reasons: list[RequestError] = []
    subject, had = client_certificate.certificate.subject, client_certificate.names
    if spec.subject != subject:
        has, would = subject.rfc4514_string(), spec.subject.rfc4514_string()
        detail = f"the subject would be {quote(would)}, and the client certificate has {quote(has)}"
        reasons.append(RejectedIdentifier(detail, "subject"))
    for some, others, detail in (
        (spec.names, had, "is not in the client certificate"),
        (had, spec.names, "of the client certificate is not asked for"),
    ):
        reasons += [
            RejectedIdentifier(f"{quote(str(name))} {detail}", "subject_alt_name")
            for name in some
            if name not in others
        ]
    copied = {each.value.oid: each.value.value.value for each in spec.extensions}
    presented = {each.oid: each.value.public_bytes() for each in client_certificate.certificate.extensions}
    for oid in spec.profile.extensions:
        if copied.get(oid) != presented.get(oid):
            name, none = oid_name(oid), "" if oid in presented else ", which has none"
            detail = f"the extension {name} must be that of the client certificate{none}"
            reasons.append(BadCSR(detail, f"extensions.{name}"))
    raise_all(reasons)
