"""A change of the contract that breaks clients requires a new major version; oasdiff finds such changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import compatibility
from service import openapi

CURRENT = openapi.public(openapi.load())
Change = Callable[[dict[str, Any]], object]


SCHEMAS = ("components", "schemas")
SIGN = ("paths", "/sign", "post")
PEM = ("paths", "/sign.pem", "post", "requestBody", "content")
REQUEST = (*SCHEMAS, "SignRequest", "properties")
CERTIFICATE = (*SCHEMAS, "SignedCertificate")
SCHEMES = ("components", "securitySchemes")
PURPOSE = {"type": "string"}
PARAMETER = {"name": "purpose", "in": "query", "schema": PURPOSE}


def value_at(document: Any, *path: str | int) -> Any:
    """Return the value at a path of the document."""
    for step in path:
        document = document[step]
    return document


def set_keys(*path: str | int, **members: object) -> Change:
    """Return a change that sets keys of the object at a path."""
    return lambda document: value_at(document, *path).update(members)


def delete(*path: str | int) -> Change:
    """Return a change that deletes a key or element."""
    return lambda document: value_at(document, *path[:-1]).pop(path[-1])


def append(*path: str | int, value: object) -> Change:
    """Return a change that appends an element to the list at a path."""
    return lambda document: value_at(document, *path).append(value)


def remove_element(*path: str | int, value: object) -> Change:
    """Return a change that removes an element from the list at a path."""
    return lambda document: value_at(document, *path).remove(value)


def combine(*changes: Change) -> Change:
    """Return a change that applies several changes in order."""
    return lambda document: [change(document) for change in changes]


def rename(document: dict[str, Any]) -> None:
    """Rename a schema, which renames a type in every generated client."""
    document.update(json.loads(json.dumps(document).replace('schemas/Problem"', 'schemas/Failure"')))
    value_at(document, *SCHEMAS)["Failure"] = value_at(document, *SCHEMAS).pop("Problem")


def add_operation(document: dict[str, Any]) -> None:
    """Add an operation."""
    document["paths"]["/more"] = copy.deepcopy(document["paths"]["/health"])
    set_keys("paths", "/more", "get", operationId="more")(document)


# A new required field of a request; the removal of a required field of a response.
REQUIRE_FIELD = combine(
    set_keys(*REQUEST, purpose=PURPOSE), append(*SCHEMAS, "SignRequest", "required", value="purpose")
)
REMOVE_FIELD = combine(
    delete(*CERTIFICATE, "properties", "serial_number"),
    remove_element(*CERTIFICATE, "required", value="serial_number"),
)
XML = set_keys(*SIGN, "responses", "200", content={"application/xml": {"schema": {"type": "object"}}})
# Changes that break clients, and a fragment of the reported problem.
BREAKING: dict[str, tuple[Change, str]] = {
    "an operation removed": (delete("paths", "/ca.crl"), "GET /ca.crl: api path removed"),
    "a method removed": (delete(*SIGN), "POST /sign: api removed"),
    "an operation renamed": (set_keys(*SIGN, operationId="issue"), "(api-operation-id-removed)"),
    "another tag": (set_keys(*SIGN, tags=["issue"]), "(api-tag-removed)"),
    "a schema renamed": (rename, "(api-schema-removed)"),
    "a required field of a response removed": (REMOVE_FIELD, "(response-required-property-removed)"),
    "an optional field of a response removed": (delete(*SCHEMAS, "Problem", "properties", "errors"), "(response-optional-property-removed)"),
    "a field of a response made optional": (remove_element(*CERTIFICATE, "required", value="serial_number"), "(response-property-became-optional)"),
    "a required field of a request added": (REQUIRE_FIELD, "(new-required-request-property)"),
    "a field of a request removed": (delete(*REQUEST, "validity"), "(request-property-removed)"),
    "a narrower enum": (remove_element(*SCHEMAS, "ProfileName", "enum", value="peer"), "(request-property-enum-value-removed)"),
    "a wider enum in a response": (append(*SCHEMAS, "ProfileName", "enum", value="other"), "(response-property-enum-value-added)"),
    "a narrower string": (set_keys(*REQUEST, "not_after", maxLength=10), "(request-property-max-length-decreased)"),
    "a shorter list": (set_keys(*SCHEMAS, "BatchRequest", "properties", "requests", maxItems=100), "components.schemas.BatchRequest.requests.maxItems: lowered"),
    "another default": (set_keys(*REQUEST, "text", default=False), "(request-property-default-value-changed)"),
    "a required parameter added": (append(*SIGN, "parameters", value={**PARAMETER, "required": True}), "(new-required-request-parameter)"),
    "a parameter made required": (set_keys(*SIGN, "parameters", 0, required=True), "(request-parameter-became-required)"),
    "a success status removed": (delete(*SIGN, "responses", "202"), "(response-success-status-removed)"),
    "an error status removed": (delete(*SIGN, "responses", "422"), "(response-non-success-status-removed)"),
    "another type in a response": (set_keys(*SCHEMAS, "Problem", "properties", "status", type="string"), "(response-property-type-changed)"),
    "another type in a request": (set_keys(*REQUEST, "text", type="string"), "(request-property-type-changed)"),
    "a media type of a request removed": (delete(*PEM, "application/pkcs10"), "(request-body-media-type-removed)"),
    "another media type of a response": (XML, "(response-media-type-removed)"),
    "an API key required": (set_keys("paths", "/health", "get", security=[{"apiKey": []}]), "(api-security-added)"),
    "a security scheme of an operation removed": (remove_element("paths", "/.well-known/est/simpleenroll", "post", "security", value={"basic": []}), "(api-security-removed)"),
    "another header for the API key": (set_keys(*SCHEMES, "apiKey", name="x-key"), "components.securitySchemes.apiKey: changed"),
    "a security scheme removed": (delete(*SCHEMES, "basic"), "components.securitySchemes.basic: changed"),
    "another server": (set_keys(servers=[{"url": "/v2"}]), "servers: changed"),
}  # fmt: skip
COMPATIBLE: dict[str, Change] = {
    "no change": lambda _: None,
    "an operation added": add_operation,
    "an optional field of a request added": set_keys(*REQUEST, purpose=PURPOSE),
    "a field of a response added": set_keys(*CERTIFICATE, "properties", more=PURPOSE),
    "an optional parameter added": append(*SIGN, "parameters", value=PARAMETER),
    "another security scheme than the API key": append(*SIGN, "security", value={"basic": []}),
    "a wider string": set_keys(*REQUEST, "not_after", maxLength=64),
    "a longer list": set_keys(*SCHEMAS, "BatchRequest", "properties", "requests", maxItems=900),
    "an error status added": set_keys(
        *SIGN, "responses", **{"409": value_at(CURRENT, *SIGN, "responses", "422")}
    ),
    "a media type of a request added": set_keys(*PEM, **{"application/x-csr": {"schema": PURPOSE}}),
    "other texts": combine(
        set_keys("info", description="New text."),
        set_keys(*SIGN, summary="New text", description="New text."),
        set_keys(*SCHEMAS, "Problem", description="New text."),
        set_keys(*SCHEMES, "basic", description="New text."),
    ),
    "another example": set_keys(
        *SIGN, "requestBody", "content", "application/json", example={"csr": "-----BEGIN"}
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one release: the current contract."""
    directory = tmp_path_factory.mktemp("released")
    assert compatibility.release(CURRENT, directory) == []
    return directory


