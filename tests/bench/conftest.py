"""A CA, a server with one worker, and short runs of sections."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import contenders
from bench.contenders import Server
from bench.load import Load
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
def run_section(directory: Path) -> Callable[[str], Any]:
    """Runs a section shortly, in its own process, and returns its figures; bench/figures.md stays unchanged."""

    def run(name: str) -> Any:
        before, output = command.FIGURES.read_bytes(), directory / f"section-{name}"
        options = ("--short", "--base", "HEAD", "--only", name, "--output-dir", output)
        process = servers.run(sys.executable, "-m", "bench", *options, cwd=servers.ROOT, timeout=600)
        assert (output / "figures.md").read_text() in process.stdout
        assert command.FIGURES.read_bytes() == before
        document = json.loads((output / "bench.json").read_text())
        sections = {key for key, value in document.items() if value is not None} - {"conditions"}
        assert len(sections) == 1
        return document[sections.pop()]

    return run


def is_positive(value: object) -> bool:
    """Whether a value is a positive, finite number."""
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def measurement(requests: int, cpu: float = 1) -> Load:
    """A measurement over two seconds."""
    return Load(requests, 2, 900, 1, 2, cpu, 50)
