"""Denial of service by stalled or numerous clients, and template injection into mock responses."""

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
    "partial handshake": b"\x16\x03\x01\x02",
    "refused handshake": b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    "partial head": HEAD,
    "partial body": HEAD + b"Content-Length: 9\r\n\r\nMII",
    "partial chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nMII",
    "unread response": b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.fixture(scope="module", params=["http", "https"])
def few_descriptors_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server without a usage plan, whose gateway may open few file descriptors."""
    options = ("--tls", "--no-usage-plan") if request.param == "https" else ("--no-usage-plan",)
    with servers.certlet_server(tmp_path_factory.mktemp("few-descriptors"), *options) as server:
        (pid,) = server.pids("server")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield server


@pytest.mark.parametrize("stall", STALLS)
def test_stalled_clients_do_not_block_others(few_descriptors_server: Server, stall: str) -> None:
    """More stalled clients than file descriptors leave enough for others, with TLS and without."""
    (pid,) = few_descriptors_server.pids("server")
    context = (
        client_context(few_descriptors_server) if few_descriptors_server.url.startswith("https") else None
    )
    is_encrypted = context and STALLS[stall][:1] not in (b"", b"\x16")
    url = urlsplit(few_descriptors_server.url)
    with contextlib.ExitStack() as stack:
        for _ in range(DESCRIPTORS + 20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect((url.hostname, url.port))
            if context and is_encrypted:
                client = context.wrap_socket(client, server_hostname=url.hostname)
            stack.enter_context(client).sendall(STALLS[stall])
        start = time.monotonic()
        assert few_descriptors_server.request("GET", "/health", context=context).status == 200
        assert time.monotonic() - start < 5
        assert (
            len([*Path(f"/proc/{pid}/fd").iterdir()]) < DESCRIPTORS - 30
        )  # the rest is for files and sockets to workers
    assert "Traceback" not in few_descriptors_server.read_log()


TEMPLATE = b'#set($x = 7 * 191)$x $context.identity.sourceIp {"statusCode": 204}'
PLAIN_TEXT = "Text/PLAIN; charset=utf-8"
TYPES = ["", "application/json", PLAIN_TEXT, ";", "application/json;a=b", "text/plain;#set($x=1)"]
TWO_TYPES = "application/json, text/plain"
OTHER_TYPES = ["image/png", "text/html", "*/*", TWO_TYPES, "$context.path", "application/"]


@pytest.mark.parametrize(
    ("media_type", "status"),
    [*((media_type, 405) for media_type in TYPES), *((media_type, 415) for media_type in OTHER_TYPES)],
)
def test_mock_response_does_not_evaluate_the_body(server: Server, media_type: str, status: int) -> None:
    """A mock response contains no part of the request's body; only the media type decides about 415."""
    response = server.request(
        "PUT", "/sign", TEMPLATE, {"Content-Type": media_type, "User-Agent": TEMPLATE.decode()}
    )
    assert_problem(response, status, "methodNotAllowed" if status == 405 else "unsupportedMediaType")
    assert not [fragment for fragment in (b"1337", b"#set", b"127.0.0.1") if fragment in response.body]
    empty_response = server.request("PUT", "/sign", b"", {"Content-Type": media_type})
    assert {**response.json(), "instance": ""} == {**empty_response.json(), "instance": ""}


@pytest.fixture(scope="module")
def limited_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the contract's usage plan."""
    with servers.certlet_server(tmp_path_factory.mktemp("limited"), "--tls") as server:
        yield server


def test_idle_connection_uses_little_memory(limited_server: Server) -> None:
    """At most 200 KiB for each idle connection to a TLS port; 4,096 connections once took 1.2 GB."""
    (pid,), url = limited_server.pids("server"), urlsplit(limited_server.url)
    before = servers.resident_kib(pid)
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection((url.hostname, url.port), 10))
        servers.wait_until(lambda: len([*Path(f"/proc/{pid}/fd").iterdir()]) > 400)
        assert limited_server.request("GET", "/ca.crl", context=client_context(limited_server)).status == 200
        assert servers.resident_kib(pid) - before < 400 * 200


