"""Tokens on AWS: the events of an authorizer and of its callers through the Lambda handler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from service import api_gateway, credentials
from service.ledger.sqlite import SqliteLedger
from tests import csrs, factories, oidc_issuer
from tests.cli import certlet
from tests.lambda_events import authorized_event, authorizer_event, invoke_handler, proxy_event
from tests.oidc.signed_tokens import new_key
from tests.oidc_issuer import Fault, Issuer

SHARED_KEY: Final = "51af3dc0-da77-11e4-872e-1234567db123"
CLAIMS: Final = {"repository_id": "74", "environment": "prod"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens")
    assert certlet("init", "ca", cwd=path).returncode == 0
    return path


@pytest.fixture(scope="module")
def issuer(directory: Path) -> Iterator[Issuer]:
    with oidc_issuer.running(directory) as issuer:
        yield issuer


def rule(issuer: Issuer, **change: Any) -> dict[str, Any]:
    return {
        "issuer": issuer.url,
        "audience": oidc_issuer.AUDIENCE,
        "algorithms": ["RS256"],
        "jwks_url": issuer.jwks_url,
        "ca_file": issuer.ca_file.name,
        "claims": {"/repository_id": "74"},
        "profiles": ["server"],
        "names": {"dns": {"permitted": ["{/environment}.ci.example.com"]}},
        **change,
    }


def environment(directory: Path, **rules: dict[str, Any]) -> dict[str, str]:
    """The settings of a function with these rules; their files are next to the profiles file."""
    profiles = directory / "own.yaml"
    profiles.write_text(json.dumps({"identities": rules}))
    return {"CERTLET_PROFILES": str(profiles), "CERTLET_TOKEN_USAGE_KEY": SHARED_KEY}


def bearer(token: str) -> dict[str, Any]:
    """The authorizer's event of a request with a token."""
    return authorizer_event("/sign", Authorization=f"Bearer {token}")


def sign_event(name: str) -> dict[str, Any]:
    body = json.dumps({"csr": csrs.encode_pem(csrs.build(name)).decode()})
    return proxy_event(body=body, isBase64Encoded=False)


def access_denied(reason: str) -> dict[str, Any]:
    """The problem of API Gateway's response to a denial: it inserts texts as they are."""
    options = api_gateway.Options(oidc=True)
    document = api_gateway.for_cloudformation(factories.document(), options)
    response = document["x-amazon-apigateway-gateway-responses"]["ACCESS_DENIED"]
    template = response["responseTemplates"]["application/json"]
    problem: dict[str, Any] = json.loads(template.replace("$context.authorizer.reason", reason))
    return problem


def test_token_gets_a_certificate_for_the_names_of_its_claims(directory: Path, issuer: Issuer) -> None:
    """The authorizer verifies the token, and the operation gets what API Gateway makes of its result."""
    settings = environment(directory, deploy=rule(issuer))
    token = issuer.token(CLAIMS)
    (result,), logged = invoke_handler(directory, bearer(token), **settings)
    assert result["principalId"] == "oidc:deploy"
    assert result["usageIdentifierKey"] == SHARED_KEY
    assert token not in json.dumps(result) + logged
    events = [
        authorized_event(result, sign_event(name))
        for name in ("prod.ci.example.com", "test.ci.example.com", "a.example.com")
    ]
    responses, logged = invoke_handler(directory, *events, **settings)
    assert [response["statusCode"] for response in responses] == [200, 422, 422]
    assert json.loads(responses[0]["body"])["crt_pem"].startswith("-----BEGIN CERTIFICATE-----")
    (intent,) = [json.loads(line) for line in logged.splitlines() if '"event":"intent"' in line]
    assert (intent["principal"], intent["token_issuer"]) == ("oidc:deploy", issuer.url)
    assert "shared1" not in logged


