"""The contract, `openapi.yaml`: loaded once, and made ready for whoever takes it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

Document = dict[str, Any]
"""An OpenAPI document as parsed JSON."""

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_INTEGRATION: Final = "x-amazon-apigateway-integration"
_VENDOR: Final = "x-amazon-apigateway-"
_REQUEST: Final = ("operationId", "parameters", "requestBody")
# What API Gateway does not take, and what only describes; none of it changes an answer.
_DOCUMENTATION_ONLY: Final = frozenset({"default", "example", "examples", "externalDocs", "format"})


def load() -> Document:
    """The contract that this package carries; the Lambda zip carries it parsed, as JSON."""
    parsed = resources.files("service").joinpath("openapi.json")
    if parsed.is_file():
        carried: Document = json.loads(parsed.read_bytes())
        return carried
    import yaml  # noqa: PLC0415 - 70 ms that the zip's cold start does without

    text = resources.files("service").joinpath("openapi.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Through JSON, so that parts that YAML aliases share become parts of their own.
    document: Document = json.loads(json.dumps(yaml.load(text, Loader=loader)))  # noqa: S506 - safe ones
    return document


def default_profile(document: Document) -> str:
    """The profile that is meant when a request names none."""
    return str(document["components"]["schemas"]["ProfileName"]["default"])


def for_function(document: Document) -> Document:
    """What the operations that reach the function say of a request, without `$ref`: no mock operations,
    and no security, which the gateway enforces and `service.web.principal` checks again from what the
    gateway says.
    """
    paths: Document = {}
    for path, item in document["paths"].items():
        reached = {
            method: resolve({key: item[method][key] for key in _REQUEST if key in item[method]}, document)
            for method in METHODS
            if method in item and item[method][_INTEGRATION]["type"] != "mock"
        }
        if reached:
            paths[path] = reached
    return {"openapi": document["openapi"], "paths": paths}


def includable(document: Document) -> Document:
    """The document as a CloudFormation template includes it: as `importable`, but with the `Fn::Sub`
    of its ARNs, which CloudFormation resolves.
    """
    return _rendered(document, {})


def importable(document: Document, region: str, account: str, function: str) -> Document:
    """The document that API Gateway imports: ARNs resolved, without documentation-only keywords,
    without any `x-` that is not API Gateway's, and with no `$ref` but to schemas.
    """
    partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], "aws")
    substitutions = {
        "${AWS::Partition}": partition,
        "${AWS::Region}": region,
        "${AWS::AccountId}": account,
        "${Function.Arn}": f"arn:{partition}:lambda:{region}:{account}:function:{function}",
    }
    return _rendered(document, substitutions)


def _rendered(document: Document, substitutions: dict[str, str]) -> Document:
    rendered: Document = _render(document, document, substitutions)
    del rendered["components"]["responses"]
    return rendered


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
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return resolve(target, document)
    return {key: resolve(value, document) for key, value in node.items()}


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
    """Whether this is a keyword of a schema, parameter or media type that API Gateway ignores or
    refuses; a property, or a response, of that name is none.
    """
    describes = isinstance(node.get("type"), str) or "schema" in node
    return describes and key in _DOCUMENTATION_ONLY
