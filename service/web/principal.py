"""Who asks: from what the gateway says in `requestContext`, and from nothing else.

Headers, the body and the certification request are the caller's own words. `requestContext` is the
gateway's, so an operation that needs a caller refuses an event in which the gateway named none: a
`security` line that got lost from the contract then signs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.authority import Principal, PrincipalKind
from service.pki.errors import NotPermitted


def authenticated(event: Mapping[str, Any], api_key_names: Mapping[str, str]) -> Principal:
    """The principal of a REST API proxy event.

    Args:
        event: the Lambda proxy event (payload 1.0).
        api_key_names: API key id -> name; an id that is not in it is its own name.

    Raises:
        NotPermitted: the gateway did not check an API key.
    """
    key_id = _member(_member(event, "requestContext"), "identity").get("apiKeyId")
    if not isinstance(key_id, str) or not key_id:
        raise NotPermitted("This needs a valid API key in the x-api-key header.")
    return Principal(PrincipalKind.API_KEY, api_key_names.get(key_id, key_id))


def request_id(event: Mapping[str, Any]) -> str:
    """The gateway's name for the request; '' if it gave none."""
    return str(_member(event, "requestContext").get("requestId") or "")


def _member(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = node.get(name)
    return value if isinstance(value, Mapping) else {}
