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
from service.gateway.routes import JSON

# Only this origin: Swagger UI uses neither `eval` nor style attributes.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MEDIA_TYPES: Final = {
    "/docs": "text/html; charset=utf-8",
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
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Certlet: API docs</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{root}/docs/swagger-ui.css">
<script src="{root}/docs/swagger-ui-bundle.js" defer></script>
<script src="{root}/docs/start.js" defer></script>
</head>
<body>
<main id="contract"><noscript>This page needs JavaScript; {root}/openapi.json does not.</noscript></main>
</body>
</html>
"""
# The browser stores no API key, no other server validates the document, and links cannot select another one.
# Requests go to the origin of the page: the policy allows no other, and it may be another name of the server.
# The viewer would send the examples of optional parameters: `validity` and `not_after` exclude each other.
_START: Final = """\
SwaggerUIBundle({{
  url: '{root}/openapi.json',
  dom_id: '#contract',
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
  responseInterceptor: response => {{
    if (!response.url.endsWith('/openapi.json')) return response;
    const isOptional = value => value && value.in && !value.required;
    const omitExample = (name, value) => isOptional(value) ? {{...value, example: undefined}} : value;
    const contract = {{...JSON.parse(response.text, omitExample), servers: [{{url: '{root}' || '/'}}]}};
    return Object.assign(response, {{text: JSON.stringify(contract)}});
  }},
}});
"""


class Docs:
    """Serves the paths that the document itself does not contain.

    Args:
        public_document: the contract that `/openapi.json` returns. Without a public URL, its server is the
            address of the connection.
        stage: the first segment of every path; may be empty.
    """

    def __init__(self, public_document: JSON, stage: str) -> None:
        self._public_document = public_document
        urls = (server["url"] for server in public_document.get("servers", ()))
        self._public_url = next((url for url in urls if "://" in url), "")
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
            OSError: a file of the viewer cannot be read.
        """
        name = self._paths.get(path.removesuffix("/"))
        return self._response(name, self.server_url(origin)) if name and method in ("GET", "HEAD") else None

    def server_url(self, origin: str) -> str:
        """The URL of the API: the public URL if there is one, otherwise that of the connection."""
        return self._public_url or origin + self._root

    def _create(self, path: str, server: str) -> Response:
        headers = CIMultiDict(_HEADERS, **{"Content-Type": _MEDIA_TYPES[path]})
        if path == "/docs":
            headers["Content-Security-Policy"] = _POLICY
            return Response(200, headers, _PAGE.format(root=self._root).encode())
        if path == "/docs/start.js":
            return Response(200, headers, _START.format(root=self._root).encode())
        if path == "/openapi.json":
            headers["Access-Control-Allow-Origin"] = "*"
            document = {**self._public_document, "servers": [{"url": server}]}
            return Response(200, headers, json.dumps(document, separators=(",", ":")).encode())
        spec = util.find_spec("flask_swagger_ui")  # without importing it, which would import Flask
        if spec is None or spec.origin is None:
            raise FileNotFoundError(path)
        file = Path(spec.origin).with_name("dist") / path.removeprefix("/docs/")
        return Response(200, headers, file.read_bytes())
