"""A change of the contract that breaks clients requires a new major version; oasdiff finds the changes."""

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


def put(*path: str | int, **members: object) -> Change:
    """Set keys of the object there."""
    return lambda document: value_at(document, *path).update(members)


def drop(*path: str | int) -> Change:
    """Remove the key or element there."""
    return lambda document: value_at(document, *path[:-1]).pop(path[-1])


def add(*path: str | int, value: object) -> Change:
    """Append an element to the list there."""
    return lambda document: value_at(document, *path).append(value)


def remove(*path: str | int, value: object) -> Change:
    """Remove an element from the list there."""
    return lambda document: value_at(document, *path).remove(value)


def both(*changes: Change) -> Change:
    """Apply several changes in order."""
    return lambda document: [change(document) for change in changes]


def rename(document: dict[str, Any]) -> None:
    """Rename a schema, and with it a type of every generated client."""
    document.update(json.loads(json.dumps(document).replace('schemas/Problem"', 'schemas/Failure"')))
    value_at(document, *SCHEMAS)["Failure"] = value_at(document, *SCHEMAS).pop("Problem")


def add_operation(document: dict[str, Any]) -> None:
    """Add an operation."""
    document["paths"]["/more"] = copy.deepcopy(document["paths"]["/health"])
    put("paths", "/more", "get", operationId="more")(document)