def contract_after(change: Change, version: str = "0.9.0") -> dict[str, Any]:
    """Return a copy of the contract with a change and a version."""
    document = copy.deepcopy(CURRENT)
    change(document)
    document["info"]["version"] = version
    return document


def test_contract_is_compatible_with_its_last_release() -> None:
    """Clients of the last release of this major version keep working with the current contract."""
    assert compatibility.problems(CURRENT) == []


def test_every_major_version_has_a_release() -> None:
    """There is a released document for every major version, named after it."""
    released = [json.loads(path.read_text()) for path in sorted(compatibility.RELEASED.iterdir())]
    majors = [int(document["info"]["version"].split(".")[0]) for document in released]
    assert majors == list(range(len(majors)))
    assert majors
    assert [path.name for path in sorted(compatibility.RELEASED.iterdir())] == [
        f"openapi-{major}.json" for major in majors
    ]


@pytest.mark.parametrize("change", BREAKING)
def test_breaking_change_is_reported(folder: Path, change: str) -> None:
    """A breaking change is reported even in a new minor version."""
    apply, fragment = BREAKING[change]
    problems = compatibility.problems(contract_after(apply), folder)
    assert any(fragment in problem for problem in problems), problems


@pytest.mark.parametrize("change", COMPATIBLE)
def test_compatible_change_is_accepted(folder: Path, change: str) -> None:
    """A change that only adds, or only rewords, is accepted."""
    assert compatibility.problems(contract_after(COMPATIBLE[change]), folder) == []


def test_new_major_version_may_break_clients(tmp_path: Path) -> None:
    """The next major version may break clients; after its release, changes are compared with it only."""
    assert compatibility.release(CURRENT, tmp_path) == []
    incompatible = contract_after(REMOVE_FIELD, "1.0.0")
    assert compatibility.problems(contract_after(REMOVE_FIELD, "0.2.0"), tmp_path)
    assert compatibility.release(incompatible, tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["openapi-0.json", "openapi-1.json"]
    assert compatibility.problems(incompatible, tmp_path) == []
    assert compatibility.problems(contract_after(lambda _: None, "1.1.0"), tmp_path) == []
    REQUIRE_FIELD(incompatible)
    assert compatibility.problems(incompatible, tmp_path)
    assert compatibility.problems(contract_after(REMOVE_FIELD, "3.0.0"), tmp_path) == [
        "info.version: 3.0.0 does not follow 1.x, the last release"
    ]


def test_breaking_change_is_not_released(tmp_path: Path) -> None:
    """A release replaces its predecessor, unless a change breaks clients."""
    assert compatibility.release(CURRENT, tmp_path) == []
    before = (tmp_path / "openapi-0.json").read_bytes()
    assert compatibility.release(contract_after(REMOVE_FIELD), tmp_path)
    assert (tmp_path / "openapi-0.json").read_bytes() == before
    compatible = contract_after(add_operation)
    assert compatibility.release(compatible, tmp_path) == []
    assert json.loads((tmp_path / "openapi-0.json").read_bytes()) == compatible
