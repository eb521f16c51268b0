"""The access of processes that talk to strangers: a `sitecustomize` module attempts access on a signal."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.gateway import sandbox
from service.supervisor import TOKEN_HANDLER
from tests import csrs, servers
from tests.servers import API_KEY, Server

PROBE = """
import errno, json, os, signal, socket, sys

def attempt(kind, target):
    try:
        if kind == "open":
            os.close(os.open(target, os.O_RDONLY))
        elif kind == "write":
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT))
        elif kind == "list":
            os.listdir(target)
        elif kind == "kill":
            os.kill(target, 0)
        elif kind == "connect":
            socket.create_connection(("127.0.0.1", target), 5).close()
        elif kind == "run":
            os.posix_spawn(target, [target], {})
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

for module in ("service.gateway.server", "service.http_validator", "TOKEN_HANDLER"):
    if module in sys.orig_argv:
        attempts, results = open("attempts"), open(f"results of {module}", "w")
        def probe(*_):
            results.write(json.dumps([attempt(*arguments) for arguments in json.load(attempts)]) + "\\n")
            results.flush()
        signal.signal(signal.SIGUSR1, probe)
"""
DENIED = {"EACCES", "EPERM"}
LEDGER = "packages/ledger.db"
# They start the validator, and the worker that verifies tokens.
PROFILES = """
principals: {web: {dns: {}, challenge: http-01}}
identities:
  ci:
    issuer: https://issuer.example.com
    audience: https://ca.example.com
    algorithms: [RS256]
    jwks_url: https://issuer.example.com/jwks
    claims: {/project: '1'}
    profiles: [server]
    names: {dns: {permitted: [ci.example.com]}}
"""


@pytest.fixture(scope="module")
def probed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with all kinds of process, each of which attempts the access in `attempts` on SIGUSR1."""
    directory = tmp_path_factory.mktemp("probed")
    (directory / "sitecustomize.py").write_text(PROBE.replace("TOKEN_HANDLER", TOKEN_HANDLER))
    (directory / "profiles.yaml").write_text(PROFILES)
    (directory / "attempts").touch()
    (directory / ".aws").mkdir()
    (directory / ".aws" / "credentials").write_text("secret")
    env = {
        "PYTHONPATH": os.pathsep.join(map(str, (directory, directory / "packages", servers.ROOT))),
        "HOME": str(directory),
        "CERTLET_API_KEY": API_KEY,
        "CERTLET_CA_PASSPHRASE": "canary-passphrase",
        "AWS_SECRET_ACCESS_KEY": "canary-credential",
    }
    (directory / "packages").mkdir()
    options = ("--tls", "--profiles", "profiles.yaml", "--ledger", str(directory / LEDGER))
    with servers.certlet_server(directory, *options, env=env) as server:
        yield server


