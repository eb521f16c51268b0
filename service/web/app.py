"""The WSGI application: Connexion routes the contract to the operations.

No type of Connexion leaves this module, so that another framework could take its place here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import connexion
import flask
from connexion.apis.flask_api import FlaskApi
from connexion.apis.flask_utils import flaskify_path
from connexion.resolver import Resolution, Resolver
from werkzeug.exceptions import HTTPException

from service import contract
from service.authority import Authority
from service.pki.errors import IssuanceError
from service.web import est, principal, problems, requests
from service.web.est import Est
from service.web.operations import CERTS_ONLY, DER_CERTIFICATE, REVOCATION_LIST, Operations

BINARY_CONTENT_TYPES: Final = frozenset({DER_CERTIFICATE, CERTS_ONLY, REVOCATION_LIST})
EVENT: Final = "awsgi.event"  # where aws-wsgi keeps the Lambda event
CONTEXT: Final = "awsgi.context"  # and the invocation's context

_log = logging.getLogger(__name__)


def create(
    document: contract.Document, authority: Authority, api_key_names: Mapping[str, str]
) -> flask.Flask:
    """The application that answers a contract's operations.

    Args:
        document: the contract.
        authority: what issues.
        api_key_names: API key id -> name of the principal.
    """
    served = contract.for_function(document)
    app = connexion.FlaskApp(__name__, options={"swagger_ui": False, "serve_spec": False})
    app.api_cls = _Api
    app.add_api(
        _routes(served),
        resolver=_Resolver(
            contract.operations(served), Operations(authority, api_key_names), Est(authority, api_key_names)
        ),
    )
    # Connexion's own handlers answer in its own words, so ours take their place.
    app.app.error_handler_spec.clear()
    app.app.register_error_handler(Exception, _unexpected)
    app.app.register_error_handler(HTTPException, _http_error)
    app.app.after_request(_allow_every_origin)
    return app.app  # type: ignore[no-any-return]


def _routes(served: contract.Document) -> contract.Document:
    """What Connexion is for here: path and method -> operationId.

    It would prove the whole document against OpenAPI's schema at every start, which took as long as the
    rest of it together; `tox -e spec` proves it once, and `service.web.requests` reads the operations.
    """
    paths = {
        path: {
            method: {
                "operationId": item[method]["operationId"],
                "responses": {"default": {"description": ""}},
            }
            for method in item
            if method in contract.METHODS
        }
        for path, item in served["paths"].items()
    }
    return {"openapi": served["openapi"], "info": {"title": "", "version": ""}, "paths": paths}


class _Api(FlaskApi):  # type: ignore[misc]  # Connexion is not typed
    """Connexion's API without its decorators, which would read a request and write an answer once more."""

    def _add_operation_internal(self, method: str, path: str, operation: Any) -> None:  # noqa: ANN401 - as above
        """Route a path and a method to what the resolver gives."""
        resolved = operation._resolution  # noqa: SLF001 - `function` would decorate it
        self.blueprint.add_url_rule(
            flaskify_path(path), resolved.operation_id, resolved.function, methods=[method]
        )


class _Resolver(Resolver):  # type: ignore[misc]  # Connexion is not typed
    """operationId -> method of `Operations` or `Est`, behind the check of the request and the problems."""

    def __init__(
        self, stated: Mapping[str, contract.Document], operations: Operations, enrollment: Est
    ) -> None:
        super().__init__()
        self._stated = stated
        self._operations = operations
        self._est = enrollment

    def resolve(self, operation: Any) -> Resolution:  # noqa: ANN401 - Connexion is not typed
        name = operation.operation_id
        expectation = requests.Expectation(self._stated[name])
        if hasattr(self._est, name):
            perform = _answer(getattr(self._est, name), expectation, problems.EST_STATUS)
            return Resolution(_over_https(perform), name)
        return Resolution(_answer(getattr(self._operations, name), expectation), name)


def _answer(
    perform: Callable[[Mapping[str, Any], requests.Accepted], flask.Response],
    expectation: requests.Expectation,
    statuses: problems.Statuses = problems.STATUS,
) -> Callable[..., flask.Response]:
    def answer(**_path: str) -> flask.Response:
        event = flask.request.environ.get(EVENT, {})
        try:
            return perform(event, expectation.check(flask.request, _time_left))
        except requests.MalformedError as error:
            return problems.malformed(error.reasons, _instance())
        except requests.UnsupportedMediaTypeError as error:
            return problems.transport(415, f"This takes {error}.", _instance())
        except requests.TooLargeError as error:
            detail = f"A body of at most {error} bytes is accepted."
            return problems.transport(413, detail, _instance())
        except IssuanceError as error:
            if problems.STATUS[type(error)] >= 500:  # noqa: PLR2004 - the cause is for the log alone
                _log.error("%s: %s: %s", type(error).__name__, error.detail, error.__cause__)
            return problems.refusal(error, _instance(), statuses)

    return answer


def _over_https(answer: Callable[..., flask.Response]) -> Callable[..., flask.Response]:
    """The answer, over HTTPS alone, which is looked at before anything else is."""

    def guarded(**_path: str) -> flask.Response:
        if flask.request.scheme == "https":
            return answer()
        return problems.transport(403, est.NO_HTTPS, _instance())

    return guarded


def _time_left() -> float:
    """Seconds until Lambda, or the local gateway, gives up."""
    context = flask.request.environ.get(CONTEXT)
    return math.inf if context is None else context.get_remaining_time_in_millis() / 1000


def _instance() -> str:
    return principal.instance(flask.request.environ.get(EVENT, {}))


def _http_error(error: HTTPException) -> flask.Response:
    """A path or method that the gateway would not have sent."""
    if error.code not in (404, 405):
        return problems.internal(_instance())
    return problems.transport(error.code, "The contract has no such operation.", _instance())


def _unexpected(error: Exception) -> flask.Response:
    """A bare 500: whatever happened is for the log alone."""
    _log.error("unexpected", exc_info=error)
    return problems.internal(_instance())


def _allow_every_origin(response: flask.Response) -> flask.Response:
    """CORS: no cookie means anything here, so any page may ask. Devices are no pages."""
    if not flask.request.path.startswith(est.PREFIX):
        response.headers["Access-Control-Allow-Origin"] = "*"
    return response
