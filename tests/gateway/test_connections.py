"""The limits of client connections, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest
from aiohttp import web

from service.gateway import connections
from service.gateway.connections import Connection, Connections, Listener
from tests import csrs, servers
from tests.gateway.test_failure_modes import connect
from tests.servers import API_KEY

DESCRIPTORS = 240
HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost: a\r\n"
WHOLE = HALF_A_HEAD + b"\r\n"


def is_open(client: socket.socket) -> bool:
    """Whether the server keeps the connection open."""
    client.setblocking(False)  # noqa: FBT003 - a standard library signature
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_idle_connections_are_closed_at_the_limit(tmp_path: Path) -> None:
    """Idle clients, with half a request or none, do not delay other clients or end an upload."""
    limited = ["bash", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "bash"]
    command = [*limited, *servers.SERVE, "--port", "0"]
    body = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
    head = f"POST /sign.pem HTTP/1.1\r\nHost: a\r\nx-api-key: {API_KEY}\r\nContent-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\n\r\n"
    options = ("--ephemeral", "--no-usage-plan")
    with (
        servers.certlet_server(tmp_path, *options, command=command) as server,
        contextlib.ExitStack() as stack,
    ):
        upload = stack.enter_context(connect(server))
        upload.sendall(head.encode() + body[:100])
        idle = []
        for number in range(3 * DESCRIPTORS):
            idle.append(stack.enter_context(connect(server)))
            idle[-1].sendall(HALF_A_HEAD if number % 2 else b"")
            if number % 20 == 0:
                start = time.monotonic()
                assert server.request("GET", "/health").status == 200
                assert time.monotonic() - start < 1
        upload.sendall(body[100:])
        assert upload.recv(100).startswith(b"HTTP/1.1 200")
        limit = DESCRIPTORS - connections.RESERVED_FDS
        opened = [is_open(client) for client in idle]
        assert not any(opened[: -limit - 5])
        assert all(opened[-limit + 5 :])
        assert "Traceback" not in server.read_log()


@contextlib.asynccontextmanager
async def listening(limit: int) -> AsyncIterator[int]:
    """Run a server with this limit of connections, and yield its port."""

    async def respond(request: web.BaseRequest) -> web.Response:
        connection = cast("Connection", request.protocol)
        all_connections.mark_busy(connection)
        all_connections.mark_waiting(connection, all_connections.idle)
        return web.Response(text="x")

    def create(client: socket.socket) -> Connection:
        return Connection(manager, all_connections, lambda *_: web.Response(status=400), client)

    all_connections, manager = Connections(lambda: limit), web.Server(respond)
    listener = Listener(all_connections, create)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listener.open([server.detach()])
    yield port
    listener.close()
    await manager.shutdown(0)


def test_idle_connection_is_closed_after_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout applies without a request, within a request's head, and after a response."""
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", 0.3)

    async def scenario() -> None:
        async with listening(9) as port:
            clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            (_, silent), (_, half), (_, once), (reader, busy) = clients
            assert silent
            half.write(HALF_A_HEAD)
            once.write(WHOLE)
            for _ in range(8):
                busy.write(WHOLE)
                assert await reader.readuntil(b"\r\n\r\nx")
                await asyncio.sleep(0.1)
            for idle, _ in clients[:3]:
                data = await asyncio.wait_for(idle.read(), 0.01)
                assert b"HTTP" not in data.replace(b"HTTP/1.1 200", b"")
            assert not reader.at_eof()
            assert await asyncio.wait_for(reader.read(), 2) == b""
            for _, writer in clients:
                writer.close()

    asyncio.run(scenario())


