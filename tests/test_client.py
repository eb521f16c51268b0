"""The client with slow, busy, interrupted and hostile servers, and through proxies."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import pytest

from service import client
from service.client import ClientError, Credentials, Service, SignRequest
from tests import csrs, servers

Response: TypeAlias = tuple[int, dict[str, str], bytes]

PEM = csrs.encode_pem(csrs.build()).decode().replace(" REQUEST", "")
SIGNED = json.dumps({"crt_pem": PEM, "chain_pem": "", "notes": [], "not_after": "2026"}).encode()
PROBLEM = b'{"title": "Busy", "detail": "Later.", "status": 429, "code": "x"}'


@contextlib.contextmanager
def scripted_server(*script: Response) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Run a server with these responses (status 0: hang up); yield its URL, and the received paths and headers."""
    responses, received = list(script), []

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            self.body()
            received.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            status, headers, body = responses.pop(0)
            if status:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

    with servers.http_server(Handler) as url:
        yield url, received
    assert not responses


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


KEY = Credentials("key")
OK: Response = (200, {}, SIGNED)
TRUNCATED: Response = (200, {"Content-Length": "9999"}, SIGNED)
LOST: Response = (0, {}, b"")
BUSY: Response = (429, {"Retry-After": "0"}, PROBLEM)


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        ([OK], 1),
        ([(502, {}, b""), (504, {}, b""), OK], 3),
        ([LOST, LOST, OK], 3),
        ([TRUNCATED, OK], 2),
        ([BUSY, BUSY, OK], 3),
    ],
    ids=["at once", "no response from the function", "hung up", "truncated body", "busy"],
)
def test_lost_response_is_retried_with_the_same_idempotency_key(
    script: Sequence[Response], requests: int
) -> None:
    """A request that may have been signed is sent up to three times."""
    with scripted_server(*script) as (url, received):
        assert client.sign(Service(url), KEY, SignRequest("csr")).crt_pem == PEM
    assert len(received) == requests
    assert len({headers["idempotency-key"] for _, headers in received}) == 1


@pytest.mark.parametrize(
    ("response", "requests", "message", "exit_status"),
    [
        ((502, {}, b""), 3, "returned 502 Bad Gateway", 3),
        (LOST, 3, "Remote end closed connection without response", 5),
        (TRUNCATED, 3, "failed: the response is incomplete", 3),
        (BUSY, 3, "Busy: Later. (429 x)", 3),
        ((429, {"Retry-After": "11"}, PROBLEM), 1, "Busy: Later. (429 x)", 3),
        ((429, {"Retry-After": "soon"}, PROBLEM), 1, "Busy: Later. (429 x)", 3),
        ((429, {}, PROBLEM), 1, "Busy: Later. (429 x)", 3),
        ((503, {}, PROBLEM), 1, "Busy: Later. (429 x)", 3),
        ((401, {}, PROBLEM), 1, "Busy: Later. (429 x)", 4),
        ((403, {}, PROBLEM), 1, "Busy: Later. (429 x)", 4),
        ((403, {}, PROBLEM.replace(b'"x"', b'"httpsRequired"')), 1, "(429 httpsRequired)", 1),
        ((599, {}, b""), 1, "returned 599", 1),
        ((500, {}, b"\x1b"), 1, "returned 500 Internal Server Error", 1),
        ((302, {"Location": "/elsewhere"}, b""), 1, "returned 302 Found", 1),
        (
            (200, {"Content-Encoding": "gzip"}, gzip.compress(SIGNED)),
            1,
            "is not that of a Certlet service",
            1,
        ),
        ((200, {}, b"<html>"), 1, "is not that of a Certlet service (check that http://127.0.0.1:", 1),
        ((200, {}, b"{}"), 1, "is not that of a Certlet service (check that http://127.0.0.1:", 1),
        ((200, {}, b"[" * 4096), 1, "is not that of a Certlet service", 1),
        ((404, {}, b"<html>"), 1, "returned 404 Not Found (check that http://127.0.0.1:", 1),
        ((200, {}, b"x" * 5000), 1, "the response has more than 4096 bytes", 1),
    ],
)
def test_failure_is_reported_after_the_expected_number_of_attempts(
    monkeypatch: pytest.MonkeyPatch, response: Response, requests: int, message: str, exit_status: int
) -> None:
    """The client does not follow redirects, decompress bodies, read large bodies or wait for long delays."""
    monkeypatch.setattr(client, "_MAX_RESPONSE", 4096)
    with scripted_server(*[response] * requests) as (url, _), pytest.raises(ClientError) as raised:
        client.sign(Service(url), KEY, SignRequest("csr"))
    assert message in str(raised.value)
    assert raised.value.exit_status == exit_status


