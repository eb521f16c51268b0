"""Conversion of HTTP requests to Lambda events, and of results to HTTP responses.

It follows API Gateway's rules for REST APIs (payload format 1.0).
"""

from __future__ import annotations

import base64
import functools
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import airspeed
from multidict import CIMultiDict, MultiMapping

from service.gateway.routes import ERROR_TYPES, JSON, GatewayError, Route, static_headers

_RESULT_MEMBERS: Final = frozenset({"statusCode", "headers", "body", "isBase64Encoded"})
# API Gateway sets these itself and renames those of a function.
_REMAPPED: Final = frozenset({"date", "server", "www-authenticate", "content-length"})
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
# API Gateway derives these from the connection and the body; it ignores those of a client.
_NOT_IN_EVENT: Final = _HOP_BY_HOP | {"x-forwarded-proto", "x-forwarded-port", "content-length"}
_STATUSES: Final = range(200, 600)
_UNSAFE: Final = re.compile(r"[\r\n\0]")


@dataclass(frozen=True)
class Request:
    """A complete HTTP request.

    Attributes:
        method: GET for HEAD, unless the document has an operation for HEAD.
        identity: the caller, in the format of `requestContext.identity`.
        authorizer: `requestContext.authorizer` of a caller with a token; None for other callers.
        scheme: `https` or `http`.
        domain_name: the host of the server's URL, and the port.
    """

    request_id: str
    method: str
    path: str
    stage: str
    headers: MultiMapping[str] = field(repr=False)  # contains the API key
    query: MultiMapping[str]
    path_parameters: Mapping[str, str]
    body: bytes = field(repr=False)
    identity: Mapping[str, Any]
    scheme: str = "http"
    protocol: str = "HTTP/1.1"
    domain_name: str = ""
    authorizer: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


def _context(request: Request, route: Route) -> dict[str, Any]:
    """The `requestContext` of an event, which is also the `$context` of a template."""
    now = time.time()
    return {
        "accountId": "000000000000",
        "apiId": "local",
        **({"authorizer": dict(request.authorizer)} if request.authorizer else {}),
        "domainName": request.domain_name,
        "httpMethod": request.method,
        "identity": dict(request.identity),
        "path": f"/{request.stage}{request.path}" if request.stage else request.path,
        "protocol": request.protocol,
        "requestId": request.request_id,
        "requestTime": format_utc(int(now), "%d/%b/%Y:%H:%M:%S +0000"),
        "requestTimeEpoch": int(now * 1000),
        "resourceId": "local",
        "resourcePath": route.resource,
        "stage": request.stage or "local",
    }


@functools.lru_cache(maxsize=2)  # two formats, each used hundreds of times a second
def format_utc(seconds: int, template: str) -> str:
    """Format seconds since 1970 as UTC; `template` is that of `time.strftime`."""
    return time.strftime(template, time.gmtime(seconds))


def with_new_id(event: JSON) -> dict[str, Any]:
    """Return the event with a request ID of its own."""
    return {**event, "requestContext": {**event["requestContext"], "requestId": str(uuid.uuid4())}}


def proxy_event(request: Request, route: Route) -> dict[str, Any]:
    """The event of an aws_proxy integration. All bodies are binary; Content-Length is left out, as on AWS."""
    headers = {"X-Forwarded-Proto": [request.scheme]}
    for name, value in request.headers.items():
        if name.lower() not in _NOT_IN_EVENT:
            headers.setdefault(name, []).append(value)
    query: dict[str, list[str]] = {}
    for name, value in request.query.items():
        query.setdefault(name, []).append(value)
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
        "requestContext": _context(request, route),
        "body": base64.b64encode(request.body).decode("ascii") if request.body else None,
        "isBase64Encoded": bool(request.body),
    }


def authorizer_event(route: Route, authorization: str, request_id: str) -> dict[str, Any]:
    """The event of a REQUEST authorizer, with what ours needs."""
    return {
        "type": "REQUEST",
        "methodArn": f"arn:aws:execute-api:local:000000000000:local/local/{route.method}{route.resource}",
        "resource": route.resource,
        "headers": {"Authorization": authorization},
        "requestContext": {"requestId": request_id, "resourcePath": route.resource},
    }


