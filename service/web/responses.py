"""The HTTP response of an operation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

import flask

from service.openapi import EST_PREFIX

PEM_CHAIN: Final = "application/pem-certificate-chain"

to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


class Response(flask.Response):
    """An HTTP response.

    Args:
        body: the octets.
        content_type: '' if there is no body.
        cache: Cache-Control.
        status: HTTP status code.
        headers: further headers.
    """

    automatically_set_content_length = False  # the gateway sets it: a Lambda result may have a base64 body
    default_mimetype = None  # a response without a body has no Content-Type

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
        """Send the response, with a CORS header except for EST.

        Any web page may read responses, since the API uses no cookies. Web pages do not use EST.
        """
        headers = self.headers.to_wsgi_list()
        if not environ["PATH_INFO"].startswith(EST_PREFIX):
            headers.append(("Access-Control-Allow-Origin", "*"))
        start_response(self.status, headers)
        return () if environ["REQUEST_METHOD"] == "HEAD" else self.iter_encoded()


def json_response(value: object, cache: str, status: int = 200) -> Response:
    """Return a response with a JSON value; the other arguments are those of `Response`."""
    return Response(to_json(value).encode("ascii"), "application/json", cache, status)
