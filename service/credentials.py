"""Which API key a request carries: in x-api-key, or as the password of HTTP Basic (RFC 7617)."""

from __future__ import annotations

import base64
from collections.abc import Callable

GetHeader = Callable[[str], str | None]
"""The value of the header with this name, in lower case; None if there is none."""


def extract_api_key(header: GetHeader, *, basic: bool) -> str | None:
    """The API key of a request, right or wrong; None if it carries none.

    x-api-key comes first. If `basic`, HTTP Basic is taken too, with any user name.
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
