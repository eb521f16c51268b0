"""The exceptions of the core. Each class has a stable code (from RFC 8555 6.7 if possible) and a title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

MAX_SUBPROBLEMS: Final = 100  # equals the limit of names; a CSR of 64 KiB can have 10,000 violations
_MAX_LISTED: Final = 4  # texts in a message


class IssuanceError(Exception):
    """No certificate was issued: `detail` is the reason, `field` the invalid field of the request, or ''."""

    code: ClassVar[str] = "serverInternal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field

    @property
    def subproblems(self) -> tuple[IssuanceError, ...]:
        """The individual problems (RFC 8555 6.7.1)."""
        return (self,)


class RequestError(IssuanceError):
    """The request cannot be granted; the client has to change it."""

    code = "malformed"
    title = "Malformed request"


class BadCSR(RequestError):
    """The CSR is malformed, lacks proof of possession, or requests what the profile does not allow."""

    code = "badCSR"
    title = "Certificate signing request not accepted"


class BadSignatureAlgorithm(RequestError):
    """The CSR is signed with an insecure algorithm."""

    code = "badSignatureAlgorithm"
    title = "Signature algorithm not accepted"


class BadPublicKey(RequestError):
    """The kind, size or encoding of the public key is not accepted."""

    code = "badPublicKey"
    title = "Public key not accepted"


class RejectedIdentifier(RequestError):
    """A name is malformed or not permitted."""

    code = "rejectedIdentifier"
    title = "Name not accepted"


class RejectedValidity(RequestError):
    """The requested validity is longer than the profile or the CA allows, or too short."""

    code = "rejectedValidity"
    title = "Validity not accepted"


class UnknownProfile(RequestError):
    """The requested certificate profile does not exist."""

    code = "unknownProfile"
    title = "Unknown certificate profile"


class CompoundError(RequestError):
    """Several problems at once (`compound` in RFC 8555)."""

    code = "compound"
    title = "Request refused"

    def __init__(self, problems: tuple[RequestError, ...]) -> None:
        limit = f" for the first {MAX_SUBPROBLEMS}" if len(problems) > MAX_SUBPROBLEMS else ""
        super().__init__(f"{len(problems)} problems, see errors{limit}")
        self._subproblems = problems[:MAX_SUBPROBLEMS]

    @property
    def subproblems(self) -> tuple[IssuanceError, ...]:
        """The individual problems, at most `MAX_SUBPROBLEMS`."""
        return self._subproblems


class Unauthorized(IssuanceError):
    """The caller is not authenticated, or not authorized for the request."""

    code = "unauthorized"
    title = "Not permitted"


class NotFound(IssuanceError):
    """The CA does not have or know what the request is about."""

    code = "notFound"
    title = "Not found"


class CAError(IssuanceError):
    """A fault of the CA: its configuration or files are invalid, or a signature does not verify."""


class CAUnavailable(CAError):
    """The CA cannot issue now: it is not loaded or not valid, or its audit log cannot be written."""

    code = "unavailable"
    title = "Service unavailable"


def combine(violations: Sequence[RequestError]) -> RequestError:
    """Return the only violation, or a `CompoundError` of all."""
    return violations[0] if len(violations) == 1 else CompoundError(tuple(violations))


def raise_all(violations: Sequence[RequestError]) -> None:
    """Raise the only violation, or a `CompoundError` of all; return if there are none."""
    if violations:
        raise combine(violations)


def quote(text: str, limit: int = 80) -> str:
    """Quote untrusted text for a message: escape it and truncate it to `limit` characters."""
    return "'" + shorten(text, limit).encode("unicode_escape").decode("ascii").replace("'", "\\'") + "'"


def list_some(texts: Sequence[str], separator: str = ", ") -> str:
    """List the first four texts in a message, and the number of the others."""
    rest = len(texts) - _MAX_LISTED
    return separator.join(texts[:_MAX_LISTED]) + (f" (and {rest} more)" if rest > 0 else "")


def shorten(text: str, limit: int = 80) -> str:
    """Truncate a text for a message to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escape_controls(text: str) -> str:
    """Escape control and bidirectional formatting characters of untrusted text for a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def describe_error(error: Exception) -> str:
    """Describe an error of `cryptography` about malformed bytes: one escaped line without its type names."""
    first = str(error).partition("\n")[0]
    if "ParseError" in first:  # the rest has the library's type names
        return "malformed DER"
    if "PEM" in first:  # the rest refers to the library's manual
        return "not PEM"
    return first[:120].encode("unicode_escape").decode("ascii") or type(error).__name__
