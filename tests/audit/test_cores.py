"""No core file: processes that hold secrets are sealed (`service.hardening`)."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import csrs, servers

UNBOUNDED = ["sh", "-c", 'ulimit -c "$(ulimit -H -c)"; exec "$@"', "sh"]
SEAL = "from service.hardening import disable_core_dumps_and_ptrace; disable_core_dumps_and_ptrace()"
PIPED = Path("/proc/sys/kernel/core_pattern").read_text().startswith("|")
HARD = resource.getrlimit(resource.RLIMIT_CORE)[1]


def dumps(directory: Path, *steps: str) -> bool:
    """Whether a process that does these steps and aborts has its memory dumped."""
    code = "; ".join([*steps, "import os", "os.abort()"])
    process = subprocess.Popen(
        [*UNBOUNDED, sys.executable, "-c", code], cwd=directory, env=servers.environ(), stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status = os.waitpid(process.pid, 0)
    process.returncode = status
    process.stderr.close()
    assert os.WIFSIGNALED(status), said
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_hardened_process_leaves_no_core_file(tmp_path: Path) -> None:
    """The kernel dumps nothing, even where no limit counts; any other process is dumped."""
    unlimited = "import resource; resource.setrlimit = lambda *_: None"  # as where cores are piped
    assert dumps(tmp_path) is (PIPED or HARD != 0)
    assert not dumps(tmp_path, SEAL)
    assert not dumps(tmp_path, unlimited, SEAL)


def test_server_processes_leave_no_core_files(tmp_path: Path) -> None:
    """Supervisor, gateway and worker have a limit of 0, and leave nothing when they are aborted."""
    command = (*UNBOUNDED, *servers.CERTLET, "serve", "--port", "0")
    with servers.certlet_server(tmp_path, command=command) as server:
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).status == 200
        found = server.processes()
        assert sorted(found.values()) == ["service.cli", "service.gateway.server", "service.gateway.worker"]
        for pid, module in found.items():
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0), module
        for module in ("service.gateway.worker", "service.cli"):
            (victim,) = (pid for pid, name in found.items() if name == module)
            os.kill(victim, signal.SIGABRT)
            servers.wait_until(lambda victim=victim: not servers.running_module(victim))
    assert not [path for path in tmp_path.rglob("*") if "core" in path.name]


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "new"),
        ("rollover", "ca", "next"),
        ("new", "a.example.com", "--api-key", "none"),
        ("renew", "ca/signing-ca.crt", "--expires-in", "9999d"),
        ("show", "ca/signing-ca.crt", "--key-file", "ca/signing-ca.key"),
    ],
)
def test_commands_are_hardened_before_they_load_a_key(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """What makes a private key, or reads one, seals its process before."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    code = (
        "import ctypes, sys\nfrom service import cli\nfrom service.pki import hierarchy, keys\n"
        "from service.keystore import file\n"
        "def tell(*_, **__):\n    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n    sys.exit(7)\n"
        f"hierarchy.create_hierarchy = hierarchy.create_successor = keys.generate_private_key = file.private_key = tell\ncli.main({list(arguments)!r})\n"
    )
    run = servers.run(sys.executable, "-c", code, cwd=tmp_path, check=False)
    assert (run.returncode, run.stdout) == (7, "0\n"), run.stderr
