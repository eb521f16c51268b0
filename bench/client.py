"""An HTTP client that keeps a number of requests in flight, or sends requests at a constant rate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import selectors
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from bench.endpoints import Endpoint
from bench.load import BenchError, Refused

Call = Callable[[], Awaitable[object]]

_TIMEOUT: Final = 30  # seconds for a response
_TOLERANCE: Final = 0.02  # of the sizes of responses
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Client:
    """Posts the bodies of an endpoint in turn, on persistent connections: as many as needed."""

    def __init__(self, url: str, endpoint: Endpoint) -> None:
        """Use the endpoint at this base URL."""
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        fields = {"Host": address.netloc, **endpoint.headers}
        head = f"POST {endpoint.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        self._requests = itertools.cycle(
            f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in endpoint.bodies
        )
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._name = f"{url}{endpoint.path}"
        self._size = 0

    async def post(self) -> int:
        """Send a request, and return the size of the response's body.

        Raises:
            Refused: the status is not 200, or the connection broke.
            BenchError: the size differs from that of the first response.
        """
        try:
            async with asyncio.timeout(_TIMEOUT):
                size = await self._post()
        except (OSError, EOFError, TimeoutError) as error:
            raise Refused(f"{self._name}: {error!r}") from error
        self._size = self._size or size
        if not is_alike(size, self._size):
            raise BenchError(f"{self._name}: a response of {size} bytes, but the first has {self._size}")
        return size

    async def _post(self) -> int:
        if not self._idle:
            self._idle.append(await asyncio.open_connection(self._host, self._port))
            self._writers.append(self._idle[-1][1])
        connection = reader, writer = self._idle.pop()
        writer.write(next(self._requests))
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not length:
            raise BenchError(f"{self._name}: the response has no Content-Length: {head!r}")
        body = await reader.readexactly(int(length[1]))
        if head.split(maxsplit=2)[1] != b"%d" % HTTPStatus.OK:
            raise Refused(f"{self._name}: {head.splitlines()[0].decode()} {body[:500].decode()}")
        self._idle.append(connection)
        return len(body)

    async def close(self) -> None:
        """Close the connections."""
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):  # the server has closed it
                await writer.wait_closed()


def is_alike(size: int, first: int) -> bool:
    """Whether the size of a response is about that of the first; signatures and numbers vary in length."""
    return not first or abs(size - first) <= first * _TOLERANCE


@contextlib.asynccontextmanager
async def in_flight(*calls: Call) -> AsyncIterator[None]:
    """Keep one call of each in flight during the block, and until one call of each has ended.

    Raises:
        BenchError: a call did.
    """
    ended = [asyncio.Event() for _ in calls]

    async def repeat_call(call: Call, event: asyncio.Event) -> None:
        try:
            while True:
                await call()
                event.set()
        finally:
            event.set()

    async with _tasks() as tasks:
        tasks += [asyncio.create_task(repeat_call(*item)) for item in zip(calls, ended, strict=True)]
        yield
        for event in ended:
            await event.wait()
        for task in tasks:
            if task.done():
                task.result()


async def pace(call: Call, rate: float, seconds: float) -> list[float]:
    """Start calls at a constant rate, whether or not earlier ones have ended.

    Returns:
        for each call, the milliseconds from the time at which it was due to its end.
    """

    async def time_call(due: float) -> float:
        await call()
        return (time.perf_counter() - due) * 1e3

    async with _tasks() as tasks:
        start = time.perf_counter()
        for number in range(round(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(asyncio.create_task(time_call(due)))
        latencies: list[float] = await asyncio.gather(*tasks)
        return latencies


async def repeat(call: Call, concurrency: int, count: int) -> float:
    """Make `count` calls, some at once; return the seconds that all of them take."""
    remaining = iter(range(count))

    async def call_repeatedly() -> None:
        for _ in remaining:
            await call()

    async with _tasks() as tasks:
        start = time.perf_counter()
        tasks += [asyncio.create_task(call_repeatedly()) for _ in range(concurrency)]
        await asyncio.gather(*tasks)
        return time.perf_counter() - start


@contextlib.asynccontextmanager
async def _tasks() -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Cancel the tasks of a list at the end of the block."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def runner() -> asyncio.Runner:
    """Return a runner whose timers have the resolution of select(2); that of epoll(7) is a millisecond."""
    return asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()))