def flood(
    server: Server,
    path: str,
    headers: str = "",
    source: str = "127.0.0.1",
    client: x509.Certificate | None = None,
) -> list[int]:
    """Send 100 requests on one connection, and return the statuses of the responses."""
    url = urlsplit(server.url)
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode()
    with (
        socket.create_connection((str(url.hostname), int(url.port or 0)), 30, (source, 0)) as tcp_socket,
        client_context(server, client).wrap_socket(tcp_socket, server_hostname=url.hostname) as connection,
    ):
        connection.sendall(request * 99 + request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        responses = b"".join(iter(lambda: connection.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", responses)]


def test_usage_plans_of_clients_are_independent(limited_server: Server) -> None:
    """Each address, client certificate and API key has a plan of its own; the CRL has no limit."""
    certificates = [
        forge_certificate(load_issuer(limited_server.log.parent / "ca"), age=timedelta(days=days))
        for days in (5, 6)
    ]
    assert set(flood(limited_server, "/profiles?")) == {200, 429}
    assert set(flood(limited_server, "/ca.crl")) == {200}
    assert flood(limited_server, "/profiles?", source="127.0.0.2").count(200) >= 20
    assert set(flood(limited_server, "/profiles?", client=certificates[0])) == {200, 429}
    renewal, path = encode_body(csrs.build("device.example.com")), EST + "/simplereenroll"
    context = client_context(limited_server, certificates[1])
    assert limited_server.request("POST", path, renewal, {"Content-Type": PKCS10}, context).status == 200
    response = limited_server.request(
        "GET", "/profiles/mine", None, {"x-api-key": API_KEY}, client_context(limited_server)
    )
    assert response.status == 200


def test_ocsp_requests_count_for_their_address(limited_server: Server) -> None:
    """By GET and by POST, with or without a nonce; the CRL and other addresses are not affected."""
    assert set(flood(limited_server, "/ocsp/MA==", source="127.0.0.4")) == {200, 429}
    assert flood(limited_server, "/ocsp/MA==", source="127.0.0.5").count(200) >= 20
    context, headers = client_context(limited_server), {"Content-Type": "application/ocsp-request"}
    responses = (limited_server.request("POST", "/ocsp", b"x", headers, context) for _ in range(500))
    response = next(response for response in responses if response.status != 200)
    assert (response.headers["Retry-After"], assert_problem(response, 429, "rateLimited")["status"]) == (
        "1",
        429,
    )
    assert limited_server.request("GET", "/ca.crl", context=context).status == 200


def test_crl_is_served_while_all_workers_are_busy(limited_server: Server) -> None:
    """The gateway caches the CRL for a minute; it does not cache the health check."""
    context, (worker,) = client_context(limited_server), limited_server.pids("worker")
    assert limited_server.request("GET", "/ca.crl", context=context).status == 200
    os.kill(worker, signal.SIGSTOP)
    try:
        assert limited_server.request("GET", "/health", context=context).status == 503
        for method in ("GET", "HEAD"):
            assert limited_server.request(method, "/ca.crl", context=context).status == 200
    finally:
        os.kill(worker, signal.SIGCONT)


def test_only_invalid_api_keys_are_throttled(limited_server: Server) -> None:
    """Invalid keys are 403, then 429 with Retry-After. Requests with the valid key or without one still succeed."""
    invalid_key = f"x-api-key: {API_KEY}x\r\n"
    statuses = flood(limited_server, "/profiles/mine", invalid_key, "127.0.0.3")
    assert set(statuses) == {403, 429}
    assert statuses.count(403) >= 20
    assert set(flood(limited_server, "/profiles/mine", "", "127.0.0.3")) == {
        403
    }  # a request without a key is not counted as a guess
    for headers, path in ((f"x-api-key: {API_KEY}\r\n", "/profiles/mine"), ("", "/profiles?")):
        assert flood(limited_server, path, headers, "127.0.0.3").count(200) >= 10
    credentials = {"Authorization": basic_auth("wrong-password-of-a-device"), "Content-Type": PKCS10}
    responses = (
        limited_server.request(
            "POST", EST + "/simpleenroll", b"x", credentials, client_context(limited_server)
        )
        for _ in range(500)
    )
    response = next(response for response in responses if response.status != 401)
    assert (response.headers["Retry-After"], assert_problem(response, 429, "rateLimited")["status"]) == (
        "1",
        429,
    )
