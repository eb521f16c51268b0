"""The authorizer of API Gateway: policies for API keys and tokens."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from service import credentials
from service.pki.name_policy import DnsPolicy, NamePolicy
from service.pki.token_identity import InvalidTokenError, KeysUnavailableError, TokenIdentity
from service.web.authorizer import authorize
from tests.lambda_events import METHOD_ARN, authorizer_event

ENROLL: Final = "/.well-known/est/{label}/simpleenroll"
KEY: Final = "k" * 40
SHARED_KEY: Final = "0ccf7fc0-1d6a-11f1-8f5e-0a4b4c4d4e4f"
BASIC: Final = "Basic " + base64.b64encode(f"any:{KEY}".encode()).decode()
CALLER: Final = TokenIdentity(
    "deploy",
    "https://issuer.example",
    "repo:example/site:ref:refs/heads/main",
    "b7b1-1",
    datetime(2026, 11, 29, 12, 0, tzinfo=UTC),
    is_once=True,
    names=NamePolicy(dns=DnsPolicy(permitted=("prod.ci.example.com",))),
)
POLICIES: Final = [
    (ENROLL, {"Authorization": BASIC}, KEY),
    (ENROLL, {"authorization": BASIC.replace("Basic", "basic")}, KEY),
    (ENROLL, {"x-api-key": KEY}, KEY),
    (ENROLL, {"X-API-Key": KEY, "Authorization": "Basic eDp5"}, KEY),
    (ENROLL, {"Authorization": "Basic " + base64.b64encode(b"a:b:c").decode()}, "b:c"),
    ("/sign", {"x-api-key": KEY}, KEY),
    ("/sign", {"X-Api-Key": KEY, "Authorization": "Bearer wrong"}, KEY),
    ("/sign", {"Authorization": BASIC}, None),
    ("/sign", {}, None),
    ("/sign", {"x-api-key": ""}, None),
]


def verify(encoded: str) -> TokenIdentity:
    """Verify a token whose value is the result."""
    if encoded == "unavailable":
        raise KeysUnavailableError("the keys of the rule deploy are not available")
    if encoded != "valid":
        raise InvalidTokenError("the token has expired: request a new one")
    return CALLER


def effect(result: dict[str, Any]) -> str:
    """The effect of a policy, which has one statement about the method of the event."""
    (statement,) = result["policyDocument"]["Statement"]
    assert statement["Resource"].startswith(METHOD_ARN)
    assert statement["Action"] == "execute-api:Invoke"
    return str(statement["Effect"])


@pytest.mark.parametrize(("resource", "headers", "key"), POLICIES)
def test_authorizer_returns_the_api_key(resource: str, headers: dict[str, str], key: str | None) -> None:
    """The policy allows this method and has the request's API key; HTTP Basic works only for EST."""
    for verifier, shared in ((None, ""), (verify, SHARED_KEY)):
        result = authorize(authorizer_event(resource, **headers), verifier, shared)
        assert effect(result) == ("Allow" if key else "Deny")
        assert result.get("usageIdentifierKey") == key
        assert result["principalId"] == "api-key"
        assert ("reason" in result.get("context", {})) == (key is None)


@pytest.mark.parametrize("text", ["", "Basic", "Basic ?", "Basic eDo=", "Basic /////w==", "Digest x"])
def test_authorizer_without_credentials_is_unauthorized(text: str) -> None:
    """Without a key EST raises exactly `Unauthorized`, which API Gateway turns into 401."""
    with pytest.raises(Exception, match=r"\AUnauthorized\Z"):
        authorize(authorizer_event(ENROLL, **({"Authorization": text} if text else {})), verify)


@pytest.mark.parametrize("resource", ["/sign", ENROLL])
@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_token_is_allowed_with_its_identity(resource: str, name: str, scheme: str) -> None:
    """The principal is that of the rule. API Gateway counts the request for the shared key."""
    result = authorize(authorizer_event(resource, **{name: f"{scheme} valid"}), verify, SHARED_KEY)
    assert effect(result) == "Allow"
    assert result["principalId"] == "oidc:deploy"
    assert result["usageIdentifierKey"] == SHARED_KEY
    assert all(isinstance(value, (str, int, bool)) for value in result["context"].values())
    received = {
        name: str(value).lower() if name == "isOnce" else str(value)
        for name, value in result["context"].items()
    }
    assert TokenIdentity.from_context(received) == CALLER


