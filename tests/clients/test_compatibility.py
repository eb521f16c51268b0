"""No change of the contract breaks its clients, but with a new major version: oasdiff judges."""

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
QUESTION = {"name": "purpose", "in": "query", "schema": PURPOSE}


def at(document: Any, *place: str | int) -> Any:
    """What stands at a place of the document."""
    for step in place:
        document = document[step]
    return document


def put(*place: str | int, **members: object) -> Change:
    """Other members there, or more."""
    return lambda document: at(document, *place).update(members)


def drop(*place: str | int) -> Change:
    """That member removed."""
    return lambda document: at(document, *place[:-1]).pop(place[-1])


def add(*place: str | int, value: object) -> Change:
    """An element more in the list there."""
    return lambda document: at(document, *place).append(value)


def remove(*place: str | int, value: object) -> Change:
    """An element less."""
    return lambda document: at(document, *place).remove(value)


def both(*changes: Change) -> Change:
    """One change after the other."""
    return lambda document: [change(document) for change in changes]


def rename(document: dict[str, Any]) -> None:
    """A schema, and with it a type of every client, has another name."""
    document.update(json.loads(json.dumps(document).replace('schemas/Problem"', 'schemas/Fault"')))
    at(document, *SCHEMAS)["Fault"] = at(document, *SCHEMAS).pop("Problem")


def replicate(document: dict[str, Any]) -> None:
    """An operation more."""
    document["paths"]["/more"] = copy.deepcopy(document["paths"]["/health"])
    put("paths", "/more", "get", operationId="more")(document)


