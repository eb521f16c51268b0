"""The operations of the contract that reach the function: one short method for each operationId."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import connexion
from cryptography import x509

from service.authority import (
    API_KEY_REQUIRED,
    Authority,
    IssuanceRequest,
    IssuedCertificate,
    Principal,
)
from service.ledger_protocol import Ledger
from service.pki import certificate_reader, encoding, keys, revocation
from service.pki.certificate import CertificateSpec, to_text
from service.pki.errors import CAError, CAUnavailable, IssuanceError, Unauthorized, quote
from service.pki.evaluation import MIN_ISSUER_LIFETIME
from service.pki.profile import Profile, format_duration
from service.pki.profile_loader import IssuancePolicy, Role
from service.revocations import Revocation, RevocationRequest
from service.web import identity
from service.web.problems import FieldProblem, MalformedError, http_problem, problem_document
from service.web.responses import PEM_CHAIN, Response, json_response, to_json

DER_CERTIFICATE: Final = "application/pkix-cert"
CERTS_ONLY: Final = "application/pkcs7-mime"

MAX_RESPONSE_BYTES: Final = 5_500_000  # of a batch: Lambda allows 6 MiB, in which quotes are escaped
RESERVED_SECONDS: Final = 2.0  # kept free to encode and send the response of a batch
CHUNK: Final = 25  # requests of a batch that are issued between two checks of the remaining time
RETRY_LATER: Final = CAUnavailable("No time or space was left for this request in the batch: send it again")

_CA_CACHE: Final = "public, max-age=3600"  # CA certificates change at a rollover

_log = logging.getLogger(__name__)
_chain_pem: Final = functools.lru_cache(maxsize=2)(encoding.encode_pem)  # changes only with the CA


class Operations:
    """The operations with JSON, PEM or DER responses. Each method is named after its operationId."""

    def __init__(self, authority: Authority, ledger: Ledger | None) -> None:
        self._authority = authority
        self._ledger = ledger

    def sign(
        self, body: Mapping[str, Any], *, dry_run: bool = False, user: Principal | None = None
    ) -> Response:
        """`POST /sign`: issue one certificate, or report what would be issued; JSON in, JSON out."""
        request = _request_factory(user)(_encode_csr(body["csr"]), body)
        if dry_run:
            return json_response(
                _dry_run_fields(self._authority.dry_run(request)), "no-store", HTTPStatus.ACCEPTED
            )
        issued = self._authority.issue(request)
        fields = _certificate_fields(issued, text=bool(body.get("text", True)))
        return json_response(fields | {"chain_pem": _chain_pem(issued.intermediates)}, "no-store")

    def signPem(self, body: bytes, user: Principal | None = None, **query: Any) -> Response:  # noqa: N802, ANN401 - operationId; Connexion is not typed
        """`POST /sign.pem`: issue one certificate; PEM in, PEM out."""
        issued = self._authority.issue(_request_factory(user)(body, query))
        bundle = encoding.encode_pem([issued.certificate]) + _chain_pem(issued.intermediates)
        return Response(bundle.encode("ascii"), PEM_CHAIN, "no-store")

    def signBatch(self, body: Mapping[str, Any], user: Principal | None = None) -> Response:  # noqa: N802 - operationId
        """`POST /sign/batch`: issue or refuse each request separately; return the chain once."""
        response = _BatchResponse(text=bool(body.get("text", False)))
        create_request = _request_factory(user)
        requests = [create_request(_encode_csr(item["csr"]), item) for item in body["requests"]]
        if user is None:
            self._authority.dry_run(requests[0])  # refuses the whole batch, with one audit record
        while (
            requests
            and identity.remaining_seconds() > RESERVED_SECONDS
            and (chunk := response.next_chunk(requests))
        ):
            response.add(self._authority.issue_batch(chunk))
            requests = requests[len(chunk) :]
        response.add([RETRY_LATER] * len(requests))
        return Response(response.encode(), "application/json", "no-store")

    def revoke(self, body: Mapping[str, Any], user: Principal | None = None) -> Response:
        """`POST /revoke`: revoke a certificate; only for principals with the role of an operator."""
        if user is None:
            raise Unauthorized(API_KEY_REQUIRED)
        reason = revocation.REASONS.get(body.get("reason", ""))
        request = RevocationRequest(
            _parse_certificate(body), reason, user.name, user.session, identity.request_id(), user.token
        )
        authorize = functools.partial(_require_operator, self._authority.profiles, user)
        revoked = self._authority.revocations.revoke(request, self._ledger, authorize)
        return json_response(_revocation_fields(revoked), "no-store")

    def ca(self) -> Response:
        """`GET /ca`: the CA certificates and a description of the issuing CA, JSON."""
        issuer = self._authority.load_issuer()
        return json_response(
            {
                "subject": issuer.certificate.subject.rfc4514_string(),
                "not_before": encoding.format_timestamp(issuer.not_before),
                "not_after": encoding.format_timestamp(issuer.not_after),
                "key": keys.describe_key(issuer.certificate.public_key()),
                "fingerprint_sha256": encoding.fingerprint(issuer.certificate),
                "ca_pem": encoding.encode_pem([issuer.certificate]),
                "chain_pem": encoding.encode_pem([issuer.certificate, *issuer.chain]),
                "root_pem": encoding.encode_pem([issuer.root]),
                "root_fingerprint_sha256": encoding.fingerprint(issuer.root),
                "previous_pem": encoding.encode_pem(issuer.predecessors),
            },
            _CA_CACHE,
        )

    def caCrt(self) -> Response:  # noqa: N802 - operationId
        """`GET /ca.crt`: the certificate of the issuing CA, DER."""
        return Response(
            encoding.encode_der(self._authority.load_issuer().certificate), DER_CERTIFICATE, _CA_CACHE
        )

    def issuer(self, key_id: str) -> Response:
        """`GET /issuer/{key_id}`: the certificate of a CA by its key identifier, DER."""
        for certificate in self._authority.load_issuer().ca_certificates:
            if certificate_reader.key_id(certificate) == key_id:
                return Response(encoding.encode_der(certificate), DER_CERTIFICATE, _CA_CACHE)
        return http_problem(404, "The CA has no CA certificate with this key identifier")

    def caPem(self) -> Response:  # noqa: N802 - operationId
        """`GET /ca.pem`: the chain, root last, then the previous CA certificates, PEM."""
        return Response(
            encoding.encode_pem(self._authority.load_issuer().ca_certificates).encode("ascii"),
            PEM_CHAIN,
            _CA_CACHE,
        )

    def caP7c(self) -> Response:  # noqa: N802 - operationId
        """`GET /ca.p7c`: the certificates of `/ca.pem`, PKCS#7 certs-only."""
        return Response(
            encoding.encode_certs_only(self._authority.load_issuer().ca_certificates), CERTS_ONLY, _CA_CACHE
        )

    def rootCrt(self) -> Response:  # noqa: N802 - operationId
        """`GET /root.crt`: the root certificate, DER."""
        return Response(encoding.encode_der(self._authority.load_issuer().root), DER_CERTIFICATE, _CA_CACHE)

    def profiles(self) -> Response:
        """`GET /profiles`: all certificate profiles, without their principals."""
        profiles = self._authority.profiles
        return json_response(
            {"profiles": [_profile_fields(profile) for profile in profiles], "default": profiles.default},
            "no-cache",
        )

    def myProfiles(self, user: Principal | None = None) -> Response:  # noqa: N802 - operationId
        """`GET /profiles/mine`: the profiles and names that the caller may use."""
        if user is None:
            raise Unauthorized(API_KEY_REQUIRED)
        profiles = self._authority.profiles
        permitted = [_profile_fields(profile) for profile in profiles if profile.permits_principal(user.name)]
        names = profiles.names_permitted_for(user.name)
        return json_response(
            {"principal": user.name, "profiles": permitted, "default": profiles.default}
            | ({"names": names.to_dict()} if names else {})
            | ({"token_names": user.token.names.to_dict()} if user.token else {})
            | ({"role": Role.OPERATOR} if profiles.is_operator(user.name) else {}),
            "no-store",
        )

    def health(self) -> Response:
        """`GET /health`: ready until a time, or 503."""
        ready_until = self._authority.load_usable_issuer().not_after - MIN_ISSUER_LIFETIME
        return json_response(
            {"status": "ready", "ready_until": encoding.format_timestamp(ready_until)}, "no-store"
        )


