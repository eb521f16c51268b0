"""Challenges of ACME (RFC 8555 7.5.1, 8): have them validated by another process, and store the results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from service.challenge_queue import ChallengeQueue, ChallengeResult, QueuedChallenge
from service.ledger_protocol import (
    Account,
    AuthorizationStatus,
    ChallengeError,
    Conflict,
    Ledger,
    Order,
    OrderStatus,
)
from service.pki.names import Identifier
from service.web.acme_problems import AcmeError

REPEAT_AFTER: Final = timedelta(seconds=12)  # longer than a validation takes
_ATTEMPTS: Final = 10  # of a change that conflicts with another one
WILDCARD: Final = "*."  # at the start of a name
_UNPROVABLE: Final = (
    "cannot be proven by http-01, which the policy of your account requires: order names without a wildcard"
)

NO_VALIDATOR: Final = (
    "the policy of your account requires http-01, which this CA does not validate: its administrator has to "
    "use certlet serve with --ledger, or change the policy"
)


def unprovable_names(identifiers: Sequence[Identifier]) -> Iterator[tuple[int, str]]:
    """Yield the position of each name that http-01 cannot prove (RFC 8555 8.3), and the reason."""
    for position, name in enumerate(identifiers):
        if name.value.startswith(WILDCARD):
            yield position, f"{name.value} {_UNPROVABLE}"


class AcmeChallenges:
    """The challenges of the orders in a ledger."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], queue: ChallengeQueue | None) -> None:
        self._ledger = ledger
        self._clock = clock
        self._queue = queue

    def store_results(self) -> None:
        """Store the results of validations, those of other accounts, too: before an order is loaded.

        Raises:
            CAUnavailable: the ledger is not available; then a result is lost, and its challenge is repeated.
        """
        for result in self._queue.take_results() if self._queue else ():
            self._store(result)

    def _store(self, result: ChallengeResult) -> None:
        account_id, order_id, position, code, detail = result
        error = ChallengeError(code, detail) if code else None
        for _ in range(_ATTEMPTS):
            order = self._ledger.get_order(account_id, order_id)
            if order is None or position not in range(len(order.authorizations)):
                return
            changed = order.validated(position, self._clock(), error)
            with contextlib.suppress(Conflict):  # another authorization of the order was changed
                if changed is not order:
                    self._ledger.update_order(changed)
                return

    def start(self, account: Account, order: Order, position: int) -> Order:
        """Have the challenge of an authorization validated, if it is pending; return the order.

        Raises:
            AcmeError: `conflict`, since other requests are changing the order.
            CAUnavailable: the ledger is not available.
        """
        for _ in range(_ATTEMPTS):
            is_pending = order.authorizations[position].status is AuthorizationStatus.PENDING
            if order.status is not OrderStatus.PENDING or not is_pending:
                self.repeat(account, order, position)
                return order
            try:
                order = self._ledger.update_order(order.challenged(position, self._clock()))
            except Conflict:
                order = self._ledger.get_order(order.account, order.id) or order
                continue
            self._enqueue(account, order, position)
            return order
        raise AcmeError("conflict", "the order is being changed by other requests: try again")

    def repeat(self, account: Account, order: Order, position: int) -> None:
        """Have a challenge validated again whose validation was lost, since the validator was killed."""
        item = order.authorizations[position]
        is_processing = item.status is AuthorizationStatus.PROCESSING
        if is_processing and item.challenged_at and self._clock() >= item.challenged_at + REPEAT_AFTER:
            self._enqueue(account, order, position)

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

    def _enqueue(self, account: Account, order: Order, position: int) -> None:
        if self._queue:
            _, name, _, token, *_ = order.authorizations[position]
            self._queue.put(QueuedChallenge(account.id, order.id, position, name, token, account.thumbprint))
