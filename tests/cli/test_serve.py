"""`certlet serve`: real processes, real files."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service.cli import serve
from tests import csrs, servers
from tests.cli import certlet
from tests.servers import API_KEY


def test_an_audit_log_that_the_environment_names(tmp_path: Path) -> None:
    """What CERTLET_AUDIT_LOG names, and cannot be opened, is told by its name, and not by a number."""
    log = tmp_path / "none" / "a"
    env = {"CERTLET_AUDIT_LOG": str(log)}
    run = servers.certlet("serve", "--ephemeral", "--port", "0", cwd=tmp_path, env=env)
    assert run.stderr.decode() == f"certlet: {log}: No such file or directory\n"


def test_an_audit_log_may_be_a_pipe(tmp_path: Path) -> None:
    """A reader of a pipe gets every line: it is not told of an end before the first of them."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE) as reader:
        with servers.certlet_server(tmp_path, "--audit-log", "pipe") as server:
            assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).status == 200
        read, _ = reader.communicate(timeout=30)
    assert [json.loads(line)["event"] for line in read.splitlines()] == ["intent", "result"]


def test_the_first_start_makes_everything(tmp_path: Path) -> None:
    """With no CA, one is made in ./ca, and said; the key is shown once; later starts point at it."""
    with servers.certlet_server(tmp_path, env={}) as server:
        said = "\n".join(server.output)
        assert f"New CA    {tmp_path}/ca" in said
        key = next(line.split()[2] for line in server.output if line.startswith("API key"))
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}, key).status == 200
    first = {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()}
    assert not any(key.encode() in data for data in first.values())
    with servers.certlet_server(tmp_path, env={}) as server:
        assert "New CA" not in "\n".join(server.output)
        assert key not in "\n".join(server.output)
        assert "$CERTLET_API_KEY" in server.output[-1]
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}, key).status == 200
    assert {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()} == first


def test_a_key_that_was_not_shown_is_not_kept(tmp_path: Path) -> None:
    """Where the first start fails, its key was never seen: the next one shows another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failed = servers.certlet("serve", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert (failed.returncode, b"API key" in failed.stdout) == (1, False)
    assert certlet("api-key", "list").stdout == b""
    for shows in (True, False):
        with servers.certlet_server(tmp_path, env={}) as server:
            assert any(line.startswith("API key") for line in server.output) == shows
    assert certlet("api-key", "list").stdout.endswith(b"  default\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT end all processes, with exit 0, and an ephemeral CA is gone."""
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
        sys.exit("nobody began")
    time.sleep(0.01)