def test_token_without_shared_key_has_no_usage_key() -> None:
    result = authorize(authorizer_event("/sign", Authorization="Bearer valid"), verify)
    assert effect(result) == "Allow"
    assert "usageIdentifierKey" not in result


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer expired"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer valid, Bearer valid"},
        {"Authorization": "Bearer valid", "authorization": "Bearer valid"},
    ],
)
def test_invalid_token_is_denied_with_the_reason(headers: dict[str, str]) -> None:
    """A repeated header is no choice between tokens."""
    result = authorize(authorizer_event("/sign", **headers), verify, SHARED_KEY)
    assert effect(result) == "Deny"
    assert result["context"] == {"reason": "the token has expired: request a new one"}
    assert result["principalId"] == "api-key"
    assert "usageIdentifierKey" not in result


def test_repeated_headers_are_one_invalid_credential() -> None:
    """API Gateway sends all values of a header, and the last one by itself."""
    event = authorizer_event("/sign", Authorization="Bearer valid")
    event["multiValueHeaders"]["Authorization"] = ["Bearer expired", "Bearer valid"]
    assert effect(authorize(event, verify)) == "Deny"
    event["multiValueHeaders"]["x-api-key"] = ["a", "b"]
    assert authorize(event, verify)["usageIdentifierKey"] == "a, b"


def test_event_without_repeated_headers_is_authorized() -> None:
    """The local gateway sends only `headers`."""
    event = authorizer_event("/sign", Authorization="Bearer valid")
    del event["multiValueHeaders"]
    assert effect(authorize(event, verify)) == "Allow"
    assert effect(authorize({**event, "headers": None}, verify)) == "Deny"


@pytest.mark.parametrize("resource", ["/sign", ENROLL])
def test_token_without_a_rule_is_denied(resource: str) -> None:
    result = authorize(authorizer_event(resource, Authorization="Bearer valid"), None, SHARED_KEY)
    assert effect(result) == "Deny"
    assert result["context"] == {"reason": credentials.NO_TOKENS}


@pytest.mark.parametrize(
    ("resource", "headers"),
    [
        ("/sign", {"x-api-key": SHARED_KEY}),
        ("/sign", {"x-api-key": SHARED_KEY, "Authorization": "Bearer valid"}),
        (ENROLL, {"x-api-key": SHARED_KEY}),
        (ENROLL, {"Authorization": "Basic " + base64.b64encode(f"x:{SHARED_KEY}".encode()).decode()}),
    ],
)
def test_shared_key_is_denied_as_an_api_key(resource: str, headers: dict[str, str]) -> None:
    """It identifies no caller, so it must not replace a token."""
    result = authorize(authorizer_event(resource, **headers), verify, SHARED_KEY)
    assert effect(result) == "Deny"
    assert "usageIdentifierKey" not in result
    assert SHARED_KEY not in str(result["context"])


def test_keys_that_are_unavailable_are_an_error() -> None:
    """API Gateway answers with AUTHORIZER_FAILURE or AUTHORIZER_CONFIGURATION_ERROR; a key needs no issuer."""
    event = authorizer_event("/sign", Authorization="Bearer unavailable")
    with pytest.raises(KeysUnavailableError):
        authorize(event, verify)
    assert (
        effect(authorize(authorizer_event("/sign", **event["headers"], **{"x-api-key": KEY}), verify))
        == "Allow"
    )


def test_reasons_are_safe_in_a_template_of_json() -> None:
    """API Gateway inserts the reason as it is."""
    for headers in ({}, {"Authorization": "Bearer x"}):
        reason = authorize(authorizer_event("/sign", **headers), None)["context"]["reason"]
        assert re.fullmatch(r"[ !#-\[\]-~]+", reason)
