"""Rules of API Gateway, one by one, where the table's two documents have no row for them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict, MultiDict

from service import aws_lambda
from service.gateway import mapping
from service.gateway.contract import Contract, GatewayError, UsagePlan, literal
from service.gateway.function import Context
from service.gateway.usage import KeyFile, KeyFileError, Keyring, Meter
from tests import serving
from tests.gateway import running
from tests.gateway.test_faults import POST, connect, received
from tests.gateway.test_usage import Clock, taken
from tests.serving import API_KEY, certlet

FN = {"type": "aws_proxy", "httpMethod": "POST", "uri": "arn:aws:x", "timeoutInMillis": 700}
V = "x-amazon-apigateway-request-validator"


def op(**more: Any) -> dict[str, Any]:
    """An operation of the function."""
    return {"security": [], "responses": {}, "x-amazon-apigateway-integration": FN, **more}


def made(*paths: str, **more: Any) -> Contract:
    """A contract of these paths."""
    return Contract({"paths": {p: {"get": op()} for p in paths}, **more})


@pytest.mark.parametrize(
    ("path", "resource", "parameters"),
    [
        ("/", "/", {}),
        ("/a/1/new", "/a/{x}/new", {"x": "1"}),
        ("/a/1/2", "/a/{x}/{y}", {"x": "1", "y": "2"}),
        ("/a/1/2/3", "/a/{rest+}", {"rest": "1/2/3"}),
        ("/v1.0/a", "/v1.0/{x}", {"x": "a"}),
        ("/v1x0/a", None, {}),
        ("/lit//", None, {}),
    ],
)
def test_precedence(path: str, resource: str | None, parameters: dict[str, str]) -> None:
    """A literal segment comes before `{name}`, and that before `{name+}`; one slash at the end does not count."""
    c = made("/", "/lit", "/v1.0/{x}", "/a/{rest+}", "/a/{x}/{y}", "/a/{x}/new")
    if resource is None:
        with pytest.raises(GatewayError):
            c.route("GET", path)
    else:
        route, found = c.route("GET", path)
        assert (route.resource, found) == (resource, parameters)


def test_validators() -> None:
    """A validator may be the document's; parameters may be the path's; only required ones are asked for."""
    where = {"parameters": [{"name": "loud", "in": "query", "required": True}]}
    mine = op(parameters=[{"name": "x", "in": "path", "required": True}, {"name": "soft", "in": "query"}])
    document: dict[str, Any] = {
        V: "on",
        "x-amazon-apigateway-request-validators": {
            "on": {"validateRequestParameters": True},
            "off": {"validateRequestParameters": False},
        },
        "paths": {"/a/{x}": {**where, "get": mine}, "/b/{x}": {**where, "get": {**mine, V: "off"}}},
    }
    c = Contract(document)
    assert c.route("GET", "/a/1")[0].required == (("query", "loud"),)
    assert c.route("GET", "/b/1")[0].required == ()


def test_only_api_keys_are_keys() -> None:
    """`security` of another kind of scheme asks for no API key."""
    c = Contract(
        {
            "components": {"securitySchemes": {"o": {"type": "oauth2"}, "k": {"type": "apiKey"}}},
            "paths": {"/o": {"get": op(security=[{"o": []}])}, "/k": {"get": op(security=[{"k": []}])}},
        }
    )
    assert [c.route("GET", p)[0].needs_key for p in ("/o", "/k")] == [False, True]


@pytest.mark.parametrize(
    ("kind", "status", "error_type", "message"),
    [
        ("API_CONFIGURATION_ERROR", 500, "InternalServerErrorException", "Internal server error"),
        ("BAD_REQUEST_PARAMETERS", 400, "BadRequestException", "Missing required request parameters"),
        ("DEFAULT_4XX", 400, "BadRequestException", "Bad request"),
        ("DEFAULT_5XX", 502, "InternalServerErrorException", "Internal server error"),
        ("INTEGRATION_FAILURE", 504, "InternalServerErrorException", "Internal server error"),
        ("INTEGRATION_TIMEOUT", 504, "InternalServerErrorException", "Endpoint request timed out"),
        ("QUOTA_EXCEEDED", 429, "LimitExceededException", "Limit Exceeded"),
        ("REQUEST_TOO_LARGE", 413, "RequestTooLargeException", "Request Too Long"),
        ("UNSUPPORTED_MEDIA_TYPE", 415, "BadRequestException", "Unsupported Media Type"),
    ],
)
def test_aws_s_own_gateway_responses(kind: str, status: int, error_type: str, message: str) -> None:
    """Without gateway responses in the document, AWS's own status, error type and body."""
    answer = mapping.gateway_answer(made("/").gateway_response(kind), GatewayError(kind), "id")
    assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (status, error_type)
    assert json.loads(answer.body) == {"message": message}


