"""The contract is what executes: changed copies of it, and the running service follows without a change of code."""

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
from tests.lambda_events import ANYBODY, GOOD, ask, est, event
from tests.servers import API_KEY

PEM: dict[str, Any] = {"body": GOOD, "isBase64Encoded": False}


def pem(media_type: str) -> dict[str, Any]:
    return event("/sign.pem", headers={"Content-Type": media_type}, **PEM)


def batch(count: int) -> dict[str, Any]:
    body = json.dumps({"requests": [{"csr": GOOD}] * count})
    return event("/sign/batch", body=body, isBase64Encoded=False)


def require_parameter(document: dict[str, Any], where: str = "query") -> None:
    """`GET /ca` requires a reason."""
    schema = {"type": "string", "maxLength": 5}
    parameter = {"name": "reason", "in": where, "required": True, "schema": schema}
    document["paths"]["/ca"]["get"]["parameters"] = [parameter]


def rename(document: dict[str, Any]) -> None:
    """`/sign.pem` is `/certificates`."""
    document["paths"]["/certificates"] = document["paths"].pop("/sign.pem")


def unsecured(path: str, document: dict[str, Any]) -> None:
    """Anybody may ask for what is posted to a path."""
    document["paths"][path]["post"]["security"] = []


def schemas(document: Any) -> Any:
    return document["components"]["schemas"]


def media_types(document: Any) -> Any:
    return document["paths"]["/sign.pem"]["post"]["requestBody"]["content"]


Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, dict[str, Any], int, int]] = {
    "required-query": (require_parameter, event("/ca", "GET"), 200, 400),
    "given-query": (require_parameter, event("/ca", "GET", queryStringParameters={"reason": "audit"}), 400, 200),
    "long-query": (require_parameter, event("/ca", "GET", queryStringParameters={"reason": "audits"}), 400, 400),
    "unknown-query": (require_parameter, event("/ca", "GET", queryStringParameters={"reason": "audit", "x": "1"}), 400, 400),
    "required-header": (lambda d: require_parameter(d, "header"), event("/ca", "GET"), 200, 400),
    "max-length": (lambda d: schemas(d)["CertificationRequest"].update(maxLength=len(GOOD) - 1), event(), 200, 400),
    "max-items": (lambda d: schemas(d)["BatchRequest"]["properties"]["requests"].update(maxItems=1), batch(2), 200, 400),
    "max-bytes": (lambda d: d["paths"]["/sign"]["post"]["requestBody"].update({"x-max-bytes": 9}), event(), 200, 413),
    "other-media-type": (lambda d: media_types(d).pop("text/plain"), pem("text/plain"), 200, 415),
    "new-media-type": (lambda d: media_types(d).update({"application/csr": media_types(d)["text/plain"]}), pem("application/csr"), 415, 200),
    "json-media-type": (lambda d: d["paths"]["/sign"]["post"]["requestBody"].update(content={"application/csr+json": {"schema": schemas(d)["SignRequest"]}}), event(headers={"Content-Type": "application/csr+json"}), 415, 200),
    "renamed-path": (rename, pem("text/plain") | {"path": "/certificates"}, 404, 200),
    "old-path": (rename, pem("text/plain"), 200, 404),
    "removed-operation": (lambda d: d["paths"].pop("/root.crt"), event("/root.crt", "GET"), 200, 404),
    "removed-method": (lambda d: d["paths"]["/sign"].pop("post"), event(), 200, 404),
    "mock-for-function": (lambda d: d["paths"]["/ca"]["get"]["x-amazon-apigateway-integration"].update(type="mock"), event("/ca", "GET"), 200, 404),
    "added-security": (lambda d: d["paths"]["/ca"]["get"].update(security=[{"apiKey": []}]), event("/ca", "GET", **ANYBODY), 200, 403),
    "added-security-with-a-key": (lambda d: d["paths"]["/ca"]["get"].update(security=[{"apiKey": []}]), event("/ca", "GET"), 200, 200),
    "other-security": (lambda d: d["paths"]["/sign"]["post"].update(security=[{"basic": []}]), event(), 200, 200),
    "removed-security-mine": (lambda d: d["paths"]["/profiles/mine"]["get"].update(security=[]), event("/profiles/mine", "GET", **ANYBODY), 403, 403),
    "both-securities": (lambda d: d["paths"]["/sign"]["post"].update(security=[{"basic": [], "apiKey": []}]), event(**ANYBODY), 403, 403),
    **{
        f"removed-security-{number}": (functools.partial(unsecured, asked["path"]), asked, 403, 403)
        for number, asked in enumerate([event(**ANYBODY), event(**ANYBODY, queryStringParameters={"dry_run": "true"}), pem("text/plain") | ANYBODY, batch(2) | ANYBODY, est(**ANYBODY)])
    },
}  # fmt: skip


