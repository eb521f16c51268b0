"""The gateway's end of the channel to the workers (`service.gateway.worker`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

from service.gateway.routes import GatewayError
from service.gateway.worker import Packet, decode, encode, map_slot, receive, send

QUEUE_TIMEOUT: Final = 1.0  # seconds; a call that no worker begins within is refused
TICK: Final = 0.05  # seconds between two looks for calls that are late
GRACE: Final = 1.0  # seconds after its time-out in which the worker's end of a call is known


@dataclass(frozen=True)
class _Call:
    """A call without a response; the times are those of `time.monotonic`, which all processes share."""

    begin_by: float
    end_by: float
    response: asyncio.Future[Any]

    def fail(self, kind: str) -> None:
        """Answer with a gateway response, unless there is an answer."""
        if not self.response.done():
            self.response.set_exception(GatewayError(kind))


class WorkerPool:
    """Sends calls into the channel, and reads there what workers and supervisor say about them."""

    def __init__(self, channel: socket.socket) -> None:
        """Read the channel from now on, in the running loop."""
        channel.setblocking(False)  # noqa: FBT003 - the standard library's own
        self._channel = channel
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}  # in the order in which they must begin
        self._unsent: dict[int, bytes] = {}  # packets for which the channel has no room
        self._slots: dict[int, memoryview] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._read)

    async def invoke(self, event: dict[str, Any], timeout: float) -> Any:  # noqa: ANN401, ASYNC109 - JSON; the document's own time-out
        """Have a worker answer an event. A call that has begun runs to its end, even if the client leaves.

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

    def _send(self) -> None:
        """Send while there is room. Each response makes some, and is followed by another attempt."""
        with contextlib.suppress(OSError):
            while self._unsent:
                number = next(iter(self._unsent))
                send(self._channel, self._unsent[number])
                del self._unsent[number]

    def _read(self) -> None:
        """Read all packets that there are."""
        with contextlib.suppress(OSError):  # there are no more
            while packet := receive(self._channel):
                self._on_response(packet) if packet.data else self._on_slot(packet)
            self._loop.remove_reader(self._channel)  # nobody is at the other end
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

    def _on_slot(self, packet: Packet) -> None:
        """Map the slot of a new worker, in place of the one of the worker that it replaces."""
        for descriptor in packet.descriptors:
            with os.fdopen(descriptor), contextlib.suppress(ValueError):
                self._slots[packet.number] = map_slot(descriptor)

    def _check_deadlines(self) -> None:
        """Refuse calls that no worker has begun in time.

        A worker writes its slot before it looks at the time. So a call that is in no slot now will not begin,
        or has ended and its response can be read.
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
