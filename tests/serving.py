"""A running `certlet serve` for tests: a real process on a free loopback port, stopped afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
API_KEY = "test-key-0123456789-0123456789-0123456789"
CERTLET = [sys.executable, "-m", "service.cli"]


def environ(**change: str) -> dict[str, str]:
    """This process's environment without any CERTLET_ of its own, and the project importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CERTLET_")}
    return {**kept, "PYTHONPATH": str(ROOT), **change}


def certlet(
    *arguments: str | Path, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    return subprocess.run(
        [*CERTLET, *map(str, arguments)],
        cwd=cwd,
        env=environ(**(env or {})),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


@dataclass(frozen=True)
class Answer:
    """An HTTP answer of any status."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Site:
    """Something that answers HTTP below a URL."""

    url: str

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """Send one request; any status is an answer."""
        url, named = self.url + path, dict(headers or {})
        request = urllib.request.Request(url, data=body, headers=named, method=method)  # noqa: S310
        if body is not None and "content-type" not in {name.lower() for name in named}:
            request.add_unredirected_header("Content-type", "")
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())


@dataclass
class Server(Site):
    """A running server."""

    process: subprocess.Popen[str]
    said: list[str]
    log: Path

    def sign(self, order: object, key: str = API_KEY) -> Answer:
        """`POST /sign` with JSON."""
        headers = {"Content-Type": "application/json", "x-api-key": key}
        return self.request("POST", "/sign", json.dumps(order).encode(), headers)

    def logged(self) -> str:
        """What the server wrote to stderr so far."""
        return self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the server with a signal, and wait."""
        self.process.send_signal(number)
        return self.process.wait(40)


@contextlib.contextmanager
def serving(
    directory: Path,
    *arguments: str,
    command: Sequence[str] = (*CERTLET, "serve", "--port", "0"),
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Server]:
    """Serve until the end of the block."""
    log = directory / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=directory,
            env=environ(**(env if env is not None else {"CERTLET_API_KEY": API_KEY})),
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=pass_fds,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout as stdout:
            said = []
            for line in stdout:
                said.append(line.rstrip("\n"))
                if "sign.pem" in line:
                    break
            found = re.search(r"Form +(\S+)/sign", "\n".join(said))
            try:
                if not found:
                    raise AssertionError(f"the server did not start: {said} {log.read_text()}")
                yield Server(found.group(1), process, said, log)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(40)
