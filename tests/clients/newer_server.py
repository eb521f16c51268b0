"""A simulation of a newer minor version: a proxy that adds a field to every object of the JSON responses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests import servers
from tests.servers import HttpService


def with_new_fields(value: Any) -> Any:
    """Add a field that the current contract does not define to every object of a JSON value."""
    if isinstance(value, list):
        return [with_new_fields(item) for item in value]
    if isinstance(value, dict):
        return {**{name: with_new_fields(item) for name, item in value.items()}, "new_field": "unknown"}
    return value


@contextlib.contextmanager
def newer_server(current: HttpService) -> Iterator[HttpService]:
    """Run the proxy until the end of the block."""

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            headers = {
                name: self.headers[name] for name in ("content-type", "x-api-key") if name in self.headers
            }
            response = current.request(self.command, self.path, self.body() or None, headers)
            media_type = response.headers["content-type"]
            content = (
                json.dumps(with_new_fields(response.json())).encode()
                if "json" in media_type
                else response.body
            )
            self.reply(response.status, content, Content_Type=media_type)

    with servers.http_server(Handler) as url:
        yield HttpService(url)
