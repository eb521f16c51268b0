"""A later minor version of Certlet: a server in front of another, whose JSON answers have a member more each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests import servers
from tests.servers import Site


def grown(value: Any) -> Any:
    """JSON whose every object has a member that no document of today knows."""
    if isinstance(value, list):
        return [grown(each) for each in value]
    if isinstance(value, dict):
        return {**{name: grown(each) for name, each in value.items()}, "member_of_later": "as yet unknown"}
    return value


@contextlib.contextmanager
def version(today: Site) -> Iterator[Site]:
    """Serve until the end of the block."""

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            kept = {
                name: self.headers[name] for name in ("content-type", "x-api-key") if name in self.headers
            }
            found = today.request(self.command, self.path, self.body() or None, kept)
            media_type = found.headers["content-type"]
            content = json.dumps(grown(found.json())).encode() if "json" in media_type else found.body
            self.answer(found.status, content, Content_Type=media_type)

    with servers.http_server(Handler) as url:
        yield Site(url)
