from __future__ import annotations

import base64
import copy
import hashlib
import html
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import airspeed
import flask
import pytest
import yaml
from jsonschema import Draft4Validator
from openapi_spec_validator import validate

from service import openapi
from service.gateway import events
from service.gateway.routes import ERROR_TYPES, Contract, GatewayError
from service.pki import errors
from service.web import problems
from service.web.acme import AcmeOperations
from service.web.est import Est
from service.web.operations import Operations
from service.web.status import StatusOperations
from tests import factories

DOCUMENT = factories.document()
PAGES = {
    path: DOCUMENT["paths"][path]["get"]["x-amazon-apigateway-integration"]["responses"]["default"]
    for path in ("/", "/sign", "/problems")
}


def test_contract_is_openapi() -> None:
    """The contract is valid OpenAPI 3.0."""
    validate(DOCUMENT)


def test_est_has_no_cors() -> None:
    """Devices do not need CORS: no EST operation declares CORS headers, and no path declares OPTIONS."""
    for path, item in DOCUMENT["paths"].items():
        responses = [response for operation in item.values() for response in operation["responses"].values()]
        headers = {header for response in responses for header in response.get("headers", {})}
        assert ("Access-Control-Allow-Origin" in headers) == (not path.startswith("/.well-known/est/"))
        assert "options" not in item


def test_profile_name_enum_lists_the_profiles() -> None:
    """Requests may name exactly the profiles in `x-certificate-profiles`; the default is one of them."""
    name = DOCUMENT["components"]["schemas"]["ProfileName"]
    assert name["enum"] == list(DOCUMENT["x-certificate-profiles"])
    assert name["default"] in name["enum"]


def test_every_operation_has_an_implementation() -> None:
    """The operationIds that reach the function are exactly the public methods of their classes."""
    operation_ids = openapi.operations_by_id(openapi.for_function(DOCUMENT))
    methods = {**vars(Operations), **vars(StatusOperations), **vars(Est), **vars(AcmeOperations)}
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
        assert {status for error, status in statuses.items() if error is not errors.NotFound} <= documented
    assert str(problems.STATUS[errors.NotFound]) in DOCUMENT["paths"]["/revoke"]["post"]["responses"]


def test_every_gateway_response_is_a_problem_document() -> None:
    """The gateway's own responses are problem documents as the contract defines them, with their status."""
    schema = DOCUMENT["components"]["schemas"]["Problem"]
    for error_type in ERROR_TYPES:
        responses = Contract(DOCUMENT).responses
        response = events.gateway_response(responses[error_type], GatewayError(error_type, "x"), "id")
        problem = json.loads(response.body)
        assert problem["status"] == response.status
        assert set(schema["required"]) <= set(problem) <= set(schema["properties"])
        assert response.headers["Content-Type"] == "application/problem+json"
        origin = None if error_type == "UNAUTHORIZED" else "*"
        assert response.headers.get("Access-Control-Allow-Origin") == origin


def hashes_of(page: str, tag: str) -> str:
    """Return the Content-Security-Policy sources for the scripts or styles of a page."""
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    assert len(texts) == page.count(f"<{tag}") > 0
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{value}'" for value in hashes)


@pytest.mark.parametrize("path", PAGES)
def test_page_csp_allows_only_scripts_and_styles_by_hash(path: str) -> None:
    """The Content-Security-Policy allows each script and style of the page by its hash, and nothing inline."""
    page = PAGES[path]["responseTemplates"]["text/html"]
    policy = PAGES[path]["responseParameters"]["method.response.header.Content-Security-Policy"]
    assert policy.startswith("'default-src 'none'; ")
    for tag in ("script", "style"):
        assert f"{tag}-src {hashes_of(page, tag)};" in policy
    assert policy.count("-src") == 5
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
    assert re.findall(r'<section class="card" id="(\w+)"', page) == list(DOCUMENT["x-problem-types"])
    for code, entry in DOCUMENT["x-problem-types"].items():
        (section,) = re.findall(rf'<section class="card" id="{code}".*?</section>', page, re.DOTALL)
        assert html.escape(entry["meaning"]) in section
        assert html.escape(entry["remedy"]) in section
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
    document = copy.deepcopy(DOCUMENT)
    elements = list(described_elements(document))
    assert len(elements) > 400
    for start, description in itertools.product(range(7), ("", "no sentence")):
        changed = elements[start::7]
        before = [node["description"] for _, node in changed]
        for _, node in changed:
            node["description"] = description
        assert undescribed_paths(document) == [path for path, _ in changed]
        for (_, node), text in zip(changed, before, strict=True):
            node["description"] = text


