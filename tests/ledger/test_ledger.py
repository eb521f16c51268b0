"""What every ledger does; each test runs with each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from service.ledger_protocol import (
    MAX_ENCODED,
    MAX_LISTED,
    AccountStatus,
    Authorization,
    AuthorizationStatus,
    ChallengeError,
    Claim,
    Conflict,
    KeyInUse,
    Ledger,
    OrderStatus,
)
from service.pki.revocation import RevokedCertificate
from tests.factories import NOW
from tests.ledger import values
from tests.ledger.conftest import Clock
from tests.ledger.values import HOUR

SECOND = timedelta(seconds=1)
Connect = Callable[[], Ledger]


def test_account_is_found_by_id_and_by_key(connect: Connect) -> None:
    """Another connection reads the same value; other ids and keys have no account."""
    account = values.account(contacts=("mailto:a@example.com",), external_account_binding='{"a":"é"}')
    assert connect().add_account(account) == account
    ledger = connect()
    assert ledger.get_account(account.id) == ledger.find_account(account.thumbprint) == account
    assert ledger.get_account(account.thumbprint) is ledger.find_account(account.id) is None


def test_key_has_one_account(ledger: Ledger) -> None:
    """A second account of the same key is not stored; the first one is returned."""
    first, second = values.account(), values.account(principal="other")
    ledger.add_account(first)
    assert ledger.add_account(second) == first
    assert ledger.get_account(second.id) is None


def test_account_change_is_stored_once(connect: Connect) -> None:
    """Two changes of one state: the second one is refused, and the first one remains."""
    account = values.account()
    ledger, other = connect(), connect()
    ledger.add_account(account)
    stored = ledger.update_account(replace(account, status=AccountStatus.DEACTIVATED))
    assert stored.revision == 1
    with pytest.raises(Conflict):
        other.update_account(replace(account, contacts=("mailto:a@example.com",)))
    assert other.get_account(account.id) == stored
    with pytest.raises(Conflict):
        ledger.update_account(values.account("z" * 43))


def test_key_change_moves_the_account(ledger: Ledger) -> None:
    """The new key finds the account, and the old one is free for another."""
    account = ledger.add_account(values.account("a" * 43))
    changed = ledger.update_account(replace(account, thumbprint="b" * 43))
    assert ledger.find_account("b" * 43) == ledger.get_account(account.id) == changed
    assert ledger.find_account("a" * 43) is None
    other = values.account("a" * 43)
    assert ledger.add_account(other) == other


def test_key_of_another_account_is_refused(ledger: Ledger) -> None:
    account, other = values.account("a" * 43), values.account("b" * 43)
    ledger.add_account(account)
    ledger.add_account(other)
    with pytest.raises(KeyInUse):
        ledger.update_account(replace(account, thumbprint="b" * 43))
    assert ledger.get_account(account.id) == account
    assert ledger.find_account("b" * 43) == other


def test_key_change_of_a_changed_account_is_refused(ledger: Ledger) -> None:
    """A lost race changes no key."""
    account = ledger.add_account(values.account("a" * 43))
    stored = ledger.update_account(replace(account, status=AccountStatus.DEACTIVATED))
    with pytest.raises(Conflict):
        ledger.update_account(replace(account, thumbprint="b" * 43))
    assert ledger.find_account("b" * 43) is None
    assert ledger.find_account("a" * 43) == stored


def test_order_is_read_as_stored(connect: Connect) -> None:
    """All its members; for its account only."""
    order = values.order(
        profile="server", not_after="2026-12-01T00:00:00Z", replaces="a.b", claim=Claim("00", NOW, "x", NOW)
    )
    error = ChallengeError("dns", "é")
    challenge = Authorization("ip", "192.0.2.1", AuthorizationStatus.INVALID, "token", NOW, error)
    order = replace(order, authorizations=(*order.authorizations, challenge))
    connect().add_order(order)
    ledger = connect()
    assert ledger.get_order("account", order.id) == order
    assert ledger.get_order("other", order.id) is None
    assert ledger.get_order("account", "other") is None


def test_order_ends(ledger: Ledger, clock: Clock) -> None:
    """At its end, it is neither read, listed nor changed, whether or not it is deleted already."""
    order = values.order()
    ledger.add_order(order)
    clock.advance(HOUR - SECOND)
    assert ledger.get_order("account", order.id) == order
    assert ledger.list_orders("account") == [order.id]
    clock.advance(SECOND)
    assert ledger.get_order("account", order.id) is None
    assert ledger.list_orders("account") == []
    with pytest.raises(Conflict):
        ledger.update_order(order)


def test_order_change_is_stored_once(connect: Connect) -> None:
    """Two processes claim one order: one of them gets it."""
    order = values.order()
    ledger, other = connect(), connect()
    ledger.add_order(order)
    claimed = ledger.update_order(order.claimed("00", "first", NOW))
    with pytest.raises(Conflict):
        other.update_order(order.claimed("00", "second", NOW))
    assert other.get_order("account", order.id) == claimed
    valid = other.update_order(claimed.completed("first", "PEM"))
    assert (valid.status, valid.revision) == (OrderStatus.VALID, 2)
    assert ledger.get_order("account", order.id) == valid


def test_authorizations_are_stored_with_their_order(ledger: Ledger) -> None:
    order = values.order()
    ledger.add_order(order)
    authorization = order.authorizations[0]._replace(status=AuthorizationStatus.INVALID)
    changed = replace(order, authorizations=(authorization,), status=OrderStatus.INVALID)
    assert ledger.update_order(changed) == ledger.get_order("account", order.id)
    assert ledger.get_order("account", order.id) == replace(changed, revision=1)


def test_orders_of_an_account_are_listed_in_pages(ledger: Ledger) -> None:
    """Each order appears once; those of other accounts do not."""
    ids = set()
    for _ in range(MAX_LISTED + 5):
        order = values.order("a")
        ledger.add_order(order)
        ids.add(order.id)
    ledger.add_order(values.order("b"))
    first = list(ledger.list_orders("a"))
    assert len(first) == MAX_LISTED
    rest = list(ledger.list_orders("a", first[-1]))
    assert len(rest) == 5
    assert {*first, *rest} == ids
    assert ledger.list_orders("a", rest[-1]) == []


def test_nonce_is_consumed_once(connect: Connect) -> None:
    ledger, other = connect(), connect()
    assert ledger.consume_nonce("a", NOW + HOUR)
    assert not other.consume_nonce("a", NOW + HOUR)
    assert not ledger.consume_nonce("a", NOW + 2 * HOUR)
    assert ledger.consume_nonce("b", NOW + HOUR)
    assert other.is_consumed("a")
    assert not other.is_consumed("c")


def test_nonce_is_consumed_once_after_the_clock_was_set_forward_and_back(
    connect: Connect, clock: Clock
) -> None:
    """Its record may have been deleted in between. New nonces are created so that they are accepted."""
    ledger, other = connect(), connect()
    assert ledger.consume_nonce("a", NOW + HOUR)
    assert ledger.earliest_nonce() <= NOW
    clock.advance(48 * HOUR)
    for number in range(3):  # changes that delete what has ended
        assert ledger.consume_nonce(str(number), NOW + 49 * HOUR)
    clock.advance(-48 * HOUR)
    assert not other.consume_nonce("a", NOW + HOUR)
    assert other.earliest_nonce() < NOW + 2 * HOUR
    assert other.consume_nonce("b", max(other.earliest_nonce(), NOW) + HOUR)


def test_orders_are_counted_up_to_a_limit(connect: Connect, clock: Clock) -> None:
    """For each principal; the count ends with its period, also if the clock of a process is behind."""
    ledger, other = connect(), connect()
    today, tomorrow = (NOW, NOW + 24 * HOUR), (NOW + 24 * HOUR, NOW + 48 * HOUR)
    assert [ledger.count("ci", today, 3), other.count("ci", today, 3), ledger.count("ci", today, 3)] == [
        True
    ] * 3
    assert not ledger.count("ci", today, 3)
    assert not other.count("ci", today, 2)
    assert ledger.count("ci", today, 4)
    assert ledger.count("other", today, 1)
    assert not ledger.count("third", today, 0)
    clock.advance(24 * HOUR)
    assert ledger.count("ci", tomorrow, 1)
    assert not ledger.count("ci", tomorrow, 1)


@pytest.mark.parametrize("step", [-72 * HOUR, 72 * HOUR])
def test_clock_step_loses_no_account_and_no_revocation(ledger: Ledger, clock: Clock, step: timedelta) -> None:
    """Orders, nonces and counts follow the clock: they end early, or remain until it has caught up."""
    account, order, entry = (
        values.account(),
        values.order("a"),
        RevokedCertificate(1, NOW.replace(microsecond=0)),
    )
    ledger.add_account(account)
    ledger.add_order(order)
    ledger.add_revocation(entry)
    assert ledger.consume_nonce("a", NOW + HOUR)
    clock.advance(step)
    for number in range(3):  # changes that delete what has ended
        assert ledger.consume_nonce(f"b{number}", clock.now + HOUR)
    assert ledger.get_account(account.id) == account
    assert ledger.load_revoked() == {1: entry}
    assert not ledger.add_revocation(entry)
    assert ledger.get_order("a", order.id) == (order if step < timedelta() else None)
    clock.advance(-step)
    assert not ledger.add_revocation(entry)
    assert ledger.get_account(account.id) == account
    if step < timedelta():
        assert not ledger.consume_nonce("a", NOW + HOUR)


def test_certificate_is_replaced_once(ledger: Ledger, clock: Clock) -> None:
    """By one order, which may extend the mark; after the end of the mark by another one."""
    assert ledger.mark_replaced("aki.serial", "order", NOW + HOUR)
    assert not ledger.mark_replaced("aki.serial", "other", NOW + HOUR)
    assert ledger.mark_replaced("aki.serial", "order", NOW + 2 * HOUR)
    assert ledger.mark_replaced("aki.serial2", "other", NOW + HOUR)
    clock.advance(HOUR)
    assert not ledger.mark_replaced("aki.serial", "other", NOW + 3 * HOUR)
    clock.advance(HOUR)
    assert ledger.mark_replaced("aki.serial", "other", NOW + 3 * HOUR)


def test_token_is_claimed_for_one_request(connect: Connect, clock: Clock) -> None:
    """A retry of the request gets the time of the first attempt, until the claim ends."""
    ledger, other = connect(), connect()
    first, end = NOW.replace(microsecond=0), NOW.replace(microsecond=0) + HOUR
    assert ledger.claim_token("https://a", "1", "00", first, end) == first
    assert other.claim_token("https://a", "1", "00", first + SECOND, end + HOUR) == first
    assert other.claim_token("https://a", "1", "01", first, end) is None
    assert ledger.claim_token("https://a", "1", "01", first + SECOND, end) is None
    clock.now = end - SECOND
    assert ledger.claim_token("https://a", "1", "01", clock.now, clock.now + HOUR) is None
    clock.now = end
    assert other.claim_token("https://a", "1", "01", end, end + HOUR) == end
    assert ledger.claim_token("https://a", "1", "00", end, end + HOUR) is None


@pytest.mark.parametrize(
    "token", [("https://b", "1"), ("https://a", "2"), ("https://a1", ""), ("", "https://a1"), ("a" * 9, "1")]
)
def test_tokens_have_an_issuer_and_an_id(ledger: Ledger, token: tuple[str, str]) -> None:
    """The same id of another issuer is another token, also if the texts are the same one after the other."""
    first, end = NOW.replace(microsecond=0), NOW + HOUR
    assert ledger.claim_token("https://a", "1", "00", first, end)
    assert ledger.claim_token(*token, "01", first, end)
    assert not ledger.claim_token(*token, "02", first, end)


def test_token_may_have_any_id(ledger: Ledger) -> None:
    """The id is the issuer's text: 1,024 characters are longer than a key of DynamoDB."""
    for token_id in ("\U0001f600" * 1024, "\ud800", "\0", "a'); --", ""):
        assert ledger.claim_token("https://a", token_id, "00", NOW.replace(microsecond=0), NOW + HOUR)
        assert not ledger.claim_token("https://a", token_id, "01", NOW.replace(microsecond=0), NOW + HOUR)


