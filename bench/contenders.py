"""The compared servers: Certlet with one worker, and `cfssl serve`, with the same CA, on the same core."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from bench import load
from bench.endpoints import Endpoint
from bench.load import BenchError, Load
from bench.source import PRESENT, Source
from service.keystore import ca_directory
from tests import servers
from tests.servers import API_KEY, HttpService

KEY_TYPES: Final = ("p-256", "rsa-2048")
"""The CA's key types; the requests' keys are P-256."""

_START_TIMEOUT: Final = 20.0  # seconds for a server to start
_STOP_TIMEOUT: Final = 40.0  # seconds for a server to stop
_MAX_RETRIES: Final = 10  # of a request to a busy server
_MAX_HEADER_BYTES: Final = 1000  # more than the size of a response's headers, in bytes

# Like Certlet's default profile: 90 days, digitalSignature and serverAuth.
CFSSL_POLICY: Final = {
    "signing": {"default": {"expiry": "2160h", "usages": ["digital signature", "server auth"]}}
}


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        pid: its first process.
        url: its base URL.
        ca: the directory of its CA.
    """

    pid: int
    url: str
    ca: Path

    def post(self, endpoint: Endpoint, body: bytes) -> servers.Response:
        """Send one request."""
        return HttpService(self.url).request("POST", endpoint.path, body, endpoint.headers)


def create_ca(directory: Path, key_type: str, source: Source = PRESENT) -> Path:
    """Create a CA in a new directory below `directory`, and return that."""
    ca = directory / f"ca-{source.name}-{key_type}"
    options = [] if key_type == "p-256" else ["--key-type", key_type]  # the default, also of earlier commits
    source.run("service.cli", "init", ca, *options, cwd=directory)
    return ca


@contextlib.contextmanager
def certlet(
    directory: Path, ca: Path, source: Source = PRESENT, *, workers: int = 1, is_pinned: bool = True
) -> Iterator[Server]:
    """Run Certlet, with no usage plan and with its logs in files; if it is pinned, on the server's core."""
    directory.mkdir()
    port, log = servers.free_port(), directory / "server.log"
    url = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [sys.executable, "-P", "-m", "service.cli", "serve", "--port", str(port)]
    command += ["--ca", ca, f"--workers={workers}", source.no_usage_plan]
    command += ["--audit-log", directory / "audit.log"]
    pinned = load.pinned(load.cores()[0], command) if is_pinned else command
    environ = source.environ(CERTLET_API_KEY=API_KEY)
    with background(pinned, directory, environ, log, port) as process:
        try:
            HttpService(url).request("GET", "/")  # its response comes when the workers are ready
        except (OSError, http.client.HTTPException):
            raise BenchError(f"the server did not start: {log.read_text()}") from None
        yield Server(process.pid, url, ca)


@contextlib.contextmanager
def cfssl(directory: Path, ca: Path) -> Iterator[Server]:
    """Run cfssl, with GOMAXPROCS=1, and with its log in a file."""
    directory.mkdir()
    policy, log = directory / "policy.json", directory / "cfssl.log"
    policy.write_text(json.dumps(CFSSL_POLICY))
    port = servers.free_port()
    command: list[str | Path] = ["cfssl", "serve", "-address", "127.0.0.1", "-port", str(port)]
    command += ["-config", policy]
    command += ["-ca", ca / ca_directory.SIGNING_CERTIFICATE, "-ca-key", ca / ca_directory.SIGNING_KEY]
    environ = {**os.environ, "GOMAXPROCS": "1"}
    with background(load.pinned(load.cores()[0], command), directory, environ, log, port) as process:
        yield Server(process.pid, f"http://127.0.0.1:{port}", ca)


@contextlib.contextmanager
def background(
    command: Sequence[str | Path], directory: Path, environ: Mapping[str, str], log: Path, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; wait until it accepts connections.

    Args:
        command: the command.
        directory: its working directory.
        environ: its environment.
        log: the file for its output.
        port: the port on which it listens.

    Raises:
        BenchError: it did not start; the message contains its output.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, env=environ, stdout=output, stderr=output)  # noqa: S603 - fixed
    try:
        _wait_for(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        finally:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise BenchError(f"the server did not start: {log.read_text()}")


def measure(server: Server, endpoint: Endpoint, connections: int, seconds: int) -> Load:
    """Put one endpoint under load, and check that the responses before, during and after it were certificates.

    Raises:
        BenchError: a response has no valid certificate, or responses under load differ in size.
        Refused: as for `load.run`.
    """
    octets = verify(server, endpoint, 0)
    url, headers = server.url + endpoint.path, endpoint.headers
    measurement = load.run(server.pid, url, headers, endpoint.bodies, connections, seconds)
    if not octets * 0.98 < measurement.octets < octets * 1.02 + _MAX_HEADER_BYTES:
        raise BenchError(
            f"{url}: {measurement.octets:.0f} bytes per response under load, but {octets} before"
        )
    for number in {1 % len(endpoint.bodies), len(endpoint.bodies) // 2}:
        verify(server, endpoint, number)
    return measurement


def verify(server: Server, endpoint: Endpoint, number: int) -> int:
    """Send one request, and verify its certificates: key, name, validity, and the chain with OpenSSL.

    Returns:
        the size of the response, without its headers, in bytes.

    Raises:
        BenchError: the request failed, or a certificate is wrong.
    """
    response = server.post(endpoint, endpoint.bodies[number])
    for _ in range(_MAX_RETRIES):
        if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)  # wrk's last requests are still being processed
        response = server.post(endpoint, endpoint.bodies[number])
    if response.status != HTTPStatus.OK:
        raise BenchError(f"{server.url}{endpoint.path}: {response.status} {response.body.decode()}")
    verify_body(response.body, endpoint, number, server.ca)
    return len(response.body)


def verify_body(body: bytes, endpoint: Endpoint, number: int, ca: Path) -> None:
    """Verify the certificates of a response to the request with this number; raise as `verify`."""
    csrs = endpoint.csrs[number * endpoint.batch :][: endpoint.batch]
    try:
        certificates = endpoint.certificates(body)
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{endpoint.name}: the response has no certificates: {body.decode()}") from error
    root, signing = ca / ca_directory.ROOT_CERTIFICATE, ca / ca_directory.SIGNING_CERTIFICATE
    issuer = x509.load_pem_x509_certificate(signing.read_bytes())
    for csr, pem in zip(csrs, certificates, strict=True):
        verify_certificate(x509.load_pem_x509_csr(csr), x509.load_pem_x509_certificate(pem.encode()), issuer)
    command = ("openssl", "verify", "-purpose", "sslserver", "-CAfile", root, "-untrusted", signing)
    process = servers.run(*command, stdin=certificates[-1], check=False)
    if process.returncode:
        raise BenchError(f"{endpoint.name}: openssl verify: {process.stderr}")


def verify_certificate(
    csr: x509.CertificateSigningRequest, certificate: x509.Certificate, issuer: x509.Certificate
) -> None:
    """Verify the issuer of a certificate, its validity, and that it has the key and names of a CSR.

    Raises:
        BenchError: one of them is wrong.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, InvalidSignature) as error:
        raise BenchError("a certificate has another issuer than the CA under test") from error
    names, requested = (
        set(item.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        for item in (certificate, csr)
    )
    now = datetime.now(UTC)
    if (certificate.public_key(), names) != (csr.public_key(), requested):
        raise BenchError("a certificate has another key or name than its request")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - timedelta(days=6):
        raise BenchError("a certificate is not valid now, or for less than six days")
