"""Accounts and orders as JSON, in which every ledger stores them, and the identifiers of tokens."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

from service.ledger_protocol import (
    MAX_ENCODED,
    Account,
    AccountStatus,
    Authorization,
    AuthorizationStatus,
    ChallengeError,
    Claim,
    Order,
    OrderStatus,
)
from service.pki import encoding


def encode(value: Account | Order) -> str:
    """Encode a value; raise `ValueError` if it is longer than `MAX_ENCODED`."""
    text = json.dumps(vars(value), default=datetime.isoformat, separators=(",", ":"))
    if len(text) > MAX_ENCODED:
        kind = type(value).__name__.lower()
        raise ValueError(f"the {kind} has {len(text)} octets; at most {MAX_ENCODED} are stored")
    return text


def identify_token(issuer: str, token_id: str) -> str:
    """Return an identifier of a token, of a constant length: a claim may be longer than a key of DynamoDB."""
    parts = (issuer.encode("utf-8", "surrogatepass"), token_id.encode("utf-8", "surrogatepass"))
    return hashlib.sha256(encoding.length_prefixed(parts)).hexdigest()


def decode_account(text: str) -> Account:
    """Decode the text of `encode`."""
    data = json.loads(text)
    return Account(
        **data
        | {
            "created_at": datetime.fromisoformat(data["created_at"]),
            "contacts": tuple(data["contacts"]),
            "status": AccountStatus(data["status"]),
        }
    )


def decode_order(text: str) -> Order:
    """Decode the text of `encode`."""
    data = json.loads(text)
    authorizations = (_decode_authorization(*item) for item in data["authorizations"])
    return Order(
        **data
        | {
            "authorizations": tuple(authorizations),
            "status": OrderStatus(data["status"]),
            "created_at": datetime.fromisoformat(data["created_at"]),
            "expires_at": datetime.fromisoformat(data["expires_at"]),
            "claim": _decode_claim(*data["claim"]) if data["claim"] else None,
        }
    )


def _decode_authorization(
    kind: str, value: str, status: str, token: str, challenged_at: str | None, error: list[str] | None
) -> Authorization:
    return Authorization(
        kind,
        value,
        AuthorizationStatus(status),
        token,
        datetime.fromisoformat(challenged_at) if challenged_at else None,
        ChallengeError(*error) if error else None,
    )


def _decode_claim(csr_sha256: str, issued_at: str, holder: str, until: str) -> Claim:
    return Claim(csr_sha256, datetime.fromisoformat(issued_at), holder, datetime.fromisoformat(until))
