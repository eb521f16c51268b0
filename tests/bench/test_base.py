from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import base
from bench.results import Target
from tests.bench.conftest import is_positive, measurement


@pytest.fixture(scope="module")
def section(run_section: Callable[[str], Any]) -> Any:
    return run_section("base")


def test_short_run_compares_with_the_base(section: Any) -> None:
    """The base is the last commit here, and has rate, ratio and processor time for single requests and batches."""
    assert [row["name"] for row in section] == ["POST /sign", "POST /sign/batch of 20"]
    for row in section:
        figures = [*row["rates"], row["ratio"], row["cpu_ratio"]]
        assert all(is_positive(value) for figure in figures for value in figure.values()), row


@pytest.mark.parametrize(("requests", "met"), [(114, False), (115, True)])
def test_target_against_the_base_is_a_ratio_of_rates(requests: int, *, met: bool) -> None:
    """15 % more requests than the base, for half of its processor time."""
    row = base.compute("POST /sign", 1, [(measurement(requests, cpu=requests / 200), measurement(100))])
    assert (row.ratio.median, row.target) == (requests / 100, Target(1.15, met))
    assert row.cpu_ratio.median == pytest.approx(2)
