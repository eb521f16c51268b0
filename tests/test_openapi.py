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
from service import api_gateway, openapi
from service.gateway import events
from service.gateway.routes import ERROR_TYPES, GatewayError
from service.pki import errors
from service.web import problems
from service.web.est import Est
from service.web.operations import Operations
from tests import factories

DOCUMENT = factories.document()
RENDERED = api_gateway.for_api_gateway(DOCUMENT, "eu-central-1", "123456789012", "certlet")
WITH_EST = api_gateway.for_api_gateway(DOCUMENT, "eu-central-1", "123456789012", "certlet", est=True)
PAGES = {
    path: DOCUMENT["paths"][path]["get"]["x-amazon-apigateway-integration"]["responses"]["default"]
    for path in ("/sign", "/problems")
}


def test_both_documents_are_openapi() -> None:
    """The contract, and what API Gateway imports of it, are valid OpenAPI 3.0."""
    validate(DOCUMENT)
    validate(RENDERED)
    validate(WITH_EST)


def test_the_import_breaks_no_rule() -> None:
    """What `certlet openapi` prints keeps every rule of API Gateway's import, with EST and without."""
    assert lint.violations(RENDERED) == []
    assert lint.violations(WITH_EST) == []


def test_est_is_left_out_unless_it_is_asked_for() -> None:
    """By default AWS gets neither EST's paths, nor HTTP Basic, nor an authorizer."""
    assert not [path for path in RENDERED["paths"] if path.startswith("/.well-known/")]
    assert list(RENDERED["components"]["securitySchemes"]) == ["apiKey"]
    assert "x-amazon-apigateway-api-key-source" not in RENDERED
    assert set(WITH_EST["paths"]) == set(DOCUMENT["paths"])


def test_with_est_the_authorizer_is_wherever_a_key_is() -> None:
    """The source of keys is the whole API's: every operation that needs one names the authorizer, and no other."""
    assert WITH_EST["x-amazon-apigateway-api-key-source"] == "AUTHORIZER"
    for path, item in DOCUMENT["paths"].items():
        for method, stated in item.items():
            security = WITH_EST["paths"][path][method]["security"]
            assert security == ([{"apiKey": []}, {"authorizer": []}] if stated["security"] else [])
    scheme = WITH_EST["components"]["securitySchemes"]["authorizer"]
    assert scheme["x-amazon-apigateway-authorizer"] == {
        "type": "request",
        "authorizerUri": WITH_EST["paths"]["/sign"]["post"][INTEGRATION]["uri"],
        "authorizerResultTtlInSeconds": 0,
    }


def test_est_has_no_cors() -> None:
    """RFC 7030 is for devices: no operation of EST's declares a CORS header of its own, or OPTIONS."""
    for path, item in DOCUMENT["paths"].items():
        responses = [response for stated in item.values() for response in stated["responses"].values()]
        declared = {header for response in responses for header in response.get("headers", {})}
        assert ("Access-Control-Allow-Origin" in declared) == (not path.startswith("/.well-known/est/"))
        assert "options" not in item


def schema(document: Any) -> Any:
    return document["components"]["schemas"]["SignRequest"]["properties"]["text"]


def sign(document: Any) -> Any:
    return document["paths"]["/sign"]["post"]


def form(document: Any) -> Any:
    return document["paths"]["/sign"]["get"]


def authorizing(uri: object) -> dict[str, Any]:
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
    (lint.security_schemes, lambda d: d["components"]["securitySchemes"].update(a=authorizing({"Fn::Sub": "arn:x"}))),
    (lint.security_schemes, lambda d: d["components"]["securitySchemes"].update(a=authorizing("arn:${AWS::Region}"))),
    (lint.authorizers, lambda d: d.update({"x-amazon-apigateway-api-key-source": "AUTHORIZER"})),
    (lint.any_methods, lambda d: d["paths"]["/ca"].pop("x-amazon-apigateway-any-method")),
    (lint.any_methods, lambda d: d["paths"]["/ca"].update(options=form(d))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), BREAKS)
def test_each_rule_finds_its_breach(rule: lint.Rule, change: Callable[[dict[str, Any]], object]) -> None:
    """Every rule of the lint has a document that breaks it, and finds it."""
    document = copy.deepcopy(RENDERED)
    change(document)
    assert list(rule(document))


def test_every_rule_has_its_breach() -> None:
    """No rule stands without a document that breaks it."""
    assert {rule for rule, _ in BREAKS} == set(lint.RULES)


