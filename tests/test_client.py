"""The client against servers that are slow, busy, cut off or hostile; and through proxies."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import pytest

from service import client
from service.client import ClientError, SignRequest
from tests import csrs, servers

Response: TypeAlias = tuple[int, dict[str, str], bytes]

PEM = csrs.encode_pem(csrs.build()).decode().replace(" REQUEST", "")
SIGNED = json.dumps({"crt_pem": PEM, "chain_pem": "", "notes": [], "not_after": "2026"}).encode()
PROBLEM = b'{"title": "Busy", "detail": "Later.", "status": 429, "code": "x"}'


@contextlib.contextmanager
def scripted(*script: Response) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A server that gives these responses, and hangs up for status 0: its URL, and the paths and headers it got."""
    left, seen = list(script), []

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            self.body()
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            status, headers, body = left.pop(0)
            if status:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

    with servers.http_server(Handler) as url:
        yield url, seen
    assert not left


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


OK: Response = (200, {}, SIGNED)
CUT: Response = (200, {"Content-Length": "9999"}, SIGNED)
LOST: Response = (0, {}, b"")
BUSY: Response = (429, {"Retry-After": "0"}, PROBLEM)


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        ([OK], 1),
        ([(502, {}, b""), (504, {}, b""), OK], 3),
        ([LOST, LOST, OK], 3),
        ([CUT, OK], 2),
        ([BUSY, BUSY, OK], 3),
    ],
    ids=["at once", "no answer of the function", "hung up", "cut off within the body", "busy"],
)
def test_lost_response_is_asked_for_again_with_the_same_key(
    script: Sequence[Response], requests: int
) -> None:
    """Up to twice more, with one Idempotency-Key, what may have been signed is asked for."""
    with scripted(*script) as (url, seen):
        assert client.sign(url, "key", SignRequest("csr")).crt_pem == PEM
    assert len(seen) == requests
    assert len({headers["idempotency-key"] for _, headers in seen}) == 1


@pytest.mark.parametrize(
    ("response", "requests", "message"),
    [
        ((502, {}, b""), 3, "the server answered 502 Bad Gateway"),
        (LOST, 3, "Remote end closed connection without response"),
        (CUT, 3, "no Certlet answers at"),
        (BUSY, 3, "Busy: Later. (429 x)"),
        ((429, {"Retry-After": "11"}, PROBLEM), 1, "Busy: Later. (429 x)"),
        ((429, {"Retry-After": "soon"}, PROBLEM), 1, "Busy: Later. (429 x)"),
        ((429, {}, PROBLEM), 1, "Busy: Later. (429 x)"),
        ((500, {}, b"\x1b"), 1, "the server answered 500 Internal Server Error"),
        ((302, {"Location": "/elsewhere"}, b""), 1, "the server answered 302 Found"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(SIGNED)), 1, "no Certlet answers at"),
        ((200, {}, b"x" * 5000), 1, "its response has more than 4096 octets"),
    ],
)
def test_failure_is_told_after_as_many_attempts_as_it_deserves(
    monkeypatch: pytest.MonkeyPatch, response: Response, requests: int, message: str
) -> None:
    """No redirect is followed, nothing is decompressed or read without end, and no long wait begins."""
    monkeypatch.setattr(client, "_MAX_RESPONSE", 4096)
    with scripted(*[response] * requests) as (url, _), pytest.raises(ClientError) as raised:
        client.sign(url, "key", SignRequest("csr"))
    assert message in str(raised.value)


def test_what_need_not_be_signed_is_asked_once() -> None:
    """A request without an Idempotency-Key is not repeated."""
    with scripted((502, {}, b""), BUSY) as (url, seen):
        for message in ("502", "429"):
            with pytest.raises(ClientError, match=message):
                client.list_profiles(url, "key")
    assert ["idempotency-key" in headers for _, headers in seen] == [False, False]


def test_time_out_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that does not answer is told at once, not after three time-outs."""
    monkeypatch.setattr(client, "_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        with pytest.raises(ClientError, match="timed out"):
            client.sign(f"http://127.0.0.1:{listener.getsockname()[1]}", "key", SignRequest("csr"))
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """$http_proxy gets the request, with its user's password; $no_proxy says for which hosts it does not."""
    with scripted(OK) as (proxy, asked), scripted(OK) as (url, seen):
        monkeypatch.setenv("http_proxy", proxy.replace("//", "//anna:p%40ss@"))
        client.sign("http://certlet.example", "key", SignRequest("csr"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        client.sign(url, "key", SignRequest("csr"))
    ((path, headers),) = asked
    assert (path, headers["proxy-authorization"]) == ("http://certlet.example/sign", "Basic YW5uYTpwQHNz")
    assert [path for path, _ in seen] == ["/sign"]
    assert "proxy-authorization" not in seen[0][1]


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
