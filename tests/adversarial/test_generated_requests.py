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
from tests.adversarial.invariants import Judge
from tests.adversarial.request_strategies import VARIANTS, Family, Sent
from tests.servers import API_KEY, Server

# `make nightly` sets both: how many requests in all, and where its seeds begin.
REQUESTS: Final = int(os.environ.get("ADVERSARIAL_REQUESTS", "3000"))
SEED: Final = int(os.environ.get("ADVERSARIAL_SEED", "0"))
BY_HTTP: Final = 10  # one in so many
ROUND: Final = 300
ROUNDS: Final = range(REQUESTS * (BY_HTTP - 1) // BY_HTTP // ROUND)
HTTP_ROUNDS: Final = range(REQUESTS // BY_HTTP // ROUND)
TICKS: Final = os.sysconf("SC_CLK_TCK")

Ask = Callable[[Sent], tuple[int, bytes, float]]
"""Sends a request; the status, the body, and the seconds of a processor that it took."""


def body_of(sent: Sent) -> bytes:
    """The body of the HTTP request."""
    return sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body).encode()


def by_event(sent: Sent) -> tuple[int, bytes, float]:
    """The Lambda handler's answer."""
    headers = {"Content-Type": sent.media_type, "x-api-key": API_KEY}
    made, began = lambda_events.of_request("POST", sent.path, headers, body_of(sent)), time.process_time()
    result = aws_lambda.handler(made, Context("hostile", time.monotonic() + 60))
    return result["statusCode"], lambda_events.body(result), time.process_time() - began


def by_http(server: Server) -> Ask:
    """A running server's answer."""
    processes = [server.process.pid, *servers.descendants(server.process.pid)]

    def ask(sent: Sent) -> tuple[int, bytes, float]:
        began = worked(processes)
        headers = {"Content-Type": sent.media_type, "x-api-key": API_KEY}
        answer = server.request("POST", sent.path, body_of(sent), headers)
        return answer.status, answer.body, worked(processes) - began

    return ask


def worked(processes: list[int]) -> float:
    """How many seconds of a processor they have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The handler in this process, with a CA of its own; the CA's folder."""
    directory = tmp_path_factory.mktemp("handler")
    with lambda_events.handler_environment(directory, CERTLET_AUDIT_LOG=str(directory / "audit.log")) as ca:
        yield ca


@pytest.fixture(scope="module")
def seen() -> Iterator[Counter[str]]:
    """How often there was each status and each code, in all rounds; in the end, whether that was enough."""
    counts: Counter[str] = Counter()
    yield counts
    total = counts["200"] + counts["422"]
    assert counts["200"] >= total // 20, counts
    assert all(counts[code] >= total // 2000 for code in invariants.CODES), counts
    sys.stdout.write(f"{dict(counts)}\n")


def hold(number: int, ask: Ask, authorities: dict[str, str], folder: Path) -> Counter[str]:
    """One round: many requests, each held to the laws, and OpenSSL's verdict on what was issued; its counts."""
    judge = Judge(x509.load_pem_x509_certificate(authorities["ca_pem"].encode()))

    @seed(SEED + number)
    @settings(
        max_examples=ROUND // VARIANTS,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(request_strategies.family())
    def every_request(family: Family) -> None:
        for sent in family.members():
            judge.hear(sent, *ask(sent))

    every_request()
    assert sum(judge.seen[status] for status in ("200", "400", "413", "422")) >= ROUND, judge.seen
    assert invariants.verify(judge.issued, authorities["ca_pem"], authorities["root_pem"], folder)
    return judge.seen


def plain(kind: str, public: bytes) -> Sent:
    """A request for one host, as it should be but for its key."""
    names = der.tlv(der.SEQUENCE, der.tlv(b"\x82", b"a.example"))
    value = der.tlv(der.SEQUENCE, der.oid("2.5.29.17"), der.tlv(der.OCTET_STRING, names))
    extensions = der.tlv(der.SET, der.tlv(der.SEQUENCE, value))
    wanted = der.tlv(der.SEQUENCE, der.oid("1.2.840.113549.1.9.14"), extensions)
    attributes = der.tlv(der.ATTRIBUTES, wanted)
    info = der.tlv(der.SEQUENCE, der.integer(0), der.tlv(der.SEQUENCE), public, attributes)
    whole = request_strategies.assembled(info, *request_strategies.sign(kind, 0, info))
    return Sent("/sign.pem?profile=server", "application/pkcs10", whole, whole, "server")


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("kind", [*request_strategies.GOOD_KEYS, *request_strategies.ODD_KEYS])
def test_keys_with_a_good_signature(kind: str) -> None:
    """What the strategies build by hand is a good request for every kind of key that is certified, and no other."""
    status, body, _ = by_event(plain(kind, request_strategies.spki(kind)))
    assert status == (200 if kind in request_strategies.GOOD_KEYS else 422)
    codes = {each["code"] for each in json.loads(body).get("errors", ())} if status == 422 else set()
    assert codes <= {"badPublicKey", "badSignatureAlgorithm"}


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("number", range(len(request_strategies.odd_spkis())))
def test_keys_that_are_none(number: int) -> None:
    """Points, moduli and exponents that no key has are refused as keys, before any work is done on them; a key
    that is one, of which nobody has the private half, is refused for its signature.
    """
    status, body, seconds = by_event(plain("p-256", request_strategies.odd_spkis()[number]))
    code = "badCSR" if number in request_strategies.READABLE else "badPublicKey"
    assert (status, json.loads(body)["code"]) == (422, code)
    assert seconds < 0.25


@pytest.mark.parametrize("number", ROUNDS)
def test_requests_by_events(number: int, authority: Path, seen: Counter[str], tmp_path: Path) -> None:
    """Whatever is sent: no 500, no second of work, no refusal without a reason, no certificate that is not
    just what was asked for and permitted, by the signature, names, key and extensions in its own octets.
    """
    known = {f"{name}_pem": (authority / f"{file}.crt").read_text() for name, file in (("ca", "signing-ca"), ("root", "root-ca"))}  # fmt: skip
    seen += hold(number, by_event, known, tmp_path)


@pytest.mark.parametrize("number", HTTP_ROUNDS)
def test_requests_by_http(number: int, server: Server, seen: Counter[str], tmp_path: Path) -> None:
    """The same through a real server, over HTTP."""
    seen += hold(-1 - number, by_http(server), server.request("GET", "/ca").json(), tmp_path)
