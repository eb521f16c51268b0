"""The contract for people, which the local gateway serves beside its document."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from service import openapi
from tests import factories
from tests.gateway import second_api
from tests.servers import ROOT, Server, certlet_server, run

PATHS = {
    "/docs": "text/html; charset=utf-8",
    "/docs/start.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
    "/openapi.json": "application/json",
}


@pytest.mark.parametrize("path", PATHS)
def test_docs_path_is_served(server: Server, path: str) -> None:
    """Each of the viewer's files is there, of its own media type, which is not to be guessed; HEAD has no body."""
    answer = server.request("GET", path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, PATHS[path])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert ("Content-Security-Policy" in answer.headers) == (path == "/docs")
    assert server.request("GET", path + "/").body == answer.body
    head = server.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize(
    "path", ["/docs/index.html", "/docs/swagger-ui.js", "/docs/../pyproject.toml", "/docs/%2e%2e/VERSION", "/Docs", "/doc"]
)  # fmt: skip
def test_other_files_are_not_served(server: Server, path: str) -> None:
    """No other file of the viewer's package, and none of anywhere, is served: 404, as any unknown path."""
    answer = server.request("GET", path)
    assert (answer.status, answer.json()["code"]) == (404, "notFound")


def test_docs_other_methods_are_404(server: Server) -> None:
    """What is served beside the document is to be read: all else is 404, as for a path that is not known."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert server.request(method, "/docs", b"").status == 404


def extensions(node: Any) -> Iterator[str]:
    """Every extension of a document."""
    if isinstance(node, list):
        for each in node:
            yield from extensions(each)
    if isinstance(node, dict):
        for name, each in node.items():
            if name.startswith("x-"):
                yield name
            yield from extensions(each)


def test_openapi_json_is_the_public_contract(server: Server) -> None:
    """It is what `certlet openapi --format public` prints, valid OpenAPI without an extension, but for where it is."""
    answer = server.request("GET", "/openapi.json")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    published, document = answer.json(), factories.document()
    validate(published)
    assert not list(extensions(published))
    assert len(list(extensions(document))) > 100
    assert published == {**openapi.public(document), "servers": [{"url": "/"}]}


OWN = """\
profiles:
  vault:
    description: For one.
    validity: P1D
    backdate: PT5M
    extended_key_usage: [serverAuth]
    names: {dns: {}}
    principals: [secret-ops]
principals: {secret-dev: {dns: {permitted: [dev.example.com]}}}
"""


def test_openapi_json_omits_principals(tmp_path: Path) -> None:
    """An operator's profiles are among those that may be named; for whom they are is in no answer without a key."""
    (tmp_path / "own.yaml").write_text(OWN)
    with certlet_server(tmp_path, "--ephemeral", "--profiles", "own.yaml") as server:
        answer = server.request("GET", "/openapi.json")
    assert "vault" in answer.json()["components"]["schemas"]["ProfileName"]["enum"]
    assert b"secret-" not in answer.body


def test_docs_paths_begin_with_the_stage(tmp_path: Path) -> None:
    """With a stage all of it is within, and what the page loads and asks is too."""
    with second_api.gateway_server(tmp_path, factories.document(), stage="prod") as server:
        page = server.request("GET", "/prod/docs")
        assert page.body.count(b'="/prod/docs/') == 3
        assert b"'/prod/openapi.json'" in server.request("GET", "/prod/docs/start.js").body
        assert server.request("GET", "/prod/openapi.json").json()["servers"] == [{"url": "/prod"}]
        for path in PATHS:
            assert server.request("GET", path).status == 404


def test_document_path_precedes_docs(tmp_path: Path) -> None:
    """A document that has one of these paths is served as it says."""
    document = second_api.document()
    document["paths"]["/docs"] = document["paths"]["/books"]
    with second_api.gateway_server(tmp_path, document) as server:
        assert server.request("GET", "/docs").json()["event"]["path"] == "/docs"
        assert server.request("GET", "/openapi.json").status == 200


def test_docs_are_local_only() -> None:
    """Neither is in the contract, so API Gateway has neither; and the zip carries no viewer."""
    assert not {"/docs", "/openapi.json"} & set(factories.document()["paths"])
    assert "flask-swagger-ui" not in (ROOT / "deploy" / "lock" / "function.txt").read_text()
    assert "flask-swagger-ui" in (ROOT / "deploy" / "lock" / "service.txt").read_text()


def test_gateway_does_not_import_flask() -> None:
    """Of the viewer's package its files are read, and its code, which would bring Flask along, stays out."""
    program = (
        "import sys\n"
        "from service.gateway.docs import Docs\n"
        "docs = Docs({}, '')\n"
        "assert docs.respond('GET', '/docs/swagger-ui.css').body\n"
        "print([name for name in sys.modules if 'flask' in name])"
    )
    assert run(sys.executable, "-c", program).stdout == "[]\n"
