"""The WSGI application: Connexion executes the contract.

Connexion gets the function's document. For each request it finds the operation, calls our security function
if the operation has `security`, validates parameters and body with our validators, and calls the operation
with named arguments. This module uses only documented extension points of Connexion and Flask.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import connexion
import flask
from connexion.exceptions import ProblemException
from connexion.resolver import Resolver
from flask.json.provider import DefaultJSONProvider
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException, default_exceptions
from werkzeug.routing import PathConverter

from service import openapi
from service.authority import API_KEY_REQUIRED, Authority, IssuanceRequest
from service.pki.errors import CAUnavailable, IssuanceError, Unauthorized
from service.pki.strict_json import parse_json
from service.web import est, identity
from service.web.acme import AcmeOperations, AcmeSite, AcmeStore
from service.web.acme_problems import AcmeError
from service.web.est import Est
from service.web.operations import CERTS_ONLY, DER_CERTIFICATE, Operations
from service.web.problems import (
    ACME_STATUS,
    EST_STATUS,
    STATUS,
    acme_problem,
    http_problem,
    issuance_problem,
)
from service.web.status import OCSP_RESPONSE, REVOCATION_LIST, StatusOperations
from service.web.validators import BodyValidator, ParameterValidator

BINARY_CONTENT_TYPES: Final = frozenset({DER_CERTIFICATE, CERTS_ONLY, REVOCATION_LIST, OCSP_RESPONSE})
MAX_BODY_BYTES: Final = 262_144  # if the contract has no x-max-bytes
NO_OPERATION: Final = "No operation has this path and method"
_GATEWAY_ENVIRON: Final = {"HTTP_HOST": "certlet", **identity.PLACEHOLDER_CREDENTIALS}

_log = logging.getLogger(__name__)


class _Request(flask.Request):
    """A request without forms, files and cookies: curl labels any body as a form, which would consume it."""

    form = files = cookies = ImmutableMultiDict()  # type: ignore[assignment]  # properties in Werkzeug
    url = ""  # only the gateway knows it


class _StrictJson(DefaultJSONProvider):
    """JSON that raises only ValueError, with the problem and its position."""

    @staticmethod
    def loads(s: str | bytes, **_options: object) -> Any:  # noqa: ANN401 - JSON
        return parse_json(s)


class _PathConverter(PathConverter):
    """Any octets, also a slash at the start and line breaks."""

    part_isolating, regex = False, "(?s:.+)"


def create(
    document: openapi.OpenAPIDocument,
    authority: Authority,
    api_key_names: Mapping[str, str],
    public_url: str = "",
    est_line_length: int = 0,
    acme_store: AcmeStore | None = None,
) -> WSGIApplication:
    """Create the application that executes a contract.

    Args:
        document: the contract.
        authority: issues the certificates.
        api_key_names: API key id -> name of the principal.
        public_url: the base of problem types, without a final slash; '' for relative ones.
        est_line_length: the characters in a line of EST's responses; 0 for one line.
        acme_store: what ACME needs; None for no ACME.
    """
    # Connexion warns about several media types, and would log the names of unknown parameters.
    logging.getLogger("connexion").setLevel(logging.CRITICAL)
    served = openapi.for_function(document)
    for scheme in served["components"]["securitySchemes"].values():
        kind = scheme.get("scheme", "apikey")  # of http: basic or bearer
        scheme[f"x-{kind}InfoFunc"] = identity.SECURITY_FUNCTION
    operations = openapi.operations_by_id(served)
    options = {"swagger_ui": False, "serve_spec": False}
    app = connexion.FlaskApp(__name__, options=options, server_args={"static_folder": None})
    app.app.request_class, app.app.json = _Request, _StrictJson(app.app)
    app.app.url_map.merge_slashes = False  # paths must match the contract exactly
    app.app.url_map.converters["path"] = _PathConverter
    app.app.config |= {
        identity.API_KEY_NAMES: api_key_names,
        identity.POLICY: authority.profiles,
        identity.PUBLIC_URL: public_url,
    }
    app.app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.app.before_request(functools.partial(_before_request, operations))
    acme = AcmeSite(authority, acme_store)
    app.app.after_request(functools.partial(_after_request, acme))
    implementations = (
        Operations(authority, acme_store.ledger if acme_store else None),
        AcmeOperations(acme),
        StatusOperations(authority.status),
        Est(authority, est_line_length),
    )
    app.add_api(
        served,
        resolver=Resolver(functools.partial(_resolve, operations, implementations)),
        strict_validation=True,
        validator_map={"body": BodyValidator, "parameter": ParameterValidator},
    )
    for status in default_exceptions:
        app.add_error_handler(status, _http_error)
    app.add_error_handler(401, functools.partial(_unauthorized, authority))
    app.add_error_handler(ProblemException, _problem)
    app.add_error_handler(IssuanceError, _refusal)
    app.add_error_handler(AcmeError, acme_problem)
    app.add_error_handler(Exception, _unexpected)
    return functools.partial(_serve, app)


def _serve(app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Run the application with credentials and host replaced, since the caller controls these headers."""
    environ |= _GATEWAY_ENVIRON
    return app(environ, start_response)


