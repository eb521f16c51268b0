"""The listener for monitoring while workers, clients and the server itself fail."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.gateway import monitoring
from service.keystore import ca_directory
from tests import servers
from tests.gateway import second_api
from tests.gateway.test_monitoring import listener, scrape
from tests.servers import API_KEY, Server, wait_until


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers and a listener for monitoring."""
    options = ("--metrics", "0", "--workers", "2", "--no-usage-plan")
    with servers.certlet_server(tmp_path_factory.mktemp("monitored"), *options) as server:
        yield server


def test_replaced_worker_is_counted(monitored: Server) -> None:
    """Until there is another one, a worker is missing: here until the CA's key is back."""
    key = monitored.log.parent / "ca" / ca_directory.SIGNING_KEY
    before = scrape(monitored)["certlet_worker_restarts_total function"]
    key.rename(key.with_suffix(".away"))
    try:
        os.kill(monitored.pids("worker")[0], signal.SIGKILL)
        wait_until(lambda: scrape(monitored)["certlet_workers function"] == 1)
        assert scrape(monitored)["certlet_workers_configured function"] == 2
    finally:
        key.with_suffix(".away").rename(key)
    wait_until(lambda: scrape(monitored)["certlet_workers function"] == 2)
    assert scrape(monitored)["certlet_worker_restarts_total function"] == before + 1


def test_server_without_responding_workers_is_not_ready(monitored: Server) -> None:
    """It is alive, and its metrics are available. What was known about the CA still is."""
    end = scrape(monitored)["certlet_ca_not_after_timestamp_seconds"]
    workers = monitored.pids("worker")
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(monitoring.INTERVAL)
        start = time.monotonic()
        response = listener(monitored).request("GET", "/readyz")
        assert (response.status, response.body) == (503, b"no worker responds\n")
        assert time.monotonic() - start < 4
        assert listener(monitored).request("GET", "/livez").status == 200
        values = scrape(monitored)
        assert (values["certlet_ready"], values["certlet_ca_not_after_timestamp_seconds"]) == (0, end)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: listener(monitored).request("GET", "/readyz").status == 200)


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed a connection, perhaps after a response."""
    client.settimeout(0)
    try:
        while client.recv(1024):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_many_connections_do_not_delay_clients_and_probes(monitored: Server) -> None:
    """At the limit, the connection that waits longest is closed. Clients have connections of their own."""
    port = int(listener(monitored).url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        idle = []
        head = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
        for text in (b"", head, head + b"\r\n") * monitoring.MAX_CONNECTIONS:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            client.sendall(text)
            if text.endswith(b"\r\n\r\n"):
                assert client.recv(12) == b"HTTP/1.1 200"
            idle.append(client)
        assert listener(monitored).request("GET", "/livez").status == 200
        assert monitored.request("GET", "/health").status == 200
        closed = sum(is_closed(client) for client in idle)
        assert closed >= 2 * monitoring.MAX_CONNECTIONS


def test_stopping_server_is_alive_but_not_ready(tmp_path: Path) -> None:
    """The listener responds until the requests in progress have their responses."""
    event: dict[str, Any] = {"path": "/books", "queryStringParameters": None, "requestContext": {}}
    head = f"POST /books HTTP/1.1\r\nHost: x\r\nx-api-key: {API_KEY}\r\nContent-Length: 2\r\n\r\n"
    with (
        second_api.gateway_server(tmp_path, second_api.document(), probe_events={"health": event}) as server,
        socket.create_connection(("127.0.0.1", server.port), 20) as client,
    ):
        probes = listener(server)
        assert probes.request("GET", "/readyz").body == b"ok\n"
        client.sendall(head.encode() + b"x")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: probes.request("GET", "/readyz").body == b"the server is stopping\n")
        assert probes.request("GET", "/readyz").status == 503
        assert probes.request("GET", "/livez").status == 200
        assert b"certlet_http_connections 1.0" in probes.request("GET", "/metrics").body
        client.sendall(b"x")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(20) == 0
