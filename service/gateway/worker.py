"""A worker: a process that answers calls with the Lambda handler, one at a time, as on AWS.

All workers share one end of a SOCK_SEQPACKET socket pair, the *channel*; the gateway has the other end. So
the kernel hands each call to an idle worker, and a call that no worker has begun is not lost with a worker.

A packet is the number of its call, and JSON. The JSON of a large message is in a sealed memfd, which the
packet carries next to the first byte. A worker writes the number of the call that it has begun into its
*slot*, shared memory that nobody else can write: if the worker dies, the slot says which call died with it.
A packet without JSON carries the slot of a new worker.
"""

from __future__ import annotations

import contextlib
import fcntl
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

NUMBER: Final = struct.Struct("=Q")  # of a call, from 1; a slot holds one too
MAX_PACKET: Final = 32_768  # bytes; what is longer goes into a memfd, for the socket's buffer is limited
MAX_MESSAGE: Final = 64 * 1024 * 1024  # bytes of JSON
_SEALED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_F_SEAL_FUTURE_WRITE: Final = 0x10  # linux/fcntl.h; Python has no name for it
to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


class Packet(NamedTuple):
    """A packet as it was received; `descriptors` has at most one member, which the receiver closes."""

    number: int
    data: bytes
    descriptors: list[int]


class Context:
    """What the handler gets as its second argument, as on Lambda."""

    def __init__(self, request_id: str, deadline: float) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the time-out."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def encode(number: int, message: Mapping[str, Any]) -> bytes:
    """Encode what JSON can say about the call of this number, in ASCII.

    Raises:
        TypeError, ValueError: JSON cannot say it.
    """
    return NUMBER.pack(number) + to_json(message).encode("ascii")


def send(channel: socket.socket, packet: bytes) -> None:
    """Send what `encode` returned.

    Raises:
        OSError: it was not sent; BlockingIOError if there is no room now.
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
        OSError: nothing was received; BlockingIOError if there is nothing now.
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
        ValueError: it is no message.
    """
    data = packet.data
    for descriptor in packet.descriptors:
        with os.fdopen(descriptor):
            _verify_seals(descriptor, _SEALED)  # to read anything but a memfd could block
            data = os.pread(descriptor, min(os.fstat(descriptor).st_size, MAX_MESSAGE), 0)
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message is an object")  # noqa: TRY004 - as JSON's own errors are
    return message


def create_slot() -> tuple[memoryview, int]:
    """Create a slot: a view to write it, and a descriptor through which nobody can write it."""
    descriptor = os.memfd_create("slot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, NUMBER.size)
    view = memoryview(mmap.mmap(descriptor, NUMBER.size)).cast("Q")
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return view, descriptor


def map_slot(descriptor: int) -> memoryview:
    """Map a worker's slot to read it.

    Raises:
        ValueError: it is no slot, or it could shrink, and to read it would end the process.
    """
    _verify_seals(descriptor, fcntl.F_SEAL_SHRINK)
    return memoryview(mmap.mmap(descriptor, NUMBER.size, prot=mmap.PROT_READ)).cast("Q")


def _verify_seals(descriptor: int, seals: int) -> None:
    with contextlib.suppress(OSError):  # it is no memfd
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & seals == seals:
            return
    raise ValueError("the descriptor is not a sealed memfd")


def serve(channel: socket.socket, slot: memoryview, handler: Callable[[Any, Context], Any]) -> None:
    """Answer calls until the gateway's end is closed. SIGALRM ends the process if a call takes too long."""
    with contextlib.suppress(ConnectionError):
        while packet := receive(channel):
            slot[0] = packet.number
            response = _respond(packet, handler)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if response:
                send(channel, response)
            slot[0] = 0


def _respond(packet: Packet, handler: Callable[[Any, Context], Any]) -> bytes | None:
    """The response to a call; None if it is late: the gateway has refused it."""
    request_id = "?"
    try:
        call = decode(packet)
        request_id, timeout = call["event"]["requestContext"]["requestId"], call["timeout"]
        if time.monotonic() > call["begin_by"]:
            return None
        signal.setitimer(signal.ITIMER_REAL, timeout)
        context = Context(request_id, time.monotonic() + timeout)
        return encode(packet.number, {"result": handler(call["event"], context)})
    except Exception:  # noqa: BLE001 - as on Lambda: the log gets the traceback, the caller a 502
        sys.stderr.write(f"{request_id}: the handler failed\n{traceback.format_exc()}")
        return encode(packet.number, {"failed": True})


def one_line(error: Exception) -> str:
    """An error in one line; if a file cannot be used, its name comes first."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def yield_to_others() -> None:
    """Do not preempt whoever wakes this process: gateway and worker would take turns after each packet."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main(arguments: list[str]) -> int:
    """Be a worker: `CHANNEL SUPERVISOR MODULE.FUNCTION`, the first two being descriptors of sockets.

    The supervisor sends the secret part of the environment once the process is sealed. The module may have a
    `init()`, which is called once before the first event: Lambda's init phase.
    """
    hardening.disable_core_dumps_and_ptrace()
    yield_to_others()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the gateway ends us
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    slot, descriptor = create_slot()
    with socket.socket(fileno=int(arguments[1])) as supervisor, supervisor.makefile("rb") as messages:
        socket.send_fds(supervisor, [b"\n"], [descriptor])
        os.close(descriptor)
        os.environ.update(json.loads(messages.readline() or sys.exit("the supervisor is gone")))
        module_name, _, name = arguments[2].rpartition(".")
        try:
            module = importlib.import_module(module_name)
            handler = getattr(module, name)
            getattr(module, "init", lambda: None)()
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor reports it, in one line
            supervisor.sendall(to_json({"error": one_line(error)}).encode())
            return 1
        supervisor.sendall(b"{}\n")
    with socket.socket(fileno=int(arguments[0])) as channel:
        serve(channel, slot, handler)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
