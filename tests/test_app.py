"""The service executes the contract: tests change copies of it, and the service behaves accordingly."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.web import app
from tests import factories, servers
from tests.lambda_events import ANONYMOUS, CSR_PEM, est_event, invoke_application, proxy_event
from tests.servers import API_KEY

PEM: dict[str, Any] = {"body": CSR_PEM, "isBase64Encoded": False}


def pem_event(media_type: str) -> dict[str, Any]:
    return proxy_event("/sign.pem", headers={"Content-Type": media_type}, **PEM)


def batch_event(count: int) -> dict[str, Any]:
    body = json.dumps({"requests": [{"csr": CSR_PEM}] * count})
    return proxy_event("/sign/batch", body=body, isBase64Encoded=False)


def require_parameter(document: dict[str, Any], location: str = "query") -> None:
    """Require the parameter `reason` for `GET /ca`."""
    schema = {"type": "string", "maxLength": 5}
    parameter = {"name": "reason", "in": location, "required": True, "schema": schema}
    document["paths"]["/ca"]["get"]["parameters"] = [parameter]


def rename_path(document: dict[str, Any]) -> None:
    """Rename `/sign.pem` to `/certificates`."""
    document["paths"]["/certificates"] = document["paths"].pop("/sign.pem")


def remove_security(path: str, document: dict[str, Any]) -> None:
    """Remove the API key requirement from POST of a path."""
    document["paths"][path]["post"]["security"] = []


def schemas(document: Any) -> Any:
    return document["components"]["schemas"]


def media_types(document: Any) -> Any:
    return document["paths"]["/sign.pem"]["post"]["requestBody"]["content"]


Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, dict[str, Any], int, int]] = {
    "required-query": (require_parameter, proxy_event("/ca", "GET"), 200, 400),
    "valid-query": (require_parameter, proxy_event("/ca", "GET", queryStringParameters={"reason": "audit"}), 400, 200),
    "long-query": (require_parameter, proxy_event("/ca", "GET", queryStringParameters={"reason": "audits"}), 400, 400),
    "unknown-query": (require_parameter, proxy_event("/ca", "GET", queryStringParameters={"reason": "audit", "x": "1"}), 400, 400),
    "required-header": (lambda d: require_parameter(d, "header"), proxy_event("/ca", "GET"), 200, 400),
    "max-length": (lambda d: schemas(d)["CertificationRequest"].update(maxLength=len(CSR_PEM) - 1), proxy_event(), 200, 400),
    "max-items": (lambda d: schemas(d)["BatchRequest"]["properties"]["requests"].update(maxItems=1), batch_event(2), 200, 400),
    "max-bytes": (lambda d: d["paths"]["/sign"]["post"]["requestBody"].update({"x-max-bytes": 9}), proxy_event(), 200, 413),
    "other-media-type": (lambda d: media_types(d).pop("text/plain"), pem_event("text/plain"), 200, 415),
    "new-media-type": (lambda d: media_types(d).update({"application/csr": media_types(d)["text/plain"]}), pem_event("application/csr"), 415, 200),
    "json-media-type": (lambda d: d["paths"]["/sign"]["post"]["requestBody"].update(content={"application/csr+json": {"schema": schemas(d)["SignRequest"]}}), proxy_event(headers={"Content-Type": "application/csr+json"}), 415, 200),
    "renamed-path": (rename_path, pem_event("text/plain") | {"resource": "/certificates", "path": "/certificates"}, 404, 200),
    "old-path": (rename_path, pem_event("text/plain"), 200, 404),
    "removed-operation": (lambda d: d["paths"].pop("/root.crt"), proxy_event("/root.crt", "GET"), 200, 404),
    "removed-method": (lambda d: d["paths"]["/sign"].pop("post"), proxy_event(), 200, 404),
    "mock-for-function": (lambda d: d["paths"]["/ca"]["get"]["x-amazon-apigateway-integration"].update(type="mock"), proxy_event("/ca", "GET"), 200, 404),
    "added-security": (lambda d: d["paths"]["/ca"]["get"].update(security=[{"apiKey": []}]), proxy_event("/ca", "GET", **ANONYMOUS), 200, 403),
    "added-security-with-a-key": (lambda d: d["paths"]["/ca"]["get"].update(security=[{"apiKey": []}]), proxy_event("/ca", "GET"), 200, 200),
    "other-security": (lambda d: d["paths"]["/sign"]["post"].update(security=[{"basic": []}]), proxy_event(), 200, 200),
    "removed-security-mine": (lambda d: d["paths"]["/profiles/mine"]["get"].update(security=[]), proxy_event("/profiles/mine", "GET", **ANONYMOUS), 403, 403),
    "both-securities": (lambda d: d["paths"]["/sign"]["post"].update(security=[{"basic": [], "apiKey": []}]), proxy_event(**ANONYMOUS), 403, 403),
    **{
        f"removed-security-{number}": (functools.partial(remove_security, request["path"]), request, 403, 403)
        for number, request in enumerate([proxy_event(**ANONYMOUS), proxy_event(**ANONYMOUS, queryStringParameters={"dry_run": "true"}), pem_event("text/plain") | ANONYMOUS, batch_event(2) | ANONYMOUS, est_event(**ANONYMOUS)])
    },
}  # fmt: skip


def changed_document(change: Change) -> dict[str, Any]:
    document = copy.deepcopy(factories.document())
    change(document)
    return document


@pytest.mark.parametrize("case", CHANGES)
def test_service_follows_a_changed_contract(case: str) -> None:
    """The response to an event follows the changed contract; an unauthenticated caller gets no certificate."""
    change, request, before, after = CHANGES[case]
    (unchanged,), _ = invoke_application(factories.document(), request)
    (response,), log = invoke_application(changed_document(change), request)
    assert (unchanged["statusCode"], response["statusCode"]) == (str(before), str(after)), response
    if request["httpMethod"] == "POST":
        expected = {200: ["intent", "result"], 403: ["refusal"]}.get(after, [])
        assert log.kinds()[:2] == expected


def test_missing_parameter_is_reported() -> None:
    """A parameter that the changed contract requires is reported, with all other problems."""
    request = proxy_event("/ca", "GET", queryStringParameters={"x": "1"})
    (response,), _ = invoke_application(changed_document(require_parameter), request)
    errors = json.loads(response["body"])["errors"]
    assert [(error["field"], error["detail"]) for error in errors] == [
        ("query.x", "Unknown query parameter 'x'"),
        ("query.reason", "The required parameter is missing"),
    ]


def test_unknown_operation_id_fails_at_start() -> None:
    """An operationId without a method is an error at start, not a 404."""
    document = changed_document(lambda d: d["paths"]["/ca"]["get"].update(operationId="unknown"))
    with pytest.raises(AttributeError, match="unknown"):
        invoke_application(document)


def test_security_functions_are_not_published() -> None:
    """The published document names no Python function, before and after it is served."""
    document = changed_document(lambda _: None)
    invoke_application(document)
    assert document == factories.document()
    assert "x-apikeyInfoFunc" not in json.dumps(document)


def test_gateway_and_function_follow_a_changed_file(tmp_path: Path) -> None:
    """`certlet serve` reads the contract from one file, for the gateway and the function."""

    def change(document: dict[str, Any]) -> None:
        rename_path(document)
        require_parameter(document)
        media_types(document | {"paths": {"/sign.pem": document["paths"]["/certificates"]}}).pop("text/plain")
        document["paths"].pop("/root.crt")

    # A copy of the package with a separate contract, as in the Lambda zip.
    shutil.copytree(servers.ROOT / "service", tmp_path / "service")
    (tmp_path / "service" / "openapi.json").write_text(json.dumps(changed_document(change)))
    env = {"CERTLET_API_KEY": API_KEY, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    with servers.certlet_server(tmp_path, env=env) as server:
        headers = {"x-api-key": API_KEY, "Content-Type": "application/x-pem-file"}
        assert server.request("POST", "/certificates", CSR_PEM.encode(), headers).status == 200
        assert server.request("POST", "/sign.pem", CSR_PEM.encode(), headers).status == 404
        headers["Content-Type"] = "text/plain"
        assert server.request("POST", "/certificates", CSR_PEM.encode(), headers).status == 415
        assert server.request("GET", "/root.crt").status == 404
        assert server.request("GET", "/ca").status == 400
        assert server.request("GET", "/ca?reason=audit").status == 200


@pytest.mark.parametrize("path", ["/ca", "/health", "/.well-known/est/peer/cacerts"])
def test_unexpected_body_is_refused(path: str) -> None:
    """A GET with a body is 400, for each type and size of the body: the caller may mean another operation."""
    bodies = ["x", "[" * 200_000, " " * (app.MAX_BODY_BYTES + 1)]
    headers = {"Content-Type": "application/json", "X-Forwarded-Proto": "https"}
    requests = [
        proxy_event(path, "GET", headers=headers, body=body, isBase64Encoded=False) for body in bodies
    ]
    responses, _ = invoke_application(factories.document(), *requests)
    assert [response["statusCode"] for response in responses] == ["400", "400", "400"]


UNUSUAL_HEADERS = [
    {"Host": "m\u00fcnchen." + "a" * 70 + ":99999"},
    {"Host": "a b"},
    {"Cookie": "a=\u1234; b"},
    {"X-Forwarded-Port": "x", "Content-Type": "multipart/form-data"},
]


def test_unused_headers_are_ignored() -> None:
    """Malformed values of Host, cookies and forms do not matter, since the API does not use them."""
    requests = [proxy_event("/ca.pem", "GET", headers=headers) for headers in UNUSUAL_HEADERS]
    responses, _ = invoke_application(factories.document(), *requests)
    assert [response["statusCode"] for response in responses] == ["200"] * len(UNUSUAL_HEADERS)


def test_label_with_any_characters_is_404() -> None:
    """A label with unusual characters is an unknown profile."""
    labels = ["\u00e4", "\u4e16", "a%2fb", "\x00", "\ud800", "pe er"]
    requests = [proxy_event(f"/.well-known/est/{label}/cacerts", "GET") for label in labels]
    responses, _ = invoke_application(factories.document(), *requests)
    assert {response["statusCode"] for response in responses} == {"404"}
    assert {json.loads(response["body"])["code"] for response in responses} == {"unknownProfile"}


def test_names_of_unknown_parameters_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """`?user=` is the name of an argument, not of a parameter; text from the caller is not logged."""
    request = proxy_event(queryStringParameters={"us\x1ber": "1", "body": "2"})
    (response,), _ = invoke_application(factories.document(), request)
    assert (response["statusCode"], caplog.text) == ("400", "")