# A request needs what it did not need before; an answer lacks what it always had.
DEMAND = both(put(*REQUEST, purpose=PURPOSE), add(*SCHEMAS, "SignRequest", "required", value="purpose"))
WITHHOLD = both(
    drop(*CERTIFICATE, "properties", "serial_number"),
    remove(*CERTIFICATE, "required", value="serial_number"),
)
XML = put(*SIGN, "responses", "200", content={"application/xml": {"schema": {"type": "object"}}})
# What breaks, and the rule that says so.
BREAKING: dict[str, tuple[Change, str]] = {
    "an operation removed": (drop("paths", "/ca.crl"), "GET /ca.crl: api path removed"),
    "a method removed": (drop(*SIGN), "POST /sign: api removed"),
    "an operation renamed": (put(*SIGN, operationId="issue"), "(api-operation-id-removed)"),
    "another tag": (put(*SIGN, tags=["issue"]), "(api-tag-removed)"),
    "a schema renamed": (rename, "(api-schema-removed)"),
    "a required member of an answer removed": (WITHHOLD, "(response-required-property-removed)"),
    "an optional member of an answer removed": (drop(*SCHEMAS, "Problem", "properties", "errors"), "(response-optional-property-removed)"),
    "a member of an answer that may be missing": (remove(*CERTIFICATE, "required", value="serial_number"), "(response-property-became-optional)"),
    "a required member of a request": (DEMAND, "(new-required-request-property)"),
    "a member of a request removed": (drop(*REQUEST, "validity"), "(request-property-removed)"),
    "a narrower enum": (remove(*SCHEMAS, "ProfileName", "enum", value="peer"), "(request-property-enum-value-removed)"),
    "a wider enum in an answer": (add(*SCHEMAS, "ProfileName", "enum", value="other"), "(response-property-enum-value-added)"),
    "a narrower string": (put(*REQUEST, "validity", maxLength=10), "(request-property-max-length-decreased)"),
    "a shorter list": (put(*SCHEMAS, "BatchRequest", "properties", "requests", maxItems=100), "components.schemas.BatchRequest.requests.maxItems: lowered"),
    "another default": (put(*REQUEST, "text", default=False), "(request-property-default-value-changed)"),
    "a required parameter": (add(*SIGN, "parameters", value={**QUESTION, "required": True}), "(new-required-request-parameter)"),
    "a parameter that is required now": (put(*SIGN, "parameters", 0, required=True), "(request-parameter-became-required)"),
    "an answer removed": (drop(*SIGN, "responses", "202"), "(response-success-status-removed)"),
    "a refusal removed": (drop(*SIGN, "responses", "422"), "(response-non-success-status-removed)"),
    "another type in an answer": (put(*SCHEMAS, "Problem", "properties", "status", type="string"), "(response-property-type-changed)"),
    "another type in a request": (put(*REQUEST, "text", type="string"), "(request-property-type-changed)"),
    "a media type of a request removed": (drop(*PEM, "application/pkcs10"), "(request-body-media-type-removed)"),
    "another media type of an answer": (XML, "(response-media-type-removed)"),
    "a key needed": (put("paths", "/health", "get", security=[{"apiKey": []}]), "(api-security-added)"),
    "a kind of key refused": (remove("paths", "/.well-known/est/simpleenroll", "post", "security", value={"basic": []}), "(api-security-removed)"),
    "another header for the key": (put(*SCHEMES, "apiKey", name="x-key"), "components.securitySchemes.apiKey: changed"),
    "a kind of key removed": (drop(*SCHEMES, "basic"), "components.securitySchemes.basic: changed"),
    "another place": (put(servers=[{"url": "/v2"}]), "servers: changed"),
}  # fmt: skip
COMPATIBLE: dict[str, Change] = {
    "nothing": lambda _: None,
    "an operation": replicate,
    "an optional member of a request": put(*REQUEST, purpose=PURPOSE),
    "a member of an answer": put(*CERTIFICATE, "properties", more=PURPOSE),
    "an optional parameter": add(*SIGN, "parameters", value=QUESTION),
    "a wider string": put(*REQUEST, "validity", maxLength=64),
    "a longer list": put(*SCHEMAS, "BatchRequest", "properties", "requests", maxItems=900),
    "a refusal": put(*SIGN, "responses", **{"409": at(CURRENT, *SIGN, "responses", "422")}),
    "a media type of a request": put(*PEM, **{"application/x-csr": {"schema": PURPOSE}}),
    "other words": both(
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
    """Releases: one, of what is current."""
    made = tmp_path_factory.mktemp("released")
    assert compatibility.release(CURRENT, made) == []
    return made


def changed(change: Change, version: str = "0.9.0") -> dict[str, Any]:
    """The contract as a change makes it, in another version."""
    after = copy.deepcopy(CURRENT)
    change(after)
    after["info"]["version"] = version
    return after


def test_the_contract_breaks_nobody() -> None:
    """Clients of the last release of this major version go on working with the contract as it stands."""
    assert compatibility.faults(CURRENT) == []


def test_there_is_a_release() -> None:
    """The gate judges something: each major version up to the contract's last was kept, under its own name."""
    released = [json.loads(each.read_text()) for each in sorted(compatibility.RELEASED.iterdir())]
    majors = [int(each["info"]["version"].split(".")[0]) for each in released]
    assert majors == list(range(len(majors)))
    assert majors
    assert [each.name for each in sorted(compatibility.RELEASED.iterdir())] == [
        f"openapi-{major}.json" for major in majors
    ]


@pytest.mark.parametrize("change", BREAKING)
def test_a_breaking_change_is_refused(folder: Path, change: str) -> None:
    """Whatever takes something from a client is found, whatever the minor version; and it is not released."""
    apply, said = BREAKING[change]
    found = compatibility.faults(changed(apply), folder)
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize("change", COMPATIBLE)
def test_an_addition_passes(folder: Path, change: str) -> None:
    """Whatever only adds, or says it in other words, is let through."""
    assert compatibility.faults(changed(COMPATIBLE[change]), folder) == []


def test_a_major_version_may_break(tmp_path: Path) -> None:
    """The next major version passes with a breaking change, and once released it is held to itself alone."""
    assert compatibility.release(CURRENT, tmp_path) == []
    broken = changed(WITHHOLD, "1.0.0")
    assert compatibility.faults(changed(WITHHOLD, "0.2.0"), tmp_path)
    assert compatibility.release(broken, tmp_path) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["openapi-0.json", "openapi-1.json"]
    assert compatibility.faults(broken, tmp_path) == []
    assert compatibility.faults(changed(lambda _: None, "1.1.0"), tmp_path) == []
    demanding = copy.deepcopy(broken)
    DEMAND(demanding)
    assert compatibility.faults(demanding, tmp_path)
    assert compatibility.faults(changed(WITHHOLD, "3.0.0"), tmp_path) == [
        "info.version: 3.0.0 does not follow 1.x, the last that was released"
    ]


def test_what_breaks_is_not_released(tmp_path: Path) -> None:
    """A release replaces the one before it, octet for octet as `certlet openapi --format public` prints; a fault keeps it."""
    assert compatibility.release(CURRENT, tmp_path) == []
    kept = (tmp_path / "openapi-0.json").read_bytes()
    assert compatibility.release(changed(WITHHOLD), tmp_path)
    assert (tmp_path / "openapi-0.json").read_bytes() == kept
    more = changed(replicate)
    assert compatibility.release(more, tmp_path) == []
    assert json.loads((tmp_path / "openapi-0.json").read_bytes()) == more
