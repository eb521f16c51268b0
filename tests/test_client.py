"""The client against servers that are slow, busy, cut off or hostile; and through proxies."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TypeAlias

import pytest

from service import client
from service.client import ClientError, SignRequest
from tests import csrs

Response: TypeAlias = tuple[int, dict[str, str], bytes, int | None]  # and how much of the body is sent

PEM = csrs.pem(csrs.build()).decode().replace(" REQUEST", "")
SIGNED = json.dumps({"crt_pem": PEM, "chain_pem": "", "notes": [], "not_after": "2026"}).encode()
PROBLEM = b'{"title": "Busy.", "detail": "Later.", "status": 429, "code": "x"}'


class Scripted(HTTPServer):
    """Gives these responses, one to each request."""

    script: list[Response]
    seen: list[tuple[str, dict[str, str]]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, headers, body, sent = self.server.script.pop(0)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scripted]]:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    servers = []

    def start(*script: Response) -> Scripted:
        server = Scripted(("127.0.0.1", 0), Handler)
        server.script, server.seen = list(script), []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


OK: Response = (200, {}, SIGNED, None)
BUSY: Response = (429, {"Retry-After": "0"}, PROBLEM, None)


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        ([OK], 1),
        ([(502, {}, b"", None), (504, {}, b"", None), OK], 3),
        ([(200, {}, SIGNED, 99), OK], 2),
        ([BUSY, BUSY, OK], 3),
    ],
    ids=["at once", "no answer of the function", "cut off within the body", "busy"],
)
def test_lost_response_is_asked_for_again_with_the_same_key(
    scripted: Callable[..., Scripted], script: Sequence[Response], requests: int
) -> None:
    """Up to twice more, with one Idempotency-Key, what may have been signed is asked for."""
    server = scripted(*script)
    assert client.sign(server.url, "key", SignRequest("csr")).crt_pem == PEM
    assert len(server.seen) == requests
    assert len({headers["idempotency-key"] for _, headers in server.seen}) == 1


@pytest.mark.parametrize(
    ("response", "requests", "message"),
    [
        ((502, {}, b"", None), 3, "the server answered 502 Bad Gateway"),
        ((200, {}, SIGNED, 99), 3, "no Certlet answers at"),
        (BUSY, 3, "Busy. Later. (429 x)"),
        ((429, {"Retry-After": "11"}, PROBLEM, None), 1, "Busy. Later. (429 x)"),
        ((429, {"Retry-After": "soon"}, PROBLEM, None), 1, "Busy. Later. (429 x)"),
        ((429, {}, PROBLEM, None), 1, "Busy. Later. (429 x)"),
        ((500, {}, b"\x1b", None), 1, "the server answered 500 Internal Server Error"),
        ((302, {"Location": "/elsewhere"}, b"", None), 1, "the server answered 302 Found"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(SIGNED), None), 1, "no Certlet answers at"),
        ((200, {}, b"x" * 5000, None), 1, "its response has more than 4096 octets"),
    ],
)
def test_failure_is_told_after_as_many_attempts_as_it_deserves(
    scripted: Callable[..., Scripted],
    monkeypatch: pytest.MonkeyPatch,
    response: Response,
    requests: int,
    message: str,
) -> None:
    """No redirect is followed, nothing is decompressed or read without end, and no long wait begins."""
    monkeypatch.setattr(client, "_MAX_RESPONSE", 4096)
    server = scripted(*[response] * requests)
    with pytest.raises(ClientError) as raised:
        client.sign(server.url, "key", SignRequest("csr"))
    assert message in str(raised.value)
    assert (len(server.seen), server.script) == (requests, [])


def test_what_need_not_be_signed_is_asked_once(scripted: Callable[..., Scripted]) -> None:
    """A request without an Idempotency-Key is not repeated."""
    server = scripted((502, {}, b"", None), (429, {"Retry-After": "0"}, PROBLEM, None))
    for message in ("502", "429"):
        with pytest.raises(ClientError, match=message):
            client.list_profiles(server.url, "key")
    assert ["idempotency-key" in headers for _, headers in server.seen] == [False, False]


def test_time_out_is_not_waited_for_again(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that does not answer is told at once, not after three time-outs."""
    scripted()
    monkeypatch.setattr(client, "_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        with pytest.raises(ClientError, match="timed out"):
            client.sign(f"http://127.0.0.1:{listener.getsockname()[1]}", "key", SignRequest("csr"))
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_proxy_of_the_environment_is_used(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """$http_proxy gets the request, with its user's password; $no_proxy says for which hosts it does not."""
    proxy, server = scripted(OK), scripted(OK)
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//anna:p%40ss@"))
    client.sign("http://certlet.example", "key", SignRequest("csr"))
    ((path, headers),) = proxy.seen
    assert path == "http://certlet.example/sign"
    assert headers["proxy-authorization"] == "Basic YW5uYTpwQHNz"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    client.sign(server.url, "key", SignRequest("csr"))
    assert [path for path, _ in server.seen] == ["/sign"]
    assert "proxy-authorization" not in server.seen[0][1]


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("ftp://a.example", "key", "is not an http or https URL"),
        ("http://a.example\n", "key", "is not an http or https URL"),
        ("http://127.0.0.1:x", "key", "no Certlet answers at"),
        ("http://127.0.0.1", "a b", "visible ASCII characters"),
        ("http://127.0.0.1", "k" * 129, "at most 128"),
    ],
)
def test_malformed_url_or_api_key_is_refused(url: str, key: str, message: str) -> None:
    """Neither reaches the network, nor a header."""
    with pytest.raises(ClientError, match=message):
        client.sign(url, key, SignRequest("csr"))
