"""`certlet serve`: the gateway, and the function behind it, each in processes of its own.

The foreman has the environment, with the CA's passphrase and AWS's credentials in it. It starts the HTTP
process without those, and the function's processes with them, and hands the gateway one end of a socket to
each. So what speaks to the network can neither open the key, nor ask KMS for a signature, and still every
process that crashes is replaced.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service import files
from service.gateway.configuration import Configuration
from service.gateway.usage import OWN_NAME

SECRETS: Final = ("CERTLET_CA_PASSPHRASE", "CERTLET_API_KEY", "AWS_")  # how their names begin
_STOP: Final = (signal.SIGTERM, signal.SIGINT)
_PATIENCE: Final = 40.0  # seconds for the gateway to end by itself; longer than its own


class ServeError(Exception):
    """The gateway did not start; the message says why, in one line."""


@contextlib.contextmanager
def own_certificate(names: Sequence[str], profile: str | None) -> Iterator[dict[str, Any]]:
    """What has the gateway serve HTTPS with a certificate of the CA that it serves.

    The key, P-256, lives in a directory of this user's alone, which ends with the block.

    Args:
        names: the server's DNS names and IP addresses.
        profile: the certificate profile; None for the default one.

    Yields:
        members of the gateway's configuration: files, and the event that has the function sign.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    order = {"csr": signed.public_bytes(Encoding.PEM).decode(), "text": False}
    with tempfile.TemporaryDirectory(prefix="certlet-tls-") as directory:
        key_file = Path(directory) / "server.key"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files.write_atomically(key_file, pem, 0o600)
        yield {
            "tls_certificate": str(Path(directory) / "server.crt"),
            "tls_key": str(key_file),
            "tls_order": event("POST", "/sign", order | ({"profile": profile} if profile else {})),
        }


def event(method: str, path: str, order: Mapping[str, object] | None = None) -> dict[str, Any]:
    """A proxy event of our own, with our own name for who asks."""
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": {"Content-Type": "application/json", "X-Forwarded-Proto": "https"},
        "queryStringParameters": None,
        "requestContext": {"identity": {"apiKeyId": OWN_NAME}},
        "body": json.dumps(order) if order else None,
        "isBase64Encoded": False,
    }


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class _Worker:
    """A process of the function, and the gateway's end of the socket to it."""

    process: subprocess.Popen[bytes]
    end: socket.socket


class Foreman:
    """Starts, replaces and ends processes at the gateway's word; the first ones before it asks."""

    def __init__(self, handler: str, environ: Mapping[str, str]) -> None:
        """Begin with no process.

        Args:
            handler: the function, `module.function`.
            environ: its environment, secrets and all.
        """
        self._handler = handler
        self._environ = dict(environ)
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._ahead: deque[_Worker] = deque()  # started before the gateway asked for them

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

        for each in _STOP:
            signal.signal(each, forward)
        try:
            with ours:
                # Before it asks: it imports for a while, and so do they.
                self._ahead.extend(self._start() for _ in range(configuration.workers))
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
            for each in _STOP:  # nobody is left to be told
                signal.signal(each, signal.SIG_IGN)

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
        worker = self._ahead.popleft() if self._ahead else self._start()
        self._workers[worker.process.pid] = worker.process
        with worker.end:
            message = json.dumps({"number": worker.process.pid}).encode()
            socket.send_fds(line, [message], [worker.end.fileno()])

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        return _Worker(_spawn("service.gateway.function", theirs, [self._handler], self._environ), ours)

    def _dismiss_all(self) -> None:
        """Let each finish: its socket is closed already, so it ends by itself or is ended."""
        for worker in self._ahead:  # which nobody asked anything
            worker.end.close()
            _end(worker.process)
        for process in self._workers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            _end(process)


def _spawn(
    module: str, end: socket.socket, arguments: list[str], environ: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    # What is asked to stop before it listens to that does so once it listens.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        with end:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                # -P: never a module of the directory that somebody happens to serve from.
                [sys.executable, "-P", "-m", module, str(end.fileno()), *arguments],
                env=dict(environ),
                pass_fds=[end.fileno()],
                stdin=subprocess.DEVNULL,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
