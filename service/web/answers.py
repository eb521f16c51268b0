"""What an operation answers."""

from __future__ import annotations

from collections.abc import Iterable

import flask


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
        headers = [("Cache-Control", cache), *headers]
        super().__init__(body, status, headers, content_type=content_type or None)
