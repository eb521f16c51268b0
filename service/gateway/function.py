"""The function, in a process of its own, as on AWS: one call at a time, in the order in which they come.

`main` is such a process: it imports a handler by its name (`module.function`), makes it ready, and
answers the gateway's calls over a socket. Both talk in frames: two lengths of four octets, then JSON, then
the body of the event, or of the result, as it is: JSON would escape it, and read it sign by sign.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from service import secrecy

LENGTHS: Final = struct.Struct("!II")
_ANY: Final = "surrogatepass"  # as JSON: half a pair, too, is what the handler may say
to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


class Context:
    """What the handler gets as its second argument, as on Lambda."""

    def __init__(self, request_id: str, deadline: float) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the gateway gives up."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


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
            _write(stream, frame({"error": why(error)}))
            return 1
        _write(stream, frame({"ready": True}))
        while header := stream.read(LENGTHS.size):
            length, beside = LENGTHS.unpack(header)
            call = json.loads(stream.read(length))
            put_back(call["event"], stream.read(beside))
            _write(stream, _outcome(handler, call))
    return 0


def why(error: Exception) -> str:
    """An error in one line; of a file that cannot be used its name comes first."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def _outcome(handler: Callable[[Any, Context], Any], call: dict[str, Any]) -> bytes:
    if call["begin_by"] is not None and time.monotonic() > call["begin_by"]:
        return frame({"late": True})
    request_id = call["event"]["requestContext"]["requestId"]
    try:
        result = handler(call["event"], Context(request_id, time.monotonic() + call["timeout"]))
        return frame({"result": result}, "result")
    except Exception:  # noqa: BLE001 - as on Lambda: the log gets the traceback, the caller a 502
        sys.stderr.write(f"{request_id}: the handler failed\n{traceback.format_exc()}")
        return frame({"error": "the handler failed"})


def frame(message: Mapping[str, Any], held: str = "") -> bytes:
    """A message as it crosses the socket.

    Args:
        message: what JSON can say, in ASCII.
        held: the member of it, an event or a result, whose body is to go beside it.
    """
    body = b""
    if held and isinstance(holder := message[held], dict) and isinstance(text := holder.get("body"), str):
        body = text.encode("utf-8", _ANY)
        message = {**message, held: {**holder, "body": None}} if body else message
    data = to_json(message).encode("ascii")
    return b"".join((LENGTHS.pack(len(data), len(body)), data, body))


def put_back(holder: object, body: bytes) -> None:
    """Give an event or a result the body that came beside it."""
    if body and isinstance(holder, dict):
        holder["body"] = body.decode("utf-8", _ANY)


def _write(stream: Any, frame: bytes) -> None:  # noqa: ANN401 - a socket's file
    stream.write(frame)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
