"""The story of one certificate: load, prove, permit, template, intent, sign, verify, result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from service.audit import Event, Recorder
from service.pki import csr, encoding, template
from service.pki.errors import IssuanceError, IssuerError, IssuerUnavailable
from service.pki.issuer import Issuer
from service.pki.profile import Profiles
from service.pki.template import Template


class PrincipalKind(StrEnum):
    """How the caller proved who it is."""

    API_KEY = "api_key"


@dataclass(frozen=True)
class Principal:
    """Who asks, from the caller's credentials; never from the certification request."""

    kind: PrincipalKind
    name: str


@dataclass(frozen=True)
class Order:
    """One request to issue, as it came in.

    Attributes:
        csr: the certification request as sent: PEM, DER, or base64.
        profile: the profile's name; None for the default one.
        principal: who asks.
        request_id: the gateway's name for the request.
    """

    csr: bytes
    profile: str | None
    principal: Principal
    request_id: str


@dataclass(frozen=True)
class Issued:
    """A certificate that was signed, verified and recorded."""

    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    template: Template


class Authority:
    """A certificate authority: an issuer, profiles, a clock and a record, and nothing stored."""

    def __init__(
        self,
        issuer: Callable[[], Issuer],
        profiles: Profiles,
        clock: Callable[[], datetime],
        record: Recorder,
        serial_number: Callable[[], int] = x509.random_serial_number,
    ) -> None:
        """Put an authority together.

        Args:
            issuer: gives the issuer, or raises `IssuerError`; asked for each time, so that an
                issuer that could not be had is tried again.
            profiles: what may be issued.
            clock: the time, UTC; read once a request.
            record: writes the audit events.
            serial_number: 159 random bits, never zero (RFC 5280 4.1.2.2).
        """
        self._issuer = issuer
        self.profiles = profiles
        self._clock = clock
        self._record = record
        self._serial_number = serial_number

    def issuer(self) -> Issuer:
        """The issuer, whether or not it may issue now.

        Raises:
            IssuerUnavailable: it cannot be had; the cause is for the log alone.
        """
        try:
            return self._issuer()
        except IssuerUnavailable:
            raise
        except IssuerError as error:
            raise IssuerUnavailable("the CA cannot be loaded") from error

    def ready_issuer(self) -> Issuer:
        """The issuer, which is valid now and for an hour yet.

        Raises:
            IssuerUnavailable: it cannot be had, is not valid now, or ends within the hour.
        """
        issuer = self.issuer()
        template.verify_time(issuer, self._clock())
        return issuer

    def issue(self, order: Order) -> Issued:
        """Issue one certificate, or refuse; either way it is recorded.

        Raises:
            RequestError: the request cannot be granted, for every reason that it names.
            NotPermitted: the principal may not have it.
            IssuerError: what the issuer signed does not verify.
            IssuerUnavailable: the issuer cannot be had or is not valid now, or the record cannot be
                written; then nothing was signed, or what was signed is withheld.
        """
        now = self._clock()
        try:
            planned = self._plan(order, now)
        except IssuanceError as refusal:
            self._write(_refusal(order, now, refusal))
            raise
        return self._sign(order, now, *planned)

    def _plan(self, order: Order, now: datetime) -> tuple[Issuer, Template]:
        request = csr.load(order.csr)
        profile = self.profiles.named(order.profile)
        issuer = self.issuer()
        return issuer, template.plan(request, profile, self.profiles, issuer, now)

    def _sign(self, order: Order, now: datetime, issuer: Issuer, planned: Template) -> Issued:
        serial_number = self._serial_number()
        self._write(_issuance("intent", order, now, planned, serial_number))
        certificate = issuer.sign(planned.builder(issuer, serial_number))
        fingerprint = encoding.fingerprint(certificate)
        self._write(_issuance("result", order, now, planned, serial_number, fingerprint))
        return Issued(certificate, issuer.intermediates, planned)

    def _write(self, event: Event) -> None:
        try:
            self._record(event)
        except OSError as error:
            raise IssuerUnavailable("the audit log cannot be written") from error


def _refusal(order: Order, now: datetime, refusal: IssuanceError) -> Event:
    return Event(
        event="refusal",
        time=encoding.timestamp(now),
        request_id=order.request_id,
        principal=order.principal.name,
        profile=order.profile or "",
        reasons=tuple(f"{reason.code} {reason.field}: {reason.detail}" for reason in refusal.reasons),
    )


def _issuance(
    event: Literal["intent", "result"],
    order: Order,
    now: datetime,
    planned: Template,
    serial: int,
    fingerprint: str = "",
) -> Event:
    common_names = planned.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Event(
        event=event,
        time=encoding.timestamp(now),
        request_id=order.request_id,
        principal=order.principal.name,
        profile=planned.profile.name,
        serial_number=encoding.serial(serial),
        names=tuple(map(str, planned.names)),
        common_name=str(common_names[0].value) if common_names else "",
        subject_public_key_sha256=hashlib.sha256(planned.subject_public_key_info).hexdigest(),
        not_before=encoding.timestamp(planned.not_before),
        not_after=encoding.timestamp(planned.not_after),
        fingerprint_sha256=fingerprint,
    )
