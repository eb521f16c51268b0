"""Reloads of `certlet serve` after SIGHUP."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from service.pki import encoding
from tests import csrs, servers
from tests.assertions import assert_problem
from tests.cli import certlet
from tests.est import devices
from tests.servers import Response, Server

CSR = {"csr": csrs.encode_pem(csrs.build()).decode()}
OLD_KEY, NEW_KEY = ("old-" * 10, "new-" * 10)
WATCHDOG = "WATCHDOG=1"
OTHER_PROFILE = """
profiles: {other: {description: Other, validity: PT1H, backdate: PT0S, extended_key_usage: [clientAuth], names: {dns: {}}}}
"""


class Manager:
    """A service manager, which receives messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def receive(self) -> None:
        """Receive messages until an empty one."""
        while message := self.socket.recv(9999).decode():
            self.messages.append(message)

    def wait_for_watchdog(self) -> None:
        """Wait for a message to the watchdog."""
        count = self.messages.count(WATCHDOG)
        servers.wait_until(lambda: self.messages.count(WATCHDOG) > count)


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """A service manager with a socket."""
    running, path = Manager(), str(tmp_path_factory.mktemp("manager") / "notify")
    with running.socket:
        running.socket.bind(path)
        thread = threading.Thread(target=running.receive)
        thread.start()
        yield running
        running.socket.sendto(b"", path)
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, manager: Manager) -> Iterator[Server]:
    """`certlet serve --tls` of a service manager, with an audit log and profiles, which the tests change."""
    directory = tmp_path_factory.mktemp("reload")
    env = {"NOTIFY_SOCKET": manager.socket.getsockname(), "WATCHDOG_USEC": "1000000"}
    (directory / "own.yaml").write_text("{}")
    options = ("--tls", "--no-usage-plan", "--profiles", "own.yaml", "--audit-log", "audit.log")
    with servers.certlet_server(directory, *options, env=env) as running:
        yield running
        running.stop()
        assert "STOPPING=1\nSTATUS=finishing requests" in manager.messages


def test_service_manager_is_notified(server: Server, manager: Manager) -> None:
    """Of the start, of the begin and the end of a reload with its result; the time is that of the signal."""
    servers.wait_until(lambda: "READY=1\nSTATUS=serving" in manager.messages)
    manager.messages.clear()
    begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert server.reload() == "reloaded: nothing changed"
    end = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    servers.wait_until(lambda: "READY=1\nSTATUS=reloaded: nothing changed" in manager.messages)
    (reloading,) = [message for message in manager.messages if message.startswith("RELOADING=1")]
    assert begin <= int(reloading.partition("MONOTONIC_USEC=")[2].split()[0]) <= end
    assert all(
        b"NOTIFY_SOCKET" not in environment(pid) for pid in servers.descendant_pids(server.process.pid)
    )


def environment(pid: int) -> bytes:
    """Return the environment of a process, which only root can read."""
    return Path(f"/proc/{pid}/environ").read_bytes() if os.geteuid() == 0 else b""


def sign(server: Server, key: str) -> Response:
    """Have a certificate issued."""
    headers = {"Content-Type": "application/json", "x-api-key": key}
    return server.request("POST", "/sign", json.dumps(CSR).encode(), headers, devices.client_context(server))


def api_key(server: Server, *arguments: str, value: str = "") -> None:
    """Add or remove an API key."""
    more = ("--from-env",) if value else ()
    change_ca(server, "api-key", *arguments, *more, "--ca", "ca", env={"CERTLET_API_KEY": value or None})


def change_ca(server: Server, *arguments: str, env: dict[str, str | None] | None = None) -> None:
    """Run a command in the server's directory."""
    run = certlet(*arguments, cwd=server.log.parent, env=env)
    assert run.returncode == 0, run.stderr


