"""The contract as the gateway uses it: routes, gateway responses, usage plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from multidict import CIMultiDict

JSON = Mapping[str, Any]
"""A part of a parsed OpenAPI document."""

# Of a request; others are 501.
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"})
_ANY: Final = "x-amazon-apigateway-any-method"
_PARAMETER: Final = re.compile(r"\\\{(\w+)(\\\+)?\\\}")  # `{name}` or `{name+}` after `re.escape`

ERROR_TYPES: Final = {
    "API_CONFIGURATION_ERROR": "InternalServerErrorException",
    "DEFAULT_4XX": "BadRequestException",
    "DEFAULT_5XX": "InternalServerErrorException",
    "EXPIRED_API_KEY": "ForbiddenException",
    "HTTPS_REQUIRED": "ForbiddenException",
    "INTEGRATION_FAILURE": "InternalServerErrorException",
    "INTEGRATION_TIMEOUT": "InternalServerErrorException",
    "HEADER_FIELDS_TOO_LARGE": "BadRequestException",
    "INVALID_API_KEY": "ForbiddenException",
    "INVALID_TOKEN": "UnauthorizedException",
    "MISSING_AUTHENTICATION_TOKEN": "MissingAuthenticationTokenException",  # nosec B105 - not a password
    "NOT_IMPLEMENTED": "BadRequestException",
    "QUOTA_EXCEEDED": "LimitExceededException",
    "REQUEST_TOO_LARGE": "RequestTooLargeException",
    "THROTTLED": "TooManyRequestsException",
    "TOKEN_KEYS_UNAVAILABLE": "InternalServerErrorException",
    "UNAUTHORIZED": "UnauthorizedException",
    "UNSUPPORTED_MEDIA_TYPE": "BadRequestException",
    "URI_TOO_LONG": "BadRequestException",
    "VERSION_NOT_SUPPORTED": "BadRequestException",
}
"""Gateway response type -> x-amzn-ErrorType. The document defines a response for each type."""


class GatewayError(Exception):
    """The gateway refuses a request with the gateway response of this type."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Route:
    """A method of a path.

    Attributes:
        operation_id: the operationId; '' if it has none.
        method: the method of the operation; ANY for all others.
        resource: the path as in the document, such as `/ca/{name}`.
        needs_key: whether `security` requires an API key.
        accepts_basic: whether the key may be the password of HTTP Basic.
        accepts_token: whether a token may replace the key.
        accepts_body: whether the operation has a requestBody.
        plain_http: whether a server of HTTPS also serves it by plain HTTP (x-plain-http).
        cost: the number of requests that a request of an address counts as (x-usage-plan-cost).
        integration: the x-amazon-apigateway-integration object.
    """

    operation_id: str
    method: str
    resource: str
    needs_key: bool
    accepts_basic: bool
    accepts_token: bool
    accepts_body: bool
    plain_http: bool
    cost: float
    integration: JSON


@dataclass(frozen=True)
class UsagePlan:
    """x-usage-plan: requests a second (`rate`), at once (`burst`) and in a period (`quota`).

    The period is `DAY`, `WEEK` or `MONTH`.
    """

    rate: float
    burst: int
    quota: int
    period: str


class Contract:
    """A parsed document; `responses` are its gateway responses by type."""

    def __init__(self, document: JSON) -> None:
        self.responses: JSON = {
            **document["x-amazon-apigateway-gateway-responses"],
            **document["x-gateway-responses"],
        }
        routes = {path: dict(_routes(document, path, item)) for path, item in document["paths"].items()}
        # Without a trailing slash, so that of `/`, too: `//` is another path.
        self._literals = {path.removesuffix("/"): routes[path] for path in routes if "{" not in path}
        self._templates = [
            (_compile_template(path), routes[path])
            for path in sorted(routes, key=lambda path: "+}" in path)
            if "{" in path
        ]
        plan = document.get("x-usage-plan")
        self.plan = UsagePlan(**plan) if plan else None

    def route(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Find the route of a request, and its path parameters as sent.

        A literal path precedes a template, and `{name}` precedes `{name+}`. A trailing slash is ignored,
        except after `{name+}`, to which it belongs. HEAD is handled as GET if it has no operation.

        Raises:
            GatewayError: the document does not contain this path or method.
        """
        routes, parameters = self._find(path)
        route = routes.get(method) or (method == "HEAD" and routes.get("GET")) or routes.get("ANY")
        if route is None:
            raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
        return route, parameters

    def _find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        if routes := self._literals.get(path.removesuffix("/")):
            return routes, {}
        for pattern, routes in self._templates:
            if match := pattern.fullmatch(path):
                return routes, match.groupdict()
        return {}, {}


def _compile_template(path: str) -> re.Pattern[str]:
    """The pattern of the paths that match a template."""
    pattern = _PARAMETER.sub(
        lambda match: f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})", re.escape(path)
    )
    return re.compile(pattern if path.endswith("+}") else f"{pattern}/?")


def static_headers(response: JSON, prefix: str) -> CIMultiDict[str]:
    """The headers that responseParameters set to a static value, which is in single quotes."""
    parameters = response.get("responseParameters", {})
    return CIMultiDict((name.removeprefix(prefix), value[1:-1]) for name, value in parameters.items())


def _routes(document: JSON, path: str, item: JSON) -> Iterator[tuple[str, Route]]:
    schemes = document["components"]["securitySchemes"]
    basic, bearer = (
        {name for name, scheme in schemes.items() if scheme.get("scheme", "").lower() == kind}
        for kind in ("basic", "bearer")
    )
    keys = {name for name, scheme in schemes.items() if scheme["type"] == "apiKey"}
    for method in {*map(str.lower, METHODS), _ANY} & item.keys():
        operation = item[method]
        required = {name for requirement in operation.get("security", ()) for name in requirement}
        yield (
            (name := "ANY" if method == _ANY else method.upper()),
            Route(
                operation_id=operation.get("operationId", ""),
                method=name,
                resource=path,
                needs_key=bool(required & (keys | basic)),
                accepts_basic=bool(required & basic),
                accepts_token=bool(required & bearer),
                accepts_body="requestBody" in operation,
                plain_http=operation.get("x-plain-http", False),
                cost=operation.get("x-usage-plan-cost", 1),
                integration=operation["x-amazon-apigateway-integration"],
            ),
        )
