"""Check an OpenAPI document against the limits of API Gateway's import.

API Gateway refuses or silently drops what it does not support. AWS documents these limits one by one, and no
tool that runs without AWS checks them all. Each rule is a function that yields the places where a document
breaks it; `RULES` lists the rules. `python -m deploy.lint` applies them to the output of `certlet openapi`.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from service import api_gateway, openapi
from service.api_gateway import Auth, Options

Document = openapi.OpenAPIDocument
Rule = Callable[[Document], Iterator[str]]

_UNSUPPORTED: Final = (
    "nullable",
    "discriminator",
    "example",
    "examples",
    "readOnly",
    "writeOnly",
    "default",
    "exclusiveMinimum",
    "exclusiveMaximum",
)
_COMPOSITIONS: Final = ("oneOf", "anyOf", "allOf")
_ANY: Final = "x-amazon-apigateway-any-method"
_ENDPOINT: Final = "x-amazon-apigateway-endpoint-configuration"
_POLICY: Final = "x-amazon-apigateway-policy"
_VPC_ENDPOINT: Final = re.compile("vpce-[0-9a-f]{8,17}")
_INTEGRATION: Final = "x-amazon-apigateway-integration"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_\-.,:]+|\{[A-Za-z0-9_\-.]+\+?\}")
_RESERVED: Final = ("/ping", "/sping")
_MAX_DOCUMENT: Final = 6 * 1024 * 1024
_MAX_TEMPLATE: Final = 300 * 1024
_MAX_POLICY: Final = 8192
_TIMEOUTS: Final = range(50, 29_001)
# Those of the OpenAPI extension; others are for Cognito or WebSocket APIs.
_RESPONSE_TYPES: Final = frozenset(
    {
        "ACCESS_DENIED",
        "API_CONFIGURATION_ERROR",
        "AUTHORIZER_CONFIGURATION_ERROR",
        "AUTHORIZER_FAILURE",
        "BAD_REQUEST_BODY",
        "BAD_REQUEST_PARAMETERS",
        "DEFAULT_4XX",
        "DEFAULT_5XX",
        "EXPIRED_TOKEN",
        "INTEGRATION_FAILURE",
        "INTEGRATION_TIMEOUT",
        "INVALID_API_KEY",
        "INVALID_SIGNATURE",
        "MISSING_AUTHENTICATION_TOKEN",
        "QUOTA_EXCEEDED",
        "REQUEST_TOO_LARGE",
        "RESOURCE_NOT_FOUND",
        "THROTTLED",
        "UNAUTHORIZED",
        "UNSUPPORTED_MEDIA_TYPE",
        "WAF_FILTERED",
    }
)


def openapi_version(document: Document) -> Iterator[str]:
    """The version is OpenAPI 3.0; 3.1 is not supported."""
    if not str(document.get("openapi")).startswith("3.0."):
        yield "openapi"


def schema_names(document: Document) -> Iterator[str]:
    """Model names are alphanumeric."""
    for name in document.get("components", {}).get("schemas", {}):
        if not (name.isalnum() and name.isascii()):
            yield f"components.schemas.{name}"


def schema_keywords(document: Document) -> Iterator[str]:
    """Models are JSON Schema draft 4, without some keywords."""
    for location, schema in _schemas(document):
        for keyword in _UNSUPPORTED:
            if keyword in schema:
                yield f"{location}.{keyword}"


def references(document: Document) -> Iterator[str]:
    """A `$ref` refers to the same document."""
    for location, node in _nodes(document):
        if not str(node.get("$ref", "#/")).startswith("#/"):
            yield location


def recursive_compositions(document: Document) -> Iterator[str]:
    """No oneOf, anyOf or allOf refers to the schema that contains it."""
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        reference = f"#/components/schemas/{name}"
        for location, node in _nodes(schema, name):
            for keyword in _COMPOSITIONS:
                if any(inner.get("$ref") == reference for _, inner in _nodes(node.get(keyword, []))):
                    yield f"{location}.{keyword}"


def response_schemas(document: Document) -> Iterator[str]:
    """A method response's schema is a named model or an object."""
    for location, operation in _operations(document):
        for status, response in operation.get("responses", {}).items():
            for media_type, content in response.get("content", {}).items():
                schema = content.get("schema", {})
                if "$ref" not in schema and schema.get("type") != "object":
                    yield f"{location}.responses.{status}.{media_type}"


