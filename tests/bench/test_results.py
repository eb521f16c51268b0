from __future__ import annotations

import pytest

from bench import baselines, endpoints, results
from bench.results import Spread, Target
from tests.bench.conftest import measurement


def test_ratio_divides_medians_and_spreads_over_rounds() -> None:
    """The median is the ratio of the medians; the extremes are ratios of consecutive measurements."""
    assert Spread.ratio([2, 4, 9], [1, 4, 3]) == Spread(4 / 3, 1, 3)


@pytest.mark.parametrize(("requests", "met"), [(9, False), (10, True)])
def test_target_of_a_batch_counts_certificates(requests: int, *, met: bool) -> None:
    """A batch of 10 counts as 10: 10 batches to 100 requests are cfssl's rate; 9 miss the target."""
    endpoint = endpoints.sign_batch(endpoints.requests()[:10])
    pair = results.Pair(endpoint, measurement(requests), measurement(100))
    cfssl, row = results.served("p-256", 8, [[pair]])
    assert (cfssl.rate.median, cfssl.ratio, cfssl.target) == (50, None, None)
    assert (row.rate.median, row.target) == (requests * 5, Target(1.0, met))
    assert results.served("p-256", 1, [[pair]])[1].target is None


@pytest.mark.parametrize(("microseconds", "met"), [(1540, True), (1530, False)])
def test_batch_over_http_has_a_target_relative_to_issuance(microseconds: float, *, met: bool) -> None:
    """2,000 µs over HTTP are at most 1.3 times 1,540 µs, but more than 1.3 times 1,530 µs."""
    pair = results.Pair(endpoints.sign_batch(endpoints.requests()[:10]), measurement(100), measurement(100))
    share = results.share("p-256", [pair], [[baselines.Baseline(baselines.ISSUE, microseconds)]])
    assert share.target == Target(1.3, met, at_most=True)
    assert str(share.target).endswith("met" if met else "missed")
