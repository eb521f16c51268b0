"""The problems of ACME (RFC 8555 6.7), with their HTTP status codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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
    "orderNotReady": 403,
    "rateLimited": 429,
    "rejectedIdentifier": 403,
    "serverInternal": 500,
    "unauthorized": 403,
    "unsupportedContact": 400,
    "unsupportedIdentifier": 400,
}


class AcmeError(Exception):
    """A request of an ACME client is refused.

    Attributes:
        code: the type of the problem, without the namespace.
        detail: the reason, and what to do; clients print it.
        members: further members of the problem document, such as `algorithms`.
    """

    def __init__(self, code: str, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.members: Mapping[str, object] = members

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return STATUS[self.code]

    def document(self) -> dict[str, object]:
        """Return the problem document (RFC 9457)."""
        return {
            "type": NAMESPACE + self.code,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
