"""Tokens that are good for one certificate: the ledger remembers for which request each was used."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from service.ledger_protocol import Ledger
from service.pki.errors import CAUnavailable, Unauthorized
from service.pki.token_identity import TokenIdentity

USED: Final = (
    "The token is good for one certificate, which was issued already: get a new token. Only a retry of the "
    "same request under the same Idempotency-Key gets the same certificate"
)
EXPIRED: Final = "The token has expired: get a new token"
NO_LEDGER: Final = "The service has no ledger, so it cannot accept a token only once"
_MARGIN: Final = timedelta(minutes=1)  # longer than a request takes that began before the end of its token


def claim(
    ledger: Ledger | None, token: TokenIdentity, digest: str, now: datetime, issued_at: datetime
) -> datetime:
    """Claim a token for one request.

    Args:
        ledger: remembers the claim; None for no ledger.
        token: the token of the caller.
        digest: identifies the request.
        now: the time of the request, UTC.
        issued_at: the time of issue of the certificate, UTC.

    Returns:
        the time of issue of the first request, UTC, whose digest was the same.

    Raises:
        Unauthorized: the token was used for another request, or has expired.
        CAUnavailable: there is no ledger, or it is not available.
    """
    if ledger is None:
        raise CAUnavailable(NO_LEDGER)
    if now >= token.accepted_until:  # the ledger may have forgotten it
        raise Unauthorized(EXPIRED)
    until = token.accepted_until + _MARGIN
    first = ledger.claim_token(token.issuer, token.token_id, digest, issued_at, until)
    if first is None:
        raise Unauthorized(USED)
    return first