def operation_security(document: Document) -> Iterator[str]:
    """Every operation has `security`; the root-level one is ignored."""
    if "security" in document:
        yield "security"
    for location, operation in _operations(document):
        if "security" not in operation:
            yield f"{location}.security"


def paths(document: Document) -> Iterator[str]:
    """A path segment is a parameter, or of letters, digits and `_-.,:`; /ping and /sping are reserved."""
    for path in document["paths"]:
        segments = path.removeprefix("/").split("/") if path != "/" else []
        if path in _RESERVED or not all(map(_SEGMENT.fullmatch, segments)):
            yield path


def sizes(document: Document) -> Iterator[str]:
    """The document is at most 6 MB, a mapping template 300 KB."""
    if len(json.dumps(document)) > _MAX_DOCUMENT:
        yield "the document"
    for location, node in _nodes(document):
        for key in ("requestTemplates", "responseTemplates"):
            for media_type, template in node.get(key, {}).items():
                if len(template.encode()) > _MAX_TEMPLATE:
                    yield f"{location}.{key}.{media_type}"


def timeouts(document: Document) -> Iterator[str]:
    """An integration's timeout is 50 ms to 29 s."""
    for location, operation in _operations(document):
        if operation.get(_INTEGRATION, {}).get("timeoutInMillis", 29_000) not in _TIMEOUTS:
            yield location


def validators(document: Document) -> Iterator[str]:
    """Every operation names a defined request validator; none is set for the whole API."""
    defined = document.get("x-amazon-apigateway-request-validators", {})
    if "x-amazon-apigateway-request-validator" in document:
        yield "x-amazon-apigateway-request-validator"
    for location, operation in _operations(document):
        if operation.get("x-amazon-apigateway-request-validator") not in defined:
            yield location


def integrations(document: Document) -> Iterator[str]:
    """Every operation has an integration, and its URI is resolved."""
    for location, operation in _operations(document):
        integration = operation.get(_INTEGRATION)
        if not integration or (
            integration["type"] == "aws_proxy" and integration.get("httpMethod") != "POST"
        ):
            yield location
        elif integration["type"] == "aws_proxy" and not str(integration.get("uri")).startswith("arn:"):
            yield f"{location}.uri"
    if "${" in json.dumps(
        [operation.get(_INTEGRATION, {}).get("uri") for _, operation in _operations(document)]
    ):
        yield "an unresolved URI"


def mocks(document: Document) -> Iterator[str]:
    """All bodies are binary, so mocks convert to text. Unknown media types are 415; templates omit $input."""
    if "*/*" not in document.get("x-amazon-apigateway-binary-media-types", ()):
        yield "x-amazon-apigateway-binary-media-types"
    for location, operation in _operations(document):
        integration = operation.get(_INTEGRATION, {})
        if integration.get("type") != "mock":
            continue
        parts = [integration, *integration.get("responses", {}).values()]
        if any(part.get("contentHandling") != "CONVERT_TO_TEXT" for part in parts):
            yield f"{location}.contentHandling"
        if integration.get("passthroughBehavior") != "never":
            yield f"{location}.passthroughBehavior"
        if "$input" in json.dumps(parts):
            yield f"{location}.$input"


def response_headers(document: Document) -> Iterator[str]:
    """Every header that an integration response sets is declared on the method response."""
    for location, operation in _operations(document):
        for response in operation.get(_INTEGRATION, {}).get("responses", {}).values():
            declared = operation.get("responses", {}).get(response.get("statusCode"), {}).get("headers", {})
            for parameter in response.get("responseParameters", {}):
                if parameter.removeprefix("method.response.header.") not in declared:
                    yield f"{location}.{parameter}"


