"""The function, in processes of its own, as on AWS: one call at a time each, one socket each.

`main` is such a process: it imports a handler by its name (`module.function`), makes it ready, and
answers events. `Function` is the gateway's end: it hands events to idle processes, and replaces those
that crash or take too long. Both talk in frames: four octets of length, then JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from service import secrecy
from service.gateway.contract import GatewayError

WAIT_FOR_IDLE: Final = 1.0  # seconds, before the caller is told that all are busy
RETRY_START: Final = 1.0  # seconds between attempts to replace a process that does not start
_LENGTH: Final = struct.Struct("!I")

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The function's process did not become ready; the message is its own, in one line."""


@dataclass(frozen=True)
class Process:
    """A process of the function, made by whoever may make them: its number and our end of its socket."""

    number: int
    socket: socket.socket


class Context:
    """What the handler gets as its second argument, as on Lambda."""

    def __init__(self, request_id: str, deadline: float) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the gateway gives up."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


class _Worker:
    """The gateway's end of one process."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self._reader = reader
        self._writer = writer

    @property
    def is_gone(self) -> bool:
        """Whether the process hung up."""
        return self._reader.at_eof()

    async def send(self, message: object) -> None:
        data = _encode(message)
        self._writer.write(_LENGTH.pack(len(data)) + data)
        await self._writer.drain()

    async def receive(self) -> Any:  # noqa: ANN401 - JSON
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        return json.loads(await self._reader.readexactly(length))

    def close(self) -> None:
        self._writer.close()


class Function:
    """The function: as many processes as its concurrency, made by `hire`."""

    def __init__(self, hire: Callable[[int | None], Awaitable[Process]]) -> None:
        """Begin with no process.

        Args:
            hire: starts a process, after it ended the one with the number that it is given.
        """
        self._hire = hire
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._replacements: set[asyncio.Task[None]] = set()

    async def start(self, concurrency: int) -> None:
        """Start the processes, and wait until each of them is ready.

        Raises:
            StartError: one of them cannot be made ready.
        """
        for worker in await asyncio.gather(*(self._ready(None) for _ in range(concurrency))):
            self._idle.put_nowait(worker)

    async def invoke(self, event: dict[str, Any], timeout: float) -> Any:  # noqa: ANN401, ASYNC109 - JSON; the document's own time-out
        """Have one event answered.

        Args:
            event: the proxy event.
            timeout: seconds after which the process is ended.

        Raises:
            GatewayError: INTEGRATION_FAILURE if none is idle in time, INTEGRATION_TIMEOUT if it
                takes too long, DEFAULT_5XX if it crashes or raises.
        """
        worker = await self._idle_worker()
        while worker.is_gone:  # ended while it was idle: nothing was begun, nothing is lost
            self._replace(worker)
            worker = await self._idle_worker()
        call = asyncio.ensure_future(self._call(worker, event, timeout))
        # A client that goes away does not end a call: what was begun is finished and recorded.
        return await asyncio.shield(call)

    async def _idle_worker(self) -> _Worker:
        if not self._idle.empty():
            return self._idle.get_nowait()
        try:
            async with asyncio.timeout(WAIT_FOR_IDLE):
                return await self._idle.get()
        except TimeoutError:
            raise GatewayError("INTEGRATION_FAILURE") from None

    async def _call(self, worker: _Worker, event: dict[str, Any], timeout: float) -> Any:  # noqa: ANN401, ASYNC109
        try:
            async with asyncio.timeout(timeout):
                await worker.send({"event": event, "timeout": timeout})
                outcome = await worker.receive()
        except TimeoutError:
            self._replace(worker)
            raise GatewayError("INTEGRATION_TIMEOUT") from None
        except (OSError, EOFError, ValueError) as error:
            self._replace(worker)
            raise GatewayError("DEFAULT_5XX") from error
        self._idle.put_nowait(worker)
        if "result" not in outcome:
            raise GatewayError("DEFAULT_5XX")
        return outcome["result"]

    def _replace(self, worker: _Worker) -> None:
        task = asyncio.create_task(self._replacement(worker))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replacement(self, worker: _Worker) -> None:
        worker.close()
        number: int | None = worker.number
        while True:
            try:
                self._idle.put_nowait(await self._ready(number))
            except (StartError, OSError) as error:
                _log.error("the function does not start: %s", error)
                number = None
                await asyncio.sleep(RETRY_START)
            else:
                return

    async def _ready(self, instead_of: int | None) -> _Worker:
        process = await self._hire(instead_of)
        reader, writer = await asyncio.open_connection(sock=process.socket)
        worker = _Worker(process.number, reader, writer)
        try:
            message = await worker.receive()
        except (OSError, EOFError) as error:
            message = {"error": "its process ended"}
            _log.debug("no word from a new process", exc_info=error)
        if "error" in message:
            worker.close()
            raise StartError(message["error"])
        return worker

    async def stop(self) -> None:
        """Give up replacing processes, and let go of the idle ones; each ends with its socket."""
        for task in self._replacements:
            task.cancel()
        while not self._idle.empty():
            self._idle.get_nowait().close()


def main(arguments: list[str]) -> int:
    """Be a process of the function: `DESCRIPTOR MODULE.FUNCTION`.

    The module may have a `prepare()`, called once before the first event: Lambda's init phase.
    """
    secrecy.seal()
    for number in (signal.SIGINT, signal.SIGTERM):  # to the whole group: the gateway will end us
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    module_name, _, name = arguments[1].rpartition(".")
    hung_up = contextlib.suppress(BrokenPipeError, ConnectionResetError)
    with connection, hung_up, connection.makefile("rwb") as stream:
        try:
            module = importlib.import_module(module_name)
            handler = getattr(module, name)
            getattr(module, "prepare", lambda: None)()
        except Exception as error:  # noqa: BLE001 - whatever it is, the gateway is told, in one line
            _write(stream, _encode({"error": " ".join(str(error).split()) or type(error).__name__}))
            return 1
        _write(stream, _encode({"ready": True}))
        while header := stream.read(_LENGTH.size):
            _write(stream, _outcome(handler, json.loads(stream.read(*_LENGTH.unpack(header)))))
    return 0


def _outcome(handler: Callable[[Any, Context], Any], call: dict[str, Any]) -> bytes:
    request_id = call["event"]["requestContext"]["requestId"]
    try:
        result = handler(call["event"], Context(request_id, time.monotonic() + call["timeout"]))
        return _encode({"result": result})
    except Exception:  # noqa: BLE001 - as on Lambda: the log gets the traceback, the caller a 502
        sys.stderr.write(f"{request_id}: the handler failed\n{traceback.format_exc()}")
        return _encode({"error": "the handler failed"})


def _encode(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _write(stream: Any, data: bytes) -> None:  # noqa: ANN401 - a socket's file
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
