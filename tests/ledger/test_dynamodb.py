"""The DynamoDB table: its requests, their permissions, lost responses, conflicts and errors."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from cryptography import x509

from service.ledger import dynamodb as dynamodb_ledger
from service.ledger.dynamodb import DynamoDbLedger
from service.ledger_protocol import Conflict
from service.pki import revocation
from service.pki.errors import CAUnavailable
from service.pki.revocation import RevokedCertificate
from service.quota import Quota
from tests.examples import certificate_id
from tests.factories import NOW
from tests.ledger import values
from tests.ledger.conftest import Clock
from tests.ledger.values import HOUR
from tests.servers import Response
from tests.web import test_acme
from tests.web.acme_client import AcmeClient

AT = NOW.replace(microsecond=0)


@pytest.fixture
def table(dynamodb: Any, clock: Clock) -> DynamoDbLedger:
    return DynamoDbLedger("ledger", clock, dynamodb)


def use_all_methods(ledger: DynamoDbLedger) -> None:
    account = ledger.add_account(values.account())
    ledger.add_account(values.account())
    ledger.update_account(replace(account, thumbprint="b" * 43))
    order = values.order(account.id)
    ledger.add_order(order)
    assert ledger.get_order(account.id, order.id)
    ledger.update_order(order)
    ledger.list_orders(account.id)
    ledger.consume_nonce("a", NOW + HOUR)
    ledger.count("a", (NOW, NOW + HOUR), 9)
    ledger.mark_replaced("a", order.id, NOW + HOUR)
    ledger.claim_token("https://a", "1", "00", AT, NOW + HOUR)
    ledger.add_revocation(RevokedCertificate(1, AT))
    ledger.load_revoked()


def test_requests_need_exactly_the_listed_actions(dynamodb: Any, table: DynamoDbLedger) -> None:
    """A transaction needs the permissions of its operations. All reads are consistent, and none is a scan."""
    actions: set[str] = set()

    def record(model: Any, params: Any, **_rest: Any) -> None:
        body = json.loads(params["body"])
        if model.name == "TransactWriteItems":
            actions.update(f"dynamodb:{name}Item" for item in body["TransactItems"] for name in item)
        else:
            actions.add(f"dynamodb:{model.name}")
            assert body["TableName"] == "ledger"
            assert body.get("ConsistentRead") or model.name in {"PutItem", "UpdateItem"}

    dynamodb.meta.events.register("before-call.dynamodb", record)
    use_all_methods(table)
    assert sorted(actions) == list(dynamodb_ledger.ACTIONS)


def count_units(client: Any) -> Counter[str]:
    """Count the units of capacity that requests use from now on: a write per KB, and a read per 4 KB."""
    units: Counter[str] = Counter()

    def count(params: dict[str, Any], model: Any, **_: object) -> None:
        if model.name == "GetItem":
            units["read"] += 1  # no item has 4 KB
            return
        assert model.name in {"PutItem", "UpdateItem"}, "a transaction costs twice as much"
        item = params.get("Item", {})
        octets = sum(len(name) + len(str(*value.values())) for name, value in item.items())
        units["write"] += max(1, math.ceil(octets / 1024))

    client.meta.events.register("provide-client-params.dynamodb", count)
    return units


def test_units_of_an_issuance_are_documented(dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How-to AWS has the units of each request, for certificates with two names and a quota."""
    monkeypatch.setattr(test_acme, "SqliteLedger", lambda _, clock: DynamoDbLedger("ledger", clock, dynamodb))
    client = test_acme.Site(Path("unused"), Quota(9, timedelta(days=1))).client()
    directory, units = client.directory, count_units(dynamodb)
    monkeypatch.setattr(AcmeClient, "directory", directory)

    def used(response: Response) -> tuple[int, int]:
        assert response.status in {200, 201}, response.body
        result = units["write"], units["read"]
        units.clear()
        return result

    order = client.order(*test_acme.NAMES)
    assert used(order) == (3, 1)
    assert used(client.post(order.json()["authorizations"][1])) == (1, 2)
    finalized = client.finalize(order.json())
    assert used(finalized) == (5, 3)
    assert used(client.post(order.headers["Location"] or "")) == (1, 2)
    certificate = client.post(finalized.json()["certificate"])
    assert used(certificate) == (1, 2)
    leaf = x509.load_pem_x509_certificates(certificate.body)[0]
    renewal = client.order(*test_acme.NAMES, replaces=certificate_id(leaf))
    assert used(renewal) == (4, 2)
    assert used(client.finalize(renewal.json())) == (6, 4)


