from __future__ import annotations

import json
import re
from email.message import Message
from pathlib import Path

import pytest

from tests import factories, servers
from tests.cli import certlet
from tests.gateway import cases, second_api
from tests.gateway.cases import CERTLET, SECOND_API, Case
from tests.lambda_events import decode_body, from_request, invoke_handler
from tests.servers import Response, Server

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def assert_response(case: Case, response: Response) -> None:
    """Check that a response is the expected one."""
    assert response.status == case.status, response.body[:300]
    for name, value in case.headers.items():
        actual = ", ".join(response.headers.get_all(name, [])) or None
        if value is None:
            assert actual is None, name
        else:
            assert actual is not None, name
            assert value in actual if name == "Content-Security-Policy" else value == actual, (name, actual)
    assert case.body(response.body), response.body[:2000]


def check_case(server: Server, case: Case) -> None:
    """Send a case's request, again while a worker is being replaced, and check the response."""
    response = server.request(case.method, case.path, case.content, case.send)
    for _ in range(10):
        if case.status == 503 or response.status != 503:
            break
        response = server.request(case.method, case.path, case.content, case.send)
    assert_response(case, response)
    assert re.fullmatch(UUID, response.headers["x-amzn-RequestId"])
    assert response.headers["x-amz-apigw-id"]


@pytest.mark.parametrize("case", CERTLET, ids=lambda case: case.name)
def test_contract_case_over_http(server: Server, case: Case) -> None:
    """The gateway sends the expected response to a case of the contract."""
    check_case(server, case)


@pytest.mark.parametrize("case", SECOND_API, ids=lambda case: case.name)
def test_second_api_case_over_http(second_api_server: Server, case: Case) -> None:
    """The gateway sends the expected response to a case of the second API."""
    check_case(second_api_server, case)


def test_contract_cases_by_lambda_event(tmp_path: Path) -> None:
    """Cases that reach the function have the same response if sent as a Lambda event."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    all_cases = [case for case in CERTLET if case.events]
    events = [from_request(case.method, case.path, case.send, case.content or b"") for case in all_cases]
    results, _ = invoke_handler(tmp_path, *events)
    assert len(results) == len(all_cases) >= 10
    for case, result in zip(all_cases, results, strict=True):
        headers = Message()
        for name, value in result["headers"].items():
            headers[name] = value
        assert_response(case, Response(result["statusCode"], headers, decode_body(result)))


def test_case_names_are_unique() -> None:
    """There are at least sixty cases, with unique names."""
    all_cases = [*CERTLET, *SECOND_API]
    assert len(all_cases) >= 60
    assert len({case.name for case in all_cases}) == len(all_cases)
    assert all(case.localstack for case in CERTLET)


def test_stage_is_the_first_path_segment(tmp_path: Path) -> None:
    """Paths and the context's path begin with the stage; the event's path does not."""
    with second_api.gateway_server(tmp_path, second_api.document(), stage="prod") as server:
        inside = server.request("GET", "/prod/books/1")
        event = inside.json()["event"]
        assert (event["path"], event["pathParameters"]) == ("/books/1", {"isbn": "1"})
        assert event["requestContext"]["path"] == "/prod/books/1"
        assert event["requestContext"]["stage"] == "prod"
        for path in ("/books/1", "/prod", "/production/books/1", "/"):
            assert server.request("GET", path).status == 404


def test_start_page_is_the_stage_itself(tmp_path: Path) -> None:
    """Below a stage, the start page is at the stage, with or without a slash; other paths are 404."""
    with second_api.gateway_server(tmp_path, factories.document(), stage="prod") as server:
        for path in ("/prod", "/prod/"):
            assert server.request("GET", path).body == cases.HOME
            assert server.request("DELETE", path).status == 405
        for path in ("/", "/prod//", "/production", "/Prod"):
            assert server.request("GET", path).status == 404


def test_function_refuses_unauthenticated_requests_itself(tmp_path: Path) -> None:
    """Even if the document has no `security`, the function responds with 403, and logs no intent."""
    document = json.loads(json.dumps(factories.document()))
    for path in ("/sign", "/sign.pem"):
        document["paths"][path]["post"]["security"] = []
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        original = servers.environ
        variables = {"CERTLET_CA": str(tmp_path / "ca")}
        patch.setattr(servers, "environ", lambda **change: original(**variables, **change))
        with second_api.gateway_server(tmp_path, document, "service.aws_lambda.handler") as server:
            response = server.request("POST", "/sign", cases.SIGN_BODY, {**cases.JSON, **cases.KEY})
            assert (response.status, response.json()["code"]) == (403, "unauthorized")
            assert "intent" not in server.read_log()
