"""The API key of a request: in x-api-key, or as the password of HTTP Basic (RFC 7617)."""

from __future__ import annotations

import base64
from collections.abc import Callable

GetHeader = Callable[[str], str | None]
"""Return the value of the header with this lower-case name; None if it is missing."""


def extract_api_key(header: GetHeader, *, basic: bool) -> str | None:
    """Return the API key of a request, valid or not; None if it has none.

    x-api-key takes precedence. With `basic`, HTTP Basic with any user name is accepted too.
    """
    return header("x-api-key") or (_password(header("authorization") or "") if basic else None) or None


def _password(authorization: str) -> str | None:
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except ValueError:
        return None
    return text.partition(":")[2] or None
