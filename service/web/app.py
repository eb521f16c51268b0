"""The WSGI application: Connexion routes the contract to the operations.

No type of Connexion's or Flask's leaves this module, so that another framework could take its place here.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import connexion
from connexion.apis.flask_api import FlaskApi
from connexion.apis.flask_utils import flaskify_path
from connexion.resolver import Resolution, Resolver
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from service import contract
from service.authority import Authority
from service.pki.errors import IssuanceError, IssuerUnavailable
from service.web import est, principal, problems, requests
from service.web.answers import Answer
from service.web.est import Est
from service.web.operations import CERTS_ONLY, DER_CERTIFICATE, REVOCATION_LIST, Operations

BINARY_CONTENT_TYPES: Final = frozenset({DER_CERTIFICATE, CERTS_ONLY, REVOCATION_LIST})
EVENT: Final = "awsgi.event"  # where aws-wsgi keeps the Lambda event
CONTEXT: Final = "awsgi.context"  # and the invocation's context
NO_OPERATION: Final = "The contract has no such operation."

_log = logging.getLogger(__name__)

_ROUTES: Final = 64  # paths that are remembered; the contract has some thirty, and a few hold a name

_Match = Callable[[str, str], tuple[str, Mapping[str, str]]]
"""What finds the operation of a path and a method, and what the path holds; or raises HTTPException."""
_View = Callable[[WSGIEnvironment, Mapping[str, str]], Answer]
"""What answers a request with these parameters in its path."""


def create(
    document: contract.Document, authority: Authority, api_key_names: Mapping[str, str]
) -> WSGIApplication:
    """The application that answers a contract's operations.

    Args:
        document: the contract.
        authority: what issues.
        api_key_names: API key id -> name of the principal.
    """
    served = contract.for_function(document)
    app = connexion.FlaskApp(
        __name__,
        options={"swagger_ui": False, "serve_spec": False},
        server_args={"static_folder": None},
    )
    app.api_cls = _Api
    app.add_api(
        _routes(served),
        resolver=_Resolver(
            contract.operations(served), Operations(authority, api_key_names), Est(authority, api_key_names)
        ),
    )
    match = functools.lru_cache(maxsize=_ROUTES)(app.app.url_map.bind("").match)
    return functools.partial(_serve, match, app.app.view_functions)


def _serve(
    match: _Match, views: Mapping[str, _View], environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Answer a request by the routes that were made of the contract, at once.

    Flask would make two contexts, a session, a request and a response of it, for hooks that nobody has set:
    they took a quarter of what a certificate takes.
    """
    try:
        name, path = match(environ["PATH_INFO"], environ["REQUEST_METHOD"])
        answer = views[name](environ, path)
    except HTTPException as error:  # a path or method that the gateway would not have sent
        status = (
            HTTPStatus.METHOD_NOT_ALLOWED if isinstance(error, MethodNotAllowed) else HTTPStatus.NOT_FOUND
        )
        answer = problems.transport(status, NO_OPERATION, _instance(environ))
    except Exception:  # noqa: BLE001 - a bare 500: whatever happened is for the log alone
        _log.exception("unexpected")
        answer = problems.internal(_instance(environ))
    headers = answer.header_list()
    if not environ["PATH_INFO"].startswith(est.PREFIX):
        # No cookie means anything here, so any page may ask (CORS). Devices are no pages.
        headers.append(("Access-Control-Allow-Origin", "*"))
    start_response(answer.status_line, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]


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
            flaskify_path(path),
            resolved.operation_id,
            resolved.function,
            methods=[method],
            provide_automatic_options=False,  # a method is one of the contract's, or none
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
    perform: Callable[[Mapping[str, Any], requests.Accepted], Answer],
    expectation: requests.Expectation,
    statuses: problems.Statuses = problems.STATUS,
) -> _View:
    def answer(environ: WSGIEnvironment, path: Mapping[str, str]) -> Answer:
        event = environ.get(EVENT, {})
        instance = principal.instance(event)
        try:
            return perform(event, expectation.check(environ, path, functools.partial(_time_left, environ)))
        except requests.MalformedError as error:
            return problems.malformed(error.reasons, instance)
        except requests.UnsupportedMediaTypeError as error:
            return problems.transport(415, f"This takes {error}.", instance)
        except requests.TooLargeError as error:
            detail = f"A body of at most {error} bytes is accepted."
            return problems.transport(413, detail, instance)
        except IssuanceError as error:
            if problems.STATUS[type(error)] >= 500:  # noqa: PLR2004 - the cause is for the log alone
                trace = None if isinstance(error, IssuerUnavailable) else error.__cause__  # it may be a bug
                _log.error("%s: %s: %s", type(error).__name__, error.detail, error.__cause__, exc_info=trace)
            return problems.refusal(error, instance, statuses)

    return answer


def _over_https(answer: _View) -> _View:
    """The answer, over HTTPS alone, which is looked at before anything else is."""

    def guarded(environ: WSGIEnvironment, path: Mapping[str, str]) -> Answer:
        if environ["wsgi.url_scheme"] == "https":
            return answer(environ, path)
        return problems.transport(403, est.NO_HTTPS, _instance(environ))

    return guarded


def _instance(environ: WSGIEnvironment) -> str:
    return principal.instance(environ.get(EVENT, {}))


def _time_left(environ: WSGIEnvironment) -> float:
    """Seconds until Lambda, or the local gateway, gives up."""
    context = environ.get(CONTEXT)
    return math.inf if context is None else context.get_remaining_time_in_millis() / 1000
