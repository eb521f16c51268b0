"""Failures of the function and of clients: the server responds or closes cleanly, and keeps serving."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from tests import factories, servers
from tests.assertions import assert_problem
from tests.gateway import second_api
from tests.servers import API_KEY, Server


def create_document(**integration: Any) -> dict[str, Any]:
    """The contract, with its integrations changed."""
    document: dict[str, Any] = json.loads(json.dumps(factories.document()))
    for item in document["paths"].values():
        for operation in item.values():
            if operation["x-amazon-apigateway-integration"]["type"] == "aws_proxy":
                operation["x-amazon-apigateway-integration"].update(integration)
    return document


def test_function_failures_are_documented_problems(tmp_path: Path) -> None:
    """An exception, a crash or a malformed result is 502, a time-out 504, no free worker 503."""
    with second_api.gateway_server(tmp_path, create_document(timeoutInMillis=700)) as server:
        for do in ("raise", "malformed", "unencodable"):
            assert_problem(server.request("GET", f"/health?do={do}"), 502, "badGateway")
        assert "secret" in server.read_log()
        start = time.monotonic()
        assert_problem(server.request("GET", "/health?do=hang"), 504, "timeout")
        assert 0.6 < time.monotonic() - start < 3
        # The only worker was killed: requests may be 503 until its replacement is ready.
        response = server.request("GET", "/health")
        if response.status != 200:
            assert_problem(response, 503, "unavailable")
            assert response.headers["Retry-After"] == "1"
        servers.wait_until(lambda: server.request("GET", "/health").status == 200, 10)
        assert_problem(server.request("GET", "/health?do=exit"), 502, "badGateway")


def test_queued_call_is_503_after_a_second(tmp_path: Path) -> None:
    """A call waits for a free worker for up to a second; then it is 503 with Retry-After."""
    busy = create_document(timeoutInMillis=2500)
    with second_api.gateway_server(tmp_path, busy) as server, ThreadPoolExecutor(3) as pool:
        hanging = pool.submit(server.request, "GET", "/health?do=hang")
        servers.wait_until(lambda: second_api.count_begun(server) == 1)
        start = time.monotonic()
        response = server.request("GET", "/health")
        assert time.monotonic() - start > 0.9
        assert not hanging.done()
        assert_problem(response, 503, "unavailable")
        assert response.headers["Retry-After"] == "1"
        assert hanging.result().status == 504
    with second_api.gateway_server(tmp_path, second_api.document()) as server, ThreadPoolExecutor(2) as pool:
        slow_calls = [pool.submit(server.request, "GET", "/books?do=nap") for _ in range(2)]
        assert [call.result().status for call in slow_calls] == [200, 200]  # the second waited


def test_refused_call_never_begins(tmp_path: Path) -> None:
    """A call that waited too long is 503 and never runs; the next call gets its own response."""
    document = create_document(timeoutInMillis=2500)
    with second_api.gateway_server(tmp_path, document) as server, ThreadPoolExecutor(2) as pool:
        assert server.request("GET", "/health").json()["number"] == 1
        slow_call = pool.submit(server.request, "GET", "/health?do=doze")
        servers.wait_until(lambda: second_api.count_begun(server) == 1)
        start = time.monotonic()
        assert_problem(server.request("GET", "/health?do=echo"), 503, "unavailable")
        assert time.monotonic() - start > 0.9
        assert not slow_call.done()
        last = server.request("GET", "/health")
        assert slow_call.result().json()["number"] == 2
        assert last.json()["number"] == 3


def ask_both_workers(server: Server) -> set[int]:
    """Send two requests at once until each worker responds to one, and return their process IDs."""
    pids: set[int] = set()
    with ThreadPoolExecutor(2) as pool:
        while len(pids) < 2:
            calls = [pool.submit(server.request, "GET", "/books?do=nap") for _ in range(2)]
            pids = {call.result().json()["pid"] for call in calls}
    return pids


def test_queued_calls_survive_a_worker_crash(tmp_path: Path) -> None:
    """A crash fails only the call that the worker has begun; another worker handles the queued calls."""
    with (
        second_api.gateway_server(tmp_path, second_api.document(), workers=2) as server,
        ThreadPoolExecutor(6) as pool,
    ):
        pids = ask_both_workers(server)
        before = second_api.count_begun(server)
        slow_calls = [pool.submit(server.request, "GET", "/books?do=nap") for _ in range(2)]
        servers.wait_until(lambda: second_api.count_begun(server) == before + 2)
        queued = [pool.submit(server.request, "GET", "/books") for _ in range(4)]
        time.sleep(0.1)
        victim = pids.pop()
        os.kill(victim, signal.SIGKILL)
        assert sorted(call.result().status for call in slow_calls) == [200, 502]
        assert [call.result().status for call in queued] == [200] * 4
        assert victim not in {call.result().json()["pid"] for call in queued}


def test_two_workers_handle_two_calls_at_once(second_api_server: Server) -> None:
    """Two workers handle two calls at once."""
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(second_api_server.request, "GET", "/books?do=nap") for _ in range(2)]
        first, second = (call.result().json() for call in calls)
    assert first["pid"] != second["pid"]
    assert max(first["period"][0], second["period"][0]) < min(first["period"][1], second["period"][1])


def test_context_has_the_document_timeout(second_api_server: Server) -> None:
    """The context's remaining time is the document's time-out."""
    assert 300 < second_api_server.request("GET", "/books").json()["left"] <= 700


def test_killed_idle_worker_causes_no_502(tmp_path: Path) -> None:
    """No call is lost with an idle worker, so the next request is handled by another."""
    with second_api.gateway_server(tmp_path, second_api.document(), workers=2) as server:
        for _ in range(2):  # the second time, the replacement of the first must be ready
            ask_both_workers(server)
            os.kill(server.request("GET", "/books").json()["pid"], signal.SIGKILL)
            time.sleep(0.1)
            assert {server.request("GET", "/books").status for _ in range(4)} == {200}


def test_client_disconnect_does_not_end_the_call(tmp_path: Path) -> None:
    """A call that has begun completes: its worker is not killed if the client disconnects."""
    with second_api.gateway_server(tmp_path, second_api.document()) as server:
        pid = server.request("GET", "/books").json()["pid"]
        with connect(server) as client:
            client.sendall(b"GET /books?do=nap HTTP/1.1\r\nHost: x\r\n\r\n")
            servers.wait_until(lambda: second_api.count_begun(server) == 1)
        assert server.request("GET", "/books").json()["pid"] == pid


def test_idle_server_stops_at_once(tmp_path: Path) -> None:
    """Without requests in progress, the server exits at once after SIGTERM."""
    with second_api.gateway_server(tmp_path, second_api.document()) as server:
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 5


class BusyClient(asyncio.Protocol):
    """Always has requests in flight. A StreamReader would discard what it received before a reset.

    Attributes:
        count: the responses to the last requests.
        received: what was received since the last requests.
        has_ended: whether the server has closed the connection.
    """

    REQUEST = b"GET /books?do=png HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\n\r\n"
    END = b"\r\n\r\n\x89PNG"  # of each response

    def __init__(self) -> None:
        self.has_ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        self.write()

    def write(self) -> None:
        self.received = b""
        self.transport.write(self.REQUEST * 20)

    @property
    def count(self) -> int:
        return self.received.count(self.END)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.count == 20:
            self.write()

    def connection_lost(self, _: Exception | None) -> None:
        self.has_ended.set()


def test_busy_keep_alive_clients_do_not_delay_stop(tmp_path: Path) -> None:
    """After SIGTERM, responses in progress are complete and have `Connection: close`.

    A connection between two requests is closed (RFC 9112 9.5).
    """
    clients: list[BusyClient] = []

    async def stop_while_busy(server: Server) -> float:
        loop = asyncio.get_running_loop()
        for _ in range(8):
            _, client = await loop.create_connection(BusyClient, "127.0.0.1", server.port)
            clients.append(client)
        await asyncio.sleep(0.5)
        start = time.monotonic()
        assert await asyncio.to_thread(server.stop) == 0
        for client in clients:
            await client.has_ended.wait()
        return time.monotonic() - start

    with second_api.gateway_server(tmp_path, second_api.document(), workers=2) as server:
        assert asyncio.run(stop_while_busy(server)) < 10
    heads = [client.received.split(client.END)[client.count - 1] for client in clients if client.count]
    assert heads
    for head in heads:
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in head.lower()


@contextlib.contextmanager
def connect(server: Server) -> Iterator[socket.socket]:
    """Open a TCP connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        yield client


