"""Messages to systemd, or another service manager with its protocol (sd_notify(3)).

A library would not be shorter: each message is one datagram of lines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

_ADDRESS: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"
_TIMEOUT: Final = 1.0  # seconds for the manager to read earlier messages


class Notifier:
    """Sends messages, if the service manager expects any.

    Attributes:
        watchdog: seconds after which the service manager ends a service that does not send `alive`; 0 if it
            does not.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read the variables of sd_notify(3) and sd_watchdog_enabled(3)."""
        self._address = environ.get(_ADDRESS, "")
        is_for_this = environ.get(_WATCHDOG_PID, str(os.getpid())) == str(os.getpid())
        microseconds = environ.get(_WATCHDOG, "") if self._address and is_for_this else ""
        self.watchdog = int(microseconds) / 1_000_000 if microseconds.isdecimal() else 0.0

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Read the variables and remove them, so that no other process sends messages."""
        notifier = cls(environ)
        for name in (_ADDRESS, _WATCHDOG, _WATCHDOG_PID):
            environ.pop(name, None)
        return notifier

    def ready(self, status: str) -> None:
        """Send that the service serves, also after a reload; `status` is one line for people."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Send that a reload has begun; `ready` ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=reloading")

    def stopping(self) -> None:
        """Send that the service stops."""
        self._send("STOPPING=1", "STATUS=finishing requests")

    def alive(self) -> None:
        """Send that the service works."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # The service goes on without its manager.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(_TIMEOUT)
            client.connect(address)
            client.send("\n".join(lines).encode())
