"""The contract, `openapi.yaml`: load it, merge the operator's profiles over it, and render it for clients."""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Final

from service.overrides import OverridesError, YAMLSource, merge_patch, verify_policy
from service.pki.policy_parser import ProfileError
from service.pki.profile_loader import IssuancePolicy

OpenAPIDocument = dict[str, Any]
"""An OpenAPI document as parsed JSON."""

PROFILES: Final = "x-certificate-profiles"
PRINCIPALS: Final = "x-certificate-principals"
IDENTITIES: Final = "x-certificate-identities"

EST_PREFIX: Final = "/.well-known/est/"  # of the paths of EST (RFC 7030)
ACME_PREFIX: Final = "/acme/"  # of the paths of ACME (RFC 8555)
# HEAD precedes GET: the first operation of Flask that accepts a method handles it, and GET accepts HEAD, too.
METHODS: Final = ("head", "get", "put", "post", "delete", "options", "patch", "trace")
INTEGRATION: Final = "x-amazon-apigateway-integration"
_PROFILE_NAME: Final = {"$ref": "#/components/schemas/ProfileName"}
_FORM: Final = "application/x-www-form-urlencoded"
_EXECUTED: Final = ("operationId", "parameters", "requestBody", "security")


def load(overrides: Path | None = None) -> OpenAPIDocument:
    """Load the contract, with the operator's YAML file of profiles merged over it.

    Raises:
        OSError: the operator's file cannot be read.
        OverridesError: the operator's file or the merged profiles are invalid.
    """
    compiled = resources.files("service").joinpath("openapi.json")  # only in the Lambda zip
    if compiled.is_file():
        document: OpenAPIDocument = json.loads(compiled.read_bytes())
    else:
        document = YAMLSource(read_source(), "CSafeLoader").data
    if overrides is None:
        return document
    source = YAMLSource.from_file(overrides)
    problems = set(source.duplicates)
    try:
        document = with_overrides(document, source.data)
    except ProfileError as error:
        problems |= {(source.locate(violation.path), str(violation)) for violation in error.violations}
    if problems:
        raise OverridesError(problems)
    return document


def read_source() -> str:
    """Return the contract's YAML text."""
    return resources.files("service").joinpath("openapi.yaml").read_text(encoding="utf-8")


def policy_data(document: OpenAPIDocument) -> dict[str, Any]:
    """Return the part of a contract that `profiles.schema.json` describes."""
    return {
        "profiles": document[PROFILES],
        "default": document["components"]["schemas"]["ProfileName"]["default"],
        "principals": document[PRINCIPALS],
        "identities": document[IDENTITIES],
    }


def with_overrides(document: OpenAPIDocument, overrides: object) -> OpenAPIDocument:
    """Return the contract with the operator's profiles, a JSON Merge Patch (RFC 7396) for `policy_data`.

    Rules for tokens replace those of the contract, so that a null does not remove a condition unnoticed.

    Raises:
        ProfileError: the merged profiles are invalid; the error lists every violation.
    """
    policy = merge_patch(policy_data(document), overrides)
    if isinstance(overrides, dict) and "identities" in overrides:
        policy["identities"] = overrides["identities"]
    verify_policy(policy)
    schemas = document["components"]["schemas"]
    name = {**schemas["ProfileName"], "enum": list(policy["profiles"]), "default": policy["default"]}
    return {
        **document,
        PROFILES: policy["profiles"],
        PRINCIPALS: policy["principals"],
        IDENTITIES: policy["identities"],
        "components": {**document["components"], "schemas": {**schemas, "ProfileName": name}},
    }


def parse_policy(document: OpenAPIDocument, status_url: str = "", *, has_ocsp: bool = True) -> IssuancePolicy:
    """Parse the issuance policy of a contract; the other arguments are those of `Profile.with_status_url`.

    Raises:
        ProfileError: the policy is invalid; the error lists every violation.
    """
    return IssuancePolicy(**policy_data(document), status_url=status_url, has_ocsp=has_ocsp)


def for_function(document: OpenAPIDocument) -> OpenAPIDocument:
    """Return the document that the Lambda function executes.

    It has the operations that reach the function, with their parameters, bodies and security. `$ref`s are
    resolved, and documentation and responses are removed, since Connexion checks and copies the document at
    each cold start.
    """
    paths: OpenAPIDocument = {}
    for path, item in document["paths"].items():
        executed = {
            method: _executed(item[method], document)
            for method in METHODS
            if method in item and item[method][INTEGRATION]["type"] != "mock"
        }
        if executed:
            paths[path] = executed
    return {
        "openapi": document["openapi"],
        "info": {"title": "", "version": ""},
        "paths": paths,
        "components": {"securitySchemes": _undescribed(document["components"]["securitySchemes"])},
    }


def _executed(operation: OpenAPIDocument, document: OpenAPIDocument) -> OpenAPIDocument:
    return {
        **{
            key: _undescribed(resolve_refs(operation[key], document)) for key in _EXECUTED if key in operation
        },
        "responses": {"default": {"description": ""}},
    }


