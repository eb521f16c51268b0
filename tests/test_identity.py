"""The gateway identifies the caller; credentials in the request have no effect."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import awsgi
import pytest

from service import audit, aws_lambda, openapi
from service.ledger.sqlite import SqliteLedger
from service.loaded_ca import LoadedCA
from service.pki.acme_key import AcmeKey, AcmePrincipals
from service.pki.policy_parser import ProfileError
from service.pki.token_identity import TokenIdentity
from service.web import app
from service.web.acme import AcmeStore
from tests import csrs, factories
from tests.lambda_events import ANONYMOUS, CSR_PEM, est_event, invoke, invoke_application, proxy_event
from tests.token_events import DOCUMENT, NAMES, POLICY, TOKEN, context, invoke_with_rules, token_event

SESSION = "arn:aws:sts::123456789012:assumed-role/ci/"
ROLE = "arn:aws:iam::123456789012:role/ci"

BASIC = "Basic " + base64.b64encode(b"any:abc123").decode()
UNAUTHENTICATED: list[dict[str, Any]] = [
    {},
    {"identity": None},
    {"identity": {}},
    {"identity": {}, "apiKeyId": "abc123"},
    *({"identity": {"apiKeyId": number}} for number in (None, "", ["abc123"])),
    {"identity": {"apiKey": "abc123"}},
    {"identity": {"user": "abc123", "userArn": None}},
    {"identity": {"clientCert": {"clientCertPem": "x"}}},
    {"identity": {}, "authorizer": {"principalId": ["anna"]}},
    {"identity": {}, "authorizer": {"claims": "sub"}},
]
FORGED: list[dict[str, str]] = [
    {},
    {"x-api-key": "abc123", "apiKeyId": "abc123"},
    {"X-Api-Key": ""},
    {"Authorization": BASIC},
    {"Authorization": BASIC, "x-api-key": "abc123"},
    {"Authorization": "Basic ?"},
    {"Authorization": "Bearer x"},
    {"Authorization": "x"},
]


def requests(context: dict[str, Any], headers: dict[str, str]) -> list[Any]:
    """Create the events of a caller: operations with an API key, and EST, which also accepts HTTP Basic."""
    context_members = {"requestContext": context, "apiKeyId": "abc123"}
    return [
        {**request, **context_members, "headers": {**request["headers"], **headers}}
        for request in (proxy_event(), proxy_event("/profiles/mine", "GET"), est_event())
    ]


@pytest.mark.parametrize("headers", FORGED)
def test_forged_credentials_are_refused(headers: dict[str, str]) -> None:
    """An API key in x-api-key or HTTP Basic does not authenticate without apiKeyId in requestContext."""
    events = [request for context in UNAUTHENTICATED for request in requests(context, headers)]
    responses, log = invoke_application(factories.document(), *events)
    assert {response["statusCode"] for response in responses} == {"403"}
    assert {json.loads(response["body"])["code"] for response in responses} == {"unauthorized"}
    assert [(record.event, record.principal) for record in log] == [("refusal", "")] * 2 * len(
        UNAUTHENTICATED
    )


@pytest.mark.parametrize("headers", FORGED)
@pytest.mark.parametrize(
    ("context", "principal"),
    [
        ({"identity": {"apiKeyId": "abc123"}}, "ci"),
        ({"identity": {"apiKeyId": "unmapped"}}, "unmapped"),
        ({"identity": {"userArn": SESSION + "a"}}, ROLE),
        ({"identity": {"userArn": SESSION + "a", "apiKeyId": "abc123"}}, ROLE),
        ({"identity": {}, "authorizer": {"principalId": "anna"}}, "authorizer:anna"),
        ({"identity": {"apiKeyId": "abc123"}, "authorizer": {"principalId": "anna"}}, "ci"),
        ({"identity": {}, "authorizer": {"claims": {"sub": "4711"}}}, "authorizer:4711"),
    ],
)
def test_gateway_identifies_the_caller(
    context: dict[str, Any], principal: str, headers: dict[str, str]
) -> None:
    """IAM, an API key or an authorizer identifies the caller, in this order; headers have no effect."""
    responses, log = invoke_application(factories.document(), *requests(context, headers))
    assert [response["statusCode"] for response in responses] == ["200", "200", "200"]
    assert json.loads(responses[1]["body"])["principal"] == principal
    assert {record.principal for record in log} == {principal}


@pytest.mark.parametrize(
    ("request_event", "profile"),
    [
        (proxy_event(body='{"csr": "x", "profile": "client"}', isBase64Encoded=False), "client"),
        (proxy_event(body='{"csr": "x", "profile": "nope"}', isBase64Encoded=False), ""),
        (proxy_event(body='{"csr": "x", "profile": ["client"]}', isBase64Encoded=False), "server"),
        (proxy_event(body="[" * 100_000, isBase64Encoded=False), "server"),
        (proxy_event("/sign.pem", queryStringParameters={"profile": "peer"}), "peer"),
        (
            est_event(resource="/.well-known/est/{label}/simpleenroll", pathParameters={"label": "client"}),
            "client",
        ),
    ],
)
def test_refusal_is_recorded_with_its_profile(request_event: dict[str, Any], profile: str) -> None:
    """The audit record of a refused caller names the requested profile, if it exists."""
    (response,), (record,) = invoke_application(factories.document(), {**request_event, **ANONYMOUS})
    assert (response["statusCode"], record.event, record.profile) == ("403", "refusal", profile)


def iam_event(arn: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Create the event of a caller that IAM authenticated."""
    return {**(request or proxy_event()), "requestContext": {"requestId": "x", "identity": {"userArn": arn}}}


