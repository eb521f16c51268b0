"""The WSGI application: Connexion executes the contract.

Connexion gets the function's document and does what it says: it finds the operation of a request, asks for
the caller where `security` is, checks parameters and bodies with our validators, and calls the operation
with named arguments. This module plugs in where Connexion and Flask document it, and nowhere else.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import connexion
import flask
from connexion.exceptions import ProblemException
from connexion.resolver import Resolver
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException, default_exceptions

from service import openapi
from service.authority import API_KEY_REQUIRED, Authority, IssuanceRequest
from service.pki.errors import CAUnavailable, IssuanceError, Unauthorized
from service.web import est, identity
from service.web.est import Est
from service.web.operations import CERTS_ONLY, DER_CERTIFICATE, REVOCATION_LIST, Operations
from service.web.problems import EST_STATUS, STATUS, http_problem, issuance_problem
from service.web.strict_json import StrictJson
from service.web.validators import BodyValidator, ParameterValidator

BINARY_CONTENT_TYPES: Final = frozenset({DER_CERTIFICATE, CERTS_ONLY, REVOCATION_LIST})
MAX_BODY_BYTES: Final = 262_144  # where the contract has no x-max-bytes
NO_OPERATION: Final = "The contract has no such operation."
_FROM_GATEWAY: Final = {"HTTP_HOST": "certlet", **identity.PLACEHOLDER_CREDENTIALS}

_log = logging.getLogger(__name__)


class _Request(flask.Request):
    """A request without what this API has not: curl calls any body a form, which would leave none of it."""

    form = files = cookies = ImmutableMultiDict()  # type: ignore[assignment]  # properties of Werkzeug's
    url = ""  # the gateway's to know


def create(
    document: openapi.Document, authority: Authority, api_key_names: Mapping[str, str]
) -> WSGIApplication:
    """The application that executes a contract.

    Args:
        document: the contract.
        authority: what issues.
        api_key_names: API key id -> name of the principal.
    """
    # It warns of our many media types, and would write the names of unknown parameters into the log.
    logging.getLogger("connexion").setLevel(logging.CRITICAL)
    served = openapi.for_function(document)
    for scheme in served["components"]["securitySchemes"].values():
        function = "x-apikeyInfoFunc" if scheme["type"] == "apiKey" else "x-basicInfoFunc"
        scheme[function] = identity.SECURITY_FUNCTION
    operations = openapi.operations(served)
    options = {"swagger_ui": False, "serve_spec": False}
    app = connexion.FlaskApp(__name__, options=options, server_args={"static_folder": None})
    app.app.request_class, app.app.json = _Request, StrictJson(app.app)
    app.app.url_map.merge_slashes = False  # a path is one of the contract's, or none
    app.app.config |= {"PROVIDE_AUTOMATIC_OPTIONS": False, identity.API_KEY_NAMES: api_key_names}
    app.app.before_request(functools.partial(_begin, operations))
    app.add_api(
        served,
        resolver=Resolver(functools.partial(_resolve, operations, Operations(authority), Est(authority))),
        strict_validation=True,
        validator_map={"body": BodyValidator, "parameter": ParameterValidator},
    )
    for status in default_exceptions:
        app.add_error_handler(status, _http_error)
    app.add_error_handler(401, functools.partial(_unauthorized, authority))
    app.add_error_handler(ProblemException, _problem)
    app.add_error_handler(IssuanceError, _refusal)
    app.add_error_handler(Exception, _unexpected)
    return functools.partial(_serve, app)


def _serve(app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a request without what the caller says of itself and of this host: the gateway knows better."""
    environ |= _FROM_GATEWAY
    return app(environ, start_response)


def _resolve(
    operations: Mapping[str, openapi.Document], json: Operations, enrollment: Est, name: str
) -> Callable[..., flask.Response]:
    """The method of an operationId; Connexion makes no validator of parameters where there are none."""
    perform: Callable[..., flask.Response]
    perform = getattr(enrollment if hasattr(enrollment, name) else json, name)
    if operations[name].get("parameters"):
        return perform
    return ParameterValidator((), strict_validation=True)(perform)


def _begin(operations: Mapping[str, openapi.Document]) -> flask.Response | None:
    """What comes before all else: EST is over HTTPS alone, and how large a body may be."""
    request, operation = flask.request, _operation()
    if hasattr(Est, operation) and request.scheme != "https":
        return http_problem(403, est.HTTPS_REQUIRED)
    if body := operations.get(operation, {}).get("requestBody"):
        request.max_content_length = body.get("x-max-bytes", MAX_BODY_BYTES)
    return None


def _http_error(error: HTTPException) -> flask.Response:
    too_large = f"A body of at most {connexion.request.max_content_length} bytes is accepted."
    details = {404: NO_OPERATION, 405: NO_OPERATION, 413: too_large}
    return http_problem(error.code, details[error.code]) if error.code in details else _unexpected(error)


def _unauthorized(authority: Authority, _error: HTTPException) -> flask.Response:
    """The gateway named no caller. A refusal to issue is recorded, as any other."""
    reason: IssuanceError = Unauthorized(API_KEY_REQUIRED)
    if connexion.request.method == "POST":
        try:
            authority.dry_run(IssuanceRequest(b"", _profile(), None, identity.request_id()))
        except IssuanceError as error:
            reason = error
    return _refusal(reason)


def _profile() -> str | None:
    """The profile that a request names, in its path, query or body."""
    request, body = flask.request, flask.request.get_json(silent=True)
    stated = {**(body if isinstance(body, dict) else {}), **request.args}.get("profile")
    name = (request.view_args or {}).get("label", stated)
    return name if isinstance(name, str) else None


def _problem(error: ProblemException) -> flask.Response:
    return http_problem(error.status, error.detail, error.ext or ())


def _refusal(error: IssuanceError) -> flask.Response:
    if STATUS[type(error)] >= 500:  # noqa: PLR2004 - the cause is for the log alone
        trace = None if isinstance(error, CAUnavailable) else error.__cause__  # it may be a bug
        _log.error("%s: %s: %s", type(error).__name__, error.detail, error.__cause__, exc_info=trace)
    return issuance_problem(error, EST_STATUS if hasattr(Est, _operation()) else STATUS)


def _unexpected(error: Exception) -> flask.Response:
    """A bare 500: whatever happened is for the log alone."""
    _log.error("unexpected", exc_info=error)
    return http_problem(500)


def _operation() -> str:
    """The operationId of the request; '' if it has none."""
    return (connexion.request.endpoint or "").rpartition(".")[2]
