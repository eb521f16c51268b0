"""The ledger: in a SQLite file, or in a DynamoDB table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from service.ledger_protocol import Ledger


def open_ledger(path: Path | None, table: str, clock: Callable[[], datetime]) -> Ledger | None:
    """Open a ledger, which exists. Each kind is imported only if it is used.

    Args:
        path: the SQLite file; None for no file.
        table: the DynamoDB table; '' for no table.
        clock: returns the current time, UTC.

    Returns:
        the ledger; None if there is neither.

    Raises:
        CAError: as `SqliteLedger`.
    """
    if path:
        from service.ledger.sqlite import SqliteLedger  # noqa: PLC0415 - only for this kind

        return SqliteLedger(path, clock, create=False)
    if table:
        from service.ledger.dynamodb import DynamoDbLedger  # noqa: PLC0415 - imports boto3, which is slow

        return DynamoDbLedger(table, clock)
    return None
