"""`certlet serve`: starts the gateway, workers and a validator of challenges, each in a separate process.

The supervisor starts all of them without the secrets of the environment (the CA's passphrase, AWS
credentials). A worker gets the secrets through a socket, once its memory is protected. So the process that
serves the network can neither open the CA's key nor request signatures from KMS.
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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from service import challenge_queue
from service.gateway.api_keys import KeyFile, KeyFileError, to_json
from service.gateway.configuration import Configuration
from service.gateway.worker import NUMBER, encode, map_slot, send
from service.hardening import SECRET_ENV_PREFIXES

SHUTDOWN_TIMEOUT: Final = 40.0  # seconds for the gateway to exit; longer than it waits for requests
# A request touches much memory; huge pages reduce TLB misses. Only glibc supports this (mallopt(3)).
HUGE_PAGES: Final = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
RESTART_DELAY: Final = 1.0  # seconds between attempts to replace a worker that does not start
_VALIDATOR: Final = "service.http_validator"
_STOP: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)

TOKEN_HANDLER: Final = "service.token_worker.handler"  # noqa: S105 - not a password


class ServeError(Exception):
    """The gateway or a worker did not start; the message is one line."""


class _Workers:
    """Workers with one handler, and the channel that they share.

    Attributes:
        handler: `module.function`.
        secrets: the environment that they get once their memory is protected, as a line of JSON.
        gateway_end, channel: the gateway's end of the channel, and that of the workers.
    """

    def __init__(self, handler: str, secrets: Mapping[str, str]) -> None:
        self.handler = handler
        self.secrets = json.dumps(secrets).encode() + b"\n"
        self.gateway_end, self.channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Supervisor:
    """Starts the processes, replaces workers and the validator, and stops all of them."""

    def __init__(
        self,
        handler: str,
        environ: Mapping[str, str],
        validator: Sequence[str] = (),
        *,
        accepts_tokens: bool = False,
    ) -> None:
        """Split the environment; `run` starts the processes.

        Args:
            handler: the Lambda handler, `module.function`.
            environ: the workers' environment, including the secrets.
            validator: the arguments of `service.http_validator` after the first; empty for no validator.
            accepts_tokens: whether to start the worker that verifies tokens, which gets no secret.
        """
        secrets = {name: value for name, value in environ.items() if name.startswith(SECRET_ENV_PREFIXES)}
        public = {name: value for name, value in environ.items() if name not in secrets}
        self._public = HUGE_PAGES | public if os.confstr("CS_GNU_LIBC_VERSION") else public
        self._workers = _Workers(handler, secrets)
        self._token_workers = _Workers(TOKEN_HANDLER, {}) if accepts_tokens else None
        self._validator = list(validator)
        self._queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # the validator's end is first
        # Workers by handler and index, and the validator.
        self._processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def run(
        self, configuration: Configuration, listeners: Sequence[socket.socket], announce: Callable[[], None]
    ) -> int:
        """Serve until SIGTERM or SIGINT.

        Args:
            configuration: the gateway's configuration.
            listeners: the sockets of the configuration, which are closed in this process.
            announce: called once the gateway serves.

        Returns:
            the gateway's exit status.

        Raises:
            ServeError: the gateway or a worker did not start.
        """
        control, child = socket.socketpair()
        groups = [(self._workers, configuration.workers)]
        groups += [(self._token_workers, 1)] if self._token_workers else []
        started: list[Future[None]] = []
        # Signals wait until they can be forwarded. Threads inherit the mask: only the main thread gets them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        ends = [child, *(workers.gateway_end for workers, _ in groups)]
        gateway = _spawn("service.gateway.server", ends, [], self._public, listeners)
        for end in (*ends, *listeners):
            end.close()
        for workers, count in groups:
            for index in range(count):
                future: Future[None] = Future()
                started.append(future)
                threading.Thread(target=self._keep_worker, args=(workers, index, future), daemon=True).start()
        if self._validator:
            threading.Thread(target=self._keep_validator, daemon=True).start()
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
                raise ServeError(f"the gateway was killed by signal {-status}")
            return status
        finally:
            self._stop_processes()
            gateway.kill()
            gateway.wait()
            for workers, _ in groups:
                workers.channel.close()
            for number in _STOP:  # there is no process to forward it to
                signal.signal(number, signal.SIG_IGN)

    def _keep_worker(self, workers: _Workers, index: int, started: Future[None]) -> None:
        """Run a worker, and replace it whenever it exits. Each worker has a thread for this."""
        while not self._stopping.is_set():
            try:
                process, slot = self._start_worker(workers, index)
            except (OSError, ValueError, ServeError) as error:
                if not started.done():
                    started.set_exception(ServeError(str(error)))
                    return
                _log.error("cannot start a worker: %s", error)
                self._stopping.wait(RESTART_DELAY)
                continue
            if not started.done():
                started.set_result(None)
            try:
                send(workers.channel, encode(0, {"started": index}))
                status = process.wait()
                end = "timed_out" if status == -signal.SIGALRM else "failed"
                if not self._stopping.is_set():
                    _log.info("worker %d of %s exited with status %d", index, workers.handler, status)
                send(workers.channel, encode(slot[0], {end: True, "exited": index}))
            except OSError:  # the gateway has exited
                return

    def _keep_validator(self) -> None:
        """Run the validator, and replace it whenever it exits. Challenges wait in the queue meanwhile."""
        status = 0
        while not self._stopping.wait(RESTART_DELAY if status else 0):
            try:
                process = _spawn(_VALIDATOR, [self._queue[0]], self._validator, self._public)
            except OSError as error:
                _log.error("cannot start the validator of challenges: %s", error)
                status = 1
                continue
            self._processes[_VALIDATOR, 0] = process
            status = process.wait()
            if status and not self._stopping.is_set():
                _log.error("the validator of challenges exited with status %s", status)

    def _start_worker(self, workers: _Workers, index: int) -> tuple[subprocess.Popen[bytes], memoryview]:
        """Start a worker and wait until it is ready; return its process and its slot."""
        link, worker_link = socket.socketpair()
        with worker_link:
            sockets = [workers.channel, worker_link]
            # Only for ACME: the worker that verifies tokens has no part in challenges.
            queue = [self._queue[1]] if self._validator and workers is self._workers else []
            environ = self._public | {challenge_queue.VARIABLE: str(queue[0].fileno()) if queue else ""}
            process = _spawn("service.gateway.worker", sockets, [workers.handler], environ, queue)
        self._processes[workers.handler, index] = process
        message = {"error": "the worker exited"}
        with link, link.makefile("rb") as messages, contextlib.suppress(ConnectionError):
            for descriptor in socket.recv_fds(link, 1, 1)[1]:  # its slot, once its memory is protected
                with os.fdopen(descriptor):
                    slot = map_slot(descriptor)
                    socket.send_fds(workers.channel, [NUMBER.pack(index)], [descriptor])
                link.sendall(workers.secrets)
                message = json.loads(messages.readline() or json.dumps(message))
        if "error" in message:
            process.kill()
            process.wait()
            raise ServeError(message["error"])
        _log.info("worker %d of %s is ready: process %d", index, workers.handler, process.pid)
        return process, slot

    def _stop_processes(self) -> None:
        """Wait for workers and validator to exit on EOF; kill each after one second."""
        self._stopping.set()
        for end in self._queue:
            end.close()
        for process in list(self._processes.values()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            process.kill()
            process.wait()


def _serve_gateway(control: socket.socket, key_file: KeyFile, announce: Callable[[], None]) -> None:
    """Handle the messages of the gateway until it closes the socket."""
    with control.makefile("rb") as messages:
        for line in messages:
            message = json.loads(line)
            if "failed" in message:
                raise ServeError(message["failed"])
            if "ready" in message:
                announce()
                continue
            try:  # the gateway cannot read the file, which is next to the CA's key
                reply: dict[str, object] = {"keys": to_json(key_file.read())}
            except KeyFileError as error:
                reply = {"error": str(error)}
            control.sendall(json.dumps(reply).encode() + b"\n")


def _spawn(
    module: str,
    sockets: list[socket.socket],
    arguments: list[str],
    environ: Mapping[str, str],
    inherited: Sequence[socket.socket] = (),
) -> subprocess.Popen[bytes]:
    descriptors = [end.fileno() for end in sockets]
    return subprocess.Popen(  # noqa: S603 - this interpreter, a module of this package
        # -P: never import a module from the working directory.
        [sys.executable, "-P", "-m", module, *map(str, descriptors), *arguments],
        env=environ,
        pass_fds=[*descriptors, *(end.fileno() for end in inherited)],
        stdin=subprocess.DEVNULL,
    )
