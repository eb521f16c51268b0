"""API Gateway's REQUEST authorizer: tells it which API key a request carries, and permits nothing by itself.

The key is API Gateway's to know and to count. The function gets its id afterwards, as it does from
x-api-key, so an operation that lost its key from the document is refused (`service.web.identity`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service import credentials
from service.web import identity
from service.web.responses import EST_PREFIX

_VERSION: Final = "2012-10-17"  # of the policy language


class UnauthorizedError(Exception):
    """No credentials: this message, word by word, is what API Gateway answers 401 for."""

    def __init__(self) -> None:
        super().__init__("Unauthorized")


def is_asked(event: Mapping[str, Any]) -> bool:
    """Whether an event is one for the authorizer, which no caller can make of a request."""
    return event.get("type") == "REQUEST" and isinstance(event.get("methodArn"), str)


def answer(event: Mapping[str, Any]) -> dict[str, Any]:
    """The policy for one request, with its API key as `usageIdentifierKey`.

    EST takes the key as the password of HTTP Basic too, and without one asks for it; elsewhere a request
    without a key is denied, so that every other operation answers as it does without an authorizer.

    Raises:
        UnauthorizedError: it is EST's, and carries no key.
    """
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    is_est = str(event.get("resource", "")).startswith(EST_PREFIX)
    key = credentials.api_key(headers.get, basic=is_est)
    if key is None and is_est:
        raise UnauthorizedError
    statement = {
        "Action": "execute-api:Invoke",
        "Effect": "Deny" if key is None else "Allow",
        "Resource": event["methodArn"],
    }
    return {
        "principalId": identity.KEY_BEARER,
        "policyDocument": {"Version": _VERSION, "Statement": [statement]},
        **({} if key is None else {"usageIdentifierKey": key}),
    }
