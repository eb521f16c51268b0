"""The operations of the contract that reach the function: one short method for each operationId."""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import connexion

from service.authority import API_KEY_REQUIRED, Authority, IssuanceRequest, IssuedCertificate, Principal
from service.pki import encoding, keys, revocation
from service.pki.certificate import CertificateSpec
from service.pki.errors import CAError, CAUnavailable, IssuanceError, Unauthorized
from service.pki.evaluation import MIN_ISSUER_LIFETIME
from service.pki.profile import Profile, format_duration
from service.web import identity, problems
from service.web.responses import Answer

_JSON: Final = "application/json"
PEM_CHAIN: Final = "application/pem-certificate-chain"
DER_CERTIFICATE: Final = "application/pkix-cert"
CERTS_ONLY: Final = "application/pkcs7-mime"
REVOCATION_LIST: Final = "application/pkix-crl"

MAX_ANSWER_BYTES: Final = 5_500_000  # of a batch: Lambda answers 6 MiB, with quotes escaped
RESERVED_TIME: Final = 2.0  # seconds of a batch's time that are for its answer
AT_ONCE: Final = 25  # of a batch's requests, between two looks at the clock
NO_TIME: Final = CAUnavailable("there was no time or room left for this request: send it again")

_A_WINDOW: Final = f"public, max-age={revocation.WINDOW.seconds}"
_AN_HOUR: Final = "public, max-age=3600"  # for the CA's certificates, which a rollover changes

_log = logging.getLogger(__name__)
_chain_pem: Final = functools.lru_cache(maxsize=2)(encoding.encode_pem)  # it changes with the CA alone
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


class Operations:
    """What the contract's operations do, by operationId."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def sign(
        self, body: Mapping[str, Any], *, dry_run: bool = False, user: Principal | None = None
    ) -> Answer:
        """`POST /sign`: JSON in, JSON out."""
        request = _requests(user)(_csr(body["csr"]), body)
        if dry_run:
            return _json(_planned(self._authority.dry_run(request)), "no-store", HTTPStatus.ACCEPTED)
        issued = self._authority.issue(request)
        signed = _signed(issued, text=bool(body.get("text", True)))
        return _json(signed | {"chain_pem": _chain_pem(issued.intermediates)}, "no-store")

    def signPem(self, body: bytes, user: Principal | None = None, **query: Any) -> Answer:  # noqa: N802, ANN401 - operationId; Connexion is not typed
        """`POST /sign.pem`: PEM in, PEM out."""
        issued = self._authority.issue(_requests(user)(body, query))
        bundle = encoding.encode_pem([issued.certificate]) + _chain_pem(issued.intermediates)
        return Answer(bundle.encode("ascii"), PEM_CHAIN, "no-store")

    def signBatch(self, body: Mapping[str, Any], user: Principal | None = None) -> Answer:  # noqa: N802 - operationId
        """`POST /sign/batch`: each request for itself, the chain once."""
        answer = _BatchAnswer(text=bool(body.get("text", False)))
        request = _requests(user)
        requests = [request(_csr(item["csr"]), item) for item in body["requests"]]
        if user is None:
            self._authority.dry_run(requests[0])  # which refuses, and records it: once for all of them
        while requests and identity.time_left() > RESERVED_TIME and (fitting := answer.fitting(requests)):
            answer.add(self._authority.issue_batch(fitting))
            requests = requests[len(fitting) :]
        answer.add([NO_TIME] * len(requests))
        return Answer(answer.encode(), _JSON, "no-store")

    def ca(self) -> Answer:
        """`GET /ca`: the CA, as JSON."""
        issuer = self._authority.issuer()
        return _json(
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
            _AN_HOUR,
        )

    def caCrt(self) -> Answer:  # noqa: N802 - operationId
        """`GET /ca.crt`: the issuing CA, DER."""
        return Answer(encoding.encode_der(self._authority.issuer().certificate), DER_CERTIFICATE, _AN_HOUR)

    def caPem(self) -> Answer:  # noqa: N802 - operationId
        """`GET /ca.pem`: the chain, root last, then those before it."""
        return Answer(
            encoding.encode_pem(self._authority.issuer().ca_certificates).encode("ascii"), PEM_CHAIN, _AN_HOUR
        )

    def caP7c(self) -> Answer:  # noqa: N802 - operationId
        """`GET /ca.p7c`: the same, PKCS#7 certs-only."""
        return Answer(
            encoding.encode_certs_only(self._authority.issuer().ca_certificates), CERTS_ONLY, _AN_HOUR
        )

    def caCrl(self) -> Answer:  # noqa: N802 - operationId
        """`GET /ca.crl`: what was revoked, DER."""
        return Answer(encoding.encode_der(self._authority.crl()), REVOCATION_LIST, _A_WINDOW)

    def rootCrt(self) -> Answer:  # noqa: N802 - operationId
        """`GET /root.crt`: the root, DER."""
        return Answer(encoding.encode_der(self._authority.issuer().root), DER_CERTIFICATE, _AN_HOUR)

    def profiles(self) -> Answer:
        """`GET /profiles`: what may be issued, not for whom."""
        profiles = self._authority.profiles
        return _json(
            {"profiles": [_profile(each) for each in profiles], "default": profiles.default}, "no-cache"
        )

    def myProfiles(self, user: Principal | None = None) -> Answer:  # noqa: N802 - operationId
        """`GET /profiles/mine`: what the caller may have."""
        if user is None:
            raise Unauthorized(API_KEY_REQUIRED)
        profiles = self._authority.profiles
        mine = [_profile(each) for each in profiles if each.permits(user.name)]
        permitted = profiles.names_permitted_for(user.name)
        return _json(
            {"principal": user.name, "profiles": mine, "default": profiles.default}
            | ({"names": permitted.to_dict()} if permitted else {}),
            "no-store",
        )

    def health(self) -> Answer:
        """`GET /health`: ready, or 503."""
        until = self._authority.ready_issuer().not_after - MIN_ISSUER_LIFETIME
        return _json({"status": "ready", "ready_until": encoding.format_timestamp(until)}, "no-store")


