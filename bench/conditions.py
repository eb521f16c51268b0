"""The machine and the versions of the programs, for the head of the figures."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench import load
from tests import servers


def conditions() -> Iterator[tuple[str, str]]:
    """Names and values."""
    server_core, load_core = load.cores()
    describe = servers.run("git", "-C", servers.ROOT, "describe", "--always", "--dirty", check=False)
    yield "Certlet", describe.stdout.strip() or "unknown"
    yield "processor", f"{_processor()}, {os.cpu_count()} cores, {platform.machine()}"
    yield "pinned", f"the server to core {server_core}, wrk to core {load_core}"
    yield "load average before", f"{os.getloadavg()[0]:.1f}"
    yield "Python", platform.python_version()
    yield "cfssl", " ".join(_version("cfssl", "version").split())
    if shutil.which("dpkg-query"):  # pebble does not print its version
        yield "pebble", _version("dpkg-query", "--show", "--showformat=${Version}", "pebble")
    yield "wrk", _version("wrk", "-v").partition(" Copyright")[0]
    yield "OpenSSL", _version("openssl", "version").strip()


def _processor() -> str:
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match.group(1) if match else "unknown"


def _version(*command: str) -> str:
    process = servers.run(*command, check=False)
    return process.stdout + process.stderr
