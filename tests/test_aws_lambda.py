"""The Lambda handler with events, in a separate process; tests/test_identity.py tests the callers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from service import aws_lambda
from service.web import identity
from tests import csrs, servers
from tests.lambda_events import invoke_handler, proxy_event


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lambda")
    assert servers.certlet("init", "ca", cwd=path).returncode == 0
    return path


def test_caller_with_an_api_key_gets_a_certificate(directory: Path) -> None:
    """A caller with an API key gets a certificate; the principal is the name of the key's ID."""
    responses, logged = invoke_handler(directory, proxy_event(), CERTLET_API_KEY_NAMES='{"abc123": "ci"}')
    assert responses[0]["statusCode"] == 200
    assert set(responses[0]) == {"statusCode", "headers", "body", "isBase64Encoded"}
    assert '"principal":"ci"' in logged


ARN = "arn:aws:sts::123456789012:assumed-role/ci/session"


@pytest.mark.parametrize(
    ("context", "ending"),
    [
        ({"identity": {"userArn": ARN}}, "arn.example.com"),
        ({"identity": {}, "authorizer": {"claims": {"sub": "4711"}}}, "sub.example.com"),
        ({"identity": {}, "authorizer": {"principalId": "4711"}}, "sub.example.com"),
        ({"identity": {"apiKeyId": "abc123"}}, ""),
        ({"identity": {"apiKeyId": ARN + "x"}}, ""),
        ({"identity": {"apiKeyId": "4711"}}, ""),
    ],
)
def test_principal_restricts_profiles_and_names(
    directory: Path, tmp_path: Path, context: dict[str, Any], ending: str
) -> None:
    """A profile can name IAM ARNs and authorizer subjects as principals, and names are restricted to theirs."""
    overrides = {
        "profiles": {"server": {"principals": [ARN, "authorizer:4711"]}},
        "principals": {
            ARN: {"dns": {"permitted": ["arn.example.com"]}},
            "authorizer:4711": {"dns": {"permitted": ["sub.example.com"]}},
        },
    }
    (tmp_path / "own.yaml").write_text(json.dumps(overrides))
    requests = [
        proxy_event(
            body=json.dumps({"csr": csrs.encode_pem(csrs.build(f"a.{name}")).decode()}), isBase64Encoded=False
        )
        | {"requestContext": {"requestId": "x", **context}}
        for name in ("arn.example.com", "sub.example.com")
    ]
    responses, _ = invoke_handler(directory, *requests, CERTLET_PROFILES=str(tmp_path / "own.yaml"))
    expected = {"": [403, 403], "arn.example.com": [200, 422], "sub.example.com": [422, 200]}
    assert [response["statusCode"] for response in responses] == expected[ending]


def test_repeated_header_is_joined(directory: Path) -> None:
    """Two Idempotency-Key headers are joined (RFC 9110 5.2); a single header is unchanged."""

    def event_with_keys(*keys: str) -> dict[str, Any]:
        single = {"Content-Type": "application/json", "Idempotency-Key": keys[-1]}
        return proxy_event(headers=single, multiValueHeaders={"Idempotency-Key": list(keys)})

    responses, _ = invoke_handler(
        directory, event_with_keys("the-first-key", "the-other-key"), event_with_keys("the-first-key")
    )
    assert [response["statusCode"] for response in responses] == [400, 200]
    (error,) = json.loads(responses[0]["body"])["errors"]
    assert error["field"] == "header.Idempotency-Key"
    assert error["detail"].startswith("'the-first-key, the-other-key' is not 8 to 128")


def test_binary_responses_are_base64(directory: Path) -> None:
    """A DER response is base64-encoded; text is not."""
    responses, _ = invoke_handler(directory, proxy_event("/ca.crt", "GET"), proxy_event("/ca.pem", "GET"))
    assert responses[0]["isBase64Encoded"]
    assert base64.b64decode(responses[0]["body"])[:1] == b"\x30"
    assert not responses[1]["isBase64Encoded"]


def test_unrouted_path_or_method_is_a_problem(directory: Path) -> None:
    """A path or method that the gateway does not route gets a problem document."""
    unrouted = [
        ("/nope", "GET"),
        ("/ca//", "GET"),
        ("/static/x", "GET"),
        ("/sign", "DELETE"),
        ("/sign", "GET"),
    ]
    unrouted += [("/sign", "OPTIONS"), ("/ca", "OPTIONS")]
    responses, logged = invoke_handler(directory, *(proxy_event(path, method) for path, method in unrouted))
    assert [response["statusCode"] for response in responses] == [404, 404, 404, 405, 405, 405, 405]
    assert {json.loads(response["body"])["code"] for response in responses} == {
        "notFound",
        "methodNotAllowed",
    }
    assert logged == ""


def test_head_response_is_get_without_a_body(directory: Path) -> None:
    """HEAD returns the headers of GET without a body (RFC 9110 9.3.2)."""
    requests = (
        proxy_event(path, method) for path, method in (("/ca", "HEAD"), ("/ca", "GET"), ("/sign", "HEAD"))
    )
    (head, get, sign), _ = invoke_handler(directory, *requests)
    assert (head["statusCode"], head["headers"], head["body"]) == (200, get["headers"], "")
    assert get["body"]
    assert (sign["statusCode"], sign["body"]) == (405, "")


