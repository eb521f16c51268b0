"""A running `certlet serve` for tests: a real process on a free loopback port, stopped afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from service.keystore import ca_directory
from service.pki.hierarchy import SUFFIX_BYTES, create_hierarchy
from service.supervisor import TOKEN_HANDLER

ROOT = Path(__file__).parent.parent
API_KEY = "test-key-0123456789-0123456789-0123456789"
CERTLET = [sys.executable, "-m", "service.cli"]
SERVE = [*CERTLET, "serve", "--create"]


def environ(**change: str) -> dict[str, str]:
    """This process's environment without its CERTLET_ variables; the project is importable."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CERTLET_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **change}


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 300,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it.

    Raises:
        AssertionError: `check` is set, and the command failed.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ() if env is None else env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, (command, done.stdout[-4000:], done.stderr[-4000:])
    return done


def wait_until(condition: Callable[..., object], seconds: float = 30) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: it is still false after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds} s"
        time.sleep(0.02)


# The kernel gives the ports from 32768 on to clients and to listeners of port 0: one of these could take a port before
# the server of a test listens there. Each process of the tests has a range of its own.
FIRST_PORT = 12000 + os.getpid() % 100 * 200
PORTS = itertools.cycle(range(FIRST_PORT, FIRST_PORT + 200, 2))


def free_port() -> int:
    """A TCP port of the loopback interface that is free now, as the next one is."""
    for port in itertools.islice(PORTS, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port
    raise AssertionError("no port is free")


def child_pids(pid: int) -> list[int]:
    """The children of a process, of any of its threads, that it has not waited for."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return sorted(int(child) for numbers in lists for child in numbers)


def descendant_pids(pid: int) -> list[int]:
    """The children of a process, and their descendants."""
    children = child_pids(pid)
    return children + [pid for child in children for pid in descendant_pids(child)]


def running_module(pid: int) -> str:
    """The module that a Python process runs; '' if it has exited or runs no module.

    For the worker that verifies tokens, its handler.
    """
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return ""
    if TOKEN_HANDLER in arguments:
        return TOKEN_HANDLER
    return arguments[arguments.index("-m") + 1] if "-m" in arguments else ""


def resident_kib(pid: int) -> int:
    """The resident memory of a process, in KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


class QuietHandler(BaseHTTPRequestHandler):
    """Writes no log; subclasses implement `respond`."""

    def respond(self) -> None:
        """Respond to one GET or POST."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.respond()

    def do_POST(self) -> None:
        self.respond()

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """Send one response; underscores in header names become hyphens."""
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client disconnected
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def log_message(self, *_: object) -> None:
        """Write no log."""


@contextlib.contextmanager
def http_server(
    handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve until the end of the block, with TLS if there is a context, and yield the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})  # seconds
        thread.start()
        try:
            yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def certlet(
    *arguments: str | Path, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of `certlet` and wait for it."""
    return subprocess.run(
        [*CERTLET, *map(str, arguments)],
        cwd=cwd,
        env=environ(**(env or {})),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def create_script(path: Path, script: str = f'exec {shlex.join(CERTLET)} "$@"') -> Path:
    """Write a program for sh, `certlet` by default, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Response:
    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class HttpService:
    """An HTTP service at a base URL."""

    url: str

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Response:
        """Send one request; no status raises."""
        url, fields = self.url + path, dict(headers or {})
        request = urllib.request.Request(url, data=body, headers=fields, method=method)  # noqa: S310
        if body is not None and "content-type" not in {name.lower() for name in fields}:
            request.add_unredirected_header("Content-type", "")
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
                return Response(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Response(error.code, error.headers, error.read())


@dataclass
class Server(HttpService):
    process: subprocess.Popen[str]
    output: list[str]
    log: Path

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def pids(self, name: str) -> list[int]:
        """Its child processes that run a module of `service.gateway`."""
        return [
            pid for pid in child_pids(self.process.pid) if running_module(pid) == f"service.gateway.{name}"
        ]

    def sign(self, body: object, key: str = API_KEY) -> Response:
        """`POST /sign` with JSON."""
        headers = {"Content-Type": "application/json", "x-api-key": key}
        return self.request("POST", "/sign", json.dumps(body).encode(), headers)

    def read_log(self) -> str:
        return self.log.read_text()

    def processes(self) -> dict[int, str]:
        """The module of each process: supervisor, gateway and workers."""
        return {pid: running_module(pid) for pid in (self.process.pid, *descendant_pids(self.process.pid))}

    def reload(self, change: Callable[[], object] = lambda: None) -> str:
        """Send SIGHUP, then call `change`; return the line that says what the reload changed, or why not."""

        def lines() -> list[str]:
            return re.findall("^certlet: ((?:not )?reloaded: .*)\n", self.read_log(), re.MULTILINE)

        count = len(lines())
        self.process.send_signal(signal.SIGHUP)
        change()
        wait_until(lambda: len(lines()) > count)
        return lines()[count]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the server a signal, and wait for its exit; return its status."""
        self.process.send_signal(number)
        return self.process.wait(40)


def create_ca(directory: Path, passphrase: str = "") -> None:
    """Create a CA as `certlet init` does, in this process: a command takes 0.3 s."""
    hierarchy = create_hierarchy("Certlet", secrets.token_hex(SUFFIX_BYTES), "p-256", datetime.now(UTC))
    ca_directory.save_hierarchy(directory, hierarchy, passphrase.encode() or None)


@contextlib.contextmanager
def certlet_server(
    directory: Path,
    *arguments: str,
    command: Sequence[str] = (*SERVE, "--port", "0"),
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    log: str = "server.log",
) -> Iterator[Server]:
    """Run `certlet serve --create`, or another command, until the end of the block.

    Without `--ca` and `--ephemeral`, its CA is in `ca`, which is created here, faster, if it does not exist.
    """
    env = env if env is not None else {"CERTLET_API_KEY": API_KEY}
    ca = directory / "ca"
    has_default_ca = "serve" in command and not {"--ca", "--ephemeral"} & {*command, *arguments}
    if has_default_ca and not ca_directory.has_ca(ca):
        create_ca(ca, env.get("CERTLET_CA_PASSPHRASE", ""))
    path = directory / log
    with path.open("w") as stderr:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=directory,
            env=environ(**env),
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=pass_fds,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout as stdout:
            output = []
            for line in stdout:
                output.append(line.rstrip("\n"))
                if "sign.pem" in line or "/profiles" in line or line.startswith("{"):
                    break
            match = re.search(r'^(?:Web pages (\S+)/$|\{"url": "([^"]+)")', "\n".join(output), re.MULTILINE)
            try:
                if not match:
                    raise AssertionError(f"the server did not start: {output} {path.read_text()}")
                yield Server(match[1] or match[2], process, output, path)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(40)
