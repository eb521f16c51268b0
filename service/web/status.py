"""The operations about the status of certificates: CRL, OCSP and renewal information."""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import connexion
from cryptography import x509

from service.pki import encoding, renewal_info, revocation
from service.pki.renewal_info import CertificateId, UnknownCertificate
from service.status import StatusResponse, StatusService, UnknownIssuer
from service.web import identity
from service.web.problems import FieldProblem, MalformedError, http_problem
from service.web.responses import Response, json_response

REVOCATION_LIST: Final = "application/pkix-crl"
OCSP_RESPONSE: Final = "application/ocsp-response"
MAX_OCSP_CHARACTERS: Final = 1024  # of the base64 in a path; a request with SHA-256 and a long nonce has 400

_CRL_CACHE: Final = f"public, max-age={revocation.WINDOW.seconds}"


class StatusOperations:
    """The operations; each method is named after its operationId."""

    def __init__(self, status: StatusService) -> None:
        self._status = status

    def caCrl(self) -> Response:  # noqa: N802 - operationId
        """`GET /ca.crl`: the certificate revocation list, DER."""
        return _crl_response(self._status.current_crl())

    def crl(self, key_id: str) -> Response:
        """`GET /crl/{key_id}`: the certificate revocation list of an issuer, DER."""
        try:
            return _crl_response(self._status.current_crl(key_id))
        except UnknownIssuer as error:
            return http_problem(404, str(error))

    def ocsp(self, body: bytes) -> Response:
        """`POST /ocsp`: the status of one certificate; an OCSP request and response, DER."""
        response = self._status.certificate_status(body, identity.request_id())
        return Response(response.der, OCSP_RESPONSE, _ocsp_cache(response))

    def ocspGet(self, request: str) -> Response:  # noqa: N802 - operationId
        """`GET /ocsp/{request}`: as `ocsp`, with the OCSP request in base64, for caches."""
        response = self._status.certificate_status(_decode_ocsp_request(request), identity.request_id())
        body, status, headers = response.der, HTTPStatus.OK, {}
        if response.version:  # weak: each response has another signature
            headers["ETag"] = f'W/"{response.version}"'
            if connexion.request.if_none_match.contains_weak(response.version):
                body, status = b"", HTTPStatus.NOT_MODIFIED
        return Response(body, OCSP_RESPONSE, _ocsp_cache(response), status, headers.items())

    def renewalInfo(self, certificate_id: str) -> Response:  # noqa: N802 - operationId
        """`GET /renewal-info/{certificate_id}`: when to renew a certificate (RFC 9773 4.2)."""
        try:
            parsed = CertificateId.parse(certificate_id)
        except ValueError as error:
            raise MalformedError([FieldProblem("malformed", "path.certificate_id", str(error))]) from error
        try:
            window = self._status.renewal_window(parsed)
        except UnknownCertificate as error:
            return http_problem(404, str(error))
        times = {name: encoding.format_timestamp(time) for name, time in window._asdict().items()}
        response = json_response({"suggestedWindow": times}, _CRL_CACHE)
        response.headers["Retry-After"] = str(renewal_info.retry_after(window).seconds)
        return response


def _crl_response(crl: x509.CertificateRevocationList) -> Response:
    return Response(encoding.encode_der(crl), REVOCATION_LIST, _CRL_CACHE)


def _decode_ocsp_request(text: str) -> bytes:
    """Decode the base64 in a path (RFC 6960 A.1), in any spelling; return b"" if it is malformed."""
    text = unquote(text).replace(" ", "+")
    text += "/" * (-len(text) % 4)  # a gateway may have removed slashes at the end of the path
    try:
        return base64.b64decode(text, validate=True) if len(text) <= MAX_OCSP_CHARACTERS else b""
    except ValueError:
        return b""


def _ocsp_cache(response: StatusResponse) -> str:
    seconds = int(response.max_age.total_seconds())
    return f"public, max-age={seconds}" if seconds else "no-store"
