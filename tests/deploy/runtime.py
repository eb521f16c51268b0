"""A Lambda Runtime API for one function: what AWS puts beside every function's process.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html: the runtime client asks for the next
event, and posts a result, an error, or an error of its init phase.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy import build

_PREFIX = "/2018-06-01/runtime/"


@dataclass
class Runtime:
    """A function's process, and the events that it gets."""

    process: subprocess.Popen[bytes]
    log: Path
    events: queue.Queue[tuple[str, Any]] = field(default_factory=queue.Queue)
    outcomes: queue.Queue[tuple[str, Any]] = field(default_factory=queue.Queue)

    def invoke(self, event: Any, timeout: float = 30) -> tuple[str, Any]:
        """Have one event answered: ("response" or "error", what was posted)."""
        self.events.put((str(uuid.uuid4()), event))
        return self.outcomes.get(timeout=timeout)

    def resident(self) -> int:
        """The process's resident memory, in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


def install(client: Path, python: str) -> None:
    """Lambda's own runtime client for a Python, from the lock, into a directory of its own."""
    wheels = [f"--platform={glibc}_x86_64" for glibc in build.GLIBC]
    options = [f"--python-version={python}", "--only-binary=:all:", "--no-deps", "--require-hashes"]
    lock = build.ROOT / "deploy" / "lock" / "lambda.txt"
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *wheels, *options]
        + ["--target", str(client), "-r", str(lock)],
        check=True,
    )


def _handler(runtime: list[Runtime]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionResetError):  # the function was ended
                super().handle_one_request()

        def do_GET(self) -> None:
            number, event = runtime[0].events.get()
            headers = {
                "Lambda-Runtime-Aws-Request-Id": number,
                "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 10_000),
                "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:000000000000:function:certlet",
                "Content-Type": "application/json",
            }
            self._answer(200, json.dumps(event).encode(), headers)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kind = "init error" if self.path == f"{_PREFIX}init/error" else self.path.rpartition("/")[2]
            runtime[0].outcomes.put((kind, body))
            self._answer(202, b"{}", {})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    return Handler


@contextlib.contextmanager
def running(task: Path, python: Path, client: Path, log: Path, **env: str) -> Iterator[Runtime]:
    """A function, unpacked in `task`, run by `python` with the runtime client in `client`."""
    here: list[Runtime] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(here))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(task), str(client)]),
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "LAMBDA_TASK_ROOT": str(task),
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        **env,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), "-S", "-m", "awslambdaric", "function.handler"],
            cwd=task,
            env=environ,
            stdout=output,
            stderr=output,
        )
    here.append(Runtime(process, log))
    thread.start()
    try:
        yield here[0]
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()
