"""Who the caller is: what the gateway says, and no credentials that the caller wrote."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests import factories
from tests.lambda_events import ANYBODY, ask, est, event

ARN = "arn:aws:sts::123456789012:assumed-role/ci/session"

BASIC = "Basic " + base64.b64encode(b"any:abc123").decode()
NOBODY: list[dict[str, Any]] = [
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
    """The events of a caller: an API key's operations, and EST's, which takes HTTP Basic too."""
    claimed = {"requestContext": context, "apiKeyId": "abc123"}
    return [
        {**asked, **claimed, "headers": {**asked["headers"], **headers}}
        for asked in (event(), event("/profiles/mine", "GET"), est())
    ]


@pytest.mark.parametrize("headers", FORGED)
def test_forged_credentials_are_refused(headers: dict[str, str]) -> None:
    """A key in x-api-key, or as the password of HTTP Basic, is nobody's if requestContext has no apiKeyId."""
    asked = [each for context in NOBODY for each in requests(context, headers)]
    found, log = ask(factories.document(), *asked)
    assert {each["statusCode"] for each in found} == {"403"}
    assert {json.loads(each["body"])["code"] for each in found} == {"unauthorized"}
    assert [(each.event, each.principal) for each in log] == [("refusal", "")] * 2 * len(NOBODY)


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
def test_the_caller_is_whom_the_gateway_names(
    context: dict[str, Any], principal: str, headers: dict[str, str]
) -> None:
    """IAM's caller, else an API key's, else an authorizer's is served, whatever credentials the request has, or none."""
    found, log = ask(factories.document(), *requests(context, headers))
    assert [each["statusCode"] for each in found] == ["200", "200", "200"]
    assert json.loads(found[1]["body"])["principal"] == principal
    assert {each.principal for each in log} == {principal}


@pytest.mark.parametrize(
    ("asked", "profile"),
    [
        (event(body='{"csr": "x", "profile": "client"}', isBase64Encoded=False), "client"),
        (event(body='{"csr": "x", "profile": "nope"}', isBase64Encoded=False), ""),
        (event(body='{"csr": "x", "profile": ["client"]}', isBase64Encoded=False), "server"),
        (event(body="[" * 100_000, isBase64Encoded=False), "server"),
        (event("/sign.pem", queryStringParameters={"profile": "peer"}), "peer"),
        (est(path="/.well-known/est/client/simpleenroll"), "client"),
    ],
)
def test_a_refusal_is_recorded_with_its_profile(asked: dict[str, Any], profile: str) -> None:
    """A refused caller's line names the profile that was asked for, if there is one of that name."""
    (answer,), (line,) = ask(factories.document(), {**asked, **ANYBODY})
    assert (answer["statusCode"], line.event, line.profile) == ("403", "refusal", profile)
