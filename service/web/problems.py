"""Problem documents (RFC 9457): one table from error classes to HTTP status codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import connexion
from connexion.exceptions import ProblemException
from flask import current_app, has_app_context

from service.openapi import ACME_PREFIX
from service.pki import errors
from service.web import acme_problems, identity
from service.web.acme_problems import AcmeError
from service.web.responses import Response

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
    errors.NotFound: 404,
    errors.CAError: 500,
    errors.CAUnavailable: 503,
}

# ACME's statuses of its problem types (RFC 8555 6.7).
ACME_STATUS: Final = {
    kind: 403 if kind is errors.RejectedIdentifier else 400 if status == 422 else status  # noqa: PLR2004
    for kind, status in STATUS.items()
}

# EST answers 400 to each refused request (RFC 7030 4.2.3), and 404 to an unknown profile in the path.
EST_STATUS: Final = {
    kind: 404 if kind is errors.UnknownProfile else 400 if status == 422 else status  # noqa: PLR2004
    for kind, status in STATUS.items()
}

# Problems of the HTTP layer: status -> code and title. The core has no classes for them.
_HTTP_PROBLEMS: Final = {
    400: ("malformed", "Malformed request"),
    403: ("httpsRequired", "HTTPS required"),
    404: ("notFound", "Not found"),
    405: ("methodNotAllowed", "Method not allowed"),
    413: ("tooLarge", "Request too large"),
    415: ("unsupportedMediaType", "Unsupported media type"),
    500: ("serverInternal", "Internal error"),
}
_RETRY_AFTER: Final = "60"  # seconds: an operator has to repair something first
_DETAIL_500: Final = "The request did not cause this error: report the instance to your CA administrator"

Statuses = Mapping[type[errors.IssuanceError], int]
"""HTTP status of each class of refusal."""


@dataclass(frozen=True)
class FieldProblem:
    """One problem of a request, in one field."""

    code: str
    field: str
    detail: str


class MalformedError(ProblemException):  # type: ignore[misc]  # Connexion is not typed
    """The request violates the contract."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        several = f"{len(problems)} problems, see errors"
        detail = problems[0].detail if len(problems) == 1 else several
        super().__init__(status=400, detail=detail, ext=problems)


def issuance_problem(error: errors.IssuanceError, statuses: Statuses) -> Response:
    """Create the response to a refusal. Only the log describes internal errors."""
    return _response(problem_document(error, statuses))


def problem_document(error: errors.IssuanceError, statuses: Statuses = STATUS) -> dict[str, object]:
    """Create the problem document of a refusal, for a response or for a result of a batch."""
    status = statuses[type(error)]
    detail = _DETAIL_500 if status == 500 else error.detail  # noqa: PLR2004
    is_about_request = isinstance(error, errors.RequestError) or error.field
    problems = [
        FieldProblem(subproblem.code, subproblem.field, subproblem.detail)
        for subproblem in (error.subproblems if is_about_request else ())
    ]
    return _document(status, error.code, error.title, detail, problems)


def http_problem(
    status: int,
    detail: str = _DETAIL_500,
    problems: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Create the response to a problem of the HTTP layer, with each field that has one."""
    response = _response(_document(status, *_HTTP_PROBLEMS[status], detail, problems))
    response.headers.update(headers or {})
    return response


def acme_problem(error: AcmeError) -> Response:
    """Create the response to an ACME client whose request is refused."""
    response = _response(
        {**acme_problems.document(error.status, error.code, [error.detail]), **error.members}
    )
    response.headers.update(error.headers)
    return response


def http_problem_document(status: int, detail: str, request_id: str) -> dict[str, object]:
    """Create the document of a problem that occurs outside the application."""
    return _document(status, *_HTTP_PROBLEMS[status], detail, (), request_id)


def _document(
    status: int,
    code: str,
    title: str,
    detail: str,
    problems: Sequence[FieldProblem],
    request_id: str | None = None,
) -> dict[str, object]:
    if request_id is None and connexion.request.path.startswith(ACME_PREFIX):
        return acme_problems.document(status, code, [problem.detail for problem in problems] or [detail])
    document: dict[str, object] = {
        "type": f"{_public_url()}/problems#{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": f"urn:uuid:{identity.request_id() if request_id is None else request_id}",
    }
    return document | ({"errors": [vars(problem) for problem in problems]} if problems else {})


def _public_url() -> str:
    """Return the base of problem types; '' for an event that does not reach the application."""
    return str(current_app.config.get(identity.PUBLIC_URL, "")) if has_app_context() else ""


def _response(document: dict[str, object]) -> Response:
    status = cast("int", document["status"])
    body = json.dumps(document, separators=(",", ":")).encode("ascii")
    headers = (("Retry-After", _RETRY_AFTER),) if status == 503 else ()  # noqa: PLR2004
    return Response(body, "application/problem+json", "no-store", status, headers)
