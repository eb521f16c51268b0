"""The contract, `openapi.yaml`: loaded once, and made ready for whoever takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

from service.pki.errors import quoted
from service.pki.policy import Profiles

Document = dict[str, Any]
"""An OpenAPI document as parsed JSON."""

OWN_MEMBERS: Final = {"profiles": dict, "default": str, "principals": dict}
"""What an operator's own profiles file may state, and as what."""
PROFILES: Final = "x-certificate-profiles"
PRINCIPALS: Final = "x-certificate-principals"

EST: Final = "/.well-known/est/"  # how the paths begin that AWS has only where they are asked for

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_INTEGRATION: Final = "x-amazon-apigateway-integration"
_VENDOR: Final = "x-amazon-apigateway-"
_REQUEST: Final = ("operationId", "parameters", "requestBody")
# What API Gateway does not take, and what only describes; none of it changes an answer.
_DOCUMENTATION_ONLY: Final = frozenset({"default", "example", "examples", "externalDocs", "format"})


class ContractError(ValueError):
    """An operator's own file is not one; the message lists every fault, in one line.

    Attributes:
        faults: the line of each, and what it should be.
    """

    def __init__(self, *faults: tuple[int, str]) -> None:
        super().__init__("; ".join(f"line {line}: {detail}" for line, detail in faults))
        self.faults = faults


def load(own: Path | None = None) -> Document:
    """The contract that this package carries; the Lambda zip carries it parsed, as JSON.

    Args:
        own: a YAML file of the operator's own profiles, which are merged over the contract's.

    Raises:
        OSError: the operator's file cannot be read.
        ContractError: it does not state profiles.
    """
    parsed = resources.files("service").joinpath("openapi.json")
    if parsed.is_file():
        document: Document = json.loads(parsed.read_bytes())
    else:
        # Through JSON, so that parts that YAML aliases share become parts of their own.
        document = json.loads(json.dumps(_yaml(source())))
    return merged(document, own_profiles(read(own))) if own else document


def read(own: Path) -> str:
    """An operator's own file.

    Raises:
        OSError: it cannot be read.
        ContractError: it is not UTF-8.
    """
    try:
        return own.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ContractError((line, "it is not UTF-8")) from error


def source() -> str:
    """The contract as it was written, YAML."""
    return resources.files("service").joinpath("openapi.yaml").read_text(encoding="utf-8")


def own_profiles(text: str) -> Document:
    """Read an operator's own profiles.

    Args:
        text: YAML, a mapping of `profiles` (name -> profile, or null for none of that name), `default` and
            `principals`, each optional.

    Raises:
        ContractError: it is not that.
    """
    import yaml  # noqa: PLC0415 - as in `_yaml`

    try:
        node = compose(text)
        stated = json.loads(json.dumps(yaml.load(text, Loader=yaml.SafeLoader)))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        said = " ".join(str(error).split())[:200]
        raise ContractError((mark.line + 1 if mark else 1, f"it is not YAML: {said}")) from error
    known = ", ".join(OWN_MEMBERS)
    if not isinstance(stated, dict):
        raise ContractError((1, f"it is not a mapping of {known}"))
    faults = [(line, f"{name} stands in it twice") for line, name in _twice(node)]
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name not in OWN_MEMBERS:
            faults.append((line, f"{quoted(name)} is none of {known}: it is a mapping of these"))
        elif not isinstance(stated[name], OWN_MEMBERS[name]):
            faults.append((line, f"{name} is not {'text' if OWN_MEMBERS[name] is str else 'a mapping'}"))
    if faults:
        raise ContractError(*sorted(faults))
    return stated


def compose(text: str) -> Any:  # noqa: ANN401 - PyYAML is not typed
    """The nodes of an operator's YAML, by PyYAML's own loader: libyaml's crashes on what is nested deeply.

    Raises:
        yaml.YAMLError, RecursionError: it is not YAML.
    """
    import yaml  # noqa: PLC0415 - as in `_yaml`

    return yaml.compose(text, Loader=yaml.SafeLoader)


def merged(document: Document, own: Document) -> Document:
    """The contract with an operator's own profiles merged over its own, as JSON Merge Patch has it
    (RFC 7396), and with their names as the ones that a request may give.
    """
    profiles = _merge(document[PROFILES], own.get("profiles", {}))
    schemas = document["components"]["schemas"]
    name = {**schemas["ProfileName"], "enum": list(profiles)}
    name["default"] = own.get("default", name["default"])
    return {
        **document,
        PROFILES: profiles,
        PRINCIPALS: _merge(document[PRINCIPALS], own.get("principals", {})),
        "components": {**document["components"], "schemas": {**schemas, "ProfileName": name}},
    }


