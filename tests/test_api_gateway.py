"""The contract as API Gateway imports it, and the rules of deploy/lint.py."""

from __future__ import annotations

import copy
import fnmatch
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from openapi_spec_validator import validate

from deploy import lint
from service import api_gateway, openapi
from service.api_gateway import Auth, Options
from service.openapi import OpenAPIDocument
from tests import factories

DOCUMENT = factories.document()
PATHS = openapi.with_greedy_parameters(DOCUMENT)["paths"]
INTEGRATION = "x-amazon-apigateway-integration"


def render(**options: Any) -> OpenAPIDocument:
    """Render the contract for API Gateway."""
    return api_gateway.for_api_gateway(
        DOCUMENT, "eu-central-1", "123456789012", "certlet", Options(**options)
    )


RENDERED = render()
WITH_EST = render(est=True)
WITH_OIDC = render(oidc=True)
WITH_BOTH = render(est=True, oidc=True)
WITH_IAM = render(auth=Auth.IAM)
ENDPOINTS = ("vpce-0123456789abcdef0", "vpce-01234567")
PRIVATE = render(vpc_endpoints=ENDPOINTS)
PRIVATE_WITH_IAM = render(auth=Auth.IAM, vpc_endpoints=ENDPOINTS, disable_execute_api_endpoint=True)
WITH_URL = render(auth=Auth.IAM, public_url="https://pki.example.com", disable_execute_api_endpoint=True)
ALL = [RENDERED, WITH_EST, WITH_OIDC, WITH_BOTH, WITH_IAM, PRIVATE, PRIVATE_WITH_IAM, WITH_URL]
ENDPOINT_CONFIGURATION = "x-amazon-apigateway-endpoint-configuration"
GATEWAY_RESPONSES = "x-amazon-apigateway-gateway-responses"
POLICY = "x-amazon-apigateway-policy"


@pytest.mark.parametrize("document", ALL)
def test_rendered_document_is_openapi(document: OpenAPIDocument) -> None:
    """What API Gateway imports is valid OpenAPI 3.0, except for the path with `{request+}`."""
    greedy = [path for path in document["paths"] if "+" in path]
    assert greedy == ["/ocsp/{request+}"]
    paths = {path.replace("+}", "}"): item for path, item in document["paths"].items()}
    validate({**document, "paths": paths})


@pytest.mark.parametrize(("feature", "need"), [("est", "HTTP Basic"), ("oidc", "tokens")])
def test_options_with_an_authorizer_and_iam_exclude_each_other(feature: str, need: str) -> None:
    """A method has one authorizer: either IAM or the one that reads HTTP Basic and tokens."""
    options: dict[str, Any] = {feature: True}
    assert Options(auth=Auth.IAM) != Options(**options)
    message = f"has one authorizer: use either IAM or {feature.upper()}, which needs the one for {need}"
    with pytest.raises(ValueError, match=message):
        Options(**options, auth=Auth.IAM)


@pytest.mark.parametrize("document", ALL)
def test_api_gateway_document_passes_lint(document: OpenAPIDocument) -> None:
    """The output of `certlet openapi` passes every rule of the lint, with each option."""
    assert lint.violations(document) == []


def test_api_gateway_document_has_no_est_by_default() -> None:
    """By default AWS gets neither EST's paths, nor HTTP Basic, nor an authorizer."""
    assert not [path for path in RENDERED["paths"] if path.startswith("/.well-known/")]
    assert list(RENDERED["components"]["securitySchemes"]) == ["apiKey"]
    for document in (RENDERED, WITH_IAM, PRIVATE):  # an import merges over the API, which may have had EST
        assert document["x-amazon-apigateway-api-key-source"] == "HEADER"
    for document in (WITH_EST, WITH_BOTH):
        assert set(document["paths"]) == set(PATHS)
    assert set(WITH_OIDC["paths"]) == set(RENDERED["paths"])


