"""The gateway's end of the function: processes of it, one socket each.

`Function` hands events to processes that are idle or soon will be, and replaces those that crash or take too
long. What a process is, and how one talks to it, stands in `service.gateway.function`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from service.gateway.function import LENGTHS, frame, put_back
from service.gateway.routes import GatewayError

WAIT_FOR_IDLE: Final = 1.0  # seconds, before the caller is told that all are busy
ON_ITS_WAY: Final = 0.1  # seconds within which what one process writes is read by the other
# Calls that a process gets ahead, so that it need not wait for the gateway after each; only behind calls
# that are likely to be over soon, since an idle process gets what another has ahead after a while alone.
AHEAD: Final = 7
BRIEF: Final = 0.05  # seconds that such a call has been in hand at most
BRIEF_BODY: Final = 16_384  # characters of its body at most: a batch is not brief
TAKE_BACK: Final = 0.3  # seconds after which such a call is another process's, if it is not begun
RETRY_START: Final = 1.0  # seconds between attempts to replace a process that does not start
LOOK: Final = 0.05  # seconds between two looks for what is late
# What a process answers while it has others in hand is read a few answers at a time: where all processors
# are busy each would wake the gateway in its place, and both would find caches full of the other's work.
SOME: Final = 4  # calls in hand at least
LULL: Final = 0.005  # seconds at most, and never until it would have nothing in hand

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The function's process did not become ready; the message is its own, in one line."""


@dataclass(frozen=True)
class Process:
    """A process of the function, made by whoever may make them: its number and our end of its socket."""

    number: int
    socket: socket.socket


@dataclass(eq=False)
class _Call:
    """An event that is to be answered.

    Attributes:
        timeout: seconds that the function has for it.
        begin_by: the time, of `time.monotonic`, until when it may be begun.
        keep_until: until when a process may keep it without having begun it.
    """

    event: dict[str, Any] = field(repr=False)
    timeout: float
    begin_by: float
    outcome: asyncio.Future[Any]
    keep_until: float = math.inf

    def succeed(self, result: object) -> None:
        """Tell the result to whoever still waits."""
        if not self.outcome.done():
            self.outcome.set_result(result)

    def fail(self, kind: str) -> None:
        """Tell whoever still waits that there is none."""
        if not self.outcome.done():
            self.outcome.set_exception(GatewayError(kind))


