"""The quota of the usage plan, and its periods."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.quota import PERIODS, Quota, parse_quota
from tests.factories import NOW


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("none", None),
        ("10000/DAY", Quota(10_000, timedelta(days=1))),
        ("0/WEEK", Quota(0, timedelta(days=7))),
        ("5/MONTH", Quota(5, timedelta(days=30))),
    ],
)
def test_quota_is_parsed(text: str, quota: Quota | None) -> None:
    assert parse_quota(text) == quota


@pytest.mark.parametrize("text", ["", "10", "10/HOUR", "-1/DAY", "1.5/DAY", "10/DAY\n", "9999999999/DAY"])
def test_malformed_quota_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quota such as 10000/DAY"):
        parse_quota(text)


@pytest.mark.parametrize("name", PERIODS)
def test_periods_are_those_of_the_gateway(name: str) -> None:
    """They follow each other: the end of one is the start of the next."""
    quota = parse_quota(f"1/{name}")
    assert quota
    seconds = PERIODS[name]
    assert quota.period.total_seconds() == seconds
    start, end = quota.period_at(NOW)
    assert start.timestamp() == NOW.timestamp() // seconds * seconds
    assert start <= NOW < end
    assert quota.period_at(end)[0] == end
    assert quota.period_at(end - timedelta(microseconds=1)) == (start, end)
