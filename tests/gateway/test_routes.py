from __future__ import annotations

from typing import Any

import pytest

from service.gateway.routes import Contract, GatewayError
from tests import factories
from tests.gateway import second_api


def operation(**members: Any) -> dict[str, Any]:
    """An operation with a proxy integration."""
    return {"x-amazon-apigateway-integration": {"type": "aws_proxy"}, **members}


def create_contract(paths: dict[str, Any], schemes: dict[str, Any] | None = None) -> Contract:
    """A contract with these paths."""
    document = {**second_api.document(), "paths": paths}
    return Contract({**document, "components": {"securitySchemes": schemes}} if schemes else document)


@pytest.mark.parametrize(
    ("path", "resource", "parameters"),
    [
        ("/", "/", {}),
        ("//", None, {}),
        ("/a/new", "/a/new", {}),
        ("/a/new/", "/a/new", {}),
        ("/a/1", "/a/{x}", {"x": "1"}),
        ("/a/1%202", "/a/{x}", {"x": "1%202"}),
        ("/v1.0/a/1", "/v1.0/{x}/{y}", {"x": "a", "y": "1"}),
        ("/v1x0/a/1", None, {}),
        ("/a/{x}", "/a/{x}", {"x": "{x}"}),
        ("/a/1/2", None, {}),
        ("/a/new//", None, {}),
    ],
)
def test_literal_path_precedes_template(path: str, resource: str | None, parameters: dict[str, str]) -> None:
    paths = ("/", "/a/{x}", "/a/new", "/v1.0/{x}/{y}")
    routes = create_contract({path: {"get": operation()} for path in paths})
    if resource is None:
        with pytest.raises(GatewayError, match="MISSING_AUTHENTICATION_TOKEN"):
            routes.route("GET", path)
    else:
        route, values = routes.route("GET", path)
        assert (route.resource, values) == (resource, parameters)


@pytest.mark.parametrize(
    ("path", "resource", "value"),
    [
        ("/a/b/1", "/a/b/{x+}", "1"),
        ("/a/b/1/2", "/a/b/{x+}", "1/2"),
        ("/a/b/1//%2F+=/", "/a/b/{x+}", "1//%2F+=/"),
        ("/a/b/new", "/a/b/new", None),
        ("/a/b/new/", "/a/b/new", None),
        ("/a/b/new/er", "/a/b/{x+}", "new/er"),
        ("/a/b", "/a/{x}", "b"),
        ("/a/b/", "/a/{x}", "b"),
        ("/c/b/1", None, None),
    ],
)
def test_greedy_parameter_has_several_segments(path: str, resource: str | None, value: str | None) -> None:
    """It is as sent, with slashes at its end; literal paths and other templates precede it."""
    routes = create_contract({path: {"get": operation()} for path in ("/a/b/{x+}", "/a/{x}", "/a/b/new")})
    if resource is None:
        with pytest.raises(GatewayError, match="MISSING_AUTHENTICATION_TOKEN"):
            routes.route("GET", path)
    else:
        route, values = routes.route("GET", path)
        assert (route.resource, values.get("x")) == (resource, value)


def test_method_precedes_any_method() -> None:
    any_method = {"get": operation(requestBody={}), "x-amazon-apigateway-any-method": operation()}
    routes = create_contract({"/any": any_method, "/get": {"get": operation()}})
    accepts_body = [routes.route(method, "/any")[0].accepts_body for method in ("GET", "PUT", "get")]
    assert accepts_body == [True, False, False]
    for method in ("PUT", "get", "ANY"):
        with pytest.raises(GatewayError):
            routes.route(method, "/get")


def test_other_security_schemes_need_no_api_key() -> None:
    schemes = {"o": {"type": "oauth2"}, "k": {"type": "apiKey"}, "b": {"type": "http", "scheme": "Basic"}}
    routes = create_contract(
        {f"/{name}": {"get": operation(security=[{name: []}])} for name in schemes}, schemes
    )
    matches = [routes.route("GET", f"/{name}")[0] for name in schemes]
    keys = [(route.needs_key, route.accepts_basic) for route in matches]
    assert keys == [(False, False), (True, False), (True, True)]


def test_contract_usage_plan_is_optional() -> None:
    assert Contract(factories.document()).plan
    assert Contract({**factories.document(), "x-usage-plan": None}).plan is None
