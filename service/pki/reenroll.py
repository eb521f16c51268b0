"""Re-enrolment with a client certificate (RFC 7030 4.2.2): verify it, and require the same identity."""

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
    """Parse a client certificate, PEM, that the gateway received in the TLS handshake.

    Raises:
        Unauthorized: the certificate is malformed.
    """
    try:
        certificate = certificate_reader.parse_pem(pem)
        usages = extension_value(certificate, x509.ExtendedKeyUsage) or ()
        policies = extension_value(certificate, x509.CertificatePolicies) or ()
        return ClientCertificate(
            certificate=certificate,
            names=certificate_reader.alternative_names(certificate),
            key_encodings=weak_keys.equivalent_encodings(certificate.public_key()),
            extended_key_usage=tuple(usages),
            policies=tuple(policy.policy_identifier for policy in policies),
        )
    except Exception as error:  # the library has no common class for errors of malformed bytes
        raise Unauthorized("The client certificate cannot be parsed") from error


def verify_client_certificate(
    client_certificate: ClientCertificate,
    issuer: Issuer,
    revoked: Container[int],
    deny_list: DenyList,
    now: datetime,
) -> None:
    """Verify that this CA, or its predecessor, issued a client certificate, and that it may still be used.

    This does not rely on the TLS handshake: a gateway may verify less, or trust more CAs.

    Args:
        client_certificate: the certificate to verify.
        issuer: the CA.
        revoked: the revoked serial numbers.
        deny_list: the denied keys.
        now: the current time, UTC.

    Raises:
        Unauthorized: it is not valid; the detail is the first reason.
    """
    certificate = client_certificate.certificate
    if not any(
        ca.not_valid_before_utc <= now <= ca.not_valid_after_utc and is_issued_by(certificate, ca)
        for ca in (issuer.certificate, *issuer.predecessors)
    ):
        raise Unauthorized("The client certificate was not issued by this CA")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        end = encoding.format_timestamp(certificate.not_valid_after_utc)
        raise Unauthorized(f"The client certificate is not valid now; its validity ends at {end}")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in client_certificate.extended_key_usage:
        raise Unauthorized("The client certificate lacks the extended key usage clientAuth")
    if certificate.serial_number in revoked:
        raise Unauthorized("The client certificate is revoked")
    try:
        deny_list.verify(client_certificate.key_encodings)
    except BadPublicKey as error:
        raise Unauthorized("The client certificate's key is on the deny list of this CA") from error


def find_profile(
    client_certificate: ClientCertificate, profiles: IssuancePolicy, label: str | None
) -> Profile:
    """Find the profile that a certificate was issued under, by its first policy OID.

    Raises:
        UnknownProfile: the request's `label` is not None, and not a profile.
        Unauthorized: the policy OID does not belong to any profile, or to another one than `label`.
    """
    requested = None if label is None else profiles.get(label)
    policy = client_certificate.policies[:1]
    issued_under = next(
        (item for item in profiles if policy and item.certificate_policies[:1] == policy), None
    )
    if issued_under is None:
        raise Unauthorized("The client certificate's first policy OID does not belong to any profile")
    if requested not in {None, issued_under}:
        name = issued_under.name
        raise Unauthorized(f"The client certificate was issued under profile '{name}', not '{label}'")
    return issued_under


def with_subject_spelling_of(
    client_certificate: ClientCertificate, request: CertificateSigningRequest
) -> CertificateSigningRequest:
    """Replace each subject attribute that compares equal (RFC 5280 7.1) by the client certificate's spelling.

    Programs may compare octets. This comes before the evaluation, so that the evaluated subject is the signed
    one. Texts that are too long for an attribute remain unchanged, since normalising them takes quadratic
    time; the evaluation refuses them.
    """
    spellings = {
        (attribute.oid, names.fold(str(attribute.value))): str(attribute.value)
        for attribute in client_certificate.certificate.subject
    }
    subject = tuple(
        (oid, spellings.get((oid, names.fold(text)), text) if len(text) <= MAX_ATTRIBUTE_CHARS else text)
        for oid, text in request.subject
    )
    return replace(request, subject=subject)


def require_same_identity(client_certificate: ClientCertificate, spec: CertificateSpec) -> None:
    """Require the client certificate's subject, names (in any order) and copied extensions.

    Raises:
        RequestError: they differ; lists all differences.
    """
    violations: list[RequestError] = []
    subject, certified_names = client_certificate.certificate.subject, client_certificate.names
    if spec.subject != subject:
        expected, requested = subject.rfc4514_string(), spec.subject.rfc4514_string()
        detail = f"The subject {quote(requested)} differs from {quote(expected)} in the client certificate"
        violations.append(RejectedIdentifier(detail, "subject"))
    for some, others, detail in (
        (spec.names, certified_names, "is not in the client certificate"),
        (certified_names, spec.names, "is in the client certificate, but not in the request"),
    ):
        violations += [
            RejectedIdentifier(f"{quote(str(name))} {detail}", "subject_alt_name")
            for name in some
            if name not in others
        ]
    requested_extensions = {item.value.oid: item.value.value.value for item in spec.extensions}
    certified_extensions = {
        extension.oid: extension.value.public_bytes()
        for extension in client_certificate.certificate.extensions
    }
    for oid in spec.profile.extensions:
        if requested_extensions.get(oid) != certified_extensions.get(oid):
            name, hint = oid_name(oid), "" if oid in certified_extensions else ", which does not have it"
            detail = f"Extension {name} must be the same as in the client certificate{hint}"
            violations.append(BadCSR(detail, f"extensions.{name}"))
    raise_all(violations)
