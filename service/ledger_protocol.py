"""What the service remembers with a ledger: accounts and orders of ACME, revoked certificates, used tokens.

The values are immutable. A change is a new value, which the ledger stores only if the stored one is that from
which the new one was made: nothing that another process changed in the meantime is lost.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, Self

from service.pki.revocation import RevokedCertificate

LEASE: Final = timedelta(seconds=30)  # longer than a worker's time limit
MAX_ENCODED: Final = 256_000  # octets of a value; DynamoDB stores 400 kB
MAX_LISTED: Final = 100  # orders on a page of an account's orders
_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")


class Conflict(Exception):
    """The stored value is not the one that was to be changed: load it again."""


class KeyInUse(Exception):
    """Another account has the key."""


class OrderNotReady(Exception):
    """The order cannot be finalized: its status does not permit it, or another CSR finalizes it."""


class AccountStatus(StrEnum):
    """The status of an account (RFC 8555 7.1.6)."""

    VALID = "valid"
    DEACTIVATED = "deactivated"
    REVOKED = "revoked"


class OrderStatus(StrEnum):
    """The status of an order (RFC 8555 7.1.6)."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class AuthorizationStatus(StrEnum):
    """The status of an authorization, or of its challenge (RFC 8555 7.1.6)."""

    PENDING = "pending"
    PROCESSING = "processing"  # its challenge is being validated; the authorization is pending
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"


def new_id() -> str:
    """Return a new identifier: 128 random bits in base64url."""
    return secrets.token_urlsafe(16)


def is_id(text: str) -> bool:
    """Return whether a text has the form of an identifier; ledgers are asked for no others."""
    return bool(_ID.fullmatch(text))


@dataclass(frozen=True)
class Account:
    """An ACME account (RFC 8555 7.1.2).

    Attributes:
        id: as `new_id`.
        thumbprint: of its key (RFC 7638), SHA-256 in base64url. Each key has one account.
        public_key: its key, a JWK as JSON.
        principal, generation: the principal whose authority it has, and the generation of that principal's
            external account key. The account ends if either no longer exists.
        created_at: UTC.
        external_account_binding: the binding as sent, JSON (RFC 8555 7.3.4); '' if its thumbprint is listed.
        contacts: URLs.
        status: its status.
        revision: counts the stored changes.
    """

    id: str
    thumbprint: str
    public_key: str
    principal: str
    generation: int
    created_at: datetime
    external_account_binding: str = ""
    contacts: tuple[str, ...] = ()
    status: AccountStatus = AccountStatus.VALID
    revision: int = 0


class ChallengeError(NamedTuple):
    """The reason why a challenge failed.

    Attributes:
        code: the type of the problem, without the namespace (RFC 8555 6.7).
        detail: the text for the client.
    """

    code: str
    detail: str


class Authorization(NamedTuple):
    """An identifier of an order, with the status of its authorization (RFC 8555 7.1.4).

    Attributes:
        type, value: the identifier as ordered, such as `dns` and `*.example.com`.
        status: the status; valid from the start if the principal's policy permits the identifier.
        token: of its challenge (RFC 8555 8.3).
        challenged_at: the time, UTC, at which its validation began or ended; None if it needs none.
        error: why its challenge failed; None if it has not failed.
    """

    type: str
    value: str
    status: AuthorizationStatus
    token: str
    challenged_at: datetime | None = None
    error: ChallengeError | None = None

    @property
    def is_proven(self) -> bool:
        """Whether its challenge was validated."""
        return self.status is AuthorizationStatus.VALID and self.challenged_at is not None


class Claim(NamedTuple):
    """The finalization of an order by one process.

    Attributes:
        csr_sha256: of the CSR, in hexadecimal.
        issued_at: the time of the first attempt, UTC, in whole seconds, for each attempt.
        holder: identifies the process' attempt.
        until: the time from which another attempt with the same CSR may take over, UTC.
    """

    csr_sha256: str
    issued_at: datetime
    holder: str
    until: datetime

    def has_ended(self, now: datetime) -> bool:
        """Return whether another attempt may take over, also because the clock was set back."""
        return not self.until - 2 * LEASE <= now < self.until