def receive(client: socket.socket, until: bytes = b"\r\n\r\n") -> bytes:
    """Receive until a mark or the end of the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while until not in data and (chunk := client.recv(65536)):
            data += chunk
    return data


POST = f"POST /books HTTP/1.1\r\nHost: x\r\nx-api-key: {API_KEY}\r\n".encode()
HOST = b" HTTP/1.1\r\nHost: x\r\n"
FIELDS = b"".join(b"X-%d: y\r\n" % n for n in range(1000))
CODES = {
    400: "malformed",
    403: "unauthorized",
    414: "uriTooLong",
    431: "headerFieldsTooLarge",
    501: "notImplemented",
    505: "versionNotSupported",
}


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("a bad chunk", POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("a bad length", POST + b"Content-Length: x\r\n\r\n", 400),
        ("two lengths", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
        ("no host", b"GET /books HTTP/1.1\r\n\r\n", 400),
        ("a method with a delimiter", b"G@T /books" + HOST + b"\r\n", 400),
        ("another protocol", b"GET /books ICAP/1.0\r\n\r\n", 400),
        ("no digit in the version", b"GET /books HTTP/1.x\r\n\r\n", 400),
        ("a second request that is malformed", b"GET /books" + HOST + b"\r\nBREW\r\n\r\n", 400),
        ("a long target", b"GET /" + b"a" * 20_000 + HOST + b"\r\n", 414),
        ("a target of 8191 octets", b"GET /books?" + b"a" * 8184 + HOST + b"\r\n", 414),
        ("a target of 8190 octets", b"GET /books?" + b"a" * 8183 + HOST + b"\r\n", 200),
        ("a thousand headers", POST + FIELDS + b"\r\n", 431),
        ("129 headers", b"GET /books" + HOST + FIELDS[: FIELDS.index(b"X-128")] + b"\r\n", 431),
        ("128 headers", b"GET /books" + HOST + FIELDS[: FIELDS.index(b"X-127")] + b"\r\n", 200),
        ("a long header", POST + b"X: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        ("a header value of 8191 octets", b"GET /books" + HOST + b"X: " + b"y" * 8191 + b"\r\n\r\n", 431),
        ("a header of 8190 octets", b"GET /books" + HOST + b"X: " + b"y" * 8189 + b"\r\n\r\n", 200),
        ("a long header name", b"GET /books" + HOST + b"y" * 9000 + b": x\r\n\r\n", 431),
        ("an unknown method", b"BREW /books" + HOST + b"Content-Length: 1\r\n\r\nx", 501),
        ("a method in small letters", b"get /books" + HOST + b"\r\n", 501),
        ("a method that the parser knows", b"PROPFIND /books" + HOST + b"\r\n", 501),
        ("CONNECT", b"CONNECT x:443" + HOST + b"\r\n", 501),
        ("a long method", b"A" * 20_000, 501),
        ("HTTP/0.9", b"GET /books\r\n\r\n", 505),
        ("HTTP/0.9 by name", b"GET /books HTTP/0.9\r\n\r\n", 505),
        ("HTTP/1.2", b"GET /books HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        ("HTTP/2.0", b"GET /books HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("HTTP/3.0", b"GET /books HTTP/3.0\r\nHost: x\r\n\r\n", 505),
        ("gzip that is none", POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", 200),
        ("a key in Latin-1", b"POST /books HTTP/1.1\r\nHost: x\r\nx-api-key: \xe9\r\n\r\n", 403),
        ("absolute form", b"GET http://x/books HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("HTTP/1.0", b"GET /books HTTP/1.0\r\n\r\n", 200),
        ("an empty line first", b"\r\nGET /books" + HOST + b"\r\n", 200),
    ],
)
def test_malformed_request_gets_a_response(
    second_api_server: Server, name: str, data: bytes, status: int
) -> None:
    """The response is a problem document in HTTP/1, and the log has a line; the next request succeeds."""
    with connect(second_api_server) as client:
        client.sendall(data)
        head, _, body = receive(client).partition(b"\r\n\r\n")
        body += b"" if b"}" in body else receive(client, b"}")
    version, code, _ = head.split(b" ", 2)
    assert (version in {b"HTTP/1.0", b"HTTP/1.1"}, int(code)) == (True, status), (name, head)
    if status != 200:
        assert b"application/problem+json" in head
        assert json.loads(body)["code"] == CODES[status]
        (request_id,) = re.findall(rb"x-amzn-RequestId: (\S+)", head)
        (record,) = [
            line for line in access_records(second_api_server) if line["request_id"] == request_id.decode()
        ]
        assert (record["status"], record["source_ip"]) == (status, "127.0.0.1")
    assert second_api_server.request("GET", "/books").status == 200


def access_records(server: Server) -> list[dict[str, Any]]:
    """Return the records of the access log."""
    return [json.loads(line) for line in server.read_log().splitlines() if line.startswith('{"access"')]


def test_access_record_of_a_malformed_request_is_escaped(second_api_server: Server) -> None:
    """It has the method and the path as far as they were read, without the query, truncated, in ASCII."""
    with connect(second_api_server) as client:
        client.sendall(b"BREW /\x1b[31m\xff?key=hidden HTTP/1.1\r\nHost: x\r\n\r\n")
        assert receive(client).startswith(b"HTTP/1.0 501 ")
    with connect(second_api_server) as client:
        client.sendall(b"A" * 20_000)
        assert receive(client).startswith(b"HTTP/1.0 501 ")
    *_, first, second = access_records(second_api_server)
    assert (first["method"], first["path"]) == ("BREW", "/\x1b[31m\xff")
    assert (second["method"], second["path"]) == ("A" * 200, "")
    assert second_api_server.read_log().isascii()
    assert "\x1b" not in second_api_server.read_log()
    assert "hidden" not in second_api_server.read_log()


def test_unserved_version_and_malformed_requests_end_the_connection(second_api_server: Server) -> None:
    """Where the next request begins is unknown. After another method of HTTP/1.1 it is known."""
    for data, is_closed in (
        (b"GET /books HTTP/2.0\r\nHost: x\r\n\r\n", True),
        (b"BREW /books" + HOST + b"\r\n", True),
        (b"PROPFIND /books" + HOST + b"\r\n", False),
    ):
        with connect(second_api_server) as client:
            client.sendall(data + b"GET /books" + HOST + b"\r\n")
            received = receive(client, b"HTTP/1.1 200")
        assert (b"HTTP/1.1 200" in received) is not is_closed, data


def test_incomplete_body_does_not_delay_others(second_api_server: Server) -> None:
    """A client that disconnects within a body neither delays others nor causes a traceback."""
    before = len(second_api_server.read_log())
    with connect(second_api_server) as client:
        client.sendall(POST + b"Content-Length: 100\r\n\r\nhalf")
        assert second_api_server.request("GET", "/books").status == 200
    assert second_api_server.request("GET", "/books").status == 200
    assert "Traceback" not in second_api_server.read_log()[before:]


def test_pipelined_requests_get_responses_in_order(second_api_server: Server) -> None:
    """Requests that one client sends at once on one connection get responses in order."""
    with connect(second_api_server) as client:
        client.sendall(b"".join(b"GET /books/%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(10)))
        data = receive(client, until=b'"isbn": "9"')
        places = [data.find(b'\\"isbn\\": \\"%d\\"' % n) for n in range(10)]
        assert places == sorted(places)
        assert data.count(b"HTTP/1.1 200 OK") >= 9


def test_head_response_has_no_body_on_the_wire(second_api_server: Server) -> None:
    """The next response follows the headers at once, although these have the length of the body of GET."""
    with connect(second_api_server) as client:
        client.sendall(b"HEAD /books" + HOST + b"\r\nGET /books" + HOST + b"Connection: close\r\n\r\n")
        head, _, rest = receive(client, until=b"<end of the connection>").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Length: 0" not in head
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_expect_100_continue_is_supported(second_api_server: Server) -> None:
    """The server sends 100 Continue, unless it refuses the request without the body."""
    headers = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with connect(second_api_server) as client:
        client.sendall(POST + headers)
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(b"ab")
        assert b" 200 OK" in receive(client)
    with connect(second_api_server) as client:
        client.sendall(POST.replace(API_KEY.encode(), b"wrong") + headers)
        assert receive(client).startswith(b"HTTP/1.1 403 ")


def test_http_1_0_gets_no_100_continue(second_api_server: Server) -> None:
    """RFC 9110 10.1.1: the server ignores the expectation, since the client may not understand the response."""
    with connect(second_api_server) as client:
        client.sendall(
            POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(20)
        client.sendall(b"ab")
        assert receive(client).startswith(b"HTTP/1.0 200 OK")


def slowest_response(server: Server, context: ssl.SSLContext | None = None) -> float:
    """The slowest of twenty responses, in seconds."""
    durations = []
    for _ in range(20):
        start = time.monotonic()
        assert server.request("GET", "/books", context=context).status == 200
        durations.append(time.monotonic() - start)
    return max(durations)


def test_slow_clients_do_not_delay_others(second_api_server: Server) -> None:
    """200 clients that send a head or a body slowly delay other clients by less than a second."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(second_api_server)) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(POST + (b"Content-Length: 99\r\n\r\n" if number % 2 else b""))
        for _ in range(3):
            for number, client in enumerate(clients):
                client.sendall(b"x" if number % 2 else b"X-A: b\r\n")
            assert slowest_response(second_api_server) < 1


