"""`certlet serve`: its options, processes and files."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service.cli import serve
from service.cli.options import parse_listener
from service.ledger.sqlite import SqliteLedger
from tests import csrs, servers
from tests.factories import NOW
from tests.servers import API_KEY
from tests.token_events import RULE


def test_unwritable_audit_log_is_named(tmp_path: Path) -> None:
    """The error of a CERTLET_AUDIT_LOG that cannot be opened has the variable and the path, not an errno."""
    log = tmp_path / "none" / "a"
    env = {"CERTLET_AUDIT_LOG": str(log)}
    run = servers.certlet("serve", "--ephemeral", "--port", "0", cwd=tmp_path, env=env)
    assert run.returncode == 1
    assert run.stderr.decode() == f"certlet: CERTLET_AUDIT_LOG: {log}: No such file or directory\n"


def test_ledger_is_created_for_its_owner(tmp_path: Path) -> None:
    """The option precedes the variable. Several workers use the file, which is in the server's directory."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_LEDGER": "other.db"}
    with servers.certlet_server(tmp_path, "--ledger", "ledger.db", "--workers", "2", env=env) as server:
        assert server.request("GET", "/ca.crl", headers={"Accept": "*/*"}).status == 200
        files = sorted(tmp_path.glob("ledger.db*"))
        assert [file.name for file in files] == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert not any("Warning" in line for line in server.output)
    assert not (tmp_path / "other.db").exists()
    (tmp_path / "other.db").touch()
    (tmp_path / "other.db").chmod(0o644)
    with servers.certlet_server(tmp_path, env=env) as server:
        assert any("other.db" in line for line in server.output if line.startswith("Warning"))


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        ("none/ledger.db", "--ledger: none/ledger.db: No such file or directory"),
        ("directory", "--ledger: directory: Is a directory"),
        ("text", "--ledger: text is not a SQLite file: name another, or restore a copy"),
        ("other.db", "--ledger: other.db is not a ledger: it is a database of another program"),
        ("newer.db", "--ledger: newer.db was written by a newer version of Certlet: update this one"),
    ],
)
def test_file_that_is_no_ledger_prevents_the_start(tmp_path: Path, ledger: str, message: str) -> None:
    """Nothing else is created, and the file is not changed."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "text").write_text("text" * 999)
    SqliteLedger(tmp_path / "newer.db", lambda: NOW).close()
    for name, statement in (("other.db", "CREATE TABLE a (b)"), ("newer.db", "PRAGMA user_version = 99")):
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as database:
            database.execute(statement)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    run = servers.certlet("serve", "--create", "--port", "0", "--ledger", ledger, cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr.decode()) == (1, b"", f"certlet: {message}\n")
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_file_and_table_of_a_ledger_exclude_each_other(tmp_path: Path) -> None:
    env = {"CERTLET_LEDGER_TABLE": "certlet"}
    run = servers.certlet("serve", "--port", "0", "--ledger", "ledger.db", cwd=tmp_path, env=env)
    message = "certlet: CERTLET_LEDGER and CERTLET_LEDGER_TABLE are both set; set only one\n"
    assert (run.returncode, run.stderr.decode()) == (1, message)
    assert not list(tmp_path.iterdir())


def test_rule_for_one_certificate_needs_a_ledger(tmp_path: Path) -> None:
    """Without one, the server does not start, and creates nothing."""
    profiles = tmp_path / "own.yaml"
    profiles.write_text(json.dumps({"identities": {"deploy": RULE, "once": RULE | {"once": True}}}))
    arguments = ("--port", "0", "--profiles", "own.yaml")
    run = servers.certlet("serve", *arguments, cwd=tmp_path)
    message = "certlet: rule 'once' of identities has once: true, which needs a ledger: pass --ledger\n"
    assert (run.returncode, run.stdout, run.stderr.decode()) == (1, b"", message)
    assert list(tmp_path.iterdir()) == [profiles]


def test_audit_log_may_be_a_pipe(tmp_path: Path) -> None:
    """The reader of the pipe gets every line, without an early end of file."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE) as reader:
        with servers.certlet_server(tmp_path, "--audit-log", "pipe") as server:
            assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).status == 200
        output, _ = reader.communicate(timeout=30)
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["intent", "result"]


