"""What an operation answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

import flask

EST_PREFIX: Final = "/.well-known/est/"


class Answer(flask.Response):
    """An HTTP answer; `content_type` is '' for none, `cache` its Cache-Control."""

    automatically_set_content_length = False  # the gateway does: in a Lambda result a body may be base64
    default_mimetype = None  # no body, no Content-Type

    def __init__(
        self,
        body: bytes,
        content_type: str,
        cache: str,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(body, status, headers, content_type=content_type or None)
        self.headers["Cache-Control"] = cache

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as it is, with CORS: any page may read it, for no cookie means anything here.

        EST has no pages.
        """
        headers = self.headers.to_wsgi_list()
        if not environ["PATH_INFO"].startswith(EST_PREFIX):
            headers.append(("Access-Control-Allow-Origin", "*"))
        start_response(self.status, headers)
        return () if environ["REQUEST_METHOD"] == "HEAD" else self.iter_encoded()
