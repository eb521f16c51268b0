"""The contract as API Gateway imports it, directly or through CloudFormation."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from service.openapi import (
    EST_PREFIX,
    INTEGRATION,
    METHODS,
    OpenAPIDocument,
    operations_by_id,
    resolve_ref,
    rewrite,
    with_greedy_parameters,
    with_public_url,
)

_VENDOR: Final = "x-amazon-apigateway-"
_GATEWAY_RESPONSES: Final = "x-amazon-apigateway-gateway-responses"
_LOCAL_RESPONSES: Final = "x-gateway-responses"
# The scheme of API Gateway's own export for IAM.
_SIGV4: Final = {
    "type": "apiKey",
    "name": "Authorization",
    "in": "header",
    "x-amazon-apigateway-authtype": "awsSigv4",
}
# With IAM, an unknown path and a request without a signature get the same type of response.
_IAM_DETAILS: Final = {
    "ACCESS_DENIED": "The request is not permitted: the caller's IAM policy must allow execute-api:Invoke",
    "EXPIRED_TOKEN": "The security token has expired: get new credentials to sign with",  # nosec B105 - no password
    "INVALID_SIGNATURE": "The signature is invalid: check the credentials, the region and the clock",
    "MISSING_AUTHENTICATION_TOKEN": "No operation has this path, or the request is not signed: "  # nosec B105 - as above
    "sign it with AWS Signature Version 4",
    "WAF_FILTERED": "The web application firewall of this API refused the request",
}
# API Gateway has the same response for each failure of the authorizer.
_AUTHORIZER_FAILURE: Final = (
    "The caller cannot be identified: the keys of the issuer of the token are not available, or the function "
    "failed. Try again in a minute"
)
# Keywords that API Gateway rejects, or that only document; none of them changes a response.
_DOCUMENTATION_ONLY: Final = frozenset({"default", "example", "examples", "externalDocs", "format"})


class Auth(StrEnum):
    """How API Gateway identifies callers."""

    API_KEY = "api-key"
    IAM = "iam"


@dataclass(frozen=True)
class Options:
    """What the document for API Gateway contains.

    Attributes:
        est: whether to include EST, and the authorizer that then supplies all API keys.
        oidc: whether to accept tokens, which the same authorizer verifies.
        auth: how API Gateway identifies callers.
        public_url: the API's URL for its users, without a final slash; '' for relative problem types.
        vpc_endpoints: the IDs of the VPC endpoints that a private API is limited to; () for a public API.
        disable_execute_api_endpoint: whether only a custom domain serves the API.

    Raises:
        ValueError: the options exclude each other.
    """

    est: bool = False
    oidc: bool = False
    auth: Auth = Auth.API_KEY
    public_url: str = ""
    vpc_endpoints: tuple[str, ...] = ()
    disable_execute_api_endpoint: bool = False

    def __post_init__(self) -> None:
        if not self.has_authorizer or self.auth is not Auth.IAM:
            return
        feature, need = ("EST", "HTTP Basic") if self.est else ("OIDC", "tokens")
        raise ValueError(
            f"a method of API Gateway has one authorizer: use either IAM or {feature}, which needs the one "
            f"for {need}"
        )

    @property
    def has_authorizer(self) -> bool:
        """Whether an authorizer supplies all API keys: an API has one source of keys."""
        return self.est or self.oidc


DEFAULTS: Final = Options()


def for_cloudformation(document: OpenAPIDocument, options: Options = DEFAULTS) -> OpenAPIDocument:
    """Return the document for a CloudFormation template: as `for_api_gateway`, but its ARNs remain `Fn::Sub`,
    which CloudFormation resolves.
    """
    return _for_aws(document, {}, options)


def for_api_gateway(
    document: OpenAPIDocument, region: str, account: str, function: str, options: Options = DEFAULTS
) -> OpenAPIDocument:
    """Return the document that API Gateway imports.

    ARNs are resolved. Keywords that only document, vendor extensions other than API Gateway's, and `$ref`s
    other than those to schemas are removed.

    Args:
        document: the contract.
        region: the AWS region.
        account: the AWS account ID.
        function: the name of the Lambda function.
        options: what the document contains.
    """
    partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], "aws")
    substitutions = {
        "${AWS::Partition}": partition,
        "${AWS::Region}": region,
        "${AWS::AccountId}": account,
        "${Function.Arn}": f"arn:{partition}:lambda:{region}:{account}:function:{function}",
    }
    return _for_aws(document, substitutions, options)


def _for_aws(document: OpenAPIDocument, substitutions: dict[str, str], options: Options) -> OpenAPIDocument:
    """Return the contract for API Gateway, with HEAD, and an authorizer instead of HTTP Basic and tokens.

    An API has one source of API keys, so with EST or tokens every operation that requires a key uses the
    authorizer. API Gateway requires both alternatives in `security`, as in its own export.
    """
    document = with_greedy_parameters(with_public_url(document, options.public_url))
    components = document["components"]
    schemes = {
        name: scheme for name, scheme in components["securitySchemes"].items() if scheme["type"] == "apiKey"
    }
    paths = {path: _with_head(item) for path, item in document["paths"].items()}
    # An import merges over the existing API, which may have had an authorizer.
    extensions: OpenAPIDocument = {"x-amazon-apigateway-api-key-source": "HEADER"}
    if not options.est:
        paths = {path: item for path, item in paths.items() if not path.startswith(EST_PREFIX)}
    if options.has_authorizer:
        security: list[dict[str, list[str]]] = [{"apiKey": []}, {"authorizer": []}]
        extensions["x-amazon-apigateway-api-key-source"] = "AUTHORIZER"
        extensions[_GATEWAY_RESPONSES] = _authorizer_gateway_responses(document, options)
        # No identity source: API Gateway would require every header, but a key is in one of two.
        schemes["authorizer"] = {
            "type": "apiKey",
            "name": "Unused",  # as SAM does: API Gateway may require a header that exists
            "in": "header",
            "x-amazon-apigateway-authtype": "custom",
            "x-amazon-apigateway-authorizer": {
                "type": "request",
                "authorizerUri": operations_by_id(document)["sign"][INTEGRATION]["uri"],
                "authorizerResultTtlInSeconds": 0,
            },
        }
    else:
        security = [{"apiKey": []}]
        paths = rewrite(paths, lambda node: {key: value for key, value in node.items() if key != "401"})
    if options.auth is Auth.IAM:
        schemes, security = {"sigv4": _SIGV4}, [{"sigv4": []}]
        extensions[_GATEWAY_RESPONSES] = _iam_gateway_responses(document[_GATEWAY_RESPONSES])
    paths = rewrite(paths, lambda node: {**node, "security": security} if node.get("security") else node)
    if options.vpc_endpoints:
        extensions["x-amazon-apigateway-policy"] = _resource_policy(paths, options)
    if endpoint := _endpoint_configuration(options):
        # In OpenAPI 3.0, API Gateway reads it only from a server.
        first, *others = document["servers"]
        extensions["servers"] = [{**first, "x-amazon-apigateway-endpoint-configuration": endpoint}, *others]
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


def _with_head(item: OpenAPIDocument) -> OpenAPIDocument:
    """Return a path with a copy of its GET as HEAD (RFC 9110 9.3.2), if it has only the former."""
    if "get" not in item or "head" in item:
        return item
    head = {name: value for name, value in item["get"].items() if name != "operationId"}
    return {**item, "head": head}


def _authorizer_gateway_responses(document: OpenAPIDocument, options: Options) -> OpenAPIDocument:
    """Return the gateway responses with 401 for a wrong key, which may be the password of HTTP Basic; and
    with those about tokens, whose types only the local gateway has.
    """
    responses: OpenAPIDocument = {**document[_GATEWAY_RESPONSES]}
    if options.est:
        invalid, unauthorized = responses["INVALID_API_KEY"], responses["UNAUTHORIZED"]
        parameters = {**invalid["responseParameters"], **unauthorized["responseParameters"]}
        responses["INVALID_API_KEY"] = {**unauthorized, "responseParameters": parameters}
    if options.oidc:
        refused, failed = (
            document[_LOCAL_RESPONSES][name] for name in ("INVALID_TOKEN", "TOKEN_KEYS_UNAVAILABLE")
        )
        template = refused["responseTemplates"]["application/json"].replace(
            "$context.error.messageString", '"$context.authorizer.reason"'
        )
        responses["ACCESS_DENIED"] = {**refused, "responseTemplates": {"application/json": template}}
        # AWS documents the first type for an error of the function, and sends the headers of the second.
        for kind in ("AUTHORIZER_FAILURE", "AUTHORIZER_CONFIGURATION_ERROR"):
            responses[kind] = _with_detail(failed, _AUTHORIZER_FAILURE)
    return responses


def _iam_gateway_responses(responses: OpenAPIDocument) -> OpenAPIDocument:
    """Return the gateway responses, which are those about API keys in the contract, for callers of IAM."""
    forbidden = responses["ACCESS_DENIED"]
    changed = {kind: _with_detail(forbidden, detail) for kind, detail in _IAM_DETAILS.items()}
    return {
        kind: changed.get(kind, response)
        for kind, response in responses.items()
        if kind not in {"INVALID_API_KEY", "UNAUTHORIZED"}
    }


def _with_detail(response: OpenAPIDocument, detail: str) -> OpenAPIDocument:
    """Return a gateway response with another detail in its problem."""
    problem = {**json.loads(response["responseTemplates"]["application/json"]), "detail": detail}
    return {
        **response,
        "responseTemplates": {"application/json": json.dumps(problem, separators=(",", ":"))},
    }


def _resource_policy(paths: OpenAPIDocument, options: Options) -> OpenAPIDocument:
    """Return the resource policy of a private API.

    With IAM, the policy allows only operations without `security`: an Allow in a resource policy admits
    callers of this account whose own IAM policies do not.
    """
    allowed = ["execute-api:/*"]
    if options.auth is Auth.IAM:
        allowed = [
            f"execute-api:/*/{method}{re.sub('{.*?}', '*', path)}"
            for path, item in paths.items()
            for method in _public_methods(path, item)
        ]
    invoke = {"Principal": "*", "Action": "execute-api:Invoke"}
    elsewhere = {"StringNotEquals": {"aws:SourceVpce": list(options.vpc_endpoints)}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", **invoke, "Resource": allowed},
            {"Effect": "Deny", **invoke, "Resource": ["execute-api:/*"], "Condition": elsewhere},
        ],
    }


def _public_methods(path: str, item: OpenAPIDocument) -> list[str]:
    """Return the methods of a path without `security`.

    `*` is all methods, since a policy has at most 8 KB. It matches slashes, too: for `/`, it would also match
    `POST /sign/`.
    """
    other: OpenAPIDocument = item[f"{_VENDOR}any-method"]
    methods = [method for method in METHODS if not item.get(method, other)["security"]]
    is_public = len(methods) == len(METHODS)
    return ["*"] if is_public and path != "/" else [method.upper() for method in methods]


def _endpoint_configuration(options: Options) -> OpenAPIDocument:
    configuration: OpenAPIDocument = {}
    if options.vpc_endpoints:
        configuration["vpcEndpointIds"] = list(options.vpc_endpoints)
    if options.disable_execute_api_endpoint:
        configuration["disableExecuteApiEndpoint"] = True
    return configuration


def _is_documentation(key: str, node: OpenAPIDocument) -> bool:
    """Whether this is a keyword of a schema, parameter, media type or response that API Gateway ignores
    or rejects. A property or a response with that name is not.
    """
    describes = isinstance(node.get("type"), str) or "schema" in node
    return (describes and key in _DOCUMENTATION_ONLY) or (key == "links" and "content" in node)
