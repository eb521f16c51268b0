"""The Lambda handler by events, in a process of its own; tests/test_identity.py has who asks."""

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
    made = tmp_path_factory.mktemp("lambda")
    assert servers.certlet("init", "ca", cwd=made).returncode == 0
    return made


def test_caller_with_an_api_key_gets_a_certificate(directory: Path) -> None:
    """The event of a caller with an API key is signed for, under the name that the key's id has."""
    found, logged = invoke_handler(directory, proxy_event(), CERTLET_API_KEY_NAMES='{"abc123": "ci"}')
    assert found[0]["statusCode"] == 200
    assert set(found[0]) == {"statusCode", "headers", "body", "isBase64Encoded"}
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
    """A profile may name an IAM caller's ARN and an authorizer's subject, which are held to their names."""
    own = {
        "profiles": {"server": {"principals": [ARN, "authorizer:4711"]}},
        "principals": {
            ARN: {"dns": {"permitted": ["arn.example.com"]}},
            "authorizer:4711": {"dns": {"permitted": ["sub.example.com"]}},
        },
    }
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    requests = [
        proxy_event(
            body=json.dumps({"csr": csrs.encode_pem(csrs.build(f"a.{name}")).decode()}), isBase64Encoded=False
        )
        | {"requestContext": {"requestId": "x", **context}}
        for name in ("arn.example.com", "sub.example.com")
    ]
    found, _ = invoke_handler(directory, *requests, CERTLET_PROFILES=str(tmp_path / "own.yaml"))
    expected = {"": [403, 403], "arn.example.com": [200, 422], "sub.example.com": [422, 200]}
    assert [each["statusCode"] for each in found] == expected[ending]


def test_repeated_header_is_joined(directory: Path) -> None:
    """RFC 9110 5.2: neither of two Idempotency-Keys is taken for the key; and a header once is as it was."""

    def keyed(*keys: str) -> dict[str, Any]:
        single = {"Content-Type": "application/json", "Idempotency-Key": keys[-1]}
        return proxy_event(headers=single, multiValueHeaders={"Idempotency-Key": list(keys)})

    found, _ = invoke_handler(directory, keyed("the-first-key", "the-other-key"), keyed("the-first-key"))
    assert [each["statusCode"] for each in found] == [400, 200]
    (fault,) = json.loads(found[0]["body"])["errors"]
    assert fault["field"] == "header.Idempotency-Key"
    assert fault["detail"].startswith("'the-first-key, the-other-key' is not 8 to 128")


def test_binary_responses_are_base64(directory: Path) -> None:
    """DER crosses the result in base64; text does not."""
    found, _ = invoke_handler(directory, proxy_event("/ca.crt", "GET"), proxy_event("/ca.pem", "GET"))
    assert found[0]["isBase64Encoded"]
    assert base64.b64decode(found[0]["body"])[:1] == b"\x30"
    assert not found[1]["isBase64Encoded"]


def test_unrouted_path_or_method_is_a_problem(directory: Path) -> None:
    """A path or method that no gateway routes is a problem, not a failure."""
    wrong = [("/nope", "GET"), ("/ca//", "GET"), ("/static/x", "GET"), ("/sign", "DELETE"), ("/sign", "GET")]
    wrong += [("/sign", "OPTIONS"), ("/ca", "OPTIONS")]
    found, logged = invoke_handler(directory, *(proxy_event(*each) for each in wrong))
    assert [each["statusCode"] for each in found] == [404, 404, 404, 405, 405, 405, 405]
    assert {json.loads(each["body"])["code"] for each in found} == {"notFound", "methodNotAllowed"}
    assert logged == ""


def test_head_response_is_get_without_a_body(directory: Path) -> None:
    """HEAD is answered as GET is, with no octet of the body (RFC 9110 9.3.2)."""
    asked = (
        proxy_event(path, method) for path, method in (("/ca", "HEAD"), ("/ca", "GET"), ("/sign", "HEAD"))
    )
    (head, get, sign), _ = invoke_handler(directory, *asked)
    assert (head["statusCode"], head["headers"], head["body"]) == (200, get["headers"], "")
    assert get["body"]
    assert (sign["statusCode"], sign["body"]) == (405, "")