def test_refused_api_key_names_the_options_of_the_command_line() -> None:
    """The advice for other HTTP clients does not reach its users; the reason for a token does."""
    advice = json.dumps(
        {"title": "No", "detail": "A key is required: send it in x", "status": 403, "code": "unauthorized"}
    ).encode()
    messages = []
    for credentials in (KEY, Credentials("", "token")):
        with scripted_server((403, {}, advice)) as (url, _), pytest.raises(ClientError) as raised:
            client.list_profiles(Service(url), credentials)
        messages.append(str(raised.value))
    assert messages == [
        "No: A key is required (403 unauthorized) (check --api-key, $CERTLET_API_KEY or certlet login)",
        "No: A key is required: send it in x (403 unauthorized)",
    ]


@pytest.mark.parametrize("value", [None, "yesterday", "Fri, 31 Dec 9999 23:59:59 -2300"])
def test_response_without_a_time_is_an_error(value: str | None) -> None:
    """Such as that of another server; a time is parsed."""

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            self.send_response_only(200)
            if date:
                self.send_header("Date", date)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with servers.http_server(Handler) as url:
        date = value
        with pytest.raises(ClientError, match="has no valid Date header"):
            client.fetch_date(url)
        date = "Mon, 01 Jan 2029 00:00:00 GMT"
        assert client.fetch_date(url).year == 2029


def test_response_that_is_not_http_cannot_forge_a_line() -> None:
    """Its text is not in the error; the characters of an argument that are not UTF-8 are named as such."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(65536)
                stream.sendall(b"no HTTP\x0bcertlet: run this\r\n\r\n")

        thread = threading.Thread(target=respond)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ClientError) as raised:
            client.list_profiles(Service(url), KEY)
        thread.join()
        assert (str(raised.value), raised.value.exit_status) == (
            f"request to {url} failed: the response is not HTTP", 5
        )  # fmt: skip
        with pytest.raises(ClientError, match="failed: an argument is not UTF-8"):
            client.sign(Service(url), KEY, SignRequest("csr", profile="p\udce9"))


def test_request_without_idempotency_key_is_not_retried() -> None:
    """A list of profiles is requested once."""
    with scripted_server((502, {}, b""), BUSY) as (url, received):
        for message in ("502", "429"):
            with pytest.raises(ClientError, match=message):
                client.list_profiles(Service(url), KEY)
    assert ["idempotency-key" in headers for _, headers in received] == [False, False]


def test_timeout_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that does not respond is reported after one timeout."""
    monkeypatch.setattr(client, "_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        with pytest.raises(ClientError, match="timed out"):
            client.sign(Service(f"http://127.0.0.1:{listener.getsockname()[1]}"), KEY, SignRequest("csr"))
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_proxy_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request goes to $http_proxy, with its credentials, except for hosts in $no_proxy."""
    with scripted_server(OK) as (proxy, proxy_requests), scripted_server(OK) as (url, received):
        monkeypatch.setenv("http_proxy", proxy.replace("//", "//anna:p%40ss@"))
        client.sign(Service("http://certlet.example"), KEY, SignRequest("csr"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        client.sign(Service(url), KEY, SignRequest("csr"))
    ((path, headers),) = proxy_requests
    assert (path, headers["proxy-authorization"]) == ("http://certlet.example/sign", "Basic YW5uYTpwQHNz")
    assert [path for path, _ in received] == ["/sign"]
    assert "proxy-authorization" not in received[0][1]


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("ftp://a.example", "key", "is not an http or https URL"),
        ("http://a.example\n", "key", "is not an http or https URL"),
        ("http://127.0.0.1:x", "key", "failed: "),
        ("http://127.0.0.1", "a b", "visible ASCII characters"),
        ("http://127.0.0.1", "k" * 129, "1 to 128"),
    ],
)
def test_malformed_url_or_api_key_is_refused(url: str, key: str, message: str) -> None:
    """A malformed URL or API key is refused before a connection is opened."""
    with pytest.raises(ClientError, match=message):
        client.sign(Service(url), Credentials(key), SignRequest("csr"))
