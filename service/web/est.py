"""EST (RFC 7030, RFC 8951): the operations for devices.

`service.web.app` has already refused requests over plain HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from cryptography import x509

from service.authority import Authority, IssuanceRequest, IssuedCertificate, Principal
from service.pki import encoding
from service.web import identity
from service.web.problems import FieldProblem, MalformedError
from service.web.responses import Response

HTTPS_REQUIRED: Final = "EST requires HTTPS (RFC 7030 3.3): use the https URL"
CERTIFICATES_TYPE: Final = "application/pkcs7-mime; smime-type=certs-only"

_SEQUENCE: Final = b"\x30"  # first octet of DER, also "0" in base64
_LONG_LENGTH: Final = b"\x80"  # the length follows in DER; base64 has no such octet


class Est:
    """The EST operations. Each method is named after its operationId; a label is the name of a profile."""

    def __init__(self, authority: Authority, line_length: int = 0) -> None:
        """`line_length` is the number of characters in a line of base64; 0 for one line."""
        self._authority = authority
        self._line_length = line_length

    def estCacerts(self, label: str | None = None) -> Response:  # noqa: N802 - operationId
        """`GET /cacerts`: the chain with its root, then the previous CA certificates."""
        self._authority.profiles.get(label)
        return self._certificates_response(
            self._authority.load_issuer().ca_certificates, "public, max-age=3600"
        )

    def estCsrattrs(self, label: str | None = None) -> Response:  # noqa: N802 - operationId
        """`GET /csrattrs`: no attributes are required, since the profile adds them."""
        self._authority.profiles.get(label)
        return Response(b"", "", "no-cache", HTTPStatus.NO_CONTENT)

    def estSimpleenroll(  # noqa: N802 - operationId
        self, body: bytes, label: str | None = None, user: Principal | None = None
    ) -> Response:
        """`POST /simpleenroll`: issue a certificate to a caller with an API key."""
        return self._enrollment_response(self._authority.issue(_request(body, label, user)))

    def estSimplereenroll(self, body: bytes, label: str | None = None) -> Response:  # noqa: N802 - operationId
        """`POST /simplereenroll`: renew the client certificate of the caller."""
        request = _request(body, label, None)
        return self._enrollment_response(self._authority.renew(request, identity.client_certificate()))

    def _enrollment_response(self, issued: IssuedCertificate) -> Response:
        return self._certificates_response([issued.certificate], "no-store")

    def _certificates_response(self, certificates: Sequence[x509.Certificate], cache: str) -> Response:
        """Encode PKCS#7 certs-only in base64. RFC 8951 3.1 leaves line breaks to the server."""
        body = base64.b64encode(encoding.encode_certs_only(certificates))
        if length := self._line_length:
            body = b"".join(body[start : start + length] + b"\n" for start in range(0, len(body), length))
        return Response(body, CERTIFICATES_TYPE, cache, headers=[("Content-Transfer-Encoding", "base64")])

    estLabelledCacerts = estCacerts  # noqa: N815 - operationId
    estLabelledCsrattrs = estCsrattrs  # noqa: N815 - operationId
    estLabelledSimpleenroll = estSimpleenroll  # noqa: N815 - operationId
    estLabelledSimplereenroll = estSimplereenroll  # noqa: N815 - operationId


def _request(body: bytes, label: str | None, user: Principal | None) -> IssuanceRequest:
    """Create the request. Its Content-Transfer-Encoding is ignored (RFC 8951 3.1)."""
    if body[:1] == _SEQUENCE and body[1:2] >= _LONG_LENGTH:
        detail = "The body is DER: encode it in base64 (RFC 8951 3.1)"
        raise MalformedError([FieldProblem("malformed", "", detail)])
    return IssuanceRequest(
        csr=body, profile=label, principal=user, request_id=identity.request_id(), is_est=True
    )
