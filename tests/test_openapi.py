from __future__ import annotations

import base64
import copy
import hashlib
import html
import json
import re
from collections.abc import Iterator
from typing import Any

import airspeed
import flask
import pytest
import yaml
from openapi_spec_validator import validate

from service import openapi
from service.gateway import events
from service.gateway.routes import ERROR_TYPES, GatewayError
from service.pki import errors
from service.web import problems
from service.web.est import Est
from service.web.operations import Operations
from tests import factories

DOCUMENT = factories.document()
PAGES = {
    path: DOCUMENT["paths"][path]["get"]["x-amazon-apigateway-integration"]["responses"]["default"]
    for path in ("/sign", "/problems")
}


def test_contract_is_openapi() -> None:
    """The contract is valid OpenAPI 3.0."""
    validate(DOCUMENT)


def test_est_has_no_cors() -> None:
    """RFC 7030 is for devices: no operation of EST's declares a CORS header of its own, or OPTIONS."""
    for path, item in DOCUMENT["paths"].items():
        responses = [response for stated in item.values() for response in stated["responses"].values()]
        declared = {header for response in responses for header in response.get("headers", {})}
        assert ("Access-Control-Allow-Origin" in declared) == (not path.startswith("/.well-known/est/"))
        assert "options" not in item


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


def test_public_url_is_the_base_of_problem_types_and_the_server() -> None:
    """A public URL makes each problem type of the document absolute; without one the document stays as it is."""
    url = "https://pki.example.com/certlet"
    document = openapi.with_public_url(DOCUMENT, url)
    assert document["servers"] == [{"url": url}]
    types = re.findall(r'\\?"type\\?": ?\\?"([^"]*problems#)', json.dumps(DOCUMENT))
    assert len(types) > 30
    assert set(types) == {"/problems#"}
    types_with_url = re.findall(r'\\?"type\\?": ?\\?"([^"]*problems#)', json.dumps(document))
    assert types_with_url == [f"{url}/problems#"] * len(types)
    assert openapi.with_public_url(DOCUMENT, "") == DOCUMENT
    assert openapi.with_public_url(document, "")["servers"] == document["servers"]


def test_public_url_does_not_change_the_pages() -> None:
    """The pages refer to themselves and to their own API, so that their hashes stay the same."""
    document = openapi.with_public_url(DOCUMENT, "https://pki.example.com")
    for path in PAGES:
        assert (
            document["paths"][path]["get"]["x-amazon-apigateway-integration"]
            == (DOCUMENT["paths"][path]["get"]["x-amazon-apigateway-integration"])
        )


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
