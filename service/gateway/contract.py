"""What the document says to a gateway: routes, keys, integrations, gateway responses, the usage plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

JSON = Mapping[str, Any]
"""A part of a parsed OpenAPI document."""

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch")
_ANY: Final = "x-amazon-apigateway-any-method"
_INTEGRATION: Final = "x-amazon-apigateway-integration"
_VALIDATOR: Final = "x-amazon-apigateway-request-validator"
_PARAMETER: Final = re.compile(r"\{([A-Za-z0-9_.-]+)(\+?)\}")


@dataclass(frozen=True)
class Default:
    """What API Gateway answers where the document says nothing (its gateway response types)."""

    status: int
    message: str
    error_type: str


DEFAULTS: Final = {
    "API_CONFIGURATION_ERROR": Default(500, "Internal server error", "InternalServerErrorException"),
    "BAD_REQUEST_PARAMETERS": Default(400, "Missing required request parameters", "BadRequestException"),
    "DEFAULT_4XX": Default(400, "Bad request", "BadRequestException"),
    "DEFAULT_5XX": Default(502, "Internal server error", "InternalServerErrorException"),
    "INTEGRATION_FAILURE": Default(504, "Internal server error", "InternalServerErrorException"),
    "INTEGRATION_TIMEOUT": Default(504, "Endpoint request timed out", "InternalServerErrorException"),
    "INVALID_API_KEY": Default(403, "Forbidden", "ForbiddenException"),
    "MISSING_AUTHENTICATION_TOKEN": Default(
        403, "Missing Authentication Token", "MissingAuthenticationTokenException"
    ),
    "QUOTA_EXCEEDED": Default(429, "Limit Exceeded", "LimitExceededException"),
    "REQUEST_TOO_LARGE": Default(413, "Request Too Long", "RequestTooLargeException"),
    "THROTTLED": Default(429, "Too Many Requests", "TooManyRequestsException"),
    "UNAUTHORIZED": Default(401, "Unauthorized", "UnauthorizedException"),
    "UNSUPPORTED_MEDIA_TYPE": Default(415, "Unsupported Media Type", "BadRequestException"),
}


class GatewayError(Exception):
    """The gateway itself answers, with the gateway response of this type."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.message = message or DEFAULTS[kind].message


@dataclass(frozen=True)
class GatewayResponse:
    """How the document dresses a gateway response: status, headers, body template."""

    status: int
    headers: Mapping[str, str]
    template: str
    error_type: str


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        resource: the path as the document writes it, such as `/ca/{name}`.
        method: in capitals; `ANY` for the any-method.
        needs_key: whether `security` asks for an API key.
        takes_basic: whether the key may be the password of HTTP Basic.
        takes_body: whether a requestBody is stated.
        required: location and name of each parameter that must be there, as (`query`, `profile`).
        integration: the x-amazon-apigateway-integration object.
    """

    resource: str
    method: str
    needs_key: bool
    takes_basic: bool
    takes_body: bool
    required: tuple[tuple[str, str], ...]
    integration: JSON


@dataclass(frozen=True)
class UsagePlan:
    """x-usage-plan: requests a second, at once, and in a period of `DAY`, `WEEK` or `MONTH`."""

    rate: float
    burst: int
    quota: int
    period: str


class Contract:
    """A document, read once for serving."""

    def __init__(self, document: JSON) -> None:
        self._responses: JSON = document.get("x-amazon-apigateway-gateway-responses", {})
        self._binary = tuple(document.get("x-amazon-apigateway-binary-media-types", ()))
        routes = {
            path: {route.method: route for route in _routes(document, path, item)}
            for path, item in document["paths"].items()
        }
        self._exact = {path: each for path, each in routes.items() if "{" not in path}
        # A segment that matches itself comes before `{name}`, and that before `{name+}`.
        templates = sorted(routes.keys() - self._exact.keys(), key=_precedence)
        self._templates = [(*_pattern(path), routes[path]) for path in templates]
        plan = document.get("x-usage-plan")
        self.plan = UsagePlan(**plan) if plan else None

    def route(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of a request, and its path parameters; a literal path before a template.

        A slash at the end does not count.

        Raises:
            GatewayError: the document has no such path or method.
        """
        routes, parameters = self._find(path.removesuffix("/") or "/")
        found = routes.get(method) or routes.get("ANY")
        if found is None:
            raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
        return found, parameters

    def _find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        if path in self._exact:
            return self._exact[path], {}
        for pattern, names, routes in self._templates:
            if match := pattern.fullmatch(path):
                return routes, dict(zip(names, map(unquote, match.groups()), strict=True))
        return {}, {}

    def gateway_response(self, kind: str) -> GatewayResponse:
        """The gateway response of a type: its own, else DEFAULT_4XX or DEFAULT_5XX, else AWS's."""
        default = DEFAULTS[kind]
        family = "DEFAULT_4XX" if default.status < 500 else "DEFAULT_5XX"  # noqa: PLR2004
        stated = self._responses.get(kind) or self._responses.get(family) or {}
        prefix = "gatewayresponse.header."
        return GatewayResponse(
            status=int(stated.get("statusCode") or default.status),
            headers={
                name.removeprefix(prefix): literal(value)
                for name, value in stated.get("responseParameters", {}).items()
                if name.startswith(prefix)
            },
            template=stated.get("responseTemplates", {}).get(
                "application/json", '{"message":$context.error.messageString}'
            ),
            error_type=default.error_type,
        )

    def is_binary(self, media_type: str) -> bool:
        """Whether bodies of this media type are binary, and cross the event in base64."""
        return "*/*" in self._binary or media_type in self._binary


def literal(value: str) -> str:
    """A static value of responseParameters, without its single quotes."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else value


def _routes(document: JSON, path: str, item: JSON) -> list[Route]:
    schemes = document.get("components", {}).get("securitySchemes", {})
    basic = {name for name, scheme in schemes.items() if scheme.get("scheme", "").lower() == "basic"}
    keys = {name for name, scheme in schemes.items() if scheme.get("type") == "apiKey"}
    validators = document.get("x-amazon-apigateway-request-validators", {})
    found = []
    for method in (*_METHODS, _ANY):
        if method not in item:
            continue
        stated = item[method]
        named = {name for each in stated.get("security", ()) for name in each}
        validator = stated.get(_VALIDATOR, document.get(_VALIDATOR, ""))
        checks = validators.get(validator, {}).get("validateRequestParameters", False)
        found.append(
            Route(
                resource=path,
                method="ANY" if method == _ANY else method.upper(),
                needs_key=bool(named & (keys | basic)),
                takes_basic=bool(named & basic),
                takes_body="requestBody" in stated,
                required=tuple(
                    (each["in"], each["name"])
                    for each in (*item.get("parameters", ()), *stated.get("parameters", ()))
                    if checks and each.get("required") and each["in"] != "path"
                ),
                integration=stated[_INTEGRATION],
            )
        )
    return found


def _precedence(path: str) -> list[tuple[int, str]]:
    return [
        (2 if segment.endswith("+}") else 1 if segment.startswith("{") else 0, segment)
        for segment in path.split("/")
    ]


def _pattern(path: str) -> tuple[re.Pattern[str], list[str]]:
    """A path template as a pattern, and its parameters: `{name}` is a segment, `{name+}` the rest."""
    parts, names, end = [], [], 0
    for match in _PARAMETER.finditer(path):
        parts += [re.escape(path[end : match.start()]), "(.+)" if match[2] else "([^/]+)"]
        names.append(match[1])
        end = match.end()
    return re.compile("".join(parts) + re.escape(path[end:])), names
