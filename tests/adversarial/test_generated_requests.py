from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from hypothesis import HealthCheck, Phase, given, seed, settings

from service import aws_lambda
from service.gateway.worker import Context
from tests import lambda_events, servers
from tests.adversarial import der, invariants, request_strategies
from tests.adversarial.invariants import Checker
from tests.adversarial.request_strategies import VARIANTS, GeneratedRequest, RequestVariants
from tests.servers import API_KEY, Server

# `make nightly` sets both: the total number of requests, and the first seed.
REQUESTS: Final = int(os.environ.get("ADVERSARIAL_REQUESTS", "3000"))
SEED: Final = int(os.environ.get("ADVERSARIAL_SEED", "0"))
HTTP_SHARE: Final = 10  # one request in ten is sent over HTTP
ROUND_SIZE: Final = 300
ROUNDS: Final = range(REQUESTS * (HTTP_SHARE - 1) // HTTP_SHARE // ROUND_SIZE)
HTTP_ROUNDS: Final = range(REQUESTS // HTTP_SHARE // ROUND_SIZE)
TICKS: Final = os.sysconf("SC_CLK_TCK")

Send = Callable[[GeneratedRequest], tuple[int, bytes, float]]
"""Sends a request; returns the status, the body, and the processor time in seconds."""


def body_of(request: GeneratedRequest) -> bytes:
    """Return the body of the HTTP request."""
    return request.body if isinstance(request.body, bytes) else json.dumps(request.body).encode()


def send_event(request: GeneratedRequest) -> tuple[int, bytes, float]:
    """Send a request to the Lambda handler."""
    headers = {"Content-Type": request.media_type, "x-api-key": API_KEY}
    lambda_event = lambda_events.from_request("POST", request.path, headers, body_of(request))
    start = time.process_time()
    result = aws_lambda.handler(lambda_event, Context("adversarial", time.monotonic() + 60))
    return result["statusCode"], lambda_events.decode_body(result), time.process_time() - start


def http_sender(server: Server) -> Send:
    """Return a function that sends requests to a running server."""
    processes = [server.process.pid, *servers.descendant_pids(server.process.pid)]

    def send(request: GeneratedRequest) -> tuple[int, bytes, float]:
        start = cpu_seconds(processes)
        headers = {"Content-Type": request.media_type, "x-api-key": API_KEY}
        response = server.request("POST", request.path, body_of(request), headers)
        return response.status, response.body, cpu_seconds(processes) - start

    return send


def cpu_seconds(processes: list[int]) -> float:
    """Return the processor time that processes have used, in seconds."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(values[11]) + int(values[12]) for values in fields) / TICKS


@pytest.fixture(scope="module")
def ca_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set up the handler in this process with a temporary CA; return the CA's folder."""
    directory = tmp_path_factory.mktemp("handler")
    with lambda_events.handler_environment(directory, CERTLET_AUDIT_LOG=str(directory / "audit.log")) as ca:
        yield ca


@pytest.fixture(scope="module")
def counts() -> Iterator[Counter[str]]:
    """Count statuses and codes in all rounds; at the end, check that each occurred often enough."""
    counts: Counter[str] = Counter()
    yield counts
    total = counts["200"] + counts["422"]
    assert counts["200"] >= total // 20, counts
    assert all(counts[code] >= total // 2000 for code in invariants.REFUSAL_CODES), counts
    sys.stdout.write(f"{dict(counts)}\n")


def check_round(number: int, send: Send, ca_certificates: dict[str, str], folder: Path) -> Counter[str]:
    """Send one round of requests, check every response, and verify the certificates with OpenSSL; return the counts."""
    checker = Checker(x509.load_pem_x509_certificate(ca_certificates["ca_pem"].encode()))

    @seed(SEED + number)
    @settings(
        max_examples=ROUND_SIZE // VARIANTS,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(request_strategies.request_variants())
    def check_variants(variants: RequestVariants) -> None:
        for request in variants.requests():
            checker.check(request, *send(request))

    check_variants()
    assert sum(checker.counts[status] for status in ("200", "400", "413", "422")) >= ROUND_SIZE, (
        checker.counts
    )
    assert invariants.verify_with_openssl(
        checker.issued, ca_certificates["ca_pem"], ca_certificates["root_pem"], folder
    )
    return checker.counts


def csr_for_key(key_type: str, public_key: bytes) -> GeneratedRequest:
    """Return a valid request for one host with this SubjectPublicKeyInfo."""
    names = der.tlv(der.SEQUENCE, der.tlv(b"\x82", b"a.example"))
    value = der.tlv(der.SEQUENCE, der.oid("2.5.29.17"), der.tlv(der.OCTET_STRING, names))
    extensions = der.tlv(der.SET, der.tlv(der.SEQUENCE, value))
    extension_request = der.tlv(der.SEQUENCE, der.oid("1.2.840.113549.1.9.14"), extensions)
    attributes = der.tlv(der.ATTRIBUTES, extension_request)
    info = der.tlv(der.SEQUENCE, der.integer(0), der.tlv(der.SEQUENCE), public_key, attributes)
    csr = request_strategies.assemble_csr(info, *request_strategies.sign(key_type, 0, info))
    return GeneratedRequest("/sign.pem?profile=server", "application/pkcs10", csr, csr, "server")


@pytest.mark.usefixtures("ca_folder")
@pytest.mark.parametrize(
    "key_type", [*request_strategies.SUPPORTED_KEYS, *request_strategies.UNSUPPORTED_KEYS]
)
def test_csrs_are_issued_only_for_supported_key_types(key_type: str) -> None:
    """A CSR is issued for every supported key type, and refused for any other."""
    status, body, _ = send_event(csr_for_key(key_type, request_strategies.spki(key_type)))
    assert status == (200 if key_type in request_strategies.SUPPORTED_KEYS else 422)
    codes = {error["code"] for error in json.loads(body).get("errors", ())} if status == 422 else set()
    assert codes <= {"badPublicKey", "badSignatureAlgorithm"}


@pytest.mark.usefixtures("ca_folder")
@pytest.mark.parametrize("number", range(len(request_strategies.odd_spkis())))
def test_invalid_public_keys_are_refused(number: int) -> None:
    """Invalid points, moduli and exponents are refused before any expensive computation.

    Well-formed keys without a private key are refused because of the signature.
    """
    status, body, seconds = send_event(csr_for_key("p-256", request_strategies.odd_spkis()[number]))
    code = "badCSR" if number in request_strategies.WELL_FORMED_SPKIS else "badPublicKey"
    assert (status, json.loads(body)["code"]) == (422, code)
    assert seconds < 0.25


@pytest.mark.parametrize("number", ROUNDS)
def test_lambda_responses_keep_the_invariants(
    number: int, ca_folder: Path, counts: Counter[str], tmp_path: Path
) -> None:
    """Every response takes less than a second of processor time; no status is 500, and every refusal has a reason.

    Every certificate has only requested and permitted names, the CSR's key, and the expected extensions.
    """
    certificates = {f"{name}_pem": (ca_folder / f"{file}.crt").read_text() for name, file in (("ca", "signing-ca"), ("root", "root-ca"))}  # fmt: skip
    counts += check_round(number, send_event, certificates, tmp_path)


@pytest.mark.parametrize("number", HTTP_ROUNDS)
def test_http_responses_keep_the_invariants(
    number: int, server: Server, counts: Counter[str], tmp_path: Path
) -> None:
    """The responses of a real server over HTTP have the same invariants."""
    counts += check_round(-1 - number, http_sender(server), server.request("GET", "/ca").json(), tmp_path)
