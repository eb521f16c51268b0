"""ACME clients prove their names by http-01, in a network namespace with port 80 and a name server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.test_http01 import in_namespace


@pytest.mark.parametrize("client", ["Certbot", "Lego", "Dehydrated"])
def test_client_proves_its_names(tmp_path: Path, client: str) -> None:
    """By a server of its own, or in a folder of a web server. It shows why a challenge fails."""
    in_namespace(tmp_path, (sys.executable, "-m", "tests.acme.proofs", str(tmp_path), client))