def test_reload_uses_what_has_changed(server: Server) -> None:
    """Profiles, API keys, the CA and the audit log; the gateway's process and its listening socket stay."""
    directory = server.log.parent
    api_key(server, "add", "old", value=OLD_KEY)
    assert server.reload() == "reloaded: API keys (1 added)"
    first = x509.load_pem_x509_certificate(sign(server, OLD_KEY).json()["crt_pem"].encode())
    gateway, workers = server.pids("server"), server.pids("worker")
    tls_certificate = devices.server_certificate(server)

    (directory / "own.yaml").write_text(OTHER_PROFILE.replace("{other", "{server: {validity: PT7H}, other"))
    api_key(server, "add", "new", value=NEW_KEY)
    api_key(server, "remove", "old")
    (directory / "audit.log").rename(directory / "audit.log.1")
    change_ca(server, "rollover", "ca", "next", "--root-key", "ca/root-ca.key")
    (directory / "ca").rename(directory / "former")
    (directory / "next").rename(directory / "ca")
    signing_ca = devices.load_issuer(directory / "ca").certificate
    line = server.reload()
    assert line.startswith("reloaded: profiles, API keys (1 added, 1 removed), CA (")
    assert f"(the signing CA has the fingerprint {encoding.fingerprint(signing_ca)}), previous-ca.crt" in line
    assert line.endswith(", audit log")
    response = sign(server, NEW_KEY)
    certificate = x509.load_pem_x509_certificate(response.json()["crt_pem"].encode())
    certificate.verify_directly_issued_by(signing_ca)
    assert (certificate.not_valid_after_utc - first.not_valid_after_utc).days < 0
    assert_problem(sign(server, OLD_KEY), 403, "unauthorized")
    request_ids = {
        json.loads(line)["request_id"] for line in (directory / "audit.log").read_text().splitlines()
    }
    assert response.headers["x-amzn-RequestId"] in request_ids
    assert response.headers["x-amzn-RequestId"] not in (directory / "audit.log.1").read_text()
    devices.server_certificate(server).verify_directly_issued_by(signing_ca)
    assert devices.server_certificate(server) != tls_certificate
    context = devices.client_context(server)
    for path in ("/openapi.json", "/profiles"):
        assert b'"other"' in server.request("GET", path, context=context).body
    client = devices.forge_certificate(devices.load_issuer(directory / "ca"))
    assert server.request("GET", "/health", context=devices.client_context(server, client)).status == 200
    servers.wait_until(lambda: len(server.pids("worker")) == 1)
    assert server.pids("server") == gateway
    assert server.pids("worker") != workers
    assert server.reload() == "reloaded: nothing changed"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("own.yaml", "profiles: {server: {validity: long}}", "own.yaml: line 1: "),
        ("ca/api-keys.json", "[]", "ca/api-keys.json is not a file of API keys: not an object"),
        ("ca/revoked.yaml", "- serial", "ca/revoked.yaml: line 1: "),
        ("ca/denied-keys.txt", "x", "ca/denied-keys.txt: "),
        ("ca/acme-principals.yaml", "[]", "ca/acme-principals.yaml: line 1: not a mapping of principals"),
        ("ca/signing-ca.key", "x", "ca/signing-ca.key is not a PEM private key"),
    ],
)
def test_faulty_file_changes_nothing(server: Server, name: str, content: str, reason: str) -> None:
    """The line names the file and the reason. No other change is applied, and the workers stay."""
    path, profiles = server.log.parent / name, server.log.parent / "own.yaml"
    before = {path: path.read_bytes() for path in (path, profiles) if path.exists()}
    servers.wait_until(lambda: len(server.pids("worker")) == 1)
    workers = server.pids("worker")
    context = devices.client_context(server)
    try:
        profiles.write_text(OTHER_PROFILE.replace("other", "third"))
        path.write_text(content)
        line = server.reload()
        assert line.startswith("not reloaded: ")
        assert reason in line
        assert server.pids("worker") == workers
        assert b'"third"' not in server.request("GET", "/openapi.json", context=context).body
        assert b'"third"' not in server.request("GET", "/profiles", context=context).body
    finally:
        path.unlink()
        for changed, content_before in before.items():
            changed.write_bytes(content_before)


