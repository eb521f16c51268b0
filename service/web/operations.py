"""The operations of the contract that reach the function: one short method for each operationId."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from flask import Response

from service.authority import Authority, Issued, Order
from service.pki import encoding, keys
from service.pki.profile import iso8601
from service.pki.template import LEAST_REMAINING
from service.web import principal
from service.web.requests import Accepted

PEM_CHAIN: Final = "application/pem-certificate-chain"
DER_CERTIFICATE: Final = "application/pkix-cert"
CERTS_ONLY: Final = "application/pkcs7-mime"

_AN_HOUR: Final = "public, max-age=3600"  # for the CA's certificates, which a rollover changes

Event = Mapping[str, Any]


class Operations:
    """What the contract's operations do, by operationId."""

    def __init__(self, authority: Authority, api_key_names: Mapping[str, str]) -> None:
        self._authority = authority
        self._api_key_names = api_key_names

    def sign(self, event: Event, request: Accepted) -> Response:
        """`POST /sign`: JSON in, JSON out."""
        # A lone surrogate is no character: '?' is in no certification request either.
        csr = str(request.json["csr"]).encode("utf-8", "replace")
        issued = self._issue(event, csr, request.json.get("profile"))
        return _json(_signed(issued, text=bool(request.json.get("text", True))), "no-store")

    def signPem(self, event: Event, request: Accepted) -> Response:  # noqa: N802 - operationId
        """`POST /sign.pem`: PEM in, PEM out."""
        issued = self._issue(event, request.body, request.query.get("profile"))
        bundle = encoding.pem([issued.certificate, *issued.intermediates])
        return _response(bundle, PEM_CHAIN, "no-store")

    def ca(self, _event: Event, _request: Accepted) -> Response:
        """`GET /ca`: the CA, as JSON."""
        issuer = self._authority.issuer()
        return _json(
            {
                "subject": issuer.certificate.subject.rfc4514_string(),
                "not_before": encoding.timestamp(issuer.not_before),
                "not_after": encoding.timestamp(issuer.not_after),
                "key": keys.describe(issuer.certificate.public_key()),
                "fingerprint_sha256": encoding.fingerprint(issuer.certificate),
                "ca_pem": encoding.pem([issuer.certificate]),
                "chain_pem": encoding.pem([issuer.certificate, *issuer.chain]),
                "root_pem": encoding.pem([issuer.root]),
                "root_fingerprint_sha256": encoding.fingerprint(issuer.root),
                "previous_pem": encoding.pem(issuer.previous),
            },
            _AN_HOUR,
        )

    def caCrt(self, _event: Event, _request: Accepted) -> Response:  # noqa: N802 - operationId
        """`GET /ca.crt`: the issuing CA, DER."""
        return _response(encoding.der(self._authority.issuer().certificate), DER_CERTIFICATE, _AN_HOUR)

    def caPem(self, _event: Event, _request: Accepted) -> Response:  # noqa: N802 - operationId
        """`GET /ca.pem`: the chain, root last, then those before it."""
        return _response(encoding.pem(self._authority.issuer().authorities), PEM_CHAIN, _AN_HOUR)

    def caP7c(self, _event: Event, _request: Accepted) -> Response:  # noqa: N802 - operationId
        """`GET /ca.p7c`: the same, PKCS#7 certs-only."""
        return _response(encoding.certs_only(self._authority.issuer().authorities), CERTS_ONLY, _AN_HOUR)

    def rootCrt(self, _event: Event, _request: Accepted) -> Response:  # noqa: N802 - operationId
        """`GET /root.crt`: the root, DER."""
        return _response(encoding.der(self._authority.issuer().root), DER_CERTIFICATE, _AN_HOUR)

    def profiles(self, _event: Event, _request: Accepted) -> Response:
        """`GET /profiles`: what may be issued."""
        profiles = self._authority.profiles
        listed = [
            {
                "name": each.name,
                "description": each.description,
                "validity": iso8601(each.validity),
                "backdate": iso8601(each.backdate),
                "extended_key_usage": each.extended_key_usage,
                "names": [kind.value for kind in each.names],
            }
            for each in profiles
        ]
        return _json({"profiles": listed, "default": profiles.default}, "no-cache")

    def health(self, _event: Event, _request: Accepted) -> Response:
        """`GET /health`: ready, or 503."""
        until = self._authority.ready_issuer().not_after - LEAST_REMAINING
        return _json({"status": "ready", "ready_until": encoding.timestamp(until)}, "no-store")

    def _issue(self, event: Event, csr: bytes, profile: str | None) -> Issued:
        caller = principal.authenticated(event, self._api_key_names)
        return self._authority.issue(Order(csr, profile, caller, principal.request_id(event)))


def _signed(issued: Issued, *, text: bool) -> dict[str, object]:
    certificate = issued.certificate
    answer: dict[str, object] = {"crt_text": encoding.text(certificate)} if text else {}
    return answer | {
        "crt_pem": encoding.pem([certificate]),
        "chain_pem": encoding.pem(issued.intermediates),
        "serial_number": encoding.serial(certificate.serial_number),
        "fingerprint_sha256": encoding.fingerprint(certificate),
        "not_before": encoding.timestamp(issued.template.not_before),
        "not_after": encoding.timestamp(issued.template.not_after),
        "profile": issued.template.profile.name,
        "notes": issued.template.notes,
    }


def _json(answer: object, cache: str) -> Response:
    return _response(json.dumps(answer, separators=(",", ":")), "application/json", cache)


def _response(body: str | bytes, content_type: str, cache: str) -> Response:
    return Response(body, 200, {"Cache-Control": cache}, content_type=content_type)