@pytest.mark.parametrize("document", [RENDERED, PRIVATE])
def test_api_gateway_document_has_no_tokens_by_default(document: OpenAPIDocument) -> None:
    """By default, and with EST, no operation accepts a token."""
    assert {json.dumps(requirements) for requirements in security(document).values()} == {
        "[]",
        '[{"apiKey": []}]',
    }
    assert any({"bearer": []} in operation["security"] for operation in PATHS["/sign"].values())
    for rendered in (document, WITH_EST):
        assert "invalid_token" not in json.dumps(rendered[GATEWAY_RESPONSES])


@pytest.mark.parametrize("document", [WITH_EST, WITH_OIDC, WITH_BOTH])
def test_authorizer_is_used_for_every_key(document: OpenAPIDocument) -> None:
    """An API has one source of keys, so exactly the operations that need a key name the authorizer."""
    assert document["x-amazon-apigateway-api-key-source"] == "AUTHORIZER"
    assert list(document["components"]["securitySchemes"]) == ["apiKey", "authorizer"]
    for path, method in security(document):
        operation = PATHS[path].get(method) or PATHS[path]["get"]  # HEAD
        assert security(document)[path, method] == (
            [{"apiKey": []}, {"authorizer": []}] if operation["security"] else []
        )
    scheme = document["components"]["securitySchemes"]["authorizer"]
    assert (scheme["type"], scheme["name"], scheme["in"]) == ("apiKey", "Unused", "header")
    assert scheme["x-amazon-apigateway-authorizer"] == {
        "type": "request",
        "authorizerUri": document["paths"]["/sign"]["post"][INTEGRATION]["uri"],
        "authorizerResultTtlInSeconds": 0,
    }


def test_gateway_responses_about_tokens_are_those_of_the_local_gateway() -> None:
    """A refused token is 401 with the authorizer's reason; keys that are not available are 503."""
    refused, failed = (
        DOCUMENT["x-gateway-responses"][kind] for kind in ("INVALID_TOKEN", "TOKEN_KEYS_UNAVAILABLE")
    )
    for document, without in ((WITH_OIDC, RENDERED), (WITH_BOTH, WITH_EST)):
        responses, others = document[GATEWAY_RESPONSES], without[GATEWAY_RESPONSES]
        changed = {kind for kind in responses if responses[kind] != others.get(kind)}
        assert changed == {"ACCESS_DENIED", "AUTHORIZER_FAILURE", "AUTHORIZER_CONFIGURATION_ERROR"}
        assert responses.keys() == others.keys()
        denied = responses["ACCESS_DENIED"]
        problem = json.loads(denied["responseTemplates"]["application/json"])
        assert (denied["statusCode"], problem["status"], problem["code"]) == ("401", 401, "unauthorized")
        assert problem["detail"] == "$context.authorizer.reason"
        assert denied["responseParameters"] == refused["responseParameters"]
        assert "invalid_token" in denied["responseParameters"]["gatewayresponse.header.WWW-Authenticate"]
        for kind in changed - {"ACCESS_DENIED"}:
            problem = json.loads(responses[kind]["responseTemplates"]["application/json"])
            assert (responses[kind]["statusCode"], problem["status"], problem["code"]) == (
                "503",
                503,
                "unavailable",
            )
            assert responses[kind]["responseParameters"] == failed["responseParameters"]
            assert "try again" in problem["detail"].lower()


def test_wrong_key_is_401_with_est() -> None:
    """API Gateway checks the key after the authorizer, and HTTP Basic requires 401 with WWW-Authenticate."""
    header = "gatewayresponse.header.WWW-Authenticate"
    plain, with_est = (document[GATEWAY_RESPONSES] for document in (RENDERED, WITH_EST))
    invalid, unauthorized = with_est["INVALID_API_KEY"], with_est["UNAUTHORIZED"]
    problem = json.loads(invalid["responseTemplates"]["application/json"])
    assert (invalid["statusCode"], problem["status"], problem["code"]) == ("401", 401, "unauthorized")
    assert invalid["responseParameters"] == plain["INVALID_API_KEY"]["responseParameters"] | {
        header: unauthorized["responseParameters"][header]
    }
    assert with_est.keys() == plain.keys()
    assert [kind for kind in plain if with_est[kind] != plain[kind]] == ["INVALID_API_KEY"]
    assert plain["INVALID_API_KEY"]["statusCode"] == "403"
    assert header not in plain["INVALID_API_KEY"]["responseParameters"]