def test_gateway_response_details() -> None:
    """Only `gatewayresponse.header.` makes headers; messages are escaped; an unknown variable is empty."""
    c = made(
        "/",
        **{
            "x-amazon-apigateway-gateway-responses": {
                "DEFAULT_4XX": {
                    "responseParameters": {"gatewayresponse.header.A": "'a'", "other.B": "'b'"},
                    "responseTemplates": {
                        "application/json": "$context.error.messageString|$context.error.validationErrorString|$context.error.messages|$context.error.message."
                    },
                }
            }
        },
    )
    answer = mapping.gateway_answer(
        c.gateway_response("DEFAULT_4XX"), GatewayError("DEFAULT_4XX", 'a"b'), "id"
    )
    assert set(answer.headers) == {"A", "Content-Type", "x-amzn-ErrorType"}
    assert answer.body == b'"a\\"b"|"a\\"b"||a"b.'
    assert literal("plain") == "plain"


def request(**change: Any) -> mapping.Request:
    """A request, with some of it changed."""
    known: dict[str, Any] = {
        "request_id": "id",
        "method": "GET",
        "path": "/a",
        "stage": "",
        "headers": CIMultiDict(),
        "query": MultiDict(),
        "path_parameters": {},
        "body": b"",
        "identity": {},
    }
    return mapping.Request(**{**known, **change})


def test_event_details() -> None:
    """The last value of a header wins, all are kept; media types have no case; no body is not binary."""
    c = made("/a", **{"x-amazon-apigateway-binary-media-types": ["image/png"]})
    route = c.route("GET", "/a")[0]
    headers = CIMultiDict(
        [("X-A", "1"), ("X-A", "2"), ("Connection", "close"), ("Content-Type", "Image/PNG; q=1")]
    )
    event = mapping.proxy_event(request(headers=headers, body=b"\x89", protocol="HTTP/1.0"), route, c)
    assert event["headers"]["X-A"] == "2"
    assert event["multiValueHeaders"]["X-A"] == ["1", "2"]
    assert "Connection" not in {**event["headers"], **event["multiValueHeaders"]}
    assert (event["body"], event["isBase64Encoded"]) == ("iQ==", True)
    context = event["requestContext"]
    assert (context["path"], context["protocol"], context["requestId"], context["stage"]) == (
        "/a",
        "HTTP/1.0",
        "id",
        "local",
    )
    assert abs(context["requestTimeEpoch"] / 1000 - time.time()) < 5
    assert time.strptime(context["requestTime"], "%d/%b/%Y:%H:%M:%S +0000")
    assert mapping.proxy_event(request(headers=headers), route, c)["isBase64Encoded"] is False
    assert mapping.proxy_event(request(body=b"\xff"), route, c)["body"] == "\ufffd"


@pytest.mark.parametrize("status", [100, 199, 600, 999])
def test_no_other_status(status: int) -> None:
    """A result's status is from 200 to 599."""
    with pytest.raises(GatewayError):
        mapping.proxy_answer({"statusCode": status}, request(), made("/"))


def test_answer_details() -> None:
    """What cannot be written is replaced; Accept has parameters and no case; no header holds a newline or a NUL."""
    c = made("/", **{"x-amazon-apigateway-binary-media-types": ["image/png"]})
    assert mapping.proxy_answer({"statusCode": 200, "body": "\ud800"}, request(), c).body == b"?"
    png = request(headers=CIMultiDict({"Accept": "Image/PNG;q=0.5, */*"}))
    assert (
        mapping.proxy_answer({"statusCode": 200, "body": "iQ==", "isBase64Encoded": True}, png, c).body
        == b"\x89"
    )
    for bad in ("a\nb", "a\0b"):
        with pytest.raises(GatewayError):
            mapping.proxy_answer({"statusCode": 200, "headers": {"a": bad}}, request(), c)


def mock(integration: dict[str, Any], **change: Any) -> mapping.Answer:
    """The answer of a mock integration."""
    c = Contract(
        {"paths": {"/a": {"get": {"x-amazon-apigateway-integration": {"type": "mock", **integration}}}}}
    )
    return mapping.mock_answer(request(**change), c.route("GET", "/a")[0])


