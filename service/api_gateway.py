"""The contract as API Gateway imports it, directly or through CloudFormation."""

from __future__ import annotations

import re
from typing import Any, Final

from service.openapi import INTEGRATION, OpenAPIDocument, operations_by_id, resolve_ref, rewrite

EST_PREFIX: Final = "/.well-known/est/"  # prefix of the paths that AWS gets only on request
_VENDOR: Final = "x-amazon-apigateway-"
# Keywords that API Gateway rejects, or that only document; none of them changes a response.
_DOCUMENTATION_ONLY: Final = frozenset({"default", "example", "examples", "externalDocs", "format"})


def for_cloudformation(document: OpenAPIDocument, *, est: bool = False) -> OpenAPIDocument:
    """Return the document for a CloudFormation template: as `for_api_gateway`, but its ARNs remain `Fn::Sub`,
    which CloudFormation resolves.
    """
    return _for_aws(document, {}, est=est)


def for_api_gateway(
    document: OpenAPIDocument, region: str, account: str, function: str, *, est: bool = False
) -> OpenAPIDocument:
    """Return the document that API Gateway imports.

    ARNs are resolved. Keywords that only document, vendor extensions other than API Gateway's, and `$ref`s
    other than those to schemas are removed.

    Args:
        document: the contract.
        region: the AWS region.
        account: the AWS account ID.
        function: the name of the Lambda function.
        est: whether to include EST, and the authorizer that then supplies all API keys.
    """
    partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], "aws")
    substitutions = {
        "${AWS::Partition}": partition,
        "${AWS::Region}": region,
        "${AWS::AccountId}": account,
        "${Function.Arn}": f"arn:{partition}:lambda:{region}:{account}:function:{function}",
    }
    return _for_aws(document, substitutions, est=est)


def _for_aws(document: OpenAPIDocument, substitutions: dict[str, str], *, est: bool) -> OpenAPIDocument:
    """Return the contract for API Gateway, with an authorizer instead of HTTP Basic.

    An API has one source of API keys, so with EST every operation that requires a key uses the authorizer.
    API Gateway requires both alternatives in `security`, as in its own export.
    """
    components = document["components"]
    schemes = {
        name: scheme for name, scheme in components["securitySchemes"].items() if scheme["type"] == "apiKey"
    }
    paths, extensions = document["paths"], {}
    if est:
        security: list[OpenAPIDocument] = [{"apiKey": []}, {"authorizer": []}]
        paths = rewrite(paths, lambda node: {**node, "security": security} if node.get("security") else node)
        extensions["x-amazon-apigateway-api-key-source"] = "AUTHORIZER"
        # No identity source: API Gateway would require every header, but a key is in one of two.
        schemes["authorizer"] = {
            "type": "apiKey",
            "name": "Authorization",
            "in": "header",
            "x-amazon-apigateway-authtype": "custom",
            "x-amazon-apigateway-authorizer": {
                "type": "request",
                "authorizerUri": operations_by_id(document)["sign"][INTEGRATION]["uri"],
                "authorizerResultTtlInSeconds": 0,
            },
        }
    else:
        paths = {path: item for path, item in paths.items() if not path.startswith(EST_PREFIX)}
    inlined = ("responses", "examples")
    components = {name: part for name, part in components.items() if name not in inlined}
    components["securitySchemes"] = schemes

    def change(node: OpenAPIDocument) -> Any:  # noqa: ANN401 - text, or JSON
        if "Fn::Sub" in node and substitutions:
            return re.sub(r"\$\{.+?\}", lambda match: substitutions[match[0]], node["Fn::Sub"])
        if str(node.get("$ref")).startswith("#/components/responses/"):
            node = resolve_ref(node, document)
        return {
            key: value
            for key, value in node.items()
            if not _is_documentation(key, node) and (not key.startswith("x-") or key.startswith(_VENDOR))
        }

    aws = {**document, **extensions, "paths": paths, "components": components}
    rendered: OpenAPIDocument = rewrite(aws, change)
    return rendered


def _is_documentation(key: str, node: OpenAPIDocument) -> bool:
    """Whether this is a keyword of a schema, parameter, media type or response that API Gateway ignores
    or rejects. A property or a response with that name is not.
    """
    describes = isinstance(node.get("type"), str) or "schema" in node
    return (describes and key in _DOCUMENTATION_ONLY) or (key == "links" and "content" in node)