@pytest.mark.parametrize(
    ("arn", "principal", "session"),
    [
        (SESSION + "i-0123456789abcdef0", ROLE, "i-0123456789abcdef0"),
        (SESSION + "anna@example.com", ROLE, "anna@example.com"),
        (SESSION + 'x\r\n{"event":"result"}\x1b[2J\u2028', ROLE, 'x\r\n{"event":"result"}\x1b[2J\u2028'),
        (
            "arn:aws-cn:sts::123456789012:assumed-role/a+=,.@-_/s",
            "arn:aws-cn:iam::123456789012:role/a+=,.@-_",
            "s",
        ),
        ("arn:aws-us-gov:sts::123456789012:assumed-role/r/s", "arn:aws-us-gov:iam::123456789012:role/r", "s"),
        *(
            (arn, arn, None)
            for arn in (
                "arn:aws:iam::123456789012:user/ci",
                "arn:aws:iam::123456789012:user/path/ci",
                "arn:aws:iam::123456789012:root",
                "arn:aws:sts::123456789012:federated-user/ci",
                ROLE,
                SESSION,
                SESSION.rstrip("/"),
                SESSION + "a/b",
                SESSION + "x" * 65,
                " " + SESSION + "a",
                "arn:aws:sts::123456789012:assumed-role//a",
                "arn:aws:sts::123456789012:assumed-role/c i/a",
                "arn:aws:sts::12345678901:assumed-role/ci/a",
                "arn:aws:sts::\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661:assumed-role/ci/a",
                "arn:aws:sts:eu-central-1:123456789012:assumed-role/ci/a",
                "arn:other:sts::123456789012:assumed-role/ci/a",
                "arn:aws:iam::123456789012:assumed-role/ci/a",
            )
        ),
    ],
)
def test_session_of_a_role_is_not_part_of_its_principal(
    arn: str, principal: str, session: str | None
) -> None:
    """All sessions of a role are one principal; only the audit log has their names, escaped in one line."""
    refused = iam_event(arn, proxy_event(body='{"csr": "x"}', isBase64Encoded=False))
    (response, _), log = invoke_application(factories.document(), iam_event(arn), refused)
    assert response["statusCode"] == "200"
    assert [record.event for record in log] == ["intent", "result", "refusal"]
    for record in log:
        line = audit.serialize(record)
        assert (json.loads(line)["principal"], json.loads(line).get("session")) == (principal, session)
        assert line[:-1].decode("ascii").isprintable()


