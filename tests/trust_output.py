"""The output of `certlet trust`, and its commands in a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import servers
from tests.cli import certlet


def run_trust(*arguments: str, cwd: Path) -> dict[str, list[str]]:
    """Run `certlet trust`; return the commands below each heading, and the other lines with the key ''."""
    run = certlet("trust", *arguments, cwd=cwd)
    assert run.returncode == 0, run.stderr
    commands: dict[str, list[str]] = {"": []}
    heading = ""
    for line in run.stdout.decode().splitlines():
        if line.startswith("  "):
            commands[heading].append(line.strip())
        elif line.startswith(("Root ", "Not after ", "SHA-256 ", "Warning ")):
            commands[""].append(line)
        else:
            heading = line
            commands[heading] = []
    return commands


def run_in_shell(commands: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run these commands in one shell, up to the first that fails."""
    return servers.run("sh", "-ec", "\n".join(commands), cwd=cwd, check=False)
