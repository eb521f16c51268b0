"""The states of an order: one certificate, whatever happens in which order."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger_protocol import (
    LEASE,
    Authorization,
    AuthorizationStatus,
    ChallengeError,
    Conflict,
    Order,
    OrderNotReady,
    OrderStatus,
    is_id,
    new_id,
)
from tests.factories import NOW
from tests.ledger import values

SECOND = timedelta(seconds=1)
READY = values.order()
CLAIMED = READY.claimed("csr", "first", NOW)
PENDING = values.order(
    status=OrderStatus.PENDING,
    authorizations=tuple(Authorization("dns", name, AuthorizationStatus.PENDING, "token") for name in "ab"),
)
FAILURE = ChallengeError("connection", "the connection was refused")


def test_new_ids_have_the_form_of_identifiers() -> None:
    """Each is another one."""
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(map(is_id, ids))


@pytest.mark.parametrize(
    "text", ["", "a" * 21, "a" * 23, "a" * 21 + "\n", "a" * 21 + "/", "é" * 22, "\ud800" * 22]
)
def test_other_texts_are_no_identifiers(text: str) -> None:
    assert not is_id(text)


def test_ready_order_is_claimed_completed_or_released() -> None:
    assert CLAIMED.status is OrderStatus.PROCESSING
    valid = CLAIMED.completed("first", "PEM")
    assert (valid.status, valid.certificate) == (OrderStatus.VALID, "PEM")
    assert CLAIMED.released("first") == READY


@pytest.mark.parametrize("status", [OrderStatus.PENDING, OrderStatus.VALID, OrderStatus.INVALID])
def test_order_in_another_status_is_not_claimed(status: OrderStatus) -> None:
    with pytest.raises(OrderNotReady, match=status):
        replace(READY, status=status).claimed("csr", "first", NOW)


def test_claim_is_taken_over_after_its_lease_with_the_same_csr() -> None:
    """The process that had it before can neither complete nor release the order."""
    with pytest.raises(OrderNotReady):
        CLAIMED.claimed("csr", "second", NOW + LEASE - SECOND)
    with pytest.raises(OrderNotReady, match="another CSR"):
        CLAIMED.claimed("other", "second", NOW + LEASE)
    taken = CLAIMED.claimed("csr", "second", NOW + LEASE)
    with pytest.raises(Conflict):
        taken.completed("first", "PEM")
    with pytest.raises(Conflict):
        taken.released("first")
    assert taken.completed("second", "PEM").status is OrderStatus.VALID


@pytest.mark.parametrize("order", [READY, CLAIMED.completed("first", "PEM"), CLAIMED.released("first")])
def test_order_without_claim_is_neither_completed_nor_released(order: Order) -> None:
    with pytest.raises(Conflict):
        order.completed("first", "other")
    with pytest.raises(Conflict):
        order.released("first")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "complete", "release"]),
        st.sampled_from("ab"),
        st.sampled_from("12"),
        st.integers(0, 40),
    )
)


@given(STEPS)
def test_order_has_one_certificate_from_the_claimed_csr(steps: list[tuple[str, str, str, int]]) -> None:
    """Whatever the processes a and b do with CSRs 1 and 2, a valid order never changes."""
    order, now = READY, NOW
    for action, holder, csr, seconds in steps:
        before, now = order, now + seconds * SECOND
        try:
            if action == "claim":
                order = order.claimed(csr, holder, now)
            elif action == "complete":
                order = order.completed(holder, f"{holder}{order.claim.csr_sha256 if order.claim else ''}")
            else:
                order = order.released(holder)
        except (Conflict, OrderNotReady):
            assert order == before
            continue
        assert before.status is not OrderStatus.VALID
        assert order.claim is None or order.claim.holder == holder
        if before.claim and order.claim:
            assert order.claim.csr_sha256 == before.claim.csr_sha256


def test_order_becomes_ready_with_its_last_valid_challenge() -> None:
    """A result counts only while the challenge is processed."""
    assert PENDING.validated(0, NOW, None) is PENDING
    order = PENDING.challenged(0, NOW)
    assert [item.status for item in order.authorizations] == ["processing", "pending"]
    order = order.validated(0, NOW + SECOND, None).challenged(1, NOW)
    assert order.authorizations[0].is_proven
    assert order.authorizations[0].challenged_at == NOW + SECOND
    assert order.status is OrderStatus.PENDING
    ready = order.validated(1, NOW, None)
    assert ready.status is OrderStatus.READY
    assert ready.challenged(1, NOW) is ready.validated(1, NOW, FAILURE) is ready


def test_order_becomes_invalid_with_the_first_failed_challenge() -> None:
    """A later success does not change that."""
    order = PENDING.challenged(0, NOW).challenged(1, NOW).validated(1, NOW, FAILURE)
    assert (order.status, order.authorizations[1].error) == (OrderStatus.INVALID, FAILURE)
    order = order.validated(0, NOW, None)
    assert order.status is OrderStatus.INVALID
    assert [item.is_proven for item in order.authorizations] == [True, False]


def test_authorization_without_challenge_is_not_proven() -> None:
    """The policy of a principal may require proof after the order was created."""
    assert READY.authorizations[0].status is AuthorizationStatus.VALID
    assert not READY.authorizations[0].is_proven
