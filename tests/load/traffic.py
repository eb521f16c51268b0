"""Clients that ask for everything at once, keep what they get, and compare it with what is documented."""

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
KINDS: Final = ("p-256", "p-384", "rsa-2048", "ed25519", "ml-dsa-44")
OWN_PROFILES: Final = Path(__file__).parent.parent / "policies.yaml"
BATCH: Final = 8
_BUSY: Final = 503
_FOUND: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\s")


@dataclass(frozen=True)
class Call:
    """One request, and the answer that is documented: its status, and the code of its problem."""

    method: str
    path: str
    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    recorded: int = 0  # refusals that the audit log will have


@dataclass(frozen=True)
class Outcome:
    """What became of a call: an answer read to its end, or none (status 0), and when the call began."""

    call: Call
    status: int
    request_id: str
    code: str
    began: float
    why: str = ""


def pem(names: str, kind: str = "p-256", **change: Any) -> str:
    """A certification request in PEM."""
    return csrs.encode_pem(csrs.build(names, key_type=kind, **change)).decode()


@functools.cache
def good() -> tuple[str, ...]:
    """Requests that are signed: each kind of key, some with several names."""
    return tuple(
        pem(f"n{number}.example.com", kind, sans=[f"dns:m{number}.example.com", "ip:10.0.0.1"][: number % 3])
        for number in range(5)
        for kind in KINDS
    )


@functools.cache
def sha1() -> str:
    """A request signed with SHA-1, which cryptography would not make."""
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null")
    return servers.run("openssl", "req", "-new", "-sha1", *key, "-subj", "/CN=a.example.com").stdout


