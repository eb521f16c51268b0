"""Fixtures of the command line: an empty working directory, and `server`, which the environment names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import use_service
from tests.servers import Server


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # not the contexts of this user


@pytest.fixture
def server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The running server that the environment names."""
    use_service(server, monkeypatch)
    return server