def test_first_start_creates_ca_and_api_key(tmp_path: Path) -> None:
    """The first start creates ./ca and prints an API key; later starts print only its variable."""
    with servers.certlet_server(tmp_path, "--ca", "ca", env={}) as server:
        output = "\n".join(server.output)
        assert f"New CA    {tmp_path}/ca" in output
        key = next(line.split()[2] for line in server.output if line.startswith("API key"))
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}, key).status == 200
    first = {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()}
    assert not any(key.encode() in data for data in first.values())
    with servers.certlet_server(tmp_path, env={}) as server:
        assert "New CA" not in "\n".join(server.output)
        assert not [line for line in server.output if line.startswith("API key") or key in line]
        assert "$CERTLET_API_KEY" in server.output[-1]
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}, key).status == 200
    assert {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()} == first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_all_processes(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT stop all processes with status 0, and an ephemeral CA is deleted."""
    with servers.certlet_server(tmp_path, "--ephemeral", "--workers", "2") as server:
        directory = Path(next(line.split()[2] for line in server.output if line.startswith("New CA")))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        children = servers.descendant_pids(server.process.pid)
        assert len(children) == 3
        assert server.stop(number) == 0
    assert not directory.exists()
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert "Traceback" not in server.read_log()


WAITING = """
import pathlib, sys, time
began = pathlib.Path("began")
if "service.gateway.worker" in sys.orig_argv:
    with began.open("a") as file:
        file.write("x")
until = time.monotonic() + 20
while "service.gateway.server" in sys.orig_argv and not (began.exists() and began.read_text() == "xx"):
    if time.monotonic() > until:
        sys.exit("no worker started")
    time.sleep(0.01)
"""


def test_workers_start_in_parallel_with_the_gateway(tmp_path: Path) -> None:
    """Workers do not wait for the gateway, which here starts only after both of them."""
    (tmp_path / "sitecustomize.py").write_text(WAITING)
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{servers.ROOT}"}
    with servers.certlet_server(tmp_path, "--workers", "2", env=env) as server:
        assert server.request("GET", "/health").status == 200
        assert server.stop() == 0
    assert (tmp_path / "began").read_text() == "xx"  # and no others


@pytest.mark.parametrize("victim", ["supervisor", "gateway"])
def test_all_processes_stop_with_supervisor_or_gateway(tmp_path: Path, victim: str) -> None:
    """When the supervisor or the gateway is killed, the other processes exit."""
    with servers.certlet_server(tmp_path, "--workers", "2") as server:
        children = servers.descendant_pids(server.process.pid)
        (gateway,) = server.pids("server")
        os.kill(server.process.pid if victim == "supervisor" else gateway, signal.SIGKILL)
        servers.wait_until(lambda: not any(map(servers.running_module, children)))


def test_killed_worker_is_replaced(tmp_path: Path) -> None:
    """The new worker has the same CA, even if that is ephemeral."""
    with servers.certlet_server(tmp_path, "--ephemeral") as server:
        before = server.request("GET", "/ca").json()
        (worker,) = server.pids("worker")
        os.kill(worker, signal.SIGKILL)
        assert {server.request("GET", "/ca").status for _ in range(3)} <= {200, 502, 503}
        servers.wait_until(lambda: server.request("GET", "/ca").status == 200)
        assert server.request("GET", "/ca").json() == before


def test_http_process_has_neither_key_nor_passphrase(tmp_path: Path) -> None:
    """The gateway's memory has neither the passphrase, nor AWS credentials, nor the CA's private scalar.

    Only root can read the memory: the processes are not dumpable, so other processes of the user cannot.
    """
    secret = "a passphrase that occurs nowhere else"  # noqa: S105
    credential = "an AWS credential that occurs nowhere else"
    env = {"CERTLET_CA_PASSPHRASE": secret, "CERTLET_API_KEY": API_KEY, "AWS_SECRET_ACCESS_KEY": credential}
    with servers.certlet_server(tmp_path, env=env) as server:
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).status == 200
        pem = (tmp_path / "ca" / "signing-ca.key").read_bytes()
        numbers = load_pem_private_key(pem, secret.encode()).private_numbers()  # type: ignore[union-attr]
        scalar = numbers.private_value.to_bytes(32, "big")  # type: ignore[union-attr]
        needles = [secret.encode(), credential.encode(), scalar, scalar[::-1], base64.b64encode(scalar)]
        if os.geteuid() != 0:
            for pid in server.processes():
                with pytest.raises(PermissionError):
                    _memory(pid)
            return
        matches = {
            module: [needle in memory for needle in needles]
            for pid, module in server.processes().items()
            for memory in [_memory(pid)]
        }
        assert not any(matches["service.gateway.server"])
        # The worker has them, which proves that the search works.
        assert all(matches["service.gateway.worker"][:2])
        assert any(matches["service.gateway.worker"][2:4])


def _memory(pid: int) -> bytes:
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, rights, *_ = line.split()
            start, end = (int(part, 16) for part in addresses.split("-"))
            if rights.startswith("rw"):  # some pages cannot be read
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    parts.append(memory.read(end - start))
    return b"".join(parts)


def test_public_url_is_in_each_response_and_document(tmp_path: Path) -> None:
    """`serve --url` is the base of the problem types of gateway, mocks and function, and the server in /openapi.json."""
    url = "https://pki.example.com/certlet"
    with servers.certlet_server(tmp_path, "--ephemeral", "--stage", "prod", "--url", f"{url}/") as server:
        assert [
            server.request(method, path).json()["type"]
            for method, path in (("GET", "/nothing"), ("DELETE", "/health"), ("GET", "/health?a=1"))
        ] == [f"{url}/problems#{code}" for code in ("notFound", "methodNotAllowed", "malformed")]
        document = server.request("GET", "/openapi.json").json()
        assert document["servers"] == [{"url": url}]
        assert f'"type": "{url}/problems#malformed"' in json.dumps(document)


def test_problem_types_are_relative_without_public_url(tmp_path: Path) -> None:
    with servers.certlet_server(tmp_path, "--ephemeral", "--stage", "prod") as server:
        assert server.request("GET", "/nothing").json()["type"] == "/problems#notFound"
        assert server.request("GET", "/health?a=1").json()["type"] == "/problems#malformed"
        assert server.request("GET", "/openapi.json").json()["servers"] == [{"url": server.url}]


def test_unknown_est_line_length_is_refused_at_start(tmp_path: Path) -> None:
    """The option and the variable are checked before the server starts, with one line."""
    for arguments, env in ((("--est-line-length", "65"), {}), ((), {"CERTLET_EST_LINE_LENGTH": "65"})):
        run = servers.certlet("serve", "--ephemeral", *arguments, cwd=tmp_path, env=env)
        assert (run.returncode, run.stdout) == (2, b"")
        (line,) = run.stderr.decode().splitlines()
        assert "'65' is not one of '0', '64', '76'" in line


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0", ("127.0.0.1", 0)),
        ("65535", ("127.0.0.1", 65535)),
        ("10.0.0.5:9464", ("10.0.0.5", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("monitoring.example:1", ("monitoring.example", 1)),
    ],
)
def test_address_of_metrics_is_a_port_with_or_without_a_host(text: str, address: tuple[str, int]) -> None:
    """Without a host, it is 127.0.0.1."""
    assert parse_listener(text) == address


@pytest.mark.parametrize("text", ["", "x", "65536", "-1", "127.0.0.1:", "::1:9464", "[::1]", "a:b:1", "1\n"])
def test_malformed_address_of_metrics_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not a port, or an address and a port, such as 9464 or \[::1\]:9464"
    ):
        parse_listener(text)


def test_malformed_public_url_is_refused_at_start(tmp_path: Path) -> None:
    """The option and the variable are checked before the server starts, with one line."""
    for arguments, env in ((("--url", "http://a/?b"), {}), ((), {"CERTLET_PUBLIC_URL": "http://a/?b"})):
        run = servers.certlet("serve", "--ephemeral", *arguments, cwd=tmp_path, env=env)
        assert (run.returncode, run.stdout) == (2, b"")
        (line,) = run.stderr.decode().splitlines()
        assert "'http://a/?b' is not an http or https URL without query and fragment" in line


@pytest.mark.parametrize(
    ("variable", "no_usage_plan", "quota"),
    [("", False, ""), ("", True, "none"), ("5/DAY", False, "5/DAY"), ("5/DAY", True, "5/DAY")],
)
def test_workers_know_the_quota_of_orders(
    monkeypatch: pytest.MonkeyPatch, variable: str, *, no_usage_plan: bool, quota: str
) -> None:
    """The workers count ACME orders. Without the usage plan there is no quota, unless it is set."""
    monkeypatch.setenv("CERTLET_ORDER_QUOTA", variable)
    names = ("profiles", "audit_log", "ledger", "public_url", "status_url", "est_line_length", "log_level")
    settings = SimpleNamespace(
        **dict.fromkeys((*names, "renew_before", "renew_over")), no_usage_plan=no_usage_plan
    )
    assert serve._worker_environ(settings, Path("ca"))["CERTLET_ORDER_QUOTA"] == quota


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--acme-network", "10.0.0.0/8"), "--acme-network requires --ledger"),
        (
            ("--ledger", "l", "--acme-network", "10.0.0.1/8"),
            "'10.0.0.1/8' is not a network such as 10.0.0.0/8",
        ),
        (("--ledger", "l", "--acme-network", "lan"), "'lan' is not a network such as 10.0.0.0/8 or fd00::/8"),
    ],
)
def test_unusable_network_prevents_the_start(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    run = servers.certlet("serve", "--port", "0", *arguments, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, b"")
    assert message in run.stderr.decode()


@pytest.mark.parametrize(
    ("profiles", "ledger", "count"),
    [
        ("principals: {web: {dns: {}, challenge: http-01}}", ["--ledger", "l", "--acme-network", "::1"], 1),
        ("principals: {web: {dns: {}, challenge: http-01}}", [], 0),
        ("principals: {web: {dns: {}}}", ["--ledger", "l", "--acme-network", "10.0.0.0/8"], 0),
    ],
)
def test_validator_runs_only_if_a_policy_requires_challenges(
    tmp_path: Path, profiles: str, ledger: list[str], count: int
) -> None:
    """And if there is a ledger. It ends with the server."""
    (tmp_path / "profiles.yaml").write_text(profiles)
    with servers.certlet_server(tmp_path, "--profiles", "profiles.yaml", *ledger) as server:
        servers.wait_until(lambda: "service.cli" not in list(server.processes().values())[1:])
        pids = [pid for pid, module in server.processes().items() if module == "service.http_validator"]
        assert len(pids) == count
        assert server.stop() == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert server.read_log().count("validator") == 0
