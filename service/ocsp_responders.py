"""The delegated OCSP responders of this process. Their keys exist only in memory."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from service.audit import Recorder
from service.intent import intent_record
from service.pki import encoding, ocsp_responder, revocation, serial
from service.pki.errors import CAError, CAUnavailable
from service.pki.issuer import Issuer
from service.pki.ocsp_responder import DelegatedResponder
from service.pki.serial import SerialNumbers

PRINCIPAL: Final = "service:ocsp"
RETRY_AFTER: Final = timedelta(seconds=10)  # strangers cause no more audit records and paid signatures

_log = logging.getLogger(__name__)


class OCSPResponders:
    """One delegated responder for each issuer, which certifies it at the first request, and again in time."""

    def __init__(self, clock: Callable[[], datetime], record: Recorder) -> None:
        """Start without responders.

        Args:
            clock: returns the current time, UTC.
            record: writes audit records.
        """
        self._clock = clock
        self._record = record
        self._responders: dict[x509.Certificate, DelegatedResponder] = {}
        self._failures: dict[x509.Certificate, datetime] = {}

    def get(
        self, issuer: Issuer, numbers: SerialNumbers, now: datetime, request_id: str
    ) -> DelegatedResponder:
        """Return the responder of an issuer, whose certificate lives as long as a response that starts now.

        If no new certificate can be issued, the earlier one stays in use until it ends.

        Args:
            issuer: the issuer, which is valid now.
            numbers: the serial numbers of the issuer.
            now: the current time, UTC, in whole seconds.
            request_id: the gateway's ID of the request, for the audit log.

        Raises:
            CAError: the issuer does not sign, or the audit log cannot be written.
        """
        current = self._responders.get(issuer.certificate)
        needed_until = min(now + revocation.NEXT_UPDATE, issuer.not_after)
        needed_from = max(now - revocation.WINDOW, issuer.not_before)
        if current and current.not_before <= needed_from and needed_until <= current.not_after:
            return current
        try:
            self._responders[issuer.certificate] = self._try_issue(issuer, numbers, now, request_id)
        except CAError as error:
            if current is None or not current.not_before <= now <= current.not_after - revocation.WINDOW:
                raise
            if self._failures[issuer.certificate] == now:  # not for each request
                _log.warning("the earlier OCSP responder stays in use: %s", error.detail)
        return self._responders[issuer.certificate]

    def _try_issue(
        self, issuer: Issuer, numbers: SerialNumbers, now: datetime, request_id: str
    ) -> DelegatedResponder:
        """Issue a certificate, unless that has just failed."""
        failed_at = self._failures.get(issuer.certificate)
        if failed_at and abs(now - failed_at) < RETRY_AFTER:
            raise CAUnavailable("the certificate of the OCSP responder could not be issued just now")
        self._failures[issuer.certificate] = now
        try:
            responder = self._issue(issuer, numbers, now, request_id)
        except OSError as error:
            raise CAUnavailable("the audit log cannot be written") from error
        del self._failures[issuer.certificate]
        return responder

    def _issue(
        self, issuer: Issuer, numbers: SerialNumbers, now: datetime, request_id: str
    ) -> DelegatedResponder:
        """Create a key, and issue its certificate: record the intent, sign, verify, record the result."""
        private_key, started_at = ec.generate_private_key(ec.SECP256R1()), self._clock()
        spec = ocsp_responder.create_spec(issuer, private_key.public_key(), now)
        random = secrets.randbits(serial.RANDOM_BITS)
        serial_number = numbers.create(random, spec.not_before, spec.not_after)
        intent = intent_record(spec, serial_number, now, request_id=request_id, principal=PRINCIPAL)
        self._record([intent])
        certificate = issuer.sign(spec.builder(serial_number))
        milliseconds = max(0, round((self._clock() - started_at).total_seconds() * 1000))
        fingerprint = encoding.fingerprint(certificate)
        self._record(
            [intent._replace(event="result", fingerprint_sha256=fingerprint, milliseconds=milliseconds)]
        )
        return DelegatedResponder(certificate, private_key)