def test_401_is_documented_where_a_key_is_required() -> None:
    """With EST or tokens exactly the operations with a key document 401; without them none does."""
    for document in (WITH_EST, WITH_OIDC, WITH_BOTH):
        operations = security(document)
        documented = {
            (path, method)
            for path, method in operations
            if "401" in document["paths"][path][method]["responses"]
        }
        assert documented == {operation for operation, requirements in operations.items() if requirements}
        response = document["paths"]["/sign"]["post"]["responses"]["401"]
        assert {"WWW-Authenticate", "Access-Control-Allow-Origin"} <= response["headers"].keys()
        assert response["content"].keys() == {"application/problem+json"}
    for document in (RENDERED, WITH_IAM):
        assert not [
            operation
            for operation in security(document)
            if "401" in document["paths"][operation[0]][operation[1]]["responses"]
        ]


def security(document: OpenAPIDocument) -> dict[tuple[str, str], list[dict[str, list[str]]]]:
    """Return the security of each operation, (path, method) -> security."""
    return {
        (path, method): operation["security"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_iam_replaces_the_api_key() -> None:
    """With IAM exactly the operations that need an API key by default need a signature, and no key."""
    assert WITH_IAM["components"]["securitySchemes"] == {
        "sigv4": {
            "type": "apiKey",
            "name": "Authorization",
            "in": "header",
            "x-amazon-apigateway-authtype": "awsSigv4",
        }
    }
    assert security(WITH_IAM) == {
        operation: [{"sigv4": []}] if requirements else []
        for operation, requirements in security(RENDERED).items()
    }
    assert security(WITH_IAM)["/sign", "post"] == [{"sigv4": []}]


def test_head_is_a_copy_of_get() -> None:
    """Each path with GET has HEAD, with the same security and integration, but no operationId.

    The contract itself has a HEAD of ACME's new-nonce, with another status.
    """
    for document in ALL:
        assert {path for path, item in document["paths"].items() if "head" in item} == {
            path for path, item in document["paths"].items() if "get" in item
        }
        for path, item in document["paths"].items():
            if "head" in item and path != "/acme/new-nonce":
                assert {**item["head"], "operationId": item["get"]["operationId"]} == item["get"]


def test_gateway_responses_with_iam_are_about_signatures() -> None:
    """With IAM no gateway response mentions API keys; one for unsigned requests is 403, not 404."""
    responses = WITH_IAM[GATEWAY_RESPONSES]
    assert "API key" not in json.dumps(responses)
    assert "API key" in json.dumps(RENDERED[GATEWAY_RESPONSES])
    assert RENDERED[GATEWAY_RESPONSES].keys() - responses.keys() == {"INVALID_API_KEY", "UNAUTHORIZED"}
    for kind in ("ACCESS_DENIED", "EXPIRED_TOKEN", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN"):
        problem = json.loads(responses[kind]["responseTemplates"]["application/json"])
        assert (responses[kind]["statusCode"], problem["status"], problem["code"]) == (
            "403",
            403,
            "unauthorized",
        )
    assert "Signature Version 4" in problem["detail"]
    assert RENDERED[GATEWAY_RESPONSES]["MISSING_AUTHENTICATION_TOKEN"]["statusCode"] == "404"


def is_allowed(document: OpenAPIDocument, resource: str, endpoint: str) -> bool:
    """Evaluate the resource policy for an anonymous request from a VPC endpoint."""
    effects = {
        statement["Effect"]
        for statement in document[POLICY]["Statement"]
        if any(fnmatch.fnmatchcase(f"execute-api:/{resource}", pattern) for pattern in statement["Resource"])
        and endpoint
        not in statement.get("Condition", {}).get("StringNotEquals", {}).get("aws:SourceVpce", ())
    }
    return effects == {"Allow"}


def test_private_api_admits_only_its_vpc_endpoints() -> None:
    """The resource policy admits requests from each endpoint, and no others; a public API has no policy."""
    for endpoint in ENDPOINTS:
        assert is_allowed(PRIVATE, "prod/POST/sign", endpoint)
    assert not is_allowed(PRIVATE, "prod/POST/sign", "vpce-00000000")
    for document in (RENDERED, WITH_EST, WITH_IAM):
        assert POLICY not in document


def test_policy_of_private_api_with_iam_allows_only_unsigned_operations() -> None:
    """An Allow for an operation with IAM would admit callers whose own IAM policies do not allow it."""
    for resource in ("GET/", "DELETE/", "GET/sign", "OPTIONS/sign", "GET/ca.crt", "DELETE/profiles/mine"):
        assert is_allowed(PRIVATE_WITH_IAM, f"prod/{resource}", ENDPOINTS[0])
        assert not is_allowed(PRIVATE_WITH_IAM, f"prod/{resource}", "vpce-00000000")
    for resource in ("POST/sign", "POST/sign/", "POST/sign.pem", "POST/sign/batch", "GET/profiles/mine"):
        assert not is_allowed(PRIVATE_WITH_IAM, f"prod/{resource}", ENDPOINTS[0])


@pytest.mark.parametrize(
    ("options", "configuration"),
    [
        ({}, None),
        ({"vpc_endpoints": ENDPOINTS}, {"vpcEndpointIds": list(ENDPOINTS)}),
        ({"disable_execute_api_endpoint": True}, {"disableExecuteApiEndpoint": True}),
    ],
)
def test_endpoint_configuration_is_in_the_server(
    options: dict[str, Any], configuration: dict[str, Any] | None
) -> None:
    """API Gateway reads the configuration of an OpenAPI 3.0 document from its server, not from the top level."""
    document = render(**options)
    (server,) = document["servers"]
    assert server.get(ENDPOINT_CONFIGURATION) == configuration
    assert ENDPOINT_CONFIGURATION not in document


def test_public_url_is_the_base_of_problem_types() -> None:
    """Each gateway response and mock has an absolute type, those for IAM too, and the server is the URL."""
    template = r'\\"type\\":\\"([^"]*)/problems#'
    assert set(re.findall(template, json.dumps(WITH_URL))) == {"https://pki.example.com"}
    assert set(re.findall(template, json.dumps(WITH_IAM))) == {""}
    assert WITH_URL["servers"] == [
        {"url": "https://pki.example.com", ENDPOINT_CONFIGURATION: {"disableExecuteApiEndpoint": True}}
    ]


def schema(document: Any) -> Any:
    return document["components"]["schemas"]["SignRequest"]["properties"]["text"]


def sign(document: Any) -> Any:
    return document["paths"]["/sign"]["post"]


def form(document: Any) -> Any:
    return document["paths"]["/sign"]["get"]


def authorizer_scheme(uri: object) -> dict[str, Any]:
    return {"type": "apiKey", "x-amazon-apigateway-authorizer": {"authorizerUri": uri}}


def iam(document: Any) -> object:
    document["components"]["securitySchemes"].update(WITH_IAM["components"]["securitySchemes"])
    return sign(document).update(security=[{"sigv4": []}])


def configure(document: Any, **configuration: object) -> None:
    document["servers"][0][ENDPOINT_CONFIGURATION] = configuration


ALLOW = {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": ["execute-api:/*"]}
BREAKS: list[tuple[lint.Rule, Callable[[dict[str, Any]], object]]] = [
    (lint.openapi_version, lambda d: d.update(openapi="3.1.0")),
    (lint.schema_names, lambda d: d["components"]["schemas"].update({"Bad_Name-1": {"type": "object"}})),
    *[
        (lint.schema_keywords, lambda d, k=keyword: schema(d).update({k: True}))
        for keyword in ("nullable", "discriminator", "example", "readOnly", "default", "exclusiveMinimum")
    ],
    (lint.references, lambda d: schema(d).update({"$ref": "other.yaml#/X"})),
    (
        lint.recursive_compositions,
        lambda d: d["components"]["schemas"]["Reason"].update(
            oneOf=[{"$ref": "#/components/schemas/Reason"}]
        ),
    ),
    (
        lint.response_schemas,
        lambda d: sign(d)["responses"]["200"]["content"].update({"text/plain": {"schema": {"type": "string"}}}),
    ),
    (lint.operation_security, lambda d: d.update(security=[{"apiKey": []}])),
    (lint.operation_security, lambda d: sign(d).pop("security")),
    (lint.paths, lambda d: d["paths"].update({"/a/{b}c": {"x-amazon-apigateway-any-method": sign(d)}})),
    (lint.paths, lambda d: d["paths"].update({"/ping": d["paths"]["/ca"]})),
    (lint.paths, lambda d: d["paths"].update({"/a~b": d["paths"]["/ca"]})),
    (lint.paths, lambda d: d["paths"].update({"/ca/": d["paths"]["/ca"]})),
    (lint.paths, lambda d: d["paths"].update({"//": d["paths"]["/ca"]})),
    (lint.sizes, lambda d: form(d)[INTEGRATION]["requestTemplates"].update({"a/b": "x" * 307_201})),
    (lint.sizes, lambda d: d["info"].update(description="x" * 6_291_456)),
    (lint.timeouts, lambda d: sign(d)[INTEGRATION].update(timeoutInMillis=29_001)),
    (lint.validators, lambda d: sign(d).update({"x-amazon-apigateway-request-validator": "all"})),
    (lint.validators, lambda d: d.update({"x-amazon-apigateway-request-validator": "parameters"})),
    (lint.integrations, lambda d: sign(d).pop(INTEGRATION)),
    (lint.integrations, lambda d: sign(d)[INTEGRATION].update(httpMethod="GET")),
    (lint.integrations, lambda d: sign(d)[INTEGRATION].update(uri={"Fn::Sub": "x"})),
    (lint.integrations, lambda d: sign(d)[INTEGRATION].update(uri="arn:${AWS::Partition}:x")),
    (lint.mocks, lambda d: d.pop("x-amazon-apigateway-binary-media-types")),
    (lint.mocks, lambda d: form(d)[INTEGRATION].pop("contentHandling")),
    (lint.mocks, lambda d: form(d)[INTEGRATION]["responses"]["default"].pop("contentHandling")),
    (lint.mocks, lambda d: form(d)[INTEGRATION].update(passthroughBehavior="when_no_match")),
    (lint.mocks, lambda d: form(d)[INTEGRATION]["requestTemplates"].update({"text/plain": "$input.body"})),
    (lint.response_headers, lambda d: form(d)["responses"]["200"]["headers"].pop("Referrer-Policy")),
    (lint.gateway_responses, lambda d: d["x-amazon-apigateway-gateway-responses"].update(NONE={})),
    (lint.gateway_responses, lambda d: d["x-amazon-apigateway-gateway-responses"].update(INVALID_TOKEN={})),
    (
        lint.gateway_responses,
        lambda d: d["x-amazon-apigateway-gateway-responses"]["THROTTLED"]["responseTemplates"].update(
            {"application/problem+json": "{}"}
        ),
    ),
    (lint.extensions, lambda d: sign(d).update({"x-mine": 1})),
    (lint.security_schemes, lambda d: d["components"]["securitySchemes"].update(basic={"type": "http", "scheme": "basic"})),
    (lint.security_schemes, lambda d: d["components"]["securitySchemes"].update(a=authorizer_scheme({"Fn::Sub": "arn:x"}))),
    (lint.security_schemes, lambda d: d["components"]["securitySchemes"].update(a=authorizer_scheme("arn:${AWS::Region}"))),
    (lint.security_schemes, lambda d: sign(d).update(security=[{"apiKey": []}, {"bearer": []}])),
    (lint.authorizers, lambda d: d.update({"x-amazon-apigateway-api-key-source": "AUTHORIZER"})),
    (lint.authorizers, lambda d: (iam(d), d["components"]["securitySchemes"].update(a={"x-amazon-apigateway-authtype": "custom"}), sign(d)["security"].append({"a": []}))),
    (lint.endpoint_configurations, lambda d: d.update({ENDPOINT_CONFIGURATION: {}})),
    (lint.endpoint_configurations, lambda d: configure(d, types=["PRIVATE"])),
    (lint.endpoint_configurations, lambda d: configure(d, disableExecuteApiEndpoint="true")),
    (lint.endpoint_configurations, lambda d: configure(d, vpcEndpointIds=["vpc-01234567"])),
    (lint.resource_policies, lambda d: configure(d, vpcEndpointIds=["vpce-01234567"])),
    (lint.resource_policies, lambda d: d.update({POLICY: PRIVATE[POLICY]})),
    (lint.resource_policies, lambda d: d.update({POLICY: {"Statement": [{**ALLOW, "Action": "*"}]}})),
    (lint.resource_policies, lambda d: d.update({POLICY: {"Statement": [{**ALLOW, "Resource": ["x" * 8192]}]}})),
    (lint.iam_policies, lambda d: (iam(d), d.update({POLICY: {"Statement": [ALLOW]}}))),
    (lint.iam_policies, lambda d: (iam(d), d.update({POLICY: {"Statement": [{**ALLOW, "Resource": ["execute-api:/*/*/"]}]}}))),
    (lint.ascii_texts, lambda d: d["info"].update(description="caf\u00e9")),
    (lint.ascii_texts, lambda d: schema(d).update({"caf\u00e9": 1})),
    (lint.ascii_texts, lambda d: sign(d).update(tags=["sign", "caf\u00e9"])),
    (lint.any_methods, lambda d: d["paths"]["/ca"].pop("x-amazon-apigateway-any-method")),
    (lint.any_methods, lambda d: d["paths"]["/ca"].update(options=form(d))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), BREAKS)
def test_lint_rule_finds_its_violation(rule: lint.Rule, change: Callable[[dict[str, Any]], object]) -> None:
    """Each rule finds the violation in a document that breaks it."""
    document = copy.deepcopy(RENDERED)
    change(document)
    assert list(rule(document))


def test_every_lint_rule_has_a_violation_case() -> None:
    """Each rule has a document that breaks it."""
    assert {rule for rule, _ in BREAKS} == set(lint.RULES)


def test_rendering_resolves_addresses() -> None:
    """An aws_proxy integration has the function's ARN in the region's partition."""
    partitions = {"eu-central-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov"}
    for region, partition in partitions.items():
        rendered = api_gateway.for_api_gateway(DOCUMENT, region, "123456789012", "certlet")
        assert rendered["paths"]["/ca"]["get"][INTEGRATION]["uri"] == (
            f"arn:{partition}:apigateway:{region}:lambda:path/2015-03-31/functions/"
            f"arn:{partition}:lambda:{region}:123456789012:function:certlet/invocations"
        )


def test_rendering_keeps_names_that_look_like_keywords() -> None:
    """A property called `default` and an integration's `default` response are not documentation."""
    assert "default" in RENDERED["components"]["schemas"]["ProfileList"]["properties"]
    assert "default" in RENDERED["paths"]["/sign"]["get"][INTEGRATION]["responses"]
    assert "default" not in RENDERED["components"]["schemas"]["ProfileName"]


def test_rendering_leaves_links_out() -> None:
    """Links, which only testers of the contract use, are not rendered; test_examples.py checks examples."""
    assert "links" in DOCUMENT["paths"]["/profiles"]["get"]["responses"]["200"]
    assert "links" not in RENDERED["paths"]["/profiles"]["get"]["responses"]["200"]
