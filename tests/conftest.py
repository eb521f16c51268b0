"""Servers that several tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import servers
from tests.gateway import second_api

for variable in [name for name in os.environ if name.startswith("CERTLET_")]:
    del os.environ[variable]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """`certlet serve --ephemeral`, without a usage plan, for tests that only send requests."""
    directory = tmp_path_factory.mktemp("server")
    with servers.certlet_server(directory, "--ephemeral", "--no-usage-plan", "--workers", "2") as running:
        yield running


@pytest.fixture(scope="session")
def ca_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """`certlet serve` with its CA in `ca`, which tests read but do not change."""
    with servers.certlet_server(tmp_path_factory.mktemp("readable"), "--no-usage-plan") as running:
        yield running


@pytest.fixture(scope="module")
def second_api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server of the second API with two workers."""
    directory = tmp_path_factory.mktemp("library")
    with second_api.gateway_server(directory, second_api.document(), workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """`certlet serve --tls` with its CA in `ca`; one for each module, whose tests may revoke certificates."""
    with servers.certlet_server(tmp_path_factory.mktemp("site"), "--tls", "--no-usage-plan") as running:
        yield running