def test_public_document_allows_unknown_response_fields() -> None:
    """In the public document responses may have unknown members, at any depth; requests may not."""
    plain = openapi.public(DOCUMENT)["components"]["schemas"]
    strict_schemas = {
        name for name, schema in plain.items() if '"additionalProperties": false' in json.dumps(schema)
    }
    assert strict_schemas == {"SignRequest", "BatchRequest", "BatchItem", "Jws", "RevocationRequest"}
    strict_problem = {**plain["Problem"], "additionalProperties": False}
    assert strict_problem == DOCUMENT["components"]["schemas"]["Problem"] != plain["Problem"]


def public_operations(overrides: object = None) -> Iterator[dict[str, Any]]:
    """Yield the operations of the public document, without `$ref`s."""
    document = openapi.public(openapi.with_overrides(DOCUMENT, overrides or {}))
    yield from openapi.operations_by_id(openapi.resolve_refs(document, document)).values()


@pytest.mark.parametrize("default", ["server", "peer"])
def test_every_public_parameter_has_a_valid_example(default: str) -> None:
    """Each parameter has an example that its schema accepts, also with the operator's profiles."""
    overrides = {"profiles": {} if default == "server" else {"server": None}, "default": default}
    examples = {}
    for operation in public_operations(overrides):
        for parameter in operation.get("parameters", ()):
            Draft4Validator(parameter["schema"]).validate(parameter["example"])
            examples[parameter["name"]] = parameter["example"]
    query = {"dry_run", "profile", "validity", "not_after", "cursor"}
    path = {"label", "request", "certificate_id", "key_id", "account_id", "order_id", "index"}
    assert examples.keys() == query | path | {"Idempotency-Key", "If-None-Match"}
    assert examples["profile"] == examples["label"] == default


def test_dry_run_has_no_default() -> None:
    """Generated clients omit a boolean without a value; with a default, one for PHP would send `dry_run=0`."""
    (dry_run,) = (
        parameter
        for operation in public_operations()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "dry_run"
    )
    assert dry_run["schema"] == {"type": "boolean"}
    assert not dry_run.get("required")


def test_public_document_has_no_form_with_text() -> None:
    """Generated clients send a form as fields. Only curl sends a CSR with the Content-Type of a form."""
    form = "application/x-www-form-urlencoded"
    for operation in public_operations():
        content = operation.get("requestBody", {}).get("content", {})
        assert all(body["schema"]["type"] == "object" for kind, body in content.items() if "form" in kind)
    assert form in DOCUMENT["paths"]["/sign.pem"]["post"]["requestBody"]["content"]


def test_public_document_has_no_unused_examples() -> None:
    """An example that only API Gateway's own operations use is not in the public document."""
    public = openapi.public(DOCUMENT)
    names = public["components"]["examples"]
    assert set(re.findall(r"#/components/examples/(\w+)", json.dumps(public))) == set(names)
    assert set(DOCUMENT["components"]["examples"]) - set(names) == {
        "methodNotAllowed",
        "acmeMethodNotAllowed",
    }


def test_public_examples_are_valid_with_other_profiles() -> None:
    """Each example in the public document is valid if the operator's profiles replace those of the contract."""
    own = {**DOCUMENT["x-certificate-profiles"]["server"], "certificate_policies": ["1.3.6.1.4.1.32473.9"]}
    profiles = {"server": None, "client": None, "peer": None, "own": own}
    document = openapi.public(openapi.with_overrides(DOCUMENT, {"profiles": profiles, "default": "own"}))
    validated = 0

    def validate_examples(node: dict[str, Any]) -> dict[str, Any]:
        nonlocal validated
        if "schema" in node:
            examples = [example["value"] for example in node.get("examples", {}).values()]
            for example in [*examples, *([node["example"]] if "example" in node else ())]:
                Draft4Validator(node["schema"]).validate(example)
                validated += 1
        return node

    openapi.rewrite(openapi.resolve_refs(document["paths"], document), validate_examples)
    assert validated > 100


def test_401_is_documented_exactly_where_a_key_is_required() -> None:
    """Every operation that requires an API key may return 401: EST always, others with EST on AWS."""
    for operation in public_operations():
        assert ("401" in operation["responses"]) == bool(operation["security"]), operation["operationId"]
