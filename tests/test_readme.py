"""What the README says of `certlet new`, `show`, `renew` and `trust`, done as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import serving
from tests.serving import API_KEY, ROOT, Server

README = (ROOT / "README.md").read_text()
Run = Callable[[str], subprocess.CompletedProcess[str]]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def transcript() -> list[tuple[str, str]]:
    """Each command of the block that makes a certificate, and what is printed."""
    (block,) = [
        each for each in re.findall("```console\n(.*?)```", README, re.DOTALL) if "certlet new" in each
    ]
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def pattern(printed: str) -> str:
    """What is printed, with any text for `…` and any time for a time."""
    parts = [re.escape(TIME.sub("TIME", each)) for each in printed.split("…")]
    return ".*?".join(parts).replace("TIME", TIME.pattern)


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    """Run a command as the README has it, in a directory with `.venv/bin/certlet`, and a `systemctl`."""
    stubs = {
        ".venv/bin/certlet": f'exec {shlex.join([sys.executable, "-m", "service.cli"])} "$@"',
        "bin/systemctl": 'echo "$@" >> asked',
    }
    for name, script in stubs.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environ = serving.environ(CERTLET_API_KEY=API_KEY, CERTLET_URL=server.url)
    environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_the_transcript_is_what_happens(run: Run, tmp_path: Path) -> None:
    """Each command prints what is written beneath it, but for times and what `…` stands for."""
    found = transcript()
    assert [command.split()[1] for command, _ in found] == ["new", "show", "renew", "trust"]
    for command, printed in found:
        done = run(command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert re.fullmatch(pattern(printed), done.stdout, re.DOTALL), done.stdout
    assert (tmp_path / "asked").read_text() == "reload nginx\n"


def test_each_command_of_the_table_works(run: Run) -> None:
    """The commands of the rows, one after the other."""
    found = re.findall(r"^\| [^|]* \| `(\.venv/bin/certlet (?:new|renew) [^`]*)`", README, re.MULTILINE)
    assert [each.split()[1] for each in found] == ["new", "renew"]
    for command in found:
        done = run(command)
        assert (done.returncode, done.stderr) == (0, ""), command
