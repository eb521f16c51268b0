"""ACME of a server whose disk is full, whose ledger is lost or damaged, and whose workers die or hang."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service.ledger.sqlite import SqliteLedger
from service.web.acme_problems import NAMESPACE
from tests import servers
from tests.assertions import assert_problem
from tests.gateway import second_api
from tests.gateway.test_failure_modes import create_document
from tests.servers import Response, Server
from tests.web import acme_client, jws_requests
from tests.web.acme_client import JOSE, AcmeClient
from tests.web.test_acme import NAMES, URL
from tests.web.test_acme import assert_problem as assert_acme_problem

SERVE = ("--tls", "--workers", "2", "--no-usage-plan", "--audit-log", "audit.log")
LEDGER = ("--ledger", "ledger.db")
FILES = ("ledger.db", "ledger.db-wal", "ledger.db-shm")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with servers.certlet_server(tmp_path, *SERVE, *LEDGER) as server:
        yield server


def create_client(server: Server) -> AcmeClient:
    key, send = acme_client.add_principal(server, "web"), acme_client.tls_sender(server)
    client = AcmeClient(send, f"{server.url}/acme/directory", jws_requests.new_key("ES256"))
    assert client.register(key, "web").status == 201
    return client


def order_url(order: dict[str, Any]) -> str:
    return str(order["finalize"]).removesuffix("/finalize")


def intents(directory: Path) -> list[str]:
    """The serial numbers of ACME that were issued, or may have been."""
    records = map(json.loads, (directory / "audit.log").read_text().splitlines())
    acme = [record for record in records if record["principal"] == "web"]
    return [record["serial_number"] for record in acme if record["event"] == "intent"]


def assert_unavailable(response: Response) -> None:
    problem = assert_acme_problem(response, 503, "serverInternal")
    assert response.headers["Retry-After"] == "60"
    assert problem["detail"] == "the ledger is not available"


def assert_no_internal_error(server: Server) -> None:
    log = server.read_log()
    assert "Traceback" not in log
    assert '"status":500' not in log.replace(" ", "")


def finalize(client: AcmeClient, order: dict[str, Any]) -> x509.Certificate:
    """Finalize an order, and download its certificate."""
    finalized = client.finalize(order).json()
    assert finalized["status"] == "valid", finalized
    return x509.load_pem_x509_certificate(client.post(finalized["certificate"]).body)


def fill_disk(path: Path) -> None:
    """Write a file until nothing more fits."""
    with path.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_order_is_finalized_when_a_full_disk_has_space_again(tmp_path: Path) -> None:
    """Nothing is issued in the meantime. The ledger is on a small disk of its own."""
    user = ["--user", "--map-root-user"] if os.geteuid() else []
    serve = shlex.join([*servers.SERVE, "--port", "0", *SERVE, "--ledger", "disk/ledger.db"])
    script = f"mount -t tmpfs -o size=512k tmpfs disk && exec {serve}"
    (tmp_path / "disk").mkdir()
    command = ("unshare", "--mount", *user, "sh", "-c", script)
    with servers.certlet_server(tmp_path, command=command) as server:
        client = create_client(server)
        order = client.order(*NAMES).json()
        filler = Path(f"/proc/{server.process.pid}/root{tmp_path}/disk/filler")
        fill_disk(filler)
        servers.wait_until(lambda: client.post(order_url(order)).status == 503)  # SQLite's log has no room
        for _ in range(3):
            assert_unavailable(client.finalize(order))
            assert_unavailable(client.order(*NAMES))
        assert not intents(tmp_path)
        assert client.send("GET", f"{server.url}/health", None, {}).status == 200
        filler.unlink()
        leaf = finalize(client, order)
        assert [int(number, 16) for number in intents(tmp_path)] == [leaf.serial_number]
        assert_no_internal_error(server)
        assert "database or disk is full" in server.read_log()


def move_files(directory: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in FILES:
        if (directory / name).exists():
            shutil.move(directory / name, target / name)


def test_missing_ledger_is_a_503_until_it_is_back(server: Server, tmp_path: Path) -> None:
    """No process creates another one, also none that replaces a worker."""
    client = create_client(server)
    order = client.order(*NAMES).json()
    move_files(tmp_path, tmp_path / "elsewhere")
    for _ in range(4):
        assert_unavailable(client.finalize(order))
        assert_unavailable(client.order(*NAMES))
    os.kill(server.pids("worker")[0], signal.SIGKILL)
    servers.wait_until(lambda: "cannot start a worker" in server.read_log())
    assert not [name for name in FILES if (tmp_path / name).exists()]
    assert not intents(tmp_path)
    move_files(tmp_path / "elsewhere", tmp_path)
    finalize(client, order)
    assert f"{tmp_path}/ledger.db is missing: put it back, or stop the server" in server.read_log()
    assert_no_internal_error(server)


def overwrite(path: Path) -> None:
    path.write_bytes(b"garbage " * 16_384)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    overwrite(other)
    other.rename(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (overwrite, "is not a SQLite file: name another, or restore a copy"),
        (truncate, "is not a SQLite file: name another, or restore a copy"),
        (cut, "is damaged: stop the server and restore a copy"),
        (replace, "was replaced: restart the server"),
    ],
)
def test_damaged_ledger_is_a_503_until_a_copy_is_restored(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    """Orders of before the copy are finalized after a restart; nothing is issued in the meantime."""
    path = tmp_path / "ledger.db"
    ports = ("--port", str(servers.free_port()), "--status-port", str(servers.free_port()))
    serve = (*servers.SERVE, *ports)
    with servers.certlet_server(tmp_path, *SERVE, *LEDGER, command=serve) as server:
        client = create_client(server)
        order = client.order(*NAMES).json()
        with contextlib.closing(sqlite3.connect(path)) as database:
            with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
                database.backup(copy)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all is in the file that is damaged
        damage(path)
        servers.wait_until(lambda: client.post(order_url(order)).status == 503)  # of both workers' caches
        assert_unavailable(client.finalize(order))
        assert_unavailable(client.order(*NAMES))
        assert client.send("GET", f"{server.url}/health", None, {}).status == 200
        assert f"{path} {reason}" in server.read_log()
        assert_no_internal_error(server)
    assert not intents(tmp_path)
    move_files(tmp_path, tmp_path / "damaged")
    shutil.copy(tmp_path / "copy.db", path)
    with servers.certlet_server(tmp_path, *SERVE, *LEDGER, command=serve):
        leaf = finalize(client, order)
    assert [int(number, 16) for number in intents(tmp_path)] == [leaf.serial_number]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with second_api.gateway_server(tmp_path_factory.mktemp("gateway"), create_document()) as server:
        yield server


@contextlib.contextmanager
def faulty_server(directory: Path) -> Iterator[tuple[Server, AcmeClient]]:
    """A gateway of the contract, with a short time-out, and one worker of `faulty_acme`."""
    assert not servers.certlet("init", "ca", cwd=directory).returncode
    SqliteLedger(directory / "ledger.db", lambda: datetime.now(UTC)).close()
    env = {
        "CERTLET_API_KEY": servers.API_KEY,
        "CERTLET_CA": str(directory / "ca"),
        "CERTLET_LEDGER": str(directory / "ledger.db"),
        "CERTLET_AUDIT_LOG": str(directory / "audit.log"),
        "CERTLET_PUBLIC_URL": URL,
    }
    options = {"workers": 1, "no_usage_plan": True, "document": create_document(timeoutInMillis=1_500)}
    (directory / "document.json").write_text(json.dumps(options))
    module = ("-m", "tests.gateway.second_api", "document.json", "tests.load.faulty_acme.handler")
    with servers.certlet_server(directory, command=(sys.executable, *module), env=env) as server:

        def send(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
            return server.request(method, url.removeprefix(URL), body, headers)

        key = acme_client.add_principal(server, "web")
        client = AcmeClient(send, f"{URL}/acme/directory", jws_requests.new_key("ES256"))
        assert client.register(key, "web").status == 201
        yield server, client


@pytest.mark.parametrize(("fault", "status", "code"), [("exit", 502, "badGateway"), ("hang", 504, "timeout")])
def test_order_is_finalized_after_the_worker_has_failed(
    tmp_path: Path, fault: str, status: int, code: str
) -> None:
    """After the claim, or after the certificate was stored; the client asks again, and gets one certificate."""
    with faulty_server(tmp_path) as (server, client):
        for number in (1, 2):
            order = client.order(*NAMES).json()
            issued = intents(tmp_path)
            (tmp_path / "fault").write_text(f"{fault} {number}")
            assert_problem(client.finalize(order), status, code)
            assert not (tmp_path / "fault").exists()
            servers.wait_until(lambda: client.send("GET", f"{URL}/health", None, {}).status == 200)
            shown = client.post(order_url(order)).json()
            assert shown["status"] == ("processing" if number == 1 else "valid")
            servers.wait_until(lambda order=order: client.finalize(order).json()["status"] == "valid")
            leaf = finalize(client, order)
            (serial_number,) = set(intents(tmp_path)) - set(issued)
            assert int(serial_number, 16) == leaf.serial_number
        assert_no_internal_error(server)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/acme/unknown", None, 404, "notFound"),
        ("DELETE", "/acme/new-nonce", None, 405, "methodNotAllowed"),
        ("POST", "/acme/new-order", bytes(1_100_000), 413, "tooLarge"),
        ("GET", f"/acme/{'a' * 9_000}", None, 414, "uriTooLong"),
        ("get", "/acme/directory", None, 501, "notImplemented"),
    ],
)
def test_refusals_of_the_gateway_have_other_types(
    gateway: Server, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    """docs/reference/acme.md lists them."""
    assert_problem(gateway.request(method, path, body, JOSE), status, code)


def test_other_methods_of_signed_operations_have_the_type_of_acme(gateway: Server) -> None:
    """As RFC 8555 6.3 requires."""
    problem = gateway.request("GET", "/acme/new-order").json()
    assert (problem["status"], problem["type"]) == (405, f"{NAMESPACE}malformed")


def test_rate_limit_of_an_address_has_another_type(tmp_path: Path) -> None:
    """With Retry-After, which clients heed."""
    plan = {"rate": 1, "burst": 1, "quota": 1_000, "period": "DAY"}
    document = {**create_document(), "x-usage-plan": plan}
    with second_api.gateway_server(tmp_path, document, no_usage_plan=False) as server:
        responses = [server.request("HEAD", "/acme/new-nonce") for _ in range(40)]
        assert {response.status for response in responses} == {200, 429}
        limited = server.request("POST", "/acme/new-order", b"{}", JOSE)
        assert_problem(limited, 429, "rateLimited")
        assert limited.headers["Retry-After"] == "1"
