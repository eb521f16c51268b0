"""Values that ledgers store."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from service.ledger_protocol import Account, Authorization, AuthorizationStatus, Order, OrderStatus, new_id
from tests.factories import NOW

HOUR = timedelta(hours=1)


def account(thumbprint: str = "a" * 43, **change: Any) -> Account:
    values: dict[str, Any] = {"principal": "web", "generation": 1, "created_at": NOW, "public_key": "{}"}
    return Account(new_id(), thumbprint, **values | change)


def order(account_id: str = "account", expires_at: datetime = NOW + HOUR, **change: Any) -> Order:
    authorization = Authorization("dns", "*.example.com", AuthorizationStatus.VALID, "token")
    values: dict[str, Any] = {
        "authorizations": (authorization,),
        "status": OrderStatus.READY,
        "created_at": NOW,
        "expires_at": expires_at,
    }
    return Order(new_id(), account_id, **values | change)