def test_mock_details() -> None:
    """Statuses match whole; the response states its own; no response is a configuration error."""
    ask = {"requestTemplates": {"application/json": "{\"statusCode\": $input.params('s')}"}}
    responses = {
        "20": {"statusCode": "500"},
        "default": {
            "statusCode": "202",
            "responseParameters": {"method.response.header.A": "'a'", "other.B": "'b'"},
            "responseTemplates": {"text/csv": "c", "application/json": "$input.params('h')$input.body"},
        },
    }
    answer = mock(
        {**ask, "responses": responses},
        query=MultiDict({"s": "200"}),
        headers=CIMultiDict({"h": "x"}),
        body=b"B",
    )
    assert (answer.status, answer.body, answer.headers) == (
        202,
        b"xB",
        CIMultiDict({"A": "a", "Content-Type": "application/json"}),
    )
    bare = mock({**ask, "responses": {"default": {"statusCode": "200"}}}, query=MultiDict({"s": "200"}))
    assert bare.headers["Content-Type"] == "application/json"
    with pytest.raises(GatewayError) as none:
        mock({**ask, "responses": {"404": {"statusCode": "404"}}}, query=MultiDict({"s": "200"}))
    assert none.value.kind == "API_CONFIGURATION_ERROR"
    for passthrough in ({}, {"passthroughBehavior": "when_no_templates"}):
        assert (
            mock(
                {**passthrough, "responses": {"default": {"statusCode": "200"}}}, body=b'{"statusCode": 200}'
            ).status
            == 200
        )
    word = {"requestTemplates": {"application/json": '{"statusCode": "default"}'}}
    first = {"default": {"statusCode": "201"}, "def.*": {"statusCode": "203"}}
    assert mock({**word, "responses": first}).status == 203


def test_a_half_token_is_none_and_a_refused_quota_costs_none() -> None:
    """A request needs a whole token; one that the quota refuses takes none."""
    clock = Clock()
    meter = Meter(UsagePlan(rate=1, burst=1, quota=99, period="DAY"), clock, clock)
    assert taken(meter, "a", 1) == ["ok"]
    clock.now += 0.5
    assert taken(meter, "a", 1) == ["THROTTLED"]
    meter = Meter(UsagePlan(rate=0.000001, burst=3, quota=1, period="DAY"), clock, clock)
    assert taken(meter, "a", 9) == ["ok"] + ["QUOTA_EXCEEDED"] * 8  # never THROTTLED


@pytest.mark.parametrize(("period", "seconds"), [("DAY", 86_400), ("WEEK", 604_800), ("MONTH", 2_592_000)])
def test_a_period_is_no_shorter(period: str, seconds: int) -> None:
    """A quota is used up until the last second of its period."""
    clock = Clock()
    clock.now = 10.0 * seconds
    meter = Meter(UsagePlan(rate=99, burst=99, quota=1, period=period), clock, clock)
    assert taken(meter, "a", 1) == ["ok"]
    clock.now += seconds - 1
    assert taken(meter, "a", 1) == ["QUOTA_EXCEEDED"]
    clock.now += 1
    assert taken(meter, "a", 1) == ["ok"]


def test_key_file_details(tmp_path: Path) -> None:
    """The folder is 0700, what a crash left over is no obstacle, names are bounded, and no file is no key."""
    file = KeyFile(tmp_path / "d" / "keys.json")
    file.add("a", "a" * 40)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    (tmp_path / "d" / "keys.json.new").write_text("left over")
    for name in ("", "a", "\u00e9", "x" * 129):
        with pytest.raises(KeyFileError):
            file.add(name, "b" * 40)
    file.add("b", "b" * 40)
    ring = Keyring(file, {})
    assert ring.identify("b" * 40) == "b"
    file.path.unlink()
    assert ring.identify("b" * 40) is None


def test_remaining_time_is_never_negative() -> None:
    """As on Lambda, nothing is left after the deadline."""
    assert Context("id", time.monotonic() - 5).get_remaining_time_in_millis() == 0
    assert Context("id", 0).aws_request_id == "id"


def test_an_event_is_made_whole_for_wsgi() -> None:
    """Every value of the query, headers by their usual spelling, and none that poses as another."""
    _whole = aws_lambda._whole
    whole = _whole(
        {
            "path": "/sign/",
            "headers": {"content-type": "a", "upgrade": "h2c", "connection": "x", "X_Y": "z"},
            "multiValueQueryStringParameters": {"p": ["1", "2"]},
            "queryStringParameters": {"p": "2"},
        }
    )
    assert whole["path"] == "/sign"
    assert whole["headers"] == {"Content-Type": "a", "X-Forwarded-Port": "443"}
    assert whole["queryStringParameters"] == [("p", "1"), ("p", "2")]
    bare = _whole({"path": "/", "headers": {"X-Forwarded-Port": "8443"}, "queryStringParameters": {"p": "2"}})
    assert (bare["path"], bare["headers"]["X-Forwarded-Port"], bare["queryStringParameters"]) == (
        "/",
        "8443",
        [("p", "2")],
    )
    assert _whole({"path": "/", "headers": None})["headers"] == {"X-Forwarded-Port": "443"}