def _resolve(
    operations: Mapping[str, openapi.OpenAPIDocument], implementations: Iterable[object], operation_id: str
) -> Callable[..., flask.Response]:
    """Return the method of an operationId, with a parameter validator if Connexion would not create one."""
    methods = (getattr(implementation, operation_id, None) for implementation in implementations)
    method: Callable[..., flask.Response] | None = next(filter(None, methods), None)
    if method is None:
        raise AttributeError(f"no method for the operationId {operation_id}")
    if operations[operation_id].get("parameters"):
        return method
    return ParameterValidator((), strict_validation=True)(method)


def _before_request(operations: Mapping[str, openapi.OpenAPIDocument]) -> flask.Response | None:
    """Refuse EST over plain HTTP, and set the limit of the body, before Connexion handles the request."""
    request, operation_id = flask.request, _operation_id()
    if hasattr(Est, operation_id) and request.scheme != "https":
        return http_problem(403, est.HTTPS_REQUIRED)
    if body := operations.get(operation_id, {}).get("requestBody"):
        request.max_content_length = body.get("x-max-bytes", MAX_BODY_BYTES)
    return None


def _after_request(acme: AcmeSite, response: flask.Response) -> flask.Response:
    operation_id = _operation_id()
    has_nonce = hasattr(AcmeOperations, operation_id) and operation_id != "acmeDirectory"
    return acme.add_headers(response) if has_nonce else response


def _http_error(error: HTTPException) -> flask.Response:
    too_large = f"The body is too large: the limit is {connexion.request.max_content_length} bytes"
    details = {404: NO_OPERATION, 405: NO_OPERATION, 413: too_large}
    return http_problem(error.code, details[error.code]) if error.code in details else _unexpected(error)


def _unauthorized(authority: Authority, _error: HTTPException) -> flask.Response:
    """Refuse a request without a caller. Refusals to issue get an audit record."""
    refusal: IssuanceError = Unauthorized(API_KEY_REQUIRED)
    if connexion.request.method == "POST":
        try:
            authority.dry_run(IssuanceRequest(b"", _requested_profile(), None, identity.request_id()))
        except IssuanceError as error:
            refusal = error
    return _refusal(refusal)


def _requested_profile() -> str | None:
    """Return the profile in the path, query or body of the request."""
    request, body = flask.request, flask.request.get_json(silent=True)
    options = {**(body if isinstance(body, dict) else {}), **request.args}
    name = (request.view_args or {}).get("label", options.get("profile"))
    return name if isinstance(name, str) else None


def _problem(error: ProblemException) -> flask.Response:
    return http_problem(error.status, error.detail, error.ext or (), error.headers)


def _refusal(error: IssuanceError) -> flask.Response:
    if STATUS[type(error)] >= 500:  # noqa: PLR2004 - only the log may contain the cause
        trace = None if isinstance(error, CAUnavailable) else error.__cause__  # it may be a bug
        texts = (type(error).__name__, error.detail, *map(str, _causes(error)))
        _log.error("%s", ": ".join(texts), exc_info=trace)
    operation_id = _operation_id()
    if hasattr(AcmeOperations, operation_id):
        return issuance_problem(error, ACME_STATUS)
    return issuance_problem(error, EST_STATUS if hasattr(Est, operation_id) else STATUS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the cause of an error, the cause of that, and so on."""
    while cause := error.__cause__:
        error = cause
        yield error


def _unexpected(error: Exception) -> flask.Response:
    """Create a 500 response without details. Only the log contains the error."""
    _log.error("unexpected error", exc_info=error)
    return http_problem(500)


def _operation_id() -> str:
    """Return the operationId of the request; '' if it has none."""
    return (connexion.request.endpoint or "").rpartition(".")[2]