def test_profile_permits_every_session_of_its_role() -> None:
    """A profile that names a role permits its sessions, with the names of the role, and refuses other roles."""
    overrides = {
        "profiles": {"server": {"principals": [ROLE]}},
        "principals": {ROLE: {"dns": {"permitted": ["example.com"]}}},
    }
    document = openapi.with_overrides(factories.document(), overrides)
    outside = json.dumps({"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.org"])).decode()})
    arns = (SESSION + "a", SESSION + "b", SESSION.replace("/ci/", "/ci2/") + "a", SESSION + "a/b")
    names = proxy_event(body=outside, isBase64Encoded=False)
    policy = openapi.parse_policy(document)
    events = [*map(iam_event, arns), iam_event(arns[0], names)]
    responses, _ = invoke_application(document, *events, policy=policy)
    assert [response["statusCode"] for response in responses] == ["200", "200", "403", "403", "422"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"profiles": {"server": {"principals": [SESSION + "a"]}}},
        {"profiles": {"server": {"principals": ["arn:aws-cn:sts::123456789012:assumed-role/ci"]}}},
        {"principals": {SESSION + "a": {"dns": {}}}},
    ],
)
def test_session_in_profiles_is_refused(overrides: dict[str, Any]) -> None:
    """No caller has such a name, so that restrictions for it would have no effect."""
    with pytest.raises(ProfileError, match=r"expected the name of a principal \(a role: arn:aws:iam::"):
        openapi.with_overrides(factories.document(), overrides)


