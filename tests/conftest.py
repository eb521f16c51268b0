"""Servers that several tests share."""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
from collections.abc import Iterator
from unittest import mock

import pytest

from tests import oidc_issuer, servers
from tests.gateway import second_api
from tests.oidc_issuer import Issuer

for variable in [name for name in os.environ if name.startswith("CERTLET_")]:
    del os.environ[variable]
gc.set_threshold(50_000)  # allocations between collections: imports and most tests create little garbage


def pytest_collection_finish() -> None:
    """Exclude what exists now from garbage collections, which would search all modules and tests each time."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _connexion_validates_each_document_once() -> Iterator[None]:
    """Many tests create the application from the same document, whose validation takes most of the time for it."""
    module = sys.modules.get("connexion.spec")
    if module is None:  # no test creates the application
        yield
        return
    valid: set[str] = set()
    validate = module.Specification.__dict__["_validate_spec"].__func__

    def validate_once(cls: type, document: object) -> None:
        text = json.dumps(document, sort_keys=True)
        if text not in valid:
            validate(cls, document)
            valid.add(text)

    with mock.patch.object(module.Specification, "_validate_spec", classmethod(validate_once)):
        yield


@pytest.fixture(scope="session", autouse=True)
def _clients_of_aws_share_a_loader() -> Iterator[None]:
    """Clients of one session do; with moto, each test has its own session, which would read the models again."""
    module = sys.modules.get("botocore.session")
    if module is None:  # no test creates a client
        yield
        return
    with mock.patch.object(module, "create_loader", functools.cache(module.create_loader)):
        yield


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


@pytest.fixture(scope="session")
def second_api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server of the second API with two workers."""
    directory = tmp_path_factory.mktemp("library")
    with second_api.gateway_server(directory, second_api.document(), workers=2) as running:
        yield running


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """`certlet serve --tls` with its CA in `ca`; tests may revoke their own certificates."""
    with servers.certlet_server(tmp_path_factory.mktemp("site"), "--tls", "--no-usage-plan") as running:
        yield running


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """An issuer of tokens; one for each module, whose tests may change it."""
    with oidc_issuer.running(tmp_path_factory.mktemp("issuer")) as running:
        yield running


@pytest.fixture(scope="module")
def token_server(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[servers.Server]:
    """`certlet serve` with the rule of `write_policy`, and its audit log in `audit.log`."""
    directory = tmp_path_factory.mktemp("tokens")
    options = ("--profiles", oidc_issuer.write_policy(directory, issuer), "--audit-log", "audit.log")
    with servers.certlet_server(directory, *options, "--no-usage-plan") as running:
        yield running