@dataclass(frozen=True)
class Order:
    """An ACME order (RFC 8555 7.1.3), with its authorizations.

    Attributes:
        id: as `new_id`.
        account: the ID of the account.
        authorizations: one for each identifier.
        status: its status.
        created_at, expires_at: UTC.
        profile: the name of the certificate profile; '' for the default.
        not_before, not_after: the requested validity, RFC 3339 as sent; '' if not requested.
        replaces: the certificate that it replaces (RFC 9773 5); '' for none.
        claim: who finalizes it, or has finalized it.
        certificate: the chain, PEM, once it is valid.
        revision: counts the stored changes.
    """

    id: str
    account: str
    authorizations: tuple[Authorization, ...]
    status: OrderStatus
    created_at: datetime
    expires_at: datetime
    profile: str = ""
    not_before: str = ""
    not_after: str = ""
    replaces: str = ""
    claim: Claim | None = None
    certificate: str = field(default="", repr=False)
    revision: int = 0

    def challenged(self, index: int, now: datetime) -> Self:
        """Return the order while the challenge of an authorization is validated, from `now` on.

        It is the same order if the authorization is neither pending nor being validated.
        """
        authorization = self.authorizations[index]
        if authorization.status not in {AuthorizationStatus.PENDING, AuthorizationStatus.PROCESSING}:
            return self
        status = AuthorizationStatus.PROCESSING
        return self._with(index, authorization._replace(status=status, challenged_at=now))

    def validated(self, index: int, now: datetime, error: ChallengeError | None) -> Self:
        """Return the order with the result of a validation that ended at `now`; None is a success.

        The order becomes ready with its last authorization, and invalid with the first that fails. It is the
        same order if the authorization is not being validated.
        """
        authorization = self.authorizations[index]
        if authorization.status is not AuthorizationStatus.PROCESSING:
            return self
        status = AuthorizationStatus.INVALID if error else AuthorizationStatus.VALID
        order = self._with(index, authorization._replace(status=status, challenged_at=now, error=error))
        if error:
            return replace(order, status=OrderStatus.INVALID)
        is_ready = all(item.status is AuthorizationStatus.VALID for item in order.authorizations)
        return replace(order, status=OrderStatus.READY) if is_ready else order

    def deactivated(self, index: int) -> Self:
        """Return the order with a deactivated authorization; it is invalid, unless it has a certificate."""
        authorization = self.authorizations[index]._replace(status=AuthorizationStatus.DEACTIVATED)
        order = self._with(index, authorization)
        return order if self.status is OrderStatus.VALID else replace(order, status=OrderStatus.INVALID)

    def _with(self, index: int, authorization: Authorization) -> Self:
        before, after = self.authorizations[:index], self.authorizations[index + 1 :]
        return replace(self, authorizations=(*before, authorization, *after))

    def claimed(self, csr_sha256: str, holder: str, now: datetime) -> Self:
        """Return the order as claimed by `holder`, who stores it before issuing.

        Raises:
            OrderNotReady: the order is neither ready nor a claim that may be taken over: the claim has not
                ended at `now`, or it is for another CSR.
        """
        issued_at = now.replace(microsecond=0)
        if self.status is OrderStatus.PROCESSING and self.claim:
            if self.claim.csr_sha256 != csr_sha256:
                raise OrderNotReady("the order is being finalized with another CSR")
            if not self.claim.has_ended(now):
                raise OrderNotReady("the order is being finalized")
            issued_at = min(issued_at, self.claim.issued_at)
        elif self.status is not OrderStatus.READY:
            raise OrderNotReady(f"the order is {self.status}")
        return replace(
            self, status=OrderStatus.PROCESSING, claim=Claim(csr_sha256, issued_at, holder, now + LEASE)
        )

    def status_at(self, now: datetime) -> OrderStatus:
        """Return the status for clients: an order whose claim has ended can be finalized again."""
        has_ended = self.status is OrderStatus.PROCESSING and self.claim and self.claim.has_ended(now)
        return OrderStatus.READY if has_ended else self.status

    def completed(self, holder: str, certificate: str) -> Self:
        """Return the order with its certificate; raise `Conflict` unless `holder` has the claim."""
        self._verify_claim(holder)
        return replace(self, status=OrderStatus.VALID, certificate=certificate)

    def released(self, holder: str) -> Self:
        """Return the order as ready again, since its finalization failed; raise as `completed`."""
        self._verify_claim(holder)
        return replace(self, status=OrderStatus.READY, claim=None)

    def _verify_claim(self, holder: str) -> None:
        has_claim = self.claim is not None and self.claim.holder == holder
        if self.status is not OrderStatus.PROCESSING or not has_claim:
            raise Conflict("the claim was taken over")


