"""The listener for monitoring: of a real server, and with a pool that responds as a test requires."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from service.gateway import monitoring
from service.gateway.configuration import Configuration
from service.gateway.connections import Connections
from service.gateway.monitoring import Monitoring
from service.gateway.routes import GatewayError
from service.gateway.worker_pool import PoolStatistics, WorkerPool
from service.keystore import ca_directory
from tests import csrs, factories, servers
from tests.assertions import JSON, KEY
from tests.cli import certlet
from tests.gateway.test_metrics import samples
from tests.servers import API_KEY, HttpService, Server

OPERATOR = {"principals": {"default": {"role": "operator", "dns": {}, "ip": {}, "email": {}, "uri": {}}}}
CSR = csrs.encode_pem(csrs.build(sans=["dns:secret-name.example.com"])).decode()


def listener(server: Server) -> HttpService:
    """The listener for monitoring, of which the server prints the URL."""
    (line,) = [line for line in server.output if line.startswith("Metrics ")]
    return HttpService(line.split()[1].removesuffix("/metrics"))


def scrape(server: Server) -> dict[str, float]:
    """All metrics, of now: name and label values, in the order of their names -> value."""
    time.sleep(monitoring.INTERVAL)
    response = listener(server).request("GET", "/metrics")
    assert response.status == 200
    return {
        " ".join([name, *(text for _, text in sorted(labels))]): value
        for (name, labels), value in samples(response.body.decode()).items()
    }


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a ledger, two workers and a listener for monitoring; the key is that of an operator."""
    directory = tmp_path_factory.mktemp("monitored")
    (directory / "own.yaml").write_text(json.dumps(OPERATOR))
    assert certlet("init", "ca", cwd=directory).returncode == 0
    options = ("--metrics", "0", "--workers", "2", "--audit-log", "audit.log", "--ledger", "ledger.db")
    with servers.certlet_server(directory, *options, "--profiles", "own.yaml", "--no-usage-plan") as server:
        yield server


def test_metrics_count_what_the_audit_log_records(monitored: Server) -> None:
    """Each certificate of a batch counts, and each refusal; a dry run that is not refused does not.

    Names are in the requests, but not in the metrics.
    """
    before = scrape(monitored)
    assert monitored.sign({"csr": CSR}).status == 200
    assert monitored.sign({"csr": CSR, "profile": "client"}).status == 200
    assert monitored.sign({"csr": "x"}).status == 422
    assert monitored.sign({"csr": CSR, "validity": "P9999D"}).status == 422
    assert monitored.sign({"csr": CSR}, "wrong" * 8).status == 403  # by the gateway, which writes no record
    dry_run = monitored.request("POST", "/sign?dry_run=true", json.dumps({"csr": CSR}).encode(), JSON)
    assert dry_run.status == 202
    batch = {"requests": [{"csr": CSR}, {"csr": "x"}, {"csr": CSR}]}
    assert monitored.request("POST", "/sign/batch", json.dumps(batch).encode(), JSON).status == 200
    pem = monitored.request("POST", "/sign.pem", CSR.encode(), KEY).body
    revocation = {"certificate": pem.decode().partition("-----END")[0] + "-----END CERTIFICATE-----\n"}
    body = json.dumps(revocation | {"reason": "superseded"}).encode()
    assert monitored.request("POST", "/revoke", body, JSON).status == 200
    after = scrape(monitored)
    change = {name: value - before.get(name, 0) for name, value in after.items() if "_certificates_" in name}
    assert {name: value for name, value in change.items() if value} == {
        "certlet_certificates_issued_total server": 4,
        "certlet_certificates_issued_total client": 1,
        "certlet_certificates_refused_total server badCSR": 2,
        "certlet_certificates_refused_total server rejectedValidity": 1,
        "certlet_certificates_revoked_total superseded": 1,
    }
    requests = {
        name: value - before.get(name, 0) for name, value in after.items() if "requests_total" in name
    }
    assert {name: value for name, value in requests.items() if value} == {
        "certlet_http_requests_total sign 200": 2,
        "certlet_http_requests_total sign 202": 1,
        "certlet_http_requests_total sign 403": 1,
        "certlet_http_requests_total sign 422": 2,
        "certlet_http_requests_total signBatch 200": 1,
        "certlet_http_requests_total signPem 200": 1,
        "certlet_http_requests_total revoke 200": 1,
    }
    text = listener(monitored).request("GET", "/metrics").body.decode()
    for name in ("secret-name", "example.com", "127.0.0.1", API_KEY, 'default"'):
        assert name not in text
    records = [json.loads(line) for line in (monitored.log.parent / "audit.log").read_text().splitlines()]
    issued = Counter(record["profile"] for record in records if record["event"] == "result")
    counted = {name.split()[1]: value for name, value in after.items() if "_issued_total" in name}
    assert counted == dict(issued)


