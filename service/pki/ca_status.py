"""The status of CA certificates: OCSP responses that are signed in advance, when the root's key is at hand.

The service only returns them, so that the key can be offline. There are two about each certificate, since
verifiers identify it by SHA-1 or SHA-256 (RFC 9919). A response that is signed in advance has no nonce.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPResponderEncoding,
    OCSPResponse,
    OCSPResponseStatus,
    load_der_ocsp_response,
)

from service.pki import encoding, keys, ocsp, pem
from service.pki.certificate_reader import find_issuer
from service.pki.errors import CAError
from service.pki.ocsp import CertificateStatus, StatusRequest

VALIDITY: Final = timedelta(days=365)
REASONS: Final = {  # RFC 5280 5.3.1
    reason.value: reason
    for reason in (
        x509.ReasonFlags.ca_compromise,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
    )
}
_WARNING_PERIOD: Final = timedelta(days=30)
_LABEL: Final = "OCSP RESPONSE"
_PEM_LINE: Final = 64  # characters (RFC 7468 2)
_Link: TypeAlias = tuple[x509.Certificate, x509.Certificate]  # a certificate, and that of its issuer
_DISPLAY_NAMES: Final = {"sha1": "SHA-1", "sha256": "SHA-256"}


@dataclass(frozen=True)
class CAStatus:
    """A response about a CA certificate, whose signature was verified.

    Attributes:
        certificate: the CA certificate.
        request: the request, without a nonce, that it is the response to.
        der: the response, DER.
        status: good, or revoked with time and reason.
        this_update, next_update: the period in which it is valid, UTC.
    """

    certificate: x509.Certificate
    request: StatusRequest
    der: bytes
    status: CertificateStatus
    this_update: datetime
    next_update: datetime


def sign_statuses(
    ca_certificates: Sequence[x509.Certificate],
    issuer_key: CertificateIssuerPrivateKeyTypes,
    now: datetime,
    existing: Iterable[CAStatus] = (),
    revoked: tuple[x509.Certificate, x509.ReasonFlags | None] | None = None,
) -> list[CAStatus]:
    """Sign responses about the certificates whose issuer has this key, for at most `VALIDITY`.

    A certificate that is revoked in `existing` remains so. Existing responses about other certificates are
    kept, if the certificates are among `ca_certificates`.

    Args:
        ca_certificates: the CA certificates, including the issuer.
        issuer_key: the private key of an issuer.
        now: the current time, UTC.
        existing: the responses so far.
        revoked: a certificate to revoke now, and the reason.

    Raises:
        CAError: a new signature does not verify.
    """
    now, existing = now.replace(microsecond=0), list(existing)
    statuses = {entry.certificate: entry.status for entry in existing if entry.status.revoked_at}
    if revoked and revoked[0] not in statuses:
        statuses[revoked[0]] = CertificateStatus(OCSPCertStatus.REVOKED, now, revoked[1])
    signed, links = [], list(_links(ca_certificates))
    for certificate, issuer in links:
        end = min(now + VALIDITY, issuer.not_valid_after_utc, certificate.not_valid_after_utc)
        if issuer.public_key() != issuer_key.public_key() or end <= now:
            continue
        for algorithm in ocsp.HASHES:
            request = ocsp.create_request(certificate, issuer, algorithm)
            status = statuses.get(certificate, CertificateStatus(OCSPCertStatus.GOOD))
            builder = ocsp.response_builder(request, status, now, end, VALIDITY)
            builder = builder.responder_id(OCSPResponderEncoding.HASH, issuer)
            response = builder.sign(issuer_key, keys.signature_hash(issuer_key.public_key()))
            signed.append(_parse(response.public_bytes(Encoding.DER), links))
    about = [entry.certificate for entry in signed]
    others = [entry for entry in existing if entry.certificate not in about]
    return [*signed, *(entry for entry in others if entry.certificate in ca_certificates)]


def encode_statuses(statuses: Iterable[CAStatus]) -> bytes:
    """Encode responses as PEM blocks."""
    lines = []
    for entry in statuses:
        text = base64.b64encode(entry.der).decode("ascii")
        body = (text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE))
        lines += [f"-----BEGIN {_LABEL}-----", *body, f"-----END {_LABEL}-----"]
    return "".join(f"{line}\n" for line in lines).encode()


def parse_statuses(
    data: bytes, ca_certificates: Sequence[x509.Certificate]
) -> tuple[tuple[CAStatus, ...], list[str]]:
    """Parse PEM blocks, and verify the signatures; the responses may have ended.

    Returns:
        the verified responses, and a message about each other PEM block.
    """
    statuses, problems, links = [], [], list(_links(ca_certificates))
    for number, block in enumerate(pem.parse(data), 1):
        if block.label != _LABEL or block.der is None:
            problems.append(f"block {number} is not an OCSP response")
            continue
        try:
            statuses.append(_parse(block.der, links))
        except CAError as error:
            problems.append(f"response {number} {error}")
    return tuple(statuses), problems


def find_gaps(
    statuses: Sequence[CAStatus], ca_certificates: Sequence[x509.Certificate], now: datetime
) -> Iterator[str]:
    """Yield a message about each response that is missing or ended, or ends within 30 days.

    A response that ends with its certificate or issuer is not reported before: no later one is possible.
    """
    for certificate, issuer in _links(ca_certificates):
        last = min(issuer.not_valid_after_utc, certificate.not_valid_after_utc)
        for algorithm, name in _DISPLAY_NAMES.items() if last > now else ():
            request = ocsp.create_request(certificate, issuer, algorithm)
            end = max((entry.next_update for entry in statuses if entry.request == request), default=None)
            about = f"about {certificate.subject.rfc4514_string()!r} by {name}"
            if end is None:
                yield f"there is no response {about}"
            elif end < min(now + _WARNING_PERIOD, last):
                verb = "ends" if end > now else "ended"
                yield f"the response {about} {verb} at {encoding.format_timestamp(end)}"


def _links(ca_certificates: Sequence[x509.Certificate]) -> Iterator[_Link]:
    """Yield each certificate that another one issued, and its issuer."""
    for certificate in ca_certificates:
        if issuer := find_issuer(certificate, ca_certificates):
            yield certificate, issuer


def _parse(der: bytes, links: Iterable[_Link]) -> CAStatus:
    """Parse a response, and verify its signature; raise `CAError`."""
    try:
        response = load_der_ocsp_response(der)
        if response.response_status is not OCSPResponseStatus.SUCCESSFUL:
            raise CAError("is an error, not a response")
        request = StatusRequest(
            ocsp.HASHES.get(response.hash_algorithm.name),
            response.issuer_name_hash,
            response.issuer_key_hash,
            response.serial_number,
            None,
        )
        status = CertificateStatus(
            response.certificate_status, response.revocation_time_utc, response.revocation_reason
        )
        this_update, next_update = response.this_update_utc, response.next_update_utc
        signature_hash = response.signature_hash_algorithm
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise CAError("is malformed") from error
    if status.status is OCSPCertStatus.UNKNOWN or next_update is None:
        raise CAError("has no status, or no end")
    for certificate, issuer in links:
        if certificate.serial_number == request.serial_number and ocsp.is_about(request, issuer):
            expected = keys.signature_hash(issuer.public_key())
            if (expected and expected.name) != (signature_hash and signature_hash.name):
                raise CAError("is signed with another algorithm than its issuer's")
            _verify_signature(response, issuer)
            return CAStatus(certificate, request, der, status, this_update, next_update)
    raise CAError("is about a certificate of another CA")


def _verify_signature(response: OCSPResponse, issuer: x509.Certificate) -> None:
    try:
        verify = keys.signature_verifier(issuer.public_key())
        verify(response.signature, response.tbs_response_bytes)
    except InvalidSignature as error:
        raise CAError("is not signed by the issuer of the certificate") from error
