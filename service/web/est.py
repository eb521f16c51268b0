"""EST (RFC 7030, RFC 8951): the contract's operations for devices, on the same authority as all others.

What came over plain HTTP does not get here: `service.web.app` sees to it.
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

HTTPS_REQUIRED: Final = "EST is served over HTTPS alone (RFC 7030 3.3)."
CERTIFICATES_TYPE: Final = "application/pkcs7-mime; smime-type=certs-only"

_SEQUENCE: Final = b"\x30"  # how DER begins, and "0" to base64: then a length, which base64 cannot be
_LONG_LENGTH: Final = b"\x80"


class Est:
    """What the EST operations do, by operationId; with a label they do the same for a profile."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def estCacerts(self, label: str | None = None) -> Response:  # noqa: N802 - operationId
        """`GET /cacerts`: the chain with its root, and those before it."""
        self._authority.profiles.get(label)
        return _certificates_response(self._authority.issuer().ca_certificates, "public, max-age=3600")

    def estCsrattrs(self, label: str | None = None) -> Response:  # noqa: N802 - operationId
        """`GET /csrattrs`: nothing is asked for, since a profile adds what a request does not have to say."""
        self._authority.profiles.get(label)
        return Response(b"", "", "no-cache", HTTPStatus.NO_CONTENT)

    def estSimpleenroll(  # noqa: N802 - operationId
        self, body: bytes, label: str | None = None, user: Principal | None = None
    ) -> Response:
        """`POST /simpleenroll`: for a caller with an API key."""
        return _enrollment_response(self._authority.issue(_request(body, label, user)))

    def estSimplereenroll(self, body: bytes, label: str | None = None) -> Response:  # noqa: N802 - operationId
        """`POST /simplereenroll`: for a caller with a certificate."""
        request = _request(body, label, None)
        return _enrollment_response(self._authority.renew(request, identity.client_certificate()))

    estLabelledCacerts = estCacerts  # noqa: N815 - operationId
    estLabelledCsrattrs = estCsrattrs  # noqa: N815 - operationId
    estLabelledSimpleenroll = estSimpleenroll  # noqa: N815 - operationId
    estLabelledSimplereenroll = estSimplereenroll  # noqa: N815 - operationId


def _request(body: bytes, label: str | None, user: Principal | None) -> IssuanceRequest:
    """The request that a body makes, whatever its Content-Transfer-Encoding says (RFC 8951 3.1)."""
    if body[:1] == _SEQUENCE and body[1:2] >= _LONG_LENGTH:
        detail = "the body is DER; EST takes base64 of it (RFC 8951 3.1)"
        raise MalformedError([FieldProblem("malformed", "", detail)])
    return IssuanceRequest(
        csr=body, profile=label, principal=user, request_id=identity.request_id(), is_est=True
    )


def _enrollment_response(issued: IssuedCertificate) -> Response:
    return _certificates_response([issued.certificate], "no-store")


def _certificates_response(certificates: Sequence[x509.Certificate], cache: str) -> Response:
    """PKCS#7 certs-only, in base64 of one line: RFC 8951 3.1 has no other, and strongSwan reads no other."""
    body = base64.b64encode(encoding.encode_certs_only(certificates))
    return Response(body, CERTIFICATES_TYPE, cache, headers=[("Content-Transfer-Encoding", "base64")])
