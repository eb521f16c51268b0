"""Clients that send requests of all kinds at once, and compare the responses with the documented ones."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.client
import json
import random
import re
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests import csrs, servers
from tests.assertions import uuid7
from tests.servers import API_KEY, Server

KEY: Final = {"x-api-key": API_KEY}
JSON: Final = {**KEY, "Content-Type": "application/json"}
PKCS10: Final = {**KEY, "Content-Type": "application/pkcs10"}
KEY_TYPES: Final = ("p-256", "p-384", "rsa-2048", "ed25519", "ml-dsa-44")
PROFILES: Final = Path(__file__).parent.parent / "policies.yaml"
BATCH_SIZE: Final = 8
DIFFERENT_ON_RETRY: Final = "a retry returned a different certificate"
_BUSY: Final = 503
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\s")


@dataclass(frozen=True)
class Call:
    """A request and its documented response: the status, and the problem code of an error."""

    method: str
    path: str
    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    recorded_refusals: int = 0  # in the audit log


@dataclass(frozen=True)
class Outcome:
    """The response to a call, read to its end (status 0 if there was none), and when the call started."""

    call: Call
    status: int
    request_id: str
    code: str
    started: float
    error: str = ""


def csr_pem(common_name: str, key_type: str = "p-256", **change: Any) -> str:
    """A CSR in PEM."""
    return csrs.encode_pem(csrs.build(common_name, key_type=key_type, **change)).decode()


@functools.cache
def valid_csrs() -> tuple[str, ...]:
    """CSRs that are signed: every key type, some with several names."""
    return tuple(
        csr_pem(f"n{number}.example.com", key_type, sans=sans[: number % 3])
        for number in range(5)
        for sans in ([f"dns:m{number}.example.com", "ip:10.0.0.1"],)
        for key_type in KEY_TYPES
    )


@functools.cache
def sha1_csr() -> str:
    """A CSR signed with SHA-1, by openssl: cryptography refuses to create one."""
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null")
    return servers.run("openssl", "req", "-new", "-sha1", *key, "-subj", "/CN=a.example.com").stdout


@functools.cache
def rejected_requests() -> tuple[tuple[dict[str, str], int, str], ...]:
    """Sign requests of every error class, each with its status and problem code."""
    request = csrs.build()
    builder = x509.CertificateSigningRequestBuilder().subject_name(request.subject)
    weak = builder.sign(rsa.generate_private_key(65537, 1024), hashes.SHA256())
    tampered = csrs.encode_der(request).replace(b"a.example", b"b.example")
    ca_csr = csrs.build("x", ["dns:_"], [x509.BasicConstraints(ca=True, path_length=None)])
    valid_csr = csrs.encode_pem(request).decode()
    return (
        ({"csr": "garbage!"}, 422, "badCSR"),
        ({"csr": base64.b64encode(tampered).decode()}, 422, "badCSR"),
        ({"csr": sha1_csr()}, 422, "badSignatureAlgorithm"),
        ({"csr": csrs.encode_pem(weak).decode()}, 422, "badPublicKey"),
        ({"csr": csr_pem("localhost")}, 422, "rejectedIdentifier"),
        ({"csr": valid_csr, "validity": "P9000D"}, 422, "rejectedValidity"),
        ({"csr": valid_csr, "profile": "unknown"}, 400, "malformed"),  # in a batch: unknownProfile
        ({"csr": csrs.encode_pem(ca_csr).decode()}, 422, "compound"),
        ({"csr": valid_csr, "profile": "secret"}, 403, "unauthorized"),
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _sign(rng: random.Random) -> Call:
    request = {"csr": rng.choice(valid_csrs()), "text": rng.random() < 0.5}
    return Call("POST", "/sign", 200, headers=JSON, body=_json(request))


def _sign_pem(rng: random.Random) -> Call:
    return Call("POST", "/sign.pem", 200, headers=PKCS10, body=rng.choice(valid_csrs()).encode())


def _idempotent_sign(rng: random.Random) -> Call:
    headers = {**JSON, "Idempotency-Key": uuid7()}
    return Call("POST", "/sign", 200, headers=headers, body=_json({"csr": rng.choice(valid_csrs())}))


def _dry_run(rng: random.Random) -> Call:
    body = _json({"csr": rng.choice(valid_csrs()), "profile": "peer"})
    return Call("POST", "/sign?dry_run=true", 202, headers=JSON, body=body)


def _batch(rng: random.Random) -> Call:
    rejected = [request for request, _, _ in rejected_requests()]
    choices = [rng.random() < 0.25 for _ in range(BATCH_SIZE)]
    requests = [
        rng.choice(rejected) if is_rejected else {"csr": rng.choice(valid_csrs())} for is_rejected in choices
    ]
    refusals = sum(request in rejected for request in requests)
    body = _json({"requests": requests})
    return Call("POST", "/sign/batch", 200, headers=JSON, body=body, recorded_refusals=refusals)


def _rejected_sign(rng: random.Random) -> Call:
    request, status, code = rng.choice(rejected_requests())
    return Call("POST", "/sign", status, code, JSON, _json(request), recorded_refusals=int(status != 400))


def _malformed_json(rng: random.Random) -> Call:
    body = rng.choice([b"", b"{", b"[]", b'{"csr": 7}', rng.randbytes(rng.randrange(1, 300))])
    return Call("POST", "/sign", 400, "malformed", JSON, body)


_READS: Final = [
    *(Call("GET", path, 200, headers={"Accept": "*/*"}) for path in ("/ca", "/ca.crt", "/ca.pem", "/ca.p7c")),
    *(Call("GET", path, 200) for path in ("/ca.crl", "/root.crt", "/profiles", "/health")),
    Call("GET", "/sign", 200, headers={"Accept": "text/html"}),
    Call("GET", "/profiles/mine", 200, headers=KEY),
    Call("OPTIONS", "/sign", 204),
]
_INVALID_CALLS: Final = [
    Call("GET", "/nothing", 404, "notFound"),
    Call("DELETE", "/ca", 405, "methodNotAllowed"),
    Call("GET", "/ca?x=1", 400, "malformed"),
    Call("GET", "/profiles/mine", 403, "unauthorized"),
    Call("POST", "/sign", 403, "unauthorized", {**JSON, "x-api-key": API_KEY[::-1]}, b"{}"),
    Call("POST", "/sign", 415, "unsupportedMediaType", {**KEY, "Content-Type": "text/csv"}, b"a"),
    Call("POST", "/sign", 413, "tooLarge", JSON, _json({"csr": "A" * 300_000})),
]

_MIX: Final[list[tuple[Callable[[random.Random], Call], int]]] = [
    (_sign, 20), (_sign_pem, 20), (_idempotent_sign, 10), (_dry_run, 8), (_batch, 5), (_rejected_sign, 12),
    (_malformed_json, 5), (lambda rng: rng.choice(_READS), 12), (lambda rng: rng.choice(_INVALID_CALLS), 8),
]  # fmt: skip

_NON_HTTP_SHARE: Final = 0.02  # of the calls
NON_HTTP_REQUESTS: Final = (
    b"\x16\x03\x01\2\0\1\0\1\xfc\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\n\r\n",
    b"hello\r\n\r\n",
)


@dataclass
class ClientReport:
    """The responses that one client received, and its deviations from the documentation.

    Attributes:
        certificates: a file with a line for each certificate: the request ID, and base64 of the DER.
        deviations: a description of each.
        replays: retries that returned the first certificate again.
        busy: calls that the client repeated after 503.
        non_http: requests that were not HTTP.
        codes: problem codes, including those in batches.
    """

    certificates: Path
    outcomes: list[Outcome] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    replays: int = 0
    busy: int = 0
    calls: int = 0
    non_http: int = 0
    codes: set[str] = field(default_factory=set)


class _Client:
    """One client with a persistent connection."""

    def __init__(self, server: Server, seed: int, directory: Path, *, is_patient: bool) -> None:
        self._port = server.port
        self._rng = random.Random(seed)  # noqa: S311 - chooses the next request
        self._connection: http.client.HTTPConnection | None = None
        self._is_patient = is_patient
        self.report = ClientReport(directory / f"certificates-{seed}")

    def run(self, stop: threading.Event) -> None:
        """Send requests until `stop` is set or the server no longer listens."""
        factories, weights = zip(*_MIX, strict=True)
        with self.report.certificates.open("w") as file:
            while not stop.is_set():
                if self._rng.random() < _NON_HTTP_SHARE and not self._send_non_http():
                    break
                (factory,) = self._rng.choices(factories, weights)
                call = factory(self._rng)
                first = self._send(call, file)
                if first is None:
                    break
                if "Idempotency-Key" in call.headers and first:
                    second = self._send(call, file)
                    if second is None:
                        break
                    if second and second != first:
                        self.report.deviations.append(DIFFERENT_ON_RETRY)
                    self.report.replays += bool(second)
        if self._connection:
            self._connection.close()

    def _send_non_http(self) -> bool:
        """Send bytes that are not HTTP and expect 400 or 501; return False if the server no longer listens."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=30) as client:
                client.sendall(self._rng.choice(NON_HTTP_REQUESTS))
                response = client.recv(4096)
        except ConnectionRefusedError:
            return False
        except OSError as error:
            response = type(error).__name__.encode()
        if not re.match(rb"HTTP/1\.[01] (400|501) ", response):
            self.report.deviations.append(f"a request that was not HTTP got {response[:40]!r}")
        self.report.non_http += 1
        return True

    def _send(self, call: Call, file: Any) -> list[str] | None:
        """The certificates of the response; None if the server no longer listens."""
        while True:
            outcome, body = self._exchange(call)
            self.report.calls += 1
            if outcome.error == "refused":
                return None
            call_summary = replace(call, headers={}, body=None)  # bodies would fill the memory
            self.report.outcomes.append(replace(outcome, call=call_summary))
            if outcome.status == _BUSY and self._is_patient:
                self.report.busy += 1
                time.sleep(0.2)
                continue
            break
        self.report.codes.add(outcome.code)
        if outcome.status != call.status:
            return []
        if call.path == "/sign/batch":
            results = json.loads(body)["results"]
            codes = [result["problem"]["code"] for result in results if "problem" in result]
            self.report.codes.update(codes)
            bad = call.recorded_refusals
            if len(results) != BATCH_SIZE or len(codes) - codes.count("unavailable") > bad:
                self.report.deviations.append(f"of a batch with {bad} bad requests {codes} were refused")
            if "unavailable" not in codes and len(codes) != bad:
                self.report.deviations.append(f"of a batch with {bad} bad requests only {codes} were refused")
        certificates = _issued_certificates(call, body)
        for certificate in certificates:
            file.write(f"{outcome.request_id} {certificate}\n")
        return certificates

    def _exchange(self, call: Call) -> tuple[Outcome, bytes]:
        started, code, body = time.monotonic(), "", b""
        try:
            if self._connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                connection.connect()
                self._connection = connection
        except OSError:
            return Outcome(call, 0, "", "", started, "refused"), b""
        try:
            started = time.monotonic()
            self._connection.request(call.method, call.path, call.body, call.headers)
            response = self._connection.getresponse()
            body = response.read()
            status, request_id = response.status, response.headers["x-amzn-RequestId"]
            if response.will_close:
                self._connection.close()
                self._connection = None
            if response.headers.get("Content-Type") == "application/problem+json":
                code = json.loads(body)["code"]
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            return Outcome(call, 0, "", "", started, type(error).__name__), b""
        return Outcome(call, status, request_id, code, started), body


