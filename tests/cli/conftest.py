"""What the tests of the command line share: each is in an empty directory, and `server` is the one that is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli import ask
from tests.servers import Server


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CERTLET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The running server that the environment names."""
    ask(server, monkeypatch)
    return server
