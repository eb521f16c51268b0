"""The contract, `openapi.yaml`: loaded, with the operator's profiles merged over its own, and rendered."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

from service.overrides import OverridesError, Source, merge_patch, verify
from service.pki.profile_loader import IssuancePolicy, ProfileError

Document = dict[str, Any]
"""An OpenAPI document as parsed JSON."""

PROFILES: Final = "x-certificate-profiles"
PRINCIPALS: Final = "x-certificate-principals"

EST: Final = "/.well-known/est/"  # how the paths begin that AWS has only where they are asked for

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_INTEGRATION: Final = "x-amazon-apigateway-integration"
_VENDOR: Final = "x-amazon-apigateway-"
_EXECUTED: Final = ("operationId", "parameters", "requestBody", "security")
# What API Gateway does not take, and what only describes; none of it changes an answer.
_DOCUMENTATION_ONLY: Final = frozenset({"default", "example", "examples", "externalDocs", "format"})


def load(overrides: Path | None = None) -> Document:
    """The contract that this package carries; the Lambda zip carries it parsed, as JSON.

    Args:
        overrides: a YAML file of the operator's own profiles, which are merged over the contract's.

    Raises:
        OSError: the operator's file cannot be read.
        OverridesError: it has problems, or the merged profiles have.
    """
    parsed = resources.files("service").joinpath("openapi.json")
    if parsed.is_file():
        document: Document = json.loads(parsed.read_bytes())
    else:
        document = Source(source(), "CSafeLoader").data
    if overrides is None:
        return document
    text = Source.read(overrides)
    problems = set(text.duplicates)
    try:
        document = with_overrides(document, text.data)
    except ProfileError as error:
        problems |= {(text.line(fault.path), str(fault)) for fault in error.faults}
    if problems:
        raise OverridesError(problems)
    return document


def source() -> str:
    """The contract as it was written, YAML."""
    return resources.files("service").joinpath("openapi.yaml").read_text(encoding="utf-8")


def policy(document: Document) -> dict[str, Any]:
    """The part of a contract that `profiles.schema.json` describes."""
    return {
        "profiles": document[PROFILES],
        "default": document["components"]["schemas"]["ProfileName"]["default"],
        "principals": document[PRINCIPALS],
    }


def with_overrides(document: Document, overrides: object) -> Document:
    """The contract with an operator's profiles merged over its own; requests may name these.

    Args:
        document: the contract.
        overrides: JSON Merge Patch (RFC 7396) for `policy`.

    Raises:
        ProfileError: the merged profiles are not well formed; it lists every fault.
    """
    merged = merge_patch(policy(document), overrides)
    verify(merged)
    schemas = document["components"]["schemas"]
    name = {**schemas["ProfileName"], "enum": list(merged["profiles"]), "default": merged["default"]}
    return {
        **document,
        PROFILES: merged["profiles"],
        PRINCIPALS: merged["principals"],
        "components": {**document["components"], "schemas": {**schemas, "ProfileName": name}},
    }


def profiles(document: Document) -> IssuancePolicy:
    """The issuance policy that a contract states.

    Raises:
        ProfileError: it is not well formed; it lists every fault.
    """
    return IssuancePolicy(**policy(document))


def for_function(document: Document) -> Document:
    """The document that the function executes: the operations that reach it, with their parameters, bodies,
    security, and the statuses and media types of their responses. `$ref`s are resolved, and what only
    describes is left out: Connexion checks and copies the document at each cold start.
    """
    paths: Document = {}
    for path, item in document["paths"].items():
        reached = {
            method: _executed(item[method], document)
            for method in METHODS
            if method in item and item[method][_INTEGRATION]["type"] != "mock"
        }
        if reached:
            paths[path] = reached
    return {
        "openapi": document["openapi"],
        "info": {"title": "", "version": ""},
        "paths": paths,
        "components": {"securitySchemes": _undescribed(document["components"]["securitySchemes"])},
    }


def _executed(operation: Document, document: Document) -> Document:
    responses = {status: _target(stated, document) for status, stated in operation["responses"].items()}
    return {
        **{key: _undescribed(resolve(operation[key], document)) for key in _EXECUTED if key in operation},
        "responses": {
            status: {"description": "", "content": {kind: {} for kind in response.get("content", ())}}
            for status, response in responses.items()
        },
    }


def _undescribed(node: Any) -> Any:  # noqa: ANN401 - JSON
    """A copy without descriptions and examples; a property of such a name is a schema, and stays."""
    if isinstance(node, list):
        return [_undescribed(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _undescribed(value)
        for key, value in node.items()
        if not (key == "description" and isinstance(value, str))
        and not (key in {"example", "examples"} and "schema" in node)
    }


def for_cloudformation(document: Document, *, est: bool = False) -> Document:
    """The document that a CloudFormation template includes: as `for_api_gateway`, but with the `Fn::Sub` of
    its ARNs, which CloudFormation resolves.
    """
    return _rendered(_for_aws(document, est=est), {})


def for_api_gateway(
    document: Document, region: str, account: str, function: str, *, est: bool = False
) -> Document:
    """The document that API Gateway imports: ARNs resolved, without documentation-only keywords,
    without any `x-` that is not API Gateway's, and with no `$ref` but to schemas.

    Args:
        document: the contract.
        region: the function's region.
        account: its account.
        function: its name.
        est: whether EST is in it, and with it an authorizer, which every API key then comes from.
    """
    partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], "aws")
    substitutions = {
        "${AWS::Partition}": partition,
        "${AWS::Region}": region,
        "${AWS::AccountId}": account,
        "${Function.Arn}": f"arn:{partition}:lambda:{region}:{account}:function:{function}",
    }
    return _rendered(_for_aws(document, est=est), substitutions)


def _for_aws(document: Document, *, est: bool) -> Document:
    """The contract without what API Gateway has not: HTTP Basic, which an authorizer stands in for.

    The source of API keys is the whole API's, so with EST the authorizer is on every operation that needs a
    key. API Gateway wants both of `security`'s alternatives, as its own export has them.
    """
    paths = {path: item for path, item in document["paths"].items() if est or not path.startswith(EST)}
    schemes = {
        name: scheme
        for name, scheme in document["components"]["securitySchemes"].items()
        if scheme["type"] == "apiKey"
    }
    extensions = {}
    if est:
        security: list[Document] = [{"apiKey": []}, {"authorizer": []}]
        paths = {
            path: {
                key: {**value, "security": security}
                if isinstance(value, dict) and value.get("security")
                else value
                for key, value in item.items()
            }
            for path, item in paths.items()
        }
        extensions["x-amazon-apigateway-api-key-source"] = "AUTHORIZER"
        # No identity source: API Gateway would insist on all of them, and a key comes in one of two headers.
        schemes["authorizer"] = {
            "type": "apiKey",
            "name": "Authorization",
            "in": "header",
            "x-amazon-apigateway-authtype": "custom",
            "x-amazon-apigateway-authorizer": {
                "type": "request",
                "authorizerUri": operations(document)["sign"][_INTEGRATION]["uri"],
                "authorizerResultTtlInSeconds": 0,
            },
        }
    components = {**document["components"], "securitySchemes": schemes}
    return {**document, **extensions, "paths": paths, "components": components}


def _rendered(document: Document, substitutions: dict[str, str]) -> Document:
    rendered: Document = _render(document, document, substitutions)
    for of in ("responses", "examples"):
        del rendered["components"][of]
    return rendered


def public(document: Document) -> Document:
    """The document without vendor extensions, for viewers, client generators and diffs.

    Its responses allow unknown members, which later versions may add and clients must ignore (as RFC 9457 3.2
    has it for problems). Its requests allow none.
    """
    stripped: Document = _without_extensions(document)
    bodies = [operation.get("requestBody") for operation in operations(stripped).values()]
    requests = _schemas(bodies, stripped)
    schemas = stripped["components"]["schemas"]
    opened = {
        name: schema if name in requests else _open_responses(schema) for name, schema in schemas.items()
    }
    return {**stripped, "components": {**stripped["components"], "schemas": opened}}


def _without_extensions(node: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(node, list):
        return [_without_extensions(item) for item in node]
    if isinstance(node, dict):
        return {key: _without_extensions(value) for key, value in node.items() if not key.startswith("x-")}
    return node


def _open_responses(node: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(node, list):
        return [_open_responses(item) for item in node]
    if isinstance(node, dict):
        closing = {"additionalProperties"} if node.get("additionalProperties") is False else set()
        return {key: _open_responses(value) for key, value in node.items() if key not in closing}
    return node


def _schemas(node: Any, document: Document) -> set[str]:  # noqa: ANN401 - JSON
    """The names of the schemas that a part of the document refers to, and of those that these refer to."""
    if isinstance(node, list):
        return {name for item in node for name in _schemas(item, document)}
    if not isinstance(node, dict):
        return set()
    reference = node.get("$ref", "")
    if reference.startswith("#/components/schemas/"):
        name = reference.rpartition("/")[2]
        return {name} | _schemas(document["components"]["schemas"][name], document)
    return _schemas(list(node.values()), document)


def operations(document: Document) -> dict[str, Document]:
    """OperationId -> operation object."""
    return {
        operation["operationId"]: operation
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    }


def resolve(node: Any, document: Document) -> Any:  # noqa: ANN401 - JSON
    """A copy with every `$ref` replaced by what it refers to; no schema of ours is recursive."""
    if isinstance(node, list):
        return [resolve(item, document) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return resolve(_target(node, document), document)
    return {key: resolve(value, document) for key, value in node.items()}


def _target(node: Document, document: Document) -> Document:
    """What a `$ref` refers to; the node itself if it is none."""
    target = document
    for part in node.get("$ref", "#").split("/")[1:]:
        target = target[part]
    return target if "$ref" in node else node


def _render(node: Any, document: Document, substitutions: dict[str, str]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(node, list):
        return [_render(item, document, substitutions) for item in node]
    if not isinstance(node, dict):
        return node
    if "Fn::Sub" in node and substitutions:
        text = node["Fn::Sub"]
        for name, value in substitutions.items():
            text = text.replace(name, value)
        return text
    reference = node.get("$ref", "")
    if isinstance(reference, str) and reference.startswith("#/components/responses/"):
        name = reference.rpartition("/")[2]
        return _render(document["components"]["responses"][name], document, substitutions)
    return {
        key: _render(value, document, substitutions)
        for key, value in node.items()
        if not _is_documentation(key, node) and (not key.startswith("x-") or key.startswith(_VENDOR))
    }


def _is_documentation(key: str, node: Document) -> bool:
    """Whether this is a keyword of a schema, parameter, media type or response that API Gateway ignores
    or refuses; a property, or a response, of that name is none.
    """
    describes = isinstance(node.get("type"), str) or "schema" in node
    return (describes and key in _DOCUMENTATION_ONLY) or (key == "links" and "content" in node)
