"""Many ACME clients at once over TLS, without and with killed workers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from tests import csrs, servers
from tests.servers import Response, Server
from tests.web import acme_client, jws_requests
from tests.web.acme_client import AcmeClient

SERVE = ("--tls", "--ledger", "ledger.db", "--workers", "2", "--no-usage-plan", "--audit-log", "audit.log")
CLIENTS = 50
SECONDS = 60  # more than a lease


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with servers.certlet_server(tmp_path, *SERVE) as server:
        yield server


def create_clients(server: Server, count: int) -> list[AcmeClient]:
    """Create clients with keys of their own, and register them."""
    acme_key, send = acme_client.add_principal(server, "web"), acme_client.tls_sender(server)
    clients = [
        AcmeClient(send, f"{server.url}/acme/directory", jws_requests.new_key("ES256")) for _ in range(count)
    ]
    with ThreadPoolExecutor(count) as pool:
        responses = pool.map(lambda client: client.register(acme_key, "web"), clients)
        assert {response.status for response in responses} == {201}
    return clients


def names(number: int) -> tuple[str, str]:
    return f"dns:a.n{number}.example.com", f"dns:b.n{number}.example.com"


def intents(server: Server) -> dict[str, set[str]]:
    """The serial numbers that the audit log has for the names of each order."""
    serial_numbers = defaultdict(set)
    for line in (server.log.parent / "audit.log").read_text().splitlines():
        record = json.loads(line)
        if record["event"] == "intent":
            serial_numbers[",".join(record["names"])].add(record["serial_number"])
    return serial_numbers


def statuses(server: Server) -> set[int]:
    return {
        record["status"] for record in map(json.loads, server.read_log().splitlines()) if "status" in record
    }


def test_fifty_clients_at_once_get_a_certificate_each(server: Server) -> None:
    """Of two names. No response is 5xx, and each order has one intent."""
    clients = create_clients(server, CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as pool:
        chains = list(pool.map(lambda item: item[1].issue(*names(item[0])), enumerate(clients)))
    leaves = [x509.load_pem_x509_certificate(chain.encode()) for chain in chains]
    assert len({leaf.serial_number for leaf in leaves}) == CLIENTS
    for number, leaf in enumerate(leaves):
        sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [f"dns:{name}" for name in sans.get_values_for_type(x509.DNSName)] == [*names(number)]
    recorded = intents(server)
    assert {len(recorded[",".join(names(number))]) for number in range(CLIENTS)} == {1}
    assert max(statuses(server)) < 500


def test_finalizes_of_an_order_at_once_get_one_certificate(server: Server) -> None:
    """With the same CSR; another CSR is refused."""
    (client,) = create_clients(server, 1)
    order = client.order(*names(0)).json()
    same = csrs.encode_der(csrs.build(None, names(0)))
    other = csrs.encode_der(csrs.build(None, names(0), key_type="p-384"))
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda csr: client.finalize(order, csr), [same, other] * 10))
    accepted = {response.status for response in responses}
    assert accepted == {200, 403}
    assert client.post(order["finalize"].removesuffix("/finalize")).json()["status"] == "valid"
    assert len(intents(server)[",".join(names(0))]) == 1


def test_orders_of_killed_workers_are_finalized(server: Server) -> None:
    """After kill -9 in the middle of finalizes, each order gets one certificate."""
    (client,) = create_clients(server, 1)
    orders = [client.order(*names(number)).json() for number in range(60)]
    requests = [csrs.encode_der(csrs.build(None, names(number))) for number in range(60)]

    payloads = [{"csr": jws_requests.encode(csr)} for csr in requests]
    pairs = zip(orders, payloads, strict=True)
    bodies = [client.sign(order["finalize"], payload) for order, payload in pairs]

    def finalize(number: int) -> Response:
        return client.send("POST", orders[number]["finalize"], bodies[number], acme_client.JOSE)

    with ThreadPoolExecutor(6) as pool:
        results = [pool.submit(finalize, number) for number in range(60)]
        while not all(result.done() for result in results):
            for pid in server.pids("worker")[:1]:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    first = {result.result().status for result in results}
    assert 502 in first
    assert first <= {200, 502, 503}
    servers.wait_until(lambda: "newNonce" in client.directory)
    open_orders = set(range(60))
    deadline = time.monotonic() + SECONDS
    while open_orders:
        assert time.monotonic() < deadline, open_orders
        for number in sorted(open_orders):
            response = client.post(orders[number]["finalize"], payloads[number])
            assert response.status == 200, response.body
            if response.json()["status"] == "valid":
                open_orders.remove(number)
        time.sleep(0.5)
    recorded = intents(server)
    assert {len(recorded[",".join(names(number))]) for number in range(60)} == {1}