def test_watchdog_expects_gateway_and_worker(server: Server, manager: Manager) -> None:
    """A server whose gateway hangs, or whose only worker cannot be replaced, does not confirm that it works."""
    (gateway,), (worker,) = server.pids("server"), server.pids("worker")
    manager.wait_for_watchdog()
    os.kill(gateway, signal.SIGSTOP)
    time.sleep(0.5)  # it may have responded just before
    count = manager.messages.count(WATCHDOG)
    time.sleep(1)
    assert manager.messages.count(WATCHDOG) == count
    os.kill(gateway, signal.SIGCONT)
    manager.wait_for_watchdog()
    key = server.log.parent / "ca/signing-ca.key"
    key.rename(f"{key}.moved")
    os.kill(worker, signal.SIGKILL)
    servers.wait_until(lambda: "cannot start a worker" in server.read_log())
    count = manager.messages.count(WATCHDOG)
    time.sleep(1)
    assert manager.messages.count(WATCHDOG) == count
    Path(f"{key}.moved").rename(key)
    manager.wait_for_watchdog()


def test_reload_while_all_workers_are_busy(second_api_server: Server) -> None:
    """Calls that have begun, and those that wait, are answered by the former workers."""
    server = second_api_server

    def pid_of(_: int) -> int:
        return int(server.request("GET", "/books?do=nap").json()["pid"])

    former = set(server.pids("worker"))
    with ThreadPoolExecutor(8) as clients:
        results = [clients.submit(pid_of, number) for number in range(3)]
        time.sleep(0.1)
        server.process.send_signal(signal.SIGHUP)
        assert {result.result() for result in results} <= former
        servers.wait_until(lambda: not former & set(server.pids("worker")))
        assert pid_of(0) in server.pids("worker")


def test_signals_during_a_reload_cause_one_more(second_api_server: Server) -> None:
    """So what changed after the first reload had read the files is used, too. Not each signal causes one."""
    server, workers = second_api_server, 2
    servers.wait_until(lambda: len(server.pids("worker")) == workers)
    server.process.send_signal(signal.SIGHUP)
    servers.wait_until(lambda: len(server.pids("worker")) == 2 * workers)
    during = set(server.pids("worker"))
    for _ in range(3):
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.01)  # signals that are pending merge
    later: set[int] = set()

    def has_ended() -> bool:
        current = set(server.pids("worker"))
        later.update(current - during)
        return not during & current and len(current) == workers

    servers.wait_until(has_ended)
    end = time.monotonic() + 1  # for a reload that begins afterwards
    servers.wait_until(lambda: has_ended() and time.monotonic() > end)
    assert len(later) in {workers, 2 * workers}  # two reloads if the first one ended between two signals


def test_closed_terminal_stops_the_server(tmp_path: Path) -> None:
    """The SIGHUP of a closed terminal ends all processes, also during a reload. Another one reloads."""
    master, slave = pty.openpty()
    # nohup, under which the tests may run, has all processes ignore SIGHUP.
    terminal = ["env", "--default-signal=HUP", "sh", "-c", 'exec setsid --ctty "$@" <"$0"', os.ttyname(slave)]
    command = (*terminal, *servers.SERVE, "--port", "0", "--ephemeral")
    with servers.certlet_server(tmp_path, command=command) as server:
        os.close(slave)

        def is_reloading() -> bool:
            if len(server.pids("worker")) == 1:
                server.process.send_signal(signal.SIGHUP)
            return len(server.pids("worker")) == 2

        servers.wait_until(is_reloading)
        pids = servers.descendant_pids(server.process.pid)
        os.close(master)
        assert server.process.wait(40) == 0
        assert not any(map(servers.running_module, pids))
        assert "Traceback" not in server.read_log()
        assert "not reloaded: the server is stopping" in server.read_log()
