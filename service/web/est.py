"""EST (RFC 7030, RFC 8951): the contract's operations for devices, on the same authority as all others.

What came over plain HTTP does not get here: `service.web.app` sees to it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from cryptography import x509

from service.authority import Authority, IssuanceRequest, IssuedCertificate, Principal
from service.pki import encoding
from service.web import principal
from service.web.answers import Answer
from service.web.problems import Reason
from service.web.requests import Accepted, MalformedError

PREFIX: Final = "/.well-known/est/"
NO_HTTPS: Final = "EST is served over HTTPS alone (RFC 7030 3.3)."
CERTIFICATES: Final = "application/pkcs7-mime; smime-type=certs-only"

_SEQUENCE: Final = b"\x30"  # how DER begins, and "0" to base64: then a length, which base64 cannot be
_LONG_LENGTH: Final = b"\x80"

Event = Mapping[str, Any]


class Est:
    """What the EST operations do, by operationId; with a label they do the same for a profile."""

    def __init__(self, authority: Authority, api_key_names: Mapping[str, str]) -> None:
        self._authority = authority
        self._api_key_names = api_key_names

    def estCacerts(self, _event: Event, request: Accepted) -> Answer:  # noqa: N802 - operationId
        """`GET /cacerts`: the chain with its root, and those before it."""
        self._authority.profiles.get(request.path.get("label"))
        return _certificates(self._authority.issuer().authorities, "public, max-age=3600")

    def estCsrattrs(self, _event: Event, request: Accepted) -> Answer:  # noqa: N802 - operationId
        """`GET /csrattrs`: nothing is asked for, since a profile adds what a request does not have to say."""
        self._authority.profiles.get(request.path.get("label"))
        return Answer(b"", "", "no-cache", HTTPStatus.NO_CONTENT)

    def estSimpleenroll(self, event: Event, request: Accepted) -> Answer:  # noqa: N802 - operationId
        """`POST /simpleenroll`: for whoever has an API key."""
        caller = principal.authenticated(event, self._api_key_names)
        return _enrolled(self._authority.issue(_order(event, request, caller)))

    def estSimplereenroll(self, event: Event, request: Accepted) -> Answer:  # noqa: N802 - operationId
        """`POST /simplereenroll`: for whoever has a certificate."""
        order = _order(event, request, None)
        return _enrolled(self._authority.renew(order, principal.client_certificate(event)))

    estLabelledCacerts = estCacerts  # noqa: N815 - operationId
    estLabelledCsrattrs = estCsrattrs  # noqa: N815 - operationId
    estLabelledSimpleenroll = estSimpleenroll  # noqa: N815 - operationId
    estLabelledSimplereenroll = estSimplereenroll  # noqa: N815 - operationId


def _order(event: Event, request: Accepted, caller: Principal | None) -> IssuanceRequest:
    """The order that a body states, whatever its Content-Transfer-Encoding says (RFC 8951 3.1)."""
    if request.body[:1] == _SEQUENCE and request.body[1:2] >= _LONG_LENGTH:
        detail = "the body is DER; EST takes base64 of it (RFC 8951 3.1)"
        raise MalformedError([Reason("malformed", "", detail)])
    return IssuanceRequest(
        csr=request.body,
        profile=request.path.get("label"),
        principal=caller,
        request_id=principal.request_id(event),
        is_est=True,
    )


def _enrolled(issued: IssuedCertificate) -> Answer:
    return _certificates([issued.certificate], "no-store")


def _certificates(certificates: Sequence[x509.Certificate], cache: str) -> Answer:
    """PKCS#7 certs-only, in base64 of one line: RFC 8951 3.1 has no other, and strongSwan reads no other."""
    body = base64.b64encode(encoding.certs_only(certificates))
    return Answer(body, CERTIFICATES, cache, headers=(("Content-Transfer-Encoding", "base64"),))
