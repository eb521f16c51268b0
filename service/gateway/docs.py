"""The contract for people: a viewer at `/docs`, and the document that it reads at `/openapi.json`.

Both are the local gateway's own, for API Gateway serves nothing that its document does not hold. The viewer
is Swagger UI, as the package flask-swagger-ui carries it; nothing else of that package is used, or imported.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Final

from multidict import CIMultiDict

from service.gateway.events import Response
from service.gateway.routes import JSON

# Of this origin alone: Swagger UI evaluates no text, and sets its styles by script and not by attribute.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
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
<title>Certlet: the contract</title>
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
# No key is kept in the browser, no validator elsewhere is asked, and no link can name another document.
_START: Final = """\
SwaggerUIBundle({{
  url: '{root}/openapi.json',
  dom_id: '#contract',
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
}});
"""


class Docs:
    """What is served beside the document's own paths.

    Args:
        published: the contract for readers, as `/openapi.json` answers it, but for where it is.
        stage: the first segment of every path; none if it is empty.
    """

    def __init__(self, published: JSON, stage: str) -> None:
        self._published = published
        self._root = f"/{stage}" if stage else ""
        made: dict[str, Callable[[], Response]] = {
            "/docs": functools.partial(self._text, "text/html", _PAGE),
            "/docs/start.js": functools.partial(self._text, "text/javascript", _START),
            "/docs/swagger-ui-bundle.js": functools.partial(
                _bundled, "text/javascript", "swagger-ui-bundle.js"
            ),
            "/docs/swagger-ui.css": functools.partial(_bundled, "text/css", "swagger-ui.css"),
            "/openapi.json": self._document,
        }
        self._responses = {self._root + path: functools.cache(answer) for path, answer in made.items()}

    def answer(self, method: str, path: str) -> Response | None:
        """The answer to a request for a path that the document has not; None if it is none of these either.

        Raises:
            OSError: the viewer's files cannot be read.
        """
        found = self._responses.get(path.removesuffix("/"))
        return found() if found and method in ("GET", "HEAD") else None

    def _text(self, media_type: str, template: str) -> Response:
        return _response(media_type, template.format(root=self._root).encode())

    def _document(self) -> Response:
        document = {**self._published, "servers": [{"url": self._root or "/"}]}
        answer = _response("application/json", json.dumps(document, separators=(",", ":")).encode())
        answer.headers["Access-Control-Allow-Origin"] = "*"
        return answer


def _bundled(media_type: str, name: str) -> Response:
    spec = util.find_spec("flask_swagger_ui")  # which does not import it: it would bring Flask along
    if spec is None or spec.origin is None:
        raise FileNotFoundError(name)
    return _response(media_type, Path(spec.origin).with_name("dist").joinpath(name).read_bytes())


def _response(media_type: str, body: bytes) -> Response:
    headers = CIMultiDict(_HEADERS)
    headers["Content-Type"] = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    if media_type == "text/html":
        headers["Content-Security-Policy"] = _POLICY
    return Response(200, headers, body)
