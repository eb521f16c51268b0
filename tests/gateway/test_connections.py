"""How long a client's connection may be idle, and how many there may be: on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from service.gateway import connections
from service.gateway.connections import Connection, Connections
from tests import csrs, serving
from tests.gateway.test_faults import connect
from tests.serving import API_KEY, CERTLET

DESCRIPTORS = 240
HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost: a\r\n"
WHOLE = HALF_A_HEAD + b"\r\n"


def is_open(client: socket.socket) -> bool:
    """Whether the server has not closed it."""
    client.setblocking(False)  # noqa: FBT003 - the standard library's own
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_connections_that_are_idle_make_room(tmp_path: Path) -> None:
    """However many say nothing, or half of it, others are answered at once, and what is under way is finished."""
    limited = ["bash", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "bash"]
    command = [*limited, *CERTLET, "serve", "--port", "0"]
    body = csrs.pem(csrs.build(sans=["dns:a.example.com"]))
    head = f"POST /sign.pem HTTP/1.1\r\nHost: a\r\nx-api-key: {API_KEY}\r\nContent-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\n\r\n"
    options = ("--ephemeral", "--unlimited")
    with serving.serving(tmp_path, *options, command=command) as server, contextlib.ExitStack() as stack:
        under_way = stack.enter_context(connect(server))
        under_way.sendall(head.encode() + body[:100])
        held = []
        for number in range(3 * DESCRIPTORS):
            held.append(stack.enter_context(connect(server)))
            held[-1].sendall(HALF_A_HEAD if number % 2 else b"")
            if number % 20 == 0:
                began = time.monotonic()
                assert server.request("GET", "/health").status == 200
                assert time.monotonic() - began < 1
        under_way.sendall(body[100:])
        assert under_way.recv(100).startswith(b"HTTP/1.1 200")
        most = DESCRIPTORS - connections.RESERVED_FDS
        opened = [is_open(each) for each in held]
        assert not any(opened[: -most - 5])
        assert all(opened[-most + 5 :])
        assert "Traceback" not in server.logged()


@contextlib.asynccontextmanager
async def listening(most: int) -> AsyncIterator[int]:
    """A server with these connections; its port."""

    async def answer(request: web.BaseRequest) -> web.Response:
        counted.mark_busy(request.protocol)
        counted.mark_idle(request.protocol)
        return web.Response(text="x")

    def made() -> Connection:
        return Connection(manager, counted, lambda: web.Response(status=400))

    counted, manager = Connections(most), web.Server(answer)
    async with await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await manager.shutdown(0)


def test_an_idle_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word, with half a head, or after an answer; but not while there are requests."""
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", 0.3)

    async def story() -> None:
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
                said = await asyncio.wait_for(idle.read(), 0.01)
                assert b"HTTP" not in said.replace(b"HTTP/1.1 200", b"")
            assert not reader.at_eof()
            assert await asyncio.wait_for(reader.read(), 2) == b""
            for _, writer in clients:
                writer.close()

    asyncio.run(story())


def test_the_one_that_is_idle_longest_makes_room() -> None:
    """Which is the one whose last answer is the oldest, not the one that came first."""

    async def story() -> None:
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

    asyncio.run(story())


@pytest.mark.parametrize(
    ("soft", "hard", "said"),
    [(100, 1000, (1000 - connections.RESERVED_FDS, 1000)), (100, 100, (connections.MIN_CONNECTIONS, 100)), (5000, 9000, (connections.MAX_CONNECTIONS, 5000))],
)  # fmt: skip
def test_the_bound_follows_the_descriptors(soft: int, hard: int, said: tuple[int, int]) -> None:
    """As many as the hard limit gives, less a reserve; never more than the bound, and a few at least."""
    code = (
        "import resource; from service.gateway import connections\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print((connections.connection_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]))"
    )
    assert serving.run(sys.executable, "-c", code).stdout.strip() == str(said)
