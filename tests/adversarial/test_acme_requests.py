"""Hostile ACME requests, in the application and over TLS: each gets a documented response, and none a certificate."""

from __future__ import annotations

import random
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from jsonschema import Draft4Validator

from service.web import acme_problems
from tests import servers
from tests.adversarial.acme_requests import Generator, HostileRequest
from tests.assertions import DOCUMENT
from tests.servers import Response
from tests.web import acme_client, jws_requests
from tests.web.acme_client import AcmeClient
from tests.web.test_acme import ACME_KEY, Site

ROUNDS: Final = range(10)
ROUND_SIZE: Final = 2_000
TLS_ROUND_SIZE: Final = 600
MUTATIONS: Final = ((1, 2, 3), (6, 2, 1))  # numbers, and how often each occurs
PROBLEM: Final = Draft4Validator(DOCUMENT["components"]["schemas"]["AcmeProblem"])
TYPES: Final = {
    acme_problems.NAMESPACE + code for code in set(acme_problems.STATUS) - {"conflict", "notFound"}
}
PATHS: Final = {
    "account": "/acme/account/{account_id}",
    "orders": "/acme/account/{account_id}/orders",
    "order": "/acme/order/{order_id}",
    "finalize": "/acme/order/{order_id}/finalize",
    "authorization": "/acme/authorization/{order_id}/{index}",
    "challenge": "/acme/challenge/{order_id}/{index}",
    "certificate": "/acme/certificate/{order_id}",
}
# Words of Python and of libraries; and control characters, which could change a terminal.
FORBIDDEN: Final = re.compile(r"sys\.|Traceback|0x[0-9a-f]{8}|codec|NoneType|unhashable|joserfc|[^ -~…]")
# Each is the response to some of the requests.
EXPECTED: Final = {
    *("200", "201", "400 accountDoesNotExist", "400 badCSR", "400 badNonce", "400 badPublicKey"),
    *("400 badRevocationReason", "400 badSignatureAlgorithm", "400 invalidContact", "400 invalidProfile"),
    *("400 malformed", "400 unsupportedContact", "400 unsupportedIdentifier", "403 externalAccountRequired"),
    *("403 rejectedIdentifier", "403 unauthorized", "404 malformed", "409 malformed", "413 malformed"),
    "415 malformed",
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "ledger.db")
    yield site
    site.ledger.close()


def check_response(request: HostileRequest, response: Response) -> str:
    """Verify that a response is documented; return its status, and the type of the problem."""
    path = PATHS.get(request.operation, f"/acme/{request.operation}")
    documented = DOCUMENT["paths"][path]["post"]["responses"]
    assert str(response.status) in documented, (request, response)
    assert response.status < 500, (request, response)
    assert response.headers["Replay-Nonce"]
    media_type = response.headers["Content-Type"]
    if response.status < 400:
        assert media_type == "application/json", (request, response)
        schema = documented[str(response.status)]["content"][media_type]["schema"]
        Draft4Validator(schema).validate(response.json())
        return str(response.status)
    assert media_type == "application/problem+json", (request, response)
    problem = response.json()
    PROBLEM.validate(problem)
    assert (problem["status"], problem["type"] in TYPES) == (response.status, True), (request, problem)
    details = [problem["detail"], *(item["detail"] for item in problem.get("subproblems", ()))]
    assert not [detail for detail in details if FORBIDDEN.search(detail) or len(detail) > 2_000], problem
    return f"{response.status} {problem['type'].removeprefix(acme_problems.NAMESPACE)}"


def send_requests(
    owner: AcmeClient, generator: Generator, seed: int, count: int, *, is_stranger: bool
) -> Counter[str]:
    """Send generated requests, and count their responses."""
    rng = random.Random(f"{seed} {is_stranger}")  # noqa: S311 - reproducible
    counts: Counter[str] = Counter()
    for _ in range(count):
        (mutations,) = rng.choices(*MUTATIONS)
        request = generator.generate(rng, owner.nonce(), is_stranger=is_stranger, mutations=mutations)
        response = owner.send("POST", request.url, request.body, request.headers)
        counts[check_response(request, response)] += 1
    return counts


def dump(path: Path) -> list[str]:
    """The content of a ledger."""
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def prepare(site: Site) -> tuple[AcmeClient, Generator]:
    owner = site.client()
    generator = Generator(owner, site.client(), ACME_KEY, "web")
    site.log.clear()
    return owner, generator


