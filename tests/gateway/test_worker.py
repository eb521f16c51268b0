"""A worker's loop, its packets and its slot."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.gateway import worker
from tests import servers
from tests.servers import Server

EVENT: dict[str, Any] = {"requestContext": {"requestId": "id-1"}, "body": "x"}
CALL = {"event": EVENT, "timeout": 5, "begin_by": time.monotonic() + 86_400}


def responses(
    *packets: bytes,
    handler: Any = lambda event, _context: event["body"],
    take_counts: Callable[[], Any] = list,
) -> dict[int, Any]:
    """A worker's responses to these packets, by number."""
    gateway, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slot, descriptor = worker.create_slot()
    os.close(descriptor)
    with gateway, channel:
        for packet in packets:
            worker.send(gateway, packet)
        gateway.shutdown(socket.SHUT_WR)
        worker.serve(channel, slot, handler, take_counts)
        assert slot[0] == 0
        channel.close()
        received = {}
        while response := worker.receive(gateway):
            received[response.number] = worker.decode(response)
    return received


@pytest.mark.parametrize(
    "packet",
    [
        worker.NUMBER.pack(1) + b"nonsense",
        worker.NUMBER.pack(1) + b"[]",
        worker.encode(1, {}),
        worker.encode(1, {**CALL, "timeout": None}),
        worker.encode(1, {**CALL, "event": []}),
        worker.NUMBER.pack(1) + b"{" * 100_000,
    ],
    ids=["not JSON", "list", "empty", "no time-out", "no event", "deep"],
)
def test_malformed_call_fails_and_the_next_succeeds(packet: bytes) -> None:
    """No malformed call ends the worker."""
    assert responses(packet, worker.encode(2, CALL)) == {1: {"failed": True}, 2: {"result": "x"}}


def test_packet_without_a_number_fails_as_call_0() -> None:
    """No call has the number 0."""
    assert responses(b"short", worker.encode(2, CALL)) == {0: {"failed": True}, 2: {"result": "x"}}


def test_response_carries_counts_if_there_are_any() -> None:
    """Those of a call that fails are carried by the next response."""
    counts = [[["result", ["server"], 1]], [], [["refusal", ["", "badCSR"], 2]]]
    bad = worker.encode(2, {**CALL, "event": {**EVENT, "body": 1}})
    received = responses(
        worker.encode(1, CALL),
        bad,
        worker.encode(3, CALL),
        worker.encode(4, CALL),
        handler=lambda event, _context: event["body"].upper(),
        take_counts=lambda: counts.pop(0),
    )
    assert received == {
        1: {"result": "X", "counts": [["result", ["server"], 1]]},
        2: {"failed": True},
        3: {"result": "X"},
        4: {"result": "X", "counts": [["refusal", ["", "badCSR"], 2]]},
    }


def test_late_call_is_not_begun() -> None:
    """The gateway has already refused it; a call in time gets a response."""
    late = {**CALL, "begin_by": time.monotonic() - 0.01}
    assert responses(worker.encode(1, late), worker.encode(2, CALL)) == {2: {"result": "x"}}


@pytest.mark.parametrize("result", [{1, 2}, object()])
def test_unencodable_result_is_a_failure(result: object, capsys: pytest.CaptureFixture[str]) -> None:
    """The log contains the request ID."""
    assert responses(worker.encode(1, CALL), handler=lambda *_: result) == {1: {"failed": True}}
    assert capsys.readouterr().err.startswith("id-1: the handler failed\nTraceback")


def test_slot_is_writable_by_its_worker_only() -> None:
    """Others can neither write nor shrink it, even if they open the descriptor again."""
    slot, descriptor = worker.create_slot()
    view = worker.map_slot(descriptor)
    slot[0] = 7
    assert view[0] == 7
    with pytest.raises(TypeError):
        view[0] = 8
    reopened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    for number in (descriptor, reopened):
        with pytest.raises(PermissionError):
            mmap.mmap(number, 8)
        with pytest.raises(PermissionError):
            os.pwrite(number, b"12345678", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(number, 0)
        os.close(number)


def test_call_timeout_ends_the_worker_by_sigalrm() -> None:
    """This works even while the handler is in a system call."""
    code = (
        "import signal, sys, time\nfrom tests.gateway import test_worker as t\nfrom service.gateway import worker\n"
        "call = {**t.CALL, 'timeout': 0.1, 'begin_by': time.monotonic() + 9}\n"
        "t.responses(worker.encode(1, call), handler=lambda *_: time.sleep(float(sys.argv[1])))"
    )
    runs = [servers.run(sys.executable, "-c", code, seconds, check=False) for seconds in ("0", "9")]
    assert [run.returncode for run in runs] == [0, -signal.SIGALRM]


def test_worker_exits_without_a_supervisor() -> None:
    """It does not wait for secrets or calls after the other ends are closed."""
    gateway, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor, link = socket.socketpair()
    descriptors = [channel.fileno(), link.fileno()]
    command = [sys.executable, "-m", "service.gateway.worker", *map(str, descriptors)]
    with channel, link:
        process = subprocess.Popen([*command, "nowhere.handler"], pass_fds=descriptors)
    supervisor.close()
    gateway.close()
    assert process.wait(20) == 1


def test_worker_collects_garbage_after_its_start(second_api_server: Server) -> None:
    assert second_api_server.request("GET", "/books").json()["collects"] == [False, True]


def test_worker_does_not_load_the_gateway_http_server(server: Server) -> None:
    """Connexion would import aiohttp. The function has none on AWS."""
    for name, expected in (("worker", False), ("server", True)):
        for pid in server.pids(name):
            assert ("/aiohttp/" in Path(f"/proc/{pid}/maps").read_text()) is expected
