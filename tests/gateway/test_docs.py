"""The API docs, which only the local gateway serves."""

from __future__ import annotations

import re
import ssl
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
    "/docs/docs.css": "text/css; charset=utf-8",
    "/docs/start.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
    "/openapi.json": "application/json",
}


@pytest.mark.parametrize("path", PATHS)
def test_docs_path_is_served(server: Server, path: str) -> None:
    """Each file of the viewer has its media type and `nosniff`; HEAD has no body."""
    response = server.request("GET", path)
    assert (response.status, response.headers["Content-Type"]) == (200, PATHS[path])
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert ("Content-Security-Policy" in response.headers) == (path == "/docs")
    below = server.request("GET", path + "/").body
    assert below == response.body.replace(b'="docs/', b'="')  # the links are relative
    head = server.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(response.body))


@pytest.mark.parametrize(
    "path", ["/docs/index.html", "/docs/swagger-ui.js", "/docs/../pyproject.toml", "/docs/%2e%2e/VERSION", "/Docs", "/doc"]
)  # fmt: skip
def test_other_files_are_not_served(server: Server, path: str) -> None:
    """Other files of the viewer's package, and files elsewhere, are 404 like any unknown path."""
    response = server.request("GET", path)
    assert (response.status, response.json()["code"]) == (404, "notFound")


def test_docs_other_methods_are_404(server: Server) -> None:
    """Only GET and HEAD are served; other methods are 404, as for an unknown path."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert server.request(method, "/docs", b"").status == 404


def extensions(node: Any) -> Iterator[str]:
    """The names of all extensions in a document."""
    if isinstance(node, list):
        for item in node:
            yield from extensions(item)
    if isinstance(node, dict):
        for name, value in node.items():
            if name.startswith("x-"):
                yield name
            yield from extensions(value)


def test_openapi_json_is_the_public_contract(server: Server) -> None:
    """It is valid OpenAPI without extensions: `certlet openapi --format public`, with an absolute server."""
    response = server.request("GET", "/openapi.json")
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    published, document = response.json(), factories.document()
    validate(published)
    assert not list(extensions(published))
    assert len(list(extensions(document))) > 100
    assert published == {**openapi.public(document), "servers": [{"url": server.url}]}


def test_server_in_openapi_json_does_not_depend_on_the_host_header(server: Server) -> None:
    """The server is the address that the client connected to, whatever the request claims."""
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    response = server.request("GET", "/openapi.json", headers=forged)
    assert response.json()["servers"] == [{"url": server.url}]
    assert b"evil" not in server.request("GET", "/docs/start.js", headers=forged).body


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (("--host", "::1"), "http://[::1]:{port}"),
        (("--host", "0.0.0.0", "--insecure-http"), "http://127.0.0.1:{port}"),  # noqa: S104 - for this test
        (("--tls",), "https://127.0.0.1:{port}"),
        (("--tls", "--tls-name", "localhost"), "https://localhost:{port}"),
    ],
)
def test_server_in_openapi_json_is_absolute(tmp_path: Path, arguments: tuple[str, ...], url: str) -> None:
    """The server is the name or address of the server with its port, without a public URL."""
    with certlet_server(tmp_path, *arguments) as server:
        context = (
            ssl.create_default_context(cafile=tmp_path / "ca/root-ca.crt") if "--tls" in arguments else None
        )
        document = server.request("GET", "/openapi.json", context=context).json()
        assert document["servers"] == [{"url": url.format(port=server.port)}]


OVERRIDES = """\
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
    """It lists the operator's profiles, but not the principals that may use them."""
    (tmp_path / "overrides.yaml").write_text(OVERRIDES)
    with certlet_server(tmp_path, "--ephemeral", "--profiles", "overrides.yaml") as server:
        response = server.request("GET", "/openapi.json")
    assert "vault" in response.json()["components"]["schemas"]["ProfileName"]["enum"]
    assert b"secret-" not in response.body


def test_docs_paths_begin_with_the_stage(tmp_path: Path) -> None:
    """With a stage, the API docs and the files that they load are below it."""
    with second_api.gateway_server(tmp_path, factories.document(), stage="prod") as server:
        page = server.request("GET", "/prod/docs")
        links = re.findall(rb'="(docs/.+?)"', page.body)
        assert len(links) == 4
        for link in links:
            assert server.request("GET", f"/prod/{link.decode()}").status == 200
        assert server.request("GET", "/prod/openapi.json").json()["servers"] == [
            {"url": f"{server.url}/prod"}
        ]
        for path in PATHS:
            assert server.request("GET", path).status == 404


def test_document_path_precedes_docs(tmp_path: Path) -> None:
    """If the document contains one of these paths, the function serves it."""
    document = second_api.document()
    document["paths"]["/docs"] = document["paths"]["/books"]
    with second_api.gateway_server(tmp_path, document) as server:
        assert server.request("GET", "/docs").json()["event"]["path"] == "/docs"
        assert server.request("GET", "/openapi.json").status == 200


def test_docs_are_local_only() -> None:
    """The contract contains neither path, so API Gateway serves neither; the zip contains no viewer."""
    assert not {"/docs", "/openapi.json"} & set(factories.document()["paths"])
    assert "flask-swagger-ui" not in (ROOT / "deploy" / "lock" / "function.txt").read_text()
    assert "flask-swagger-ui" in (ROOT / "deploy" / "lock" / "service.txt").read_text()


def test_gateway_does_not_import_flask() -> None:
    """The gateway only reads the files of the viewer's package, whose code would import Flask."""
    program = (
        "import sys\n"
        "from service.gateway.docs import Docs\n"
        "docs = Docs({}, '', None)\n"
        "assert docs.respond('GET', '/docs/swagger-ui.css', 'http://127.0.0.1').body\n"
        "print([name for name in sys.modules if 'flask' in name])"
    )
    assert run(sys.executable, "-c", program).stdout == "[]\n"
