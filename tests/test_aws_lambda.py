"""The Lambda handler with events, in a separate process; tests/test_identity.py tests the callers."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service import aws_lambda
from service.keystore import revocation_file
from service.ledger.sqlite import SqliteLedger
from service.pki.revocation import RevokedCertificate
from service.web import identity
from tests import csrs
from tests.cli import certlet
from tests.factories import NOW
from tests.lambda_events import CSR_PEM, decode_body, invoke_handler, proxy_event
from tests.token_events import RULE, TOKEN, token_event


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lambda")
    assert certlet("init", "ca", cwd=path).returncode == 0
    return path


def test_caller_with_an_api_key_gets_a_certificate(directory: Path) -> None:
    """A caller with an API key gets a certificate; the principal is the name of the key's ID."""
    responses, logged = invoke_handler(directory, proxy_event(), CERTLET_API_KEY_NAMES='{"abc123": "ci"}')
    assert responses[0]["statusCode"] == 200
    assert set(responses[0]) == {"statusCode", "headers", "body", "isBase64Encoded"}
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
def test_principal_restricts_profiles_and_names(
    directory: Path, tmp_path: Path, context: dict[str, Any], ending: str
) -> None:
    """Profiles can list IAM ARNs and authorizer subjects as principals, and their policies restrict names."""
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
        ({"CERTLET_API_KEY_NAMES": "[]"}, "CERTLET_API_KEY_NAMES: not a JSON object"),
        ({"CERTLET_API_KEY_NAMES": "{"}, "CERTLET_API_KEY_NAMES: not a JSON object"),
        (
            {"CERTLET_API_KEY_NAMES": '{"a": "oidc:ci"}'},
            "'oidc:ci' cannot be the name of a key",
        ),
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


def test_authorizer_principal_is_not_a_caller(directory: Path) -> None:
    """The authorizer's principal does not sign if the document lost its API key requirement."""
    context = {"requestId": "x", "identity": {}, "authorizer": {"principalId": identity.API_KEY_PRINCIPAL_ID}}
    responses, logged = invoke_handler(
        directory, proxy_event(requestContext=context), proxy_event("/sign", "POST", type="REQUEST")
    )
    assert [response["statusCode"] for response in responses] == [403, 200]
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


def test_order_to_renew_early_is_a_setting(directory: Path) -> None:
    """An order for the past, or the empty one of the template, is accepted; one for the future is refused."""
    for before in ("2026-01-01T00:00:00Z", ""):
        order = {"CERTLET_RENEW_BEFORE": before, "CERTLET_RENEW_OVER": "P1D"}
        (response,), _ = invoke_handler(directory, proxy_event("/health", "GET"), **order)
        assert response["statusCode"] == 200
    responses, log = invoke_handler(directory, proxy_event(), CERTLET_RENEW_BEFORE="2999-01-01T00:00:00Z")
    assert responses == []
    assert "SettingsError: CERTLET_RENEW_BEFORE: '2999-01-01T00:00:00Z' is in the future" in log


def test_public_url_is_the_base_of_problem_types(directory: Path) -> None:
    """The function's problems have absolute types with CERTLET_PUBLIC_URL, and relative ones without."""
    for url in ("https://pki.example.com/certlet", ""):
        (response,), _ = invoke_handler(directory, proxy_event("/nothing"), CERTLET_PUBLIC_URL=url)
        assert json.loads(response["body"])["type"] == f"{url}/problems#notFound"
    responses, log = invoke_handler(directory, proxy_event(), CERTLET_PUBLIC_URL="pki.example.com")
    assert responses == []
    assert "SettingsError: CERTLET_PUBLIC_URL: 'pki.example.com' is not an http or https URL" in log


