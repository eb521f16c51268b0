"""Each kind of ledger, empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import Ledger
from tests.factories import NOW


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, period: timedelta) -> None:
        self.now += period


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite"])
def connect(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Ledger]]:
    """A function that connects to one ledger again, as another process does."""
    opened: list[SqliteLedger] = []

    def connect() -> Ledger:
        opened.append(SqliteLedger(tmp_path / "ledger.db", clock))
        return opened[-1]

    yield connect
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(connect: Callable[[], Ledger]) -> Ledger:
    return connect()
