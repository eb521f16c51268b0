"""Each kind of ledger, empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import moto
import pytest

from service import aws
from service.ledger.dynamodb import DynamoDbLedger
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


def create_table(client: Any, name: str) -> None:
    """Create a table as in deploy/template.yaml."""
    keys = {"pk": "HASH", "sk": "RANGE"}
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
    )


@pytest.fixture
def dynamodb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a simulated DynamoDB with one empty table, `ledger`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with moto.mock_aws():
        client = aws.create_client("dynamodb")
        create_table(client, "ledger")
        yield client


@pytest.fixture(params=["sqlite", "dynamodb"])
def connect(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Ledger]]:
    """A function that connects to one ledger again, as another process does."""
    if request.param == "dynamodb":
        client = request.getfixturevalue("dynamodb")
        yield lambda: DynamoDbLedger("ledger", clock, client)
        return
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
