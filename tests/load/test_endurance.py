"""What takes its time: a hundred thousand requests, and a certificate that ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from tests import servers
from tests.est.devices import client_context, server_certificate
from tests.gateway import second_api


async def _flood(port: int, request: bytes, requests: int, connections: int) -> int:
    """Send requests on several connections, fifty at a time on each, and count the answers, which are of one length."""

    async def one(count: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answered = 0
        while answered < count:
            batch = min(50, count - answered)
            writer.write(request * batch)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            others = await reader.readexactly(length + (len(head) + length) * (batch - 1))
            assert others.count(head.partition(b"\r")[0] + b"\r\n") == batch - 1
            answered += batch
        writer.close()
        await writer.wait_closed()
        return answered

    return sum(await asyncio.gather(*(one(requests // connections) for _ in range(connections))))


def test_memory_is_constant_over_100000_requests(tmp_path: Path, say: Callable[[str], None]) -> None:
    """90,000 answers of the gateway's own and 10,000 of the function leave its memory where it was."""
    with second_api.gateway_server(tmp_path, second_api.document()) as server:
        refused = b"DELETE /books HTTP/1.1\r\nHost: x\r\n\r\n"
        function = b"GET /books?do=png HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\n\r\n"
        processes = servers.child_pids(server.process.pid)
        asyncio.run(_flood(server.port, refused, 5_000, 5))
        asyncio.run(_flood(server.port, function, 1_000, 5))
        before = [servers.resident_kib(pid) for pid in processes]
        assert asyncio.run(_flood(server.port, refused, 90_000, 5)) == 90_000
        assert asyncio.run(_flood(server.port, function, 10_000, 5)) == 10_000
        after = [servers.resident_kib(pid) for pid in processes]
        say(f"resident KiB, gateway and function: {before} before, {after} after 100,000 requests")
        assert all(then < now * 1.1 + 4096 for now, then in zip(before, after, strict=True))


def test_server_certificate_is_renewed_without_restart(tmp_path: Path) -> None:
    """After two thirds of a minute the server shows another certificate, and a connection goes on meanwhile."""
    (tmp_path / "own.yaml").write_text("profiles: {server: {validity: PT1M, backdate: PT0S}}")
    with servers.certlet_server(
        tmp_path, "--tls", "--tls-name", "localhost", "--profiles", "own.yaml"
    ) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        first = server_certificate(server)
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            client_context(server).wrap_socket(plain, server_hostname="localhost") as kept,
        ):
            servers.wait_until(lambda: server_certificate(server) != first, 60)
            second = server_certificate(server)
            assert second.serial_number != first.serial_number
            assert second.public_key() == first.public_key()
            assert second.not_valid_before_utc < first.not_valid_after_utc
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert kept.recv(100).startswith(b"HTTP/1.1 200")
        assert server.read_log().count('"event":"result"') == 2
