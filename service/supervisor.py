"""`certlet serve`: starts the gateway, workers and a validator of challenges, each in a separate process.

The supervisor starts all of them without the secrets of the environment (the CA's passphrase, AWS
credentials). A worker gets the secrets through a socket, once its memory is protected. So the process that
serves the network can neither open the CA's key nor request signatures from KMS.

SIGHUP starts another generation of workers, with what has changed. Once they are ready, the gateway sends
them all further calls, and the former ones finish theirs. If any of this fails, all goes on as before.
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
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from service import challenge_queue
from service.gateway.api_keys import KeyFile, KeyFileError, to_json
from service.gateway.configuration import Configuration
from service.gateway.worker import NUMBER, encode, map_slot, send
from service.hardening import SECRET_ENV_PREFIXES
from service.systemd import Notifier

SHUTDOWN_TIMEOUT: Final = 40.0  # seconds for the gateway to exit; longer than it waits for requests
# A request touches much memory; huge pages reduce TLB misses. Only glibc supports this (mallopt(3)).
HUGE_PAGES: Final = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
RESTART_DELAY: Final = 1.0  # seconds between attempts to replace a worker that does not start
_VALIDATOR: Final = "service.http_validator"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOPPING: Final = "the server is stopping"
_RETIREMENT: Final = 60.0  # seconds for a validator to finish its challenges; longer than it needs

_log = logging.getLogger(__name__)

TOKEN_HANDLER: Final = "service.token_worker.handler"  # noqa: S105 - not a password


class ServeError(Exception):
    """The gateway or a worker did not start; the message is one line."""


@dataclass(frozen=True)
class Setup:
    """What a server is started with, and what a reload replaces.

    Attributes:
        configuration: the gateway's.
        environ: the workers' environment, including the secrets.
        validator: the arguments of `service.http_validator` after the first; empty for no validator.
        accepts_tokens: whether to start the worker that verifies tokens, which gets no secret.
    """

    configuration: Configuration
    environ: Mapping[str, str]
    validator: Sequence[str] = ()
    accepts_tokens: bool = False


Apply = Callable[[Setup], None]
"""Replaces the set-up, or raises ServeError and changes nothing."""


class _Workers:
    """Workers with one handler, and the channel that they share.

    Attributes:
        handler: `module.function`.
        secrets: the environment that they get once their memory is protected, as a line of JSON.
        count: how many there are.
        gateway_end, channel: the gateway's end of the channel, and that of the workers.
    """

    def __init__(self, handler: str, secrets: Mapping[str, str], count: int) -> None:
        self.handler = handler
        self.secrets = json.dumps(secrets).encode() + b"\n"
        self.count = count
        self.gateway_end, self.channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class _Generation:
    """The workers and the validator of a set-up: starts them, replaces them when they exit, and stops them.

    Attributes:
        configuration: the gateway's.
        public: the environment without secrets.
        groups: the workers.
    """

    def __init__(self, handler: str, setup: Setup) -> None:
        """Split the environment; `start` starts the processes."""
        environ = setup.environ
        secrets = {name: value for name, value in environ.items() if name.startswith(SECRET_ENV_PREFIXES)}
        public = {name: value for name, value in environ.items() if name not in secrets}
        self.configuration = setup.configuration
        self.public = HUGE_PAGES | public if os.confstr("CS_GNU_LIBC_VERSION") else public
        self.groups = [_Workers(handler, secrets, setup.configuration.workers)]
        self.groups += [_Workers(TOKEN_HANDLER, {}, 1)] if setup.accepts_tokens else []
        self._validator = list(setup.validator)
        self._queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # the validator's end is first
        # Workers by handler and index, and the validator.
        self._processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._is_retiring = False
        self._running: set[tuple[_Workers, int]] = set()
        self._started: list[Future[None]] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the processes. Each has a thread, which inherits the mask of signals."""
        for workers in self.groups:
            for index in range(workers.count):
                future: Future[None] = Future()
                self._started.append(future)
                thread = threading.Thread(
                    target=self._keep_worker, args=(workers, index, future), daemon=True
                )
                self._threads.append(thread)
                thread.start()
        if self._validator:
            threading.Thread(target=self._keep_validator, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Wait until all workers are ready; raise ServeError if one does not start."""
        for future in self._started:
            future.result()

    @property
    def has_worker(self) -> bool:
        """Whether a worker of the function is running."""
        return any(workers is self.groups[0] for workers, _ in self._running.copy())

    def close_gateway_ends(self) -> None:
        """Close the gateway's ends here. The workers exit when the gateway closes them, too."""
        for workers in self.groups:
            workers.gateway_end.close()

    def retire(self) -> None:
        """Wait until the gateway has closed the channels and the workers have exited; then stop the rest."""
        self._is_retiring = True
        for thread in self._threads:
            thread.join()
        self.stop(_RETIREMENT)

    def stop(self, timeout: float = 1.0) -> None:
        """Wait for workers and validator to exit on EOF; kill each after `timeout` seconds."""
        self._stopping.set()
        self.close_gateway_ends()
        for end in self._queue:
            end.close()
        for process in list(self._processes.values()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join()
        for workers in self.groups:
            workers.channel.close()

    def _keep_worker(self, workers: _Workers, index: int, started: Future[None]) -> None:
        """Run a worker, and replace it whenever it exits. Each worker has a thread for this."""
        while not self._stopping.is_set():
            try:
                process, slot = self._start_worker(workers, index)
            except (OSError, ValueError, ServeError) as error:
                if not started.done():
                    started.set_exception(ServeError(str(error)))
                    return
                if self._is_retiring:
                    return
                _log.error("cannot start a worker: %s", error)
                self._stopping.wait(RESTART_DELAY)
                continue
            if not started.done():
                started.set_result(None)
            self._running.add((workers, index))
            try:
                send(workers.channel, encode(0, {"started": index}))
                status = process.wait()
                end = "timed_out" if status == -signal.SIGALRM else "failed"
                if not self._stopping.is_set():
                    _log.info("worker %d of %s exited with status %d", index, workers.handler, status)
                send(workers.channel, encode(slot[0], {end: True, "exited": index}))
            except OSError:  # the gateway has closed the channel
                return
            finally:
                self._running.discard((workers, index))

    def _keep_validator(self) -> None:
        """Run the validator, and replace it whenever it exits. Challenges wait in the queue meanwhile."""
        status = 0
        while not self._stopping.wait(RESTART_DELAY if status else 0):
            try:
                process = _spawn(_VALIDATOR, [self._queue[0]], self._validator, self.public)
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
            queue = [self._queue[1]] if self._validator and workers is self.groups[0] else []
            environ = self.public | {challenge_queue.VARIABLE: str(queue[0].fileno()) if queue else ""}
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


class Supervisor:
    """Starts the gateway and a generation of workers, replaces the latter, and stops all of them."""

    def __init__(self, handler: str, notifier: Notifier | None = None) -> None:
        """Use this Lambda handler, `module.function`; `run` starts the processes and sends their state."""
        self._handler = handler
        self._notifier = notifier or Notifier({})
        self._generations: list[_Generation] = []  # those that have processes; the latest is the last
        self._commands, self._gateway_commands = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests: SimpleQueue[None] = SimpleQueue()  # a member for each SIGHUP
        self._replies: SimpleQueue[dict[str, Any]] = SimpleQueue()  # of the gateway to reloads
        self._ready = threading.Event()
        self._responded = threading.Event()  # the gateway, to the last command
        self._stopping = threading.Event()

    def run(
        self,
        setup: Setup,
        listeners: Sequence[socket.socket],
        announce: Callable[[], None],
        reload: Callable[[Apply], str],
    ) -> int:
        """Serve until SIGTERM or SIGINT.

        Args:
            setup: what to start with.
            listeners: the sockets of the configuration, which are closed in this process.
            announce: called once the gateway serves.
            reload: called after SIGHUP, in another thread; returns a line about the result.

        Returns:
            the gateway's exit status.

        Raises:
            ServeError: the gateway or a worker did not start.
        """
        control, control_end = socket.socketpair()
        generation = self._add_generation(setup)
        # All threads block the signals, and one takes them. A handler would run late if its signal came just
        # before the main thread waits for a message.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        ends = [control_end, self._gateway_commands, *(workers.gateway_end for workers in generation.groups)]
        gateway = _spawn("service.gateway.server", ends, [], generation.public, listeners)
        for end in (*ends, *listeners):
            end.close()
        generation.start()
        threading.Thread(target=self._reload_forever, args=(reload,), daemon=True).start()
        if self._notifier.watchdog:
            threading.Thread(target=self._watch, daemon=True).start()
        ends_with_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
        for number in _SIGNALS:  # those that are ignored would be lost
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=self._take_signals, args=(gateway, ends_with_terminal), daemon=True).start()
        try:
            with control, contextlib.suppress(ConnectionError):
                control.sendall(setup.configuration.encode())
                generation.wait_until_ready()
                control.sendall(b"\n")  # the workers are ready
                self._serve_gateway(control, KeyFile(Path(setup.configuration.key_file)), announce)
            status = gateway.wait(SHUTDOWN_TIMEOUT)
            if status < 0:
                raise ServeError(f"the gateway was killed by signal {-status}")
            return status
        finally:
            self._stopping.set()
            self._replies.put({"reload_failed": _STOPPING})
            for generation in self._generations.copy():
                generation.stop()
            gateway.kill()
            gateway.wait()
            for number in _SIGNALS:  # there is no process to forward it to
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _add_generation(self, setup: Setup) -> _Generation:
        generation = _Generation(self._handler, setup)
        self._generations.append(generation)
        return generation

    def _take_signals(self, gateway: subprocess.Popen[bytes], ends_with_terminal: bool) -> None:  # noqa: FBT001 - of a thread
        """Forward SIGTERM and SIGINT to the gateway. SIGHUP reloads, unless the terminal was closed."""
        while not self._stopping.is_set():
            number = signal.sigwait(_SIGNALS)
            if number == signal.SIGHUP and not (ends_with_terminal and not _has_terminal()):
                self._requests.put(None)
            else:
                gateway.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
                self._notifier.stopping()

    def _serve_gateway(self, control: socket.socket, key_file: KeyFile, announce: Callable[[], None]) -> None:
        """Handle the messages of the gateway until it closes the socket."""
        with control.makefile("rb") as messages:
            for line in messages:
                message = json.loads(line)
                if "failed" in message:
                    raise ServeError(message["failed"])
                if "ready" in message:
                    announce()
                    self._notifier.ready("serving")
                    self._ready.set()
                elif "responds" in message:
                    self._responded.set()
                elif "reloaded" in message or "reload_failed" in message:
                    self._replies.put(message)
                else:
                    _send_keys(control, key_file)

    def _reload_forever(self, reload: Callable[[Apply], str]) -> None:
        """Reload after each SIGHUP, once the server is ready. Several during a reload cause one more."""
        self._ready.wait()
        while True:
            self._requests.get()
            while not self._requests.empty():
                self._requests.get()
            if self._stopping.is_set():
                return
            self._notifier.reloading()
            self._notifier.ready(reload(self._replace))

    def _watch(self) -> None:
        """Notify that the server works, as long as the gateway responds and a worker is running.

        A worker that hangs need not be noticed here: its call has a time-out.
        """
        self._ready.wait()
        # A quarter, not the usual half: a worker that is being replaced must not end the server.
        interval = self._notifier.watchdog / 4
        while True:
            self._responded.clear()
            with contextlib.suppress(OSError):  # it reads no commands, or has exited
                self._commands.send(b"?", socket.MSG_DONTWAIT)
            if self._stopping.wait(interval):
                return
            if self._responded.is_set() and self._generations[-1].has_worker:
                self._notifier.alive()

    def _replace(self, setup: Setup) -> None:
        """Replace the workers and the gateway's configuration; raise ServeError if that fails."""
        if self._stopping.is_set():
            raise ServeError(_STOPPING)
        former, generation = self._generations[-1], self._add_generation(setup)
        try:
            generation.start()
            generation.wait_until_ready()
            self._switch(generation)
        except (OSError, ServeError) as error:
            self._generations.remove(generation)
            generation.stop()
            raise ServeError(_STOPPING if self._stopping.is_set() else str(error)) from error
        generation.close_gateway_ends()
        threading.Thread(target=self._retire, args=(former,), daemon=True).start()

    def _switch(self, generation: _Generation) -> None:
        """Have the gateway use a generation from now on; raise ServeError if it refuses."""
        with os.fdopen(os.memfd_create("configuration", os.MFD_CLOEXEC), "wb") as file:
            file.write(generation.configuration.encode())
            file.flush()
            file.seek(0)
            channels = [workers.gateway_end.fileno() for workers in generation.groups]
            socket.send_fds(self._commands, [b"\n"], [file.fileno(), *channels])
        if error := self._replies.get().get("reload_failed"):
            raise ServeError(error)

    def _retire(self, generation: _Generation) -> None:
        generation.retire()
        self._generations.remove(generation)


def _send_keys(control: socket.socket, key_file: KeyFile) -> None:
    """Send the gateway the API keys. It cannot read their file, which is next to the CA's key."""
    try:
        reply: dict[str, object] = {"keys": to_json(key_file.read())}
    except KeyFileError as error:
        reply = {"error": str(error)}
    control.sendall(json.dumps(reply).encode() + b"\n")


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


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
