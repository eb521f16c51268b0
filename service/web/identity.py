"""Identify the caller, only from `requestContext`, which the gateway supplies.

The caller controls headers, the body and the certificate signing request; the gateway controls
`requestContext`. Connexion passes the caller to an operation as `user` if the operation has `security` in the
contract. Operations that need a caller refuse to work without `user`, so a contract that lost its `security`
cannot make the service sign for anyone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import connexion
from flask import current_app

from service.authority import Principal, PrincipalKind
from service.pki.token_identity import CONTEXT_MEMBERS, PRINCIPAL_PREFIX, TokenIdentity

API_KEY_PRINCIPAL_ID: Final = "api-key"  # of our own authorizer: the API key's id identifies the caller
API_KEY_NAMES: Final = "API_KEY_NAMES"  # key of the application's configuration: API key id -> principal
POLICY: Final = "POLICY"  # as above: the issuance policy, which has the rules for tokens
PUBLIC_URL: Final = "PUBLIC_URL"  # as above: the URL under which users reach the API, without a final slash

# These replace the credentials of each request. Connexion calls a security function only if the scheme's
# header exists, and callers that IAM or an authorizer identified do not send it.
PLACEHOLDER_CREDENTIALS: Final = {"HTTP_X_API_KEY": "", "HTTP_AUTHORIZATION": "Basic Og=="}
SECURITY_FUNCTION: Final = f"{__name__}.authenticate"

# What IAM allows in the name of a role. The session's name is only logged.
_ASSUMED_ROLE: Final = re.compile(
    r"(arn:aws[a-z-]*):sts::([0-9]{12}):assumed-role/([A-Za-z0-9_+=,.@-]{1,64})/([^/]{1,64})"
)


def authenticate(*_credentials: str) -> dict[str, Principal] | None:
    """Authenticate the caller: Connexion's security function for each scheme of the contract.

    Returns:
        The caller, which Connexion passes to the operation as `user`; None if there is none: Connexion
        refuses the request.
    """
    principal = _gateway_principal()
    return None if principal is None else {"sub": principal}


def _gateway_principal() -> Principal | None:
    """Return the principal that the gateway identified, if any.

    The name is the rule of a token, the ARN of an IAM user or role, the name of an API key (or its id if it
    has no name), or the principal of the operator's authorizer. The latter gets the prefix `authorizer:`, so
    that it cannot equal the name of an API key. A token precedes an API key, since all callers with tokens
    may share one for their usage plan.
    """
    context = _context()
    identity, authorizer = _object(context, "identity"), _object(context, "authorizer")
    if _has_token(authorizer):
        return _token_principal(authorizer)
    if arn := _text(identity, "userArn"):
        return _iam_principal(arn)
    if key_id := _text(identity, "apiKeyId"):
        return Principal(PrincipalKind.API_KEY, current_app.config[API_KEY_NAMES].get(key_id, key_id))
    name = _text(authorizer, "principalId") or _text(_object(authorizer, "claims"), "sub")
    if name and name != API_KEY_PRINCIPAL_ID:
        return Principal(PrincipalKind.AUTHORIZER, f"authorizer:{name}")
    return None


def _has_token(authorizer: Mapping[str, Any]) -> bool:
    """Whether a context is from our authorizer for a token, even if it is malformed or incomplete.

    An authorizer of the operator may have members with some of the names.
    """
    principal, members = _text(authorizer, "principalId"), CONTEXT_MEMBERS & authorizer.keys()
    return (
        principal.startswith(PRINCIPAL_PREFIX)
        or members == CONTEXT_MEMBERS
        or (not principal and bool(members))
    )


def _token_principal(authorizer: Mapping[str, Any]) -> Principal | None:
    """Return the principal of a token; None if the context is malformed, or names no rule of the policy."""
    try:
        token = TokenIdentity.from_context(authorizer)
    except ValueError:
        return None
    rules = {rule.name for rule in current_app.config[POLICY].identities}
    if token.rule not in rules or token.principal != authorizer.get("principalId"):
        return None
    return Principal(PrincipalKind.TOKEN, token.principal, token=token)


def _iam_principal(arn: str) -> Principal:
    """Return the principal of an ARN; the same for all sessions of a role, whose names the caller chooses."""
    if match := _ASSUMED_ROLE.fullmatch(arn):
        partition, account, role, session = match.groups()
        return Principal(PrincipalKind.IAM, f"{partition}:iam::{account}:role/{role}", session)
    return Principal(PrincipalKind.IAM, arn)


def client_certificate() -> bytes | None:
    """Return the PEM client certificate of the TLS handshake; None if there was none.

    API Gateway supplies it for a domain with mutual TLS, the local gateway for each TLS connection.
    """
    certificate = _object(_object(_context(), "identity"), "clientCert")
    return _text(certificate, "clientCertPem").encode("utf-8", "replace") or None


def request_id() -> str:
    """Return the gateway's ID of the request; '' if it has none."""
    return str(_context().get("requestId") or "")


def base_url() -> str:
    """Return the URL under which the client reaches the API, without a final slash; '' if it is not known.

    It is the configured one, or from `requestContext`. The Host header would be the caller's own text.
    """
    if url := str(current_app.config[PUBLIC_URL]):
        return url
    context = _context()
    host = _text(context, "domainName")
    prefix = _text(context, "path").removesuffix("/").removesuffix(connexion.request.path)
    return f"{connexion.request.scheme}://{host}{prefix}" if host else ""


def request_url() -> str:
    """Return the URL of the request, as the client knows it."""
    query = connexion.request.query_string.decode("ascii", "replace")
    return f"{base_url()}{connexion.request.path}{f'?{query}' if query else ''}"


def remaining_seconds() -> float:
    """Return the seconds until Lambda or the local gateway stops waiting for the function."""
    context = connexion.request.environ.get("awsgi.context")  # set by aws-wsgi
    return math.inf if context is None else context.get_remaining_time_in_millis() / 1000


def _context() -> Mapping[str, Any]:
    """Return `requestContext` of the proxy event (payload 1.0), from aws-wsgi."""
    return _object(_object(connexion.request.environ, "awsgi.event"), "requestContext")


def _text(node: Mapping[str, Any], name: str) -> str:
    value = node.get(name)
    return value if isinstance(value, str) else ""


def _object(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = node.get(name)
    return value if isinstance(value, dict) else {}  # JSON objects are dicts; `Mapping` is slower to check
