"""The status of issued certificates: CRL, OCSP and renewal information. It needs no list of certificates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPResponseStatus

from service.audit import Recorder
from service.loaded_ca import LoadedCA
from service.ocsp_responders import OCSPResponders
from service.pki import certificate_reader, ocsp, ocsp_responder, renewal_info, revocation, serial
from service.pki.errors import CAError, CAUnavailable
from service.pki.issuer import Issuer
from service.pki.ocsp import StatusRequest
from service.pki.renewal_info import CertificateId, RenewalWindow, UnknownCertificate
from service.pki.revocation import RevokedCertificate
from service.pki.serial import SerialNumbers

_SignedCRL = tuple[Issuer, Mapping[int, RevokedCertificate], int, x509.CertificateRevocationList]


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


_UNAUTHORIZED: Final = StatusResponse(ocsp.error_response(OCSPResponseStatus.UNAUTHORIZED))


class StatusService:
    """Answer questions about certificates from the CA, its revocation list, and serial numbers."""

    def __init__(
        self,
        load_ca: Callable[[], LoadedCA],
        clock: Callable[[], datetime],
        record: Recorder,
        load_revoked: Callable[[], Mapping[int, RevokedCertificate]],
        max_backdate: timedelta,
    ) -> None:
        """Create the service.

        Args:
            load_ca: returns the CA, or raises `CAUnavailable`.
            clock: returns the current time, UTC.
            record: writes audit records of the certificates of delegated OCSP responders.
            load_revoked: returns the revoked certificates by serial number, or raises `CAUnavailable`.
            max_backdate: the largest backdate of the profiles.
        """
        self._load_ca = load_ca
        self._clock = clock
        self._load_revoked = load_revoked
        self._max_backdate = max_backdate
        self._responders = OCSPResponders(clock, record)
        self._crls: dict[bytes, _SignedCRL] = {}

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
        issuer: Issuer | None = ca.issuer
        if key_id is not None:
            issuer = ca.find_issuer(lambda certificate: certificate_reader.key_id(certificate) == key_id)
        if issuer is None or (issuer is not ca.issuer and now > issuer.not_after):
            raise UnknownIssuer("The CA signs no CRL with a key of this identifier")
        if not issuer.not_before <= now <= issuer.not_after:
            raise CAUnavailable("the CA's chain is not valid now")
        cache_key = serial.issuer_id(issuer.certificate)
        cached = self._crls.get(cache_key)
        window = max(revocation.crl_number(now), cached[2] if cached else 0)
        revoked = self._load_revoked()
        try:
            if cached is None or cached[:3] != (issuer, revoked, window):
                crl = issuer.sign_crl(_crl_builder(ca, issuer, revoked.values(), window))
                cached = self._crls[cache_key] = (issuer, revoked, window, crl)
        except (CAError, ValueError) as error:  # ValueError: a CRL cannot encode an entry
            raise CAUnavailable("the CRL cannot be created") from error
        return cached[3]

    def certificate_status(self, der: bytes, request_id: str = "") -> StatusResponse:
        """Answer an OCSP request, DER, which may be malformed.

        With a nonce, the status is that of now. Otherwise it is that of the start of the CRL's window, until
        the window ends. The status of a CA certificate was signed in advance, without a nonce.

        Args:
            der: the OCSP request.
            request_id: the gateway's ID of the request, for the audit log.

        Raises:
            CAUnavailable: the issuer, the revocation list or an OCSP responder is not available.
        """
        try:
            request = ocsp.parse_request(der)
        except ocsp.MalformedRequest:
            return StatusResponse(ocsp.error_response(OCSPResponseStatus.MALFORMED_REQUEST))
        ca, now = self._load_ca(), self._clock().replace(microsecond=0)
        if response := _find_signed_response(ca, request, now):
            return response
        issuer = ca.find_issuer(lambda certificate: ocsp.is_about(request, certificate))
        numbers = serial.find_issuer(issuer.certificate, ca.serial_numbers) if issuer else None
        if issuer is None or numbers is None:
            return _UNAUTHORIZED
        try:
            return self._sign_response(issuer, numbers, request, now, request_id)
        except CAUnavailable:
            raise
        except CAError as error:
            raise CAUnavailable("the status of the certificate is not available") from error

    def _sign_response(
        self, issuer: Issuer, numbers: SerialNumbers, request: StatusRequest, now: datetime, request_id: str
    ) -> StatusResponse:
        """Answer a request about a certificate of an issuer; raise `CAError` if that is not possible."""
        if not issuer.not_before <= now <= issuer.not_after:
            return _UNAUTHORIZED
        if not issuer.signs_ocsp and ocsp_responder.why_forbidden((issuer.certificate, *issuer.chain)):
            return _UNAUTHORIZED
        start = revocation.window_start(revocation.crl_number(now))
        this_update = now if request.nonce else max(start, issuer.not_before)
        status = ocsp.find_status(request.serial_number, self._load_revoked(), numbers, this_update)
        signer = issuer if issuer.signs_ocsp else self._responders.get(issuer, numbers, now, request_id)
        builder = ocsp.response_builder(request, status, this_update, signer.not_after)
        der = signer.sign_ocsp(builder).public_bytes(Encoding.DER)
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
        entry = self._load_revoked().get(certificate_id.serial_number)
        if entry and entry.revoked_at <= now:
            return renewal_info.window_of_revoked(entry.revoked_at)
        lifetime = numbers.recognize(certificate_id.serial_number)
        if lifetime is None:
            raise UnknownCertificate("The CA does not recognise the serial number")
        return renewal_info.window_of(certificate_id, lifetime, ca.early_renewal, self._max_backdate)


def _find_signed_response(ca: LoadedCA, request: StatusRequest, now: datetime) -> StatusResponse | None:
    """Find the response about a CA certificate that its issuer signed in advance; None if there is none."""
    window_end = revocation.window_start(revocation.crl_number(now) + 1)
    request = replace(request, nonce=None)
    for entry in ca.statuses:
        if entry.request == request and entry.this_update <= now < entry.next_update:
            max_age = min(window_end, entry.next_update) - now
            return StatusResponse(entry.der, max_age, hashlib.sha256(entry.der).hexdigest())
    return None


def _crl_builder(
    ca: LoadedCA, issuer: Issuer, revoked: Iterable[RevokedCertificate], window: int
) -> x509.CertificateRevocationListBuilder:
    """Build the CRL of an issuer of the CA. A time after the end of a previous issuer is not an error."""
    numbers = serial.find_issuer(issuer.certificate, ca.serial_numbers)
    others = [other for other in ca.serial_numbers if other is not numbers]
    if issuer is not ca.issuer:
        revoked = (entry for entry in revoked if entry.revoked_at <= issuer.not_after)
    return revocation.crl_builder(revoked, window, issuer.not_after, numbers, others)
