from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from multidict import CIMultiDict, MultiDict

from service.gateway import events
from service.gateway.routes import JSON, Contract, GatewayError
from tests import factories

CONTRACT = Contract(factories.document())


def request(path: str = "/ca", method: str = "GET", **change: Any) -> events.Request:
    """A request with some members changed."""
    members: dict[str, Any] = {
        "request_id": "id",
        "method": method,
        "path": path,
        "stage": "",
        "headers": CIMultiDict(),
        "query": MultiDict(),
        "path_parameters": {},
        "body": b"",
        "identity": {},
    }
    return events.Request(**{**members, **change})


def proxy_event(**change: Any) -> dict[str, Any]:
    """The event of a request."""
    return events.proxy_event(request(**change), CONTRACT.route("GET", "/ca")[0])


def test_event_headers_have_last_and_all_values() -> None:
    headers = [("X-A", "1"), ("X-A", "2"), ("Connection", "close"), ("X-Forwarded-Proto", "https")]
    event = proxy_event(headers=CIMultiDict(headers))
    assert event["headers"] == {"X-Forwarded-Proto": "http", "X-A": "2"}
    assert event["multiValueHeaders"] == {"X-Forwarded-Proto": ["http"], "X-A": ["1", "2"]}


def test_event_body_is_base64_or_null() -> None:
    assert (proxy_event(body=b"\xff")["body"], proxy_event(body=b"\xff")["isBase64Encoded"]) == ("/w==", True)
    assert (proxy_event()["body"], proxy_event()["isBase64Encoded"]) == (None, False)


def test_event_context_describes_the_request() -> None:
    context = proxy_event(protocol="HTTP/1.0")["requestContext"]
    values = [context[name] for name in ("path", "protocol", "requestId", "stage")]
    assert values == ["/ca", "HTTP/1.0", "id", "local"]
    assert abs(context["requestTimeEpoch"] / 1000 - time.time()) < 5
    assert time.strptime(context["requestTime"], "%d/%b/%Y:%H:%M:%S +0000")


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ({"statusCode": 200}, b""),
        ({"statusCode": "200", "body": None, "headers": None}, b""),
        ({"statusCode": 200, "body": "\ud800"}, b"?"),
        ({"statusCode": 200, "body": "iQ=="}, b"iQ=="),
        ({"statusCode": 200, "body": "iQ==", "isBase64Encoded": True}, b"\x89"),
    ],
)
def test_result_is_converted_to_a_response(result: dict[str, Any], body: bytes) -> None:
    response = events.proxy_response(result)
    assert (response.status, response.body) == (200, body)
    assert response.headers == CIMultiDict({"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "result",
    [
        *(None, [], "hello", {}, {"body": "x"}, {"statusCode": 200, "cookies": []}),
        *({"statusCode": status} for status in ("fine", None, True, 100, 199, 600, 999)),
        *({"statusCode": 200, "body": body} for body in ({"a": 1}, 7)),
        *({"statusCode": 200, "headers": headers} for headers in (["a"], "a")),
        *({"statusCode": 200, "headers": {"a": value}} for value in ("x\r\nb: y", "a\nb", "a\0b")),
        {"statusCode": 200, "body": "*", "isBase64Encoded": True},
    ],
    ids=repr,
)
def test_malformed_result_is_502(result: object) -> None:
    with pytest.raises(GatewayError, match="DEFAULT_5XX"):
        events.proxy_response(result)


def test_reserved_result_headers_are_renamed() -> None:
    headers = {"Date": "never", "WWW-Authenticate": "Basic", "content-length": "3", "ETag": "x"}
    response = events.proxy_response({"statusCode": 200, "headers": headers})
    names = ["x-amzn-Remapped-Date", "x-amzn-Remapped-WWW-Authenticate", "x-amzn-Remapped-content-length"]
    assert list(response.headers) == [*names, "ETag", "Content-Type"]


def mock(path: str, method: str, content_type: str = "", body: bytes = b"") -> events.Response:
    """The response of a mock integration of the contract."""
    headers = CIMultiDict[str]({"Content-Type": content_type} if content_type else {})
    mock_request = request(path, method, headers=headers, body=body)
    return events.mock_response(mock_request, CONTRACT.route(method, path)[0])


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 204), ("DELETE", 405)])
@pytest.mark.parametrize("content_type", ["", "application/json", "Text/Plain; charset=utf-8"])
def test_mock_status_comes_from_the_request_template(method: str, status: int, content_type: str) -> None:
    assert mock("/ca", method, content_type).status == status


@pytest.mark.parametrize("behaviour", ["never", "when_no_match", "when_no_templates", "WHEN_NO_MATCH", None])
@pytest.mark.parametrize("templates", [{"text/plain": '{"statusCode": 200}'}, {}, None], ids=repr)
def test_mock_without_a_template_for_the_media_type_is_415(behaviour: str, templates: JSON | None) -> None:
    """Regardless of passthroughBehavior, the body never serves as the template."""
    route = CONTRACT.route("DELETE", "/ca")[0]
    integration = {**route.integration, "passthroughBehavior": behaviour, "requestTemplates": templates}
    if templates is None:
        del integration["requestTemplates"]
    route = replace(route, integration=integration)
    for content_type in ("image/png", "", "application/json;x=text/plain", "text/plain, text/plain", "*/*"):
        headers = CIMultiDict({"Content-Type": content_type})
        mock_request = request("/ca", "DELETE", headers=headers, body=b'{"statusCode": 204}')
        with pytest.raises(GatewayError, match="UNSUPPORTED_MEDIA_TYPE"):
            events.mock_response(mock_request, route)


def test_mock_never_renders_the_body() -> None:
    response = mock("/ca", "DELETE", "text/plain", b'{"statusCode": 204} $context.requestId')
    assert (response.status, b"urn:uuid:id" in response.body) == (405, True)


def test_gateway_response_is_not_velocity() -> None:
    """The message is escaped, and variables in it are not replaced."""
    error = GatewayError("DEFAULT_4XX", '#if(1)"$context.requestId#end')
    response = events.gateway_response(CONTRACT.responses["DEFAULT_4XX"], error, "id")
    assert b'"detail":"#if(1)\\"$context.requestId#end","instance":"urn:uuid:id"' in response.body
    assert response.headers["x-amzn-ErrorType"] == "BadRequestException"
