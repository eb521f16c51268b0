"""HTTP <-> events, results and templates, by API Gateway's rules for REST APIs (payload 1.0)."""

from __future__ import annotations

import base64
import functools
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import airspeed
from multidict import CIMultiDict, MultiMapping

from service.gateway.contract import Contract, GatewayError, GatewayResponse, Route, literal

_RESULT_MEMBERS: Final = frozenset({"statusCode", "headers", "multiValueHeaders", "body", "isBase64Encoded"})
# API Gateway writes these itself and moves a function's own aside.
_REMAPPED: Final = frozenset({"date", "server", "www-authenticate", "content-length"})
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
# What API Gateway says of the connection, and a client does not.
_FORWARDED: Final = frozenset({"x-forwarded-proto", "x-forwarded-port"})
_VARIABLE: Final = re.compile(r"\$context\.([A-Za-z_.]+)")
_STATUS: Final = re.compile("[2-5][0-9]{2}")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSAFE: Final = re.compile(r"[\r\n\0]")
_NOT_IN_EVENT: Final = _HOP_BY_HOP | _FORWARDED | {"content-length"}
_RESPONSE_HEADER: Final = "method.response.header."


@dataclass(frozen=True)
class Request:
    """One HTTP request, read whole.

    Attributes:
        identity: the caller, as `requestContext.identity` names it.
        scheme: `https` or `http`: how it came.
    """

    request_id: str
    method: str
    path: str
    stage: str
    headers: MultiMapping[str] = field(repr=False)  # with the API key
    query: MultiMapping[str]
    path_parameters: Mapping[str, str]
    body: bytes = field(repr=False)
    identity: Mapping[str, Any]
    scheme: str = "http"
    protocol: str = "HTTP/1.1"

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters; API Gateway takes JSON where there is none."""
        stated = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return stated or "application/json"

    @property
    def accept(self) -> str:
        """The first media type of Accept, without parameters."""
        return self.headers.get("Accept", "*/*").partition(",")[0].partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


def context(request: Request, route: Route) -> dict[str, Any]:
    """`requestContext` of an event, which is `$context` of a template."""
    now = time.time()
    return {
        "accountId": "000000000000",
        "apiId": "local",
        "httpMethod": request.method,
        "identity": dict(request.identity),
        "path": f"/{request.stage}{request.path}" if request.stage else request.path,
        "protocol": request.protocol,
        "requestId": request.request_id,
        "requestTime": utc(int(now), "%d/%b/%Y:%H:%M:%S +0000"),
        "requestTimeEpoch": int(now * 1000),
        "resourceId": "local",
        "resourcePath": route.resource,
        "stage": request.stage or "local",
    }


@functools.lru_cache(maxsize=2)  # of one second each form is asked for hundreds of times
def utc(seconds: int, form: str) -> str:
    """A time in seconds since 1970, UTC, in a form of `time.strftime`."""
    return time.strftime(form, time.gmtime(seconds))


def proxy_event(request: Request, route: Route, contract: Contract) -> dict[str, Any]:
    """The event of an aws_proxy integration. It never has a Content-Length."""
    headers = {"X-Forwarded-Proto": [request.scheme]}
    for name, value in request.headers.items():
        if name.lower() not in _NOT_IN_EVENT:
            headers.setdefault(name, []).append(value)
    query: dict[str, list[str]] = {}
    for name, value in request.query.items():
        query.setdefault(name, []).append(value)
    binary = bool(request.body) and contract.is_binary(request.media_type)
    return {
        "resource": route.resource,
        "path": request.path,
        "httpMethod": request.method,
        "headers": {name: values[-1] for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "pathParameters": dict(request.path_parameters) or None,
        "stageVariables": None,
        "requestContext": context(request, route),
        "body": _event_body(request.body, binary=binary),
        "isBase64Encoded": binary,
    }


def _event_body(body: bytes, *, binary: bool) -> str | None:
    if not body:
        return None
    return base64.b64encode(body).decode("ascii") if binary else body.decode("utf-8", "replace")


def proxy_answer(result: object, request: Request, contract: Contract) -> Answer:
    """The answer that a function's result stands for.

    Raises:
        GatewayError: the result is malformed: 502.
    """
    try:
        status, headers, body, encoded = _read_result(result)
        decode = encoded and contract.is_binary(request.accept)
        data = base64.b64decode(body, validate=True) if decode else body.encode("utf-8", "replace")
    except (KeyError, TypeError, ValueError) as error:
        raise GatewayError("DEFAULT_5XX") from error
    answered = CIMultiDict[str]()
    for name, value in headers:
        moved = name.lower() in _REMAPPED
        answered.add(f"x-amzn-Remapped-{name}" if moved else name, value)
    answered.setdefault("Content-Type", "application/json")
    return Answer(status, answered, data)


def _read_result(result: object) -> tuple[int, list[tuple[str, str]], str, bool]:
    """Status, headers, body, and whether it is base64; KeyError, TypeError or ValueError if malformed."""
    if not isinstance(result, dict) or not result.keys() <= _RESULT_MEMBERS:
        raise TypeError("a result has five members and no other")
    status, body, encoded = result["statusCode"], result.get("body"), result.get("isBase64Encoded", False)
    if not _STATUS.fullmatch(str(status)):
        raise ValueError("statusCode is an HTTP status")
    if not isinstance(body, str | None) or not isinstance(encoded, bool):
        raise TypeError("body is text, and isBase64Encoded a boolean")
    multiple = {name: list(values) for name, values in _object(result, "multiValueHeaders").items()}
    single = {name: [value] for name, value in _object(result, "headers").items()}
    pairs = [(name, _header(name, value)) for name, all_ in (single | multiple).items() for value in all_]
    return int(status), pairs, body or "", encoded


def _object(result: dict[str, Any], member: str) -> dict[str, Any]:
    value = result.get(member) or {}
    if not isinstance(value, dict):
        raise TypeError(f"{member} is an object")
    return value


def _header(name: str, value: object) -> str:
    if not _TOKEN.fullmatch(name) or name.lower() in _HOP_BY_HOP:
        raise ValueError("a header's name is a token (RFC 9110 5.1)")
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float)) or _UNSAFE.search(str(value)):
        raise TypeError("a header value is text or a number")
    return str(value)


def mock_answer(request: Request, route: Route) -> Answer:
    """The answer of a mock integration: request template -> status -> response and its template.

    Raises:
        GatewayError: no request template takes this Content-Type (415), or the templates do not
            give an answer (500).
    """
    integration = route.integration
    variables = {"context": context(request, route), "input": _Input(request), "stageVariables": {}}
    templates = integration.get("requestTemplates", {})
    template = templates.get(request.media_type)
    if template is None:
        passthrough = integration.get("passthroughBehavior", "when_no_match")
        if passthrough == "never" or (passthrough == "when_no_templates" and templates):
            raise GatewayError("UNSUPPORTED_MEDIA_TYPE")
        template = request.body.decode("utf-8", "replace")
    try:
        selected = str(json.loads(_render(template, variables))["statusCode"])
    except (ValueError, KeyError, TypeError) as error:
        raise GatewayError("API_CONFIGURATION_ERROR") from error
    return _mock_response(integration.get("responses", {}), selected, request, variables)


def _mock_response(
    responses: Mapping[str, Any], selected: str, request: Request, variables: Mapping[str, Any]
) -> Answer:
    response = next(
        (
            each
            for pattern, each in responses.items()
            if pattern != "default" and re.fullmatch(pattern, selected)
        ),
        responses.get("default"),
    )
    if response is None:
        raise GatewayError("API_CONFIGURATION_ERROR")
    headers = CIMultiDict[str](
        (name.removeprefix(_RESPONSE_HEADER), literal(value))
        for name, value in response.get("responseParameters", {}).items()
        if name.startswith(_RESPONSE_HEADER)
    )
    templates = response.get("responseTemplates", {})
    media_type = next(
        (each for each in (request.accept, "application/json", *templates) if each in templates), ""
    )
    headers.setdefault("Content-Type", media_type or "application/json")
    body = _render(templates.get(media_type, ""), variables).encode()
    return Answer(int(response["statusCode"]), headers, body)


class _Input:
    """`$input` of a mapping template."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.body = request.body.decode("utf-8", "replace")

    def params(self, name: str) -> str:
        """A path, query or header parameter, in API Gateway's order."""
        request = self._request
        return str(
            request.path_parameters.get(name) or request.query.get(name) or request.headers.get(name) or ""
        )


def _render(template: str, variables: Mapping[str, Any]) -> str:
    """Apache Velocity, as API Gateway applies it to the templates of an integration."""
    if "#" not in template and "$" not in template:
        return template
    return str(airspeed.Template(template).merge(variables))


def gateway_answer(response: GatewayResponse, error: GatewayError, request_id: str) -> Answer:
    """A gateway response. Its template is **not** Velocity: `$context.…` is replaced, no more."""
    values = {
        "requestId": request_id,
        "error.message": error.message,
        "error.messageString": json.dumps(error.message),
        "error.responseType": error.kind,
        "error.validationErrorString": json.dumps(error.message),
    }
    body = _VARIABLE.sub(lambda match: _substitute(match[1], values), response.template)
    headers = CIMultiDict[str](response.headers)
    headers.setdefault("Content-Type", "application/json")
    headers["x-amzn-ErrorType"] = response.error_type
    return Answer(response.status, headers, body.encode())


def _substitute(name: str, values: Mapping[str, str]) -> str:
    """The longest known variable at this place: what follows a name may begin with a dot."""
    for known in sorted(values, key=len, reverse=True):
        if name == known or (name.startswith(known) and not name[len(known)].isalpha()):
            return values[known] + name[len(known) :]
    return ""
