"""The gateway's end of the channel, with the test in the place of workers and supervisor."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.gateway import worker, worker_pool
from service.gateway.routes import GatewayError
from service.gateway.worker_pool import WorkerPool


class Site:
    """A pool, the workers' end of its channel, and one worker's slot."""

    def __init__(self) -> None:
        end, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(5)
        self.pool, self.sockets = WorkerPool(end), (end, self.end)
        self.slot, descriptor = worker.create_slot()
        self.send(worker.NUMBER.pack(0), descriptor)

    def call(self, name: str = "x", timeout: float = 5) -> asyncio.Task[Any]:
        """A call, under way."""

        async def outcome() -> Any:
            try:
                return await self.pool.invoke({"name": name}, timeout)
            except GatewayError as error:
                return error.kind

        return asyncio.create_task(outcome())

    async def begin(self) -> tuple[int, str]:
        """Begin the next call: its number and name."""
        await asyncio.sleep(0.02)
        packet = worker.receive(self.end)
        assert packet
        self.slot[0] = packet.number
        return packet.number, worker.decode(packet)["event"]["name"]

    def respond(self, number: int, **message: Any) -> None:
        """End a call."""
        worker.send(self.end, worker.encode(number, message))
        self.slot[0] = 0

    def send(self, data: bytes, *descriptors: int) -> None:
        """Any packet."""
        socket.send_fds(self.end, [data], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def run(scenario: Callable[[Site], Awaitable[None]]) -> None:
    """One scenario, to its end."""

    async def whole() -> None:
        site = Site()
        try:
            await asyncio.wait_for(scenario(site), 20)
        finally:
            asyncio.get_running_loop().remove_reader(site.sockets[0])
            for end in site.sockets:
                end.close()

    asyncio.run(whole())


def test_responses_are_matched_by_number() -> None:
    """Workers end calls in any order; a response to a call that is unknown, or is over, is ignored."""

    async def scenario(site: Site) -> None:
        calls = [site.call(str(index)) for index in range(2)]
        first, second = await site.begin(), await site.begin()
        site.respond(99, result="nobody's")
        site.respond(second[0], result=second[1])
        site.respond(second[0], failed=True)
        site.respond(first[0], result=first[1])
        assert await asyncio.gather(*calls) == ["0", "1"]
        timed_out = site.call()
        site.respond((await site.begin())[0], timed_out=True)
        assert await timed_out == "INTEGRATION_TIMEOUT"

    run(scenario)


def memfd(data: bytes) -> int:
    """A memfd without seals."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def descriptors() -> int:
    """How many this process has, without those of earlier tests."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def pipe() -> int:
    """A pipe, to read which would block."""
    reading, writing = os.pipe()
    os.close(writing)
    return reading


@pytest.mark.parametrize(
    "packet",
    [
        lambda: (b"nonsense",),
        lambda: (b'{"result"',),
        lambda: (b"[]",),
        lambda: (b"{}",),
        lambda: (b'{"failed": true}',),
        lambda: (b"\xff",),
        lambda: (b"", memfd(b'{"result": 1}')),  # a slot, and not even that
        lambda: (b"?", memfd(b'{"result": 1}')),
        lambda: (b"?", memfd(b"")),
        lambda: (b"?", pipe()),
    ],
)
def test_malformed_response_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, packet: Callable[[], tuple[Any, ...]]
) -> None:
    """The caller gets an error, the next caller a response, and no descriptor is left open."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.2)

    async def scenario(site: Site) -> None:
        await asyncio.sleep(0.02)
        before = descriptors()
        call = site.call()
        number, _ = await site.begin()
        data, *passed = packet()
        site.send(worker.NUMBER.pack(number) + data, *passed)
        site.slot[0] = 0
        assert await asyncio.wait_for(call, 1) == ("DEFAULT_5XX" if data else "INTEGRATION_FAILURE")
        call = site.call()
        site.respond((await site.begin())[0], result=1)
        assert await call == 1
        assert descriptors() == before

    run(scenario)


