"""What an operation answers, and how Flask sends it."""

from __future__ import annotations

from dataclasses import dataclass

import flask


@dataclass(frozen=True)
class Answer:
    """An HTTP answer.

    Attributes:
        body: its octets.
        content_type: their media type; '' for none.
        cache: its Cache-Control.
        status: its status.
        headers: whatever else it says.
    """

    body: bytes
    content_type: str
    cache: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    def response(self, *, for_pages: bool) -> flask.Response:
        """The answer; any page may read it (CORS), for no cookie means anything here. EST has no pages."""
        content_type = [("Content-Type", self.content_type)] if self.content_type else []
        cors = [("Access-Control-Allow-Origin", "*")] if for_pages else []
        headers = [*content_type, ("Cache-Control", self.cache), *self.headers, *cors]
        return _Response(self.body, self.status, headers)


class _Response(flask.Response):
    automatically_set_content_length = False  # the gateway does: in a Lambda result a body may be base64
    default_mimetype = None  # no body, no Content-Type
