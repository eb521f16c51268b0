"""The servers that are compared: ours with one worker, and `cfssl serve`, under the same CA, on the same core."""

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
from tests.servers import API_KEY, Site

KINDS: Final = ("p-256", "rsa-2048")
"""Of the CA's keys; the requests' are P-256."""

BATCH: Final = 100
_START: Final = 20.0  # seconds that cfssl may take to answer
_PATIENCE: Final = 10  # times that a busy server is asked
_HEADERS: Final = 1000  # octets that an answer's headers certainly do not pass

# As our default profile: 90 days, digitalSignature and serverAuth.
CFSSL_POLICY: Final = {
    "signing": {"default": {"expiry": "2160h", "usages": ["digital signature", "server auth"]}}
}


@dataclass(frozen=True)
class Endpoint:
    """One way of asking for certificates.

    Attributes:
        name: what the figures call it.
        path: of the URL.
        headers: of each request.
        bodies: what is sent, one after the other.
        certificates: what an answer holds, PEM.
        batch: how many certificates that are.
    """

    name: str
    path: str
    headers: Mapping[str, str]
    bodies: tuple[bytes, ...]
    certificates: Callable[[bytes], list[str]]
    batch: int = 1


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        pid: its first process.
        url: where it answers.
        ca: the directory of its CA.
    """

    pid: int
    url: str
    ca: Path

    def post(self, endpoint: Endpoint, body: bytes) -> servers.Answer:
        """Send one request."""
        return Site(self.url).request("POST", endpoint.path, body, endpoint.headers)


@functools.cache
def requests() -> tuple[bytes, ...]:
    """A hundred requests of one form and size, with a key and a name each, PEM."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(BATCH)]
    return tuple(request(f"n{number:02}.example.com", key) for number, key in enumerate(keys))


