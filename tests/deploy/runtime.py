"""The Lambda Runtime API for one function, as AWS provides it to every function's process.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html: the runtime client requests the next
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
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from deploy import build
from tests import servers

_PREFIX = "/2018-06-01/runtime/"


@dataclass
class Runtime:
    """A function's process, its queue of events, and the outcomes that it posts."""

    process: subprocess.Popen[bytes]
    log: Path
    events: queue.Queue[tuple[str, Any]] = field(default_factory=queue.Queue)
    outcomes: queue.Queue[tuple[str, Any]] = field(default_factory=queue.Queue)

    def invoke(self, event: Any, timeout: float = 30) -> tuple[str, Any]:
        """Send one event; return "response" or "error", and the body that the function posted."""
        self.events.put((str(uuid.uuid4()), event))
        return self.outcomes.get(timeout=timeout)

    def resident_kib(self) -> int:
        """Return the process's resident memory, in KiB."""
        return servers.resident_kib(self.process.pid)


def install(client: Path, python: str) -> None:
    """Install Lambda's runtime client for a Python version, from the lock, into a directory."""
    wheels = [f"--platform={glibc}_x86_64" for glibc in build.GLIBC]
    options = [f"--python-version={python}", "--only-binary=:all:", "--no-deps", "--require-hashes"]
    lock = build.ROOT / "deploy" / "lock" / "lambda.txt"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    servers.run(*pip, *wheels, *options, "--target", client, "-r", lock)


def _handler(runtimes: list[Runtime]) -> type[BaseHTTPRequestHandler]:
    class Handler(servers.QuietHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionResetError):  # the function was killed
                super().handle_one_request()

        def respond(self) -> None:
            if self.command == "POST":
                kind = "init error" if self.path == f"{_PREFIX}init/error" else self.path.rpartition("/")[2]
                runtimes[0].outcomes.put((kind, json.loads(self.body())))
                self.reply(202, b"{}")
                return
            request_id, event = runtimes[0].events.get()
            self.reply(
                200,
                json.dumps(event).encode(),
                Lambda_Runtime_Aws_Request_Id=request_id,
                Lambda_Runtime_Deadline_Ms=str(int(time.time() * 1000) + 10_000),
                Lambda_Runtime_Invoked_Function_Arn="arn:aws:lambda:eu-central-1:000000000000:function:certlet",
                Content_Type="application/json",
            )

    return Handler


@contextlib.contextmanager
def run_function(task: Path, python: Path, client: Path, log: Path, **env: str) -> Iterator[Runtime]:
    """Run the function unpacked in `task` with `python` and the runtime client in `client`."""
    runtimes: list[Runtime] = []
    with servers.http_server(_handler(runtimes)) as url, log.open("wb") as output:
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(task), str(client)]),
            "AWS_LAMBDA_RUNTIME_API": url.removeprefix("http://"),
            "LAMBDA_TASK_ROOT": str(task),
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            **env,
        }
        command = [str(python), "-S", "-m", "awslambdaric", "function.handler"]
        process = subprocess.Popen(command, cwd=task, env=environ, stdout=output, stderr=output)
        runtimes.append(Runtime(process, log))
        try:
            yield runtimes[0]
        finally:
            process.kill()
            process.wait()