"""


def test_the_function_starts_beside_the_gateway(tmp_path: Path) -> None:
    """Its processes do not wait for the gateway to import: here it does so only once they are there."""
    (tmp_path / "sitecustomize.py").write_text(WAITING)
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{servers.ROOT}"}
    with servers.certlet_server(tmp_path, "--workers", "2", env=env) as server:
        assert server.request("GET", "/health").status == 200
        assert server.stop() == 0
    assert (tmp_path / "began").read_text() == "xx"  # and no others


@pytest.mark.parametrize("victim", ["supervisor", "gateway"])
def test_no_process_outlives_the_others(tmp_path: Path, victim: str) -> None:
    """When the supervisor or the gateway is killed, the rest ends by itself."""
    with servers.certlet_server(tmp_path, "--workers", "2") as server:
        children = servers.descendant_pids(server.process.pid)
        (gateway,) = server.pids("server")
        os.kill(server.process.pid if victim == "supervisor" else gateway, signal.SIGKILL)
        servers.wait_until(lambda: not any(map(servers.running_module, children)))


def test_a_killed_worker_is_replaced_by_one_of_the_same_ca(tmp_path: Path) -> None:
    """A worker that is killed is replaced, and signs under the same CA; ephemeral or not."""
    with servers.certlet_server(tmp_path, "--ephemeral") as server:
        before = server.request("GET", "/ca").json()
        (worker,) = server.pids("worker")
        os.kill(worker, signal.SIGKILL)
        assert {server.request("GET", "/ca").status for _ in range(3)} <= {200, 502, 503}
        servers.wait_until(lambda: server.request("GET", "/ca").status == 200)
        assert server.request("GET", "/ca").json() == before


def test_the_http_process_has_neither_key_nor_passphrase(tmp_path: Path) -> None:
    """Neither the passphrase, AWS's credentials nor the CA's private scalar is in the gateway's memory.

    Root alone can look: the processes are sealed, and another process of the same user gets nothing.
    """
    secret = "a passphrase that stands nowhere else"  # noqa: S105
    credential = "an AWS credential that stands nowhere else"
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
        found = {
            module: [needle in memory for needle in needles]
            for pid, module in server.processes().items()
            for memory in [_memory(pid)]
        }
        assert not any(found["service.gateway.server"])
        # The twin: the function's process holds them, so the search can find them.
        assert all(found["service.gateway.worker"][:2])
        assert any(found["service.gateway.worker"][2:4])


def _memory(pid: int) -> bytes:
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            if rights.startswith("rw"):  # a page that cannot be read holds nothing
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    parts.append(memory.read(end - start))
    return b"".join(parts)


ANNOUNCED = [
    ("--insecure-http --host 0.0.0.0", "http://localhost:", False),
    ("--tls --host 0.0.0.0", "https://localhost:", True),
    ("--tls --host ::1", "https://[::1]:", False),
    ("--tls --host 0.0.0.0 --tls-name 127.0.0.2", "https://127.0.0.2:", False),
    ("--tls --tls-name localhost --tls-name 127.0.0.1", "https://127.0.0.1:", False),
    ("--insecure-http --host ::", "http://localhost:", False),
    ("--insecure-http --host 127.0.0.2", "http://127.0.0.2:", False),
    ("--tls --host 127.0.0.2", "https://127.0.0.2:", False),
    ("--tls --tls-name localhost --tls-name b.test", "https://localhost:", False),
]


@pytest.mark.parametrize(("arguments", "url", "warned"), ANNOUNCED)
def test_what_is_announced(arguments: str, url: str, *, warned: bool) -> None:
    """The host of the address is one that the certificate names, or says where nobody can be reached by it."""
    settings = SimpleNamespace(**serve.serve.make_context("serve", arguments.split()).params)
    assert serve._address(settings) == url.partition("//")[2].removesuffix(":")
    assert any("clients elsewhere refuse it" in each for each in serve._warnings(settings)) == warned


@pytest.mark.parametrize(("arguments", "url", "warned"), ANNOUNCED[:5])
def test_what_is_announced_can_be_reached(tmp_path: Path, arguments: str, url: str, *, warned: bool) -> None:
    """The address that is printed is one that the certificate names; the printed curl command gets a certificate."""
    with servers.certlet_server(tmp_path, *arguments.split(), env={}) as server:
        assert server.url.startswith(url)
        said = "\n".join(server.output)
        assert ("its certificate is for localhost, and clients elsewhere refuse it" in said) == warned
        pasted = servers.run("sh", "-ec", "\n".join(line[10:] for line in server.output[-3:]), cwd=tmp_path)
        assert len(x509.load_pem_x509_certificates(pasted.stdout.encode())) == 2, pasted.stderr


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
        assert f'"type": "{url}/problems#methodNotAllowed"' in json.dumps(document)


def test_problem_types_are_relative_without_public_url(tmp_path: Path) -> None:
    with servers.certlet_server(tmp_path, "--ephemeral", "--stage", "prod") as server:
        assert server.request("GET", "/nothing").json()["type"] == "/problems#notFound"
        assert server.request("GET", "/health?a=1").json()["type"] == "/problems#malformed"
        assert server.request("GET", "/openapi.json").json()["servers"] == [{"url": "/prod"}]


def test_malformed_public_url_is_refused_at_start(tmp_path: Path) -> None:
    """The option and the variable are checked before the server starts, with one line."""
    for arguments, env in ((("--url", "http://a/?b"), {}), ((), {"CERTLET_PUBLIC_URL": "http://a/?b"})):
        run = servers.certlet("serve", "--ephemeral", *arguments, cwd=tmp_path, env=env)
        assert (run.returncode, run.stdout) == (2, b"")
        (line,) = run.stderr.decode().splitlines()
        assert "'http://a/?b' is not an http or https URL without query and fragment" in line
