"""`certlet serve`: the gateway, and the function behind it, each in processes of its own.

The foreman has the environment, with the CA's passphrase and AWS's credentials in it. It starts the HTTP
process without those, and the function's processes with them, and hands the gateway one end of a socket to
each. So what speaks to the network can neither open the key, nor ask KMS for a signature, and still every
process that crashes is replaced.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Final

from service.gateway.server import Configuration

SECRETS: Final = ("CERTLET_CA_PASSPHRASE", "CERTLET_API_KEY", "AWS_")  # how their names begin
_PATIENCE: Final = 40.0  # seconds for the gateway to end by itself; longer than its own


class ServeError(Exception):
    """The gateway did not start; the message says why, in one line."""


class Foreman:
    """Starts, replaces and ends processes at the gateway's word."""

    def __init__(self, handler: str, environ: Mapping[str, str]) -> None:
        """Begin with no process.

        Args:
            handler: the function, `module.function`.
            environ: its environment, secrets and all.
        """
        self._handler = handler
        self._environ = dict(environ)
        self._workers: dict[int, subprocess.Popen[bytes]] = {}

    def run(self, configuration: Configuration, announce: Callable[[int], None]) -> int:
        """Serve until SIGTERM or SIGINT.

        Args:
            configuration: for the gateway.
            announce: called with the port once it is open.

        Returns:
            the gateway's exit status.

        Raises:
            ServeError: it did not start.
        """
        ours, theirs = socket.socketpair()
        public = {name: value for name, value in self._environ.items() if not name.startswith(SECRETS)}
        gateway = _spawn("service.gateway.server", theirs, [], public)

        def forward(number: int, _frame: FrameType | None) -> None:
            gateway.send_signal(number)

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, forward)
        try:
            with ours:
                ours.sendall(configuration.encode())
                self._obey(ours, announce)
            status = gateway.wait(_PATIENCE)
            if status < 0:
                raise ServeError(f"the gateway was ended by signal {-status}")
            return status
        finally:
            self._dismiss_all()
            gateway.kill()
            gateway.wait()

    def _obey(self, line: socket.socket, announce: Callable[[int], None]) -> None:
        """Do what the gateway asks until it hangs up."""
        with contextlib.suppress(ConnectionResetError), line.makefile("rb") as words:
            for word in words:
                message = json.loads(word)
                if "failed" in message:
                    raise ServeError(message["failed"])
                if "port" in message:
                    announce(message["port"])
                else:
                    self._hire(line, message["instead_of"])

    def _hire(self, line: socket.socket, instead_of: int | None) -> None:
        for number, process in list(self._workers.items()):
            if number == instead_of or process.poll() is not None:
                _end(self._workers.pop(number))
        ours, theirs = socket.socketpair()
        process = _spawn("service.gateway.function", theirs, [self._handler], self._environ)
        self._workers[process.pid] = process
        with ours:
            socket.send_fds(line, [json.dumps({"number": process.pid}).encode()], [ours.fileno()])

    def _dismiss_all(self) -> None:
        """Let each finish: its socket is closed already, so it ends by itself or is ended."""
        for process in self._workers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            _end(process)


def _spawn(
    module: str, end: socket.socket, arguments: list[str], environ: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with end:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: never a module of the directory that somebody happens to serve from.
            [sys.executable, "-P", "-m", module, str(end.fileno()), *arguments],
            env=dict(environ),
            pass_fds=[end.fileno()],
            stdin=subprocess.DEVNULL,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
