"""A worker: a process that runs the Lambda handler for one call at a time, as on AWS.

All workers share one end of a SOCK_SEQPACKET socket pair, the *channel*; the gateway has the other end. So
the kernel gives each call to an idle worker, and a crash loses no call that has not begun.

A packet consists of the number of its call and JSON. The JSON of a large message is in a sealed memfd; the
packet then carries its first byte and the descriptor. When a call begins, the worker writes its number into
its *slot*, shared memory that only this worker can write: after a crash, the slot identifies the lost call.
A packet without JSON carries the slot of a new worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import mmap
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from service import hardening

NUMBER: Final = struct.Struct("=Q")  # of a call, from 1; also the content of a slot
MAX_PACKET: Final = 32_768  # bytes; longer messages use a memfd, because the socket's buffer is limited
MAX_MESSAGE: Final = 64 * 1024 * 1024  # bytes of JSON
_SEALED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_F_SEAL_FUTURE_WRITE: Final = 0x10  # linux/fcntl.h; not in Python's fcntl
to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


class Packet(NamedTuple):
    """A received packet. `descriptors` has at most one member, which the receiver must close."""

    number: int
    data: bytes
    descriptors: list[int]


class Context:
    """The second argument of the handler, as on Lambda."""

    def __init__(self, request_id: str, deadline: float) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the time-out."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def encode(number: int, message: Mapping[str, Any]) -> bytes:
    """Encode a message about the call with this number, in ASCII.

    Raises:
        TypeError, ValueError: the message cannot be encoded as JSON.
    """
    return NUMBER.pack(number) + to_json(message).encode("ascii")


def send(channel: socket.socket, packet: bytes) -> None:
    """Send a packet that `encode` returned.

    Raises:
        OSError: it was not sent; BlockingIOError if the channel has no room.
    """
    if len(packet) <= MAX_PACKET:
        channel.send(packet)
        return
    with os.fdopen(os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb", 0) as file:
        file.write(packet[NUMBER.size :])
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALED)
        socket.send_fds(channel, [packet[: NUMBER.size + 1]], [file.fileno()])


def receive(channel: socket.socket) -> Packet | None:
    """Receive a packet, or None if the other end is closed. The number of a malformed packet is 0.

    Raises:
        OSError: nothing was received; BlockingIOError if no packet has arrived.
    """
    data, descriptors, flags, _ = socket.recv_fds(channel, MAX_PACKET, 1)
    if not data:
        return None
    if flags & socket.MSG_TRUNC or len(data) < NUMBER.size:
        return Packet(0, b"?", descriptors)
    return Packet(NUMBER.unpack_from(data)[0], data[NUMBER.size :], descriptors)


def decode(packet: Packet) -> dict[str, Any]:
    """Decode a packet's message, and close its descriptor.

    Raises:
        ValueError: the packet is not a message.
    """
    data = packet.data
    for descriptor in packet.descriptors:
        with os.fdopen(descriptor):
            _verify_seals(descriptor, _SEALED)  # reading anything but a memfd could block
            data = os.pread(descriptor, min(os.fstat(descriptor).st_size, MAX_MESSAGE), 0)
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message must be an object")  # noqa: TRY004 - JSON errors are ValueErrors too
    return message


def create_slot() -> tuple[memoryview, int]:
    """Create a slot: a writable view, and a read-only descriptor for other processes."""
    descriptor = os.memfd_create("slot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, NUMBER.size)
    view = memoryview(mmap.mmap(descriptor, NUMBER.size)).cast("Q")
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return view, descriptor


def map_slot(descriptor: int) -> memoryview:
    """Map a worker's slot to read it.

    Raises:
        ValueError: it is not a slot, or it could shrink: then reading it would kill the process.
    """
    _verify_seals(descriptor, fcntl.F_SEAL_SHRINK)
    return memoryview(mmap.mmap(descriptor, NUMBER.size, prot=mmap.PROT_READ)).cast("Q")


def _verify_seals(descriptor: int, seals: int) -> None:
    with contextlib.suppress(OSError):  # it is not a memfd
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & seals == seals:
            return
    raise ValueError("the descriptor is not a sealed memfd")


def serve(
    channel: socket.socket,
    slot: memoryview,
    handler: Callable[[Any, Context], Any],
    take_counts: Callable[[], Any] = list,
) -> None:
    """Handle calls until the gateway closes its end. SIGALRM ends the process if a call takes too long.

    Args:
        channel: the workers' end.
        slot: the slot of this worker.
        handler: handles an event.
        take_counts: returns what the handler counted since the last call. A response carries it, if any.
    """
    with contextlib.suppress(ConnectionError):
        while packet := receive(channel):
            slot[0] = packet.number
            response = _respond(packet, handler, take_counts)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if response:
                send(channel, response)
            slot[0] = 0


def _respond(
    packet: Packet, handler: Callable[[Any, Context], Any], take_counts: Callable[[], Any]
) -> bytes | None:
    """The response to a call; None if the call is late: the gateway has refused it."""
    request_id = "?"
    try:
        call = decode(packet)
        request_id, timeout = call["event"]["requestContext"]["requestId"], call["timeout"]
        if time.monotonic() > call["begin_by"]:
            return None
        signal.setitimer(signal.ITIMER_REAL, timeout)
        context = Context(request_id, time.monotonic() + timeout)
        message = {"result": handler(call["event"], context)}
        if counts := take_counts():
            message["counts"] = counts
        return encode(packet.number, message)
    except Exception:  # noqa: BLE001 - as on Lambda: the log gets the traceback, the caller a 502
        sys.stderr.write(f"{request_id}: the handler failed\n{traceback.format_exc()}")
        return encode(packet.number, {"failed": True})


def one_line(error: Exception) -> str:
    """Format an error as one line; the name of an unusable file comes first."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def yield_to_others() -> None:
    """Avoid preemption of the process that wakes this one: otherwise they alternate after each packet."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main(arguments: list[str]) -> int:
    """Run a worker: `CHANNEL SUPERVISOR MODULE.FUNCTION`; the first two are descriptors of sockets.

    A function `init` of the module, if any, runs once before the first event: Lambda's init phase. A function
    `take_counts` is that of `serve`.
    """
    hardening.disable_core_dumps_and_ptrace()
    yield_to_others()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the process group; the gateway stops workers
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    slot, descriptor = create_slot()
    with socket.socket(fileno=int(arguments[1])) as supervisor, supervisor.makefile("rb") as messages:
        socket.send_fds(supervisor, [b"\n"], [descriptor])
        os.close(descriptor)
        os.environ.update(json.loads(messages.readline() or sys.exit("the supervisor has exited")))
        module_name, _, name = arguments[2].rpartition(".")
        # As in the zip for AWS. Connexion would import aiohttp, which takes 10 MB and a fifth of the start.
        sys.modules["aiohttp"] = None  # type: ignore[assignment]  # None prevents an import
        gc.disable()  # until the start is complete, which creates almost no garbage
        try:
            module = importlib.import_module(module_name)
            handler = getattr(module, name)
            take_counts = getattr(module, "take_counts", list)
            getattr(module, "init", lambda: None)()
            gc.enable()
        except Exception as error:  # noqa: BLE001 - the supervisor reports any error, in one line
            supervisor.sendall(to_json({"error": one_line(error)}).encode())
            return 1
        supervisor.sendall(b"{}\n")
    with socket.socket(fileno=int(arguments[0])) as channel:
        serve(channel, slot, handler, take_counts)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
