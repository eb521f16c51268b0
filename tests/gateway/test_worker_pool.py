"""The gateway's end of the channel; the tests act as workers and supervisor."""

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
from service.gateway.worker_pool import PoolStatistics, WorkerPool


class Harness:
    """A pool, the workers' end of its channel, and one worker's slot."""

    def __init__(self) -> None:
        gateway_end, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(5)
        self.pool, self.sockets = WorkerPool(gateway_end), (gateway_end, self.end)
        self.slot, descriptor = worker.create_slot()
        self.send(worker.NUMBER.pack(0), descriptor)

    def call(self, name: str = "x", timeout: float = 5) -> asyncio.Task[Any]:
        """Start a call; the result is the type of the gateway response if it fails."""

        async def outcome() -> Any:
            try:
                return await self.pool.invoke({"name": name}, timeout)
            except GatewayError as error:
                return error.kind

        return asyncio.create_task(outcome())

    async def begin(self) -> tuple[int, str]:
        """Begin the next call, and return its number and name."""
        await asyncio.sleep(0.02)
        packet = worker.receive(self.end)
        assert packet
        self.slot[0] = packet.number
        return packet.number, worker.decode(packet)["event"]["name"]

    def respond(self, number: int, **message: Any) -> None:
        """Respond to a call."""
        worker.send(self.end, worker.encode(number, message))
        self.slot[0] = 0

    def send(self, data: bytes, *descriptors: int) -> None:
        """Send any packet."""
        socket.send_fds(self.end, [data], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def run_scenario(scenario: Callable[[Harness], Awaitable[None]]) -> None:
    """Run a scenario with a new harness, for at most 20 s."""

    async def main() -> None:
        harness = Harness()
        try:
            await asyncio.wait_for(scenario(harness), 20)
        finally:
            if harness.sockets[0].fileno() >= 0:
                asyncio.get_running_loop().remove_reader(harness.sockets[0])
            for end in harness.sockets:
                end.close()

    asyncio.run(main())


def test_responses_are_matched_by_number() -> None:
    """Responses arrive in any order; those to unknown and completed calls are ignored."""

    async def scenario(harness: Harness) -> None:
        calls = [harness.call(str(index)) for index in range(2)]
        first, second = await harness.begin(), await harness.begin()
        harness.respond(99, result="unknown")
        harness.respond(second[0], result=second[1])
        harness.respond(second[0], failed=True)
        harness.respond(first[0], result=first[1])
        assert await asyncio.gather(*calls) == ["0", "1"]
        timed_out = harness.call()
        harness.respond((await harness.begin())[0], timed_out=True)
        assert await timed_out == "INTEGRATION_TIMEOUT"

    run_scenario(scenario)


def create_memfd(data: bytes) -> int:
    """Create a memfd without seals."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def count_descriptors() -> int:
    """The number of this process's descriptors, after closing those of earlier tests."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def create_pipe() -> int:
    """Create a pipe, and return its reading end."""
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
        lambda: (b"", create_memfd(b'{"result": 1}')),  # not a slot
        lambda: (b"?", create_memfd(b'{"result": 1}')),
        lambda: (b"?", create_memfd(b"")),
        lambda: (b"?", create_pipe()),
    ],
)
def test_malformed_response_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, packet: Callable[[], tuple[Any, ...]]
) -> None:
    """The call fails, the next call succeeds, and no descriptor stays open."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.2)

    async def scenario(harness: Harness) -> None:
        await asyncio.sleep(0.02)
        before = count_descriptors()
        call = harness.call()
        number, _ = await harness.begin()
        data, *descriptors = packet()
        harness.send(worker.NUMBER.pack(number) + data, *descriptors)
        harness.slot[0] = 0
        assert await asyncio.wait_for(call, 1) == ("DEFAULT_5XX" if data else "INTEGRATION_FAILURE")
        call = harness.call()
        harness.respond((await harness.begin())[0], result=1)
        assert await call == 1
        assert count_descriptors() == before

    run_scenario(scenario)


@pytest.mark.parametrize("packet", [b"short", b"\1" + bytes(7) + b" " * worker.MAX_PACKET])
def test_packet_without_a_call_is_ignored(packet: bytes) -> None:
    """A packet without a number or a part of its data has no effect."""

    async def scenario(harness: Harness) -> None:
        call = harness.call()
        number, _ = await harness.begin()
        harness.send(packet)
        harness.respond(number, result=1)
        assert await call == 1

    run_scenario(scenario)


def test_queued_call_is_refused_after_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has begun instead has its complete time-out."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.2)
    monkeypatch.setattr(worker_pool, "GRACE", 0.1)

    async def scenario(harness: Harness) -> None:
        begun, waiting = harness.call(timeout=0.5), harness.call()
        started = time.monotonic()
        await harness.begin()
        assert await waiting == "INTEGRATION_FAILURE"
        assert time.monotonic() - started > 0.15
        assert not begun.done()
        assert await begun == "INTEGRATION_TIMEOUT"  # for example, its worker was stopped by SIGSTOP
        assert time.monotonic() - started > 0.75

    run_scenario(scenario)


def test_response_received_late_by_the_gateway_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that arrived in time is used, even if the gateway reads it late."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.1)

    async def scenario(harness: Harness) -> None:
        call = harness.call()
        number, _ = await harness.begin()
        harness.respond(number, result=1)
        time.sleep(0.5)  # noqa: ASYNC251 - block the gateway
        assert await call == 1

    run_scenario(scenario)


def test_slot_of_a_new_worker_is_read_before_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that a new worker has begun is not refused."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.1)

    async def scenario(harness: Harness) -> None:
        call = harness.call()
        harness.slot, descriptor = worker.create_slot()
        number, _ = await harness.begin()
        harness.send(worker.NUMBER.pack(0), descriptor)
        time.sleep(0.5)  # noqa: ASYNC251 - block the gateway
        await asyncio.sleep(0.1)
        harness.respond(number, result=1)
        assert await call == 1

    run_scenario(scenario)


@pytest.mark.parametrize("body", ["", "two\r\nlines", "ä😀", "half a pair: \ud83d", "x" * 10_000_000])
def test_channel_transfers_any_text(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """The channel transfers text of any size in both directions."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 10)

    async def scenario(harness: Harness) -> None:
        call = harness.call(body)
        number, name = await harness.begin()
        assert name == body
        await asyncio.to_thread(harness.respond, number, result={"body": body})
        assert await call == {"body": body}

    run_scenario(scenario)