class Ledger(Protocol):
    """The memory of the service, safe with several processes.

    All methods raise `CAUnavailable` if the ledger cannot be read or written, and `ValueError` if a value is
    longer than `MAX_ENCODED`.
    """

    def add_account(self, account: Account) -> Account:
        """Store a new account; if its key has an account, change nothing and return that."""

    def get_account(self, account_id: str) -> Account | None:
        """Return an account of any status; None if there is none."""

    def find_account(self, thumbprint: str) -> Account | None:
        """Return the account of a key, of any status; None if there is none."""

    def update_account(self, account: Account) -> Account:
        """Store a changed account; raise `Conflict`, or `KeyInUse` if its key is new and not free."""

    def add_order(self, order: Order) -> None:
        """Store a new order."""

    def get_order(self, account_id: str, order_id: str) -> Order | None:
        """Return an order of an account; None if the account has no such order, or the order has ended."""

    def update_order(self, order: Order) -> Order:
        """Store a changed order; raise `Conflict`."""

    def list_orders(self, account_id: str, after: str = "") -> Sequence[str]:
        """Return the IDs of an account's orders that follow the ID `after`, at most `MAX_LISTED`."""

    def consume_nonce(self, nonce: str, expires_at: datetime) -> bool:
        """Remember a nonce until a time, UTC; return whether this can only be its first use.

        It is not known of a nonce that ended before one of which the record was deleted.
        """

    def is_consumed(self, nonce: str) -> bool:
        """Return whether a nonce was used before."""

    def earliest_nonce(self) -> datetime:
        """The time, UTC, from which a new nonce is accepted, as known since the last `consume_nonce`.

        It is in the future only after the clock was set back.
        """

    def count(self, principal: str, period: tuple[datetime, datetime], limit: int) -> bool:
        """Count an order of a principal; return False, and count nothing, if there are `limit` already.

        The count ends with the period, of which the start and the end are given, UTC.
        """

    def mark_replaced(self, certificate_id: str, order_id: str, until: datetime) -> bool:
        """Mark a certificate as replaced by an order; return False if it is marked for another order.

        A second call for the same order changes the time, UTC, until which the mark remains.
        """

    def claim_token(
        self, issuer: str, token_id: str, digest: str, issued_at: datetime, expires_at: datetime
    ) -> datetime | None:
        """Claim a token for one request.

        Args:
            issuer: the claim `iss` of the token.
            token_id: the claim `jti` of the token.
            digest: identifies the request.
            issued_at: the time of issue of its certificate, UTC.
            expires_at: the time until which the claim lasts, UTC.

        Returns:
            the time of issue of the first request, UTC, if its digest is the same; None for another request.
        """

    def add_revocation(self, entry: RevokedCertificate) -> bool:
        """Add a revoked certificate; return False if it is revoked already, and change nothing."""

    def load_revoked(self) -> Mapping[int, RevokedCertificate]:
        """Return all revoked certificates by serial number."""
