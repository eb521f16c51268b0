"""Clients that keep others out: by silence, by half a request, or by many; and bodies that look like templates."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from tests import csrs, servers
from tests.assertions import assert_problem
from tests.est.devices import (
    EST,
    PKCS10,
    basic_auth,
    client_context,
    encode_body,
    forge_certificate,
    load_issuer,
)
from tests.servers import API_KEY, Server

DESCRIPTORS = 150
HEAD = b"POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: a\r\n"
STALLS = {
    "connected": b"",
    "begun a handshake": b"\x16\x03\x01\x02",
    "sent half a head": HEAD,
    "sent half a body": HEAD + b"Content-Length: 9\r\n\r\nMII",
    "sent half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nMII",
    "not read the answer": b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.fixture(scope="module", params=["http", "https"])
def narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a usage plan, whose gateway may have few descriptors from some moment on."""
    options = ("--tls", "--no-usage-plan") if request.param == "https" else ("--no-usage-plan",)
    with servers.certlet_server(tmp_path_factory.mktemp("narrow"), *options) as server:
        (pid,) = server.pids("server")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield server


@pytest.mark.parametrize("stall", STALLS)
def test_clients_that_stall_keep_nobody_out(narrow: Server, stall: str) -> None:
    """More of them than there are descriptors, over TLS and without: others are answered, and none run out."""
    (pid,) = narrow.pids("server")
    context = client_context(narrow) if narrow.url.startswith("https") else None
    is_encrypted = context and STALLS[stall][:1] not in (b"", b"\x16")
    url = urlsplit(narrow.url)
    with contextlib.ExitStack() as stack:
        for _ in range(DESCRIPTORS + 20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect((url.hostname, url.port))
            if context and is_encrypted:
                client = context.wrap_socket(client, server_hostname=url.hostname)
            stack.enter_context(client).sendall(STALLS[stall])
        began = time.monotonic()
        assert narrow.request("GET", "/health", context=context).status == 200
        assert time.monotonic() - began < 5
        assert len([*Path(f"/proc/{pid}/fd").iterdir()]) < DESCRIPTORS - 30  # for files and messages
    assert "Traceback" not in narrow.read_log()


TEMPLATE = b'#set($x = 7 * 191)$x $context.identity.sourceIp {"statusCode": 204}'
PLAIN = "Text/PLAIN; charset=utf-8"
TYPES = ["", "application/json", PLAIN, ";", "application/json;a=b", "text/plain;#set($x=1)"]
JOINED = "application/json, text/plain"
OTHER_TYPES = ["image/png", "text/html", "*/*", JOINED, "$context.path", "application/"]


@pytest.mark.parametrize(
    ("media_type", "status"), [*((each, 405) for each in TYPES), *((each, 415) for each in OTHER_TYPES)]
)
def test_a_body_is_no_template(server: Server, media_type: str, status: int) -> None:
    """What a mock answers has nothing of the request's body in it, whatever its type; and 415 is of the type only."""
    answer = server.request(
        "PUT", "/sign", TEMPLATE, {"Content-Type": media_type, "User-Agent": TEMPLATE.decode()}
    )
    assert_problem(answer, status, "methodNotAllowed" if status == 405 else "unsupportedMediaType")
    assert not [part for part in (b"1337", b"#set", b"127.0.0.1") if part in answer.body]
    empty = server.request("PUT", "/sign", b"", {"Content-Type": media_type})
    assert {**answer.json(), "instance": ""} == {**empty.json(), "instance": ""}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the contract's usage plan."""
    with servers.certlet_server(tmp_path_factory.mktemp("limited"), "--tls") as server:
        yield server


def test_a_silent_connection_takes_little_memory(limited: Server) -> None:
    """100 KB over TLS; 4,096 of them took 1.2 GB."""
    (pid,), url = limited.pids("server"), urlsplit(limited.url)
    before = servers.resident_kib(pid)
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection((url.hostname, url.port), 10))
        servers.wait_until(lambda: len([*Path(f"/proc/{pid}/fd").iterdir()]) > 400)
        assert limited.request("GET", "/ca.crl", context=client_context(limited)).status == 200
        assert servers.resident_kib(pid) - before < 400 * 200


def flood(
    server: Server,
    path: str,
    headers: str = "",
    source: str = "127.0.0.1",
    client: x509.Certificate | None = None,
) -> list[int]:
    """Send a hundred requests at once; returns the statuses of the answers."""
    url = urlsplit(server.url)
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode()
    with (
        socket.create_connection((str(url.hostname), int(url.port or 0)), 30, (source, 0)) as plain,
        client_context(server, client).wrap_socket(plain, server_hostname=url.hostname) as connection,
    ):
        connection.sendall(request * 99 + request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", answers)]


def test_one_client_uses_up_nobody_else_s_plan(limited: Server) -> None:
    """Not that of another address, of a client certificate, or of a key; and the CRL is answered to all."""
    certificates = [
        forge_certificate(load_issuer(limited.log.parent / "ca"), age=timedelta(days=days))
        for days in (30, 40)
    ]
    assert set(flood(limited, "/profiles?")) == {200, 429}
    assert set(flood(limited, "/ca.crl")) == {200}
    assert flood(limited, "/profiles?", source="127.0.0.2").count(200) >= 20
    assert set(flood(limited, "/profiles?", client=certificates[0])) == {200, 429}
    renewal, path = encode_body(csrs.build("device.example.com")), EST + "/simplereenroll"
    context = client_context(limited, certificates[1])
    assert limited.request("POST", path, renewal, {"Content-Type": PKCS10}, context).status == 200
    answer = limited.request("GET", "/profiles/mine", None, {"x-api-key": API_KEY}, client_context(limited))
    assert answer.status == 200


def test_the_crl_is_answered_while_no_worker_is_free(limited: Server) -> None:
    """For a minute, from the last answer; what says how the function is now is not."""
    context, (worker,) = client_context(limited), limited.pids("worker")
    assert limited.request("GET", "/ca.crl", context=context).status == 200
    os.kill(worker, signal.SIGSTOP)
    try:
        assert limited.request("GET", "/health", context=context).status == 503
        assert limited.request("GET", "/ca.crl", context=context).status == 200
    finally:
        os.kill(worker, signal.SIGCONT)


def test_wrong_keys_are_throttled_and_the_right_one_is_not(limited: Server) -> None:
    """Guesses are 403, then 429 with Retry-After. They lock neither the key nor what needs none out, anywhere."""
    wrong = f"x-api-key: {API_KEY}x\r\n"
    statuses = flood(limited, "/profiles/mine", wrong, "127.0.0.3")
    assert set(statuses) == {403, 429}
    assert statuses.count(403) >= 20
    assert set(flood(limited, "/profiles/mine", "", "127.0.0.3")) == {403}  # no key is no guess
    for headers, path in ((f"x-api-key: {API_KEY}\r\n", "/profiles/mine"), ("", "/profiles?")):
        assert flood(limited, path, headers, "127.0.0.3").count(200) >= 10
    basic_ = {"Authorization": basic_auth("wrong-password-of-a-device"), "Content-Type": PKCS10}
    asked = (
        limited.request("POST", EST + "/simpleenroll", b"x", basic_, client_context(limited))
        for _ in range(500)
    )
    answer = next(answer for answer in asked if answer.status != 401)
    assert (answer.headers["Retry-After"], assert_problem(answer, 429, "rateLimited")["status"]) == ("1", 429)