def _undescribed(node: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a copy without descriptions and examples; keep properties with such names."""

    def change(node: OpenAPIDocument) -> OpenAPIDocument:
        return {
            key: value
            for key, value in node.items()
            if not (key == "description" and isinstance(value, str))
            and not (key in {"example", "examples"} and "schema" in node)
        }

    return rewrite(node, change)


def public(document: OpenAPIDocument) -> OpenAPIDocument:
    """Return the document without vendor extensions, for API docs, client generators and diffs.

    A CSR in a form is not in it: curl sends any body with this Content-Type, but clients would send fields.
    Responses allow unknown fields, which later versions may add and clients must ignore (RFC 9457 section 3.2
    requires this for problems). Requests do not.
    """
    profile_name = document["components"]["schemas"]["ProfileName"]

    def change(node: OpenAPIDocument) -> OpenAPIDocument:
        removed = (
            key for key in node if _is_profile_name(key, node) and node[key] not in profile_name["enum"]
        )
        examples = dict.fromkeys(removed, profile_name["default"])  # the operator's profiles replace others
        public_part = {key: value for key, value in node.items() if not key.startswith("x-") and key != _FORM}
        return public_part | examples

    stripped: OpenAPIDocument = rewrite(document, change)
    bodies = [operation.get("requestBody") for operation in operations_by_id(stripped).values()]
    requests = _referenced_schemas(bodies, stripped)
    schemas = stripped["components"]["schemas"]
    opened = {
        name: schema if name in requests else rewrite(schema, _open_schema)
        for name, schema in schemas.items()
    }
    references = set(re.findall(r'"#/components/examples/(\w+)"', json.dumps(stripped)))
    examples = {
        name: example for name, example in stripped["components"]["examples"].items() if name in references
    }
    return {**stripped, "components": {**stripped["components"], "schemas": opened, "examples": examples}}


def _is_profile_name(key: str, node: OpenAPIDocument) -> bool:
    """Whether the value is the name of a profile, in an example."""
    is_profile = (
        key == "profile"
        or (key == "name" and "extended_key_usage" in node)
        or (key == "default" and "profiles" in node)
        or (key == "example" and node.get("schema") == _PROFILE_NAME)
    )
    return is_profile and isinstance(node[key], str) and not node[key].startswith("$")  # of a link


def with_public_url(document: OpenAPIDocument, url: str) -> OpenAPIDocument:
    """Return the document with this URL as its server and as the base of problem types; '' changes nothing.

    Problem types are in gateway responses and templates, which are JSON in a string, and in examples.
    """
    if not url:
        return document
    template, path = '"type":"/problems#', "/problems#"

    def change(node: OpenAPIDocument) -> OpenAPIDocument:
        return {
            key: value.replace(template, template.replace(path, url + path))
            if isinstance(value, str) and template in value
            else f"{url}{value}"
            if key == "type" and str(value).startswith(path)
            else value
            for key, value in node.items()
        }

    return {**rewrite(document, change), "servers": [{"url": url}]}


def with_greedy_parameters(document: OpenAPIDocument) -> OpenAPIDocument:
    """Return the document with API Gateway's `{name+}` for each path parameter of several segments.

    OpenAPI has no such parameter. In the contract, it has the format `path`, which Connexion knows.
    """
    return {**document, "paths": {_greedy_path(path, item): item for path, item in document["paths"].items()}}


def _greedy_path(path: str, item: OpenAPIDocument) -> str:
    for operation in item.values():
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path" and parameter["schema"].get("format") == "path":
                path = path.replace(f"{{{parameter['name']}}}", f"{{{parameter['name']}+}}")
    return path


def _open_schema(node: OpenAPIDocument) -> OpenAPIDocument:
    closing = {"additionalProperties"} if node.get("additionalProperties") is False else set()
    return {key: value for key, value in node.items() if key not in closing}


def _referenced_schemas(node: Any, document: OpenAPIDocument) -> set[str]:  # noqa: ANN401 - JSON
    """Return the names of the schemas that a part of the document refers to, directly or indirectly."""
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(node)))
    return names.union(
        *(_referenced_schemas(document["components"]["schemas"][name], document) for name in names)
    )


def operations_by_id(document: OpenAPIDocument) -> dict[str, OpenAPIDocument]:
    """Return the operation objects by operationId."""
    return {
        operation["operationId"]: operation
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    }


def resolve_refs(node: Any, document: OpenAPIDocument) -> Any:  # noqa: ANN401 - JSON
    """Return a copy with every `$ref` replaced by its target; the contract has no recursive schemas."""
    return rewrite(node, lambda node: resolve_ref(node, document))


def resolve_ref(node: OpenAPIDocument, document: OpenAPIDocument) -> OpenAPIDocument:
    """Return the target of a `$ref`; the node itself if it is not a reference."""
    if "$ref" not in node:
        return node
    return resolve_ref(functools.reduce(operator.getitem, node["$ref"].split("/")[1:], document), document)


def rewrite(node: Any, change: Callable[[OpenAPIDocument], Any]) -> Any:  # noqa: ANN401 - JSON
    """Return a copy in which `change` replaced each object, outer objects first."""
    if isinstance(node, dict):
        node = change(node)
    if isinstance(node, dict):
        return {key: rewrite(value, change) for key, value in node.items()}
    return [rewrite(item, change) for item in node] if isinstance(node, list) else node
