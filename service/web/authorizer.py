"""API Gateway's REQUEST authorizer: returns the API key of a request, and does not verify it.

API Gateway verifies the key and applies its usage plan. The function then gets the key's id, as with
x-api-key, so `service.web.identity` refuses an operation that lost its API key requirement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service import credentials
from service.openapi import EST_PREFIX
from service.web import identity

_VERSION: Final = "2012-10-17"  # version of the policy language


class UnauthorizedError(Exception):
    """The request has no credentials. API Gateway answers 401 to exactly this message."""

    def __init__(self) -> None:
        super().__init__("Unauthorized")


def is_authorizer_event(event: Mapping[str, Any]) -> bool:
    """Return whether an event is for the authorizer. Callers cannot forge one: requests have another form."""
    return event.get("type") == "REQUEST" and isinstance(event.get("methodArn"), str)


def authorize(event: Mapping[str, Any]) -> dict[str, Any]:
    """Create the policy for one request, with its API key as `usageIdentifierKey`.

    EST also accepts the key as the password of HTTP Basic, and requests credentials if there are none. Other
    operations deny a request without a key, as they do without an authorizer.

    Raises:
        UnauthorizedError: an EST request has no key.
    """
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    is_est = str(event.get("resource", "")).startswith(EST_PREFIX)
    key = credentials.extract_api_key(headers.get, basic=is_est)
    if key is None and is_est:
        raise UnauthorizedError
    statement = {
        "Action": "execute-api:Invoke",
        "Effect": "Deny" if key is None else "Allow",
        "Resource": event["methodArn"],
    }
    return {
        "principalId": identity.API_KEY_PRINCIPAL_ID,
        "policyDocument": {"Version": _VERSION, "Statement": [statement]},
        **({} if key is None else {"usageIdentifierKey": key}),
    }
