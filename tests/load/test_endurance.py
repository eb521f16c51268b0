"""Tests that take long: 100,000 requests, and the renewal of the server's certificate."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from tests import servers
from tests.est.devices import client_context, server_certificate
from tests.gateway import second_api


async def _flood(port: int, request: bytes, requests: int, connections: int) -> int:
    """Send a request many times, in pipelines of 50; count the responses, all of the same length."""

    async def send(count: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        responses = 0
        while responses < count:
            batch = min(50, count - responses)
            writer.write(request * batch)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            rest = await reader.readexactly(length + (len(head) + length) * (batch - 1))
            assert rest.count(head.partition(b"\r")[0] + b"\r\n") == batch - 1
            responses += batch
        writer.close()
        await writer.wait_closed()
        return responses

    return sum(await asyncio.gather(*(send(requests // connections) for _ in range(connections))))


def test_memory_is_constant_over_100000_requests(
    tmp_path: Path, report_figures: Callable[[str], None]
) -> None:
    """90,000 responses of the gateway and 10,000 of the function do not increase the resident memory."""
    with second_api.gateway_server(tmp_path, second_api.document()) as server:
        gateway_request = b"DELETE /books HTTP/1.1\r\nHost: x\r\n\r\n"
        function_request = b"GET /books?do=png HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\n\r\n"
        processes = servers.child_pids(server.process.pid)
        asyncio.run(_flood(server.port, gateway_request, 5_000, 5))
        asyncio.run(_flood(server.port, function_request, 1_000, 5))
        before = [servers.resident_kib(pid) for pid in processes]
        assert asyncio.run(_flood(server.port, gateway_request, 90_000, 5)) == 90_000
        assert asyncio.run(_flood(server.port, function_request, 10_000, 5)) == 10_000
        after = [servers.resident_kib(pid) for pid in processes]
        report_figures(f"resident KiB, gateway and function: {before} before, {after} after 100,000 requests")
        assert all(end < start * 1.1 + 4096 for start, end in zip(before, after, strict=True))


def test_server_certificate_is_renewed_without_restart(tmp_path: Path) -> None:
    """The server renews its certificate after two thirds of the validity; open connections continue."""
    (tmp_path / "profiles.yaml").write_text("profiles: {server: {validity: PT1M, backdate: PT0S}}")
    with servers.certlet_server(
        tmp_path, "--tls", "--tls-name", "localhost", "--profiles", "profiles.yaml"
    ) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        first = server_certificate(server)
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            client_context(server).wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            servers.wait_until(lambda: server_certificate(server) != first, 60)
            second = server_certificate(server)
            assert second.serial_number != first.serial_number
            assert second.public_key() == first.public_key()
            assert second.not_valid_before_utc < first.not_valid_after_utc
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert server.read_log().count('"event":"result"') == 2
