"""A later minor version of Certlet: a server in front of another, whose JSON answers have a member more each."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.serving import Site


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

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = self.headers["content-length"]
            body = self.rfile.read(int(length)) if length else None
            kept = {
                name: self.headers[name] for name in ("content-type", "x-api-key") if name in self.headers
            }
            answer = today.request(self.command, self.path, body, kept)
            media_type = answer.headers["content-type"]
            content = json.dumps(grown(answer.json())).encode() if "json" in media_type else answer.body
            self.send_response(answer.status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