def _request_factory(user: Principal | None) -> Callable[[bytes, Mapping[str, Any]], IssuanceRequest]:
    """Return a function that creates the caller's requests from a CSR and JSON members or parameters."""
    request_id, idempotency_key = identity.request_id(), connexion.request.headers.get("Idempotency-Key")

    def create_request(csr: bytes, options: Mapping[str, Any]) -> IssuanceRequest:
        validity, not_after = options.get("validity"), options.get("not_after")
        profile = options.get("profile")
        return IssuanceRequest(csr, profile, user, request_id, validity, not_after, idempotency_key)

    return create_request


def _parse_certificate(body: Mapping[str, Any]) -> x509.Certificate | int:
    """Parse the certificate or the serial number of a body, which must have one of them."""
    if ("certificate" in body) == ("serial_number" in body):
        detail = "Send either certificate or serial_number"
        raise MalformedError([FieldProblem("malformed", "", detail)])
    try:
        if "certificate" in body:
            return certificate_reader.parse_pem(body["certificate"].encode("utf-8", "replace"))
        return revocation.parse_serial_number(body["serial_number"])
    except ValueError as error:
        field, detail = next(iter(body.keys() & {"certificate", "serial_number"})), str(error)
        problem = FieldProblem("malformed", field, f"{detail[:1].upper()}{detail[1:]}")
        raise MalformedError([problem]) from error


def _require_operator(policy: IssuancePolicy, user: Principal) -> None:
    if not policy.is_operator(user.name):
        caller = quote(user.name)
        detail = f"Caller {caller} may not revoke certificates: its policy does not have role: operator"
        raise Unauthorized(detail)


