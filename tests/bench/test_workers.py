from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import client, endpoints, workers
from bench.load import BenchError
from bench.results import Target


@pytest.fixture(scope="module")
def section(run_section: Callable[[str], Any]) -> Any:
    return run_section("workers")


def test_short_run_compares_two_workers_with_one(section: Any) -> None:
    assert [row["name"] for row in section] == ["the worker pool", "HTTP"]
    assert all(rate["median"] > 0 for row in section for rate in row["rates"])
    assert [row["target"] and row["target"]["bound"] for row in section] == [1.6, None]


@pytest.mark.parametrize(("two", "met"), [(159, False), (160, True)])
def test_target_is_a_ratio_of_rates(two: float, *, met: bool) -> None:
    row = workers.compute("pool", [(100, two)], 1.6)
    assert (row.ratio.median, row.target) == (two / 100, Target(1.6, met))
    assert workers.compute("HTTP", [(100, two)]).target is None


def test_worker_pool_signs(ca: Path, tmp_path: Path) -> None:
    """The response has the certificates of the batch; the workers have exited afterwards."""
    endpoint = endpoints.sign_batch(endpoints.requests()[:5])
    with client.runner() as runner, workers.run_pool(tmp_path, ca, 1, endpoint, runner) as call:
        assert runner.run(client.repeat(call, 2, 3)) > 0


@pytest.mark.parametrize(
    ("body", "message"),
    [('{"requests": [{"csr": "garbage"}]}', "the response has no certificates"), ("garbage", "pool: 400")],
)
def test_worker_pool_that_does_not_sign_is_an_error(
    ca: Path, tmp_path: Path, body: str, message: str
) -> None:
    endpoint = endpoints.sign_batch(endpoints.requests()[:1])
    with (
        client.runner() as runner,
        pytest.raises(BenchError, match=message),
        workers.run_pool(tmp_path, ca, 1, replace(endpoint, bodies=(body.encode(),)), runner),
    ):
        pass


def test_worker_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    endpoint = endpoints.sign_batch(endpoints.requests()[:1])
    with (
        client.runner() as runner,
        pytest.raises(BenchError, match=r"the worker pool: .*signing-ca"),
        workers.run_pool(tmp_path, tmp_path / "missing", 1, endpoint, runner),
    ):
        pass
