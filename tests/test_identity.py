"""The gateway identifies the caller; credentials in the request do not count."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests import factories
from tests.lambda_events import ANONYMOUS, est_event, invoke_application, proxy_event

ARN = "arn:aws:sts::123456789012:assumed-role/ci/session"

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
        ({"identity": {"userArn": ARN}}, ARN),
        ({"identity": {"userArn": ARN, "apiKeyId": "abc123"}}, ARN),
        ({"identity": {}, "authorizer": {"principalId": "anna"}}, "authorizer:anna"),
        ({"identity": {"apiKeyId": "abc123"}, "authorizer": {"principalId": "anna"}}, "ci"),
        ({"identity": {}, "authorizer": {"claims": {"sub": "4711"}}}, "authorizer:4711"),
    ],
)
def test_gateway_identifies_the_caller(
    context: dict[str, Any], principal: str, headers: dict[str, str]
) -> None:
    """The principal is that of IAM, an API key or an authorizer, in this order, whatever the headers contain."""
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