@pytest.mark.parametrize(
    ("module", "port"),
    [("service.gateway.server", 0), ("service.http_validator", 80), (TOKEN_HANDLER, 443)],
)
def test_process_cannot_access_keys_or_other_processes(probed_server: Server, module: str, port: int) -> None:
    """It cannot access the CA's key, AWS credentials and other processes; it can read its own code.

    The validator of challenges may also connect to web servers, and the worker that verifies tokens to issuers.
    """
    server, directory = probed_server, probed_server.log.parent
    ledger, results = directory / LEDGER, directory / f"results of {module}"
    servers.wait_until(lambda: module in server.processes().values())
    pids = {name: pid for pid, name in server.processes().items()}
    worker, probed = pids["service.gateway.worker"], pids[module]
    supervisor = pids["service.cli"]
    denied: list[tuple[str, Any]] = [
        ("open", str(directory / "ca" / "signing-ca.key")),
        ("open", str(directory / "ca" / "serial.key")),
        ("write", str(directory / "ca" / "revoked.yaml")),
        ("open", str(directory / ".aws" / "credentials")),
        *(("open", f"{ledger}{suffix}") for suffix in ("", "-wal", "-shm")),
        ("write", str(ledger)),
        *(
            (kind, f"/proc/{pid}/{name}")
            for pid in (worker, supervisor)
            for kind, name in (("open", "environ"), ("open", "mem"), ("list", "fd"), ("open", "maps"))
        ),
        ("list", "/proc"),
        ("open", "/etc/passwd"),
        ("kill", worker),
        ("kill", supervisor),
        ("connect", server.port),
        ("run", "/bin/true"),
    ]
    allowed = [("open", json.__file__), ("open", sandbox.__file__), ("open", "/etc/hosts")]
    ports = [80, 443]
    attempts = [*denied, *allowed, *(("connect", number) for number in ports)]
    (directory / "attempts").write_text(json.dumps(attempts))
    servers.wait_until(lambda: "NoNewPrivs:\t1" in Path(f"/proc/{probed}/status").read_text())
    os.kill(probed, signal.SIGUSR1)
    servers.wait_until(results.read_text, 20)
    outcomes = json.loads(results.read_text())
    reached = [
        arguments for arguments, outcome in zip(denied, outcomes, strict=False) if outcome not in DENIED
    ]
    assert not reached
    assert outcomes[len(denied) : -len(ports)] == ["done"] * len(allowed)
    permitted = zip(ports, outcomes[-len(ports) :], strict=True)
    assert [number for number, outcome in permitted if outcome not in DENIED] == [port] * bool(port)
    if os.geteuid() == 0:  # root can read these files outside of the sandbox
        assert (directory / "ca" / "signing-ca.key").read_bytes()
        for pid in (worker, probed):
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"HOME=" in environ
            assert b"hugetlb=1" in environ
            assert b"canary" not in environ
            assert API_KEY.encode() not in environ
            has_queue = b"CERTLET_CHALLENGE_QUEUE=\0" not in environ and b"CHALLENGE_QUEUE" in environ
            assert has_queue == (pid == worker)  # it leads to the validator
        assert b"canary-passphrase" in Path(f"/proc/{supervisor}/environ").read_bytes()


def attempt(directory: Path, *steps: str) -> str:
    """Read the file `key` in a process after these steps; return its error or ''."""
    (directory / "key").write_text("secret")
    begin = "from pathlib import Path\nfrom service.gateway import sandbox"
    code = "\n".join([begin, *steps, "open('key').read()"])
    run = servers.run(sys.executable, "-c", code, cwd=directory, check=False)
    return run.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("abi", [0, 1, 2, 3, 4, 5, 6, 7])
def test_every_landlock_version_denies_files(tmp_path: Path, abi: int) -> None:
    """The rules of older versions work on the kernel; without Landlock, nothing is denied."""
    version = f"sandbox._abi = lambda: {abi}"
    outcome = attempt(tmp_path, version, "sandbox.enter([], readable=[Path('other')])")
    assert outcome.startswith("PermissionError") == bool(abi)
    assert attempt(tmp_path, version, f"sandbox.enter([], readable=[Path({str(tmp_path)!r})])") == ""


def test_kernel_without_landlock_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system call does not exist, or is disabled."""
    assert sandbox.is_supported()
    for code in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):

        def fail(*_: object, code: int = code) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(sandbox, "_syscall", fail)
        assert not sandbox.is_supported()
        sandbox.enter([])


def test_package_directory_with_a_secret_is_not_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a checkout, the import path may contain the CA's directory; links are resolved."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "ca").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ca")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "packages")])
    for secret in ("ca", "link"):
        readable = sandbox.readable_paths([tmp_path / secret])
        assert tmp_path not in readable
        assert tmp_path / "packages" in readable
    assert tmp_path in sandbox.readable_paths([])


def test_server_signs_inside_the_sandbox_from_a_checkout(tmp_path: Path) -> None:
    """It uses API keys that are added later, though it cannot read their file."""
    with servers.certlet_server(tmp_path) as server:
        added = servers.certlet("api-key", "add", "other", "--ca", "ca", cwd=tmp_path)
        key = added.stdout.decode().split()[-1]
        request = {"csr": csrs.encode_pem(csrs.build()).decode()}
        assert server.sign(request, key).status == 200
        valid = (tmp_path / "ca" / "api-keys.json").read_text()
        (tmp_path / "ca" / "api-keys.json").write_text("damaged")
        assert server.sign(request, key).status == 500
        assert "api-keys.json cannot be read as a file of API keys" in server.read_log()
        (tmp_path / "ca" / "api-keys.json").write_text(valid)
        assert server.sign(request, key).status == 200