def test_longest_idle_connection_is_closed_first() -> None:
    """A connection is idle since its last response, or since it was opened."""

    async def scenario() -> None:
        async with listening(3) as port:
            clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            reader, writer = clients[0]
            writer.write(WHOLE)
            await reader.readuntil(b"\r\n\r\nx")
            clients.append(await asyncio.open_connection("127.0.0.1", port))
            await asyncio.sleep(0.05)
            assert [reader.at_eof() for reader, _ in clients] == [False, True, False, False]
            clients += [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await asyncio.sleep(0.05)
            assert [reader.at_eof() for reader, _ in clients] == [True, True, True, False, False, False]
            for _, writer in clients:
                writer.close()

    asyncio.run(scenario())


def test_accept_without_free_descriptors_closes_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener then accepts again after a pause."""

    async def scenario() -> None:
        async with listening(9) as port:
            silent, first = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.05)
            accept = Mock(side_effect=[OSError(errno.EMFILE, ""), *[BlockingIOError()] * 2])
            monkeypatch.setattr(socket.socket, "accept", accept)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(silent.read(), 5) == b""
            monkeypatch.undo()
            writer.write(WHOLE)
            assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\nx"), 5)
            first.close()
            writer.close()

    asyncio.run(scenario())


class Group:
    """Connections without sockets, and the names of those that were closed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.connections = Connections(lambda: self.limit)
        self.dropped: list[str] = []

    def admit(self, name: str) -> Connection:
        """Admit a connection."""
        connection = Mock(spec=Connection, drop=lambda: self.dropped.append(name))
        if not self.connections.admit(connection):
            self.dropped.append(name)
        return connection


def test_oldest_connection_of_largest_group_is_closed() -> None:
    """Connections with a request in progress stay open, even if no others are left or the limit decreases."""
    group = Group(5)
    all_connections = group.connections
    uploads, idle = [group.admit(name) for name in "abc"], [group.admit(name) for name in "xy"]
    for connection in uploads:
        all_connections.mark_busy(connection)
        all_connections.mark_waiting(connection, all_connections.uploads)
    group.admit("z")
    assert group.dropped == ["a"]
    group.admit("0")
    assert group.dropped == ["a", "x"]
    all_connections.remove(idle[1])
    all_connections.mark_waiting(uploads[1], all_connections.responses)
    all_connections.mark_waiting(uploads[0], all_connections.responses)  # which is already closed
    group.limit = 2
    all_connections.mark_busy(uploads[2])
    group.admit("1")
    assert group.dropped == ["a", "x", "z", "0", "b"]
    for name in "23":
        all_connections.mark_busy(group.admit(name))
    assert group.dropped == ["a", "x", "z", "0", "b", "1", "3"]


def test_partial_requests_share_a_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the largest is closed; closed connections and complete requests do not count."""
    monkeypatch.setattr(connections, "MAX_PARTIAL", 10)
    group = Group(9)
    all_connections = group.connections
    head, upload, small, whole = (group.admit(name) for name in "abcd")
    for connection in (upload, small, whole):
        all_connections.mark_waiting(connection, all_connections.uploads)
    all_connections.add_partial(whole, all_connections.uploads, 9)
    all_connections.mark_busy(whole)
    all_connections.add_partial(whole, all_connections.uploads, 9)
    all_connections.add_partial(head, all_connections.idle, 5)
    all_connections.add_partial(upload, all_connections.uploads, 4)
    assert group.dropped == []
    all_connections.add_partial(small, all_connections.uploads, 2)
    assert group.dropped == ["a"]
    all_connections.add_partial(upload, all_connections.uploads, 6)
    assert group.dropped == ["a", "b"]


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(100, 1000, (1000 - connections.RESERVED_FDS, 1000)), (100, 100, (connections.MIN_CONNECTIONS, 100)), (5000, 9000, (connections.MAX_CONNECTIONS, 5000))],
)  # fmt: skip
def test_connection_limit_follows_the_descriptor_limit(
    soft: int, hard: int, expected: tuple[int, int]
) -> None:
    """It is the hard limit minus a reserve, between a minimum and a maximum."""
    code = (
        "import resource; from service.gateway import connections\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print((connections.connection_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]))"
    )
    assert servers.run(sys.executable, "-c", code).stdout.strip() == str(expected)
