"""Events of callers with a token, as API Gateway sends them, and the rules that their tokens match."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from wsgiref.types import WSGIApplication

from service import openapi
from service.pki.name_policy import DnsPolicy, NamePolicy
from service.pki.token_identity import TokenIdentity
from tests import factories
from tests.lambda_events import create_application, invoke, proxy_event

NAMES: Final[dict[str, Any]] = {"dns": {"permitted": ["example.com"]}}
RULE: Final[dict[str, Any]] = {
    "issuer": "https://issuer.example",
    "audience": "https://ca.example.com",
    "algorithms": ["ES256"],
    "jwks_file": "issuer.json",
    "claims": {"/repository_id": "74"},
    "profiles": ["server"],
    "names": NAMES,
}
DOCUMENT: Final = openapi.with_overrides(
    factories.document(),
    {
        "identities": {
            "deploy": RULE,
            "once": {**RULE, "once": True, "profiles": ["server", "client"]},
            "admin": RULE,
        },
        "principals": {"oidc:admin": {"role": "operator"}},
    },
)
POLICY: Final = openapi.parse_policy(DOCUMENT)
TOKEN: Final = TokenIdentity(
    rule="deploy",
    issuer="https://issuer.example",
    subject="repo:example/site:environment:prod",
    token_id="b7b1-1",  # noqa: S106 - not a password
    expires_at=datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5),
    is_once=False,
    names=NamePolicy(dns=DnsPolicy(permitted=("example.com",))),
)


def context(token: TokenIdentity = TOKEN, **change: Any) -> dict[str, Any]:
    """`requestContext.authorizer` of a caller with a token, with some members changed."""
    return {"principalId": token.principal, "integrationLatency": 12, **token.to_context(), **change}


def token_event(
    token: TokenIdentity = TOKEN, request: dict[str, Any] | None = None, **change: Any
) -> dict[str, Any]:
    """The event of a caller with a token: it has the id of the API key that callers with tokens share."""
    members = {"requestId": "x", "identity": {"apiKeyId": "abc123"}, "authorizer": context(token, **change)}
    return {**(request or proxy_event()), "requestContext": members}


def invoke_with_rules(*events: dict[str, Any]) -> tuple[list[dict[str, Any]], factories.RecordingLog]:
    """The responses of an application with the rules, and the audit log of its authority."""
    application, log = _application()
    log.clear()
    return invoke(application, *events), factories.RecordingLog(log)


@functools.cache
def _application() -> tuple[WSGIApplication, factories.RecordingLog]:
    return create_application(DOCUMENT, policy=POLICY)