def test_refused_tokens_are_denied_with_a_reason(directory: Path, issuer: Issuer) -> None:
    """The reason shows no value of the rule. An API key needs no issuer, and the shared key is not one."""
    other = new_key("RS256")
    tokens = [
        issuer.token({**CLAIMS, "repository_id": "75"}),
        issuer.token({**CLAIMS, "aud": "https://other.example.com"}),
        issuer.token({**CLAIMS, "exp": 1}),
        issuer.token(CLAIMS, key=(issuer.key_id(), "RS256", other)),
        issuer.token({**CLAIMS, "environment": "a.b"}),
        "x",
    ]
    settings = environment(directory, deploy=rule(issuer))
    keys = [{"x-api-key": "k" * 40}, {"x-api-key": SHARED_KEY}]
    events = [*map(bearer, tokens), *(authorizer_event("/sign", **headers) for headers in keys)]
    results, logged = invoke_handler(directory, *events, **settings)
    effects = [result["policyDocument"]["Statement"][0]["Effect"] for result in results]
    assert effects == ["Deny"] * len(tokens) + ["Allow", "Deny"]
    reasons = [result["context"]["reason"] for result in results if "context" in result]
    assert "/repository_id" in reasons[0]
    assert "74" not in reasons[0]
    assert "audience" in reasons[1]
    assert len(set(reasons)) == len(reasons)
    for reason in reasons:
        problem = access_denied(reason)
        assert (problem["status"], problem["code"], problem["detail"]) == (401, "unauthorized", reason)
    assert not [token for token in tokens[:-1] if token in logged + json.dumps(results)]


def test_function_without_rules_denies_tokens(directory: Path, issuer: Issuer) -> None:
    (result,), _ = invoke_handler(directory, bearer(issuer.token(CLAIMS)))
    assert result["policyDocument"]["Statement"][0]["Effect"] == "Deny"
    assert result["context"] == {"reason": credentials.NO_TOKENS}


def test_keys_that_are_unavailable_are_an_error_only_for_tokens(directory: Path, issuer: Issuer) -> None:
    """API Gateway makes a 503 of the error. A caller with an API key does not wait for the issuer."""
    settings = environment(directory, deploy=rule(issuer))
    issuer.fault, before = Fault.ERROR, issuer.fetches
    try:
        key = authorizer_event("/sign", **{"x-api-key": "k" * 40})
        results, _ = invoke_handler(directory, key, **settings)
        assert results[0]["policyDocument"]["Statement"][0]["Effect"] == "Allow"
        assert issuer.fetches == before
        results, logged = invoke_handler(directory, bearer(issuer.token(CLAIMS)), **settings)
    finally:
        issuer.fault = Fault.NONE
    assert results == []
    assert "KeysUnavailableError: rule deploy" in logged


def test_rule_for_one_certificate_needs_a_ledger(directory: Path, issuer: Issuer, tmp_path: Path) -> None:
    """Without one the function fails to initialise, before it accepts any token."""
    settings = environment(directory, deploy=rule(issuer, once=True))
    ledger = {"CERTLET_LEDGER": str(tmp_path / "ledger.db")}
    SqliteLedger(tmp_path / "ledger.db", lambda: datetime.now(UTC)).close()
    event = bearer(issuer.token(CLAIMS))
    results, logged = invoke_handler(directory, event, before="aws_lambda.init()", **settings)
    assert results == []
    text = "rule 'deploy' of identities has once: true, which needs a ledger: set CERTLET_LEDGER_TABLE or "
    assert f"SettingsError: {text}CERTLET_LEDGER" in logged
    (result,), _ = invoke_handler(directory, event, before="aws_lambda.init()", **settings, **ledger)
    request = authorized_event(result, sign_event("prod.ci.example.com"))
    responses, _ = invoke_handler(directory, request, request, **settings, **ledger)
    assert [response["statusCode"] for response in responses] == [200, 403]


def test_unusable_file_of_a_rule_fails_at_init(directory: Path, issuer: Issuer) -> None:
    (directory / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        settings = environment(directory, deploy=rule(issuer, ca_file=name))
        results, logged = invoke_handler(directory, proxy_event(), before="aws_lambda.init()", **settings)
        assert results == []
        assert "rule deploy: " in logged
        assert name in logged


def test_function_without_rules_imports_no_verifier(directory: Path) -> None:
    """Cold starts without rules do not pay for the download of keys."""
    before = "aws_lambda.init()\nimport sys\nassert 'service.oidc.tokens' not in sys.modules"
    (result,), _ = invoke_handler(directory, proxy_event(), before=before)
    assert result["statusCode"] == 200