def test_requests_without_an_operation_share_a_label(monitored: Server) -> None:
    """Paths and methods of clients become no labels."""
    before = scrape(monitored)
    for method, path in (("GET", "/nope"), ("GET", "/nope2"), ("DELETE", "/health"), ("OPTIONS", "/sign")):
        monitored.request(method, path)
    assert monitored.request("GET", "/docs").status == 200
    after = scrape(monitored)
    change = {name: after[name] - before.get(name, 0) for name in after if "requests_total none" in name}
    assert change == {
        "certlet_http_requests_total none 200": 1,
        "certlet_http_requests_total none 204": 1,
        "certlet_http_requests_total none 404": 2,
        "certlet_http_requests_total none 405": 1,
    }


def test_gauges_describe_the_ca_its_crl_and_the_server(monitored: Server) -> None:
    values = scrape(monitored)
    certificate, _ = ca_directory.load_chain(monitored.log.parent / "ca")
    assert values["certlet_ca_not_after_timestamp_seconds"] == certificate.not_valid_after_utc.timestamp()
    age = time.time() - values["certlet_crl_this_update_timestamp_seconds"]
    assert 0 <= age < 310
    validity = (
        values["certlet_crl_next_update_timestamp_seconds"]
        - values["certlet_crl_this_update_timestamp_seconds"]
    )
    assert validity == 86_400
    assert values["certlet_ready"] == values["certlet_ledger"] == 1
    assert values["certlet_workers function"] == values["certlet_workers_configured function"] == 2
    version = factories.document()["info"]["version"]
    assert [name.split()[2] for name in values if name.startswith("certlet_build_info ")] == [version]
    assert "certlet_tls_not_after_timestamp_seconds" not in values


def test_probes_of_a_ready_server_are_ok(monitored: Server) -> None:
    for path in ("/livez", "/readyz"):
        response = listener(monitored).request("GET", path)
        assert (response.status, response.body) == (200, b"ok\n")
        assert response.headers["Cache-Control"] == "no-store"
        head = listener(monitored).request("HEAD", path)
        assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/sign", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/livez", 405),
        ("PUT", "/x", 404),
    ],
)
def test_other_requests_are_refused(monitored: Server, method: str, path: str, status: int) -> None:
    response = listener(monitored).request(method, path, b"x" * 100_000 if method != "GET" else None)
    assert response.status == status
    assert response.headers["Content-Type"].startswith("text/plain")
    assert monitored.request("GET", "/metrics").status == 404
    assert monitored.request("GET", "/livez").status == 404


def test_malformed_request_is_400(monitored: Server) -> None:
    port = int(listener(monitored).url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"\x00\x01\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 400 ")


def test_requests_for_monitoring_are_not_in_the_access_log(monitored: Server) -> None:
    before = monitored.read_log()
    for path in ("/livez", "/readyz", "/metrics"):
        assert listener(monitored).request("GET", path).status == 200
    assert monitored.read_log() == before


SLOW = 0.5  # seconds; more than `run_scenario` permits


class Pool:
    """A pool whose responses a test chooses: path -> result, exception or seconds; it counts the calls."""

    def __init__(self) -> None:
        self.responses: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.on_counts: Callable[[Any], None] = print

    async def invoke(self, event: dict[str, Any], _timeout: float) -> Any:
        path = event["path"]
        assert event["requestContext"]["requestId"]
        self.calls[path] += 1
        response = self.responses.get(path, GatewayError("INTEGRATION_FAILURE"))
        if isinstance(response, float):
            await asyncio.sleep(response)
            response = ok({})
        if isinstance(response, Exception):
            raise response
        return response

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(1, 1, 0, 0, 0)


def ok(body: object) -> dict[str, Any]:
    return {"statusCode": 200, "headers": {}, "body": json.dumps(body)}


