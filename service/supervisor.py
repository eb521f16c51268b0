"""`certlet serve`: the gateway and its workers, each in a process of its own.

The supervisor starts the gateway and the workers without the secrets of the environment (the CA's passphrase,
AWS credentials), and replaces workers. A worker gets them through a socket, once other processes cannot read
it. So the process that speaks to the network can neither open the CA's key nor ask KMS for a signature.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from service.gateway.api_keys import KeyFile, KeyFileError
from service.gateway.configuration import Configuration
from service.gateway.worker import NUMBER, encode, map_slot, send
from service.hardening import SECRET_ENV_PREFIXES

SHUTDOWN_TIMEOUT: Final = 40.0  # seconds for the gateway to exit; longer than it waits for requests
# A request touches much memory: with huge pages it misses the TLB less. Only glibc has this (mallopt(3)).
HUGE_PAGES: Final = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
RESTART_DELAY: Final = 1.0  # seconds between attempts to replace a worker that does not start
_STOP: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


class ServeError(Exception):
    """The gateway or a worker did not start; the message says why, in one line."""


class Supervisor:
    """Starts the gateway and the workers, replaces workers, and stops all of them."""

    def __init__(self, handler: str, environ: Mapping[str, str]) -> None:
        """Start nothing yet.

        Args:
            handler: the Lambda handler, `module.function`.
            environ: the workers' environment, with the secrets.
        """
        self._handler = handler
        secrets = {name: value for name, value in environ.items() if name.startswith(SECRET_ENV_PREFIXES)}
        self._secrets = json.dumps(secrets).encode() + b"\n"
        public = {name: value for name, value in environ.items() if name not in secrets}
        self._public = HUGE_PAGES | public if os.confstr("CS_GNU_LIBC_VERSION") else public
        self._gateway_channel, self._channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def run(self, configuration: Configuration, announce: Callable[[int], None]) -> int:
        """Serve until SIGTERM or SIGINT.

        Args:
            configuration: for the gateway.
            announce: called with the port once it is open.

        Returns:
            the gateway's exit status.

        Raises:
            ServeError: the gateway or a worker did not start.
        """
        control, child = socket.socketpair()
        started: list[Future[None]] = [Future() for _ in range(configuration.workers)]
        # A signal waits until it can be forwarded. The threads leave signals to the main thread, for ever.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        with child, self._gateway_channel:
            gateway = _spawn("service.gateway.server", [child, self._gateway_channel], [], self._public)
        for index, future in enumerate(started):
            threading.Thread(target=self._keep_worker, args=(index, future), daemon=True).start()
        for number in _STOP:
            signal.signal(number, lambda number, _frame: gateway.send_signal(number))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            with control, contextlib.suppress(ConnectionError):
                control.sendall(configuration.encode())
                for future in started:
                    future.result()
                control.sendall(b"\n")  # the workers are ready
                _serve_gateway(control, KeyFile(Path(configuration.key_file)), announce)
            status = gateway.wait(SHUTDOWN_TIMEOUT)
            if status < 0:
                raise ServeError(f"the gateway was ended by signal {-status}")
            return status
        finally:
            self._stop_workers()
            gateway.kill()
            gateway.wait()
            self._channel.close()
            for number in _STOP:  # nobody is left to forward it to
                signal.signal(number, signal.SIG_IGN)

    def _keep_worker(self, index: int, started: Future[None]) -> None:
        """Run a worker, and another one whenever it exits. In a thread of its own."""
        while not self._stopping.is_set():
            try:
                process, slot = self._start_worker(index)
            except (OSError, ValueError, ServeError) as error:
                if not started.done():
                    started.set_exception(ServeError(str(error)))
                    return
                _log.error("a worker does not start: %s", error)
                self._stopping.wait(RESTART_DELAY)
                continue
            if not started.done():
                started.set_result(None)
            end = "timed_out" if process.wait() == -signal.SIGALRM else "failed"
            try:
                send(self._channel, encode(slot[0], {end: True}))
            except OSError:  # the gateway is gone
                return

    def _start_worker(self, index: int) -> tuple[subprocess.Popen[bytes], memoryview]:
        """Start a worker and wait until it is ready; returns its slot, too."""
        link, worker_link = socket.socketpair()
        with worker_link:
            sockets = [self._channel, worker_link]
            process = _spawn("service.gateway.worker", sockets, [self._handler], self._public)
        self._workers[index] = process
        message = {"error": "its process ended"}
        with link, link.makefile("rb") as messages, contextlib.suppress(ConnectionError):
            for descriptor in socket.recv_fds(link, 1, 1)[1]:  # of its slot, once the worker is sealed
                with os.fdopen(descriptor):
                    slot = map_slot(descriptor)
                    socket.send_fds(self._channel, [NUMBER.pack(index)], [descriptor])
                link.sendall(self._secrets)
                message = json.loads(messages.readline() or json.dumps(message))
        if "error" in message:
            process.kill()
            process.wait()
            raise ServeError(message["error"])
        return process, slot

    def _stop_workers(self) -> None:
        """Wait for each worker to exit on EOF; kill it after one second."""
        self._stopping.set()
        for process in self._workers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            process.kill()
            process.wait()


def _serve_gateway(control: socket.socket, key_file: KeyFile, announce: Callable[[int], None]) -> None:
    """Do what the gateway asks until it hangs up."""
    with control.makefile("rb") as messages:
        for line in messages:
            message = json.loads(line)
            if "failed" in message:
                raise ServeError(message["failed"])
            if "port" in message:
                announce(message["port"])
                continue
            try:  # the gateway cannot read the file, which is next to the CA's key
                reply: dict[str, object] = {"keys": key_file.read()}
            except KeyFileError as error:
                reply = {"error": str(error)}
            control.sendall(json.dumps(reply).encode() + b"\n")


def _spawn(
    module: str, sockets: list[socket.socket], arguments: list[str], environ: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    descriptors = [end.fileno() for end in sockets]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        # -P: never a module of the directory that somebody happens to serve from.
        [sys.executable, "-P", "-m", module, *map(str, descriptors), *arguments],
        env=environ,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
    )
