"""The table against LocalStack 4.13.1, with the document imported by `put_rest_api`.

It proves that the document imports there and behaves so; not that AWS will not warn. What it does not
implement is listed in the table, by the name of each row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import api_gateway
from tests import factories, localstack, servers
from tests.gateway import cases
from tests.gateway.cases import CERTLET, Row
from tests.gateway.test_apigw_cases import judge
from tests.servers import Response

Ask = Callable[[Row], Response]
FOR_LOCALSTACK = (factories.document(), localstack.REGION, "0" * 12, "certlet")


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """LocalStack, with the contract imported, imported again as an update does, deployed, and a key."""
    with localstack.running_localstack(tmp_path_factory.mktemp("localstack")) as endpoint:
        site = servers.HttpService(
            localstack.deploy_api(endpoint, api_gateway.for_api_gateway(*FOR_LOCALSTACK))
        )
        yield lambda row: site.request(row.method, row.path, row.content, row.send)


def test_the_contract_with_est_imports(tmp_path: Path) -> None:
    """With EST it imports without a warning; and the keys' source, the authorizer and what needs both are there."""
    with localstack.running_localstack(tmp_path) as endpoint:
        client = localstack.client(endpoint, "apigateway")
        document = api_gateway.for_api_gateway(*FOR_LOCALSTACK, api_gateway.Options(est=True))
        made = client.import_rest_api(failOnWarnings=True, body=json.dumps(document))
        assert made["apiKeySource"] == "AUTHORIZER"
        (authorizer,) = client.get_authorizers(restApiId=made["id"])["items"]
        assert authorizer["type"] == "REQUEST"
        assert authorizer["authorizerUri"].endswith(":function:certlet/invocations")
        assert authorizer["authorizerResultTtlInSeconds"] == 0
        assert not authorizer.get("identitySource")
        for each in client.get_resources(restApiId=made["id"], limit=500, embed=["methods"])["items"]:
            for verb, method in each.get("resourceMethods", {}).items():
                stated = document["paths"][each["path"]].get(verb.lower(), {}).get("security")
                assert method["apiKeyRequired"] == bool(stated), (each["path"], verb)
                assert method["authorizationType"] == ("CUSTOM" if stated else "NONE"), (each["path"], verb)


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
        assert {resource["path"] for resource in resources} - {"/"} == set(document["paths"])
        methods = [
            method for resource in resources for method in resource.get("resourceMethods", {}).values()
        ]
        assert len(methods) > 20
        assert not any(method["apiKeyRequired"] for method in methods)


@pytest.mark.parametrize("row", [row for row in CERTLET if row.localstack is True], ids=lambda row: row.name)
def test_the_contract_through_localstack(ask: Ask, row: Row) -> None:
    """Each row that LocalStack implements has the very same answer there."""
    judge(row, ask(row))


DIFFERENT = [row for row in CERTLET if isinstance(row.localstack, str) and row.localstack[0].isdigit()]


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: row.name)
def test_where_localstack_differs(ask: Ask, row: Row) -> None:
    """Where LocalStack is known to answer otherwise it does so as the table says, so that news is noticed."""
    answer = ask(row)
    assert answer.status == int(str(row.localstack)[:3])
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()) == {"message"}
    if "x-amzn-ErrorType" in row.headers:
        assert answer.headers["x-amzn-ErrorType"] == row.headers["x-amzn-ErrorType"]


def test_what_localstack_does_not_implement_is_listed() -> None:
    """Every row that is not asked there has its reason."""
    silent = [row for row in CERTLET if row.localstack is not True and row not in DIFFERENT]
    assert {row.localstack for row in silent} == {cases.NO_LAMBDA, cases.NO_EST}
    print({row.name: row.localstack for row in silent})  # noqa: T201 - shown by -rA
