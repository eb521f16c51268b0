"""Processes with secrets in memory leave no core file (`service.hardening`)."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import csrs, servers

WITH_CORE_LIMIT = ["sh", "-c", 'ulimit -c "$(ulimit -H -c)"; exec "$@"', "sh"]
HARDEN = "from service.hardening import disable_core_dumps_and_ptrace; disable_core_dumps_and_ptrace()"
IS_PIPED = Path("/proc/sys/kernel/core_pattern").read_text().startswith("|")
HARD_LIMIT = resource.getrlimit(resource.RLIMIT_CORE)[1]


def dumps_core(directory: Path, *statements: str) -> bool:
    """Return whether the kernel dumps a Python process that runs these statements and aborts."""
    code = "; ".join([*statements, "import os", "os.abort()"])
    process = subprocess.Popen(
        [*WITH_CORE_LIMIT, sys.executable, "-c", code],
        cwd=directory,
        env=servers.environ(),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status = os.waitpid(process.pid, 0)
    process.returncode = status
    process.stderr.close()
    assert os.WIFSIGNALED(status), errors
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_hardened_process_leaves_no_core_file(tmp_path: Path) -> None:
    """The kernel dumps no hardened process, even without a limit; it dumps any other process."""
    unlimited = "import resource; resource.setrlimit = lambda *_: None"  # as when cores are piped
    assert dumps_core(tmp_path) is (IS_PIPED or HARD_LIMIT != 0)
    assert not dumps_core(tmp_path, HARDEN)
    assert not dumps_core(tmp_path, unlimited, HARDEN)


def test_server_processes_leave_no_core_files(tmp_path: Path) -> None:
    """Supervisor, gateway and worker have a limit of 0, and leave no core file on SIGABRT."""
    command = (*WITH_CORE_LIMIT, *servers.SERVE, "--port", "0")
    with servers.certlet_server(tmp_path, command=command) as server:
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).status == 200
        processes = server.processes()
        assert sorted(processes.values()) == [
            "service.cli",
            "service.gateway.server",
            "service.gateway.worker",
        ]
        for pid, module in processes.items():
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0), module
        for module in ("service.gateway.worker", "service.cli"):
            (victim,) = (pid for pid, name in processes.items() if name == module)
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
    """Each command that creates or reads a private key hardens its process first."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    code = (
        "import ctypes, sys\nfrom service import cli\nfrom service.pki import hierarchy, keys\n"
        "from service.keystore import ca_directory\n"
        "def report(*_, **__):\n    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n    sys.exit(7)\n"
        f"hierarchy.create_hierarchy = hierarchy.create_successor = keys.generate_private_key = ca_directory.load_private_key = report\ncli.main({list(arguments)!r})\n"
    )
    run = servers.run(sys.executable, "-c", code, cwd=tmp_path, check=False)
    assert (run.returncode, run.stdout) == (7, "0\n"), run.stderr
