"""No change of the contract breaks its clients, but with a new major version: oasdiff judges."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import compatibility
from service import contract

CURRENT = contract.plain(contract.load())
Change = Callable[[dict[str, Any]], object]


def schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A schema of the document."""
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def operation(document: dict[str, Any], path: str, method: str = "post") -> dict[str, Any]:
    """An operation of the document."""
    found: dict[str, Any] = document["paths"][path][method]
    return found


def contents(document: dict[str, Any], path: str, status: str) -> dict[str, Any]:
    """Media types of an answer."""
    found: dict[str, Any] = operation(document, path)["responses"][status]["content"]
    return found


def demand(document: dict[str, Any]) -> None:
    """A request needs what it did not need before."""
    schema(document, "SignRequest")["properties"]["purpose"] = {"type": "string"}
    schema(document, "SignRequest")["required"].append("purpose")


def withhold(document: dict[str, Any]) -> None:
    """An answer lacks what it always had."""
    del schema(document, "SignedCertificate")["properties"]["serial_number"]
    schema(document, "SignedCertificate")["required"].remove("serial_number")


def rename(document: dict[str, Any]) -> None:
    """A schema, and with it a type of every client, has another name."""
    text = json.dumps(document).replace('schemas/Problem"', 'schemas/Fault"')
    document.update(json.loads(text))
    schemas = document["components"]["schemas"]
    schemas["Fault"] = schemas.pop("Problem")


def replicate(document: dict[str, Any]) -> None:
    """An operation more."""
    document["paths"]["/more"] = copy.deepcopy(document["paths"]["/health"])
    operation(document, "/more", "get")["operationId"] = "more"


