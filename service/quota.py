"""The quota of the usage plan (x-usage-plan): how many requests, or orders of ACME, in a period."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final, NamedTuple

PERIODS: Final = {"DAY": 86_400, "WEEK": 604_800, "MONTH": 2_592_000}  # seconds; a month is 30 days
_QUOTA: Final = re.compile(r"([0-9]{1,9})/(DAY|WEEK|MONTH)")


class Quota(NamedTuple):
    """How many orders a principal may create in a period (x-usage-plan).

    Attributes:
        limit: the number of orders.
        period: the length of the period. Periods follow each other from 1970 on.
    """

    limit: int
    period: timedelta

    def period_at(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the start and the end of the period at a time, UTC."""
        start = now - timedelta(seconds=now.timestamp() % self.period.total_seconds())
        return start, start + self.period


def parse_quota(text: str) -> Quota | None:
    """Parse a quota, such as `10000/DAY`; `none` for no quota.

    Raises:
        ValueError: the text is not a quota.
    """
    if text == "none":
        return None
    if not (match := _QUOTA.fullmatch(text)):
        raise ValueError(f"{text!r} is not a quota such as 10000/DAY (or WEEK, MONTH), and not none")
    return Quota(int(match[1]), timedelta(seconds=PERIODS[match[2]]))
