"""`logs`: a log group of CloudWatch Logs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.inventory import insights
from tests.inventory.insights import Insights


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Insights]:
    """A log group, which the environment of boto3 names."""
    with insights.configured(monkeypatch) as running:
        yield running