# A request must have a new field; a response lacks a field that it always had.
REQUIRE_FIELD = both(
    put(*REQUEST, purpose=PURPOSE), add(*SCHEMAS, "SignRequest", "required", value="purpose")
)
REMOVE_FIELD = both(
    drop(*CERTIFICATE, "properties", "serial_number"),
    remove(*CERTIFICATE, "required", value="serial_number"),
)
XML = put(*SIGN, "responses", "200", content={"application/xml": {"schema": {"type": "object"}}})
# Changes that break clients, and a fragment of the reported problem.
BREAKING: dict[str, tuple[Change, str]] = {
    "an operation removed": (drop("paths", "/ca.crl"), "GET /ca.crl: api path removed"),
    "a method removed": (drop(*SIGN), "POST /sign: api removed"),
    "an operation renamed": (put(*SIGN, operationId="issue"), "(api-operation-id-removed)"),
    "another tag": (put(*SIGN, tags=["issue"]), "(api-tag-removed)"),
    "a schema renamed": (rename, "(api-schema-removed)"),
    "a required field of a response removed": (REMOVE_FIELD, "(response-required-property-removed)"),
    "an optional field of a response removed": (drop(*SCHEMAS, "Problem", "properties", "errors"), "(response-optional-property-removed)"),
    "a field of a response made optional": (remove(*CERTIFICATE, "required", value="serial_number"), "(response-property-became-optional)"),
    "a required field of a request added": (REQUIRE_FIELD, "(new-required-request-property)"),
    "a field of a request removed": (drop(*REQUEST, "validity"), "(request-property-removed)"),
    "a narrower enum": (remove(*SCHEMAS, "ProfileName", "enum", value="peer"), "(request-property-enum-value-removed)"),
    "a wider enum in a response": (add(*SCHEMAS, "ProfileName", "enum", value="other"), "(response-property-enum-value-added)"),
    "a narrower string": (put(*REQUEST, "validity", maxLength=10), "(request-property-max-length-decreased)"),
    "a shorter list": (put(*SCHEMAS, "BatchRequest", "properties", "requests", maxItems=100), "components.schemas.BatchRequest.requests.maxItems: lowered"),
    "another default": (put(*REQUEST, "text", default=False), "(request-property-default-value-changed)"),
    "a required parameter added": (add(*SIGN, "parameters", value={**PARAMETER, "required": True}), "(new-required-request-parameter)"),
    "a parameter made required": (put(*SIGN, "parameters", 0, required=True), "(request-parameter-became-required)"),
    "a success status removed": (drop(*SIGN, "responses", "202"), "(response-success-status-removed)"),
    "an error status removed": (drop(*SIGN, "responses", "422"), "(response-non-success-status-removed)"),
    "another type in a response": (put(*SCHEMAS, "Problem", "properties", "status", type="string"), "(response-property-type-changed)"),
    "another type in a request": (put(*REQUEST, "text", type="string"), "(request-property-type-changed)"),
    "a media type of a request removed": (drop(*PEM, "application/pkcs10"), "(request-body-media-type-removed)"),
    "another media type of a response": (XML, "(response-media-type-removed)"),
    "an API key required": (put("paths", "/health", "get", security=[{"apiKey": []}]), "(api-security-added)"),
    "a security scheme of an operation removed": (remove("paths", "/.well-known/est/simpleenroll", "post", "security", value={"basic": []}), "(api-security-removed)"),
    "another header for the API key": (put(*SCHEMES, "apiKey", name="x-key"), "components.securitySchemes.apiKey: changed"),
    "a security scheme removed": (drop(*SCHEMES, "basic"), "components.securitySchemes.basic: changed"),
    "another server": (put(servers=[{"url": "/v2"}]), "servers: changed"),
}  # fmt: skip
COMPATIBLE: dict[str, Change] = {
    "no change": lambda _: None,
    "an operation added": add_operation,
    "an optional field of a request added": put(*REQUEST, purpose=PURPOSE),
    "a field of a response added": put(*CERTIFICATE, "properties", more=PURPOSE),
    "an optional parameter added": add(*SIGN, "parameters", value=PARAMETER),
    "a wider string": put(*REQUEST, "validity", maxLength=64),
    "a longer list": put(*SCHEMAS, "BatchRequest", "properties", "requests", maxItems=900),
    "an error status added": put(*SIGN, "responses", **{"409": value_at(CURRENT, *SIGN, "responses", "422")}),
    "a media type of a request added": put(*PEM, **{"application/x-csr": {"schema": PURPOSE}}),
    "other texts": both(
        put("info", description="Other words."),
        put(*SIGN, summary="Other words", description="Other words."),
        put(*SCHEMAS, "Problem", description="Other words."),
        put(*SCHEMES, "basic", description="Other words."),
    ),
    "another example": put(
        *SIGN, "requestBody", "content", "application/json", example={"csr": "-----BEGIN"}
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one release: the current contract."""
    released = tmp_path_factory.mktemp("released")
    assert compatibility.release(CURRENT, released) == []
    return released


def changed(change: Change, version: str = "0.9.0") -> dict[str, Any]:
    """Return the contract after a change, with another version."""
    after = copy.deepcopy(CURRENT)
    change(after)
    after["info"]["version"] = version
    return after


def test_contract_is_compatible_with_its_last_release() -> None:
    """Clients of the last release of this major version keep working with the current contract."""
    assert compatibility.problems(CURRENT) == []


def test_every_major_version_has_a_release() -> None:
    """The check has something to compare: a document for each major version, named after it."""
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
    problems = compatibility.problems(changed(apply), folder)
    assert any(fragment in problem for problem in problems), problems


@pytest.mark.parametrize("change", COMPATIBLE)
def test_compatible_change_is_accepted(folder: Path, change: str) -> None:
    """A change that only adds, or only rewords, is accepted."""
    assert compatibility.problems(changed(COMPATIBLE[change]), folder) == []


def test_new_major_version_may_break_clients(tmp_path: Path) -> None:
    """The next major version may break; after its release, it is compared only with itself."""
    assert compatibility.release(CURRENT, tmp_path) == []
    broken = changed(REMOVE_FIELD, "1.0.0")
    assert compatibility.problems(changed(REMOVE_FIELD, "0.2.0"), tmp_path)
    assert compatibility.release(broken, tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["openapi-0.json", "openapi-1.json"]
    assert compatibility.problems(broken, tmp_path) == []
    assert compatibility.problems(changed(lambda _: None, "1.1.0"), tmp_path) == []
    incompatible = copy.deepcopy(broken)
    REQUIRE_FIELD(incompatible)
    assert compatibility.problems(incompatible, tmp_path)
    assert compatibility.problems(changed(REMOVE_FIELD, "3.0.0"), tmp_path) == [
        "info.version: 3.0.0 does not follow 1.x, the last release"
    ]


def test_breaking_change_is_not_released(tmp_path: Path) -> None:
    """A release replaces the one before it, unless a change breaks clients."""
    assert compatibility.release(CURRENT, tmp_path) == []
    before = (tmp_path / "openapi-0.json").read_bytes()
    assert compatibility.release(changed(REMOVE_FIELD), tmp_path)
    assert (tmp_path / "openapi-0.json").read_bytes() == before
    extended = changed(add_operation)
    assert compatibility.release(extended, tmp_path) == []
    assert json.loads((tmp_path / "openapi-0.json").read_bytes()) == extended