def changed(change: Change) -> dict[str, Any]:
    document = copy.deepcopy(factories.document())
    change(document)
    return document


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_contract_changes_what_is_served(what: str) -> None:
    """An event is answered as the changed contract says; a caller whom the gateway did not name gets nothing."""
    change, asked, before, after = CHANGES[what]
    (unchanged,), _ = ask(factories.document(), asked)
    (answer,), log = ask(changed(change), asked)
    assert (unchanged["statusCode"], answer["statusCode"]) == (str(before), str(after)), answer
    if asked["httpMethod"] == "POST":
        expected = {200: ["intent", "result"], 403: ["refusal"]}.get(after, [])
        assert log.kinds()[:2] == expected


def test_a_missing_parameter_is_named() -> None:
    """What a changed contract asks for is named in the answer, with every other problem."""
    asked = event("/ca", "GET", queryStringParameters={"x": "1"})
    (answer,), _ = ask(changed(require_parameter), asked)
    assert [(each["field"], each["detail"]) for each in json.loads(answer["body"])["errors"]] == [
        ("query.x", "Unknown query parameter 'x'"),
        ("query.reason", "The required parameter is missing"),
    ]


def test_an_operation_that_nobody_performs_does_not_start() -> None:
    """An operationId that no method has is an error at start, not a 404."""
    document = changed(lambda d: d["paths"]["/ca"]["get"].update(operationId="nobody"))
    with pytest.raises(AttributeError, match="nobody"):
        ask(document)


def test_security_functions_are_not_published() -> None:
    """The document that everybody reads names no function of ours, before and after it was served."""
    document = changed(lambda _: None)
    ask(document)
    assert document == factories.document()
    assert "x-apikeyInfoFunc" not in json.dumps(document)


def test_a_served_contract_changes_with_its_file(tmp_path: Path) -> None:
    """`certlet serve` follows a changed file too: gateway and function read the same one."""

    def change(document: dict[str, Any]) -> None:
        rename(document)
        require_parameter(document)
        media_types(document | {"paths": {"/sign.pem": document["paths"]["/certificates"]}}).pop("text/plain")
        document["paths"].pop("/root.crt")

    # The package of the service with a contract of its own, as the Lambda zip carries it.
    shutil.copytree(servers.ROOT / "service", tmp_path / "service")
    (tmp_path / "service" / "openapi.json").write_text(json.dumps(changed(change)))
    env = {"CERTLET_API_KEY": API_KEY, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    with servers.serving(tmp_path, env=env) as server:
        headers = {"x-api-key": API_KEY, "Content-Type": "application/x-pem-file"}
        assert server.request("POST", "/certificates", GOOD.encode(), headers).status == 200
        assert server.request("POST", "/sign.pem", GOOD.encode(), headers).status == 404
        headers["Content-Type"] = "text/plain"
        assert server.request("POST", "/certificates", GOOD.encode(), headers).status == 415
        assert server.request("GET", "/root.crt").status == 404
        assert server.request("GET", "/ca").status == 400
        assert server.request("GET", "/ca?reason=audit").status == 200


@pytest.mark.parametrize("path", ["/ca", "/health", "/.well-known/est/peer/cacerts"])
def test_unexpected_body_is_refused_unread(path: str) -> None:
    """A GET with a body is 400, whatever the body's type and size: it may have meant another operation."""
    bodies = ["x", "[" * 200_000, " " * (app.MAX_BODY_BYTES + 1)]
    headers = {"Content-Type": "application/json", "X-Forwarded-Proto": "https"}
    asked = [event(path, "GET", headers=headers, body=body, isBase64Encoded=False) for body in bodies]
    found, _ = ask(factories.document(), *asked)
    assert [each["statusCode"] for each in found] == ["400", "400", "400"]


ODD = [
    {"Host": "m\u00fcnchen." + "a" * 70 + ":99999"},
    {"Host": "a b"},
    {"Cookie": "a=\u1234; b"},
    {"X-Forwarded-Port": "x", "Content-Type": "multipart/form-data"},
]


def test_headers_that_nobody_needs_change_nothing() -> None:
    """Host, cookies and forms mean nothing here, so whatever they say is no reason to refuse."""
    found, _ = ask(factories.document(), *(event("/ca.pem", "GET", headers=each) for each in ODD))
    assert [each["statusCode"] for each in found] == ["200"] * len(ODD)


def test_a_path_of_any_characters_is_404() -> None:
    """A label may be any text: it names no profile."""
    labels = ["\u00e4", "\u4e16", "a%2fb", "\x00", "\ud800", "pe er"]
    asked = [event(f"/.well-known/est/{each}/cacerts", "GET") for each in labels]
    found, _ = ask(factories.document(), *asked)
    assert {each["statusCode"] for each in found} == {"404"}
    assert {json.loads(each["body"])["code"] for each in found} == {"unknownProfile"}


def test_parameters_that_are_named_as_arguments_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """`?user=` names an argument of ours, not a parameter; and no text of a stranger's gets into the log."""
    asked = event(queryStringParameters={"us\x1ber": "1", "body": "2"})
    (answer,), _ = ask(factories.document(), asked)
    assert (answer["statusCode"], caplog.text) == ("400", "")
