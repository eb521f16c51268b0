"""Who asks: from what the gateway says in `requestContext`, and from nothing else.

Headers, the body and the certification request are the caller's own words. `requestContext` is the
gateway's, so an operation that needs a caller refuses an event in which the gateway named none: a
`security` line that got lost from the contract then signs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service.authority import Principal, PrincipalKind

KEY_BEARER: Final = "api-key"  # whom our own authorizer names: nobody, for the key's id says who it is


def authenticated(event: Mapping[str, Any], api_key_names: Mapping[str, str]) -> Principal | None:
    """The principal of a REST API proxy event; None if the gateway named none.

    An IAM caller is its ARN; an API key the name of its id; whoever an authorizer of the operator's named
    is `authorizer:` and that name, so that it is never taken for an API key's.

    Args:
        event: the Lambda proxy event (payload 1.0).
        api_key_names: API key id -> name; an id that is not in it is its own name.
    """
    context = _member(event, "requestContext")
    identity, authorizer = _member(context, "identity"), _member(context, "authorizer")
    if arn := _text(identity, "userArn"):
        return Principal(PrincipalKind.IAM, arn)
    if key_id := _text(identity, "apiKeyId"):
        return Principal(PrincipalKind.API_KEY, api_key_names.get(key_id, key_id))
    name = _text(authorizer, "principalId") or _text(_member(authorizer, "claims"), "sub")
    if name and name != KEY_BEARER:
        return Principal(PrincipalKind.AUTHORIZER, f"authorizer:{name}")
    return None


def client_certificate(event: Mapping[str, Any]) -> bytes | None:
    """The certificate that the caller presented in the TLS handshake, PEM; None if there was none.

    API Gateway hands it on where a domain has mutual TLS, the local gateway over any TLS.
    """
    identity = _member(_member(event, "requestContext"), "identity")
    return _text(_member(identity, "clientCert"), "clientCertPem").encode("utf-8", "replace") or None


def request_id(event: Mapping[str, Any]) -> str:
    """The gateway's name for the request; '' if it gave none."""
    return str(_member(event, "requestContext").get("requestId") or "")


def instance(event: Mapping[str, Any]) -> str:
    """The request as a URI, for problem documents."""
    return f"urn:uuid:{request_id(event)}"


def _text(node: Mapping[str, Any], name: str) -> str:
    value = node.get(name)
    return value if isinstance(value, str) else ""


def _member(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = node.get(name)
    return value if isinstance(value, dict) else {}  # as JSON has it; to ask for `Mapping` takes longer
