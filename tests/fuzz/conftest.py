"""The server that the generated requests are sent to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests import servers
from tests.servers import Server
from tests.web import acme_client

# Otherwise requests reads all variables for each of the requests, to find a proxy.
os.environ["NO_PROXY"] = "127.0.0.1"

PROFILES: Final = "principals: {prover: {challenge: http-01}}"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`certlet serve` with a ledger, so that it has each operation of the contract.

    `web` and `prover` may have ACME accounts; those of `prover` have to prove each name.
    """
    directory = tmp_path_factory.mktemp("server")
    (directory / "profiles.yaml").write_text(PROFILES)
    options = ("--ledger", "ledger.db", "--profiles", "profiles.yaml", "--no-usage-plan", "--workers", "2")
    with servers.certlet_server(directory, *options) as running:
        for principal in ("web", "prover"):
            acme_client.add_principal(running, principal)
        yield running