def profiles(document: Document) -> Profiles:
    """The issuance policy that a contract states.

    Raises:
        ProfileError: it is not well formed; every fault is named at once.
    """
    default = str(document["components"]["schemas"]["ProfileName"]["default"])
    return Profiles(document[PROFILES], default, document[PRINCIPALS])


def _yaml(text: str) -> Any:  # noqa: ANN401 - any YAML
    import yaml  # noqa: PLC0415 - 70 ms that the zip's cold start does without

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader)  # noqa: S506 - safe ones  # nosec B506


def _twice(node: Any) -> Iterator[tuple[int, str]]:  # noqa: ANN401 - a node of PyYAML, which keeps the last one
    """The members that an object has twice, with their lines: YAML 1.2 3.2.1.3 forbids them."""
    children = node.value if isinstance(getattr(node, "value", None), list) else []
    seen: set[str] = set()
    for child in children:
        key, value = child if isinstance(child, tuple) else (None, child)
        if key is not None:
            if str(key.value) in seen:
                yield key.start_mark.line + 1, str(key.value)
            seen.add(str(key.value))
        yield from _twice(value)


def _merge(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    """RFC 7396 2."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = _merge(kept.get(name), value)
    return kept


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


def includable(document: Document, *, est: bool = False) -> Document:
    """The document as a CloudFormation template includes it: as `importable`, but with the `Fn::Sub`
    of its ARNs, which CloudFormation resolves.
    """
    return _rendered(_for_aws(document, est=est), {})


def importable(
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
    paths = {
        path: {
            method: {**stated, "security": _security(stated["security"], est=est)}
            if isinstance(stated, dict) and "security" in stated
            else stated
            for method, stated in item.items()
        }
        for path, item in document["paths"].items()
        if est or not path.startswith(EST)
    }
    schemes = {
        name: scheme
        for name, scheme in document["components"]["securitySchemes"].items()
        if scheme["type"] == "apiKey"
    }
    if not est:
        components = {**document["components"], "securitySchemes": schemes}
        return {**document, "paths": paths, "components": components}
    uri = operations(document)["sign"][_INTEGRATION]["uri"]
    # No identity source: API Gateway would insist on all of them, and a key comes in one of two headers.
    schemes["authorizer"] = {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "x-amazon-apigateway-authtype": "custom",
        "x-amazon-apigateway-authorizer": {
            "type": "request",
            "authorizerUri": uri,
            "authorizerResultTtlInSeconds": 0,
        },
    }
    components = {**document["components"], "securitySchemes": schemes}
    source = {"x-amazon-apigateway-api-key-source": "AUTHORIZER"}
    return {**document, **source, "paths": paths, "components": components}


def _security(stated: list[dict[str, Any]], *, est: bool) -> list[dict[str, Any]]:
    if not stated or not est:
        return stated
    return [{"apiKey": []}, {"authorizer": []}]


def _rendered(document: Document, substitutions: dict[str, str]) -> Document:
    rendered: Document = _render(document, document, substitutions)
    for of in ("responses", "examples"):
        del rendered["components"][of]
    return rendered


def plain(document: Document) -> Document:
    """The document without vendor extensions, as viewers, generators of clients and differs read it.

    What is answered is open in it, for a later version's answers may have members more, and clients are to
    ignore these, as RFC 9457 3.2 has it for problems. What is asked for stays closed.
    """
    stripped: Document = _plain(document)
    asked = _schemas([each.get("requestBody") for each in operations(stripped).values()], stripped)
    schemas = stripped["components"]["schemas"]
    opened = {name: schema if name in asked else _open(schema) for name, schema in schemas.items()}
    return {**stripped, "components": {**stripped["components"], "schemas": opened}}


def _plain(node: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items() if not key.startswith("x-")}
    return node


def _open(node: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(node, list):
        return [_open(item) for item in node]
    if isinstance(node, dict):
        closing = {"additionalProperties"} if node.get("additionalProperties") is False else set()
        return {key: _open(value) for key, value in node.items() if key not in closing}
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
    """Whether this is a keyword of a schema, parameter, media type or response that API Gateway ignores
    or refuses; a property, or a response, of that name is none.
    """
    describes = isinstance(node.get("type"), str) or "schema" in node
    return (describes and key in _DOCUMENTATION_ONLY) or (key == "links" and "content" in node)
