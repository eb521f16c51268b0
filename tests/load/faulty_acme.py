"""The function of a CA, which dies or hangs once while it changes an order, if the file `fault` says so.

The file has `exit` or `hang`, and the number of the change after which the function does it.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from service import aws_lambda, ledger_protocol
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import Order

LEASE = timedelta(seconds=8)  # longer than a time-out, as in the service
FAULT = Path("fault")

init = aws_lambda.init
_update_order = SqliteLedger.update_order


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Handle an event as Lambda does."""
    return aws_lambda.handler(event, context)


def _fail(self: SqliteLedger, order: Order) -> Order:
    stored = _update_order(self, order)
    kind, _, number = FAULT.read_text().partition(" ") if FAULT.exists() else ("", "", "")
    if kind and int(number) > 1:
        FAULT.write_text(f"{kind} {int(number) - 1}")
    elif kind:
        FAULT.unlink()
        os._exit(3) if kind == "exit" else time.sleep(30)
    return stored


SqliteLedger.update_order = _fail  # type: ignore[method-assign]  # the function has no other way to fail here
ledger_protocol.LEASE = LEASE  # type: ignore[misc]  # it is Final