def test_calls_wait_for_room_in_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are sent in order as room becomes available; calls refused before that are not sent."""

    async def scenario(harness: Harness) -> None:
        monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 10)
        names = [f"{index:03}" + "x" * 20_000 for index in range(60)]
        calls = [harness.call(name) for name in names]
        for name in names:
            number, received = await harness.begin()
            assert received == name
            harness.respond(number, result=received)
        assert await asyncio.gather(*calls) == names
        monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.1)
        refused = await asyncio.gather(*(harness.call(name) for name in names))
        assert refused == ["INTEGRATION_FAILURE"] * len(names)
        monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 10)
        last = harness.call("last")
        while (call := await harness.begin())[1] != "last":
            names.remove(call[1])
        assert len(names) > 30  # these were never sent
        harness.respond(call[0], result=1)
        assert await last == 1

    run_scenario(scenario)


def test_closed_channel_refuses_calls_without_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are refused, and the gateway uses little CPU time."""
    monkeypatch.setattr(worker_pool, "QUEUE_TIMEOUT", 0.3)

    async def scenario(harness: Harness) -> None:
        harness.end.close()
        await asyncio.sleep(0.05)
        used = time.process_time()
        assert await harness.call() == "INTEGRATION_FAILURE"
        assert time.process_time() - used < 0.15

    run_scenario(scenario)


def test_unsealed_slot_is_not_mapped() -> None:
    """If a mapped file shrinks, reading it kills the gateway. A packet without a slot has no effect."""

    async def scenario(harness: Harness) -> None:
        harness.send(worker.NUMBER.pack(1), create_memfd(bytes(8)))
        harness.send(worker.NUMBER.pack(1))
        await asyncio.sleep(0.02)
        maps = await asyncio.to_thread(Path("/proc/self/maps").read_text)
        assert ("memfd:slot" in maps, "memfd:test" in maps) == (True, False)

    run_scenario(scenario)


def test_statistics_describe_workers_and_calls() -> None:
    """Calls wait until a worker begins them. The slot of a dead worker does not count."""

    async def scenario(harness: Harness) -> None:
        harness.respond(0, started=0)
        calls = [harness.call(), harness.call()]
        await asyncio.sleep(0.02)
        assert harness.pool.statistics() == PoolStatistics(1, running=1, busy=0, waiting=2, restarts=0)
        number, _ = await harness.begin()
        assert harness.pool.statistics() == PoolStatistics(1, running=1, busy=1, waiting=1, restarts=0)
        worker.send(harness.end, worker.encode(number, {"failed": True, "exited": 0}))
        await asyncio.sleep(0.02)
        assert harness.pool.statistics() == PoolStatistics(1, running=0, busy=0, waiting=1, restarts=0)
        harness.respond(0, started=0)
        number, _ = await harness.begin()
        harness.respond(number, result=1)
        assert await asyncio.gather(*calls) == ["DEFAULT_5XX", 1]
        assert harness.pool.statistics() == PoolStatistics(1, running=1, busy=0, waiting=0, restarts=1)
        harness.respond(0, started=1)
        harness.respond(0, exited=7)
        await asyncio.sleep(0.02)
        assert harness.pool.statistics() == PoolStatistics(1, running=2, busy=0, waiting=0, restarts=1)

    run_scenario(scenario)


def test_counts_of_workers_are_passed_on() -> None:
    """Also those that come with a response to a call that was refused."""

    async def scenario(harness: Harness) -> None:
        received: list[Any] = []
        harness.pool.on_counts = received.append
        call = harness.call()
        harness.respond((await harness.begin())[0], result=1, counts=[1])
        assert await call == 1
        harness.respond(99, result=1, counts=[2])
        harness.respond(99, result=1)
        await asyncio.sleep(0.02)
        assert received == [[1], [2]]

    run_scenario(scenario)


@pytest.mark.parametrize("index", [None, "0", [], {}, 0.5])
def test_malformed_index_of_a_worker_is_ignored(index: Any) -> None:
    async def scenario(harness: Harness) -> None:
        harness.respond(0, started=index, exited=index)
        call = harness.call()
        harness.respond((await harness.begin())[0], result=1)
        assert await call == 1
        assert harness.pool.statistics().running == 0

    run_scenario(scenario)


def test_retired_pool_closes_the_channel_after_its_last_response() -> None:
    """So its workers exit, but not before they have answered."""

    async def scenario(harness: Harness) -> None:
        calls = [harness.call(name) for name in "ab"]
        begun = [await harness.begin() for _ in calls]
        harness.pool.retire()
        for number, _ in begun:
            assert harness.sockets[0].fileno() >= 0
            harness.respond(number, result=number)
        assert await asyncio.gather(*calls) == [number for number, _ in begun]
        assert worker.receive(harness.end) is None

    run_scenario(scenario)