def test_unavailable_ca_is_503_and_loaded_again(directory: Path, tmp_path: Path) -> None:
    """Without its key the CA is unavailable, on every operation that needs it; the cause is in the log."""
    asked = [
        proxy_event("/health", "GET"),
        proxy_event(),
        proxy_event("/ca", "GET"),
        proxy_event("/profiles", "GET"),
    ]
    found, logged = invoke_handler(directory, *asked, CERTLET_CA=str(tmp_path / "none"))
    assert [each["statusCode"] for each in found] == [503, 503, 503, 200]
    assert found[0]["headers"]["Retry-After"] == "60"
    assert "root-ca.crt" not in found[0]["body"]
    assert str(tmp_path / "none") in logged


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"CERTLET_CA": ""}, "CERTLET_CA is not set"),
        ({"CERTLET_API_KEY_NAMES": "[]"}, "CERTLET_API_KEY_NAMES is not"),
        ({"CERTLET_API_KEY_NAMES": "{"}, "CERTLET_API_KEY_NAMES is not"),
        ({"CERTLET_CA_PASSPHRASE": "", "CERTLET_CA": ""}, "CERTLET_CA_PASSPHRASE is set but empty"),
    ],
)
def test_invalid_settings_are_reported_at_init(directory: Path, env: dict[str, str], word: str) -> None:
    """The environment's faults are all in one message."""
    found, logged = invoke_handler(directory, proxy_event(), **env)
    assert found == []
    assert word in logged


def test_unexpected_error_is_500_without_details(directory: Path) -> None:
    """`RuntimeError("secret")` somewhere inside is a 500 without the word; the log has it."""
    fail = "def fail(*_):\n    raise RuntimeError('sec' + 'ret')\n"
    before = f"from service.authority import Authority\n{fail}Authority.issue = fail"
    (result,), logged = invoke_handler(directory, proxy_event(), before=before)
    assert result["statusCode"] == 500
    assert "secret" not in json.dumps(result)
    assert json.loads(result["body"])["code"] == "serverInternal"
    assert "RuntimeError: secret" in logged


METHOD = "arn:aws:execute-api:eu-central-1:123456789012:abcdef/v1/POST"


def asked(resource: str, **headers: str) -> dict[str, Any]:
    """The event of a REQUEST authorizer (AWS's documentation has its members)."""
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
    """A policy for this very method, with the key that the request carries; Basic is for EST alone."""
    policy = aws_lambda.handler(asked(resource, **headers), None)
    (statement,) = policy["policyDocument"]["Statement"]
    assert statement["Resource"] == METHOD + resource
    assert statement["Action"] == "execute-api:Invoke"
    assert statement["Effect"] == ("Allow" if key else "Deny")
    assert policy.get("usageIdentifierKey") == key


@pytest.mark.parametrize("text", ["", "Basic", "Basic ?", "Basic eDo=", "Basic /////w==", "Bearer x"])
def test_authorizer_without_credentials_is_unauthorized(text: str) -> None:
    """Without a key EST is `Unauthorized`, word by word: API Gateway's UNAUTHORIZED response, which is 401."""
    with pytest.raises(Exception, match=r"\AUnauthorized\Z"):
        aws_lambda.handler(asked(ENROLL, **({"Authorization": text} if text else {})), None)


def test_authorizer_principal_is_not_a_caller(directory: Path) -> None:
    """Were the key lost from the document and the authorizer kept, its word alone would sign nothing."""
    context = {"requestId": "x", "identity": {}, "authorizer": {"principalId": identity.API_KEY_PRINCIPAL_ID}}
    found, logged = invoke_handler(
        directory, proxy_event(requestContext=context), proxy_event("/sign", "POST", type="REQUEST")
    )
    assert [each["statusCode"] for each in found] == [403, 200]
    assert logged.count('"event":"intent"') == 1
