"""Revoke certificates in a ledger: CRL, OCSP and renewal information then change without a restart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from cryptography import x509

from service.audit import AuditRecord, Recorder
from service.intent import with_token
from service.ledger_protocol import Ledger
from service.loaded_ca import LoadedCA
from service.pki import certificate_reader, encoding, revocation, serial
from service.pki.errors import CAError, CAUnavailable, IssuanceError, NotFound
from service.pki.revocation import RevokedCertificate
from service.pki.token_identity import TokenIdentity

NOT_ISSUED: Final = "The certificate was not issued by this CA"
NO_LEDGER: Final = (
    "This service has no ledger: its administrator revokes certificates with certlet revoke, which changes "
    "revoked.yaml"
)


@dataclass(frozen=True)
class RevocationRequest:
    """A request to revoke a certificate.

    Attributes:
        certificate: the certificate, or only its serial number.
        reason: the reason; None for an unspecified one.
        principal, session: the caller, as in `AuditRecord`.
        request_id: the gateway's ID of the request.
        token: the token of the caller; None if it has none.
    """

    certificate: x509.Certificate | int
    reason: x509.ReasonFlags | None
    principal: str
    session: str
    request_id: str
    token: TokenIdentity | None = None

    @property
    def serial_number(self) -> int:
        """The serial number of the certificate."""
        certificate = self.certificate
        return certificate if isinstance(certificate, int) else certificate.serial_number


class Revocation(NamedTuple):
    """A revoked certificate, and when verifiers know of it; times are UTC.

    Attributes:
        entry: the entry with the earliest time.
        is_new: whether this request revoked it.
        listed_at: the time from which the CRL lists it, and OCSP responses without a nonce say it.
        known_at: the time until which a verifier may use an earlier CRL or OCSP response.
        notes: reasons why some verifiers do not learn of it.
    """

    entry: RevokedCertificate
    is_new: bool
    listed_at: datetime
    known_at: datetime
    notes: tuple[str, ...]


class Revocations:
    """Revokes certificates of a CA and of its predecessors."""

    def __init__(
        self,
        load_ca: Callable[[], LoadedCA],
        clock: Callable[[], datetime],
        record: Recorder,
        load_revoked: Callable[[], Mapping[int, RevokedCertificate]],
    ) -> None:
        """Create the service. The arguments are those of `StatusService`."""
        self._load_ca = load_ca
        self._clock = clock
        self._record = record
        self._load_revoked = load_revoked

    def revoke(
        self, request: RevocationRequest, ledger: Ledger | None, authorize: Callable[[], None]
    ) -> Revocation:
        """Revoke a certificate that the CA issued, and record it or the refusal.

        Args:
            ledger: stores the revocation, which `load_revoked` then returns; None for no ledger.
            request: the request.
            authorize: called after the certificate's signature, or its serial number, was verified; raises
                `Unauthorized` if the caller may not revoke it.

        Returns:
            the revocation; that of before if the certificate is revoked already.

        Raises:
            NotFound: there is no ledger, or the CA did not issue the certificate.
            Unauthorized: as `authorize`.
            CAUnavailable: the CA, the ledger or the revocation list is not available, or the audit log cannot
                be written.
        """
        now = self._clock().replace(microsecond=0)
        try:
            return self._revoke(request, ledger, authorize, now)
        except CAError:
            raise
        except IssuanceError as error:
            reasons = [f"{reason.code} {reason.field}: {reason.detail}" for reason in error.subproblems]
            self._write(request, now, "refusal", *reasons)
            raise

    def verify_issued(self, certificate: x509.Certificate) -> None:
        """Verify that the CA issued a certificate, for a caller that the CA does not know.

        The serial number is verified first, since it costs no work with public keys.

        Raises:
            NotFound: it did not.
            CAUnavailable: the CA is not available.
        """
        ca = self._load_ca()
        if ca.serial_numbers and serial.recognize(certificate.serial_number, ca.serial_numbers) is None:
            raise NotFound(NOT_ISSUED, "certificate")
        _find_issuer(ca, certificate)

    def _revoke(
        self,
        request: RevocationRequest,
        ledger: Ledger | None,
        authorize: Callable[[], None],
        now: datetime,
    ) -> Revocation:
        if ledger is None:
            raise NotFound(NO_LEDGER)
        ca = self._load_ca()
        issuer = _find_issuer(ca, request.certificate)
        authorize()
        entry = self._load_revoked().get(request.serial_number)
        is_new = entry is None or entry.revoked_at > now
        if entry is None or is_new:
            self._write(request, now, "revocation", *([request.reason.value] if request.reason else []))
            entry = RevokedCertificate(request.serial_number, now, request.reason)
            is_new = ledger.add_revocation(entry)
            if not is_new:  # another process revoked it in the meantime
                entry = self._load_revoked().get(request.serial_number) or entry
        listed_at = revocation.window_start(revocation.crl_number(entry.revoked_at) + 1)
        known_at = min(listed_at + revocation.NEXT_UPDATE, issuer.not_valid_after_utc)
        return Revocation(
            entry, is_new, listed_at, known_at, tuple(_notes(ca, issuer, request.certificate, now))
        )

    def _write(
        self,
        request: RevocationRequest,
        now: datetime,
        event: Literal["refusal", "revocation"],
        *reasons: str,
    ) -> None:
        record = AuditRecord(
            event=event,
            time=encoding.format_timestamp(now),
            request_id=request.request_id,
            principal=request.principal,
            session=request.session,
            profile="",
            serial_number=encoding.format_serial(request.serial_number),
            reasons=reasons,
        )
        try:
            self._record([with_token(record, request.token)])
        except OSError as error:
            raise CAUnavailable("the audit log cannot be written") from error


def _find_issuer(ca: LoadedCA, certificate: x509.Certificate | int) -> x509.Certificate:
    """Find the issuer of a certificate: the CA or a predecessor. A serial number must be recognised."""
    issuers = [ca.issuer.certificate, *certificate_reader.omit_superiors(ca.issuer.predecessors)]
    if isinstance(certificate, int):
        if issuer := serial.find_recognizing_issuer(certificate, issuers, ca.serial_numbers):
            return issuer
        raise NotFound("The CA does not recognise the serial number: send the certificate", "serial_number")
    if issuer := certificate_reader.find_issuer(certificate, issuers):
        return issuer
    raise NotFound(NOT_ISSUED, "certificate")


def _notes(
    ca: LoadedCA, issuer: x509.Certificate, certificate: x509.Certificate | int, now: datetime
) -> Iterator[str]:
    with contextlib.suppress(CAUnavailable):
        if ca.find_issuer(lambda other: other == issuer) is None:
            yield "the key of the certificate's issuer is gone, so no CRL and no OCSP response says it"
    if isinstance(certificate, int):
        lifetime = serial.recognize(certificate, ca.serial_numbers)
        end = lifetime.end if lifetime else None
    else:
        end = certificate.not_valid_after_utc
        if not certificate_reader.names_status(certificate):
            text = encoding.format_timestamp(end)
            yield f"the certificate names neither CRL nor OCSP: verifiers may accept it until {text}"
    if end and end < now:
        yield f"the certificate ended at {encoding.format_timestamp(end)}"
