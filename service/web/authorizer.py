"""API Gateway's REQUEST authorizer: verifies a token, or returns the API key of a request.

API Gateway verifies the key and applies its usage plan. The function then gets the key's id, as with
x-api-key, so `service.web.identity` refuses an operation that lost its API key requirement. Callers with a
token share one API key, since API Gateway requires a key from every caller.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final

from service import credentials
from service.openapi import EST_PREFIX
from service.pki.token_identity import InvalidTokenError, TokenIdentity
from service.web import identity

_VERSION: Final = "2012-10-17"  # version of the policy language
_NO_CREDENTIALS: Final = (
    "A valid API key or token is required: send the key in the x-api-key header, or the token in the "
    "Authorization header with the scheme Bearer"
)

Verify = Callable[[str], TokenIdentity]


class UnauthorizedError(Exception):
    """The request has no credentials. API Gateway answers 401 to exactly this message."""

    def __init__(self) -> None:
        super().__init__("Unauthorized")


def is_authorizer_event(event: Mapping[str, Any]) -> bool:
    """Return whether an event is for the authorizer. Callers cannot forge one: requests have another form."""
    return event.get("type") == "REQUEST" and isinstance(event.get("methodArn"), str)


def authorize(event: Mapping[str, Any], verify: Verify | None, usage_key: str = "") -> dict[str, Any]:
    """Create the policy for one request, with its API key as `usageIdentifierKey` or its token's identity.

    An API key precedes a token. EST also accepts the key as the password of HTTP Basic, and requests
    credentials if there are none. Other operations deny a request without credentials. `context` has the
    identity, or the reason of a denial.

    Args:
        event: the event of a REQUEST authorizer.
        verify: `TokenVerifier.verify`; None if no rule accepts a token.
        usage_key: the API key that all callers with a token share, which is denied as x-api-key; ''
            for none.

    Raises:
        UnauthorizedError: an EST request has no credentials.
        KeysUnavailableError: the keys of the token's issuer are not available.
    """
    header = _read_headers(event).get
    is_est = str(event.get("resource", "")).startswith(EST_PREFIX)
    key = credentials.extract_api_key(header, basic=is_est)
    if key and not (usage_key and _is_equal(key, usage_key)):
        return _create_result(event, identity.API_KEY_PRINCIPAL_ID, usageIdentifierKey=key)
    token = None if key else credentials.extract_token(header)
    if token is not None:
        return _authorize_token(event, token, verify, usage_key)
    if is_est and not key:
        raise UnauthorizedError
    return _deny(event, _NO_CREDENTIALS)


def _authorize_token(
    event: Mapping[str, Any], token: str, verify: Verify | None, usage_key: str
) -> dict[str, Any]:
    if verify is None:
        return _deny(event, credentials.NO_TOKENS)
    try:
        caller = verify(token)
    except InvalidTokenError as error:
        return _deny(event, str(error))
    usage = {"usageIdentifierKey": usage_key} if usage_key else {}
    return _create_result(event, caller.principal, context=caller.to_context(), **usage)


def _deny(event: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return _create_result(event, identity.API_KEY_PRINCIPAL_ID, "Deny", context={"reason": reason})


def _create_result(
    event: Mapping[str, Any], principal: str, effect: str = "Allow", **more: object
) -> dict[str, Any]:
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"]}
    return {
        "principalId": principal,
        "policyDocument": {"Version": _VERSION, "Statement": [statement]},
        **more,
    }


def _read_headers(event: Mapping[str, Any]) -> dict[str, str]:
    """Return lower-case name -> value. Repeated headers are joined: no credential is chosen of two."""
    fields = event.get("multiValueHeaders") or {
        name: [value] for name, value in (event.get("headers") or {}).items()
    }
    headers: dict[str, str] = {}
    for name, values in fields.items():
        headers[name.lower()] = ", ".join(filter(None, (headers.get(name.lower()), *values)))
    return headers


def _is_equal(text: str, secret: str) -> bool:
    return hmac.compare_digest(text.encode("utf-8", "replace"), secret.encode())
