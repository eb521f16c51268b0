from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import acme, contenders
from bench.contenders import Server
from bench.load import BenchError
from tests import csrs
from tests.bench.conftest import is_positive


@pytest.fixture(scope="module")
def section(run_section: Callable[[str], Any]) -> Any:
    return run_section("acme")


def test_short_run_compares_acme_with_pebble(section: Any) -> None:
    """pebble's orders need challenges, and its clients ask until the certificate is there."""
    assert [row["ca"] for row in section] == list(contenders.KEY_TYPES)
    for row in section:
        certlet, pebble = row["requests"]
        assert (certlet, pebble >= 9) == (3, True)
        assert all(map(is_positive, [*row["waited"], *row["ratio"].values()])), row
        assert row["target"]["bound"] == 2


@pytest.fixture(scope="module")
def acme_certlet(directory: Path) -> Iterator[tuple[Server, acme.Client]]:
    with acme.certlet(directory / "acme", contenders.create_ca(directory, "p-256")) as pair:
        yield pair


def test_acme_processor_time_is_of_each_issuance(acme_certlet: tuple[Server, acme.Client]) -> None:
    """An issuance is three requests on one connection."""
    result = acme.measure(*acme_certlet, itertools.count(), 10)
    assert (result.count, result.requests) == (10, 30)
    assert 0 < result.cpu < 10
    assert result.waited > 0


def test_acme_refusal_invalidates_a_measurement(acme_certlet: tuple[Server, acme.Client]) -> None:
    """The error contains the server's problem."""
    _, client = acme_certlet
    with pytest.raises(BenchError, match=r"403 .*rejectedIdentifier"):
        client.get_certificate("not a name")
    assert len(client.get_certificate("a.example.com")) == 2


def test_acme_certificate_for_another_request_invalidates_a_measurement(
    acme_certlet: tuple[Server, acme.Client],
) -> None:
    leaf, issuer = acme_certlet[1].get_certificate("a.example.com")
    with pytest.raises(BenchError, match="another key or name"):
        contenders.verify_certificate(csrs.build(None, ["dns:b.example.com"]), leaf, issuer)
    with pytest.raises(BenchError, match="another issuer"):
        contenders.verify_certificate(csrs.build(None, ["dns:a.example.com"]), issuer, leaf)