def test_rendering_resolves_addresses() -> None:
    """The function's ARN stands in every aws_proxy integration, in the region's partition."""
    partitions = {"eu-central-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov"}
    for region, partition in partitions.items():
        rendered = api_gateway.for_api_gateway(DOCUMENT, region, "123456789012", "certlet")
        assert rendered["paths"]["/ca"]["get"][INTEGRATION]["uri"] == (
            f"arn:{partition}:apigateway:{region}:lambda:path/2015-03-31/functions/"
            f"arn:{partition}:lambda:{region}:123456789012:function:certlet/invocations"
        )


def test_rendering_keeps_names_that_look_like_keywords() -> None:
    """A property called `default`, and an integration's `default` response, are no documentation."""
    assert "default" in RENDERED["components"]["schemas"]["ProfileList"]["properties"]
    assert "default" in RENDERED["paths"]["/sign"]["get"][INTEGRATION]["responses"]
    assert "default" not in RENDERED["components"]["schemas"]["ProfileName"]


def test_rendering_leaves_links_out() -> None:
    """What is for testers of the contract does not reach API Gateway; tests/test_examples.py has examples."""
    assert "links" in DOCUMENT["paths"]["/profiles"]["get"]["responses"]["200"]
    assert "links" not in RENDERED["paths"]["/profiles"]["get"]["responses"]["200"]


def test_the_request_s_profiles_are_the_profiles() -> None:
    """What a request may name is what `x-certificate-profiles` holds; the default is one of them."""
    name = DOCUMENT["components"]["schemas"]["ProfileName"]
    assert name["enum"] == list(DOCUMENT["x-certificate-profiles"])
    assert name["default"] in name["enum"]


def test_every_operation_is_performed() -> None:
    """Each operationId that reaches the function is a method of Operations or Est, and no other is."""
    named = openapi.operations_by_id(openapi.for_function(DOCUMENT))
    performed = {**vars(Operations), **vars(Est)}
    assert set(named) == {name for name in performed if not name.startswith("_")}
    assert all((name in vars(Est)) == name.startswith("est") for name in named)
    assert not {"form", "problems"} & set(named)


def test_every_refusal_has_a_status() -> None:
    """Each class of the tree of refusals is in the table of problems, and its status in the contract."""
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    assert {each for each in classes if issubclass(each, errors.IssuanceError)} == set(problems.STATUS)
    for statuses, path in (
        (problems.STATUS, "/sign"),
        (problems.EST_STATUS, "/.well-known/est/{label}/simpleenroll"),
        (problems.EST_STATUS, "/.well-known/est/{label}/simplereenroll"),
    ):
        documented = {int(status) for status in DOCUMENT["paths"][path]["post"]["responses"]}
        assert set(statuses.values()) <= documented


def test_every_gateway_response_is_a_problem() -> None:
    """Whatever the gateway answers by itself is a problem of the contract's shape, with its own status."""
    shape = DOCUMENT["components"]["schemas"]["Problem"]
    for kind in ERROR_TYPES:
        responses = DOCUMENT["x-amazon-apigateway-gateway-responses"]
        response = events.gateway_response(responses[kind], GatewayError(kind, "x"), "id")
        problem = json.loads(response.body)
        assert problem["status"] == response.status
        assert set(shape["required"]) <= set(problem) <= set(shape["properties"])
        assert response.headers["Content-Type"] == "application/problem+json"
        origin = None if kind == "UNAUTHORIZED" else "*"
        assert response.headers.get("Access-Control-Allow-Origin") == origin


def hash_of(page: str, tag: str) -> str:
    """What a policy allows the one script or style of a page by."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@pytest.mark.parametrize(("path", "tags"), [("/sign", ["script", "style"]), ("/problems", ["style"])])
def test_a_page_runs_its_own_script_alone(path: str, tags: list[str]) -> None:
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
def test_a_page_is_inert_for_velocity(path: str) -> None:
    """The template engine changes nothing in the page, and nothing in it could be a directive."""
    pattern = (
        r"\$!?[{A-Za-z_]|#[#*\[]|#\{?(set|if|elseif|else|end|foreach|include|parse|stop|break|evaluate"
        r"|define|macro|return)\b|\\[$#]"
    )
    page = PAGES[path]["responseTemplates"]["text/html"]
    assert airspeed.Template(page).merge({}) == page
    assert not re.search(pattern, page)
    assert re.search(pattern, page + "${x}")


def emitted() -> dict[str, set[int]]:
    """Every code that the service and the document's own answers have, with its statuses."""
    # Nothing raises these: the classes derived from them have the codes.
    bases = {errors.IssuanceError, errors.RequestError}
    tables = (problems.STATUS, problems.EST_STATUS)
    found = [(kind.code, table[kind]) for table in tables for kind in table if kind not in bases]
    found += [(code, status) for status, (code, _) in problems._HTTP_PROBLEMS.items()]
    own = re.findall(r'"status\\?":(\d+),\\?"code\\?":\\?"(\w+)\\?"', json.dumps(DOCUMENT))
    found += [(code, int(status)) for status, code in own]
    codes: dict[str, set[int]] = {}
    for code, status in found:
        codes.setdefault(code, set()).add(status)
    return codes


