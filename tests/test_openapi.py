from __future__ import annotations

import base64
import copy
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import airspeed
import flask
import pytest
import yaml
from openapi_spec_validator import validate

from deploy import lint
from service import openapi
from service.gateway import events
from service.gateway.routes import ERROR_TYPES, GatewayError
from service.pki import errors
from service.web import problems
from service.web.est import Est
from service.web.operations import Operations
from tests import factories

DOCUMENT = factories.document()
RENDERED = openapi.for_api_gateway(DOCUMENT, "eu-central-1", "123456789012", "certlet")
WITH_EST = openapi.for_api_gateway(DOCUMENT, "eu-central-1", "123456789012", "certlet", est=True)
PAGES = {
    path: DOCUMENT["paths"][path]["get"]["x-amazon-apigateway-integration"]["responses"]["default"]
    for path in ("/sign", "/problems")
}


def test_rendered_documents_are_valid_openapi() -> None:
    """The contract and the documents for API Gateway are valid OpenAPI 3.0."""
    validate(DOCUMENT)
    validate(RENDERED)
    validate(WITH_EST)


def test_api_gateway_document_passes_lint() -> None:
    """The output of `certlet openapi` follows the rules of API Gateway's import, with and without EST."""
    assert lint.violations(RENDERED) == []
    assert lint.violations(WITH_EST) == []


def test_api_gateway_document_has_no_est_by_default() -> None:
    """The default document for AWS has no EST paths, no HTTP Basic and no authorizer."""
    assert not [path for path in RENDERED["paths"] if path.startswith("/.well-known/")]
    assert list(RENDERED["components"]["securitySchemes"]) == ["apiKey"]
    assert "x-amazon-apigateway-api-key-source" not in RENDERED
    assert set(WITH_EST["paths"]) == set(DOCUMENT["paths"])


def test_est_document_uses_the_authorizer_for_every_key() -> None:
    """The key source applies to the whole API, so exactly the operations that need a key have the authorizer."""
    assert WITH_EST["x-amazon-apigateway-api-key-source"] == "AUTHORIZER"
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            security = WITH_EST["paths"][path][method]["security"]
            assert security == ([{"apiKey": []}, {"authorizer": []}] if operation["security"] else [])
    scheme = WITH_EST["components"]["securitySchemes"]["authorizer"]
    assert scheme["x-amazon-apigateway-authorizer"] == {
        "type": "request",
        "authorizerUri": WITH_EST["paths"]["/sign"]["post"][INTEGRATION]["uri"],
        "authorizerResultTtlInSeconds": 0,
    }


def test_est_has_no_cors() -> None:
    """Devices do not need CORS: no EST operation declares CORS headers, and no path declares OPTIONS."""
    for path, item in DOCUMENT["paths"].items():
        responses = [response for operation in item.values() for response in operation["responses"].values()]
        headers = {header for response in responses for header in response.get("headers", {})}
        assert ("Access-Control-Allow-Origin" in headers) == (not path.startswith("/.well-known/est/"))
        assert "options" not in item


def schema(document: Any) -> Any:
    return document["components"]["schemas"]["SignRequest"]["properties"]["text"]


def sign(document: Any) -> Any:
    return document["paths"]["/sign"]["post"]


def form(document: Any) -> Any:
    return document["paths"]["/sign"]["get"]


def authorizer_scheme(uri: object) -> dict[str, Any]:
    return {"type": "apiKey", "x-amazon-apigateway-authorizer": {"authorizerUri": uri}}


INTEGRATION = "x-amazon-apigateway-integration"
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
    (lint.authorizers, lambda d: d.update({"x-amazon-apigateway-api-key-source": "AUTHORIZER"})),
    (lint.any_methods, lambda d: d["paths"]["/ca"].pop("x-amazon-apigateway-any-method")),
    (lint.any_methods, lambda d: d["paths"]["/ca"].update(options=form(d))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), BREAKS)
def test_lint_rule_finds_its_violation(rule: lint.Rule, change: Callable[[dict[str, Any]], object]) -> None:
    """Every lint rule finds the violation in its document."""
    document = copy.deepcopy(RENDERED)
    change(document)
    assert list(rule(document))


def test_every_lint_rule_has_a_violation_case() -> None:
    """Every lint rule has a document that violates it."""
    assert {rule for rule, _ in BREAKS} == set(lint.RULES)


def test_rendering_resolves_addresses() -> None:
    """The URI of the aws_proxy integration has the function's ARN, in the region's partition."""
    partitions = {"eu-central-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov"}
    for region, partition in partitions.items():
        rendered = openapi.for_api_gateway(DOCUMENT, region, "123456789012", "certlet")
        assert rendered["paths"]["/ca"]["get"][INTEGRATION]["uri"] == (
            f"arn:{partition}:apigateway:{region}:lambda:path/2015-03-31/functions/"
            f"arn:{partition}:lambda:{region}:123456789012:function:certlet/invocations"
        )