def gateway_responses(document: Document) -> Iterator[str]:
    """Gateway responses have API Gateway's types, and templates only for application/json."""
    for kind, response in document.get("x-amazon-apigateway-gateway-responses", {}).items():
        if kind not in _RESPONSE_TYPES:
            yield kind
        elif set(response.get("responseTemplates", {})) - {"application/json"}:
            yield f"{kind}.responseTemplates"


def extensions(document: Document) -> Iterator[str]:
    """All extensions are API Gateway's."""
    for location, node in _nodes(document):
        for key in node:
            if key.startswith("x-") and not key.startswith("x-amazon-apigateway-"):
                yield f"{location}.{key}"


def security_schemes(document: Document) -> Iterator[str]:
    """A scheme is an API key or an authorizer with a resolved URI, not HTTP; operations name no others."""
    schemes = document.get("components", {}).get("securitySchemes", {})
    for location, operation in _operations(document):
        if any(requirement.keys() - schemes.keys() for requirement in operation.get("security", ())):
            yield location
    for name, scheme in schemes.items():
        if scheme.get("type") != "apiKey":
            yield name
        uri = scheme.get("x-amazon-apigateway-authorizer", {}).get("authorizerUri", "arn:")
        if not str(uri).startswith("arn:") or "${" in str(uri):
            yield f"{name}.authorizerUri"


def authorizers(document: Document) -> Iterator[str]:
    """An operation has at most one authorizer, and names it if the authorizer supplies API keys."""
    schemes = document.get("components", {}).get("securitySchemes", {})
    types = {name for name, scheme in schemes.items() if "x-amazon-apigateway-authtype" in scheme}
    for location, operation in _operations(document):
        if len({name for requirement in operation.get("security", ()) for name in requirement} & types) > 1:
            yield location
    authorizing = {name for name, scheme in schemes.items() if "x-amazon-apigateway-authorizer" in scheme}
    if document.get("x-amazon-apigateway-api-key-source", "HEADER") != "AUTHORIZER":
        return
    for location, operation in _operations(document):
        named = {name for requirement in operation.get("security", ()) for name in requirement}
        if named - authorizing and not named & authorizing:
            yield location


def endpoint_configurations(document: Document) -> Iterator[str]:
    """The endpoint configuration is in a server, with IDs of VPC endpoints or disableExecuteApiEndpoint."""
    if _ENDPOINT in document:
        yield _ENDPOINT
    for index, server in enumerate(document.get("servers", ())):
        configuration = server.get(_ENDPOINT, {})
        if configuration.keys() - {"vpcEndpointIds", "disableExecuteApiEndpoint"}:
            yield f"servers[{index}].{_ENDPOINT}"
        if not isinstance(configuration.get("disableExecuteApiEndpoint", True), bool):
            yield f"servers[{index}].{_ENDPOINT}.disableExecuteApiEndpoint"
        if not all(map(_VPC_ENDPOINT.fullmatch, configuration.get("vpcEndpointIds", ()))):
            yield f"servers[{index}].{_ENDPOINT}.vpcEndpointIds"


def resource_policies(document: Document) -> Iterator[str]:
    """The policy of a private API, and of no other, denies requests from other VPC endpoints."""
    policy = document.get(_POLICY, {})
    ids = [
        name
        for server in document.get("servers", ())
        for name in server.get(_ENDPOINT, {}).get("vpcEndpointIds", ())
    ]
    denied = [
        statement.get("Condition")
        for statement in policy.get("Statement", ())
        if statement["Effect"] == "Deny" and statement["Resource"] == ["execute-api:/*"]
    ]
    if denied != ([{"StringNotEquals": {"aws:SourceVpce": ids}}] if ids else []):
        yield f"{_POLICY}.Statement"
    if any(statement["Action"] != "execute-api:Invoke" for statement in policy.get("Statement", ())):
        yield f"{_POLICY}.Statement.Action"
    if len(json.dumps(policy)) > _MAX_POLICY:
        yield _POLICY