def crl(entries: int, this_update: datetime) -> dict[str, Any]:
    """The response to GET /ca.crl."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(factories.distinguished_name("x"))
    builder = builder.last_update(this_update).next_update(this_update + timedelta(days=1))
    for number in range(1, entries + 1):
        revoked = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(this_update)
        builder = builder.add_revoked_certificate(revoked.build())
    der = builder.sign(csrs.private_key(), hashes.SHA256()).public_bytes(Encoding.DER)
    return {"statusCode": 200, "headers": {}, "body": base64.b64encode(der).decode(), "isBase64Encoded": True}


def run_scenario(
    scenario: Callable[[Monitoring, Pool], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    interval: float = 0,
    wait: float = 0.2,
) -> None:
    """Run a scenario with a new listener, which invokes the function again after `interval`."""
    monkeypatch.setattr(monitoring, "INTERVAL", interval)
    monkeypatch.setattr(monitoring, "WAIT", wait)

    async def main() -> None:
        pool = Pool()
        probe_events: dict[str, Any] = {
            name: {"path": name, "requestContext": {}} for name in ("health", "ca", "crl")
        }
        configuration = Configuration({}, {}, [], 0, 1, "keys.json", {}, probe_events=probe_events)
        pools = {"function": cast("WorkerPool", pool)}
        tested = Monitoring(configuration, pools, Connections(), lambda: False, lambda: None)
        await asyncio.wait_for(scenario(tested, pool), 10)

    asyncio.run(main())


async def gauges(tested: Monitoring) -> dict[str, float]:
    _, text = await tested._respond("GET", "/metrics")
    return {name: value for (name, labels), value in samples(text).items() if not labels}


def test_function_is_invoked_once_for_simultaneous_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once a second; the metrics are encoded as often."""

    async def scenario(tested: Monitoring, pool: Pool) -> None:
        pool.responses["health"] = 0.05
        paths = ["/metrics", "/readyz"] * 50
        replies = await asyncio.gather(*(tested._respond("GET", path) for path in paths))
        assert {status for status, _ in replies} == {200}
        assert pool.calls == {"health": 1, "ca": 1, "crl": 1}
        (first,) = {text for _, text in replies if text != "ok\n"}
        tested.metrics.add_outcomes([("result", ["server"], 1)])
        assert (await tested._respond("GET", "/metrics"))[1] == first
        assert await tested._respond("GET", "/readyz") == (200, "ok\n")
        assert pool.calls == {"health": 1, "ca": 1, "crl": 1}
        await asyncio.sleep(1.05)
        assert "issued_total{" in (await tested._respond("GET", "/metrics"))[1]
        assert pool.calls == {"health": 2, "ca": 2, "crl": 2}

    run_scenario(scenario, monkeypatch, interval=1, wait=5)


def test_disconnected_client_does_not_cancel_the_call_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(tested: Monitoring, pool: Pool) -> None:
        pool.responses["health"] = 0.1
        first, second = (asyncio.create_task(tested._respond("GET", "/readyz")) for _ in range(2))
        await asyncio.sleep(0.02)
        first.cancel()
        assert await second == (200, "ok\n")
        assert pool.calls == {"health": 1}

    run_scenario(scenario, monkeypatch)


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ({"statusCode": 503, "body": "{}"}, "the CA cannot issue certificates: see GET /health\n"),
        (GatewayError("INTEGRATION_FAILURE"), "no worker responds\n"),
        (GatewayError("INTEGRATION_TIMEOUT"), "no worker responds\n"),
        ({"malformed": True}, "no worker responds\n"),
        (SLOW, "no worker responds\n"),
    ],
)
def test_server_that_cannot_issue_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, response: object, text: str
) -> None:
    """It is alive, and its metrics say so. A response that takes too long is none."""

    async def scenario(tested: Monitoring, pool: Pool) -> None:
        pool.responses["health"] = response
        assert await tested._respond("GET", "/readyz") == (503, text)
        assert await tested._respond("GET", "/livez") == (200, "ok\n")
        assert (await gauges(tested))["certlet_ready"] == 0
        pool.responses["health"] = ok({})
        await asyncio.sleep(SLOW if response == SLOW else 0)
        assert await tested._respond("GET", "/readyz") == (200, "ok\n")
        assert (await gauges(tested))["certlet_ready"] == 1

    run_scenario(scenario, monkeypatch)


def test_last_crl_and_ca_stay_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the function does not return another, the age of the last CRL grows."""
    start = datetime(2026, 11, 23, 12, tzinfo=UTC)

    async def scenario(tested: Monitoring, pool: Pool) -> None:
        assert not (await gauges(tested)).keys() & {
            "certlet_ca_not_after_timestamp_seconds",
            "certlet_crl_entries",
        }
        pool.responses |= {"ca": ok({"not_after": "2031-11-23T12:00:00Z"}), "crl": crl(2, start)}
        known = {
            "certlet_ca_not_after_timestamp_seconds": datetime(2031, 11, 23, 12, tzinfo=UTC).timestamp(),
            "certlet_crl_entries": 2,
            "certlet_crl_this_update_timestamp_seconds": start.timestamp(),
            "certlet_crl_next_update_timestamp_seconds": start.timestamp() + 86_400,
        }
        assert (await gauges(tested)).items() >= known.items()
        unavailable = {"statusCode": 503}
        for ca, other in (
            (ok({"not_after": "2099-11-23T12:00:00Z"}) | unavailable, crl(9, start) | unavailable),
            (ok({}), crl(9, start) | {"body": "AAAA"}),
            (ok([]), crl(9, start) | {"body": "!"}),
            (ok({"not_after": "x"}), GatewayError("DEFAULT_5XX")),
        ):
            pool.responses |= {"ca": ca, "crl": other}
            assert (await gauges(tested)).items() >= known.items()
        pool.responses["crl"] = crl(3, start + timedelta(minutes=5))
        assert (await gauges(tested))["certlet_crl_entries"] == 3

    run_scenario(scenario, monkeypatch)
