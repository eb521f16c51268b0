"""A CA, a server with one worker, and the files of a short run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import contenders
from bench.contenders import Server
from tests import servers


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="session")
def ca(directory: Path) -> Path:
    assert servers.certlet("init", directory / "ca", cwd=directory).returncode == 0
    return directory / "ca"


@pytest.fixture(scope="session")
def certlet(directory: Path, ca: Path) -> Iterator[Server]:
    with contenders.certlet(directory / "certlet", ca) as server:
        yield server


@pytest.fixture(scope="session")
def short_run(directory: Path) -> Path:
    """The output folder of a short run, which leaves bench/figures.md unchanged."""
    before = command.FIGURES.read_bytes()
    command_line = (
        sys.executable,
        "-m",
        "bench",
        "--short",
        "--base",
        "HEAD",
        "--output-dir",
        directory / "out",
    )
    process = servers.run(*command_line, cwd=servers.ROOT, timeout=1800)
    assert (directory / "out" / "figures.md").read_text() in process.stdout
    assert command.FIGURES.read_bytes() == before
    return directory / "out"