def test_every_problem_is_explained() -> None:
    """Each code that is answered, and no other, stands in `x-problem-types` with its statuses, meaning and remedy."""
    assert len(emitted()) >= 19
    stated = DOCUMENT["x-problem-types"]
    assert {code: set(each["statuses"]) for code, each in stated.items()} == emitted()
    for code, each in stated.items():
        assert set(each) == {"statuses", "meaning", "remedy"}, code
        assert SENTENCES.fullmatch(each["meaning"]), code
        assert SENTENCES.fullmatch(each["remedy"]), code


def test_the_page_explains_every_problem() -> None:
    """Where a problem's `type` leads, there is its place on the page, with its meaning and what to do."""
    page = PAGES["/problems"]["responseTemplates"]["text/html"]
    assert re.findall(r'<section id="(\w+)"', page) == list(DOCUMENT["x-problem-types"])
    for code, each in DOCUMENT["x-problem-types"].items():
        (section,) = re.findall(rf'<section id="{code}".*?</section>', page, re.DOTALL)
        assert html.escape(each["meaning"]) in section
        assert html.escape(each["remedy"]) in section
    with flask.Flask("x").test_request_context():
        assert problems.problem_document(errors.BadCSR("x"))["type"] == "/problems#badCSR"


def test_the_package_carries_the_contract() -> None:
    """The loader reads the very file at the top."""
    with open("openapi.yaml", encoding="utf-8") as file:  # noqa: PTH123
        assert openapi.load() == json.loads(json.dumps(yaml.safe_load(file)))


ANY = "x-amazon-apigateway-any-method"
SENTENCES = re.compile(r"[A-Z`].*\.", re.DOTALL)


OPERATION = rf"paths \S+ (get|post|{ANY})"
RESPONSE = rf"({OPERATION} responses \S+|components responses \S+)"
SCHEMA = r"components (securitySchemes \S+|schemas \S+( items| properties \S+)*)"
PLACES = re.compile(
    rf"info|tags \d+|{OPERATION}( parameters \d+| requestBody)?|{RESPONSE}( headers \S+)?|{SCHEMA}"
)


def described(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every place of a document that readers want words for, and does not refer to another, with its name."""
    if isinstance(node, list):
        node = {str(number): each for number, each in enumerate(node)}
    if isinstance(node, dict) and "$ref" not in node:
        if PLACES.fullmatch(place) and ("properties" in node or not place.endswith(" items")):
            yield place, node
        for name, each in node.items():
            yield from described(each, f"{place} {name}".strip())


def undescribed(document: dict[str, Any]) -> list[str]:
    texts = ((place, node.get("description", "").strip()) for place, node in described(document))
    return [place for place, text in texts if not SENTENCES.fullmatch(text)]


def test_everything_is_described() -> None:
    """Each operation, parameter, body, response, header, scheme and property says in sentences what it is."""
    assert undescribed(DOCUMENT) == []


def test_what_is_not_described_is_named() -> None:
    """Its negative twin: whatever loses its words, or has no sentence, is named."""
    places = [place for place, _ in described(DOCUMENT)]
    assert len(places) > 400
    for number, place in enumerate(places):
        document = copy.deepcopy(DOCUMENT)
        node = [each for _, each in described(document)][number]
        node["description"] = ["", "no sentence"][number % 2]
        assert undescribed(document) == [place]


def test_what_clients_are_made_of_is_open_to_additions() -> None:
    """In the plain document every answer may have members more, at any depth, and a request none."""
    plain = openapi.public(DOCUMENT)["components"]["schemas"]
    closed = {name for name, schema in plain.items() if '"additionalProperties": false' in json.dumps(schema)}
    assert closed == {"SignRequest", "BatchRequest", "BatchItem"}
    closed_problem = {**plain["Problem"], "additionalProperties": False}
    assert closed_problem == DOCUMENT["components"]["schemas"]["Problem"] != plain["Problem"]
