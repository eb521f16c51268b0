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
from tests.lambda_events import CSR_PEM, invoke_handler, proxy_event


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lambda")
    assert servers.certlet("init", "ca", cwd=made).returncode == 0
    return made


def test_a_caller_with_a_key_is_served(directory: Path) -> None:
    """The event of a caller with an API key is signed for, under the name that the key's id has."""
    found, logged = invoke_handler(directory, proxy_event(), CERTLET_API_KEY_NAMES='{"abc123": "ci"}')
    assert found[0]["statusCode"] == 200
    assert set(found[0]) == {"statusCode", "headers", "body", "isBase64Encoded"}
    assert '"principal":"ci"' in logged


ARN = "arn:aws:iam::123456789012:role/ci"


@pytest.mark.parametrize(
    ("context", "ending"),
    [
        (
            {"identity": {"userArn": "arn:aws:sts::123456789012:assumed-role/ci/session"}},
            "arn.example.com",
        ),
        ({"identity": {}, "authorizer": {"claims": {"sub": "4711"}}}, "sub.example.com"),
        ({"identity": {}, "authorizer": {"principalId": "4711"}}, "sub.example.com"),
        ({"identity": {"apiKeyId": "abc123"}}, ""),
        ({"identity": {"apiKeyId": ARN + "x"}}, ""),
        ({"identity": {"apiKeyId": "4711"}}, ""),
    ],
)
def test_profiles_and_names_of_whoever_asks(
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


def test_a_header_that_is_sent_twice_is_one_of_both(directory: Path) -> None:
    """RFC 9110 5.2: neither of two Idempotency-Keys is taken for the key; and a header once is as it was."""

    def keyed(*keys: str) -> dict[str, Any]:
        single = {"Content-Type": "application/json", "Idempotency-Key": keys[-1]}
        return proxy_event(headers=single, multiValueHeaders={"Idempotency-Key": list(keys)})

    found, _ = invoke_handler(directory, keyed("the-first-key", "the-other-key"), keyed("the-first-key"))
    assert [each["statusCode"] for each in found] == [400, 200]
    (fault,) = json.loads(found[0]["body"])["errors"]
    assert fault["field"] == "header.Idempotency-Key"
    assert fault["detail"].startswith("'the-first-key, the-other-key' is not 8 to 128")


def test_binary_answers_are_base64(directory: Path) -> None:
    """DER crosses the result in base64; text does not."""
    found, _ = invoke_handler(directory, proxy_event("/ca.crt", "GET"), proxy_event("/ca.pem", "GET"))
    assert found[0]["isBase64Encoded"]
    assert base64.b64decode(found[0]["body"])[:1] == b"\x30"
    assert not found[1]["isBase64Encoded"]


def test_what_the_gateway_would_not_send(directory: Path) -> None:
    """A path or method that no gateway routes is a problem, not a failure."""
    wrong = [("/nope", "GET"), ("/ca//", "GET"), ("/static/x", "GET"), ("/sign", "DELETE"), ("/sign", "GET")]
    wrong += [("/sign", "OPTIONS"), ("/ca", "OPTIONS")]
    found, logged = invoke_handler(directory, *(proxy_event(*each) for each in wrong))
    assert [each["statusCode"] for each in found] == [404, 404, 404, 405, 405, 405, 405]
    assert {json.loads(each["body"])["code"] for each in found} == {"notFound", "methodNotAllowed"}
    assert logged == ""


def test_head_is_get_without_a_body(directory: Path) -> None:
    """HEAD is answered as GET is, with no octet of the body (RFC 9110 9.3.2)."""
    asked = (
        proxy_event(path, method) for path, method in (("/ca", "HEAD"), ("/ca", "GET"), ("/sign", "HEAD"))
    )
    (head, get, sign), _ = invoke_handler(directory, *asked)
    assert (head["statusCode"], head["headers"], head["body"]) == (200, get["headers"], "")
    assert get["body"]
    assert (sign["statusCode"], sign["body"]) == (405, "")


def test_a_ca_that_cannot_be_loaded_is_503_and_tried_again(directory: Path, tmp_path: Path) -> None:
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
def test_wrong_settings_are_told_at_once(directory: Path, env: dict[str, str], word: str) -> None:
    """The environment's faults are all in one message."""
    found, logged = invoke_handler(directory, proxy_event(), **env)
    assert found == []
    assert word in logged


def test_an_unexpected_error_is_a_bare_500(directory: Path) -> None:
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
def test_the_authorizer_tells_the_key(resource: str, headers: dict[str, str], key: str | None) -> None:
    """A policy for this very method, with the key that the request carries; Basic is for EST alone."""
    policy = aws_lambda.handler(asked(resource, **headers), None)
    (statement,) = policy["policyDocument"]["Statement"]
    assert statement["Resource"] == METHOD + resource
    assert statement["Action"] == "execute-api:Invoke"
    assert statement["Effect"] == ("Allow" if key else "Deny")
    assert policy.get("usageIdentifierKey") == key


@pytest.mark.parametrize("text", ["", "Basic", "Basic ?", "Basic eDo=", "Basic /////w==", "Bearer x"])
def test_the_authorizer_asks_for_credentials(text: str) -> None:
    """Without a key EST is `Unauthorized`, word by word: API Gateway's UNAUTHORIZED response, which is 401."""
    with pytest.raises(Exception, match=r"\AUnauthorized\Z"):
        aws_lambda.handler(asked(ENROLL, **({"Authorization": text} if text else {})), None)


def test_whom_the_authorizer_names_is_nobody(directory: Path) -> None:
    """Were the key lost from the document and the authorizer kept, its word alone would sign nothing."""
    context = {"requestId": "x", "identity": {}, "authorizer": {"principalId": identity.API_KEY_PRINCIPAL_ID}}
    found, logged = invoke_handler(
        directory, proxy_event(requestContext=context), proxy_event("/sign", "POST", type="REQUEST")
    )
    assert [each["statusCode"] for each in found] == [403, 200]
    assert logged.count('"event":"intent"') == 1


LABELLED = "/.well-known/est/{label}/csrattrs"


def est_labelled(label: str, path: str | None = None) -> dict[str, Any]:
    """Create the event of an EST operation whose label is the name of a profile."""
    parameters = {"resource": LABELLED, "pathParameters": {"label": label}}
    return proxy_event(path or LABELLED.format(label=label), "GET", **parameters)


def alb_event(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    """Create an event of an Application Load Balancer, with the members in AWS's documentation."""
    target = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/certlet/0123456789abcdef"
    forwarded = {"x-forwarded-for": "192.0.2.1", "x-forwarded-port": "443", "x-forwarded-proto": "https"}
    return {
        "requestContext": {"elb": {"targetGroupArn": target}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": {},
        "headers": {"host": "ca.example.com", "content-type": "application/json"} | forwarded | headers,
        "body": json.dumps({"csr": CSR_PEM}) if method == "POST" else "",
        "isBase64Encoded": False,
    }


EVENTS: dict[str, tuple[dict[str, Any], int]] = {
    "base path": (proxy_event("/certs/ca", "GET", resource="/ca"), 200),
    "base path and label": (est_labelled("server", "/certs/.well-known/est/server/csrattrs"), 204),
    "base path that is a route": (proxy_event("/ca", "GET", resource="/nope"), 404),
    "stage in path": (proxy_event("/prod/ca", "GET", resource="/ca"), 200),
    "trailing slash": (proxy_event("/ca/", "GET", resource="/ca"), 200),
    "trailing slash in resource": (proxy_event("/ca/", "GET"), 200),
    "encoded label": (est_labelled("se%72ver"), 204),
    "decoded label": (est_labelled("server", "/.well-known/est/se%72ver/csrattrs"), 204),
    "unknown label": (est_labelled("se%2572ver"), 404),
    "label with a slash": (est_labelled("server/x"), 404),
    "label that would be another route": (
        proxy_event("/", "GET", resource="/{name}", pathParameters={"name": ".well-known%2Fest%2Fcacerts"}),
        404,
    ),
    "greedy parameter": (
        proxy_event("/certs/ca", "GET", resource="/{proxy+}", pathParameters={"proxy": "ca"}),
        200,
    ),
    "missing parameter": (proxy_event("/.well-known/est/server/csrattrs", "GET", resource=LABELLED), 204),
    "ALB": (alb_event("/ca"), 200),
    "ALB, encoded path": (alb_event("/.well-known/est/se%72ver/csrattrs/"), 204),
    "ALB, base path": (alb_event("/certs/ca"), 404),
    "ALB, signing": (alb_event("/sign", "POST", **{"x-api-key": "abc123"}), 403),
    "ALB, profiles of the caller": (alb_event("/profiles/mine", **{"x-api-key": "abc123"}), 403),
}


def test_event_reaches_its_operation(directory: Path) -> None:
    """The path in an event may have a base path, a stage, a trailing slash or encoded characters."""
    events = [event for event, _ in EVENTS.values()]
    responses, _ = invoke_handler(directory, *events, CERTLET_API_KEY_NAMES='{"abc123": "ci"}')
    statuses = [response["statusCode"] for response in responses]
    expected = {name: status for name, (_, status) in EVENTS.items()}
    assert dict(zip(EVENTS, statuses, strict=True)) == expected


@pytest.mark.parametrize(
    ("resource", "parameters", "path"),
    [
        ("/ca/", None, "/ca"),
        ("/", None, "/"),
        ("/a/{x}/b", {"x": "1"}, "/a/1/b"),
        ("/a/{x}/b", {"x": "1%202"}, "/a/1 2/b"),
        ("/a/{x}/b", {"x": "1 2"}, "/a/1 2/b"),
        ("/a/{x}/b", {"x": "%C3%A9"}, "/a/\u00c3\u00a9/b"),
        ("/a/{x}/b", {"x": "\u00e9"}, "/a/\u00c3\u00a9/b"),
        ("/a/{x}/b", {"x": "../b%2Fc"}, "/a/..%2Fb%2Fc/b"),
        ("/a/{x}/b", {"x": "{y}", "y": "2"}, "/a/{y}/b"),
        ("/a/{x}/b", {"x": "%zz\ud800"}, "/a/%zz?/b"),
        ("/a/{x+}", {"x": "1/%2F/2%203"}, "/a/1/%2F/2 3"),
        ("/a/{x}/b", {"y": "1"}, "/the path"),
        ("/a/{x}/b", {"x": None}, "/the path"),
        ("/a/{x}/b", None, "/the path"),
        (None, None, "/the path"),
        ("", None, "/the path"),
    ],
)
def test_path_is_built_from_resource_and_parameters(
    resource: str | None, parameters: dict[str, Any] | None, path: str
) -> None:
    """A slash in a parameter stays encoded, so that a parameter cannot lead to another route."""
    event = proxy_event("/the%20path/", "GET", resource=resource, pathParameters=parameters)
    assert aws_lambda._normalise_event(event)["path"] == path


# As in AWS's documentation, without the members that say nothing about the kind of event.
PAYLOAD_2: dict[str, Any] = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/ca",
    "rawQueryString": "",
    "headers": {"accept": "*/*", "x-forwarded-proto": "https"},
    "requestContext": {"http": {"method": "GET", "path": "/ca"}, "requestId": "JKJaXmPLvHcESHA="},
    "isBase64Encoded": False,
}
SCHEDULED: dict[str, Any] = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "time": "2026-11-28T17:30:00Z",
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/warm"],
    "detail": {},
}
FORGED: dict[str, Any] = {"detail-type": "\r\nforged line \x1b[31m\u2028" + "x" * 10_000}
UNSUPPORTED: list[tuple[Any, str]] = [
    (PAYLOAD_2, "payload format 2.0"),
    (SCHEDULED, "'Scheduled Event' event from EventBridge"),
    (FORGED, r"'\r\nforged line \x1b[31m\u2028xxx"),
    ({"Records": [{"eventSource": "aws:s3"}]}, "event with the members 'Records'"),
    ({"\nforged" + "x" * 10_000: 1, "httpMethod": "GET"}, r"event with the members '\nforgedxxx"),
    ({"httpMethod": ["GET"], "path": "/ca"}, "event with the members 'httpMethod, path'"),
    ({}, "empty event"),
    ([], "empty event"),
    (None, "empty event"),
    ("text", "event that is not an object"),
]


def test_unsupported_event_is_reported_in_one_line(directory: Path) -> None:
    """An event of another source is not an error of the function: no retries, and no traceback."""
    responses, log = invoke_handler(directory, *(event for event, _ in UNSUPPORTED))
    for response, line, (_, kind) in zip(responses, log.splitlines(), UNSUPPORTED, strict=True):
        content_type = response["headers"]["Content-Type"]
        assert (response["statusCode"], content_type) == (500, "application/problem+json")
        problem = json.loads(response["body"])
        assert (problem["code"], problem["status"], problem["detail"]) == ("serverInternal", 500, line)
        assert kind in line
        assert "only through a REST API" in line
        assert len(line) < 250
        assert line.isascii()
        assert line.isprintable()


def test_public_url_is_the_base_of_problem_types(directory: Path) -> None:
    """The function's problems have absolute types with CERTLET_PUBLIC_URL, and relative ones without."""
    for url in ("https://pki.example.com/certlet", ""):
        (response,), _ = invoke_handler(directory, proxy_event("/nothing"), CERTLET_PUBLIC_URL=url)
        assert json.loads(response["body"])["type"] == f"{url}/problems#notFound"
    responses, log = invoke_handler(directory, proxy_event(), CERTLET_PUBLIC_URL="pki.example.com")
    assert responses == []
    assert "SettingsError: CERTLET_PUBLIC_URL: 'pki.example.com' is not an http or https URL" in log
