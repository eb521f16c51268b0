"""Refusals -> problem documents (RFC 9457), in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from connexion.exceptions import ProblemException

from service.pki import errors
from service.web import identity
from service.web.responses import Answer

STATUS: Final[dict[type[errors.IssuanceError], int]] = {
    errors.IssuanceError: 500,
    errors.RequestError: 422,
    errors.BadCSR: 422,
    errors.BadSignatureAlgorithm: 422,
    errors.BadPublicKey: 422,
    errors.RejectedIdentifier: 422,
    errors.RejectedValidity: 422,
    errors.UnknownProfile: 422,
    errors.CompoundError: 422,
    errors.Unauthorized: 403,
    errors.CAError: 500,
    errors.CAUnavailable: 503,
}

# Over EST every refusal of a request is 400 (RFC 7030 4.2.3), and a label is a part of the path.
EST_STATUS: Final = {
    kind: 404 if kind is errors.UnknownProfile else 400 if status == 422 else status  # noqa: PLR2004
    for kind, status in STATUS.items()
}

# Problems of HTTP alone, which the core does not know: status -> code and title.
_TRANSPORT: Final = {
    400: ("malformed", "The request is malformed."),
    403: ("httpsRequired", "This is served over HTTPS alone."),
    404: ("notFound", "There is nothing here."),
    405: ("methodNotAllowed", "The method is not allowed here."),
    413: ("tooLarge", "The request is too large."),
    415: ("unsupportedMediaType", "The media type is not supported."),
    500: ("serverInternal", "Something went wrong here."),
}
_RETRY_AFTER: Final = "60"  # seconds: how often an operator's repair is worth asking for
_DETAIL_500: Final = "The fault is not in the request."

Statuses = Mapping[type[errors.IssuanceError], int]
"""The HTTP status of each class of refusal."""


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong with a request."""

    code: str
    field: str
    detail: str


class MalformedError(ProblemException):  # type: ignore[misc]  # Connexion is not typed
    """The request is not what the contract says, for these reasons."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        detail = reasons[0].detail if len(reasons) == 1 else f"{len(reasons)} faults, each listed in errors."
        super().__init__(status=400, detail=detail, ext=reasons)


def refusal(error: errors.IssuanceError, statuses: Statuses) -> Answer:
    """The answer to a refusal. If the fault is ours, only the log says what it is."""
    return _response(document(error, statuses))


def document(error: errors.IssuanceError, statuses: Statuses = STATUS) -> dict[str, object]:
    """The problem document of a refusal, which stands alone or in a batch."""
    status = statuses[type(error)]
    detail = _DETAIL_500 if status == 500 else error.detail  # noqa: PLR2004
    is_request = isinstance(error, errors.RequestError) or error.field
    reasons = [Reason(each.code, each.field, each.detail) for each in error.subproblems] if is_request else []
    return _problem(status, error.code, error.title, detail, reasons)


def transport(status: int, detail: str = _DETAIL_500, errors: Sequence[Reason] = ()) -> Answer:
    """A problem of HTTP alone: 400 with every error, 403, 404, 405, 413, 415, or a bare 500."""
    return _response(_problem(status, *_TRANSPORT[status], detail, errors))


def _problem(status: int, code: str, title: str, detail: str, reasons: Sequence[Reason]) -> dict[str, object]:
    problem: dict[str, object] = {
        "type": f"/problems#{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": f"urn:uuid:{identity.request_id()}",
    }
    return problem | ({"errors": [vars(reason) for reason in reasons]} if reasons else {})


def _response(problem: dict[str, object]) -> Answer:
    status = cast("int", problem["status"])
    body = json.dumps(problem, separators=(",", ":")).encode("ascii")
    headers = (("Retry-After", _RETRY_AFTER),) if status == 503 else ()  # noqa: PLR2004
    return Answer(body, "application/problem+json", "no-store", status, headers)