def _issued_certificates(call: Call, body: bytes) -> list[str]:
    """The certificates in a response, as base64 of DER."""
    if call.method != "POST" or call.status != 200:
        return []
    if call.path == "/sign.pem":
        texts = _CERTIFICATE.findall(body.decode())[:1]
    elif call.path == "/sign":
        texts = [json.loads(body)["crt_pem"]]
    else:
        results = json.loads(body)["results"]
        texts = [result["certificate"]["crt_pem"] for result in results if "certificate" in result]
    return ["".join(text.split("-----")[2].split()) for text in texts]


class LoadGenerator:
    """Several clients that send requests at once, each in a thread."""

    def __init__(self, server: Server, directory: Path, clients: int = 4, *, is_patient: bool = True) -> None:
        """Start the clients; those that are `is_patient` repeat a call after 503."""
        valid_csrs(), rejected_requests()
        self._stop = threading.Event()
        self._clients = [_Client(server, seed, directory, is_patient=is_patient) for seed in range(clients)]
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in self._clients]
        for thread in self._threads:
            thread.start()

    def _run(self, client: _Client) -> None:
        try:
            client.run(self._stop)
        except BaseException as error:  # noqa: BLE001 - `stop` raises it
            self._failures.append(error)

    def calls(self) -> int:
        """The number of calls so far."""
        return sum(client.report.calls for client in self._clients)

    def stop(self) -> list[ClientReport]:
        """Stop the clients and return their reports."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._failures:
            raise self._failures[0]
        return [client.report for client in self._clients]


def count_deviations(reports: Sequence[ClientReport]) -> Counter[str]:
    """The number of occurrences of each deviation from the documentation."""
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.deviations)
        for outcome in report.outcomes:
            call = outcome.call
            documented = ((call.status, call.code), (_BUSY, "unavailable"))
            if (outcome.status, outcome.code) not in documented:
                expected = f"{call.method} {call.path} -> {call.status} {call.code}"
                counts[f"{expected}: {outcome.status} {outcome.code} {outcome.error}"] += 1
    return counts


@dataclass
class AuditLog:
    """The records of an audit log, by request ID.

    Attributes:
        intents: the serial numbers.
        results: the serial numbers with the certificates' fingerprints.
        refusals: the number of refusals.
        malformed_lines: lines that are not JSON.
    """

    intents: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    results: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    refusals: Counter[str] = field(default_factory=Counter)
    malformed_lines: list[str] = field(default_factory=list)


def read_audit_log(path: Path) -> AuditLog:
    """Read an audit log."""
    audit_log = AuditLog()
    with path.open() as lines:
        for line in lines:
            try:
                record = json.loads(line)
                request_id = record["request_id"]
            except (ValueError, TypeError, KeyError):
                audit_log.malformed_lines.append(line)
                continue
            if record["event"] == "intent":
                audit_log.intents[request_id].add(record["serial_number"])
            elif record["event"] == "result":
                audit_log.results[request_id].add((record["serial_number"], record["fingerprint_sha256"]))
            else:
                audit_log.refusals[request_id] += 1
    return audit_log


@dataclass
class VerifiedCertificates:
    """The number of verified certificates, the number of distinct ones, and a random sample."""

    count: int = 0
    distinct: int = 0
    sample: list[bytes] = field(default_factory=list)


def verify_certificates(
    reports: Sequence[ClientReport], audit_log: AuditLog, ca: Path
) -> VerifiedCertificates:
    """Verify the signature, audit records and unique serial number of every certificate.

    Raises:
        AssertionError: a certificate is invalid.
    """
    issuer = x509.load_pem_x509_certificate((ca / "signing-ca.crt").read_bytes())
    by_serial: dict[bytes, bytes] = {}
    verified = VerifiedCertificates()
    rng = random.Random(9)  # noqa: S311 - chooses the sample
    for report in reports:
        for line in report.certificates.read_text().splitlines():
            request_id, text = line.split()
            der = base64.b64decode(text)
            fingerprint = hashlib.sha256(der).digest()
            verified.count += 1
            certificate = x509.load_der_x509_certificate(der)
            serial = certificate.serial_number.to_bytes(20, "big")
            hexadecimal = serial.lstrip(b"\0").hex()
            assert hexadecimal in audit_log.intents[request_id], "no intent"
            assert (hexadecimal, fingerprint.hex()) in audit_log.results[request_id], "no result"
            first_fingerprint = by_serial.setdefault(serial, fingerprint)
            assert first_fingerprint == fingerprint, f"two certificates have the serial number {hexadecimal}"
            certificate.verify_directly_issued_by(issuer)
            if "ML" not in certificate.public_key().__class__.__name__ and rng.random() < 0.01:
                verified.sample.append(der)
    verified.distinct = len(by_serial)
    return verified


def verify_with_openssl(sample: Sequence[bytes], ca: Path, directory: Path) -> int:
    """Verify at most 200 certificates with `openssl verify -x509_strict` and return their number.

    Raises:
        AssertionError: openssl rejects a certificate.
    """
    files = []
    for number, der in enumerate(sample[:200]):
        path = directory / f"{number}.pem"
        path.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
        files.append(path.name)
    command = ("openssl", "verify", "-x509_strict", "-CAfile", ca / "root-ca.crt")
    run = servers.run(*command, "-untrusted", ca / "signing-ca.crt", *files, cwd=directory)
    assert run.stdout.count(": OK") == len(files)
    return len(files)
