"""The table's cases against LocalStack 4.13.1, with the document imported by `put_rest_api`.

They prove that LocalStack imports the document without a warning, not that AWS does. The table lists what
LocalStack does not implement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import api_gateway
from tests import factories, localstack, servers
from tests.gateway import cases
from tests.gateway.cases import CERTLET, Case
from tests.gateway.test_apigw_cases import assert_response
from tests.servers import Response

Send = Callable[[Case], Response]
FOR_LOCALSTACK = (factories.document(), localstack.REGION, "0" * 12, "certlet")


@pytest.fixture(scope="module")
def send(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Send]:
    """Send cases to LocalStack, with the contract imported, updated and deployed, and an API key."""
    with localstack.running_localstack(tmp_path_factory.mktemp("localstack")) as endpoint:
        url = localstack.deploy_api(endpoint, api_gateway.for_api_gateway(*FOR_LOCALSTACK))
        service = servers.HttpService(url)
        yield lambda case: service.request(case.method, case.path, case.content, case.send)


@pytest.mark.parametrize(
    "options",
    [
        api_gateway.Options(est=True),
        api_gateway.Options(oidc=True),
        api_gateway.Options(est=True, oidc=True),
    ],
    ids=["est", "oidc", "both"],
)
def test_contract_with_an_authorizer_is_imported(tmp_path: Path, options: api_gateway.Options) -> None:
    """With EST or tokens, the import has no warning, and the authorizer and the source of API keys are set.

    LocalStack runs no function without a container engine, so it calls no authorizer. The events that the
    authorizer and its callers get are in tests/test_aws_lambda_tokens.py.
    """
    with localstack.running_localstack(tmp_path) as endpoint:
        client = localstack.client(endpoint, "apigateway")
        document = api_gateway.for_api_gateway(*FOR_LOCALSTACK, options)
        api = client.import_rest_api(failOnWarnings=True, body=json.dumps(document))
        assert api["apiKeySource"] == "AUTHORIZER"
        (authorizer,) = client.get_authorizers(restApiId=api["id"])["items"]
        assert authorizer["type"] == "REQUEST"
        assert authorizer["authorizerUri"].endswith(":function:certlet/invocations")
        assert authorizer["authorizerResultTtlInSeconds"] == 0
        assert not authorizer.get("identitySource")
        for resource in client.get_resources(restApiId=api["id"], limit=500, embed=["methods"])["items"]:
            path = resource["path"]
            for verb, method in resource.get("resourceMethods", {}).items():
                security = document["paths"][path].get(verb.lower(), {}).get("security")
                assert method["apiKeyRequired"] == bool(security), (path, verb)
                assert method["authorizationType"] == ("CUSTOM" if security else "NONE"), (path, verb)


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer x"}, {"x-api-key": servers.API_KEY}])
def test_requests_without_a_result_of_the_authorizer_are_refused(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """LocalStack calls no authorizer, so no request has a key: not even that of the usage plan is accepted."""
    document = api_gateway.for_api_gateway(*FOR_LOCALSTACK, api_gateway.Options(oidc=True))
    with localstack.running_localstack(tmp_path) as endpoint:
        service = servers.HttpService(localstack.deploy_api(endpoint, document))
        response = service.request("POST", "/sign", b"{}", {"Content-Type": "application/json", **headers})
    assert (response.status, response.headers["x-amzn-ErrorType"]) == (403, "ForbiddenException")


def test_private_contract_with_iam_imports(tmp_path: Path) -> None:
    """It imports without a warning, and no operation requires an API key. LocalStack ignores awsSigv4."""
    options = api_gateway.Options(
        auth=api_gateway.Auth.IAM,
        public_url="https://pki.example.com/certlet",
        vpc_endpoints=("vpce-0123456789abcdef0",),
    )
    with localstack.running_localstack(tmp_path) as endpoint:
        client = localstack.client(endpoint, "apigateway")
        document = api_gateway.for_api_gateway(*FOR_LOCALSTACK, options)
        api = client.import_rest_api(failOnWarnings=True, body=json.dumps(document))
        assert "vpce-0123456789abcdef0" in api["policy"]
        resources = client.get_resources(restApiId=api["id"], limit=500, embed=["methods"])["items"]
        paths = {resource["path"] for resource in resources if "resourceMethods" in resource}
        assert paths == set(document["paths"])
        methods = [
            method for resource in resources for method in resource.get("resourceMethods", {}).values()
        ]
        assert len(methods) > 20
        assert not any(method["apiKeyRequired"] for method in methods)


@pytest.mark.parametrize(
    "case", [case for case in CERTLET if case.localstack is True], ids=lambda case: case.name
)
def test_contract_case_through_localstack(send: Send, case: Case) -> None:
    """LocalStack sends the same response to each case that it implements."""
    assert_response(case, send(case))


DIFFERENT = [case for case in CERTLET if isinstance(case.localstack, str) and case.localstack[0].isdigit()]


@pytest.mark.parametrize("case", DIFFERENT, ids=lambda case: case.name)
def test_known_localstack_difference_still_occurs(send: Send, case: Case) -> None:
    """LocalStack's response still differs as the table states."""
    response = send(case)
    assert response.status == int(str(case.localstack)[:3])
    assert response.headers["Content-Type"] == "application/json"
    assert set(response.json()) == {"message"}
    if "x-amzn-ErrorType" in case.headers:
        assert response.headers["x-amzn-ErrorType"] == case.headers["x-amzn-ErrorType"]


def test_every_skipped_case_has_a_reason() -> None:
    """Cases that are not sent to LocalStack have a reason."""
    skipped = [case for case in CERTLET if case.localstack is not True and case not in DIFFERENT]
    assert {case.localstack for case in skipped} == {cases.NO_LAMBDA, cases.NO_EST}
    print({case.name: case.localstack for case in skipped})  # noqa: T201 - shown by -rA
