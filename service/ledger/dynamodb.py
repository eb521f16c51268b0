"""A ledger in a DynamoDB table.

The table's partition key is `pk` and its sort key `sk`, both strings; its TTL attribute is `expires`.
DynamoDB deletes an item days after its end, so the end is read from the item. Every read is consistent,
since any process may follow another's change. All orders of an account are in its partition. Nothing scans
the table.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from service import aws
from service.ledger import records
from service.ledger_protocol import MAX_LISTED, Account, Conflict, KeyInUse, Order, new_id
from service.pki import encoding, revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.revocation import RevokedCertificate

ACTIONS: Final = (  # that the function's role needs, on the table only
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
    "dynamodb:UpdateItem",
)
_NEW: Final = "attribute_not_exists(pk)"
_UNCHANGED: Final = "revision = :revision"
_REVOKED: Final = "revoked"  # the partition of revoked certificates
_REVOKED_COUNT: Final = ("revoked-count", "count")
_MAX_PAGES: Final = 10  # of orders, most of which may have ended: a page has a megabyte
_ATTEMPTS: Final = 6  # of a transaction that conflicts with another one
_CONFLICTS: Final = {"None", "ConditionalCheckFailed", "TransactionConflict"}  # other reasons are errors

_Item = dict[str, dict[str, str]]  # as DynamoDB encodes it: name -> type -> value


class DynamoDbLedger:
    """`service.ledger_protocol.Ledger` in a table."""

    def __init__(self, table: str, clock: Callable[[], datetime], client: Any = None) -> None:  # noqa: ANN401 - boto3 creates its clients at run time
        """Remember the table; request nothing yet.

        Args:
            table: the name of the table.
            clock: returns the current time, UTC.
            client: a client of DynamoDB; default: created from the environment.
        """
        self._table = table
        self._clock = clock
        self._client = client or aws.create_client("dynamodb")
        self._revoked: tuple[int, Mapping[int, RevokedCertificate]] = (0, {})

    def add_account(self, account: Account) -> Account:
        """As in the protocol."""
        failed = self._transact(
            self._put_operation(_key_item(account), _NEW), self._put_operation(_account_item(account), _NEW)
        )
        existing = self.find_account(account.thumbprint) if failed else account
        if existing is None:  # its key was changed since
            raise CAUnavailable("the account's key is being changed")
        return existing

    def get_account(self, account_id: str) -> Account | None:
        """As in the protocol."""
        item = self._get(f"account#{account_id}", "account")
        return records.decode_account(item["body"]["S"]) if item else None

    def find_account(self, thumbprint: str) -> Account | None:
        """As in the protocol."""
        item = self._get(f"key#{thumbprint}", "key")
        account = self.get_account(item["account"]["S"]) if item else None
        return account if account and account.thumbprint == thumbprint else None

    def update_account(self, account: Account) -> Account:
        """As in the protocol."""
        stored = replace(account, revision=account.revision + 1)
        before = self.get_account(account.id)
        if before is None or before.revision != account.revision:
            raise Conflict("the account was changed")
        if before.thumbprint == account.thumbprint:
            self._put_changed(_account_item(stored), account.revision)
            return stored
        old_key = {name: _key_item(before)[name] for name in ("pk", "sk")}
        failed = self._transact(
            self._put_operation(_account_item(stored), _UNCHANGED, _revision(account.revision)),
            self._put_operation(_key_item(stored), _NEW),
            {"Delete": {"TableName": self._table, "Key": old_key}},
        )
        if failed:
            raise (
                Conflict("the account was changed")
                if 0 in failed
                else KeyInUse("another account has this key")
            )
        return stored

    def add_order(self, order: Order) -> None:
        """As in the protocol."""
        self._put(_order_item(order), _NEW)

    def get_order(self, account_id: str, order_id: str) -> Order | None:
        """As in the protocol."""
        item = self._get(f"account#{account_id}", f"order#{order_id}")
        order = records.decode_order(item["body"]["S"]) if item else None
        return order if order and order.expires_at > self._clock() else None

    def update_order(self, order: Order) -> Order:
        """As in the protocol."""
        if order.expires_at <= self._clock():
            raise Conflict("the order has ended")
        stored = replace(order, revision=order.revision + 1)
        self._put_changed(_order_item(stored), order.revision)
        return stored

    def list_orders(self, account_id: str, after: str = "") -> Sequence[str]:
        """As in the protocol."""
        values = {
            ":pk": {"S": f"account#{account_id}"},
            ":low": {"S": f"order#{after}" + " " * bool(after)},  # IDs contain no blank, which sorts first
            ":high": {"S": "order#~"},
            ":now": _number(self._clock().timestamp()),
        }
        pages = self._query(
            KeyConditionExpression="pk = :pk AND sk BETWEEN :low AND :high",
            FilterExpression="expires > :now",
            ExpressionAttributeValues=values,
            ProjectionExpression="sk",
        )
        ids: list[str] = []
        for _, page in zip(range(_MAX_PAGES), pages, strict=False):
            ids += [item["sk"]["S"].removeprefix("order#") for item in page]
            if len(ids) >= MAX_LISTED:
                break
        return ids[:MAX_LISTED]

    def consume_nonce(self, nonce: str, expires_at: datetime) -> bool:
        """As in the protocol."""
        item = _item(f"nonce#{nonce}", "nonce", expires_at)
        return self._put(item | {"holder": {"S": new_id()}}, _NEW)

    def is_consumed(self, nonce: str) -> bool:
        """As in the protocol."""
        return self._get(f"nonce#{nonce}", "nonce") is not None

    def earliest_nonce(self) -> datetime:
        """As in the protocol. DynamoDB deletes nonces by a clock of its own, which no process sets."""
        return datetime.fromtimestamp(0, UTC)

    def count(self, principal: str, period: tuple[datetime, datetime], limit: int) -> bool:
        """As in the protocol. A lost response may count an order twice."""
        start, end = (time.timestamp() for time in period)
        try:
            with _translated_errors():
                self._client.update_item(
                    TableName=self._table,
                    Key=_item(f"count#{principal}", f"period#{int(start)}"),
                    UpdateExpression="ADD revision :one SET expires = :end",
                    ConditionExpression=":limit > :zero AND (attribute_not_exists(pk) OR revision < :limit)",
                    ExpressionAttributeValues={
                        ":one": _number(1),
                        ":zero": _number(0),
                        ":limit": _number(limit),
                        ":end": _number(int(end)),
                    },
                )
        except _ConditionFailed:
            return False
        return True

    def mark_replaced(self, certificate_id: str, order_id: str, until: datetime) -> bool:
        """As in the protocol."""
        item = _item(f"replaced#{certificate_id}", "replaced", until) | {"order": {"S": order_id}}
        values = {":order": {"S": order_id}, ":now": _number(self._clock().timestamp())}
        return self._put(item, f"{_NEW} OR #order = :order OR expires <= :now", values, {"#order": "order"})

    def claim_token(
        self, issuer: str, token_id: str, digest: str, issued_at: datetime, expires_at: datetime
    ) -> datetime | None:
        """As in the protocol."""
        item = _item(f"token#{records.identify_token(issuer, token_id)}", "token", expires_at)
        item |= {"digest": {"S": digest}, "issued_at": {"S": issued_at.isoformat()}}
        now = {":now": _number(self._clock().timestamp())}
        stored = self._put_or_get(item, f"{_NEW} OR expires <= :now", now)
        if stored is None or stored["digest"] != item["digest"]:
            return None
        return datetime.fromisoformat(stored["issued_at"]["S"])

    def add_revocation(self, entry: RevokedCertificate) -> bool:
        """As in the protocol. At most `revocation.MAX_ENTRIES` are stored."""
        item = _item(_REVOKED, encoding.format_serial(entry.serial_number))
        failed = self._transact(
            self._put_operation(item | {"entry": {"S": revocation.format_entry(entry)}}, _NEW),
            {
                "Update": {
                    "TableName": self._table,
                    "Key": _item(*_REVOKED_COUNT),
                    "UpdateExpression": "ADD revision :one",
                    "ConditionExpression": "attribute_not_exists(pk) OR revision < :limit",
                    "ExpressionAttributeValues": {
                        ":one": _number(1),
                        ":limit": _number(revocation.MAX_ENTRIES),
                    },
                }
            },
        )
        if failed == [1]:
            raise CAUnavailable(f"the ledger has {revocation.MAX_ENTRIES} revoked certificates, the maximum")
        return not failed

    def load_revoked(self) -> Mapping[int, RevokedCertificate]:
        """As in the protocol. The list only grows, so it is read again when its length has changed."""
        item = self._get(*_REVOKED_COUNT)
        if item and int(item["revision"]["N"]) != self._revoked[0]:
            pages = self._query(
                KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": _REVOKED}}
            )
            lines = [item["entry"]["S"] for page in pages for item in page]
            entries = revocation.parse_canonical("".join(lines))
            if isinstance(entries, int):
                raise CAError("the ledger: a revoked certificate is malformed")
            self._revoked = (len(lines), entries)
        return self._revoked[1]

    def _get(self, pk: str, sk: str) -> _Item | None:
        with _translated_errors():
            response = self._client.get_item(TableName=self._table, Key=_item(pk, sk), ConsistentRead=True)
        item: _Item | None = response.get("Item")
        return item

    def _query(self, **arguments: object) -> Iterator[list[_Item]]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table, ConsistentRead=True, **arguments
        )
        with _translated_errors():
            for page in pages:
                yield page["Items"]

    def _put_changed(self, item: _Item, revision: int) -> None:
        if not self._put(item, _UNCHANGED, _revision(revision)):
            raise Conflict("the value was changed")

    def _put(
        self,
        item: _Item,
        condition: str,
        values: _Item | None = None,
        names: Mapping[str, str] | None = None,
    ) -> bool:
        """Store an item if the condition is true; return whether it is stored.

        The client tries again if a response is lost. The second attempt then finds the item of the first.
        """
        return self._put_or_get(item, condition, values, names) == item

    def _put_or_get(
        self,
        item: _Item,
        condition: str,
        values: _Item | None = None,
        names: Mapping[str, str] | None = None,
    ) -> _Item | None:
        """Store an item if the condition is true; return the item that is stored then, if any."""
        operation = self._put_operation(item, condition, values)["Put"]
        operation |= {"ExpressionAttributeNames": names} if names else {}
        try:
            with _translated_errors():
                self._client.put_item(**operation, ReturnValuesOnConditionCheckFailure="ALL_OLD")
        except _ConditionFailed as error:
            return error.item
        return item

    def _put_operation(self, item: _Item, condition: str, values: _Item | None = None) -> dict[str, Any]:
        operation: dict[str, Any] = {"TableName": self._table, "Item": item, "ConditionExpression": condition}
        return {"Put": operation | ({"ExpressionAttributeValues": values} if values else {})}

    def _transact(self, *operations: Mapping[str, Any]) -> list[int]:
        """Do all operations or none; return the indexes of those whose condition is false."""
        for attempt in range(_ATTEMPTS):
            try:
                with _translated_errors():
                    self._client.transact_write_items(TransactItems=operations)
            except _TransactionCanceled as error:
                failed = [i for i, code in enumerate(error.codes) if code == "ConditionalCheckFailed"]
                if failed:
                    return failed
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - not a secret  # nosec B311
            else:
                return []
        raise CAUnavailable("DynamoDB is unavailable: too many changes at the same time")


class _ConditionFailed(Exception):
    def __init__(self, item: _Item | None) -> None:
        super().__init__()
        self.item = item


class _TransactionCanceled(Exception):
    def __init__(self, codes: Sequence[str]) -> None:
        super().__init__()
        self.codes = codes


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    with aws.translate_errors("DynamoDB"):
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code == "ConditionalCheckFailedException":
                raise _ConditionFailed(error.response.get("Item")) from error
            reasons = [reason.get("Code", "") for reason in error.response.get("CancellationReasons", ())]
            if code == "TransactionCanceledException" and _CONFLICTS.issuperset(reasons):
                raise _TransactionCanceled(reasons) from error
            raise


def _item(pk: str, sk: str, expires_at: datetime | None = None) -> _Item:
    end = {"expires": _number(int(expires_at.timestamp()))} if expires_at else {}
    return {"pk": {"S": pk}, "sk": {"S": sk}} | end


def _account_item(account: Account) -> _Item:
    body = {"body": {"S": records.encode(account)}, "revision": _number(account.revision)}
    return _item(f"account#{account.id}", "account") | body


def _key_item(account: Account) -> _Item:
    """The item that finds the account of a key, and that makes keys unique."""
    return _item(f"key#{account.thumbprint}", "key") | {"account": {"S": account.id}}


def _order_item(order: Order) -> _Item:
    body = {"body": {"S": records.encode(order)}, "revision": _number(order.revision)}
    return _item(f"account#{order.account}", f"order#{order.id}", order.expires_at) | body


def _revision(number: int) -> _Item:
    return {":revision": _number(number)}


def _number(value: float) -> dict[str, str]:
    return {"N": str(value)}