@pytest.mark.parametrize("packet", [b"short", b"\1" + bytes(7) + b" " * worker.MAX_PACKET])
def test_packet_without_a_call_is_ignored(packet: bytes) -> None:
    """What has no number, or not all of its data, changes nothing."""

    async def scenario(site: Site) -> None:
        call = site.call()
        number, _ = await site.begin()
        site.send(packet)
        site.respond(number, result=1)
        assert await call == 1

    run(scenario)


def test_queued_call_is_refused_after_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second, unless it has begun; what has begun has its whole time-out, and no more than that."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.2)
    monkeypatch.setattr(worker_pool, "GRACE", 0.1)

    async def scenario(site: Site) -> None:
        begun, waiting = site.call(timeout=0.5), site.call()
        started = time.monotonic()
        await site.begin()
        assert await waiting == "INTEGRATION_FAILURE"
        assert 0.15 < time.monotonic() - started < 0.5
        assert await begun == "INTEGRATION_TIMEOUT"  # its worker was stopped, say, and not ended
        assert time.monotonic() - started > 0.75

    run(scenario)


def test_response_received_late_by_the_gateway_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was answered in time is not refused because the gateway reads the response late."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.1)

    async def scenario(site: Site) -> None:
        call = site.call()
        number, _ = await site.begin()
        site.respond(number, result=1)
        time.sleep(0.5)  # noqa: ASYNC251 - the whole gateway stands still
        assert await call == 1

    run(scenario)


def test_slot_of_a_new_worker_is_read_before_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot of a worker is read before any call is refused that it has begun."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.1)

    async def scenario(site: Site) -> None:
        call = site.call()
        site.slot, descriptor = worker.create_slot()
        number, _ = await site.begin()
        site.send(worker.NUMBER.pack(0), descriptor)
        time.sleep(0.5)  # noqa: ASYNC251 - as above
        await asyncio.sleep(0.1)
        site.respond(number, result=1)
        assert await call == 1

    run(scenario)


@pytest.mark.parametrize("body", ["", "two\r\nlines", "ä😀", "half a pair: \ud83d", "x" * 10_000_000])
def test_channel_transfers_any_text(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Of any size, there and back."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 10)

    async def scenario(site: Site) -> None:
        call = site.call(body)
        number, name = await site.begin()
        assert name == body
        await asyncio.to_thread(site.respond, number, result={"body": body})
        assert await call == {"body": body}

    run(scenario)


def test_calls_wait_for_room_in_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sent in their order as room is made; one that was refused meanwhile is not."""

    async def scenario(site: Site) -> None:
        monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 10)
        names = [f"{index:03}" + "x" * 20_000 for index in range(60)]
        calls = [site.call(name) for name in names]
        for name in names:
            number, received = await site.begin()
            assert received == name
            site.respond(number, result=received)
        assert await asyncio.gather(*calls) == names
        monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.1)
        refused = await asyncio.gather(*(site.call(name) for name in names))
        assert refused == ["INTEGRATION_FAILURE"] * len(names)
        monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 10)
        last = site.call("last")
        while (call := await site.begin())[1] != "last":
            names.remove(call[1])
        assert len(names) > 30  # which were never sent
        site.respond(call[0], result=1)
        assert await last == 1

    run(scenario)


def test_closed_channel_refuses_calls_without_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are refused, and the gateway does not run in circles."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.3)

    async def scenario(site: Site) -> None:
        site.end.close()
        await asyncio.sleep(0.05)
        used = time.process_time()
        assert await site.call() == "INTEGRATION_FAILURE"
        assert time.process_time() - used < 0.15

    run(scenario)


def test_unsealed_slot_is_not_mapped() -> None:
    """A mapping that loses its memory would end the gateway; and a packet without one changes nothing."""

    async def scenario(site: Site) -> None:
        site.send(worker.NUMBER.pack(1), memfd(bytes(8)))
        site.send(worker.NUMBER.pack(1))
        await asyncio.sleep(0.02)
        maps = await asyncio.to_thread(Path("/proc/self/maps").read_text)
        assert ("memfd:slot" in maps, "memfd:test" in maps) == (True, False)

    run(scenario)
