"""Clients that keep others out: by silence, half a request, or many of them."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import serving
from tests.est.devices import trusting
from tests.serving import Server

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
    options = ("--tls", "--unlimited") if request.param == "https" else ("--unlimited",)
    with serving.serving(tmp_path_factory.mktemp("narrow"), *options) as server:
        (pid,) = server.pids("server")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield server


@pytest.mark.parametrize("stall", STALLS)
def test_clients_that_stall_keep_nobody_out(narrow: Server, stall: str) -> None:
    """More of them than there are descriptors, over TLS and without: others are answered, and none run out."""
    (pid,) = narrow.pids("server")
    context = trusting(narrow) if narrow.url.startswith("https") else None
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
    assert "Traceback" not in narrow.logged()
