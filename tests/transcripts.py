"""What `certlet trust` prints, and that pasted into a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import servers
from tests.servers import certlet


def printed(*arguments: str, cwd: Path) -> dict[str, list[str]]:
    """What `certlet trust` prints: under each heading its commands, under '' the rest."""
    run = certlet("trust", *arguments, cwd=cwd)
    assert run.returncode == 0, run.stderr
    found: dict[str, list[str]] = {"": []}
    heading = ""
    for line in run.stdout.decode().splitlines():
        if line.startswith("  "):
            found[heading].append(line.strip())
        elif line.startswith(("Root ", "Until ", "SHA-256 ", "Warning ")):
            found[""].append(line)
        else:
            heading = line
            found[heading] = []
    return found


def pasted(commands: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """What comes of these commands in a shell."""
    return servers.run("sh", "-ec", "\n".join(commands), cwd=cwd, check=False)
