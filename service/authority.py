"""Issue certificates: parse, verify, evaluate, record the intent, sign, verify, record the result.

There is one path: a single request is a batch of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from cryptography import x509
from cryptography.x509.oid import AttributeOID

from service.audit import AuditRecord, Recorder
from service.pki import csr, encoding, evaluation, idempotency, reenroll, revocation
from service.pki.certificate import CertificateSpec
from service.pki.csr import CertificateSigningRequest
from service.pki.errors import BadCSR, CAError, CAUnavailable, IssuanceError, Unauthorized
from service.pki.evaluation import IssuanceContext
from service.pki.issuer import Issuer
from service.pki.profile_loader import IssuancePolicy
from service.pki.reenroll import ClientCertificate
from service.pki.revocation import RevokedCertificate
from service.pki.weak_keys import DenyList

_T = TypeVar("_T")

MapFunction = Callable[..., Iterable[Any]]
"""Called as `map` with one iterable."""

API_KEY_REQUIRED: Final = (
    "This needs a valid API key: in the x-api-key header, or for EST as the password of HTTP Basic."
)
CLIENT_CERTIFICATE_REQUIRED: Final = "This needs a client certificate of this CA in the TLS handshake."
CHALLENGE_UNSUPPORTED: Final = (
    "the request has a challengePassword, which links it to a TLS session (RFC 7030 3.5): that is not "
    "supported, for TLS 1.3 has no tls-unique, and a gateway that ends TLS does not tell it"
)


class PrincipalKind(StrEnum):
    """How the caller proved who it is."""

    API_KEY = "api_key"
    IAM = "iam"
    AUTHORIZER = "authorizer"
    CLIENT_CERTIFICATE = "client_certificate"


class Principal(NamedTuple):
    """The caller, from its credentials.

    Its name in profiles and in the audit log is an API key's name, an IAM caller's ARN, `authorizer:` and the
    name that an authorizer gave, or `certificate:` and the serial number of a client certificate.
    """

    kind: PrincipalKind
    name: str


@dataclass(frozen=True)
class IssuanceRequest:
    """One request for a certificate, as it came in.

    Attributes:
        csr: the certificate signing request as sent: PEM, DER, or base64.
        profile: the profile's name; None for the default one.
        principal: the caller; None if unauthenticated.
        request_id: the gateway's name for the request.
        validity: the requested length of the validity period, ISO 8601; None for the profile's.
        not_after: or the requested end, RFC 3339.
        idempotency_key: what makes a retry the same request.
        is_est: whether it came by EST, where a challengePassword means something (RFC 7030 3.5).
        client_certificate: the verified client certificate that it renews.
    """

    csr: bytes = field(repr=False)  # it may hold a challengePassword
    profile: str | None
    principal: Principal | None
    request_id: str
    validity: str | None = None
    not_after: str | None = None
    idempotency_key: str | None = None
    is_est: bool = False
    client_certificate: ClientCertificate | None = None


class IssuedCertificate(NamedTuple):
    """A certificate that was signed, verified and recorded.

    Attributes:
        certificate, intermediates: what a TLS server sends.
        spec: what the certificate holds, and notes.
        fingerprint_sha256: of the certificate, hexadecimal.
        idempotent_until: until when a retry gets the same certificate, UTC; None if no retry does.
    """

    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    spec: CertificateSpec
    fingerprint_sha256: str
    idempotent_until: datetime | None


@dataclass(frozen=True)
class LoadedCA:
    """An issuer, the secret for idempotent serial numbers (if any), and the keys that are never certified."""

    issuer: Issuer
    serial_secret: bytes | None = field(default=None, repr=False)
    deny_list: DenyList = field(default_factory=DenyList)


class _Approved(NamedTuple):
    """A request that is granted; the intent is recorded before it is signed."""

    spec: CertificateSpec
    issuer: Issuer
    serial_number: int
    idempotent_until: datetime | None
    intent: AuditRecord


class Authority:
    """A certificate authority: a CA, profiles, a clock and a recorder; it stores nothing."""

    def __init__(
        self,
        load_ca: Callable[[], LoadedCA],
        profiles: IssuancePolicy,
        clock: Callable[[], datetime],
        record: Recorder,
        load_revoked: Callable[[], Mapping[int, RevokedCertificate]] = dict,
        parallel_map: Callable[[], MapFunction] = lambda: map,
    ) -> None:
        """Create an authority.

        Args:
            load_ca: returns the CA, or raises `CAError`; called for each request, so that a CA that
                was not available is tried again.
            profiles: what may be issued.
            clock: the time, UTC.
            record: writes the audit events.
            load_revoked: returns what was revoked, by serial number, or raises `CAError`; for each CRL, and
                each renewal.
            parallel_map: returns the function that makes several slow signatures at once.
        """
        self._load_ca = load_ca
        self.profiles = profiles
        self._clock = clock
        self._record = record
        self._load_revoked = load_revoked
        self._parallel_map = parallel_map
        self._crl: (
            tuple[Issuer, Mapping[int, RevokedCertificate], int, x509.CertificateRevocationList] | None
        ) = None

    def load_issuer(self) -> Issuer:
        """The issuer, whether or not it may issue now; raise `CAUnavailable` if it cannot be loaded."""
        return self._ca().issuer

    def _ca(self) -> LoadedCA:
        try:
            return self._load_ca()
        except CAUnavailable:
            raise
        except CAError as error:
            raise CAUnavailable("the CA cannot be loaded") from error

    def load_usable_issuer(self) -> Issuer:
        """The issuer; raise `CAUnavailable` unless it is valid now and for another hour."""
        issuer = self.load_issuer()
        evaluation.verify_issuer_lifetime(issuer, self._clock())
        return issuer

    def current_crl(self) -> x509.CertificateRevocationList:
        """The current certificate revocation list, signed once in each window for each CA and list.

        A clock that goes back does not take it to an older window: that would unlist what was revoked since.

        Raises:
            CAUnavailable: the issuer or the list is not available, or the issuer is not valid now.
        """
        issuer, now = self.load_issuer(), self._clock()
        if not issuer.not_before <= now <= issuer.not_after:
            raise CAUnavailable("the CA's chain is not valid now")
        window = max(revocation.crl_number(now), self._crl[2] if self._crl else 0)
        try:
            revoked = self._load_revoked()
            if self._crl is None or self._crl[:3] != (issuer, revoked, window):
                builder = revocation.crl_builder(revoked.values(), window, issuer.not_after)
                self._crl = (issuer, revoked, window, issuer.sign_crl(builder))
        except (CAError, ValueError) as error:  # a ValueError: an entry does not fit into a CRL
            raise CAUnavailable("the list of what was revoked cannot be had or signed") from error
        return self._crl[3]

    def issue(self, request: IssuanceRequest) -> IssuedCertificate:
        """Issue one certificate, or refuse; either way it is recorded.

        Raises:
            RequestError: the request cannot be granted, for every reason that it names.
            Unauthorized: the principal may not have it, or there is none.
            CAError: what the issuer signed does not verify, or there is a fault of our own.
            CAUnavailable: the issuer is not available or not valid, or the audit log cannot be written.
        """
        return _unwrap(*self.issue_batch([request]))

    def renew(self, request: IssuanceRequest, client_certificate: bytes | None) -> IssuedCertificate:
        """Issue a certificate in place of the client certificate (PEM) that the caller presents, if it does.

        Raises:
            Unauthorized: it is not one of this CA that may be renewed; or of another profile.
            RequestError: as `issue`; or its names are not those that would be issued.
            CAError, CAUnavailable: as `issue`; or the list of what was revoked is not available.
        """
        now = self._clock()
        renewal_request = _capture(self._authenticate_renewal, request, client_certificate, now)
        if isinstance(renewal_request, IssuanceError):
            event = self._refusal_record(request, now, renewal_request)
            raise self._try_record([event]) or renewal_request
        return self.issue(renewal_request)

    def _authenticate_renewal(
        self, request: IssuanceRequest, pem: bytes | None, now: datetime
    ) -> IssuanceRequest:
        if pem is None:
            raise Unauthorized(CLIENT_CERTIFICATE_REQUIRED)
        client_certificate, ca = reenroll.parse_client_certificate(pem), self._ca()
        try:
            revoked = self._load_revoked()
        except CAError as error:
            raise CAUnavailable("the list of what was revoked cannot be had") from error
        reenroll.verify_client_certificate(client_certificate, ca.issuer, revoked, ca.deny_list, now)
        profile = reenroll.find_profile(client_certificate, self.profiles, request.profile)
        name = f"certificate:{encoding.format_serial(client_certificate.certificate.serial_number)}"
        principal = Principal(PrincipalKind.CLIENT_CERTIFICATE, name)
        return replace(
            request, profile=profile.name, principal=principal, client_certificate=client_certificate
        )

    def issue_batch(self, requests: Sequence[IssuanceRequest]) -> list[IssuedCertificate | IssuanceError]:
        """Issue several certificates: each result, in order, is what `issue` returns or raises.

        Each step is taken for all of them before the next one: that is faster, and is recorded in one write.
        """
        now = self._clock()
        approved = self._approve_all(requests, now)
        unrecorded = self._try_record([each.intent for each in approved if isinstance(each, _Approved)])
        approved = _fail_all_if_unrecorded(unrecorded, approved)
        in_parallel = any(isinstance(each, _Approved) and each.issuer.parallelise for each in approved)
        map_function = self._parallel_map() if in_parallel else map
        issued = list(map_function(partial(_capture, _sign), approved))
        milliseconds = self._milliseconds(now)
        unrecorded = self._try_record(
            [
                each.intent._replace(
                    event="result",
                    fingerprint_sha256=result.fingerprint_sha256,
                    milliseconds=milliseconds,
                )
                for each, result in zip(approved, issued, strict=True)
                if isinstance(each, _Approved) and isinstance(result, IssuedCertificate)
            ]
        )
        return _fail_all_if_unrecorded(unrecorded, issued)

    def dry_run(self, request: IssuanceRequest) -> CertificateSpec:
        """What `issue` would issue, or raise; nothing is signed, and a refusal is recorded."""
        return _unwrap(*self._approve_all([request], self._clock())).spec

    def _approve_all(
        self, requests: Sequence[IssuanceRequest], now: datetime
    ) -> list[_Approved | IssuanceError]:
        """Approve or refuse each request; the refusals are recorded."""
        parsed = [_capture(_parse_and_verify, request) for request in requests]
        ca, approve = _capture(self._ca), partial(self._approve, now)  # the same CA for all
        approved = [
            _capture(approve, request, csr, ca) for request, csr in zip(requests, parsed, strict=True)
        ]
        unrecorded = self._try_record(
            [
                self._refusal_record(request, now, error, csr)
                for request, csr, error in zip(requests, parsed, approved, strict=True)
                if isinstance(error, IssuanceError)
            ]
        )
        return [unrecorded or each if isinstance(each, IssuanceError) else each for each in approved]

    def _approve(
        self, now: datetime, request: IssuanceRequest, csr: CertificateSigningRequest, ca: LoadedCA
    ) -> _Approved:
        principal, key = request.principal, request.idempotency_key
        assert principal is not None  # noqa: S101 - `_parse_and_verify` saw to it  # nosec B101
        window = None if key is None else idempotency.replay_window(key, now)
        if request.client_certificate:
            csr = reenroll.with_subject_spelling_of(request.client_certificate, csr)
        context = IssuanceContext(
            profile=self.profiles.get(request.profile),
            profiles=self.profiles,
            principal=principal.name,
            issuer=ca.issuer,
            now=now,
            issued_at=window.issued_at if window else now,
            validity=request.validity,
            not_after=request.not_after,
            is_renewal=request.client_certificate is not None,
            deny_list=ca.deny_list,
        )
        spec = evaluation.evaluate(csr, context)
        if window and now > spec.usable_until:  # what was short began with the window, and is over
            window, spec = None, evaluation.evaluate(csr, context._replace(issued_at=now))
        if request.client_certificate:
            reenroll.require_same_identity(request.client_certificate, spec)
        serial_number, expires_at = x509.random_serial_number(), None
        if key is not None and (reason := _why_not_idempotent(ca, window)):
            note = f"a retry will get another certificate: {reason}"
            spec = replace(spec, notes=(*spec.notes, note))
        elif window and ca.serial_secret:
            inputs = _idempotency_inputs(request, csr, ca.issuer, spec)
            serial_number = idempotency.derive_serial_number(ca.serial_secret, inputs)
            expires_at = min(window.expires_at, spec.usable_until)
        intent = _intent_record(request, now, spec, serial_number)
        return _Approved(spec, ca.issuer, serial_number, expires_at, intent)

    def _refusal_record(
        self, request: IssuanceRequest, now: datetime, error: IssuanceError, parsed: object = None
    ) -> AuditRecord:
        csr = parsed if isinstance(parsed, CertificateSigningRequest) else None
        return AuditRecord(
            event="refusal",
            time=encoding.format_timestamp(now),
            request_id=request.request_id,
            principal=request.principal.name if request.principal else "",
            profile=self.profiles.resolve_name(request.profile),
            names=csr.names if csr else (),
            common_name=csr.common_name if csr else "",
            subject_public_key_sha256=_sha256(csr.subject_public_key_info) if csr else "",
            reasons=tuple(f"{reason.code} {reason.field}: {reason.detail}" for reason in error.subproblems),
            milliseconds=self._milliseconds(now),
        )

    def _milliseconds(self, since: datetime) -> int:
        return max(0, round((self._clock() - since).total_seconds() * 1000))

    def _try_record(self, events: Sequence[AuditRecord]) -> CAUnavailable | None:
        """Record events, if there are any; return why that fails, if it does."""
        try:
            if events:
                self._record(events)
        except OSError as error:
            unrecorded = CAUnavailable("the audit log cannot be written")
            unrecorded.__cause__ = error
            return unrecorded
        return None


def _capture(step: Callable[..., _T], *arguments: object) -> _T | IssuanceError:
    """What a step returns or raises; or what a step before it raised."""
    for argument in arguments:
        if isinstance(argument, IssuanceError):
            return argument
    try:
        return step(*arguments)
    except CAError as error:
        return error
    except IssuanceError as error:
        # Tracebacks refer to the frames of the whole batch, in a cycle, which would keep it alive.
        for problem in (error, *error.subproblems):
            problem.__traceback__ = problem.__cause__ = problem.__context__ = None
        return error
    except Exception as error:  # noqa: BLE001 - one request must not spoil the others
        unexpected = CAError("unexpected")
        unexpected.__cause__ = error
        return unexpected


def _fail_all_if_unrecorded(
    error: CAUnavailable | None, results: list[_T | IssuanceError]
) -> list[_T | IssuanceError]:
    """The results; or, if they could not be recorded, that error in place of each that is none."""
    return [each if isinstance(each, IssuanceError) else error or each for each in results]


def _unwrap(outcome: _T | IssuanceError) -> _T:
    if isinstance(outcome, IssuanceError):
        raise outcome
    return outcome


def _parse_and_verify(request: IssuanceRequest) -> CertificateSigningRequest:
    if request.principal is None:
        raise Unauthorized(API_KEY_REQUIRED)
    parsed = csr.parse(request.csr)
    if request.is_est and AttributeOID.CHALLENGE_PASSWORD in parsed.attributes:
        raise BadCSR(CHALLENGE_UNSUPPORTED, "csr")
    return parsed


def _why_not_idempotent(ca: LoadedCA, window: idempotency.ReplayWindow | None) -> str:
    """Why a retry gets another certificate; '' if it gets the same."""
    if not ca.serial_secret:
        return "this CA has no serial.key"
    if not ca.issuer.is_deterministic:
        return "this CA cannot repeat a signature"
    return "" if window else "the one that its Idempotency-Key stands for has ended"


def _idempotency_inputs(
    request: IssuanceRequest, csr: CertificateSigningRequest, issuer: Issuer, spec: CertificateSpec
) -> tuple[bytes, ...]:
    """Caller, request and issuer, and all that the certificate will hold but its serial number."""
    principal = request.principal
    return (
        *((principal.kind.encode(), principal.name.encode()) if principal else ()),
        (request.idempotency_key or "").encode(),
        hashlib.sha256(csr.der).digest(),
        encoding.fingerprint(issuer.certificate).encode(),
        spec.digest,
    )


def _sign(approved: _Approved) -> IssuedCertificate:
    certificate = approved.issuer.sign(approved.spec.builder(approved.serial_number))
    fingerprint = encoding.fingerprint(certificate)
    return IssuedCertificate(
        certificate, approved.issuer.intermediates, approved.spec, fingerprint, approved.idempotent_until
    )


def _intent_record(
    request: IssuanceRequest, now: datetime, spec: CertificateSpec, serial_number: int
) -> AuditRecord:
    return AuditRecord(
        event="intent",
        time=encoding.format_timestamp(now),
        request_id=request.request_id,
        principal=request.principal.name if request.principal else "",
        profile=spec.profile.name,
        serial_number=encoding.format_serial(serial_number),
        names=tuple(map(str, spec.names)),
        common_name=spec.common_name,
        subject_public_key_sha256=_sha256(spec.subject_public_key_info),
        template_sha256=spec.digest.hex(),
        not_before=encoding.format_timestamp(spec.not_before),
        not_after=encoding.format_timestamp(spec.not_after),
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
