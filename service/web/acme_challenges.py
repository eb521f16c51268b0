"""Challenges of ACME (RFC 8555 7.5.1, 8): start validations, which another process carries out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from service.ledger_protocol import Account, AuthorizationStatus, Conflict, Ledger, Order, OrderStatus
from service.pki.names import Identifier
from service.web.acme_problems import AcmeError

REPEAT_AFTER: Final = timedelta(seconds=12)  # longer than a validation takes
_ATTEMPTS: Final = 10  # of a change that conflicts with another one
_WILDCARD: Final = "*."
_UNPROVABLE: Final = (
    "cannot be proven by http-01, which the policy of your account requires: order names without a wildcard"
)

PutChallenge = Callable[[str, str, int], None]
"""Has a challenge validated, named by account, order and position: `ChallengeQueue.put`."""


NO_VALIDATOR: Final = (
    "the policy of your account requires http-01, which this CA does not validate: its administrator has to "
    "use certlet serve with --ledger, or change the policy"
)


def unprovable_names(identifiers: Sequence[Identifier]) -> Iterator[tuple[int, str]]:
    """Yield the position of each name that http-01 cannot prove (RFC 8555 8.3), and the reason."""
    for position, name in enumerate(identifiers):
        if name.value.startswith(_WILDCARD):
            yield position, f"{name.value} {_UNPROVABLE}"


class AcmeChallenges:
    """The challenges of the orders in a ledger."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], put: PutChallenge | None) -> None:
        self._ledger = ledger
        self._clock = clock
        self._put = put

    def start(self, order: Order, position: int) -> Order:
        """Have the challenge of an authorization validated, if it is pending; return the order.

        Raises:
            AcmeError: `conflict`, since other requests are changing the order.
            CAUnavailable: the ledger is not available.
        """
        for _ in range(_ATTEMPTS):
            is_pending = order.authorizations[position].status is AuthorizationStatus.PENDING
            if order.status is not OrderStatus.PENDING or not is_pending:
                self.repeat(order, position)
                return order
            try:
                order = self._ledger.update_order(order.challenged(position, self._clock()))
            except Conflict:
                order = self._ledger.get_order(order.account, order.id) or order
                continue
            self._enqueue(order, position)
            return order
        raise AcmeError("conflict", "the order is being changed by other requests: try again")

    def repeat(self, order: Order, position: int) -> None:
        """Have a challenge validated again whose validation was lost, since the validator was killed."""
        item = order.authorizations[position]
        is_processing = item.status is AuthorizationStatus.PROCESSING
        if is_processing and item.challenged_at and self._clock() >= item.challenged_at + REPEAT_AFTER:
            self._enqueue(order, position)

    def has_proven(self, account: Account, names: Sequence[Identifier]) -> bool:
        """Return whether an account has proven all names, in the orders of its that have not expired.

        Only the first `MAX_LISTED` orders are considered.
        """
        orders = (self._ledger.get_order(account.id, item) for item in self._ledger.list_orders(account.id))
        proven = {
            (item.type, item.value)
            for order in orders
            if order
            for item in order.authorizations
            if item.is_proven
        }
        return {(str(name.kind), name.value) for name in names} <= proven

    def _enqueue(self, order: Order, position: int) -> None:
        if self._put:
            self._put(order.account, order.id, position)