def test_items_that_end_have_the_ttl_attribute(dynamodb: Any, table: DynamoDbLedger) -> None:
    """Orders, nonces, marks, tokens and counts of orders have a number of seconds; accounts, keys and revocations have none."""
    use_all_methods(table)
    items = dynamodb.scan(TableName="ledger")["Items"]
    ends = {item["sk"]["S"].partition("#")[0]: item.get("expires") for item in items}
    end = {"N": str(int((NOW + HOUR).timestamp()))}
    assert ends == {
        "account": None,
        "key": None,
        "order": end,
        "nonce": end,
        "replaced": end,
        "token": end,
        "01": None,
        "count": None,
        "period": end,
    }


def test_ended_items_that_ttl_has_not_deleted_are_ignored(
    dynamodb: Any, table: DynamoDbLedger, clock: Clock
) -> None:
    """They are still in the table."""
    order = values.order()
    table.add_order(order)
    clock.advance(2 * HOUR)
    assert table.get_order("account", order.id) is None
    assert table.list_orders("account") == []
    assert dynamodb.scan(TableName="ledger")["Count"] == 1


def lose_first_response(client: Any, name: str) -> None:
    """Do the next request twice, as the client does if a response is lost; the second one is returned."""
    real, calls = getattr(client, name), []

    def twice(**arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            real(**arguments)
        return real(**arguments)

    setattr(client, name, twice)


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger, order: ledger.update_order(order).revision == 1,
        lambda ledger, _order: ledger.consume_nonce("a", NOW + HOUR),
        lambda ledger, _order: ledger.mark_replaced("a", "b", NOW + HOUR),
        lambda ledger, _order: ledger.claim_token("https://a", "1", "00", AT, NOW + HOUR) == AT,
        lambda ledger, _order: ledger.add_order(values.order()) is None,
    ],
    ids=["update_order", "consume_nonce", "mark_replaced", "claim_token", "add_order"],
)
def test_change_whose_response_was_lost_succeeds(
    dynamodb: Any, table: DynamoDbLedger, change: Callable[[Any, Any], bool]
) -> None:
    """The second attempt finds its own item, and is not taken for a conflict."""
    order = values.order()
    table.add_order(order)
    lose_first_response(dynamodb, "put_item")
    assert change(table, order)
    assert table.get_order("account", order.id)


def test_claim_of_another_process_is_a_conflict(table: DynamoDbLedger) -> None:
    """Even with the same CSR at the same time: the attempts have different holders."""
    order = values.order()
    table.add_order(order)
    table.update_order(order.claimed("00", "a", NOW))
    with pytest.raises(Conflict):
        table.update_order(order.claimed("00", "b", NOW))


def test_token_is_claimed_by_one_of_two_processes_at_once(
    dynamodb: Any, table: DynamoDbLedger, clock: Clock
) -> None:
    """The other process claims it while the request of the first is on its way; the table decides."""
    other, results = DynamoDbLedger("ledger", clock, dynamodb), []

    def interfere(**_: object) -> None:
        dynamodb.meta.events.unregister("before-call.dynamodb.PutItem", interfere)
        results.append(other.claim_token("https://a", "1", "01", AT, NOW + HOUR))

    dynamodb.meta.events.register("before-call.dynamodb.PutItem", interfere)
    results.append(table.claim_token("https://a", "1", "00", AT, NOW + HOUR))
    assert results == [AT, None]