def test_idle_tls_connections_do_not_delay_others(tmp_path: Path) -> None:
    """50 connections without a handshake delay other clients by less than a second."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem"
    options = "-out crt.pem -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    servers.run(*command.split(), *options.split(), cwd=tmp_path)
    files = {"tls_certificate": str(tmp_path / "crt.pem"), "tls_key": str(tmp_path / "key.pem")}
    context = ssl.create_default_context(cafile=str(tmp_path / "crt.pem"))
    with (
        second_api.gateway_server(tmp_path, second_api.document(), **files) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(50):
            stack.enter_context(connect(server))
        assert slowest_response(server, context) < 1
        with connect(server) as client:  # plain HTTP is not served
            client.sendall(b"GET /books HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not receive(client).startswith(b"HTTP/1.1 200")


def test_unauthenticated_bodies_use_little_memory(tmp_path: Path) -> None:
    """Bodies of any size that the operation does not accept are refused unread; a mock discards them."""
    head = b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n"
    options = ("--ephemeral", "--no-usage-plan")
    with servers.certlet_server(tmp_path, *options) as server, contextlib.ExitStack() as stack:
        (gateway,) = server.pids("server")
        before = servers.resident_kib(gateway)
        for _ in range(20):
            client = stack.enter_context(connect(server))
            client.sendall(head)
            client.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ConnectionError):  # the server may disconnect
                for _ in range(100):
                    client.sendall(b"x" * 99_000)
        assert servers.resident_kib(gateway) - before < 20_000
        for size in (1, 20_000, 2_000_000):
            assert_problem(server.request("GET", "/health", b"x" * size), 400, "malformed")
            assert server.request("GET", "/sign", b"x" * size).status == 200
        with connect(server) as client:  # an empty body is no body
            client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            time.sleep(0.1)
            client.sendall(b"0\r\n\r\n")
            assert receive(client).startswith(b"HTTP/1.1 200 ")