def test_server_details(tmp_path: Path) -> None:
    """The access log names the key and not its value; limits hold by length and by what comes; 504 ends a process."""
    document = running.library()
    with running.gateway(tmp_path, document) as server:
        first = server.request("GET", "/books")
        assert first.headers["Server"] == "certlet"
        pid = first.json()["pid"]
        assert server.request("GET", "/books?do=unencodable").status == 502
        assert server.request("GET", "/books").json()["pid"] == pid
        assert server.request("POST", "/books?secret=1", b"{}", {"x-api-key": API_KEY}).status == 200
        line = json.loads(server.logged().splitlines()[-1])
        assert (line["key"], line["method"], line["path"], line["status"]) == (
            "reader",
            "POST",
            "/books",
            200,
        )
        assert API_KEY not in server.logged()
        with connect(server) as client:
            client.sendall(
                POST
                + b"Transfer-Encoding: chunked\r\n\r\n"
                + b"".join([b"100000\r\n" + b"x" * 0x100000 + b"\r\n"] * 11)
            )
            assert b" 413 " in received(client).partition(b"\r\n")[0]
        with connect(server) as client:  # refused by its length alone: no byte of it is awaited
            client.sendall(POST + b"Content-Length: 10485761\r\n\r\n")
            assert b" 413 " in received(client).partition(b"\r\n")[0]
        assert server.request("POST", "/books", b"x" * 1_000_000, {"x-api-key": API_KEY}).status == 200
        with connect(server) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert received(client, until=b"never")  # closed at once, or this waits 20 s
        assert server.request("GET", "/books?do=hang").status == 504
        deadline = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_flight_after_others(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT both let what is in flight finish, also after earlier requests."""
    with running.gateway(tmp_path, running.library(), workers=2) as server:
        assert server.request("GET", "/books").status == 200
        with concurrent.futures.ThreadPoolExecutor(1) as pool, connect(server) as client:
            napping = pool.submit(server.request, "GET", "/books?do=nap")
            client.sendall(POST + b"Content-Length: 4\r\n\r\nab")
            time.sleep(0.15)
            server.process.send_signal(number)
            time.sleep(0.15)
            client.sendall(b"cd")
            assert b" 200 OK" in received(client)
            assert napping.result().status == 200
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.logged()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_is_asked_for_again(tmp_path: Path, number: int) -> None:
    """However often its processes are asked to stop: what is in flight is answered, exit 0, and nothing is said."""
    with running.gateway(tmp_path, running.library(), workers=2) as server:
        assert server.request("GET", "/books").status == 200
        family = [server.process.pid, *children(server.process.pid)]
        assert len(family) == 4
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            napping = pool.submit(server.request, "GET", "/books?do=nap")
            time.sleep(0.15)
            deadline = time.monotonic() + 10
            while server.process.poll() is None and time.monotonic() < deadline:
                for each in family:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, number)
                time.sleep(0.002)
            assert napping.result().status == 200
        assert server.process.wait(10) == 0
        assert [line for line in server.logged().splitlines() if not line.startswith('{"access":')] == []


def test_a_gateway_that_nobody_asked_to_stop(tmp_path: Path) -> None:
    """The twin: one that is ended from elsewhere is told, and is a failure."""
    with serving.serving(tmp_path, "--ephemeral") as server:
        (gateway,) = (
            each
            for each in children(server.process.pid)
            if b"gateway.server" in Path(f"/proc/{each}/cmdline").read_bytes()
        )
        os.kill(gateway, signal.SIGKILL)
        assert server.process.wait(20) == 1
        assert server.logged().endswith("certlet: the gateway was ended by signal 9\n")


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is one line, which says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken_:
        port = taken_.getsockname()[1]
        run = certlet("serve", "--ephemeral", "--port", str(port), cwd=tmp_path)
    assert run.returncode == 1
    told = f"certlet: 127.0.0.1:{port} is in use, perhaps by another certlet serve: give another --port"
    assert run.stderr.decode().splitlines() == [told]


def test_a_handler_that_cannot_be_imported(tmp_path: Path) -> None:
    """The gateway does not start without its function, and says why."""
    refused = pytest.raises(AssertionError, match="No module named 'nowhere'")
    with refused, running.gateway(tmp_path, running.library(), "nowhere.handler"):
        pass
