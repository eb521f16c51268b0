"""The story of one certificate: load, prove, permit, template, intent, sign, verify, result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import repeat
from typing import Final, Protocol, TypeVar

from cryptography import x509
from cryptography.x509.oid import AttributeOID

from service.audit import Event, Recorder
from service.pki import csr, encoding, idempotency, renewal, revocation, template
from service.pki.csr import CertificationRequest
from service.pki.draft import Plan
from service.pki.errors import (
    BadCSR,
    BadPublicKey,
    IssuanceError,
    IssuerError,
    IssuerUnavailable,
    NotPermitted,
    RejectedValidity,
    RequestError,
)
from service.pki.issuer import Issuer
from service.pki.policy import Profiles
from service.pki.profile import NOTHING, Asked
from service.pki.renewal import Presented
from service.pki.revocation import Revoked
from service.pki.template import CertificateSpec
from service.pki.weakness import DenyList

_A = TypeVar("_A")
_B = TypeVar("_B")
_T = TypeVar("_T")

NO_CALLER: Final = (
    "This needs a valid API key: in the x-api-key header, or for EST as the password of HTTP Basic."
)
NO_CERTIFICATE: Final = "This needs a client certificate of this CA in the TLS handshake."
NO_LINK: Final = (
    "the request has a challengePassword, which links it to a TLS session (RFC 7030 3.5): that is not "
    "supported, for TLS 1.3 has no tls-unique, and a gateway that ends TLS does not tell it"
)


class PrincipalKind(StrEnum):
    """How the caller proved who it is."""

    API_KEY = "api_key"
    IAM = "iam"
    AUTHORIZER = "authorizer"
    CLIENT_CERTIFICATE = "client_certificate"


@dataclass(frozen=True)
class Principal:
    """Who asks, from the caller's credentials; never from the certification request.

    Attributes:
        kind: how that was proved.
        name: what profiles and the audit log call it: an API key's name, an IAM caller's ARN,
            `authorizer:` and whom an authorizer named, or `certificate:` and the serial number of a client
            certificate.
    """

    kind: PrincipalKind
    name: str


@dataclass(frozen=True)
class IssuanceRequest:
    """One request to issue, as it came in.

    Attributes:
        csr: the certification request as sent: PEM, DER, or base64.
        profile: the profile's name; None for the default one.
        principal: who asks; None if nobody that the gateway knows.
        request_id: the gateway's name for the request.
        validity: how long it is to be valid, ISO 8601; None if it is not said.
        not_after: or until when, RFC 3339.
        idempotency_key: what makes a retry the same request; None for a certificate of its own.
        is_est: whether it came by EST, where a challengePassword means something (RFC 7030 3.5).
        presented: the client certificate that it renews, proved; None for a first one.
    """

    csr: bytes = field(repr=False)  # it may hold a challengePassword
    profile: str | None
    principal: Principal | None
    request_id: str
    validity: str | None = None
    not_after: str | None = None
    idempotency_key: str | None = None
    is_est: bool = False
    presented: Presented | None = None


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate that was signed, verified and recorded.

    Attributes:
        der: the certificate.
        serial_number: the certificate's.
        intermediates: what a TLS server sends after it.
        template: what it holds, and notes on what was asked for.
        fingerprint_sha256: of the certificate, hexadecimal.
        idempotent_until: until when a retry gets this very one, UTC; None if no retry does.
    """

    der: bytes
    serial_number: int
    intermediates: tuple[x509.Certificate, ...]
    template: CertificateSpec
    fingerprint_sha256: str
    idempotent_until: datetime | None

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate, read."""
        return x509.load_der_x509_certificate(self.der)


@dataclass(frozen=True)
class Custody:
    """What a CA keeps, and is loaded with.

    Attributes:
        issuer: signs.
        serial_secret: what idempotent serial numbers are made with; None for none.
        deny_list: keys that are never certified.
    """

    issuer: Issuer
    serial_secret: bytes | None = field(default=None, repr=False)
    deny_list: DenyList = field(default_factory=DenyList)


@dataclass(frozen=True)
class _Planned:
    """An order that can be granted."""

    order: IssuanceRequest
    now: datetime
    request: CertificationRequest
    kept: Custody
    template: CertificateSpec
    window: idempotency.Window | None


@dataclass(frozen=True)
class _Intended:
    """What was written down, and is to be signed."""

    planned: _Planned
    serial_number: int
    event: Event


class Mapper(Protocol):
    """As `map`."""

    def __call__(self, function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterable[_B]:
        """What a function makes of each item, in their order."""


class Authority:
    """A certificate authority: what it keeps, profiles, a clock and a record, and nothing stored."""

    def __init__(
        self,
        custody: Callable[[], Custody],
        profiles: Profiles,
        clock: Callable[[], datetime],
        record: Recorder,
        revoked: Callable[[], Sequence[Revoked]] = tuple,
        together: Callable[[], Mapper] = lambda: map,
    ) -> None:
        """Put an authority together.

        Args:
            custody: gives the issuer and what goes with it, or raises `IssuerError`; asked for each
                time, so that an issuer that could not be had is tried again.
            profiles: what may be issued.
            clock: the time, UTC; a request is decided at one time.
            record: writes the audit events.
            revoked: gives what was revoked, or raises `IssuerError`; asked once a window, so that a
                list may change while the authority runs.
            together: gives what makes several signatures at once; asked for by keys that sign slowly.
        """
        self._custody = custody
        self.profiles = profiles
        self._clock = clock
        self._record = record
        self._revoked = revoked
        self._together = together
        self._crl: tuple[Issuer, int, x509.CertificateRevocationList] | None = None

    def issuer(self) -> Issuer:
        """The issuer, whether or not it may issue now.

        Raises:
            IssuerUnavailable: it cannot be had; the cause is for the log alone.
        """
        return self._kept().issuer

    def _kept(self) -> Custody:
        try:
            return self._custody()
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

    def crl(self) -> x509.CertificateRevocationList:
        """The certificate revocation list of now, signed once in each window.

        Raises:
            IssuerUnavailable: the issuer or the list cannot be had, or the issuer is not valid now.
        """
        issuer, now = self.issuer(), self._clock()
        window = revocation.window(now)
        if self._crl is None or self._crl[:2] != (issuer, window):
            if not issuer.not_before <= now <= issuer.not_after:
                raise IssuerUnavailable("the CA's chain is not valid now")
            try:
                builder = revocation.builder(self._revoked(), window, issuer.not_after)
                self._crl = (issuer, window, issuer.sign_crl(builder))
            except IssuerError as error:
                raise IssuerUnavailable("the list of what was revoked cannot be had or signed") from error
        return self._crl[2]

    def issue(self, order: IssuanceRequest) -> IssuedCertificate:
        """Issue one certificate, or refuse; either way it is recorded.

        Raises:
            RequestError: the request cannot be granted, for every reason that it names.
            NotPermitted: the principal may not have it, or there is none.
            IssuerError: what the issuer signed does not verify.
            IssuerUnavailable: the issuer cannot be had or is not valid now, or the record cannot be
                written; then nothing was signed, or what was signed is withheld.
        """
        intended = _intend(self._decide(order))
        self._write([intended.event])
        issued, result = self._result(intended, self._sign(intended))
        self._write([result])
        return issued

    def renew(self, order: IssuanceRequest, presented: bytes | None) -> IssuedCertificate:
        """Issue a certificate in place of the one that the caller presents, to whoever has its key.

        Args:
            order: with the profile that a label names, and without a principal, which the certificate is.
            presented: the client certificate, PEM, as the gateway got it; None if there was none.

        Raises:
            NotPermitted: it is not one of this CA that may be renewed; or of another profile.
            RequestError: as `issue`; or its names are not those that would be issued.
            IssuerError, IssuerUnavailable: as `issue`; or it cannot be told what was revoked.
        """
        now = self._clock()
        try:
            renewing = self._recognize(order, presented, now)
        except IssuanceError as refusal:
            raise self._recorded(order, now, refusal, None) from refusal.__cause__
        return self.issue(renewing)

    def _recognize(self, order: IssuanceRequest, presented: bytes | None, now: datetime) -> IssuanceRequest:
        if presented is None:
            raise NotPermitted(NO_CERTIFICATE)
        held, kept = renewal.load(presented), self._kept()
        try:
            revoked = [each.serial_number for each in self._revoked()]
        except IssuerError as error:
            raise IssuerUnavailable("the list of what was revoked cannot be had") from error
        renewal.verify(held, kept.issuer, revoked, kept.deny_list, now)
        profile = renewal.profile(held, self.profiles, order.profile)
        name = f"certificate:{encoding.serial(held.serial_number)}"
        principal = Principal(PrincipalKind.CLIENT_CERTIFICATE, name)
        return replace(order, profile=profile.name, principal=principal, presented=held)

    def issue_all(self, orders: Sequence[IssuanceRequest]) -> list[IssuedCertificate | IssuanceError]:
        """Issue several certificates: what `issue` does, and raises, for each of them, in their order.

        Each step is taken for all of them before the next one, and recorded in one write: the same work in a
        row takes a processor three quarters of the time that it takes by turns.
        """
        now = self._clock()
        requests = [_attempt(self._prove, order) for order in orders]
        planned = [_attempt(self._plan, *each) for each in zip(orders, repeat(now), requests, strict=False)]
        refusals = [
            self._refusal(order, now, each, request if isinstance(request, CertificationRequest) else None)
            for order, request, each in zip(orders, requests, planned, strict=True)
            if isinstance(each, IssuanceError)
        ]
        unrecorded = self._unwritten(refusals)
        decided = [unrecorded or each if isinstance(each, IssuanceError) else each for each in planned]
        intended = [_attempt(_intend, each) for each in decided]
        intents = [each.event for each in intended if isinstance(each, _Intended)]
        signed = self._sign_all(_unless(self._unwritten(intents), intended))
        released = [_attempt(self._result, *each) for each in zip(intended, signed, strict=True)]
        results = [each[1] for each in released if isinstance(each, tuple)]
        released = _unless(self._unwritten(results), released)
        return [each if isinstance(each, IssuanceError) else each[0] for each in released]

    def examine(self, order: IssuanceRequest) -> CertificateSpec:
        """What `issue` would issue; nothing is signed. A refusal is recorded as any other.

        Raises:
            RequestError, NotPermitted, IssuerUnavailable: as `issue`.
        """
        return self._decide(order).template

    def _decide(self, order: IssuanceRequest) -> _Planned:
        now, request = self._clock(), None
        try:
            request = self._prove(order)
            return self._plan(order, now, request)
        except IssuanceError as refusal:
            raise self._recorded(order, now, refusal, request) from refusal.__cause__

    def _recorded(
        self,
        order: IssuanceRequest,
        now: datetime,
        refusal: IssuanceError,
        request: CertificationRequest | None,
    ) -> IssuanceError:
        """The refusal, recorded; if it cannot be, that is the answer."""
        return self._unwritten([self._refusal(order, now, refusal, request)]) or refusal

    def _prove(self, order: IssuanceRequest) -> CertificationRequest:
        if order.principal is None:
            raise NotPermitted(NO_CALLER)
        request = csr.load(order.csr)
        if order.is_est and AttributeOID.CHALLENGE_PASSWORD in request.attributes:
            raise BadCSR(NO_LINK, "csr")
        return request

    def _plan(self, order: IssuanceRequest, now: datetime, request: CertificationRequest) -> _Planned:
        assert order.principal is not None  # noqa: S101 - `_prove` saw to it  # nosec B101
        profile = self.profiles.named(order.profile)
        kept = self._kept()
        key = order.idempotency_key
        window = None if key is None else idempotency.window(key, now)
        issued_at = window.issued_at if window else now
        asked, reasons = _asked(order, kept, request)
        renews = order.presented is not None
        caller, issuer = order.principal.name, kept.issuer
        under = Plan(profile, self.profiles, caller, issuer, now, issued_at, asked, reasons, renews)
        planned = template.plan(request, under)
        if order.presented:
            planned = renewal.as_presented(order.presented, planned)
        if window and now > planned.useful_until:  # what was short began with the window, and is over
            window, planned = None, template.plan(request, replace(under, issued_at=now))
        elif window:
            window = replace(window, until=min(window.until, planned.useful_until))
        if key is not None and (why := _why_another(kept, window)):
            window, note = None, f"a retry will get another certificate: {why}"
            planned = replace(planned, notes=(*planned.notes, note))
        return _Planned(order, now, request, kept, planned, window)

    def _sign(self, intended: _Intended) -> bytes:
        planned = intended.planned
        return planned.kept.issuer.sign(planned.template.to_be_signed(intended.serial_number))

    def _sign_all(self, intended: Sequence[_Intended | IssuanceError]) -> list[bytes | IssuanceError]:
        slowly = any(
            isinstance(each, _Intended) and each.planned.kept.issuer.signs_slowly for each in intended
        )
        return list((self._together() if slowly else map)(partial(_attempt, self._sign), intended))

    def _result(self, intended: _Intended, der: bytes) -> tuple[IssuedCertificate, Event]:
        """What was signed, and what is written down before it is let out."""
        planned = intended.planned
        fingerprint = hashlib.sha256(der).hexdigest()
        result = {
            "event": "result",
            "fingerprint_sha256": fingerprint,
            "milliseconds": self._milliseconds(planned.now),
        }
        until = planned.window.until if planned.window else None
        intermediates = planned.kept.issuer.intermediates
        number = intended.serial_number
        issued = IssuedCertificate(der, number, intermediates, planned.template, fingerprint, until)
        return issued, Event(**(vars(intended.event) | result))

    def _refusal(
        self,
        order: IssuanceRequest,
        now: datetime,
        refusal: IssuanceError,
        request: CertificationRequest | None,
    ) -> Event:
        digest = hashlib.sha256(request.subject_public_key_info).hexdigest() if request else ""
        return Event(
            event="refusal",
            time=encoding.timestamp(now),
            request_id=order.request_id,
            principal=order.principal.name if order.principal else "",
            profile=self.profiles.known(order.profile),
            names=request.names if request else (),
            common_name=request.common_name if request else "",
            subject_public_key_sha256=digest,
            reasons=tuple(f"{reason.code} {reason.field}: {reason.detail}" for reason in refusal.reasons),
            milliseconds=self._milliseconds(now),
        )

    def _milliseconds(self, since: datetime) -> int:
        return max(0, round((self._clock() - since).total_seconds() * 1000))

    def _write(self, events: Sequence[Event]) -> None:
        if unwritten := self._unwritten(events):
            raise unwritten

    def _unwritten(self, events: Sequence[Event]) -> IssuerUnavailable | None:
        """Write events down, if there are any; why that cannot be, if it cannot."""
        try:
            if events:
                self._record(events)
        except OSError as error:
            unwritten = IssuerUnavailable("the audit log cannot be written")
            unwritten.__cause__ = error
            return unwritten
        return None


def _attempt(step: Callable[..., _T], *arguments: object) -> _T | IssuanceError:
    """What a step gives, or why it does not; or why a step before it did not."""
    for each in arguments:
        if isinstance(each, IssuanceError):
            return each
    try:
        return step(*arguments)
    except IssuerError as error:
        return error
    except IssuanceError as refusal:
        return _without_traces(refusal)
    except Exception as error:  # noqa: BLE001 - one request must not spoil the others
        unexpected = IssuerError("unexpected")
        unexpected.__cause__ = error
        return unexpected


def _unless(
    unwritten: IssuerUnavailable | None, outcomes: list[_T | IssuanceError]
) -> list[_T | IssuanceError]:
    """The outcomes; where they could not be written down, that in the place of each that is no refusal."""
    if not unwritten:
        return outcomes
    return [each if isinstance(each, IssuanceError) else unwritten for each in outcomes]


def _without_traces(refusal: IssuanceError) -> IssuanceError:
    """The refusal without its tracebacks, whose frames would keep all of a batch alive, in a circle."""
    for each in (refusal, *refusal.reasons):
        each.__traceback__ = each.__cause__ = each.__context__ = None
    return refusal


def _asked(
    order: IssuanceRequest, kept: Custody, request: CertificationRequest
) -> tuple[Asked, tuple[RequestError, ...]]:
    """What is asked of the validity, and what is against the order before anything is planned."""
    asked = NOTHING
    reasons: list[RequestError] = []
    try:
        kept.deny_list.verify(request.subject_public_key_info)
    except BadPublicKey as reason:
        reasons.append(reason)
    try:
        asked = Asked.load(order.validity, order.not_after)
    except RejectedValidity as reason:
        reasons.append(reason)
    return asked, tuple(reasons)


def _why_another(kept: Custody, window: idempotency.Window | None) -> str:
    """Why a retry gets another certificate, in words; '' if it gets the same."""
    if not kept.serial_secret:
        return "this CA has no serial.key"
    if not kept.issuer.is_deterministic:
        return "this CA cannot repeat a signature"
    return "" if window else "the one that its Idempotency-Key stands for has ended"


def _inputs(planned: _Planned) -> tuple[bytes, ...]:
    """Who asked for what, and all that the certificate will hold, but for its serial number."""
    principal = planned.order.principal
    return (
        *((principal.kind.encode(), principal.name.encode()) if principal else ()),
        (planned.order.idempotency_key or "").encode(),
        hashlib.sha256(planned.request.der).digest(),
        encoding.fingerprint(planned.kept.issuer.certificate).encode(),
        planned.template.digest,
    )


def _intend(planned: _Planned) -> _Intended:
    """Choose the serial number, and say what will be signed."""
    secret = planned.kept.serial_secret
    if planned.window and secret:
        serial_number = idempotency.serial_number(secret, _inputs(planned))
    else:
        serial_number = x509.random_serial_number()
    return _Intended(planned, serial_number, _intent(planned, serial_number))


def _intent(planned: _Planned, serial_number: int) -> Event:
    held, order = planned.template, planned.order
    return Event(
        event="intent",
        time=encoding.timestamp(planned.now),
        request_id=order.request_id,
        principal=order.principal.name if order.principal else "",
        profile=held.profile.name,
        serial_number=encoding.serial(serial_number),
        names=tuple(map(str, held.names)),
        common_name=held.common_name,
        subject_public_key_sha256=hashlib.sha256(held.subject_public_key_info).hexdigest(),
        template_sha256=held.digest.hex(),
        not_before=encoding.timestamp(held.not_before),
        not_after=encoding.timestamp(held.not_after),
    )
