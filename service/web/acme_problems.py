"""The problems of ACME (RFC 8555 6.7), with their HTTP status codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from service.pki.errors import list_some
from service.web import identity

NAMESPACE: Final = "urn:ietf:params:acme:error:"

STATUS: Final = {
    "accountDoesNotExist": 400,
    "alreadyReplaced": 409,  # RFC 9773 5
    "alreadyRevoked": 400,
    "badCSR": 400,
    "badNonce": 400,
    "badPublicKey": 400,
    "badRevocationReason": 400,
    "badSignatureAlgorithm": 400,
    "conflict": 409,  # RFC 8555 7.3.5 has the status, and no type
    "externalAccountRequired": 403,
    "invalidContact": 400,
    "invalidProfile": 400,  # draft-ietf-acme-profiles
    "malformed": 400,
    "notFound": 404,
    "orderNotReady": 403,
    "rateLimited": 429,
    "rejectedIdentifier": 403,
    "serverInternal": 500,
    "unauthorized": 403,
    "unsupportedContact": 400,
    "unsupportedIdentifier": 400,
}
_TYPES: Final = {  # of other codes; RFC 8555 6.3 and 6.7 have no more types
    "conflict": "malformed",
    "methodNotAllowed": "malformed",
    "notFound": "malformed",
    "rejectedValidity": "malformed",
    "tooLarge": "malformed",
    "unavailable": "serverInternal",
    "unknownProfile": "invalidProfile",
    "unsupportedMediaType": "malformed",
}


class AcmeError(Exception):
    """A request of an ACME client is refused.

    Attributes:
        code: the type of the problem, without the namespace; or `conflict` or `notFound`.
        detail: the reason, and what to do; clients print it.
        members: further members of the problem document, such as `algorithms`.
        headers: of the response.
    """

    def __init__(
        self, code: str, detail: str, headers: Mapping[str, str] | None = None, **members: object
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers: Mapping[str, str] = headers or {}
        self.members: Mapping[str, object] = members

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return STATUS[self.code]


def document(status: int, code: str, details: Sequence[str]) -> dict[str, object]:
    """Return a problem document (RFC 9457, RFC 8555 6.7).

    Args:
        status: the HTTP status code.
        code: the code of the problem, without the namespace.
        details: the reasons. Clients print only `detail`, so it has the first of them.
    """
    return {
        "type": NAMESPACE + _TYPES.get(code, code),
        "status": status,
        "detail": list_some(details, "; "),
        "instance": f"urn:uuid:{identity.request_id()}",
    }