def test_unavailable_ca_is_503_and_loaded_again(directory: Path, tmp_path: Path) -> None:
    """Without its key the CA is unavailable for every operation that uses it; the log has the cause."""
    requests = [
        proxy_event("/health", "GET"),
        proxy_event(),
        proxy_event("/ca", "GET"),
        proxy_event("/profiles", "GET"),
    ]
    responses, logged = invoke_handler(directory, *requests, CERTLET_CA=str(tmp_path / "none"))
    assert [response["statusCode"] for response in responses] == [503, 503, 503, 200]
    assert responses[0]["headers"]["Retry-After"] == "60"
    assert "root-ca.crt" not in responses[0]["body"]
    assert str(tmp_path / "none") in logged


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"CERTLET_CA": ""}, "CERTLET_CA is not set"),
        ({"CERTLET_API_KEY_NAMES": "[]"}, "CERTLET_API_KEY_NAMES is not"),
        ({"CERTLET_API_KEY_NAMES": "{"}, "CERTLET_API_KEY_NAMES is not"),
        ({"CERTLET_CA_PASSPHRASE": "", "CERTLET_CA": ""}, "CERTLET_CA_PASSPHRASE is set but empty"),
    ],
)
def test_invalid_settings_are_reported_at_init(directory: Path, env: dict[str, str], message: str) -> None:
    """One message lists all problems of the environment."""
    responses, logged = invoke_handler(directory, proxy_event(), **env)
    assert responses == []
    assert message in logged


def test_unexpected_error_is_500_without_details(directory: Path) -> None:
    """An unexpected `RuntimeError("secret")` is a 500 without that text, which only the log has."""
    fail = "def fail(*_):\n    raise RuntimeError('sec' + 'ret')\n"
    before = f"from service.authority import Authority\n{fail}Authority.issue = fail"
    (result,), logged = invoke_handler(directory, proxy_event(), before=before)
    assert result["statusCode"] == 500
    assert "secret" not in json.dumps(result)
    assert json.loads(result["body"])["code"] == "serverInternal"
    assert "RuntimeError: secret" in logged


METHOD = "arn:aws:execute-api:eu-central-1:123456789012:abcdef/v1/POST"


def authorizer_event(resource: str, **headers: str) -> dict[str, Any]:
    """Return the event of a REQUEST authorizer, as AWS documents it."""
    return {
        "type": "REQUEST",
        "methodArn": METHOD + resource,
        "resource": resource,
        "path": resource,
        "httpMethod": "POST",
        "headers": headers,
        "requestContext": {"requestId": "x", "identity": {"apiKey": "", "sourceIp": "192.0.2.1"}},
    }


ENROLL = "/.well-known/est/{label}/simpleenroll"
KEY = "k" * 40
BASIC = "Basic " + base64.b64encode(f"any:{KEY}".encode()).decode()
POLICIES = [
    (ENROLL, {"Authorization": BASIC}, KEY),
    (ENROLL, {"authorization": BASIC.replace("Basic", "basic")}, KEY),
    (ENROLL, {"x-api-key": KEY}, KEY),
    (ENROLL, {"X-API-Key": KEY, "Authorization": "Basic eDp5"}, KEY),
    (ENROLL, {"Authorization": "Basic " + base64.b64encode(b"a:b:c").decode()}, "b:c"),
    ("/sign", {"x-api-key": KEY}, KEY),
    ("/sign", {"Authorization": BASIC}, None),
    ("/sign", {}, None),
    ("/sign", {"x-api-key": ""}, None),
]


@pytest.mark.parametrize(("resource", "headers", "key"), POLICIES)
def test_authorizer_returns_the_api_key(resource: str, headers: dict[str, str], key: str | None) -> None:
    """The policy allows this method and has the request's API key; HTTP Basic works only for EST."""
    policy = aws_lambda.handler(authorizer_event(resource, **headers), None)
    (statement,) = policy["policyDocument"]["Statement"]
    assert statement["Resource"] == METHOD + resource
    assert statement["Action"] == "execute-api:Invoke"
    assert statement["Effect"] == ("Allow" if key else "Deny")
    assert policy.get("usageIdentifierKey") == key


@pytest.mark.parametrize("text", ["", "Basic", "Basic ?", "Basic eDo=", "Basic /////w==", "Bearer x"])
def test_authorizer_without_credentials_is_unauthorized(text: str) -> None:
    """Without a key EST raises exactly `Unauthorized`, which API Gateway turns into 401."""
    with pytest.raises(Exception, match=r"\AUnauthorized\Z"):
        aws_lambda.handler(authorizer_event(ENROLL, **({"Authorization": text} if text else {})), None)


def test_authorizer_principal_is_not_a_caller(directory: Path) -> None:
    """The authorizer's principal does not sign if the document lost its API key requirement."""
    context = {"requestId": "x", "identity": {}, "authorizer": {"principalId": identity.API_KEY_PRINCIPAL_ID}}
    responses, logged = invoke_handler(
        directory, proxy_event(requestContext=context), proxy_event("/sign", "POST", type="REQUEST")
    )
    assert [response["statusCode"] for response in responses] == [403, 200]
    assert logged.count('"event":"intent"') == 1