QUESTION = {"name": "purpose", "in": "query", "schema": {"type": "string"}}
# What breaks, and the rule that says so.
BREAKING: dict[str, tuple[Change, str]] = {
    "an operation removed": (lambda it: it["paths"].pop("/ca.crl"), "GET /ca.crl: api path removed"),
    "a method removed": (lambda it: it["paths"]["/sign"].pop("post"), "POST /sign: api removed"),
    "an operation renamed": (
        lambda it: operation(it, "/sign").update(operationId="issue"),
        "(api-operation-id-removed)",
    ),
    "another tag": (lambda it: operation(it, "/sign").update(tags=["issue"]), "(api-tag-removed)"),
    "a schema renamed": (rename, "(api-schema-removed)"),
    "a required member of an answer removed": (withhold, "(response-required-property-removed)"),
    "an optional member of an answer removed": (
        lambda it: schema(it, "Problem")["properties"].pop("errors"),
        "(response-optional-property-removed)",
    ),
    "a member of an answer that may be missing": (
        lambda it: schema(it, "SignedCertificate")["required"].remove("serial_number"),
        "(response-property-became-optional)",
    ),
    "a required member of a request": (demand, "(new-required-request-property)"),
    "a member of a request removed": (
        lambda it: schema(it, "SignRequest")["properties"].pop("validity"),
        "(request-property-removed)",
    ),
    "a narrower enum": (
        lambda it: schema(it, "ProfileName")["enum"].remove("peer"),
        "(request-property-enum-value-removed)",
    ),
    "a wider enum in an answer": (
        lambda it: schema(it, "ProfileName")["enum"].append("other"),
        "(response-property-enum-value-added)",
    ),
    "a narrower string": (
        lambda it: schema(it, "SignRequest")["properties"]["validity"].update(maxLength=10),
        "(request-property-max-length-decreased)",
    ),
    "a shorter list": (
        lambda it: schema(it, "BatchRequest")["properties"]["requests"].update(maxItems=100),
        "components.schemas.BatchRequest.requests.maxItems: lowered",
    ),
    "another default": (
        lambda it: schema(it, "SignRequest")["properties"]["text"].update(default=False),
        "(request-property-default-value-changed)",
    ),
    "a required parameter": (
        lambda it: operation(it, "/sign")["parameters"].append({**QUESTION, "required": True}),
        "(new-required-request-parameter)",
    ),
    "a parameter that is required now": (
        lambda it: operation(it, "/sign")["parameters"][0].update(required=True),
        "(request-parameter-became-required)",
    ),
    "an answer removed": (
        lambda it: operation(it, "/sign")["responses"].pop("202"),
        "(response-success-status-removed)",
    ),
    "a refusal removed": (
        lambda it: operation(it, "/sign")["responses"].pop("422"),
        "(response-non-success-status-removed)",
    ),
    "another type in an answer": (
        lambda it: schema(it, "Problem")["properties"]["status"].update(type="string"),
        "(response-property-type-changed)",
    ),
    "another type in a request": (
        lambda it: schema(it, "SignRequest")["properties"]["text"].update(type="string"),
        "(request-property-type-changed)",
    ),
    "a media type of a request removed": (
        lambda it: operation(it, "/sign.pem")["requestBody"]["content"].pop("application/pkcs10"),
        "(request-body-media-type-removed)",
    ),
    "another media type of an answer": (
        lambda it: contents(it, "/sign", "200").update(
            {"application/xml": contents(it, "/sign", "200").pop("application/json")}
        ),
        "(response-media-type-removed)",
    ),
    "a key needed": (
        lambda it: operation(it, "/health", "get").update(security=[{"apiKey": []}]),
        "(api-security-added)",
    ),
    "a kind of key refused": (
        lambda it: operation(it, "/.well-known/est/simpleenroll")["security"].remove({"basic": []}),
        "(api-security-removed)",
    ),
    "another header for the key": (
        lambda it: it["components"]["securitySchemes"]["apiKey"].update(name="x-key"),
        "components.securitySchemes.apiKey: changed",
    ),
    "a kind of key removed": (
        lambda it: it["components"]["securitySchemes"].pop("basic"),
        "components.securitySchemes.basic: changed",
    ),
    "another place": (lambda it: it.update(servers=[{"url": "/v2"}]), "servers: changed"),
}
COMPATIBLE: dict[str, Change] = {
    "nothing": lambda _: None,
    "an operation": replicate,
    "an optional member of a request": lambda it: schema(it, "SignRequest")["properties"].update(
        purpose={"type": "string"}
    ),
    "a member of an answer": lambda it: schema(it, "SignedCertificate")["properties"].update(
        more={"type": "string"}
    ),
    "an optional parameter": lambda it: operation(it, "/sign")["parameters"].append(QUESTION),
    "a wider string": lambda it: schema(it, "SignRequest")["properties"]["validity"].update(maxLength=64),
    "a longer list": lambda it: schema(it, "BatchRequest")["properties"]["requests"].update(maxItems=900),
    "a refusal": lambda it: operation(it, "/sign")["responses"].update(
        {"409": operation(it, "/sign")["responses"]["422"]}
    ),
    "a media type of a request": lambda it: operation(it, "/sign.pem")["requestBody"]["content"].update(
        {"application/x-csr": {"schema": {"type": "string"}}}
    ),
    "other words": lambda it: (
        it["info"].update(description="Other words."),
        operation(it, "/sign").update(summary="Other words", description="Other words."),
        schema(it, "Problem").update(description="Other words."),
        it["components"]["securitySchemes"]["basic"].update(description="Other words."),
    ),
    "another example": lambda it: operation(it, "/sign")["requestBody"]["content"]["application/json"].update(
        example={"csr": "-----BEGIN"}
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
    broken = changed(withhold, "1.0.0")
    assert compatibility.faults(changed(withhold, "0.2.0"), tmp_path)
    assert compatibility.release(broken, tmp_path) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["openapi-0.json", "openapi-1.json"]
    assert compatibility.faults(broken, tmp_path) == []
    assert compatibility.faults(changed(lambda _: None, "1.1.0"), tmp_path) == []
    demanding = copy.deepcopy(broken)
    demand(demanding)
    assert compatibility.faults(demanding, tmp_path)
    assert compatibility.faults(changed(withhold, "3.0.0"), tmp_path) == [
        "info.version: 3.0.0 does not follow 1.x, the last that was released"
    ]


def test_what_breaks_is_not_released(tmp_path: Path) -> None:
    """A release replaces the one before it, octet for octet as `certlet openapi --plain` prints; a fault keeps it."""
    assert compatibility.release(CURRENT, tmp_path) == []
    kept = (tmp_path / "openapi-0.json").read_bytes()
    assert compatibility.release(changed(withhold), tmp_path)
    assert (tmp_path / "openapi-0.json").read_bytes() == kept
    more = changed(replicate)
    assert compatibility.release(more, tmp_path) == []
    assert json.loads((tmp_path / "openapi-0.json").read_bytes()) == more