def test_revoked_certificates_of_list_and_ledger_are_read(directory: Path, tmp_path: Path) -> None:
    """The CRL has those of `revoked.yaml` and of the ledger, which is a file here."""
    listed, recorded = (RevokedCertificate(number, NOW.replace(microsecond=0)) for number in (0xA, 0xB))
    shutil.copytree(directory / "ca", tmp_path / "ca")
    revocation_file.add_revoked(tmp_path / "ca", listed, lambda: None)
    ledger = SqliteLedger(tmp_path / "ledger.db", lambda: NOW)
    ledger.add_revocation(recorded)
    ledger.close()
    event = proxy_event("/ca.crl", "GET", headers={"Accept": "*/*"})
    (response,), _ = invoke_handler(tmp_path, event, CERTLET_LEDGER=str(tmp_path / "ledger.db"))
    crl = x509.load_der_x509_crl(decode_body(response))
    assert [entry.serial_number for entry in crl] == [0xA, 0xB]


def test_unavailable_ledger_is_503_where_it_is_needed(directory: Path) -> None:
    """Certificates are issued; the status of certificates is not known. The log has the cause."""
    env = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}
    env |= {"CERTLET_LEDGER_TABLE": "certlet", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    crl = proxy_event("/ca.crl", "GET", headers={"Accept": "*/*"})
    responses, log = invoke_handler(directory, crl, proxy_event(), **env)
    assert [response["statusCode"] for response in responses] == [503, 200]
    assert json.loads(responses[0]["body"])["code"] == "unavailable"
    assert "127.0.0.1" not in responses[0]["body"]
    cause = 'DynamoDB is unavailable: Could not connect to the endpoint URL: "http://127.0.0.1:9/"'
    assert f"the revocation list cannot be loaded: {cause}\n" in log


def test_token_for_one_certificate_needs_the_ledger(directory: Path, tmp_path: Path) -> None:
    """503 while it does not respond: nothing is issued. Other tokens get certificates."""
    profiles = tmp_path / "own.yaml"
    profiles.write_text(json.dumps({"identities": {"once": RULE | {"once": True}, "deploy": RULE}}))
    token = TOKEN._replace(rule="once", is_once=True)
    events, env = [token_event(token), token_event()], {"CERTLET_PROFILES": str(profiles)}
    aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}
    aws |= {"CERTLET_LEDGER_TABLE": "certlet", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    responses, log = invoke_handler(directory, *events, **env, **aws)
    assert [response["statusCode"] for response in responses] == [503, 200]
    assert json.loads(responses[0]["body"])["code"] == "unavailable"
    records = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [(record["event"], record["principal"]) for record in records] == [
        ("refusal", "oidc:once"),
        ("intent", "oidc:deploy"),
        ("result", "oidc:deploy"),
    ]


def test_two_ledgers_are_refused(directory: Path) -> None:
    env = {"CERTLET_LEDGER": "ledger.db", "CERTLET_LEDGER_TABLE": "certlet"}
    responses, log = invoke_handler(directory, proxy_event(), **env)
    assert responses == []
    assert "SettingsError: CERTLET_LEDGER and CERTLET_LEDGER_TABLE are both set" in log


def test_trace_of_an_event_is_in_its_audit_records(directory: Path) -> None:
    """API Gateway adds X-Amzn-Trace-Id. A load balancer sends only one of the members with headers."""
    root, parent = f"1-5759e988-{'a' * 24}", f"00-{'b' * 32}-{'c' * 16}-01"
    traces = {"X-Amzn-Trace-Id": f"Root={root};Sampled=1"}
    json_type = {"Content-Type": "application/json"}
    events = [
        proxy_event(headers=json_type | traces, multiValueHeaders=None),
        proxy_event(multiValueHeaders={name: [text] for name, text in traces.items()}),
        proxy_event(headers=json_type | traces | {"TRACEPARENT": parent}, multiValueHeaders=None),
        proxy_event(),
    ]
    responses, logged = invoke_handler(directory, *events)
    assert [response["statusCode"] for response in responses] == [200] * 4
    trace_ids = [json.loads(line).get("trace_id") for line in logged.splitlines()]
    x_ray_id = f"5759e988{'a' * 24}"
    assert trace_ids == [x_ray_id] * 4 + ["b" * 32] * 2 + [None] * 2