def test_revoked_certificates_stay(connect: Connect, clock: Clock) -> None:
    """Every connection reads all of them, and the first entry of a serial number counts."""
    ledger, other = connect(), connect()
    at = NOW.replace(microsecond=0)
    entries = [
        RevokedCertificate(1, at),
        RevokedCertificate(2**159 - 1, at, x509.ReasonFlags.key_compromise),
    ]
    assert other.load_revoked() == {}
    for entry in entries:
        assert ledger.add_revocation(entry)
        assert entry.serial_number in other.load_revoked()
    assert not other.add_revocation(RevokedCertificate(1, at + HOUR, x509.ReasonFlags.superseded))
    clock.advance(timedelta(days=4000))
    assert ledger.load_revoked() == other.load_revoked() == {entry.serial_number: entry for entry in entries}


def test_unchanged_revoked_certificates_are_read_once(ledger: Ledger) -> None:
    """The result is the same object, so that the CRL is signed once."""
    ledger.add_revocation(RevokedCertificate(1, NOW.replace(microsecond=0)))
    assert ledger.load_revoked() is ledger.load_revoked()


def test_value_that_is_too_long_is_refused(ledger: Ledger) -> None:
    order = values.order(certificate="x" * MAX_ENCODED)
    with pytest.raises(ValueError, match="the order has"):
        ledger.add_order(order)
    assert ledger.get_order("account", order.id) is None
    with pytest.raises(ValueError, match="the account has"):
        ledger.add_account(values.account(contacts=("x" * MAX_ENCODED,)))
