"""Issue certificates: parse, verify, evaluate, record the intent, sign, verify, record the result.

There is one path: a single request is a batch of one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from cryptography import x509
from cryptography.x509.oid import AttributeOID

from service import token_claims
from service.audit import AuditRecord, Recorder
from service.intent import intent_record, with_token
from service.ledger_protocol import Ledger
from service.loaded_ca import LoadedCA
from service.pki import csr, encoding, evaluation, idempotency, reenroll, serial
from service.pki.acme_key import AcmeKey
from service.pki.certificate import CertificateSpec
from service.pki.csr import CertificateSigningRequest, RefusedRequest, RequestedContent, UnverifiedRequest
from service.pki.errors import BadCSR, CAError, CAUnavailable, IssuanceError, Unauthorized, quote
from service.pki.evaluation import IssuanceContext
from service.pki.issuer import Issuer
from service.pki.names import Identifier
from service.pki.profile_loader import IssuancePolicy
from service.pki.reenroll import ClientCertificate
from service.pki.revocation import RevokedCertificate
from service.pki.token_identity import TokenIdentity
from service.revocations import Revocations
from service.status import StatusService

_T = TypeVar("_T")

MapFunction = Callable[..., Iterable[Any]]
"""A function with the signature of `map` for one iterable."""

API_KEY_REQUIRED: Final = (
    "A valid API key is required: send it in the x-api-key header, or for EST as the password of HTTP Basic"
)
CLIENT_CERTIFICATE_REQUIRED: Final = "A client certificate of this CA is required in the TLS handshake"
CHALLENGE_UNSUPPORTED: Final = (
    "a challengePassword is not supported: remove it. It binds a request to its TLS session (RFC 7030 3.5), "
    "which TLS 1.3 and a gateway that terminates TLS cannot provide"
)


_CHALLENGE_REQUIRED: Final = (
    "The policy for caller {} requires http-01: order certificates with an ACME client, not with an API key"
)


class PrincipalKind(StrEnum):
    """The kind of credentials that identified the caller."""

    API_KEY = "api_key"
    IAM = "iam"
    AUTHORIZER = "authorizer"
    ACME = "acme"
    CLIENT_CERTIFICATE = "client_certificate"
    TOKEN = "token"  # noqa: S105 - not a password  # nosec B105


class Principal(NamedTuple):
    """The authenticated caller.

    The name, as in profiles and in the audit log, is that of an API key or of the principal of an ACME
    account, the ARN of an IAM user or role, `authorizer:` with the principal that an authorizer returned,
    `oidc:` with the rule that a token matches, or `certificate:` with the serial number of a client
    certificate. The session of a role is only for the audit log.
    """

    kind: PrincipalKind
    name: str
    session: str = ""
    token: TokenIdentity | None = None


@dataclass(frozen=True)
class IssuanceRequest:
    """One request for a certificate, as received.

    Attributes:
        csr: the certificate signing request as sent: PEM, DER, or base64.
        profile: the name of the profile; None for the default profile.
        principal: the caller; None if unauthenticated.
        request_id: the gateway's ID of the request.
        validity: the requested validity period, such as `P30D` or `30d`; None for the profile's default.
        not_after: the requested end instead of a duration, RFC 3339.
        idempotency_key: the key that identifies a retry of the same request.
        issued_at: the time of issue of an earlier attempt with the same idempotency key, UTC; None if the
            key's replay window determines it.
        is_est: whether it was sent over EST, where a challengePassword has a meaning (RFC 7030 3.5).
        client_certificate: the certificate to renew; the TLS handshake verified possession of its key.
    """

    csr: bytes = field(repr=False)  # may contain a challengePassword
    profile: str | None
    principal: Principal | None
    request_id: str
    validity: str | None = None
    not_after: str | None = None
    idempotency_key: str | None = None
    issued_at: datetime | None = None
    is_est: bool = False
    client_certificate: ClientCertificate | None = None


class IssuedCertificate(NamedTuple):
    """A certificate that was signed, verified and recorded.

    Attributes:
        certificate, intermediates: the chain that a TLS server sends.
        spec: the content of the certificate, with notes.
        fingerprint_sha256: the certificate's fingerprint, hexadecimal.
        idempotent_until: the time until which a retry returns the same certificate, UTC; None if a retry
            never does.
    """

    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    spec: CertificateSpec
    fingerprint_sha256: str
    idempotent_until: datetime | None


class Approval(NamedTuple):
    """An approved request; its intent is recorded before the certificate is signed."""

    spec: CertificateSpec
    issuer: Issuer
    serial_number: int
    idempotent_until: datetime | None
    intent: AuditRecord
    requested_at: datetime


class Authority:
    """Issue certificates from a CA, profiles, a clock and a recorder; store nothing.

    Attributes:
        profiles: the issuance policy.
        clock: returns the current time, UTC.
        status: the status of the certificates that were issued.
        revocations: revokes certificates.
    """

    def __init__(  # noqa: PLR0913 - each is a source or a store of its own
        self,
        load_ca: Callable[[], LoadedCA],
        profiles: IssuancePolicy,
        clock: Callable[[], datetime],
        record: Recorder,
        load_revoked: Callable[[], Mapping[int, RevokedCertificate]] = dict,
        parallel_map: Callable[[], MapFunction] = lambda: map,
        *,
        ledger: Ledger | None = None,
    ) -> None:
        """Create an authority.

        Args:
            load_ca: returns the CA, or raises `CAError`. Called for each batch, so that an unavailable CA
                is tried again.
            profiles: the issuance policy.
            clock: returns the current time, UTC.
            record: writes audit records.
            load_revoked: returns the revoked certificates by serial number, or raises `CAError`. Called for
                each renewal and each question about a status.
            parallel_map: returns the map function that creates slow signatures in parallel.
            ledger: remembers the tokens that are good for one certificate; None for no ledger.
        """
        self._load_ca = load_ca
        self.profiles = profiles
        self.clock = clock
        self._record = record
        self._load_revoked = load_revoked
        self._parallel_map = parallel_map
        self._ledger = ledger
        max_backdate = max(profile.backdate for profile in profiles)
        self.status = StatusService(self._ca, clock, record, self._revoked, max_backdate)
        self.revocations = Revocations(self._ca, clock, record, self._revoked)

    def load_issuer(self) -> Issuer:
        """Return the issuer, valid now or not; raise `CAUnavailable` if it cannot be loaded."""
        return self._ca().issuer

    def load_acme_key(self) -> AcmeKey | None:
        """Return the key of ACME; None if the CA has none. Raise `CAUnavailable` if it cannot be loaded."""
        return self._ca().acme_key

    def _ca(self) -> LoadedCA:
        try:
            return self._load_ca()
        except CAUnavailable:
            raise
        except CAError as error:
            raise CAUnavailable("the CA cannot be loaded") from error

    def _revoked(self) -> Mapping[int, RevokedCertificate]:
        try:
            return self._load_revoked()
        except CAError as error:
            raise CAUnavailable("the revocation list cannot be loaded") from error

    def load_usable_issuer(self) -> Issuer:
        """Return the issuer; raise `CAUnavailable` unless it is valid now and for another hour."""
        issuer = self.load_issuer()
        evaluation.verify_issuer_lifetime(issuer, self.clock())
        return issuer

    def issue(self, request: IssuanceRequest) -> IssuedCertificate:
        """Issue or refuse one certificate, and record the outcome.

        Raises:
            RequestError: the request is refused; the error lists every reason.
            Unauthorized: the principal is missing, or may not have this certificate.
            CAError: the issuer's signature does not verify, or an internal error occurred.
            CAUnavailable: the issuer is not available or not valid, or the audit log cannot be written.
        """
        return _unwrap(*self.issue_batch([request]))

    def renew(self, request: IssuanceRequest, client_certificate: bytes | None) -> IssuedCertificate:
        """Issue a certificate that replaces the caller's client certificate (PEM; None if there is none).

        Raises:
            Unauthorized: the client certificate may not be renewed, or belongs to another profile.
            RequestError: as `issue`; or the requested names differ from the client certificate's.
            CAError, CAUnavailable: as `issue`; or the revocation list is not available.
        """
        now = self.clock()
        renewal_request = _capture(self._authenticate_renewal, request, client_certificate, now)
        if isinstance(renewal_request, IssuanceError):
            refusal = self._refusal_record(request, now, renewal_request)
            raise self._try_record([refusal]) or renewal_request
        return self.issue(renewal_request)

    def _authenticate_renewal(
        self, request: IssuanceRequest, pem: bytes | None, now: datetime
    ) -> IssuanceRequest:
        if pem is None:
            raise Unauthorized(CLIENT_CERTIFICATE_REQUIRED)
        client_certificate, ca = reenroll.parse_client_certificate(pem), self._ca()
        revoked = self._revoked()
        reenroll.verify_client_certificate(client_certificate, ca.issuer, revoked, ca.deny_list, now)
        profile = reenroll.find_profile(client_certificate, self.profiles, request.profile)
        name = f"certificate:{encoding.format_serial(client_certificate.certificate.serial_number)}"
        principal = Principal(PrincipalKind.CLIENT_CERTIFICATE, name)
        return replace(
            request, profile=profile.name, principal=principal, client_certificate=client_certificate
        )

    def name_violations(
        self, names: Sequence[Identifier], principal: str, profile: str | None = None
    ) -> list[tuple[int | None, str]]:
        """List the violations of names before there is a CSR.

        Args:
            names: the names.
            principal: the name of the caller.
            profile: the name of the profile; None for the default profile.

        Returns:
            as `evaluation.name_violations`; empty if the principal may have a certificate with these names.

        Raises:
            UnknownProfile: the profile does not exist.
            Unauthorized: the principal may not use the profile.
            CAUnavailable: as `issue`.
        """
        now = self.clock()
        context = IssuanceContext(
            self.profiles.get(profile), self.profiles, principal, self.load_issuer(), now, now
        )
        evaluation.verify_context(context)
        return evaluation.name_violations(names, context)

    def may_have_names(self, names: Sequence[Identifier], principal: str) -> bool:
        """Return whether a principal may have these names now, in a certificate of any profile.

        Raises:
            CAUnavailable: the CA cannot be loaded.
        """
        now, issuer = self.clock(), self.load_issuer()
        return any(
            not evaluation.name_violations(
                names, IssuanceContext(profile, self.profiles, principal, issuer, now, now)
            )
            for profile in self.profiles
            if profile.permits_principal(principal)
        )

    def issue_batch(self, requests: Sequence[IssuanceRequest]) -> list[IssuedCertificate | IssuanceError]:
        """Issue several certificates; return for each request, in order, the result or error of `issue`.

        Each step handles all requests before the next step begins, so that one write records a step.
        """
        return self._issue_all(self._approve_all(requests, self.clock(), self._approve_once))

    def approve(self, request: IssuanceRequest) -> Approval:
        """Approve or refuse one request, for `issue_approved`; raise as `issue`, and record a refusal."""
        return _unwrap(*self._approve_all([request], self.clock(), self._approve_once))

    def issue_approved(self, approval: Approval) -> IssuedCertificate:
        """Issue the certificate of an approved request; raise `CAError` or `CAUnavailable` as `issue`."""
        return _unwrap(*self._issue_all([approval]))

    def _issue_all(self, approved: list[Approval | IssuanceError]) -> list[IssuedCertificate | IssuanceError]:
        record_error = self._try_record([item.intent for item in approved if isinstance(item, Approval)])
        approved = _fail_all_if_unrecorded(record_error, approved)
        in_parallel = any(isinstance(item, Approval) and item.issuer.parallelise for item in approved)
        map_function = self._parallel_map() if in_parallel else map
        issued = list(map_function(partial(_capture, _sign), approved))
        record_error = self._try_record(
            [
                item.intent._replace(
                    event="result",
                    fingerprint_sha256=result.fingerprint_sha256,
                    milliseconds=self._milliseconds(item.requested_at),
                )
                for item, result in zip(approved, issued, strict=True)
                if isinstance(item, Approval) and isinstance(result, IssuedCertificate)
            ]
        )
        return _fail_all_if_unrecorded(record_error, issued)

    def dry_run(self, request: IssuanceRequest) -> CertificateSpec:
        """Return the unsigned certificate that `issue` would issue, or raise as `issue`; record a refusal."""
        return _unwrap(*self._approve_all([request], self.clock(), self._approve)).spec

    def _approve_all(
        self, requests: Sequence[IssuanceRequest], now: datetime, approve: Callable[..., Approval]
    ) -> list[Approval | IssuanceError]:
        """Approve or refuse each request; record the refusals."""
        unverified = [_capture(_read, request) for request in requests]
        parsed = [_capture(_verify, *pair) for pair in zip(requests, unverified, strict=True)]
        ca = _capture(self._ca)  # the same for all
        approved = [
            _capture(approve, now, request, csr, ca) for request, csr in zip(requests, parsed, strict=True)
        ]
        record_error = self._try_record(
            [
                self._refusal_record(request, now, error, csr)
                for request, csr, error in zip(requests, parsed, approved, strict=True)
                if isinstance(error, IssuanceError)
            ]
        )
        return [record_error or item if isinstance(item, IssuanceError) else item for item in approved]

    def _approve_once(
        self,
        now: datetime,
        request: IssuanceRequest,
        csr: CertificateSigningRequest | RefusedRequest,
        ca: LoadedCA,
    ) -> Approval:
        """Approve a request, and then claim its token for it, if that is good for one certificate."""
        token = request.principal.token if request.principal else None
        if token is None or not token.is_once:
            return self._approve(now, request, csr, ca)
        issued_at = now.replace(microsecond=0)
        approved = self._approve(now, replace(request, issued_at=issued_at), csr, ca)
        is_repeatable = approved.idempotent_until is not None
        digest = self._request_digest(request, ca) if is_repeatable else secrets.token_hex(32)
        first = token_claims.claim(self._ledger, token, digest, now, issued_at)
        if first != issued_at:
            approved = self._approve(now, replace(request, issued_at=first), csr, ca)
        if not is_repeatable:
            return approved
        if approved.idempotent_until is None:  # the certificate has ended, and there is only one
            raise Unauthorized(token_claims.USED)
        return approved._replace(idempotent_until=min(token.accepted_until, approved.spec.usable_until))

    def _request_digest(self, request: IssuanceRequest, ca: LoadedCA) -> str:
        """Return a keyed digest of what the client sent, its profile and the issuer: of all but the time."""
        assert ca.serial_keys  # noqa: S101 - the certificate can be repeated  # nosec B101
        profile = self.profiles.get(request.profile)
        texts = (request.idempotency_key, request.validity, request.not_after, profile)
        parts = [request.csr, *(repr(text).encode("utf-8", "surrogatepass") for text in texts)]
        parts.append(encoding.fingerprint(ca.issuer.certificate).encode())
        return hmac.digest(ca.serial_keys.keys[0], encoding.length_prefixed(parts), "sha256").hex()

    def _approve(
        self,
        now: datetime,
        request: IssuanceRequest,
        csr: CertificateSigningRequest | RefusedRequest,
        ca: LoadedCA,
    ) -> Approval:
        principal, key = request.principal, request.idempotency_key
        assert principal is not None  # noqa: S101 - `_read` checks it  # nosec B101
        if principal.kind is not PrincipalKind.ACME and self.profiles.challenge_for(principal.name):
            raise Unauthorized(_CHALLENGE_REQUIRED.format(quote(principal.name)))
        window = None if key is None else idempotency.replay_window(key, now, request.issued_at)
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
            token_names=principal.token.names if principal.token else None,
        )
        if isinstance(csr, RefusedRequest):
            evaluation.refuse(csr, context)
        if request.client_certificate:
            csr = reenroll.with_subject_spelling_of(request.client_certificate, csr)
        spec = evaluation.evaluate(csr, context)
        if window and now > spec.usable_until:  # a short validity that began with the window has ended
            window, spec = None, evaluation.evaluate(csr, context._replace(issued_at=now))
        if request.client_certificate:
            reenroll.require_same_identity(request.client_certificate, spec)
        random, expires_at = secrets.randbits(serial.RANDOM_BITS), None
        if key is not None and (reason := _why_not_idempotent(ca, window)):
            is_once = principal.token is not None and principal.token.is_once
            effect = "be refused" if is_once else "return a different certificate"
            note = f"a retry will {effect}: {reason}"
            spec = replace(spec, notes=(*spec.notes, note))
        elif window and ca.serial_keys:
            inputs = _idempotency_inputs(request, csr, ca.issuer, spec)
            random = idempotency.derive_random(ca.serial_keys.keys[0], inputs)
            expires_at = min(window.expires_at, spec.usable_until)
        serial_number = (
            ca.serial_numbers[0].create(random, spec.not_before, spec.not_after)
            if ca.serial_numbers
            else x509.random_serial_number()
        )
        intent = intent_record(
            spec,
            serial_number,
            now,
            request_id=request.request_id,
            principal=principal.name,
            session=principal.session,
        )
        intent = with_token(intent, principal.token)
        return Approval(spec, ca.issuer, serial_number, expires_at, intent, now)

    def _refusal_record(
        self, request: IssuanceRequest, now: datetime, error: IssuanceError, parsed: object = None
    ) -> AuditRecord:
        csr = parsed.content if isinstance(parsed, RefusedRequest) else parsed
        content = csr if isinstance(csr, RequestedContent) else None
        record = AuditRecord(
            event="refusal",
            time=encoding.format_timestamp(now),
            request_id=request.request_id,
            principal=request.principal.name if request.principal else "",
            session=request.principal.session if request.principal else "",
            profile=self.profiles.resolve_name(request.profile),
            names=content.names if content else (),
            common_name=content.common_name if content else "",
            subject_public_key_sha256=_sha256(content.subject_public_key_info) if content else "",
            reasons=tuple(f"{reason.code} {reason.field}: {reason.detail}" for reason in error.subproblems),
            milliseconds=self._milliseconds(now),
        )
        return with_token(record, request.principal.token if request.principal else None)

    def _milliseconds(self, since: datetime) -> int:
        return max(0, round((self.clock() - since).total_seconds() * 1000))

    def _try_record(self, records: Sequence[AuditRecord]) -> CAUnavailable | None:
        """Write audit records; return the error if that fails."""
        try:
            if records:
                self._record(records)
        except OSError as error:
            record_error = CAUnavailable("the audit log cannot be written")
            record_error.__cause__ = error
            return record_error
        return None


def _capture(step: Callable[..., _T], *arguments: object) -> _T | IssuanceError:
    """Return the result or error of a step; if an argument is the error of an earlier step, return that."""
    for argument in arguments:
        if isinstance(argument, IssuanceError):
            return argument
    try:
        return step(*arguments)
    except CAError as error:
        return error
    except IssuanceError as error:
        # Tracebacks refer to the frames of the whole batch, in a cycle that would keep it in memory.
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
    """Replace each success with the error, if there is one: an unrecorded certificate is not returned."""
    return [result if isinstance(result, IssuanceError) else error or result for result in results]


def _unwrap(outcome: _T | IssuanceError) -> _T:
    if isinstance(outcome, IssuanceError):
        raise outcome
    return outcome


def _read(request: IssuanceRequest) -> UnverifiedRequest:
    if request.principal is None:
        raise Unauthorized(API_KEY_REQUIRED)
    return csr.read_unverified(request.csr)


def _verify(
    request: IssuanceRequest, unverified: UnverifiedRequest
) -> CertificateSigningRequest | RefusedRequest:
    parsed = csr.verify(unverified)
    refused = parsed if isinstance(parsed, RefusedRequest) else RefusedRequest(parsed, ())
    if request.is_est and AttributeOID.CHALLENGE_PASSWORD in refused.content.attributes:
        violation = BadCSR(CHALLENGE_UNSUPPORTED, "csr")
        return replace(refused, violations=(*refused.violations, violation))
    return parsed


def _why_not_idempotent(ca: LoadedCA, window: idempotency.ReplayWindow | None) -> str:
    """Return why a retry gets a different certificate; '' if it gets the same one."""
    if not ca.serial_keys:
        return "this CA has no serial.key"
    if not ca.issuer.is_deterministic:
        return "this CA cannot repeat a signature"
    return "" if window else "the certificate of this Idempotency-Key has expired"


def _idempotency_inputs(
    request: IssuanceRequest, csr: CertificateSigningRequest, issuer: Issuer, spec: CertificateSpec
) -> tuple[bytes, ...]:
    """The caller, the request, the issuer, and the certificate's content except its serial number."""
    principal = request.principal
    return (
        *((principal.kind.encode(), principal.name.encode()) if principal else ()),
        (request.idempotency_key or "").encode(),
        hashlib.sha256(csr.der).digest(),
        encoding.fingerprint(issuer.certificate).encode(),
        spec.digest,
    )


def _sign(approved: Approval) -> IssuedCertificate:
    certificate = approved.issuer.sign(approved.spec.builder(approved.serial_number))
    fingerprint = encoding.fingerprint(certificate)
    return IssuedCertificate(
        certificate, approved.issuer.intermediates, approved.spec, fingerprint, approved.idempotent_until
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
