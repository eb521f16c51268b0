"""OCSP: the status of a certificate (RFC 6960, RFC 9654), one certificate a request (RFC 9919).

The status follows from the revocation list and the serial number. No list of certificates is necessary.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPRequestBuilder,
    OCSPResponseBuilder,
    OCSPResponseStatus,
    load_der_ocsp_request,
)

from service.pki.revocation import NEXT_UPDATE, RevokedCertificate
from service.pki.serial import SerialNumbers

MAX_NONCE_BYTES: Final = 128  # RFC 9654 2.1
HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256()}  # noqa: S303 - names a certificate  # nosec B303
_EXTENDED_REVOKE: Final = x509.UnrecognizedExtension(  # RFC 6960 4.4.8: NULL; the library has no class for it
    x509.ObjectIdentifier("1.3.6.1.5.5.7.48.1.9"), b"\x05\x00"
)


class MalformedRequest(ValueError):
    """The request is malformed, or has not exactly one question."""


@dataclass(frozen=True)
class StatusRequest:
    """The question of a request.

    Attributes:
        hash_algorithm: SHA-1 or SHA-256; None for another one, by which no issuer is identified.
        issuer_name_hash, issuer_key_hash: the digests of the issuer's name and key.
        serial_number: the certificate's serial number.
        nonce: 1 to `MAX_NONCE_BYTES` octets that the response has to contain; None if there are none.
    """

    hash_algorithm: hashes.HashAlgorithm | None
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_number: int
    nonce: bytes | None


class CertificateStatus(NamedTuple):
    """The status of a certificate, with time (UTC) and reason of a revocation (RFC 6960 2.2).

    Attributes:
        is_extended: whether the status is for a serial number that was never issued.
    """

    status: OCSPCertStatus
    revoked_at: datetime | None = None
    reason: x509.ReasonFlags | None = None
    is_extended: bool = False


_NEVER_ISSUED: Final = CertificateStatus(  # RFC 6960 2.2 requires this time and reason
    OCSPCertStatus.REVOKED,
    datetime(1970, 1, 1, tzinfo=UTC),
    x509.ReasonFlags.certificate_hold,
    is_extended=True,
)


def parse_request(der: bytes) -> StatusRequest:
    """Parse a request, DER. Its optional signature is ignored.

    Raises:
        MalformedRequest: it is malformed, has not exactly one question, a negative serial number, an empty or
            too long nonce, or an unsupported critical extension.
    """
    try:
        request = load_der_ocsp_request(der)
        serial_number, extensions = request.serial_number, list(request.extensions)
        name_hash, key_hash = request.issuer_name_hash, request.issuer_key_hash
    except NotImplementedError as error:
        raise MalformedRequest("the request has not exactly one question") from error
    except (ValueError, x509.DuplicateExtension) as error:
        raise MalformedRequest("the request is malformed") from error
    if serial_number < 0:  # no response can repeat it
        raise MalformedRequest("the serial number is negative")
    nonce = None
    for extension in extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonce = extension.value.nonce
            # The library also accepts a nonce that is not an OCTET STRING inside that of the extension.
            encoded = asn1.encode_der(extension.value.public_bytes())
            if not 0 < len(nonce) <= MAX_NONCE_BYTES or encoded not in der:
                raise MalformedRequest("the nonce is malformed")
        elif extension.critical:
            raise MalformedRequest("a critical extension is not supported")
    try:
        algorithm = HASHES.get(request.hash_algorithm.name)
    except UnsupportedAlgorithm:
        algorithm = None
    return StatusRequest(algorithm, name_hash, key_hash, serial_number, nonce)


def create_request(certificate: x509.Certificate, issuer: x509.Certificate, hash_name: str) -> StatusRequest:
    """Create the request about a certificate by a hash of `HASHES`, without a nonce."""
    return StatusRequest(
        HASHES[hash_name], *_issuer_hashes(issuer, hash_name), certificate.serial_number, None
    )


def is_about(request: StatusRequest, issuer: x509.Certificate) -> bool:
    """Whether a request is about a certificate of this issuer."""
    if request.hash_algorithm is None:
        return False
    hashes_of_issuer = _issuer_hashes(issuer, request.hash_algorithm.name)
    return (request.issuer_name_hash, request.issuer_key_hash) == hashes_of_issuer


def find_status(
    serial_number: int, revoked: Mapping[int, RevokedCertificate], numbers: SerialNumbers, now: datetime
) -> CertificateStatus:
    """Find the status of a certificate at a time, UTC.

    Without a valid tag, a serial number was never issued if all serial numbers of the issuer have a tag;
    otherwise it is unknown. After the end of its certificate it is unknown, too.
    """
    entry = revoked.get(serial_number)
    if entry and entry.revoked_at <= now:
        return CertificateStatus(OCSPCertStatus.REVOKED, entry.revoked_at, entry.reason)
    lifetime = numbers.recognize(serial_number)
    if lifetime is None and numbers.all_tagged:
        return _NEVER_ISSUED
    if lifetime is None or lifetime.end <= now:
        return CertificateStatus(OCSPCertStatus.UNKNOWN)
    return CertificateStatus(OCSPCertStatus.GOOD)


def response_builder(
    request: StatusRequest,
    status: CertificateStatus,
    this_update: datetime,
    not_after: datetime,
    validity: timedelta = NEXT_UPDATE,
) -> OCSPResponseBuilder:
    """Build the response to a request that `is_about` the issuer, for `sign_ocsp`.

    Args:
        request: the request; its nonce becomes part of the response.
        status: the status at `this_update`.
        this_update: the time of the status, UTC, in whole seconds.
        not_after: the responder's end, UTC, which the response does not outlive.
        validity: the period from `this_update` in which the response is valid.
    """
    assert request.hash_algorithm is not None  # noqa: S101 - otherwise it is about no issuer  # nosec B101
    builder = OCSPResponseBuilder().add_response_by_hash(
        request.issuer_name_hash,
        request.issuer_key_hash,
        request.serial_number,
        request.hash_algorithm,
        status.status,
        this_update,
        min(this_update + validity, not_after),
        status.revoked_at,
        status.reason,
    )
    if request.nonce:
        builder = builder.add_extension(x509.OCSPNonce(request.nonce), critical=False)
    if status.is_extended:
        builder = builder.add_extension(_EXTENDED_REVOKE, critical=False)
    return builder


@functools.cache
def error_response(status: OCSPResponseStatus) -> bytes:
    """The response without an answer (RFC 6960 2.3), DER; it is not signed."""
    return OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


@functools.lru_cache(64)
def _issuer_hashes(issuer: x509.Certificate, hash_name: str) -> tuple[bytes, bytes]:
    """The digests of an issuer's name and key (RFC 6960 4.1.1)."""
    name = hashes.Hash(HASHES[hash_name])
    name.update(issuer.subject.public_bytes())
    request = OCSPRequestBuilder().add_certificate(issuer, issuer, HASHES[hash_name]).build()
    return name.finalize(), request.issuer_key_hash