@functools.cache
def refused() -> tuple[tuple[dict[str, str], int, str], ...]:
    """Orders that are refused, one for each class at least: the status, and the code."""
    request = csrs.build()
    weak = x509.CertificateSigningRequestBuilder().subject_name(request.subject)
    short = weak.sign(rsa.generate_private_key(65537, 1024), hashes.SHA256())
    tampered = csrs.encode_der(request).replace(b"a.example", b"b.example")
    asks_for_ca = csrs.build("x", ["dns:_"], [x509.BasicConstraints(ca=True, path_length=None)])
    fine = csrs.encode_pem(request).decode()
    return (
        ({"csr": "garbage!"}, 422, "badCSR"),
        ({"csr": base64.b64encode(tampered).decode()}, 422, "badCSR"),
        ({"csr": sha1()}, 422, "badSignatureAlgorithm"),
        ({"csr": csrs.encode_pem(short).decode()}, 422, "badPublicKey"),
        ({"csr": pem("localhost")}, 422, "rejectedIdentifier"),
        ({"csr": fine, "validity": "P9000D"}, 422, "rejectedValidity"),
        ({"csr": fine, "profile": "nobody"}, 400, "malformed"),  # unknownProfile in a batch alone
        ({"csr": csrs.encode_pem(asks_for_ca).decode()}, 422, "compound"),
        ({"csr": fine, "profile": "secret"}, 403, "unauthorized"),
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _sign(draw: random.Random) -> Call:
    order = {"csr": draw.choice(good()), "text": draw.random() < 0.5}
    return Call("POST", "/sign", 200, headers=JSON, body=_json(order))


def _sign_pem(draw: random.Random) -> Call:
    return Call("POST", "/sign.pem", 200, headers=PKCS10, body=draw.choice(good()).encode())


def _retried(draw: random.Random) -> Call:
    headers = {**JSON, "Idempotency-Key": uuid7()}
    return Call("POST", "/sign", 200, headers=headers, body=_json({"csr": draw.choice(good())}))


def _dry_run(draw: random.Random) -> Call:
    body = _json({"csr": draw.choice(good()), "profile": "peer"})
    return Call("POST", "/sign?dry_run=true", 202, headers=JSON, body=body)


def _batch(draw: random.Random) -> Call:
    bad = [order for order, _, _ in refused()]
    wanted = [draw.random() < 0.25 for _ in range(BATCH)]
    orders = [draw.choice(bad) if is_bad else {"csr": draw.choice(good())} for is_bad in wanted]
    recorded = sum(order in bad for order in orders)
    return Call("POST", "/sign/batch", 200, headers=JSON, body=_json({"requests": orders}), recorded=recorded)


def _refused(draw: random.Random) -> Call:
    order, status, code = draw.choice(refused())
    return Call("POST", "/sign", status, code, JSON, _json(order), recorded=int(status != 400))


def _malformed(draw: random.Random) -> Call:
    octets = draw.choice([b"", b"{", b"[]", b'{"csr": 7}', draw.randbytes(draw.randrange(1, 300))])
    return Call("POST", "/sign", 400, "malformed", JSON, octets)


_READ: Final = [
    *(Call("GET", path, 200, headers={"Accept": "*/*"}) for path in ("/ca", "/ca.crt", "/ca.pem", "/ca.p7c")),
    *(Call("GET", path, 200) for path in ("/ca.crl", "/root.crt", "/profiles", "/health")),
    Call("GET", "/sign", 200, headers={"Accept": "text/html"}),
    Call("GET", "/profiles/mine", 200, headers=KEY),
    Call("OPTIONS", "/sign", 204),
]
_WRONG: Final = [
    Call("GET", "/nothing", 404, "notFound"),
    Call("DELETE", "/ca", 405, "methodNotAllowed"),
    Call("GET", "/ca?x=1", 400, "malformed"),
    Call("GET", "/profiles/mine", 403, "unauthorized"),
    Call("POST", "/sign", 403, "unauthorized", {**JSON, "x-api-key": API_KEY[::-1]}, b"{}"),
    Call("POST", "/sign", 415, "unsupportedMediaType", {**KEY, "Content-Type": "text/csv"}, b"a"),
    Call("POST", "/sign", 413, "tooLarge", JSON, _json({"csr": "A" * 300_000})),
]

_MIX: Final[list[tuple[Callable[[random.Random], Call], int]]] = [
    (_sign, 20), (_sign_pem, 20), (_retried, 10), (_dry_run, 8), (_batch, 5), (_refused, 12), (_malformed, 5),
    (lambda draw: draw.choice(_READ), 12), (lambda draw: draw.choice(_WRONG), 8),
]  # fmt: skip

_NO_HTTP: Final = 0.02  # how often
GARBAGE: Final = (b"\x16\x03\x01\2\0\1\0\1\xfc\r\n\r\n", b"GET /\0 HTTP/1.1\r\n\r\n", b"hello\r\n\r\n")


@dataclass
class Haul:
    """What clients got, and what was not as documented.

    Attributes:
        kept: a file with a line for each certificate: its request's id, and it, base64 of DER.
        again: how often a retry got its certificate again.
        busy: how often the answer was 503, and the call was made again.
        garbage: how often what was sent was not HTTP.
        codes: of problems, those in batches too.
    """

    kept: Path
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    again: int = 0
    busy: int = 0
    calls: int = 0
    garbage: int = 0
    codes: set[str] = field(default_factory=set)


class _Client:
    """One client, with a connection that is kept."""

    def __init__(self, server: Server, seed: int, directory: Path, *, is_patient: bool) -> None:
        self._port = server.port
        self._draw = random.Random(seed)  # noqa: S311 - which request is next
        self._connection: http.client.HTTPConnection | None = None
        self._is_patient = is_patient
        self.haul = Haul(directory / f"kept-{seed}")

    def run(self, stop: threading.Event) -> None:
        """Call until it is told to stop, or nobody is there any more."""
        make, weights = zip(*_MIX, strict=True)
        with self.haul.kept.open("w") as kept:
            while not stop.is_set():
                if self._draw.random() < _NO_HTTP and not self._garbage():
                    break
                (which,) = self._draw.choices(make, weights)
                call = which(self._draw)
                first = self._ask(call, kept)
                if first is None:
                    break
                if "Idempotency-Key" in call.headers and first:
                    second = self._ask(call, kept)
                    if second is None:
                        break
                    if second and second != first:
                        self.haul.wrong.append("a retry got another certificate")
                    self.haul.again += bool(second)
        if self._connection:
            self._connection.close()

    def _garbage(self) -> bool:
        """Send what is not HTTP, which is answered 400 all the same; False if nobody listens any more."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=30) as line:
                line.sendall(self._draw.choice(GARBAGE))
                answer = line.recv(4096)
        except ConnectionRefusedError:
            return False
        except OSError as error:
            answer = type(error).__name__.encode()
        if not answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")):
            self.haul.wrong.append(f"garbage was answered {answer[:40]!r}")
        self.haul.garbage += 1
        return True

    def _ask(self, call: Call, kept: Any) -> list[str] | None:
        """The certificates of the answer; None if nobody listens any more."""
        while True:
            outcome, body = self._exchange(call)
            self.haul.calls += 1
            if outcome.why == "refused":
                return None
            self.haul.outcomes.append(replace(outcome, call=replace(call, headers={}, body=None)))  # small
            if outcome.status == _BUSY and self._is_patient:
                self.haul.busy += 1
                time.sleep(0.2)
                continue
            break
        self.haul.codes.add(outcome.code)
        if outcome.status != call.status:
            return []
        if call.path == "/sign/batch":
            results = json.loads(body)["results"]
            codes = [each["problem"]["code"] for each in results if "problem" in each]
            self.haul.codes.update(codes)
            if len(results) != BATCH or len(codes) - codes.count("unavailable") > call.recorded:
                self.haul.wrong.append(f"of a batch with {call.recorded} bad requests {codes} were refused")
            if "unavailable" not in codes and len(codes) != call.recorded:
                self.haul.wrong.append(f"of a batch with {call.recorded} bad requests {codes} were granted")
        found = _certificates(call, body)
        for each in found:
            kept.write(f"{outcome.request_id} {each}\n")
        return found

    def _exchange(self, call: Call) -> tuple[Outcome, bytes]:
        began, status, code, request_id, body = time.monotonic(), 0, "", "", b""
        try:
            if self._connection is None:
                made = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                made.connect()
                self._connection = made
        except OSError:
            return Outcome(call, 0, "", "", began, "refused"), b""
        try:
            began = time.monotonic()
            self._connection.request(call.method, call.path, call.body, call.headers)
            answer = self._connection.getresponse()
            body = answer.read()
            status, request_id = answer.status, answer.headers["x-amzn-RequestId"]
            if answer.will_close:
                self._connection.close()
                self._connection = None
            if answer.headers.get("Content-Type") == "application/problem+json":
                code = json.loads(body)["code"]
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            return Outcome(call, 0, "", "", began, type(error).__name__), b""
        return Outcome(call, status, request_id, code, began), body


def _certificates(call: Call, body: bytes) -> list[str]:
    """The certificates that were issued, base64 of DER."""
    if call.method != "POST" or call.status != 200:
        return []
    if call.path == "/sign.pem":
        texts = _FOUND.findall(body.decode())[:1]
    elif call.path == "/sign":
        texts = [json.loads(body)["crt_pem"]]
    else:
        results = json.loads(body)["results"]
        texts = [each["certificate"]["crt_pem"] for each in results if "certificate" in each]
    return ["".join(text.split("-----")[2].split()) for text in texts]


class Traffic:
    """Several clients at once."""

    def __init__(self, server: Server, directory: Path, clients: int = 4, *, is_patient: bool = True) -> None:
        """Begin: `is_patient` clients ask again when the answer is 503."""
        good(), refused()
        self._stop = threading.Event()
        self._clients = [_Client(server, seed, directory, is_patient=is_patient) for seed in range(clients)]
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in self._clients]
        for each in self._threads:
            each.start()

    def _run(self, client: _Client) -> None:
        try:
            client.run(self._stop)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._failures.append(error)

    def calls(self) -> int:
        """How many calls were made so far."""
        return sum(each.haul.calls for each in self._clients)

    def end(self) -> list[Haul]:
        """Stop, and what each client got."""
        self._stop.set()
        for each in self._threads:
            each.join(60)
        if self._failures:
            raise self._failures[0]
        return [each.haul for each in self._clients]


def surprises(hauls: Sequence[Haul]) -> Counter[str]:
    """The answers that are not the documented ones."""
    found: Counter[str] = Counter()
    for haul in hauls:
        found.update(haul.wrong)
        for each in haul.outcomes:
            if (each.status, each.code) not in ((each.call.status, each.call.code), (_BUSY, "unavailable")):
                path = f"{each.call.method} {each.call.path} -> {each.call.status} {each.call.code}"
                found[f"{path}: {each.status} {each.code} {each.why}"] += 1
    return found


@dataclass
class Record:
    """What the audit log has.

    Attributes:
        intents, results: request id -> serial numbers; of results with fingerprints.
        refusals: request id -> how many.
        broken: lines that are no JSON.
    """

    intents: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    results: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    refusals: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def record(log: Path) -> Record:
    """Read an audit log."""
    found = Record()
    with log.open() as lines:
        for line in lines:
            try:
                event = json.loads(line)
                request_id = event["request_id"]
            except (ValueError, TypeError, KeyError):
                found.broken.append(line)
                continue
            if event["event"] == "intent":
                found.intents[request_id].add(event["serial_number"])
            elif event["event"] == "result":
                found.results[request_id].add((event["serial_number"], event["fingerprint_sha256"]))
            else:
                found.refusals[request_id] += 1
    return found


@dataclass
class Verified:
    """How many certificates were handed out and found good, how many of them differ, and some of them."""

    handed_out: int = 0
    distinct: int = 0
    sample: list[bytes] = field(default_factory=list)


def verify(hauls: Sequence[Haul], audited: Record, ca: Path) -> Verified:
    """Verify each certificate: its signature, its lines in the audit log, its serial number's uniqueness.

    Raises:
        AssertionError: one of them is not as it has to be.
    """
    issuer = x509.load_pem_x509_certificate((ca / "signing-ca.crt").read_bytes())
    by_serial: dict[bytes, bytes] = {}
    found = Verified()
    draw = random.Random(9)  # noqa: S311 - which ones others look at
    for haul in hauls:
        for line in haul.kept.read_text().splitlines():
            request_id, text = line.split()
            der = base64.b64decode(text)
            fingerprint = hashlib.sha256(der).digest()
            found.handed_out += 1
            certificate = x509.load_der_x509_certificate(der)
            serial = certificate.serial_number.to_bytes(20, "big")
            hexadecimal = serial.lstrip(b"\0").hex()
            assert hexadecimal in audited.intents[request_id], "no intent"
            assert (hexadecimal, fingerprint.hex()) in audited.results[request_id], "no result"
            known = by_serial.setdefault(serial, fingerprint)
            assert known == fingerprint, f"two certificates have the serial number {hexadecimal}"
            certificate.verify_directly_issued_by(issuer)
            if "ML" not in certificate.public_key().__class__.__name__ and draw.random() < 0.01:
                found.sample.append(der)
    found.distinct = len(by_serial)
    return found


def judged_by_openssl(sample: Sequence[bytes], ca: Path, directory: Path) -> int:
    """How many of these certificates `openssl verify -x509_strict` takes.

    Raises:
        AssertionError: it does not take one.
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