def iam_policies(document: Document) -> Iterator[str]:
    """The policy allows no operation with IAM: it would admit callers whose own policies do not allow it."""
    schemes = document.get("components", {}).get("securitySchemes", {})
    iam = {
        name for name, scheme in schemes.items() if scheme.get("x-amazon-apigateway-authtype") == "awsSigv4"
    }
    allowed = [
        pattern
        for statement in document.get(_POLICY, {}).get("Statement", ())
        for pattern in statement["Resource"]
        if statement["Effect"] == "Allow"
    ]
    for location, operation in _operations(document):
        path, method = location.rsplit(".", 1)
        resource = f"execute-api:/stage/{method.upper()}{path}"
        if any(iam & requirement.keys() for requirement in operation.get("security", ())) and any(
            fnmatch.fnmatchcase(spelling, pattern)
            for pattern in allowed
            for spelling in (resource, f"{resource}/")
        ):
            yield location


def ascii_texts(document: Document) -> Iterator[str]:
    """Names and texts are ASCII: CloudFormation may print `?` instead, which would break a page's hash."""
    for location, text in _texts(document):
        if not text.isascii():
            yield location


def any_methods(document: Document) -> Iterator[str]:
    """Every path has an any-method (405, CORS preflight); none declares OPTIONS."""
    for path, item in document["paths"].items():
        if _ANY not in item or "options" in item:
            yield path


RULES: Final[tuple[Rule, ...]] = (
    openapi_version,
    schema_names,
    schema_keywords,
    references,
    recursive_compositions,
    response_schemas,
    operation_security,
    paths,
    sizes,
    timeouts,
    validators,
    integrations,
    mocks,
    response_headers,
    gateway_responses,
    extensions,
    security_schemes,
    authorizers,
    endpoint_configurations,
    resource_policies,
    iam_policies,
    ascii_texts,
    any_methods,
)


def violations(document: Document) -> list[str]:
    """Return every violation: the rule's name, the location in the document, and the rule's text."""
    return [
        f"{rule.__name__}: {location}: {(rule.__doc__ or '').splitlines()[0]}"
        for rule in RULES
        for location in rule(document)
    ]


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, item in document["paths"].items():
        for method in (*openapi.METHODS, _ANY):
            if method in item:
                yield f"{path}.{method}", item[method]


def _schemas(document: Document) -> Iterator[tuple[str, Document]]:
    """Every schema, with nested ones."""
    roots = [document.get("components", {}).get("schemas", {})]
    roots += [node["schema"] for _, node in _nodes(document["paths"]) if isinstance(node.get("schema"), dict)]
    for root in roots:
        for location, node in _nodes(root):
            # The keys of `properties` are names, not keywords.
            if not location.endswith("properties") and node is not roots[0]:
                yield location, node


def _nodes(node: Any, location: str = "") -> Iterator[tuple[str, Document]]:  # noqa: ANN401 - JSON
    """Every object in a document, with its path."""
    if isinstance(node, dict):
        yield location, node
        for key, value in node.items():
            yield from _nodes(value, f"{location}.{key}" if location else key)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _nodes(value, f"{location}[{index}]")


def _texts(node: Any, location: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Every name and text in a document, with its path."""
    if isinstance(node, str):
        yield location, node
    elif isinstance(node, dict):
        for key, value in node.items():
            inner = f"{location}.{key}" if location else key
            yield inner, key
            yield from _texts(value, inner)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{location}[{index}]")


def main() -> int:
    """Check the output of `certlet openapi`, with each of its options."""
    document, target = openapi.load(), ("eu-central-1", "123456789012", "certlet")
    vpc_endpoints = ("vpce-0123456789abcdef0", "vpce-01234567")
    variants = (
        Options(),
        Options(est=True, vpc_endpoints=vpc_endpoints),
        Options(oidc=True),
        Options(est=True, oidc=True),
        Options(auth=Auth.IAM, disable_execute_api_endpoint=True),
        Options(auth=Auth.IAM, vpc_endpoints=vpc_endpoints),
    )
    broken = [
        violation
        for options in variants
        for violation in violations(api_gateway.for_api_gateway(document, *target, options))
    ]
    sys.stdout.writelines(f"{violation}\n" for violation in broken)
    sys.stdout.write(f"{len(RULES)} rules, {len(broken)} violations\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