def _revocation_fields(revoked: Revocation) -> dict[str, object]:
    entry = revoked.entry
    return {
        "serial_number": encoding.format_serial(entry.serial_number),
        "revoked_at": encoding.format_timestamp(entry.revoked_at),
        **({"reason": entry.reason.value} if entry.reason else {}),
        "listed_at": encoding.format_timestamp(revoked.listed_at),
        "known_at": encoding.format_timestamp(revoked.known_at),
        "notes": revoked.notes,
    }


def _encode_csr(text: str) -> bytes:
    # A lone surrogate cannot be encoded. Its replacement '?' is invalid in a CSR too.
    return text.encode("utf-8", "replace")


def _profile_fields(profile: Profile) -> dict[str, object]:
    return {
        "name": profile.name,
        "description": profile.description,
        "validity": format_duration(profile.validity),
        "max_validity": format_duration(profile.max_validity),
        "backdate": format_duration(profile.backdate),
        "extended_key_usage": profile.extended_key_usage,
        "names": profile.names.to_dict(),
        "subject": {"allowed": profile.allowed_attributes, "fixed": dict(profile.fixed_attributes)},
        "public_keys": [f"{kind}-{bits}" if bits else kind for kind, bits in profile.public_keys],
        "extensions": [oid.dotted_string for oid in profile.extensions],
        "certificate_policies": [oid.dotted_string for oid in profile.certificate_policies],
        "revocation": profile.revocation,
        "short_lived": format_duration(profile.short_lived),
        **({"ca_issuers": profile.ca_issuers} if profile.ca_issuers else {}),
        **({"crl": profile.crl} if profile.crl else {}),
        **({"ocsp": profile.ocsp} if profile.ocsp else {}),
    }


def _dry_run_fields(spec: CertificateSpec) -> dict[str, object]:
    return {
        "subject": spec.subject.rfc4514_string(),
        "names": [str(name) for name in spec.names],
        "key": keys.describe_key(spec.public_key),
        "not_before": encoding.format_timestamp(spec.not_before),
        "not_after": encoding.format_timestamp(spec.not_after),
        "profile": spec.profile.name,
        "notes": spec.notes,
    }


def _certificate_fields(issued: IssuedCertificate, *, text: bool) -> dict[str, object]:
    text_field: dict[str, object] = {"crt_text": to_text(issued.certificate)} if text else {}
    return (
        text_field
        | {
            "crt_pem": encoding.encode_pem([issued.certificate]),
            "serial_number": encoding.format_serial(issued.certificate.serial_number),
            "fingerprint_sha256": issued.fingerprint_sha256,
            "not_before": encoding.format_timestamp(issued.spec.not_before),
            "not_after": encoding.format_timestamp(issued.spec.not_after),
            "profile": issued.spec.profile.name,
            "notes": issued.spec.notes,
        }
        | (
            {"idempotent_until": encoding.format_timestamp(until)}
            if (until := issued.idempotent_until)
            else {}
        )
    )


class _BatchResponse:
    """The JSON response of a batch, which is never longer than `MAX_RESPONSE_BYTES`."""

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self._results: list[str] = []
        self._chain = ""
        self._bytes_left = MAX_RESPONSE_BYTES

    def next_chunk(self, requests: Sequence[IssuanceRequest]) -> Sequence[IssuanceRequest]:
        """Return the first requests, at most `CHUNK`, whose certificates fit in any case."""
        sizes = itertools.accumulate(map(self._max_result_bytes, requests[:CHUNK]))
        return requests[: sum(size <= self._bytes_left for size in sizes)]

    def _max_result_bytes(self, request: IssuanceRequest) -> int:
        """Return an upper bound for the length of the result of a request, if it is a certificate.

        Apart from 6,000 octets (mainly an ML-DSA-87 signature), a certificate contains only data of its CSR.
        For each base64 octet of the CSR, PEM in JSON takes 1.5 bytes, readable text 5, and notes 4: a control
        character takes five bytes in JSON, an octet of an OID up to four.
        """
        return (9 if self._text else 4) * (len(request.csr) + 6000)

    def add(self, outcomes: Sequence[IssuedCertificate | IssuanceError]) -> None:
        """Append the results of the next requests."""
        for outcome in outcomes:
            if isinstance(outcome, CAError) and outcome is not RETRY_LATER:
                _log.error("%s: %s", type(outcome).__name__, outcome.detail, exc_info=outcome.__cause__)
            result = self._result(outcome)
            if len(result) > self._bytes_left:  # a refusal with many problems: `next_chunk` fits certificates
                result = self._result(RETRY_LATER)
            self._results.append(result)
            self._bytes_left -= len(result) + 1
            if isinstance(outcome, IssuedCertificate) and not self._chain:
                self._chain = encoding.encode_pem(outcome.intermediates)

    def _result(self, outcome: IssuedCertificate | IssuanceError) -> str:
        if isinstance(outcome, IssuedCertificate):
            return to_json({"certificate": _certificate_fields(outcome, text=self._text)})
        return to_json({"problem": problem_document(outcome)})

    def encode(self) -> bytes:
        """Encode the response as JSON."""
        text = f'{{"results":[{",".join(self._results)}],"chain_pem":{to_json(self._chain)}}}'
        return text.encode("ascii")