def _requests(user: Principal | None) -> Callable[[bytes, Mapping[str, Any]], IssuanceRequest]:
    """What makes requests of this caller: of a CSR, and what JSON or a query says."""
    request_id, key = identity.request_id(), connexion.request.headers.get("Idempotency-Key")

    def request(csr: bytes, stated: Mapping[str, Any]) -> IssuanceRequest:
        validity, not_after = stated.get("validity"), stated.get("not_after")
        return IssuanceRequest(csr, stated.get("profile"), user, request_id, validity, not_after, key)

    return request


def _csr(text: str) -> bytes:
    # A lone surrogate is no character: '?' is in no certification request either.
    return text.encode("utf-8", "replace")


def _profile(profile: Profile) -> dict[str, object]:
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
    }


def _planned(template: CertificateSpec) -> dict[str, object]:
    return {
        "subject": template.subject.rfc4514_string(),
        "names": [str(name) for name in template.names],
        "key": keys.describe_key(template.public_key),
        "not_before": encoding.format_timestamp(template.not_before),
        "not_after": encoding.format_timestamp(template.not_after),
        "profile": template.profile.name,
        "notes": template.notes,
    }


def _signed(issued: IssuedCertificate, *, text: bool) -> dict[str, object]:
    answer: dict[str, object] = {"crt_text": encoding.to_text(issued.certificate)} if text else {}
    return (
        answer
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


class _BatchAnswer:
    """The results of a batch, in JSON, which never pass `MAX_ANSWER_BYTES`."""

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self._results: list[str] = []
        self._chain = ""
        self._room = MAX_ANSWER_BYTES

    def fitting(self, requests: Sequence[IssuanceRequest]) -> Sequence[IssuanceRequest]:
        """The first of these requests, if their certificates certainly have room; few enough to be timed."""
        sizes = itertools.accumulate(map(self._most_bytes, requests[:AT_ONCE]))
        return requests[: sum(size <= self._room for size in sizes)]

    def _most_bytes(self, request: IssuanceRequest) -> int:
        """What the result of a request never passes, if it is a certificate.

        All that it holds beside some 6,000 octets (an ML-DSA-87 signature above all) is in the request too.
        For an octet of the request in base64 PEM in JSON takes 1.5, readable text 5, and notes take 4: a
        control character is five in JSON, an OID's octet up to four.
        """
        return (9 if self._text else 4) * (len(request.csr) + 6000)

    def add(self, outcomes: Sequence[IssuedCertificate | IssuanceError]) -> None:
        """Write down what became of the next requests."""
        for outcome in outcomes:
            if isinstance(outcome, CAError) and outcome is not NO_TIME:
                _log.error("%s: %s", type(outcome).__name__, outcome.detail, exc_info=outcome.__cause__)
            result = self._result(outcome)
            if len(result) > self._room:  # a refusal with many reasons; what was issued has its room
                result = self._result(NO_TIME)
            self._results.append(result)
            self._room -= len(result) + 1
            if isinstance(outcome, IssuedCertificate) and not self._chain:
                self._chain = encoding.encode_pem(outcome.intermediates)

    def _result(self, outcome: IssuedCertificate | IssuanceError) -> str:
        if isinstance(outcome, IssuedCertificate):
            return _to_json({"certificate": _signed(outcome, text=self._text)})
        return _to_json({"problem": problems.document(outcome)})

    def encode(self) -> bytes:
        """The whole, in JSON."""
        whole = f'{{"results":[{",".join(self._results)}],"chain_pem":{_to_json(self._chain)}}}'
        return whole.encode("ascii")


def _json(answer: object, cache: str, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(_to_json(answer).encode("ascii"), _JSON, cache, status)