def test_rendering_keeps_names_that_look_like_keywords() -> None:
    """Rendering keeps a property named `default` and an integration's `default` response."""
    assert "default" in RENDERED["components"]["schemas"]["ProfileList"]["properties"]
    assert "default" in RENDERED["paths"]["/sign"]["get"][INTEGRATION]["responses"]
    assert "default" not in RENDERED["components"]["schemas"]["ProfileName"]


def test_rendering_leaves_links_out() -> None:
    """Links, which only tests use, are not in the document for API Gateway."""
    assert "links" in DOCUMENT["paths"]["/profiles"]["get"]["responses"]["200"]
    assert "links" not in RENDERED["paths"]["/profiles"]["get"]["responses"]["200"]


def test_profile_name_enum_lists_the_profiles() -> None:
    """Requests may name exactly the profiles in `x-certificate-profiles`; the default is one of them."""
    name = DOCUMENT["components"]["schemas"]["ProfileName"]
    assert name["enum"] == list(DOCUMENT["x-certificate-profiles"])
    assert name["default"] in name["enum"]


def test_every_operation_has_an_implementation() -> None:
    """The operationIds that reach the function are exactly the public methods of Operations and Est."""
    operation_ids = openapi.operations_by_id(openapi.for_function(DOCUMENT))
    methods = {**vars(Operations), **vars(Est)}
    assert set(operation_ids) == {name for name in methods if not name.startswith("_")}
    assert all((name in vars(Est)) == name.startswith("est") for name in operation_ids)
    assert not {"form", "problems"} & set(operation_ids)


def test_every_error_code_has_a_status() -> None:
    """Every subclass of IssuanceError has a status, and the contract documents it."""
    classes = [member for member in vars(errors).values() if isinstance(member, type)]
    assert {error for error in classes if issubclass(error, errors.IssuanceError)} == set(problems.STATUS)
    for statuses, path in (
        (problems.STATUS, "/sign"),
        (problems.EST_STATUS, "/.well-known/est/{label}/simpleenroll"),
        (problems.EST_STATUS, "/.well-known/est/{label}/simplereenroll"),
    ):
        documented = {int(status) for status in DOCUMENT["paths"][path]["post"]["responses"]}
        assert set(statuses.values()) <= documented


def test_every_gateway_response_is_a_problem_document() -> None:
    """The gateway's own responses are problem documents as the contract defines them, with their status."""
    schema = DOCUMENT["components"]["schemas"]["Problem"]
    for error_type in ERROR_TYPES:
        responses = DOCUMENT["x-amazon-apigateway-gateway-responses"]
        response = events.gateway_response(responses[error_type], GatewayError(error_type, "x"), "id")
        problem = json.loads(response.body)
        assert problem["status"] == response.status
        assert set(schema["required"]) <= set(problem) <= set(schema["properties"])
        assert response.headers["Content-Type"] == "application/problem+json"
        origin = None if error_type == "UNAUTHORIZED" else "*"
        assert response.headers.get("Access-Control-Allow-Origin") == origin


def hash_of(page: str, tag: str) -> str:
    """Return the Content-Security-Policy source for the only script or style of a page."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@pytest.mark.parametrize(("path", "tags"), [("/sign", ["script", "style"]), ("/problems", ["style"])])
def test_page_csp_allows_only_scripts_and_styles_by_hash(path: str, tags: list[str]) -> None:
    """The Content-Security-Policy allows the page's script and style by their hashes, and nothing inline."""
    page = PAGES[path]["responseTemplates"]["text/html"]
    policy = PAGES[path]["responseParameters"]["method.response.header.Content-Security-Policy"]
    assert policy.startswith("'default-src 'none'; ")
    for tag in tags:
        assert f"{tag}-src {hash_of(page, tag)};" in policy
    assert policy.count("-src") == 2 + len(tags) + ("script" in tags)
    assert page.count("<script") == tags.count("script")
    assert "unsafe" not in policy
    assert policy.endswith(";'")


@pytest.mark.parametrize("path", PAGES)
def test_page_contains_no_velocity_directives(path: str) -> None:
    """Velocity leaves the page unchanged, and nothing in the page could be a directive."""
    pattern = (
        r"\$!?[{A-Za-z_]|#[#*\[]|#\{?(set|if|elseif|else|end|foreach|include|parse|stop|break|evaluate"
        r"|define|macro|return)\b|\\[$#]"
    )
    page = PAGES[path]["responseTemplates"]["text/html"]
    assert airspeed.Template(page).merge({}) == page
    assert not re.search(pattern, page)
    assert re.search(pattern, page + "${x}")


