"""The gateway's end of the channel to the workers (`service.gateway.worker`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from service.gateway.routes import GatewayError
from service.gateway.worker import Packet, decode, encode, map_slot, receive, send

QUEUE_TIMEOUT: Final = 1.0  # seconds; a call that no worker has begun by then is refused
TICK: Final = 0.05  # seconds between checks for late calls
GRACE: Final = 1.0  # seconds after its time-out for the worker to report the end of a call


@dataclass(frozen=True)
class _Call:
    """A call without a response; the times are those of `time.monotonic`, which all processes share."""

    begin_by: float
    end_by: float
    response: asyncio.Future[Any]

    def fail(self, kind: str) -> None:
        """Fail with a gateway response, unless there is a response."""
        if not self.response.done():
            self.response.set_exception(GatewayError(kind))


class PoolStatistics(NamedTuple):
    """The state of a pool.

    Attributes:
        configured: workers that should run.
        running: workers that run.
        busy: workers that have begun a call and have not responded.
        waiting: calls that no worker has begun.
        restarts: workers that replaced others since the start.
    """

    configured: int
    running: int
    busy: int
    waiting: int
    restarts: int


class WorkerPool:
    """Sends calls through the channel, and receives the messages of workers and supervisor from it.

    Attributes:
        on_counts: called with what a worker counted; see `worker.serve`.
    """

    def __init__(self, channel: socket.socket, workers: int = 1) -> None:
        """Start to read the channel, in the running loop; `workers` is the number of workers."""
        channel.setblocking(False)  # noqa: FBT003 - a standard library signature
        self._channel = channel
        self._configured = workers
        self.on_counts: Callable[[Any], None] = lambda _: None
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}  # in the order of `begin_by`
        self._unsent: dict[int, bytes] = {}  # packets that wait for room in the channel
        self._slots: dict[int, memoryview] = {}
        self._running: set[int] = set()  # indices of workers
        self._started: Counter[int] = Counter()  # index -> how often
        self._timer: asyncio.TimerHandle | None = None
        self._is_retired = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._read)

    async def invoke(self, event: dict[str, Any], timeout: float) -> Any:  # noqa: ANN401, ASYNC109 - JSON; the time-out of the document
        """Have a worker handle an event. A call that has begun completes even if the client disconnects.

        Args:
            event: the proxy event.
            timeout: seconds that the handler may take.

        Raises:
            GatewayError: INTEGRATION_FAILURE if no worker begins in time, INTEGRATION_TIMEOUT if it takes
                too long, DEFAULT_5XX if the worker crashes or the handler raises.
        """
        number, begin_by = next(self._numbers), time.monotonic() + QUEUE_TIMEOUT
        self._unsent[number] = encode(number, {"event": event, "timeout": timeout, "begin_by": begin_by})
        call = self._calls[number] = _Call(begin_by, begin_by + timeout + GRACE, self._loop.create_future())
        self._send()
        if not self._timer:
            self._timer = self._loop.call_later(TICK, self._check_deadlines)
        try:
            return await call.response
        finally:
            del self._calls[number]
            self._unsent.pop(number, None)
            self._close_if_unused()

    def retire(self) -> None:
        """Close the channel, which ends the workers, after the last response; there are no further calls."""
        self._is_retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._is_retired and not self._calls:
            self._loop.remove_reader(self._channel)
            self._channel.close()

    def statistics(self) -> PoolStatistics:
        """The state of the pool. The slot of a dead worker may contain a call that has ended."""
        busy = len({slot[0] for slot in self._slots.values()} & self._calls.keys())
        restarts = self._started.total() - len(self._started)
        waiting = len(self._calls) - busy
        return PoolStatistics(self._configured, len(self._running), busy, waiting, restarts)

    def _send(self) -> None:
        """Send packets while there is room. Each response frees some, and `_read` then calls this again."""
        with contextlib.suppress(OSError):
            while self._unsent:
                number = next(iter(self._unsent))
                send(self._channel, self._unsent[number])
                del self._unsent[number]

    def _read(self) -> None:
        """Read all packets that have arrived."""
        with contextlib.suppress(OSError):  # no packet is left
            while packet := receive(self._channel):
                self._on_response(packet) if packet.data else self._on_slot(packet)
            self._loop.remove_reader(self._channel)  # the other end is closed
        self._send()

    def _on_response(self, packet: Packet) -> None:
        try:
            message = decode(packet)
        except ValueError:
            message = {}
        call = self._calls.get(packet.number)
        if call and "result" in message and not call.response.done():
            call.response.set_result(message["result"])
        elif call:
            call.fail("INTEGRATION_TIMEOUT" if "timed_out" in message else "DEFAULT_5XX")
        if isinstance(index := message.get("started"), int):
            self._started[index] += 1
            self._running.add(index)
        if isinstance(index := message.get("exited"), int):
            self._running.discard(index)
        if "counts" in message:
            self.on_counts(message["counts"])

    def _on_slot(self, packet: Packet) -> None:
        """Map the slot of a new worker; it replaces the slot of the previous worker with this index."""
        for descriptor in packet.descriptors:
            with os.fdopen(descriptor), contextlib.suppress(ValueError):
                self._slots[packet.number] = map_slot(descriptor)

    def _check_deadlines(self) -> None:
        """Refuse calls that no worker has begun in time.

        A worker writes its slot before it checks `begin_by`. So a late call that is in no slot will never
        begin, or it has ended and the second `_read` receives its response.
        """
        self._read()
        begun = {slot[0] for slot in self._slots.values()}
        self._read()
        now = time.monotonic()
        for number, call in self._calls.items():
            if now < call.begin_by:
                break
            if number not in begun:
                call.fail("INTEGRATION_FAILURE")
            elif now > call.end_by:
                call.fail("INTEGRATION_TIMEOUT")
        self._timer = self._loop.call_later(TICK, self._check_deadlines) if self._calls else None