def request(name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """A request for a name, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder(subject).add_extension(names, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def sign(csrs: Sequence[bytes]) -> Endpoint:
    """Our `POST /sign`, without text."""
    bodies = tuple(_json({"csr": each.decode(), "text": False}) for each in csrs)
    headers = {"x-api-key": API_KEY, "Content-Type": "application/json"}
    return Endpoint("POST /sign", "/sign", headers, bodies, lambda answer: [json.loads(answer)["crt_pem"]])


def sign_pem(csrs: Sequence[bytes]) -> Endpoint:
    """Our `POST /sign.pem`."""
    headers = {"x-api-key": API_KEY, "Content-Type": "application/pkcs10"}

    def first(answer: bytes) -> list[str]:
        return [x509.load_pem_x509_certificates(answer)[0].public_bytes(Encoding.PEM).decode()]

    return Endpoint("POST /sign.pem", "/sign.pem", headers, tuple(csrs), first)


def sign_batch(csrs: Sequence[bytes]) -> Endpoint:
    """Our `POST /sign/batch`, without text: all of the requests in one."""
    body = _json({"requests": [{"csr": each.decode()} for each in csrs], "text": False})
    headers = {"x-api-key": API_KEY, "Content-Type": "application/json"}

    def all_of_them(answer: bytes) -> list[str]:
        return [each["certificate"]["crt_pem"] for each in json.loads(answer)["results"]]

    name = f"POST /sign/batch of {len(csrs)}"
    return Endpoint(name, "/sign/batch", headers, (body,), all_of_them, len(csrs))


def cfssl_sign(csrs: Sequence[bytes]) -> Endpoint:
    """cfssl's only way, one at a time."""
    bodies = tuple(_json({"certificate_request": each.decode()}) for each in csrs)
    headers = {"Content-Type": "application/json"}

    def certificate(answer: bytes) -> list[str]:
        return [json.loads(answer)["result"]["certificate"]]

    return Endpoint("cfssl", "/api/v1/cfssl/sign", headers, bodies, certificate)


@contextlib.contextmanager
def certlet(directory: Path, ca: Path) -> Iterator[Server]:
    """Ours, with one worker and no usage plan, its logs in files."""
    directory.mkdir()
    command = load.pinned(load.cores()[0], [*servers.CERTLET, "serve", "--port", "0"])
    options = ["--ca", str(ca), "--workers=1", "--no-usage-plan", f"--audit-log={directory / 'audit.log'}"]
    with servers.serving(directory, *options, command=command) as server:
        yield Server(server.process.pid, server.url, ca)


@contextlib.contextmanager
def cfssl(directory: Path, ca: Path) -> Iterator[Server]:
    """Theirs, with one thread of Go's, its log in a file."""
    directory.mkdir()
    policy, log = directory / "policy.json", directory / "cfssl.log"
    policy.write_text(json.dumps(CFSSL_POLICY))
    port = servers.free_port()
    command = ["cfssl", "serve", "-address", "127.0.0.1", "-port", port, "-config", policy]
    command += ["-ca", ca / ca_directory.SIGNING_CERTIFICATE, "-ca-key", ca / ca_directory.SIGNING_KEY]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own words
            load.pinned(load.cores()[0], list(map(str, command))),
            cwd=directory,
            env={**os.environ, "GOMAXPROCS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        _wait_for(process, port, log)
        yield Server(process.pid, f"http://127.0.0.1:{port}", ca)
    finally:
        process.kill()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise BenchError(f"cfssl does not start: {log.read_text()}")


def measure(server: Server, endpoint: Endpoint, connections: int, seconds: int) -> Load:
    """Load one endpoint, and see to it that certificates were what it answered, before, after and meanwhile.

    Raises:
        BenchError: an answer holds no good certificate, or the answers under load were not of the size
            of good ones; and as `load.run`, of which Refused may pass.
    """
    octets = verify(server, endpoint, 0)
    url, headers = server.url + endpoint.path, endpoint.headers
    found = load.run(server.pid, url, headers, endpoint.bodies, connections, seconds)
    if not octets * 0.98 < found.octets < octets * 1.02 + _HEADERS:
        raise BenchError(f"{url}: {found.octets:.0f} octets an answer under load, and {octets} before")
    for number in {1 % len(endpoint.bodies), len(endpoint.bodies) // 2}:
        verify(server, endpoint, number)
    return found


def verify(server: Server, endpoint: Endpoint, number: int) -> int:
    """Have one request answered: each certificate is for its key and name, valid, and verified by OpenSSL.

    Returns:
        the octets of the answer, without its headers.

    Raises:
        BenchError: it is not so.
    """
    answer = server.post(endpoint, endpoint.bodies[number])
    for _ in range(_PATIENCE):
        if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)  # what wrk asked for last is answered still
        answer = server.post(endpoint, endpoint.bodies[number])
    if answer.status != HTTPStatus.OK:
        raise BenchError(f"{server.url}{endpoint.path}: {answer.status} {answer.body.decode()}")
    asked = requests()[number : number + endpoint.batch]
    try:
        certificates = endpoint.certificates(answer.body)
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{endpoint.name}: not what was asked for: {answer.body.decode()}") from error
    trusted, between = server.ca / ca_directory.ROOT_CERTIFICATE, server.ca / ca_directory.SIGNING_CERTIFICATE
    issuer = x509.load_pem_x509_certificate(between.read_bytes())
    for csr, pem in zip(asked, certificates, strict=True):
        _verify_certificate(x509.load_pem_x509_csr(csr), x509.load_pem_x509_certificate(pem.encode()), issuer)
    files = ["-CAfile", str(trusted), "-untrusted", str(between)]
    command = ["openssl", "verify", "-purpose", "sslserver", *files]
    last = certificates[-1].encode()
    judged = subprocess.run(command, input=last, capture_output=True, check=False)  # noqa: S603 - our own words
    if judged.returncode:
        raise BenchError(f"{endpoint.name}: openssl verify: {judged.stderr.decode()}")
    return len(answer.body)


def _verify_certificate(
    csr: x509.CertificateSigningRequest, certificate: x509.Certificate, issuer: x509.Certificate
) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, InvalidSignature) as error:
        raise BenchError("a certificate is not by the CA under test") from error
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    wanted = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    now = datetime.now(UTC)
    if (certificate.public_key(), names) != (csr.public_key(), wanted):
        raise BenchError("a certificate is for another key or name than its request")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - timedelta(days=80):
        raise BenchError("a certificate is not valid now, or not for some 90 days")


@dataclass(frozen=True)
class Difference:
    """What the two make of a request that should be refused.

    Attributes:
        asked: what is wrong with it.
        theirs, ours: what was answered, in a few words.
    """

    asked: str
    theirs: str
    ours: str


def differences(ours: Server, theirs: Server) -> list[Difference]:
    """Ask both for what nobody should get."""
    key = ec.generate_private_key(ec.SECP256R1())
    good = x509.load_pem_x509_csr(request("a.example.com", key)).public_bytes(Encoding.DER)
    forged = x509.load_der_x509_csr(good[:-1] + bytes([good[-1] ^ 1])).public_bytes(Encoding.PEM)
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - which is the point
    cases = {
        "a signature that is not the key's": forged,
        "an RSA key of 1,024 bits": request("a.example.com", short),
        "an RSA key of two close primes (CVE-2022-26320)": request("a.example.com", _close_primes()),
        "the name `not a name`": request("not a name", key),
    }
    found = [
        Difference(asked, _said(theirs, cfssl_sign([csr])), _said(ours, sign([csr])))
        for asked, csr in cases.items()
    ]
    plain = {"Content-Type": "application/json"}
    nobody = replace(sign(requests()[:1]), headers=plain), cfssl_sign(requests()[:1])
    return [*found, Difference("no API key", _said(theirs, nobody[1]), _said(ours, nobody[0]))]


def _close_primes() -> rsa.RSAPrivateKey:
    """A key that Fermat's method takes apart at once."""
    p = rsa.generate_private_key(65537, 2048).private_numbers().p
    q = p + 2
    while pow(2, q - 1, q) != 1:  # Fermat's test, which no composite number of this size passes by chance
        q += 2
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


def _said(server: Server, endpoint: Endpoint) -> str:
    answer = server.post(endpoint, endpoint.bodies[0])
    if answer.status == HTTPStatus.OK:
        return "signed"
    document = json.loads(answer.body)
    told = document.get("errors") or [document]
    return f"{answer.status} {', '.join(sorted({each.get('message') or each['code'] for each in told}))}"
