"""The credentials of a request: an API key (x-api-key, HTTP Basic) or a token; names of principals."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

MAX_NAME: Final = 128  # characters; API Gateway's bound for a key's value
SERVER_PRINCIPAL: Final = "certlet-serve"  # the caller that signs the server's own certificate
# The names of callers without a key begin with these.
RESERVED_PREFIXES: Final = (SERVER_PRINCIPAL, "authorizer:", "certificate:", "oidc:", "service:")
NO_TOKENS: Final = "This CA accepts no tokens: its administrator can add a rule for them"

GetHeader = Callable[[str], str | None]
"""Return the value of the header with this lower-case name; None if it is missing."""


def verify_name(name: str) -> None:
    """Verify the name of a principal that has an API key or an external account key.

    Raises:
        ValueError: it is not acceptable; the message has no subject.
    """
    if not name or not name.isascii() or not name.isprintable() or len(name) > MAX_NAME:
        raise ValueError(f"has 1 to {MAX_NAME} printable ASCII characters")
    if name.startswith(RESERVED_PREFIXES):
        raise ValueError(f"cannot begin with {name[: name.find(':') + 1] or SERVER_PRINCIPAL}")


def extract_api_key(header: GetHeader, *, basic: bool) -> str | None:
    """Return the API key of a request, valid or not; None if it has none.

    x-api-key takes precedence. With `basic`, HTTP Basic with any user name is accepted too.
    """
    return header("x-api-key") or (_password(header("authorization") or "") if basic else None) or None


def extract_token(header: GetHeader) -> str | None:
    """Return the Bearer token of a request (RFC 6750 2.1), valid or not; None if it has none."""
    scheme, _, token = (header("authorization") or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _password(authorization: str) -> str | None:
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except ValueError:
        return None
    return text.partition(":")[2] or None
