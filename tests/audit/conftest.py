"""Fixtures of several tests: a CA with canaries as secrets, and its zip."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import build
from tests import servers
from tests.servers import API_KEY

PASSPHRASE = "canary-passphrase-5b1f"  # noqa: S105 - a canary
CREDENTIAL = "canary-credential-90cd"
ENVIRON = {
    "CERTLET_CA_PASSPHRASE": PASSPHRASE,
    "CERTLET_API_KEY": API_KEY,
    "AWS_SECRET_ACCESS_KEY": CREDENTIAL,
}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA whose keys are encrypted."""
    directory = tmp_path_factory.mktemp("canaries")
    assert servers.certlet("init", "ca", cwd=directory, env=ENVIRON).returncode == 0
    return directory


@pytest.fixture(scope="session")
def archive(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip for AWS Lambda with this CA."""
    path = tmp_path_factory.mktemp("zip") / "certlet.zip"
    build.build("x86_64", "3.13", path, home / "ca", PASSPHRASE.encode())
    return path
