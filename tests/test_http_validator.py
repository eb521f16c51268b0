"""The validation of http-01: real web servers on loopback, and names that the tests resolve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service import challenge_queue, http_validator
from service.challenge_queue import ChallengeQueue, ChallengeResult, QueuedChallenge
from service.http_validator import MAX_BODY, HttpValidator, is_permitted
from tests import servers

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")]
TOKEN = "t" * 22
THUMBPRINT = "a" * 43
VALID = ("", "")
KEY_AUTHORIZATION = f"{TOKEN}.{THUMBPRINT}".encode()
NAME = "app.example.com"


class WebServer:
    """Accepts connections on loopback; `respond` gets each one after its request head was read."""

    def __init__(self, respond: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self._respond = respond
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._handle, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            self.requests.append(connection.recv(65536).decode())
            try:
                self._respond(connection)
            except OSError:  # the validator has closed the connection
                return

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def http(body: bytes, status: str = "200 OK", *headers: str) -> Callable[[socket.socket], None]:
    """A server that answers with this response."""
    fields = "".join(f"{header}\r\n" for header in (f"Content-Length: {len(body)}", *headers))
    return lambda connection: connection.sendall(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body)


@pytest.fixture
def serve() -> Iterator[Callable[..., WebServer]]:
    servers: list[WebServer] = []

    def serve(respond: Callable[[socket.socket], None], host: str = "127.0.0.1") -> WebServer:
        servers.append(WebServer(respond, host))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def challenge(name: str = NAME, account_id: str = "account", position: int = 0) -> QueuedChallenge:
    return QueuedChallenge(account_id, "order", position, name, TOKEN, THUMBPRINT)


def validate(port: int, resolve: Any = None, name: str = NAME, **options: Any) -> tuple[str, str]:
    """Validate a challenge, and return the code and the detail of the problem."""
    networks = options.pop("networks", LOOPBACK)
    results: list[ChallengeResult] = []

    async def run() -> None:
        validator = HttpValidator(results.append, networks, resolve or (lambda _: ["127.0.0.1"]), port)
        validator.start(challenge(name))
        await validator.wait()

    asyncio.run(run())
    (result,) = results
    assert result[:3] == ("account", "order", 0)
    return result.code, result.detail


@pytest.mark.parametrize("body", [KEY_AUTHORIZATION, KEY_AUTHORIZATION + b" \t\r\n"])
def test_key_authorization_is_accepted(serve: Any, body: bytes) -> None:
    """Spaces at the end are ignored (RFC 8555 8.3). The request names the host, and nothing secret."""
    server = serve(http(body))
    assert validate(server.port) == VALID
    (request,) = server.requests
    assert request.startswith(f"GET /.well-known/acme-challenge/{TOKEN} HTTP/1.1\r\nHost: {NAME}\r\n")
    assert "cookie" not in request.lower()


def test_body_is_not_decoded(serve: Any) -> None:
    """A short body cannot become a long one."""
    server = serve(http(KEY_AUTHORIZATION, "200 OK", "Content-Encoding: gzip"))
    assert validate(server.port) == VALID


@pytest.mark.parametrize(("address", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_address_is_its_own_host(serve: Any, address: str, host: str) -> None:
    """RFC 8738 4: the identifier is an address, which is not looked up."""
    server = serve(http(KEY_AUTHORIZATION), address)
    assert validate(server.port, http_validator.resolve, address) == VALID
    assert f"\r\nHost: {host}\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("respond", "code", "detail"),
    [
        (http(f"{TOKEN}.{'b' * 43}".encode()), "incorrectResponse", f"did not answer with {TOKEN}.{THUMBPRINT}"),
        (http(b"secret"), "incorrectResponse", f"did not answer with {TOKEN}.{THUMBPRINT}"),
        (http(b" " + KEY_AUTHORIZATION), "incorrectResponse", "did not answer with"),
        (http(b""), "incorrectResponse", "did not answer with"),
        (http(b"\xff\x00" * 100), "incorrectResponse", "did not answer with"),
        (http(KEY_AUTHORIZATION, "404 secret"), "incorrectResponse", "answered with status 404: serve"),
        (http(KEY_AUTHORIZATION, "201 Created"), "incorrectResponse", "answered with status 201"),
        (http(KEY_AUTHORIZATION + b" " * MAX_BODY), "incorrectResponse", "answered with more than 8192 octets"),
        (lambda connection: connection.sendall(b"secret\r\n\r\n"), "connection", "sent no complete HTTP"),
        (lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000), "connection", "sent no complete HTTP"),
        (lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 1000 + b"\r\n"), "connection", "sent no complete HTTP"),
        (lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=\x00\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n"), "connection", "sent no complete HTTP"),
        (lambda _: None, "connection", "sent no complete HTTP"),
    ],
)  # fmt: skip
def test_other_response_is_refused(serve: Any, respond: Any, code: str, detail: str) -> None:
    """No part of it gets into the error."""
    server = serve(respond)
    error = validate(server.port)
    assert (error[0], detail in error[1]) == (code, True), error
    assert error[1].startswith(f"http://{NAME}/.well-known/acme-challenge/{TOKEN} at 127.0.0.1 ")
    assert "secret" not in error[1]


def test_huge_body_is_not_read(serve: Any) -> None:
    """The validator closes the connection."""
    sent: list[int] = []

    def respond(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while len(sent) < 10_000:
            connection.sendall(b"a" * 65536)
            sent.append(65536)

    server = serve(respond)
    assert validate(server.port)[0] == "incorrectResponse"
    server.close()
    assert sum(sent) < 50_000_000


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(serve: Any, status: int) -> None:
    """Not even to an address that is permitted."""
    target = serve(http(KEY_AUTHORIZATION))
    location = f"Location: http://127.0.0.1:{target.port}/.well-known/acme-challenge/{TOKEN}"
    server = serve(http(b"", f"{status} Moved", location))
    code, detail = validate(server.port)
    assert code == "incorrectResponse"
    assert f"redirects (status {status}), which this CA does not follow" in detail
    assert not target.requests


def test_slow_server_ends_after_the_time_limit(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends an octet now and then does not keep the validator."""
    monkeypatch.setattr(http_validator, "TIMEOUT", 0.5)

    def respond(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            connection.sendall(b"A")
            time.sleep(0.05)

    started = time.monotonic()
    code, detail = validate(serve(respond).port)
    assert (code, "did not answer completely within 0.5 seconds" in detail) == ("connection", True)
    assert time.monotonic() - started < 4


def test_slow_name_server_ends_after_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is known before the lookup ends."""
    monkeypatch.setattr(http_validator, "LOOKUP_TIMEOUT", 0.2)
    results: list[ChallengeResult] = []
    seen: list[ChallengeResult] = []

    def stall(_name: str) -> list[str]:
        time.sleep(1)
        seen.extend(results)
        return ["127.0.0.1"]

    async def run() -> None:
        validator = HttpValidator(results.append, LOOPBACK, stall, 1)
        validator.start(challenge())
        await validator.wait()

    asyncio.run(run())
    detail = f"the name servers of {NAME} did not answer within 0.2 seconds"
    assert seen == results == [("account", "order", 0, "dns", detail)]


def test_slow_name_servers_of_an_account_do_not_delay_others(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each account has only some of the threads."""
    monkeypatch.setattr(http_validator, "LOOKUP_TIMEOUT", 0.1)
    monkeypatch.setattr(http_validator, "CONCURRENCY", 3)
    monkeypatch.setattr(http_validator, "CONCURRENCY_PER_ACCOUNT", 2)
    server, release = serve(http(KEY_AUTHORIZATION)), threading.Event()
    results: list[ChallengeResult] = []

    def resolve(name: str) -> list[str]:
        if name != NAME:
            release.wait(20)
        return ["127.0.0.1"]

    async def run() -> bool:
        validator = HttpValidator(results.append, LOOPBACK, resolve, server.port)
        for position in range(6):
            validator.start(challenge("slow.example.com", "slow", position))
        validator.start(challenge())
        await validator.wait(6)
        is_released = release.is_set()
        release.set()
        await validator.wait()
        return is_released

    assert not asyncio.run(run())
    assert ("account", "order", 0, "", "") in results


@pytest.mark.parametrize(
    ("errno", "detail"),
    [
        (socket.EAI_NONAME, f"{NAME} has no address in the DNS: create its A or AAAA record"),
        (socket.EAI_AGAIN, f"the name servers of {NAME} did not answer"),
    ],
)
def test_name_without_address_is_refused(errno: int, detail: str) -> None:
    def resolve(_name: str) -> list[str]:
        raise socket.gaierror(errno, "text of the library")

    assert validate(1, resolve) == ("dns", detail)


def test_port_without_server_is_refused(serve: Any) -> None:
    server = serve(http(b""))
    code, detail = validate(server.port, lambda _: ["127.0.0.2", "::1"])
    assert code == "connection"
    assert detail.startswith(
        f"port {server.port} of {NAME} (127.0.0.2, ::1) accepts no connection: start a web"
    )


def test_next_address_is_tried(serve: Any) -> None:
    """Only if the first one accepts no connection."""
    server = serve(http(KEY_AUTHORIZATION))
    result = validate(server.port, lambda _: ["127.0.0.2", "127.0.0.2", "127.0.0.1"])
    assert result == VALID


def test_only_the_first_addresses_are_tried() -> None:
    """Each of them once."""
    port = servers.free_port()
    addresses = ["127.0.0.2", "127.0.0.2", *(f"127.0.0.{number}" for number in range(3, 9))]
    detail = validate(port, lambda _: addresses)[1]
    assert detail.startswith(f"port {port} of {NAME} (127.0.0.2, 127.0.0.3, 127.0.0.4, 127.0.0.5) accepts no")
    detail = validate(port, lambda _: addresses, networks=())[1]
    assert detail.startswith("this CA does not connect to 127.0.0.2, 127.0.0.3, 127.0.0.4, 127.0.0.5, the")


def test_address_that_does_not_answer_does_not_prevent_the_next(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host behind a firewall that drops packets, as a listener with a full queue does."""
    monkeypatch.setattr(http_validator, "CONNECT_TIMEOUT", 0.2)
    server = serve(http(KEY_AUTHORIZATION))
    with socket.socket() as silent, contextlib.ExitStack() as stack:
        silent.bind(("127.0.0.2", server.port))
        silent.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003 - a standard library signature
            waiting.connect_ex(("127.0.0.2", server.port))
        started = time.monotonic()
        result = validate(server.port, lambda _: ["127.0.0.2", "127.0.0.1"])
        assert time.monotonic() - started < 5
    assert result == VALID


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["::"], ["169.254.169.254", "fe80::1"]])  # fmt: skip
def test_loopback_and_link_local_are_refused(serve: Any, addresses: list[str]) -> None:
    """By default, and nothing is sent."""
    server = serve(http(KEY_AUTHORIZATION))
    code, detail = validate(server.port, lambda _: addresses, networks=())
    assert code == "connection"
    assert detail.startswith(f"this CA does not connect to {ipaddress.ip_address(addresses[0])}")
    assert not server.requests


def test_name_is_resolved_once(serve: Any) -> None:
    """DNS rebinding: the second answer would be an address that is not permitted."""
    server = serve(http(KEY_AUTHORIZATION))
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    names = []

    def resolve(name: str) -> list[str]:
        names.append(name)
        return next(answers)

    code, detail = validate(server.port, resolve, networks=[ipaddress.ip_network("127.0.0.2")])
    assert (code, f"{NAME} (127.0.0.2) accepts no connection" in detail) == ("connection", True)
    assert names == [NAME]
    assert not server.requests


def test_only_permitted_addresses_of_a_name_are_tried(serve: Any) -> None:
    """A name with a public address and a loopback address does not lead to the latter."""
    server = serve(http(KEY_AUTHORIZATION))
    networks = [ipaddress.ip_network("127.0.0.2")]
    code, detail = validate(server.port, lambda _: ["127.0.0.2", "127.0.0.1"], networks=networks)
    assert (code, f"{NAME} (127.0.0.2) accepts no connection" in detail) == ("connection", True)
    assert not server.requests


@pytest.mark.parametrize(
    ("address", "networks", "permitted"),
    [
        ("10.1.2.3", [], True),
        ("192.0.2.1", [], True),
        ("2001:db8::1", [], True),
        ("fd00::1", [], True),
        ("::ffff:10.1.2.3", [], True),
        ("224.0.0.1", [], False),
        ("255.255.255.255", [], False),
        ("0.0.0.0", [], False),  # noqa: S104 - no address to listen on
        ("ff02::1", [], False),
        ("64:ff9b::7f00:1", [], False),
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("10.1.2.3", ["192.168.0.0/16", "fd00::/8"], False),
        ("fd00::1", ["192.168.0.0/16", "fd00::/8"], True),
        ("127.0.0.1", ["0.0.0.0/0"], False),
        ("169.254.169.254", ["0.0.0.0/0"], False),
        ("::1", ["::/0"], False),
        ("127.0.0.1", ["0.0.0.0/0", "127.0.0.1/32"], True),
        ("127.0.0.2", ["0.0.0.0/0", "127.0.0.1/32"], False),
        ("::1", ["::1/128"], True),
        ("169.254.1.2", ["169.254.0.0/16"], True),
    ],
)
def test_addresses_are_permitted_by_network(address: str, networks: list[str], *, permitted: bool) -> None:
    """Only a network of such addresses permits loopback and link-local ones."""
    parsed = [ipaddress.ip_network(network) for network in networks]
    assert is_permitted(ipaddress.ip_address(address), parsed) is permitted


def test_challenge_is_validated_once_at_a_time(serve: Any) -> None:
    """An account cannot have more waiting challenges than an order has names."""
    server = serve(http(KEY_AUTHORIZATION))
    results: list[ChallengeResult] = []

    async def run() -> None:
        validator = HttpValidator(results.append, LOOPBACK, lambda _: ["127.0.0.1"], server.port)
        for _ in range(3):
            validator.start(challenge())
        for position in range(1, 200):
            validator.start(challenge(position=position))
        await validator.wait()

    asyncio.run(run())
    assert len(results) == len(server.requests) == http_validator.MAX_WAITING_PER_ACCOUNT
    assert set(results) == {("account", "order", position, "", "") for position in range(100)}


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The validator's end and the workers' end of a queue."""
    validator_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    validator_end.settimeout(0)
    with validator_end, worker_end:
        yield validator_end, worker_end


def test_process_ends_with_the_workers_or_for_new_resolver_files(
    serve: Any,
    channel: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A packet that it has not read remains for the next process, which sends the result."""
    server, (validator_end, worker_end) = serve(http(KEY_AUTHORIZATION)), channel
    hosts = tmp_path / "hosts"
    hosts.touch()
    monkeypatch.setattr(http_validator, "_RESOLVER_FILES", (str(hosts), "/missing"))
    queue = ChallengeQueue(worker_end)

    async def run() -> None:
        report = functools.partial(challenge_queue.send, validator_end)
        validator = HttpValidator(report, LOOPBACK, lambda _: ["127.0.0.1"], server.port)
        await http_validator.serve(validator_end, validator)

    async def replace() -> None:
        task = asyncio.create_task(run())
        await asyncio.sleep(0.05)
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(hosts)
        queue.put(challenge())
        await task

    asyncio.run(replace())
    assert not list(queue.take_results())
    worker_end.shutdown(socket.SHUT_WR)
    asyncio.run(run())
    assert list(queue.take_results()) == [("account", "order", 0, "", "")]