def authorizer_context(result: object) -> dict[str, str]:
    """`requestContext.authorizer` for an authorizer's result, whose context has only strings.

    Raises:
        GatewayError: INVALID_TOKEN, with the authorizer's reason, if it denies the request;
            TOKEN_KEYS_UNAVAILABLE if it has no policy.
    """
    if not isinstance(result, dict) or "policyDocument" not in result:
        raise GatewayError("TOKEN_KEYS_UNAVAILABLE")
    context = result.get("context", {})
    if [statement["Effect"] for statement in result["policyDocument"]["Statement"]] != ["Allow"]:
        raise GatewayError("INVALID_TOKEN", context["reason"])
    return {**context, "principalId": result["principalId"]}


def proxy_response(result: object) -> Response:
    """The response for a function's result.

    Raises:
        GatewayError: the result is malformed: 502.
    """
    try:
        return _parse_result(result)
    except (KeyError, TypeError, ValueError) as error:
        raise GatewayError("DEFAULT_5XX") from error


def _parse_result(result: object) -> Response:
    if not isinstance(result, dict) or not result.keys() <= _RESULT_MEMBERS:
        raise TypeError(f"a result may only have the members {sorted(_RESULT_MEMBERS)}")
    status, headers, body = int(result["statusCode"]), result.get("headers") or {}, result.get("body") or ""
    if status not in _STATUSES or not isinstance(headers, dict) or not isinstance(body, str):
        raise ValueError("a result has a status from 200 to 599, an object of headers, and text as its body")
    if unsafe := [name for name, value in headers.items() if _UNSAFE.search(f"{name}{value}")]:
        raise ValueError(f"headers contain a line break or NUL: {unsafe}")
    is_base64 = result.get("isBase64Encoded")
    data = base64.b64decode(body, validate=True) if is_base64 else body.encode("utf-8", "replace")
    renamed = CIMultiDict[str](
        (f"x-amzn-Remapped-{name}" if name.lower() in _REMAPPED else name, str(value))
        for name, value in headers.items()
    )
    renamed.setdefault("Content-Type", "application/json")
    return Response(status, renamed, data)


def mock_response(request: Request, route: Route) -> Response:
    """The response of a mock integration: request template -> status -> response and its template.

    The request body is never rendered or passed through, regardless of passthroughBehavior.

    Raises:
        GatewayError: no request template has this Content-Type: 415. That of a GET does not matter.
    """
    # API Gateway's default is JSON.
    content_type = "" if request.method == "GET" else request.headers.get("Content-Type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    template = route.integration.get("requestTemplates", {}).get(media_type or "application/json")
    if template is None:
        raise GatewayError("UNSUPPORTED_MEDIA_TYPE")
    variables = {"context": _context(request, route)}
    status = str(json.loads(_render(template, variables))["statusCode"])
    responses = route.integration["responses"]
    response = responses.get(status) or responses["default"]
    (media_type, template), *_ = response["responseTemplates"].items()
    headers = static_headers(response, "method.response.header.")
    headers.setdefault("Content-Type", media_type)
    return Response(int(response["statusCode"]), headers, _render(template, variables).encode())


def _render(template: str, variables: Mapping[str, Any]) -> str:
    """Render an Apache Velocity template, as API Gateway does for integrations."""
    if "#" not in template and "$" not in template:  # such as the empty body of a CORS preflight
        return template
    return str(airspeed.Template(template).merge(variables))


def gateway_response(response: JSON, error: GatewayError, request_id: str) -> Response:
    """A gateway response. Its template is **not** Velocity: only two variables are replaced."""
    body = response["responseTemplates"]["application/json"].replace("$context.requestId", request_id)
    body = body.replace("$context.error.messageString", json.dumps(error.message))
    headers = static_headers(response, "gatewayresponse.header.")
    headers["x-amzn-ErrorType"] = ERROR_TYPES[error.kind]
    return Response(int(response["statusCode"]), headers, body.encode())