def test_claim_of_a_token_is_one_write(dynamodb: Any, table: DynamoDbLedger) -> None:
    """It reads nothing: the condition of the write decides, and its error has the item."""
    units = count_units(dynamodb)
    table.claim_token("https://a", "1", "00", AT, NOW + HOUR)
    table.claim_token("https://a", "1", "01", AT, NOW + HOUR)
    assert units == {"write": 2}


def cancelled(*codes: str) -> ClientError:
    response: Any = {
        "Error": {"Code": "TransactionCanceledException", "Message": "secret"},
        "CancellationReasons": [{"Code": code} for code in codes],
    }
    return ClientError(response, "TransactWriteItems")


def test_conflicting_transaction_is_tried_again(
    dynamodb: Any, table: DynamoDbLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, errors = dynamodb.transact_write_items, [cancelled("None", "TransactionConflict")] * 2

    def transact(**arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(**arguments)

    monkeypatch.setattr(dynamodb, "transact_write_items", transact)
    assert table.add_revocation(RevokedCertificate(1, AT))
    assert not errors
    assert list(table.load_revoked()) == [1]


@pytest.mark.parametrize(
    "error",
    [
        cancelled("None", "TransactionConflict"),
        cancelled("ThrottlingError", "None"),
        ClientError({"Error": {"Code": "AccessDeniedException", "Message": "secret"}}, "x"),
        EndpointConnectionError(endpoint_url="secret"),
    ],
    ids=["conflicts without end", "throttled", "not permitted", "not reachable"],
)
def test_error_of_dynamodb_makes_the_ledger_unavailable(
    dynamodb: Any, table: DynamoDbLedger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The message does not contain the text of AWS."""

    def fail(**_arguments: Any) -> None:
        raise error

    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr(dynamodb, "transact_write_items", fail)
    with pytest.raises(CAUnavailable) as caught:
        table.add_account(values.account())
    assert "secret" not in caught.value.detail


def test_missing_table_is_unavailable(dynamodb: Any, clock: Clock) -> None:
    ledger = DynamoDbLedger("other", clock, dynamodb)
    for method in (lambda: ledger.get_account("a"), lambda: ledger.list_orders("a"), ledger.load_revoked):
        with pytest.raises(CAUnavailable):
            method()


def test_missing_region_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(CAUnavailable):
        DynamoDbLedger("ledger", Clock())


def test_key_that_is_changed_between_two_reads_has_no_account(dynamodb: Any, table: DynamoDbLedger) -> None:
    """The item of the earlier key was read before the change, and the account after it."""
    account = table.add_account(values.account())
    stale = dynamodb.get_item(
        TableName="ledger", Key=dynamodb_ledger._item(f"key#{account.thumbprint}", "key")
    )
    table.update_account(replace(account, thumbprint="b" * 43))
    dynamodb.put_item(TableName="ledger", Item=stale["Item"])
    assert table.find_account(account.thumbprint) is None
    assert table.find_account("b" * 43)


def test_revocations_are_bounded(table: DynamoDbLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "MAX_ENTRIES", 1)
    assert table.add_revocation(RevokedCertificate(1, AT))
    assert not table.add_revocation(RevokedCertificate(1, AT + timedelta(days=1)))
    with pytest.raises(CAUnavailable, match="maximum"):
        table.add_revocation(RevokedCertificate(2, AT))
    assert list(table.load_revoked()) == [1]


def test_long_lists_are_read_in_pages(table: DynamoDbLedger) -> None:
    """Orders of 20 kB each fill several pages of a megabyte."""
    for _ in range(70):
        table.add_order(values.order(certificate="x" * 20_000))
    assert len(table.list_orders("account")) == 70
