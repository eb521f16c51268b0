"""The status of issued certificates: CRL, OCSP and renewal information. It needs no list of certificates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPResponseStatus

from service.loaded_ca import LoadedCA
from service.pki import certificate_reader, ocsp, renewal_info, revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.issuer import Issuer
from service.pki.ocsp import StatusRequest
from service.pki.renewal_info import CertificateId, RenewalWindow, UnknownCertificate
from service.pki.revocation import RevokedCertificate


class UnknownIssuer(LookupError):
    """The CA does not sign for this issuer; the message says so."""


class StatusResponse(NamedTuple):
    """The response to an OCSP request.

    Attributes:
        der: the response, DER.
        max_age: how long a cache may return it, in whole seconds.
        version: a digest of the status and its time, in hexadecimal; '' if a cache may not return it.
    """

    der: bytes
    max_age: timedelta = timedelta()
    version: str = ""


class StatusService:
    """Answer questions about certificates from the CA, its revocation list, and serial numbers."""

    def __init__(
        self,
        load_ca: Callable[[], LoadedCA],
        clock: Callable[[], datetime],
        load_revoked: Callable[[], Mapping[int, RevokedCertificate]],
        max_backdate: timedelta,
    ) -> None:
        """Create the service.

        Args:
            load_ca: returns the CA, or raises `CAUnavailable`.
            clock: returns the current time, UTC.
            load_revoked: returns the revoked certificates by serial number, or raises `CAError`.
            max_backdate: the largest backdate of the profiles.
        """
        self._load_ca = load_ca
        self._clock = clock
        self._load_revoked = load_revoked
        self._max_backdate = max_backdate
        self._crl: (
            tuple[Issuer, Mapping[int, RevokedCertificate], int, x509.CertificateRevocationList] | None
        ) = None

    def current_crl(self, key_id: str | None = None) -> x509.CertificateRevocationList:
        """Return the current CRL, which is signed once per window, CA and revocation list.

        If the clock goes back, the window does not: an older CRL would miss later revocations.

        Args:
            key_id: the issuer's `certificate_reader.key_id`; None for the issuing CA.

        Raises:
            UnknownIssuer: the CA does not sign for this issuer.
            CAUnavailable: the issuer or the revocation list is not available, or the issuer is not valid now.
        """
        ca, now = self._load_ca(), self._clock()
        issuer = ca.issuer
        if key_id not in (None, certificate_reader.key_id(issuer.certificate)):
            raise UnknownIssuer("The CA signs no CRL with a key of this identifier")
        if not issuer.not_before <= now <= issuer.not_after:
            raise CAUnavailable("the CA's chain is not valid now")
        window = max(revocation.crl_number(now), self._crl[2] if self._crl else 0)
        try:
            revoked = self._load_revoked()
            if self._crl is None or self._crl[:3] != (issuer, revoked, window):
                builder = revocation.crl_builder(
                    revoked.values(), window, issuer.not_after, ca.serial_numbers
                )
                self._crl = (issuer, revoked, window, issuer.sign_crl(builder))
        except (CAError, ValueError) as error:  # ValueError: a CRL cannot encode an entry
            raise CAUnavailable("the CRL cannot be created") from error
        return self._crl[3]

    def certificate_status(self, der: bytes) -> StatusResponse:
        """Answer an OCSP request, DER, which may be malformed.

        With a nonce, the status is that of now. Otherwise it is that of the start of the CRL's window, until
        the window ends.

        Raises:
            CAUnavailable: the issuer or the revocation list is not available.
        """
        try:
            request = ocsp.parse_request(der)
        except ocsp.MalformedRequest:
            return StatusResponse(ocsp.error_response(OCSPResponseStatus.MALFORMED_REQUEST))
        return self._certificate_status(request, self._clock().replace(microsecond=0))

    def _certificate_status(self, request: StatusRequest, now: datetime) -> StatusResponse:
        ca = self._load_ca()
        issuer = ca.issuer
        is_valid = issuer.not_before <= now <= issuer.not_after
        can_sign = issuer.may_sign_ocsp and ca.has_free_signatures and is_valid
        if not ca.serial_numbers or not can_sign or not ocsp.is_about(request, issuer.certificate):
            return StatusResponse(ocsp.error_response(OCSPResponseStatus.UNAUTHORIZED))
        start = revocation.window_start(revocation.crl_number(now))
        this_update = now if request.nonce else max(start, issuer.not_before)
        try:
            revoked = self._load_revoked()
            status = ocsp.find_status(request.serial_number, revoked, ca.serial_numbers[0], this_update)
            builder = ocsp.response_builder(request, status, this_update, issuer.not_after)
            response = issuer.sign_ocsp(builder)
        except CAError as error:
            raise CAUnavailable("the status of the certificate is not available") from error
        der = response.public_bytes(Encoding.DER)
        if request.nonce:
            return StatusResponse(der)
        version = hashlib.sha256(f"{this_update} {status}".encode()).hexdigest()
        return StatusResponse(der, start + revocation.WINDOW - now, version)

    def renewal_window(self, certificate_id: CertificateId) -> RenewalWindow:
        """Return the time in which to renew a certificate. It has passed if the certificate is revoked.

        Raises:
            UnknownCertificate: the certificate's lifetime is not known.
            CAUnavailable: the issuer or the revocation list is not available.
        """
        ca, now = self._load_ca(), self._clock()
        if not ca.serial_numbers:
            raise UnknownCertificate("The CA has no serial.key, so it does not know when certificates end")
        numbers = renewal_info.find_serial_numbers(certificate_id, ca.serial_numbers)
        try:
            entry = self._load_revoked().get(certificate_id.serial_number)
        except CAError as error:
            raise CAUnavailable("the revocation list cannot be loaded") from error
        if entry and entry.revoked_at <= now:
            return renewal_info.window_of_revoked(entry.revoked_at)
        lifetime = numbers.recognize(certificate_id.serial_number)
        if lifetime is None:
            raise UnknownCertificate("The CA does not recognise the serial number")
        return renewal_info.window_of(certificate_id, lifetime, ca.early_renewal, self._max_backdate)
