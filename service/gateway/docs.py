"""The API docs: a viewer at `/docs`, and the document that it loads, at `/openapi.json`.

Only the local gateway serves them: API Gateway serves only the paths of its document. The viewer is Swagger
UI, from the package flask-swagger-ui. Only its files are used; its code is not imported.
"""

from __future__ import annotations

import functools
import json
from importlib import util
from pathlib import Path
from typing import Final

from multidict import CIMultiDict

from service.gateway.events import Response
from service.gateway.routes import JSON, Contract, static_headers

_MEDIA_TYPES: Final = {
    "/docs": "text/html; charset=utf-8",
    "/docs/docs.css": "text/css; charset=utf-8",
    "/docs/start.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
    "/openapi.json": "application/json",
}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PAGE: Final = """\
<!doctype html>
<html lang="en" data-path="/docs">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Certlet: API docs</title>
<link rel="icon" href="data:,">
{style}
<link rel="stylesheet" href="{folder}swagger-ui.css">
<link rel="stylesheet" href="{folder}docs.css">
<script src="{folder}swagger-ui-bundle.js" defer></script>
<script src="{folder}start.js" defer></script>
</head>
<body>
{header}
<div id="contract">
<noscript>This page needs JavaScript. The <a href="./openapi.json">OpenAPI document</a> does not.</noscript>
</div>
{script}
</body>
</html>
"""
# The viewer looks like the other pages, also in dark mode. It contains the elements `main` and `h1`.
_STYLE: Final = """\
#contract { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem; }
#contract .swagger-ui, #contract .scheme-container { background: none; box-shadow: none; }
#contract .wrapper { max-width: none; padding: 0; }
#contract .info { margin: 1.5rem 0 0; }
#contract .info .title { font-size: 1.5rem; }
#contract .info .title pre { background: none; }
#contract .opblock-tag-section { padding: 0; }
#contract .scheme-container { margin: 0; padding: 1rem 0; }
@media (max-width: 30rem) { #contract { padding: 0 1rem; } }
#contract :is(h1, h2, h3, h4, p, button, .info a, .opblock-summary-description, .opblock-summary-method) {
  font-family: system-ui, sans-serif;
}
"""
# The script of the header defines `base`: the stage or base path of the page.
# The browser stores no API key, no other server validates the document, and links cannot select another one.
# Requests go to the origin of the page: the policy allows no other, and it may be another name of the server.
# The viewer would send the examples of optional parameters: `validity` and `not_after` exclude each other.
_START: Final = """\
const dark = matchMedia('(prefers-color-scheme: dark)');
const followColorScheme = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', followColorScheme);
followColorScheme();
SwaggerUIBundle({
  url: base + '/openapi.json',
  dom_id: '#contract',
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
  responseInterceptor: response => {
    if (!response.url.endsWith('/openapi.json')) return response;
    const isOptional = value => value && value.in && !value.required;
    const omitExample = (name, value) => isOptional(value) ? {...value, example: undefined} : value;
    const contract = {...JSON.parse(response.text, omitExample), servers: [{url: base || '/'}]};
    contract.info.title = 'API docs';
    return Object.assign(response, {text: JSON.stringify(contract)});
  },
});
"""


class Docs:
    """Serves the paths that the document itself does not contain.

    Args:
        public_document: the contract that `/openapi.json` returns. Without a public URL, its server is the
            address of the connection.
        stage: the first segment of every path; may be empty.
        contract: the document with the page of GET /, whose style and header the viewer has, too.
    """

    def __init__(self, public_document: JSON, stage: str, contract: Contract) -> None:
        self._public_document = public_document
        urls = (server["url"] for server in public_document.get("servers", ()))
        self._public_url = next((url for url in urls if "://" in url), "")
        self._contract = contract
        self._root = f"/{stage}" if stage else ""
        self._paths = {self._root + path: path for path in _MEDIA_TYPES}
        self._response = functools.cache(self._create)

    def respond(self, method: str, path: str, origin: str) -> Response | None:
        """The response for a path of the API docs; None for any other path or method.

        Args:
            method: the method of the request.
            path: the path of the request, with the stage.
            origin: the scheme, address and port of the connection, such as `http://127.0.0.1:8080`.

        Raises:
            GatewayError: the document has no page at `/`.
            OSError: a file of the viewer cannot be read.
        """
        name = self._paths.get(path.removesuffix("/"))
        if not name or method not in ("GET", "HEAD"):
            return None
        # Relative to the page, since only the browser knows the base path of a proxy.
        folder = "docs/" if path.endswith("/docs") else ""
        return self._response(name, self.server_url(origin), folder)

    def server_url(self, origin: str) -> str:
        """The URL of the API: the public URL if there is one, otherwise that of the connection."""
        return self._public_url or origin + self._root

    def _create(self, path: str, server: str, folder: str) -> Response:
        headers = CIMultiDict(_HEADERS, **{"Content-Type": _MEDIA_TYPES[path]})
        if path == "/docs":
            return self._create_page(headers, folder)
        if path == "/docs/docs.css":
            return Response(200, headers, _STYLE.encode())
        if path == "/docs/start.js":
            return Response(200, headers, _START.encode())
        if path == "/openapi.json":
            headers["Access-Control-Allow-Origin"] = "*"
            document = {**self._public_document, "servers": [{"url": server}]}
            return Response(200, headers, json.dumps(document, separators=(",", ":")).encode())
        spec = util.find_spec("flask_swagger_ui")  # without importing it, which would import Flask
        if spec is None or spec.origin is None:
            raise FileNotFoundError(path)
        file = Path(spec.origin).with_name("dist") / path.removeprefix("/docs/")
        return Response(200, headers, file.read_bytes())

    def _create_page(self, headers: CIMultiDict[str], folder: str) -> Response:
        """The page of the viewer, with the style and header of the start page, and its policy."""
        start_page = self._contract.route("GET", "/")[0].integration["responses"]["default"]
        html = start_page["responseTemplates"]["text/html"]
        style, header, script = (
            html[html.index(f"<{tag}>") : html.index(f"</{tag}>") + len(f"</{tag}>")]
            for tag in ("style", "header", "script")
        )
        policy = static_headers(start_page, "method.response.header.")["Content-Security-Policy"]
        # The files of Swagger UI, which uses neither `eval` nor style attributes.
        headers["Content-Security-Policy"] = policy.replace("-src 'sha256-", "-src 'self' 'sha256-")
        page = _PAGE.format(style=style, header=header, script=script, folder=folder)
        return Response(200, headers, page.replace(' aria-current="page"', "").encode())
