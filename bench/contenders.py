"""The compared servers: Certlet with one worker, and `cfssl serve`, with the same CA, on the same core."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bench import load
from bench.load import BenchError, Load
from service.keystore import ca_directory
from tests import servers
from tests.servers import API_KEY, HttpService

KEY_TYPES: Final = ("p-256", "rsa-2048")
"""The CA's key types; the requests' keys are P-256."""

BATCH: Final = 100
_START_TIMEOUT: Final = 20.0  # seconds for a server to start
_MAX_RETRIES: Final = 10  # of a request to a busy server
_MAX_HEADER_BYTES: Final = 1000  # more than the size of a response's headers, in bytes

# Like Certlet's default profile: 90 days, digitalSignature and serverAuth.
CFSSL_POLICY: Final = {
    "signing": {"default": {"expiry": "2160h", "usages": ["digital signature", "server auth"]}}
}


@dataclass(frozen=True)
class Endpoint:
    """One operation that issues certificates.

    Attributes:
        name: its name in the figures.
        path: the path of the URL.
        headers: the headers of each request.
        bodies: the bodies, sent in turn.
        certificates: returns the certificates in a response's body, PEM.
        batch: the number of certificates in a response.
    """

    name: str
    path: str
    headers: Mapping[str, str]
    bodies: tuple[bytes, ...]
    certificates: Callable[[bytes], list[str]]
    batch: int = 1


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


@functools.cache
def requests() -> tuple[bytes, ...]:
    """Create a hundred CSRs of the same form and size, each with its own key and name, PEM."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(BATCH)]
    return tuple(request(f"n{number:02}.example.com", key) for number, key in enumerate(keys))


