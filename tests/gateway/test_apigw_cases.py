from __future__ import annotations

import json
import re
from email.message import Message
from pathlib import Path

import pytest

from tests import servers
from tests.gateway import cases, second_api
from tests.gateway.cases import CERTLET, LIBRARY, Row
from tests.lambda_events import decode_body, from_request, invoke_handler
from tests.servers import Response, Server

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def judge(row: Row, answer: Response) -> None:
    """The answer is the row's."""
    assert answer.status == row.status, answer.body[:300]
    for name, value in row.headers.items():
        found = ", ".join(answer.headers.get_all(name, [])) or None
        if value is None:
            assert found is None, name
        else:
            assert found is not None, name
            assert value in found if name == "Content-Security-Policy" else value == found, (name, found)
    assert row.body(answer.body), answer.body[:2000]


def ask(server: Server, row: Row) -> None:
    """Send a row, several times where a process is being replaced, and judge the answer."""
    answer = server.request(row.method, row.path, row.content, row.send)
    for _ in range(10):
        if row.status == 503 or answer.status != 503:
            break
        answer = server.request(row.method, row.path, row.content, row.send)
    judge(row, answer)
    assert re.fullmatch(UUID, answer.headers["x-amzn-RequestId"])
    assert answer.headers["x-amz-apigw-id"]


@pytest.mark.parametrize("row", CERTLET, ids=lambda row: row.name)
def test_the_contract_through_the_local_gateway(server: Server, row: Row) -> None:
    """Each row of the contract's table, over HTTP."""
    ask(server, row)


@pytest.mark.parametrize("row", LIBRARY, ids=lambda row: row.name)
def test_another_document_through_the_local_gateway(second_api_server: Server, row: Row) -> None:
    """Each row of the second document's table, over HTTP."""
    ask(second_api_server, row)


def test_the_contract_by_events(tmp_path: Path) -> None:
    """Each row that reaches the function gives the same answer by an event alone."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    rows = [row for row in CERTLET if row.events]
    events = [from_request(row.method, row.path, row.send, row.content or b"") for row in rows]
    found, _ = invoke_handler(tmp_path, *events)
    assert len(found) == len(rows) >= 10
    for row, result in zip(rows, found, strict=True):
        headers = Message()
        for name, value in result["headers"].items():
            headers[name] = value
        judge(row, Response(result["statusCode"], headers, decode_body(result)))


def test_the_table_is_whole() -> None:
    """At least sixty rows, no two of one name."""
    rows = [*CERTLET, *LIBRARY]
    assert len(rows) >= 60
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.localstack for row in CERTLET)


def test_a_stage_is_the_first_segment(tmp_path: Path) -> None:
    """With a stage, paths begin with it; the event's path does not, and its context's does."""
    with second_api.gateway_server(tmp_path, second_api.document(), stage="prod") as server:
        inside = server.request("GET", "/prod/books/1")
        event = inside.json()["event"]
        assert (event["path"], event["pathParameters"]) == ("/books/1", {"isbn": "1"})
        assert event["requestContext"]["path"] == "/prod/books/1"
        assert event["requestContext"]["stage"] == "prod"
        for path in ("/books/1", "/prod", "/production/books/1", "/"):
            assert server.request("GET", path).status == 404


def test_a_lost_security_line_signs_nothing(tmp_path: Path) -> None:
    """If `security` is lost from the document, the function itself refuses: 403, and no intent."""
    from tests import factories  # noqa: PLC0415

    document = json.loads(json.dumps(factories.document()))
    for path in ("/sign", "/sign.pem"):
        document["paths"][path]["post"]["security"] = []
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        original = servers.environ
        named = {"CERTLET_CA": str(tmp_path / "ca")}
        patch.setattr(servers, "environ", lambda **change: original(**named, **change))
        with second_api.gateway_server(tmp_path, document, "service.aws_lambda.handler") as server:
            answer = server.request("POST", "/sign", cases.ORDER, {**cases.JSON, **cases.KEY})
            assert (answer.status, answer.json()["code"]) == (403, "unauthorized")
            assert "intent" not in server.read_log()
