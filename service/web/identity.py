"""The caller: from what the gateway says in `requestContext`, and from nothing else.

Headers, the body and the certificate signing request are the caller's own words. `requestContext` is the
gateway's. Connexion passes the caller to an operation as `user`, and only where the contract's `security`
has it look for one: an operation that needs a caller refuses to work without `user`, so that a `security`
line that got lost from the contract signs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import connexion
from flask import current_app

from service.authority import Principal, PrincipalKind

KEY_BEARER: Final = "api-key"  # whom our own authorizer names: nobody, for the key's id says who it is
API_KEY_NAMES: Final = "API_KEY_NAMES"  # in the application's configuration: API key id -> name

# What every request carries in place of its own credentials. Connexion calls a security function only if it
# finds the header of the scheme, and a caller that IAM or an authorizer identified sends no such header.
CREDENTIALS: Final = {"HTTP_X_API_KEY": "", "HTTP_AUTHORIZATION": "Basic Og=="}
SECURITY_FUNCTION: Final = f"{__name__}.verify"


def verify(*_credentials: str) -> dict[str, Principal] | None:
    """Connexion's security function for every scheme of the contract, whatever the credentials say.

    Returns:
        The caller, which Connexion passes on as `user`; None if the gateway named none, which refuses.
    """
    principal = _authenticated()
    return None if principal is None else {"sub": principal}


def _authenticated() -> Principal | None:
    """The principal that the gateway named, if any.

    An IAM caller is its ARN; an API key the name of its id, or its id if it has no name; a caller that the
    operator's authorizer named is `authorizer:` and that name, so that it is never taken for an API key's.
    """
    context = _context()
    identity, authorizer = _member(context, "identity"), _member(context, "authorizer")
    if arn := _text(identity, "userArn"):
        return Principal(PrincipalKind.IAM, arn)
    if key_id := _text(identity, "apiKeyId"):
        return Principal(PrincipalKind.API_KEY, current_app.config[API_KEY_NAMES].get(key_id, key_id))
    name = _text(authorizer, "principalId") or _text(_member(authorizer, "claims"), "sub")
    if name and name != KEY_BEARER:
        return Principal(PrincipalKind.AUTHORIZER, f"authorizer:{name}")
    return None


def client_certificate() -> bytes | None:
    """The certificate that the caller presented in the TLS handshake, PEM; None if there was none.

    API Gateway hands it on where a domain has mutual TLS, the local gateway over any TLS.
    """
    certificate = _member(_member(_context(), "identity"), "clientCert")
    return _text(certificate, "clientCertPem").encode("utf-8", "replace") or None


def request_id() -> str:
    """The gateway's name for the request; '' if it gave none."""
    return str(_context().get("requestId") or "")


def time_left() -> float:
    """Seconds until Lambda, or the local gateway, gives up."""
    context = connexion.request.environ.get("awsgi.context")  # aws-wsgi's, as `awsgi.event`
    return math.inf if context is None else context.get_remaining_time_in_millis() / 1000


def _context() -> Mapping[str, Any]:
    """`requestContext` of the proxy event (payload 1.0), which aws-wsgi passes on."""
    return _member(_member(connexion.request.environ, "awsgi.event"), "requestContext")


def _text(node: Mapping[str, Any], name: str) -> str:
    value = node.get(name)
    return value if isinstance(value, str) else ""


def _member(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = node.get(name)
    return value if isinstance(value, dict) else {}  # as JSON has it; to ask for `Mapping` takes longer