def request(name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Create a CSR for a name, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder(subject).add_extension(names, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def sign(csrs: Sequence[bytes]) -> Endpoint:
    """Certlet's `POST /sign`, without text."""
    bodies = tuple(_json({"csr": csr.decode(), "text": False}) for csr in csrs)
    headers = {"x-api-key": API_KEY, "Content-Type": "application/json"}
    return Endpoint(
        "POST /sign", "/sign", headers, bodies, lambda response: [json.loads(response)["crt_pem"]]
    )


def sign_pem(csrs: Sequence[bytes]) -> Endpoint:
    """Certlet's `POST /sign.pem`."""
    headers = {"x-api-key": API_KEY, "Content-Type": "application/pkcs10"}

    def first(response: bytes) -> list[str]:
        return [x509.load_pem_x509_certificates(response)[0].public_bytes(Encoding.PEM).decode()]

    return Endpoint("POST /sign.pem", "/sign.pem", headers, tuple(csrs), first)


def sign_batch(csrs: Sequence[bytes]) -> Endpoint:
    """Certlet's `POST /sign/batch`, without text: one request for all CSRs."""
    body = _json({"requests": [{"csr": csr.decode()} for csr in csrs], "text": False})
    headers = {"x-api-key": API_KEY, "Content-Type": "application/json"}

    def certificates(response: bytes) -> list[str]:
        return [result["certificate"]["crt_pem"] for result in json.loads(response)["results"]]

    name = f"POST /sign/batch of {len(csrs)}"
    return Endpoint(name, "/sign/batch", headers, (body,), certificates, len(csrs))


def cfssl_sign(csrs: Sequence[bytes]) -> Endpoint:
    """cfssl's `sign`, one CSR per request."""
    bodies = tuple(_json({"certificate_request": csr.decode()}) for csr in csrs)
    headers = {"Content-Type": "application/json"}

    def certificate(response: bytes) -> list[str]:
        return [json.loads(response)["result"]["certificate"]]

    return Endpoint("cfssl", "/api/v1/cfssl/sign", headers, bodies, certificate)


def create_ca(directory: Path, key_type: str) -> Path:
    """Create a CA in a new directory below `directory`, and return that."""
    ca = directory / f"ca-{key_type}"
    init = servers.certlet("init", ca, "--key-type", key_type, cwd=directory)
    if init.returncode:
        raise BenchError(init.stderr.decode())
    return ca


@contextlib.contextmanager
def certlet(directory: Path, ca: Path) -> Iterator[Server]:
    """Run Certlet, with one worker and no usage plan, and with its logs in files."""
    directory.mkdir()
    command = load.pinned(load.cores()[0], [*servers.SERVE, "--port", "0"])
    options = ["--ca", str(ca), "--workers=1", "--no-usage-plan", f"--audit-log={directory / 'audit.log'}"]
    with servers.certlet_server(directory, *options, command=command) as server:
        yield Server(server.process.pid, server.url, ca)


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
    with background(command, directory, {**os.environ, "GOMAXPROCS": "1"}, log, port) as process:
        yield Server(process.pid, f"http://127.0.0.1:{port}", ca)


@contextlib.contextmanager
def background(
    command: Sequence[str | Path], directory: Path, environ: Mapping[str, str], log: Path, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on the server's core, and wait until it accepts connections.

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
        process = subprocess.Popen(  # noqa: S603 - a fixed command
            load.pinned(load.cores()[0], command),
            cwd=directory,
            env=environ,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_for(process, port, log)
        yield process
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
    csrs = requests()[number : number + endpoint.batch]
    try:
        certificates = endpoint.certificates(response.body)
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(
            f"{endpoint.name}: the response has no certificates: {response.body.decode()}"
        ) from error
    root, signing = server.ca / ca_directory.ROOT_CERTIFICATE, server.ca / ca_directory.SIGNING_CERTIFICATE
    issuer = x509.load_pem_x509_certificate(signing.read_bytes())
    for csr, pem in zip(csrs, certificates, strict=True):
        _verify_certificate(x509.load_pem_x509_csr(csr), x509.load_pem_x509_certificate(pem.encode()), issuer)
    files = ["-CAfile", str(root), "-untrusted", str(signing)]
    command = ["openssl", "verify", "-purpose", "sslserver", *files]
    last = certificates[-1].encode()
    process = subprocess.run(command, input=last, capture_output=True, check=False)  # noqa: S603 - a fixed command
    if process.returncode:
        raise BenchError(f"{endpoint.name}: openssl verify: {process.stderr.decode()}")
    return len(response.body)


def _verify_certificate(
    csr: x509.CertificateSigningRequest, certificate: x509.Certificate, issuer: x509.Certificate
) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, InvalidSignature) as error:
        raise BenchError("a certificate has another issuer than the CA under test") from error
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    requested = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    now = datetime.now(UTC)
    if (certificate.public_key(), names) != (csr.public_key(), requested):
        raise BenchError("a certificate has another key or name than its request")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - timedelta(days=6):
        raise BenchError("a certificate is not valid now, or for less than six days")


@dataclass(frozen=True)
class Difference:
    """The two servers' responses to a request that should be refused.

    Attributes:
        request: what is wrong with it.
        cfssl, certlet: a summary of the response.
    """

    request: str
    cfssl: str
    certlet: str


def differences(certlet: Server, cfssl: Server) -> list[Difference]:
    """Send both servers bad requests."""
    key = ec.generate_private_key(ec.SECP256R1())
    valid = x509.load_pem_x509_csr(request("a.example.com", key)).public_bytes(Encoding.DER)
    forged = x509.load_der_x509_csr(valid[:-1] + bytes([valid[-1] ^ 1])).public_bytes(Encoding.PEM)
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the servers must refuse it
    cases = {
        "a signature by another key": forged,
        "an RSA key of 1,024 bits": request("a.example.com", short),
        "an RSA key of two close primes (CVE-2022-26320)": request("a.example.com", _close_primes()),
        "the name `not a name`": request("not a name", key),
    }
    responses = [
        Difference(defect, _summary(cfssl, cfssl_sign([csr])), _summary(certlet, sign([csr])))
        for defect, csr in cases.items()
    ]
    without_key = replace(sign(requests()[:1]), headers={"Content-Type": "application/json"})
    cfssl_response = _summary(cfssl, cfssl_sign(requests()[:1]))
    return [*responses, Difference("no API key", cfssl_response, _summary(certlet, without_key))]


def _close_primes() -> rsa.RSAPrivateKey:
    """Create a key that Fermat's factorisation method breaks at once."""
    p = rsa.generate_private_key(65537, 2048).private_numbers().p
    q = p + 2
    while (
        pow(2, q - 1, q) != 1
    ):  # Fermat's primality test; no composite number of this size passes it by chance
        q += 2
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


def _summary(server: Server, endpoint: Endpoint) -> str:
    response = server.post(endpoint, endpoint.bodies[0])
    if response.status == HTTPStatus.OK:
        return "signed"
    document = json.loads(response.body)
    errors = document.get("errors") or [document]
    return (
        f"{response.status} {', '.join(sorted({error.get('message') or error['code'] for error in errors}))}"
    )