@pytest.mark.parametrize("operation", [*PATHS, "new-account", "key-change", "new-order", "revoke-cert"])
def test_request_without_a_mutation_reaches_its_operation(site: Site, operation: str) -> None:
    """It is right up to the last check of the operation."""
    owner, generator = prepare(site)
    rng = random.Random(0)  # noqa: S311 - reproducible
    while True:
        request = generator.generate(rng, owner.nonce(), is_stranger=False, mutations=0)
        if request.operation == operation:
            break
    outcomes = {
        "key-change": "409 malformed",
        "new-order": "201",
        "finalize": "400 badCSR",
        "authorization": "400 malformed",
        "certificate": "404 malformed",
        "revoke-cert": "404 malformed",
    }
    response = site.send("POST", request.url, request.body, request.headers)
    assert check_response(request, response) == outcomes.get(operation, "200")


@pytest.mark.parametrize("seed", ROUNDS)
def test_strangers_change_nothing(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """They fill neither the ledger, with nonces or accounts, nor the audit log."""
    owner, generator = prepare(site)
    before = dump(tmp_path / "ledger.db")
    counts = send_requests(owner, generator, seed, ROUND_SIZE // 2, is_stranger=True)
    assert dump(tmp_path / "ledger.db") == before
    assert not site.log
    assert not caplog.records
    assert not counts.keys() & {"200", "201"}


@pytest.mark.parametrize("seed", ROUNDS)
def test_signed_requests_issue_nothing(site: Site, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    """An account has signed them. Each response is expected from a round of them."""
    owner, generator = prepare(site)
    counts = send_requests(owner, generator, seed, ROUND_SIZE // 2, is_stranger=False)
    assert {record.event for record in site.log} <= {"refusal"}
    assert not caplog.records
    assert len(counts.keys() & EXPECTED) >= len(EXPECTED) - 4, EXPECTED - counts.keys()
    assert owner.post(owner.account).json()["status"] == "valid"


def count_key_operations(function: Callable[[], object]) -> Counter[str]:
    """Call a function, and count the operations with public keys and private keys."""
    counts: Counter[str] = Counter()

    def profile(_frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ in {"verify", "verify_directly_issued_by", "sign"}:
            counts[called.__name__] += 1

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return counts


def test_strangers_cost_no_work_with_keys(site: Site) -> None:
    """Neither a verification nor a signature; an account costs a verification for each request."""
    owner, generator = prepare(site)
    requests: list[HostileRequest] = []
    rng = random.Random(0)  # noqa: S311 - reproducible
    for number in range(600):
        request = generator.generate(rng, owner.nonce(), is_stranger=True, mutations=number % 3)
        requests.append(request)

    def send() -> None:
        for request in requests:
            site.send("POST", request.url, request.body, request.headers)

    assert not count_key_operations(send)
    body, url = owner.sign(owner.account), owner.account
    assert count_key_operations(lambda: site.send("POST", url, body, acme_client.JOSE)) == {"verify": 1}


def test_hostile_requests_over_tls_get_documented_responses(tmp_path: Path) -> None:
    """The gateway responds to some of them. The log has no traceback, and the server issues afterwards."""
    options = ("--tls", "--ledger", "ledger.db", "--no-usage-plan", "--audit-log", "audit.log")
    with servers.certlet_server(tmp_path, *options) as server:
        acme_key, send = acme_client.add_principal(server, "web"), acme_client.tls_sender(server)
        owner, other = (
            AcmeClient(send, f"{server.url}/acme/directory", jws_requests.new_key("ES256")) for _ in range(2)
        )
        assert {client.register(acme_key, "web").status for client in (owner, other)} == {201}
        generator = Generator(owner, other, acme_key, "web")
        before, issued = dump(tmp_path / "ledger.db"), (tmp_path / "audit.log").read_text().count('"intent"')
        send_requests(owner, generator, 0, TLS_ROUND_SIZE // 2, is_stranger=True)
        assert dump(tmp_path / "ledger.db") == before
        send_requests(owner, generator, 0, TLS_ROUND_SIZE // 2, is_stranger=False)
        assert (tmp_path / "audit.log").read_text().count('"intent"') == issued
        assert owner.issue("dns:a.example.com")
        assert "Traceback" not in server.read_log()
