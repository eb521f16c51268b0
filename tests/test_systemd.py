"""Messages to systemd; `tests/cli/test_serve_reload.py` has those of a server."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from service.systemd import Notifier


@pytest.mark.parametrize("is_abstract", [False, True])
def test_messages_arrive_at_the_socket(tmp_path: Path, *, is_abstract: bool) -> None:
    """A path, or a name of the abstract namespace, which begins with @. One datagram has several lines."""
    address = f"@{tmp_path}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{tmp_path}" if is_abstract else address)
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": address}).ready("serving")
        assert manager.recv(999) == b"READY=1\nSTATUS=serving"


def test_missing_manager_is_no_error(tmp_path: Path) -> None:
    """Without the variable, and if nothing listens at its address."""
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "none")}):
        Notifier(environ).stopping()


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        ({}, 30.0),
        ({"WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": ""}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
        ({"NOTIFY_SOCKET": ""}, 0.0),
    ],
)
def test_watchdog_is_for_this_process(change: dict[str, str], seconds: float) -> None:
    """Only a time for this process, from a manager that gets messages."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000", **change}
    assert Notifier(environ).watchdog == seconds


def test_variables_are_taken_from_the_environment() -> None:
    """So no child process sends messages."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "", "PATH": "/bin"}
    environ["WATCHDOG_PID"] = str(os.getpid())
    assert Notifier.take(environ).watchdog == 2.0
    assert environ == {"PATH": "/bin"}