def returned_statuses() -> dict[str, set[int]]:
    """Return the codes and statuses of all problems, from the service and from the gateway responses."""
    # Nothing raises these: the classes derived from them have the codes.
    bases = {errors.IssuanceError, errors.RequestError}
    tables = (problems.STATUS, problems.EST_STATUS)
    pairs = [(error.code, table[error]) for table in tables for error in table if error not in bases]
    pairs += [(code, status) for status, (code, _) in problems._HTTP_PROBLEMS.items()]
    templates = re.findall(r'"status\\?":(\d+),\\?"code\\?":\\?"(\w+)\\?"', json.dumps(DOCUMENT))
    pairs += [(code, int(status)) for status, code in templates]
    codes: dict[str, set[int]] = {}
    for code, status in pairs:
        codes.setdefault(code, set()).add(status)
    return codes


def test_every_problem_code_has_an_explanation() -> None:
    """`x-problem-types` lists exactly the codes that are returned, with statuses, meaning and remedy."""
    assert len(returned_statuses()) >= 19
    problem_types = DOCUMENT["x-problem-types"]
    assert {code: set(entry["statuses"]) for code, entry in problem_types.items()} == returned_statuses()
    for code, entry in problem_types.items():
        assert set(entry) == {"statuses", "meaning", "remedy"}, code
        assert SENTENCES.fullmatch(entry["meaning"]), code
        assert SENTENCES.fullmatch(entry["remedy"]), code


def test_problems_page_explains_every_code() -> None:
    """A problem's `type` links to a section of the page, with meaning and remedy."""
    page = PAGES["/problems"]["responseTemplates"]["text/html"]
    assert re.findall(r'<section id="(\w+)"', page) == list(DOCUMENT["x-problem-types"])
    for code, entry in DOCUMENT["x-problem-types"].items():
        (section,) = re.findall(rf'<section id="{code}".*?</section>', page, re.DOTALL)
        assert html.escape(entry["meaning"]) in section
        assert html.escape(entry["remedy"]) in section
    with flask.Flask("x").test_request_context():
        assert problems.problem_document(errors.BadCSR("x"))["type"] == "/problems#badCSR"


def test_package_contains_the_contract() -> None:
    """`openapi.load` reads `openapi.yaml` in the repository's root."""
    with open("openapi.yaml", encoding="utf-8") as file:  # noqa: PTH123
        assert openapi.load() == json.loads(json.dumps(yaml.safe_load(file)))


ANY = "x-amazon-apigateway-any-method"
SENTENCES = re.compile(r"[A-Z`].*\.", re.DOTALL)


OPERATION = rf"paths \S+ (get|post|{ANY})"
RESPONSE = rf"({OPERATION} responses \S+|components responses \S+)"
SCHEMA = r"components (securitySchemes \S+|schemas \S+( items| properties \S+)*)"
DESCRIBED_PATHS = re.compile(
    rf"info|tags \d+|{OPERATION}( parameters \d+| requestBody)?|{RESPONSE}( headers \S+)?|{SCHEMA}"
)


def described_elements(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and value of every element that needs a description and is not a reference."""
    if isinstance(node, list):
        node = {str(index): element for index, element in enumerate(node)}
    if isinstance(node, dict) and "$ref" not in node:
        if DESCRIBED_PATHS.fullmatch(path) and ("properties" in node or not path.endswith(" items")):
            yield path, node
        for name, child in node.items():
            yield from described_elements(child, f"{path} {name}".strip())


def undescribed_paths(document: dict[str, Any]) -> list[str]:
    texts = ((path, node.get("description", "").strip()) for path, node in described_elements(document))
    return [path for path, text in texts if not SENTENCES.fullmatch(text)]


def test_every_element_has_a_description() -> None:
    """Each operation, parameter, body, response, header, scheme and property is described in sentences."""
    assert undescribed_paths(DOCUMENT) == []


def test_description_check_names_missing_descriptions() -> None:
    """The check reports each element whose description is missing or is not a sentence."""
    paths = [path for path, _ in described_elements(DOCUMENT)]
    assert len(paths) > 400
    for number, path in enumerate(paths):
        document = copy.deepcopy(DOCUMENT)
        node = [element for _, element in described_elements(document)][number]
        node["description"] = ["", "no sentence"][number % 2]
        assert undescribed_paths(document) == [path]


def test_public_document_allows_unknown_response_fields() -> None:
    """In the public document responses may have unknown members, at any depth; requests may not."""
    plain = openapi.public(DOCUMENT)["components"]["schemas"]
    strict_schemas = {
        name for name, schema in plain.items() if '"additionalProperties": false' in json.dumps(schema)
    }
    assert strict_schemas == {"SignRequest", "BatchRequest", "BatchItem"}
    strict_problem = {**plain["Problem"], "additionalProperties": False}
    assert strict_problem == DOCUMENT["components"]["schemas"]["Problem"] != plain["Problem"]