class _Worker(asyncio.Protocol):
    """The gateway's end of one process, which answers the calls that it has in hand in their order."""

    def __init__(self, process: Process, function: Function) -> None:
        self.number = process.number
        self._socket = process.socket
        self.ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.calls: deque[_Call] = deque()
        self._function = function
        self._received = bytearray()
        self._transport: asyncio.Transport
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way to the process."""
        self._transport = cast("asyncio.Transport", transport)

    @property
    def is_gone(self) -> bool:
        """Whether the process ended, or was given up."""
        return self._transport.is_closing()

    def has_room(self) -> bool:
        """Whether a call would be begun soon: at once, or after a few that are brief."""
        if self.is_gone:
            return False
        if not self.calls:
            return True
        if len(self.calls) > AHEAD or len(self.calls[-1].event["body"] or "") > BRIEF_BODY:
            return False
        return time.monotonic() - self._began < BRIEF

    def take(self, call: _Call) -> None:
        """Send a call to the process, and by when to begin it, if it has others before it.

        That it was begun is known here before it is taken back, or given up.
        """
        now = time.monotonic()
        call.keep_until = min(call.begin_by, now + TAKE_BACK)
        begin_by = call.keep_until - ON_ITS_WAY if self.calls else None
        if not self.calls:
            self._began = now
        self.calls.append(call)
        message = {"event": call.event, "timeout": call.timeout, "begin_by": begin_by}
        self._transport.write(frame(message, "event"))

    def look(self, now: float) -> None:
        """Give the process up if its first call takes too long; take back what it will begin late.

        What it said is read before that: we may have been late ourselves.
        """
        try:
            self._read_rest()
        except ValueError:
            self._end("DEFAULT_5XX")
        if self.calls and now >= self._began + self.calls[0].timeout:
            self._end("INTEGRATION_TIMEOUT")
        for place, call in enumerate(self.calls):
            if place and now >= call.keep_until:  # it is not begun, and may be another's
                nobody: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                nobody.cancel()
                self.calls[place] = _Call(call.event, call.timeout, math.inf, nobody)  # for that word
                self._function.again([call])

    def data_received(self, data: bytes) -> None:
        """Read what the process says, frame by frame."""
        self._received += data
        answered = 0
        while len(self._received) >= LENGTHS.size:
            length, beside = LENGTHS.unpack_from(self._received)
            middle = LENGTHS.size + length
            end = middle + beside
            if len(self._received) < end:
                break
            word, body = self._received[LENGTHS.size : middle], bytes(self._received[middle:end])
            del self._received[:end]
            self._hear(json.loads(word), body)
            answered += 1
        if answered:
            self._go_on(answered)

    def _hear(self, word: dict[str, Any], body: bytes) -> None:
        """That it is ready or why it is not, or what became of its first call."""
        if not isinstance(word, dict):
            raise ValueError("a process of the function says objects")  # noqa: TRY004 - as JSON's own are
        if self.ready.cancelled():  # we are stopping
            return
        if not self.ready.done():
            self.ready.set_result(word)
            return
        call = self.calls.popleft()
        if "result" in word:
            put_back(word["result"], body)
            call.succeed(word["result"])
        elif "late" in word:
            self._function.again([call])
        else:
            call.fail("DEFAULT_5XX")

    def _go_on(self, answered: int) -> None:
        """After some answers: the next call has begun, and there is room for others."""
        if self.calls:
            now = time.monotonic()
            each, self._began = (now - self._began) / answered, now
            if len(self.calls) >= SOME:  # of which two are left when it is read again
                self._transport.pause_reading()
                lull = min(LULL, each * (len(self.calls) - 2))
                asyncio.get_running_loop().call_later(lull, self._transport.resume_reading)
        self._function.resume()

    def connection_lost(self, _error: Exception | None) -> None:
        """The process ended, or was given up."""
        with contextlib.suppress(ValueError):
            self._read_rest()
        if not self.ready.done():
            self.ready.set_exception(EOFError("its process ended"))
        self._end("DEFAULT_5XX")

    def _read_rest(self) -> None:
        """What the process has answered is known first, even if a write is what told of its end."""
        with contextlib.suppress(OSError):
            while self.calls and (data := self._socket.recv(1 << 16)):
                self.data_received(data)

    def _end(self, what: str) -> None:
        """Give the process up: its first call is lost with it, and those after it were never begun."""
        self.close()
        calls, self.calls = self.calls, deque()
        if calls:
            calls.popleft().fail(what)
        self._function.replace(self, calls)

    def close(self) -> None:
        """Hang up, upon which the process ends."""
        self._transport.close()


class Function:
    """The function: as many processes as its concurrency, made by `hire`."""

    def __init__(self, hire: Callable[[int | None], Awaitable[Process]]) -> None:
        """Begin with no process.

        Args:
            hire: starts a process, after it ended the one with the number that it is given.
        """
        self._hire = hire
        self._workers: list[_Worker] = []
        self._waiting: deque[_Call] = deque()
        self._replacements: set[asyncio.Task[None]] = set()
        self._looking: asyncio.TimerHandle | None = None

    async def start(self, concurrency: int) -> None:
        """Start the processes, and wait until each of them is ready.

        Raises:
            StartError: one of them cannot be made ready.
        """
        await asyncio.gather(*(self._join(None) for _ in range(concurrency)))

    async def invoke(self, event: dict[str, Any], timeout: float) -> Any:  # noqa: ANN401, ASYNC109 - JSON; the document's own time-out
        """Have one event answered. What was begun is finished and recorded, even if the client goes away.

        Args:
            event: the proxy event.
            timeout: seconds after which the process is ended.

        Raises:
            GatewayError: INTEGRATION_FAILURE if it is not begun in time, INTEGRATION_TIMEOUT if it
                takes too long, DEFAULT_5XX if it crashes or raises.
        """
        loop = asyncio.get_running_loop()
        call = _Call(event, timeout, time.monotonic() + WAIT_FOR_IDLE, loop.create_future())
        self._waiting.append(call)
        self.resume()
        if not self._looking:
            self._looking = loop.call_later(LOOK, self._look)
        return await call.outcome

    def _look(self) -> None:
        """Give up what is late, as long as there are calls."""
        now = time.monotonic()
        for worker in tuple(self._workers):
            worker.look(now)
        for call in self._waiting:
            if now >= call.begin_by:
                call.fail("INTEGRATION_FAILURE")
        self.resume()
        busy = self._waiting or any(each.calls for each in self._workers)
        self._looking = asyncio.get_running_loop().call_later(LOOK, self._look) if busy else None

    def resume(self) -> None:
        """Hand over what waits, while a process has room for it."""
        while self._waiting:
            if self._waiting[0].outcome.done():  # given up
                self._waiting.popleft()
                continue
            with_room = (each for each in self._workers if each.has_room())
            worker = min(with_room, key=lambda each: len(each.calls), default=None)
            if worker is None:
                return
            worker.take(self._waiting.popleft())

    def again(self, calls: Iterable[_Call]) -> None:
        """Let calls that were not begun wait for another process, before those that came after them."""
        self._waiting = deque(sorted((*self._waiting, *calls), key=lambda call: call.begin_by))

    def replace(self, worker: _Worker, calls: Iterable[_Call]) -> None:
        """Replace a process, and let the calls that it did not begin wait for another."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        self.again(calls)
        task = asyncio.create_task(self._replacement(worker.number))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replacement(self, number: int | None) -> None:
        while True:
            try:
                await self._join(number)
            except (StartError, OSError) as error:
                _log.error("the function does not start: %s", error)
                number = None
                await asyncio.sleep(RETRY_START)
            else:
                self.resume()
                return

    async def _join(self, instead_of: int | None) -> None:
        """Take a process at once when it is ready: one that ends after that is replaced."""
        self._workers.append(await self._ready(instead_of))

    async def _ready(self, instead_of: int | None) -> _Worker:
        process = await self._hire(instead_of)
        worker = _Worker(process, self)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=process.socket)
        try:
            message = await worker.ready
        except EOFError as error:
            raise StartError(str(error)) from error
        if "error" in message or worker.is_gone:
            worker.close()
            raise StartError(message.get("error", "its process ended"))
        return worker

    async def stop(self) -> None:
        """Give up replacing processes, and let go of those there are; each ends with its socket."""
        if self._looking:
            self._looking.cancel()
        for task in self._replacements:
            task.cancel()
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()