def test_sessions_of_a_role_share_an_idempotency_key() -> None:
    """A retry from another session of the role returns the same certificate; from another role it does not."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": "deployment-1"}
    arns = (SESSION + "a", SESSION + "b", SESSION.replace("/ci/", "/ci2/") + "a")
    events = [iam_event(arn, proxy_event(headers=headers)) for arn in arns]
    responses, _ = invoke_application(factories.document(), *events)
    first, second, other = (json.loads(response["body"])["crt_pem"] for response in responses)
    assert first == second != other


CONTEXTS: dict[str, tuple[dict[str, Any], str, str]] = {
    # requestContext, public URL -> base of the URLs of ACME
    "stage": ({"domainName": "x.execute-api.example", "path": "/prod/acme/directory"}, "", "https://x.execute-api.example/prod"),
    "domain": ({"domainName": "ca.example", "path": "/acme/directory"}, "", "https://ca.example"),
    "base-path": ({"domainName": "ca.example", "path": "/a/b/acme/directory/"}, "", "https://ca.example/a/b"),
    "configured": ({"domainName": "x.example", "path": "/acme/directory"}, "https://ca.example/a", "https://ca.example/a"),
    "load-balancer": ({}, "https://ca.example", "https://ca.example"),
}  # fmt: skip


@pytest.mark.parametrize(("context", "configured", "expected"), CONTEXTS.values(), ids=CONTEXTS)
def test_urls_come_from_the_gateway_or_the_settings(
    tmp_path: Path, context: dict[str, Any], configured: str, expected: str
) -> None:
    """Not from the Host header, which is the caller's."""
    headers = {"Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    event = proxy_event("/acme/directory", "GET", headers=headers, requestContext=context)
    ledger = SqliteLedger(tmp_path / "ledger.db", lambda: datetime.now(UTC))
    ca = LoadedCA(factories.create_issuer(), factories.SERIAL_KEYS, acme_key=AcmeKey(bytes(32)))
    authority = factories.authority(load_ca=lambda: ca)
    store = AcmeStore(ledger, lambda: AcmePrincipals({}))
    application = app.create(factories.document(), authority, {}, configured, acme_store=store)
    response = awsgi.response(application, aws_lambda._normalise_event(event), None, ())
    directory = json.loads(response["body"])
    assert directory["newOrder"] == f"{expected}/acme/new-order"
    assert "evil" not in response["body"]
    ledger.close()


def token_requests() -> list[dict[str, Any]]:
    """The requests of all operations that issue, and of `GET /profiles/mine`."""
    batch = json.dumps({"requests": [{"csr": CSR_PEM}]})
    return [
        proxy_event(),
        with_headers(
            proxy_event("/sign.pem", body=CSR_PEM, isBase64Encoded=False),
            {"Content-Type": "application/pkcs10"},
        ),
        proxy_event("/sign/batch", body=batch, isBase64Encoded=False),
        est_event(),
        proxy_event("/profiles/mine", "GET"),
    ]


def with_headers(event: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    return {**event, "headers": {**event["headers"], **headers}, "multiValueHeaders": None}


@pytest.mark.parametrize("headers", FORGED)
def test_token_identifies_the_caller(headers: dict[str, str]) -> None:
    """The rule of the token is the caller, not the API key that all callers with tokens share."""
    events = [with_headers(token_event(request=request), headers) for request in token_requests()]
    responses, log = invoke_with_rules(*events)
    assert {response["statusCode"] for response in responses} == {"200"}
    assert "certificate" in json.loads(responses[2]["body"])["results"][0]
    mine = json.loads(responses[-1]["body"])
    assert (mine["principal"], mine["token_names"]) == ("oidc:deploy", NAMES)
    assert [profile["name"] for profile in mine["profiles"]] == ["server"]
    assert "names" not in mine
    assert {(record.event, record.principal) for record in log} == {
        ("intent", "oidc:deploy"),
        ("result", "oidc:deploy"),
    }


def test_api_key_has_no_names_of_a_token() -> None:
    (response,), _ = invoke_application(factories.document(), proxy_event("/profiles/mine", "GET"))
    assert "token_names" not in json.loads(response["body"])


def test_token_limits_profiles_and_names() -> None:
    """Its rule lists the profiles; its names apply besides those of the profile and of the principal."""
    outside = csrs.encode_pem(csrs.build(sans=["dns:a.example.org"])).decode()
    bodies = ({"csr": CSR_PEM}, {"csr": CSR_PEM, "profile": "client"}, {"csr": outside})
    requests = [proxy_event(body=json.dumps(body), isBase64Encoded=False) for body in bodies]
    responses, log = invoke_with_rules(*map(token_event_of, requests))
    assert [response["statusCode"] for response in responses] == ["200", "403", "422"]
    codes = [(error["code"], error["field"]) for error in json.loads(responses[2]["body"])["errors"]]
    assert codes == [("rejectedIdentifier", "subject_alt_name[0]")]
    assert log.kinds() == ["intent", "result", "refusal", "refusal"]


def token_event_of(request: dict[str, Any]) -> dict[str, Any]:
    return token_event(request=request)


COMPLETE = context()
NOT_OF_A_TOKEN: dict[str, dict[str, Any]] = {
    "only the prefix": {"principalId": "oidc:"},
    "an authorizer of the operator": {"principalId": "oidc:deploy"},
    "an incomplete context": {name: value for name, value in COMPLETE.items() if name != "names"},
    "no principal": {name: value for name, value in COMPLETE.items() if name != "principalId"},
    "no principal and an incomplete context": {"rule": "deploy", "tokenId": "b7b1-1"},
    "a list as principal": context(principalId=["oidc:deploy"]),
    "another rule as principal": context(principalId="oidc:admin"),
    "another rule in the context": context(rule="admin"),
    "the principal of an API key": context(principalId="api-key"),
    "the principal of an authorizer": context(principalId="anna"),
    "a rule that does not exist": context(TOKEN._replace(rule="other")),
    "a rule in upper case": context(TOKEN._replace(rule="DEPLOY")),
    "a boolean": context(isOnce=False),
    "a number": context(expiresAt=int(COMPLETE["expiresAt"])),
    "names that are an object": context(names=NAMES),
    "claims of a Cognito user pool": {"principalId": "oidc:deploy", "claims": {"sub": "anna"}},
}


@pytest.mark.parametrize("authorizer", NOT_OF_A_TOKEN.values(), ids=NOT_OF_A_TOKEN)
def test_malformed_context_of_a_token_is_refused(authorizer: dict[str, Any]) -> None:
    """The caller is not the shared API key instead, nor the principal of an authorizer."""
    requests = {"requestId": "x", "identity": {"apiKeyId": "abc123"}, "authorizer": authorizer}
    events = [{**request, "requestContext": requests} for request in token_requests()]
    responses, log = invoke_with_rules(*events)
    assert {response["statusCode"] for response in responses} == {"403"}
    assert {json.loads(response["body"])["code"] for response in responses} == {"unauthorized"}
    assert {(record.event, record.principal) for record in log} == {("refusal", "")}


@pytest.mark.parametrize(
    ("authorizer", "principal"),
    [
        ({"principalId": "anna", "issuer": "x", "subject": "y", "rule": "deploy"}, "authorizer:anna"),
        ({"principalId": "OIDC:deploy"}, "authorizer:OIDC:deploy"),
        ({"claims": {"sub": "oidc:deploy", "rule": "deploy"}}, "authorizer:oidc:deploy"),
    ],
)
def test_authorizer_of_the_operator_is_not_taken_for_a_token(
    authorizer: dict[str, Any], principal: str
) -> None:
    """It may have some of the members; the subject of a user pool is no rule."""
    event = proxy_event("/profiles/mine", "GET", requestContext={"identity": {}, "authorizer": authorizer})
    (response,), _ = invoke_with_rules(event)
    assert json.loads(response["body"])["principal"] == principal


def test_rule_may_be_an_operator(tmp_path: Path) -> None:
    """The role is that of the rule's principal. The records of both callers have the claims of their tokens."""
    log, ledger = factories.RecordingLog(), SqliteLedger(tmp_path / "ledger.db", lambda: datetime.now(UTC))
    authority = factories.authority(log, policy=POLICY, clock=lambda: datetime.now(UTC))
    store = AcmeStore(ledger, lambda: AcmePrincipals({}))
    application = app.create(DOCUMENT, authority, {"abc123": "ci"}, acme_store=store)
    issued = json.loads(invoke(application, token_event())[0]["body"])
    request = proxy_event(
        "/revoke", body=json.dumps({"certificate": issued["crt_pem"]}), isBase64Encoded=False
    )
    events = [token_event(TOKEN._replace(rule=rule), request) for rule in ("deploy", "admin")]
    responses = invoke(application, *events)
    assert [response["statusCode"] for response in responses] == ["403", "200"]
    assert [(record.event, record.principal) for record in log[2:]] == [
        ("refusal", "oidc:deploy"),
        ("revocation", "oidc:admin"),
    ]
    claims = (TOKEN.issuer, TOKEN.subject, TOKEN.token_id)
    assert {(record.token_issuer, record.token_subject, record.token_id) for record in log} == {claims}
    ledger.close()


HOSTILE = 'x\r\n{"event":"result"}\x1b[2J\u2028\u202e\0\ud800' + "\U0001f600" * 1000


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("token_issuer", TOKEN._replace(issuer=HOSTILE)),
        ("token_subject", TOKEN._replace(subject=HOSTILE)),
        ("token_id", TOKEN._replace(token_id=HOSTILE)),
    ],
)
def test_claims_of_a_token_are_recorded_in_one_line(name: str, token: TokenIdentity) -> None:
    """In each record, escaped, also in that of a refusal; the token itself never reaches the function."""
    refused = proxy_event(body='{"csr": "x"}', isBase64Encoded=False)
    _, log = invoke_with_rules(token_event(token), token_event(token, refused))
    assert log.kinds() == ["intent", "result", "refusal"]
    for record in log:
        line = audit.serialize(record)
        assert json.loads(line)[name] == HOSTILE
        assert line[:-1].decode("ascii").isprintable()


def test_caller_without_a_token_has_no_claims_in_its_records() -> None:
    _, log = invoke_application(factories.document(), proxy_event())
    assert not any("token" in audit.serialize(record).decode() for record in log)
