"""The tree of refusals. Each class has a stable code (RFC 8555 6.7's where it has one) and a sentence."""

from __future__ import annotations

from typing import ClassVar, Final

MAX_SUBPROBLEMS: Final = 100  # as many as names; a request of 64 KiB can be wrong 10,000 times


class IssuanceError(Exception):
    """Nothing was issued: `detail` says why, `field` which part of the request is wrong ('' for none)."""

    code: ClassVar[str] = "serverInternal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field

    @property
    def subproblems(self) -> tuple[IssuanceError, ...]:
        """Every single refusal that this one stands for."""
        return (self,)


class RequestError(IssuanceError):
    """The request cannot be granted as it is: the client has to change it."""

    code = "malformed"
    title = "Malformed request"


class BadCSR(RequestError):
    """The certification request is malformed, unproved, or asks for what no profile gives."""

    code = "badCSR"
    title = "Certificate signing request not accepted"


class BadSignatureAlgorithm(RequestError):
    """The certification request is signed with an algorithm that proves nothing any more."""

    code = "badSignatureAlgorithm"
    title = "Signature algorithm not accepted"


class BadPublicKey(RequestError):
    """The subject public key is of a kind, size or form that is not certified."""

    code = "badPublicKey"
    title = "Public key not accepted"


class RejectedIdentifier(RequestError):
    """A name is malformed or not permitted."""

    code = "rejectedIdentifier"
    title = "Name not accepted"


class RejectedValidity(RequestError):
    """The validity asked for is more than the profile or the issuer gives, or of no use."""

    code = "rejectedValidity"
    title = "Validity not accepted"


class UnknownProfile(RequestError):
    """The request names a certificate profile that does not exist."""

    code = "unknownProfile"
    title = "Unknown certificate profile"


class CompoundError(RequestError):
    """Several refusals at once (RFC 8555's `compound`)."""

    code = "compound"
    title = "Request refused"

    def __init__(self, reasons: tuple[RequestError, ...]) -> None:
        limit = f" for the first {MAX_SUBPROBLEMS}" if len(reasons) > MAX_SUBPROBLEMS else ""
        super().__init__(f"{len(reasons)} problems, see errors{limit}")
        self._reasons = reasons[:MAX_SUBPROBLEMS]

    @property
    def subproblems(self) -> tuple[IssuanceError, ...]:
        """The refusals that this one stands for, the first `MAX_SUBPROBLEMS` of them."""
        return self._reasons


class Unauthorized(IssuanceError):
    """The caller is unknown, or may not have what it asks for."""

    code = "unauthorized"
    title = "Not permitted"


class CAError(IssuanceError):
    """Our own fault: the issuer is misconfigured, or made a certificate that does not verify."""


class CAUnavailable(CAError):
    """The issuer cannot issue now: it is not loaded, not valid, or its log cannot be written."""

    code = "unavailable"
    title = "Service unavailable"


def raise_all(reasons: list[RequestError]) -> None:
    """Raise the one reason, or `CompoundError` with all of them; return if there is none."""
    if len(reasons) == 1:
        raise reasons[0]
    if reasons:
        raise CompoundError(tuple(reasons))


def quote(text: str, limit: int = 80) -> str:
    """Text from a stranger, fit for a sentence: escaped, quoted and cut to `limit` characters."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "'" + shown.encode("unicode_escape").decode("ascii").replace("'", "\\'") + "'"


def escape_controls(text: str) -> str:
    """Text from a stranger, fit for a terminal: control characters escaped, and what turns text around."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def describe_error(error: Exception) -> str:
    """What `cryptography` says of malformed bytes, one escaped line without its own types."""
    first = str(error).partition("\n")[0]
    if "ParseError" in first:  # the rest names the library's own types
        return "its DER is malformed"
    if "PEM" in first:  # the library refers to its manual
        return "it is not in PEM"
    return first[:120].encode("unicode_escape").decode("ascii") or type(error).__name__
