"""A server with ACME, whose certificates are valid for two minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import servers
from tests.acme.clients import PRINCIPAL
from tests.servers import Server

PROFILES = f"""\
profiles:
  server: {{validity: PT3M, backdate: PT1M}}
principals:
  {PRINCIPAL}: {{dns: {{permitted: [ci.example.com], wildcards: true}}, ip: {{permitted: [127.0.0.0/8]}}}}
"""


@pytest.fixture(scope="session")
def acme_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with a ledger; its own certificate, too, is valid for two minutes."""
    directory = tmp_path_factory.mktemp("acme")
    (directory / "profiles.yaml").write_text(PROFILES)
    options = ("--tls", "--ledger", "ledger.sqlite", "--profiles", "profiles.yaml")
    with servers.certlet_server(directory, *options) as server:
        assert servers.certlet("acme", "add", PRINCIPAL, cwd=directory).returncode == 0
        yield server
