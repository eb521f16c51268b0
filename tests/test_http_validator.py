"""The validation of http-01: real web servers on loopback, and names that the tests resolve."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service import http_validator
from service.challenge_queue import MAX_PACKET, ChallengeQueue, QueuedChallenge
from service.http_validator import MAX_BODY, HttpValidator, is_permitted
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import Authorization, AuthorizationStatus, Order, OrderStatus
from service.pki.errors import CAUnavailable
from tests import servers
from tests.factories import NOW
from tests.ledger import values

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")]
TOKEN = "t" * 22
THUMBPRINT = "a" * 43
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
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.db", lambda: NOW)
    yield ledger
    ledger.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., WebServer]]:
    servers: list[WebServer] = []

    def serve(respond: Callable[[socket.socket], None], host: str = "127.0.0.1") -> WebServer:
        servers.append(WebServer(respond, host))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def add_order(ledger: SqliteLedger, *names: str) -> Order:
    """Store an order whose challenges are to be validated."""
    account = ledger.add_account(values.account(THUMBPRINT))
    authorizations = tuple(
        Authorization("ip" if name[-1].isdigit() else "dns", name, AuthorizationStatus.PROCESSING, TOKEN, NOW)
        for name in names
    )
    order = values.order(account.id, authorizations=authorizations, status=OrderStatus.PENDING)
    ledger.add_order(order)
    return order


def validate(ledger: SqliteLedger, order: Order, port: int, resolve: Any = None, **options: Any) -> Order:
    """Validate all challenges of an order at the same time, and return the stored order."""
    resolve = resolve or (lambda name: ["127.0.0.1"] if name == NAME else [name])
    networks = options.pop("networks", LOOPBACK)

    async def run() -> None:
        validator = HttpValidator(ledger, lambda: NOW, networks, resolve, port)
        for index in range(len(order.authorizations)):
            validator.start(QueuedChallenge(order.account, order.id, index))
        await validator.wait()

    asyncio.run(run())
    stored = ledger.get_order(order.account, order.id)
    assert stored
    return stored


def fails(ledger: SqliteLedger, port: int, resolve: Any = None, **options: Any) -> tuple[str, str]:
    """Validate `NAME`, and return the error; the order becomes invalid."""
    order = validate(ledger, add_order(ledger, NAME), port, resolve, **options)
    (authorization,) = order.authorizations
    assert (order.status, authorization.status) == (OrderStatus.INVALID, AuthorizationStatus.INVALID)
    assert authorization.error
    return authorization.error


@pytest.mark.parametrize("body", [KEY_AUTHORIZATION, KEY_AUTHORIZATION + b" \t\r\n"])
def test_key_authorization_is_accepted(serve: Any, ledger: SqliteLedger, body: bytes) -> None:
    """Spaces at the end are ignored (RFC 8555 8.3). The request names the host, and nothing secret."""
    server = serve(http(body))
    order = validate(ledger, add_order(ledger, NAME), server.port)
    assert order.status is OrderStatus.READY
    assert order.authorizations[0].is_proven
    (request,) = server.requests
    assert request.startswith(f"GET /.well-known/acme-challenge/{TOKEN} HTTP/1.1\r\nHost: {NAME}\r\n")
    assert "cookie" not in request.lower()


def test_body_is_not_decoded(serve: Any, ledger: SqliteLedger) -> None:
    """A short body cannot become a long one."""
    server = serve(http(KEY_AUTHORIZATION, "200 OK", "Content-Encoding: gzip"))
    assert validate(ledger, add_order(ledger, NAME), server.port).status is OrderStatus.READY


@pytest.mark.parametrize(("address", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_address_is_its_own_host(serve: Any, ledger: SqliteLedger, address: str, host: str) -> None:
    """RFC 8738 4: the identifier is an address, which is not looked up."""
    server = serve(http(KEY_AUTHORIZATION), address)
    order = validate(ledger, add_order(ledger, address), server.port, http_validator.resolve)
    assert order.status is OrderStatus.READY
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
def test_other_response_is_refused(
    serve: Any, ledger: SqliteLedger, respond: Any, code: str, detail: str
) -> None:
    """No part of it gets into the error."""
    server = serve(respond)
    error = fails(ledger, server.port)
    assert (error[0], detail in error[1]) == (code, True), error
    assert error[1].startswith(f"http://{NAME}/.well-known/acme-challenge/{TOKEN} at 127.0.0.1 ")
    assert "secret" not in error[1]


def test_huge_body_is_not_read(serve: Any, ledger: SqliteLedger) -> None:
    """The validator closes the connection."""
    sent: list[int] = []

    def respond(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while len(sent) < 10_000:
            connection.sendall(b"a" * 65536)
            sent.append(65536)

    server = serve(respond)
    assert fails(ledger, server.port)[0] == "incorrectResponse"
    server.close()
    assert sum(sent) < 50_000_000


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(serve: Any, ledger: SqliteLedger, status: int) -> None:
    """Not even to an address that is permitted."""
    target = serve(http(KEY_AUTHORIZATION))
    location = f"Location: http://127.0.0.1:{target.port}/.well-known/acme-challenge/{TOKEN}"
    server = serve(http(b"", f"{status} Moved", location))
    code, detail = fails(ledger, server.port)
    assert code == "incorrectResponse"
    assert f"redirects (status {status}), which this CA does not follow" in detail
    assert not target.requests


def test_slow_server_ends_after_the_time_limit(
    serve: Any, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends an octet now and then does not keep the validator."""
    monkeypatch.setattr(http_validator, "TIMEOUT", 0.5)

    def respond(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            connection.sendall(b"A")
            time.sleep(0.05)

    started = time.monotonic()
    code, detail = fails(ledger, serve(respond).port)
    assert (code, "did not answer completely within 0.5 seconds" in detail) == ("connection", True)
    assert time.monotonic() - started < 4


def test_slow_name_server_ends_after_its_time_limit(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is stored before the lookup ends."""
    monkeypatch.setattr(http_validator, "LOOKUP_TIMEOUT", 0.2)
    order, seen = add_order(ledger, NAME), []

    def stall(_name: str) -> list[str]:
        time.sleep(1)
        seen.append(ledger.get_order(order.account, order.id))
        return ["127.0.0.1"]

    stored = validate(ledger, order, 1, stall)
    assert stored.authorizations[0].error == (
        "dns",
        f"the name servers of {NAME} did not answer within 0.2 seconds",
    )
    assert seen == [stored]


def test_slow_name_servers_of_an_account_do_not_delay_others(
    serve: Any, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each account has only some of the threads."""
    monkeypatch.setattr(http_validator, "LOOKUP_TIMEOUT", 0.1)
    monkeypatch.setattr(http_validator, "CONCURRENCY", 3)
    monkeypatch.setattr(http_validator, "CONCURRENCY_PER_ACCOUNT", 2)
    server, release = serve(http(KEY_AUTHORIZATION)), threading.Event()
    slow = add_order(ledger, *[f"n{number}.slow.example.com" for number in range(6)])
    account = ledger.add_account(values.account("b" * 43))
    other = values.order(
        account.id,
        status=OrderStatus.PENDING,
        authorizations=(Authorization("dns", NAME, AuthorizationStatus.PROCESSING, TOKEN, NOW),),
    )
    ledger.add_order(other)

    def resolve(name: str) -> list[str]:
        if name != NAME:
            release.wait(20)
        return ["127.0.0.1"]

    async def run() -> AuthorizationStatus:
        validator = HttpValidator(ledger, lambda: NOW, LOOPBACK, resolve, server.port)
        for index in range(6):
            validator.start(QueuedChallenge(slow.account, slow.id, index))
        validator.start(QueuedChallenge(other.account, other.id, 0))
        await validator.wait(6)
        stored = ledger.get_order(other.account, other.id)
        release.set()
        await validator.wait()
        assert stored
        return stored.authorizations[0].status

    assert asyncio.run(run()) is AuthorizationStatus.INVALID  # validated: the thumbprint is another one
    assert len(server.requests) >= 1


@pytest.mark.parametrize(
    ("errno", "detail"),
    [
        (socket.EAI_NONAME, f"{NAME} has no address in the DNS: create its A or AAAA record"),
        (socket.EAI_AGAIN, f"the name servers of {NAME} did not answer"),
    ],
)
def test_name_without_address_is_refused(ledger: SqliteLedger, errno: int, detail: str) -> None:
    def resolve(_name: str) -> list[str]:
        raise socket.gaierror(errno, "text of the library")

    assert fails(ledger, 1, resolve) == ("dns", detail)


def test_port_without_server_is_refused(serve: Any, ledger: SqliteLedger) -> None:
    server = serve(http(b""))
    code, detail = fails(ledger, server.port, lambda _: ["127.0.0.2", "::1"])
    assert code == "connection"
    assert detail.startswith(
        f"port {server.port} of {NAME} (127.0.0.2, ::1) accepts no connection: start a web"
    )


def test_next_address_is_tried(serve: Any, ledger: SqliteLedger) -> None:
    """Only if the first one accepts no connection."""
    server = serve(http(KEY_AUTHORIZATION))
    order = validate(
        ledger, add_order(ledger, NAME), server.port, lambda _: ["127.0.0.2", "127.0.0.2", "127.0.0.1"]
    )
    assert order.status is OrderStatus.READY


def test_only_the_first_addresses_are_tried(ledger: SqliteLedger) -> None:
    """Each of them once."""
    port = servers.free_port()
    addresses = ["127.0.0.2", "127.0.0.2", *(f"127.0.0.{number}" for number in range(3, 9))]
    detail = fails(ledger, port, lambda _: addresses)[1]
    assert detail.startswith(f"port {port} of {NAME} (127.0.0.2, 127.0.0.3, 127.0.0.4, 127.0.0.5) accepts no")


def test_address_that_does_not_answer_does_not_prevent_the_next(
    serve: Any, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
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
        order = validate(ledger, add_order(ledger, NAME), server.port, lambda _: ["127.0.0.2", "127.0.0.1"])
        assert time.monotonic() - started < 5
    assert order.status is OrderStatus.READY


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["::"], ["169.254.169.254", "fe80::1"]])  # fmt: skip
def test_loopback_and_link_local_are_refused(serve: Any, ledger: SqliteLedger, addresses: list[str]) -> None:
    """By default, and nothing is sent."""
    server = serve(http(KEY_AUTHORIZATION))
    code, detail = fails(ledger, server.port, lambda _: addresses, networks=())
    assert code == "connection"
    assert detail.startswith(f"this CA does not connect to {ipaddress.ip_address(addresses[0])}")
    assert not server.requests


def test_name_is_resolved_once(serve: Any, ledger: SqliteLedger) -> None:
    """DNS rebinding: the second answer would be an address that is not permitted."""
    server = serve(http(KEY_AUTHORIZATION))
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    names = []

    def resolve(name: str) -> list[str]:
        names.append(name)
        return next(answers)

    code, detail = fails(ledger, server.port, resolve, networks=[ipaddress.ip_network("127.0.0.2")])
    assert (code, f"{NAME} (127.0.0.2) accepts no connection" in detail) == ("connection", True)
    assert names == [NAME]
    assert not server.requests


def test_only_permitted_addresses_of_a_name_are_tried(serve: Any, ledger: SqliteLedger) -> None:
    """A name with a public address and a loopback address does not lead to the latter."""
    server = serve(http(KEY_AUTHORIZATION))
    networks = [ipaddress.ip_network("127.0.0.2")]
    code, detail = fails(ledger, server.port, lambda _: ["127.0.0.2", "127.0.0.1"], networks=networks)
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


def test_all_names_of_an_order_are_stored(serve: Any, ledger: SqliteLedger) -> None:
    """Validations that end at the same time do not undo each other."""
    server = serve(http(KEY_AUTHORIZATION))
    order = add_order(ledger, *[f"n{number}.example.com" for number in range(30)])
    order = validate(ledger, order, server.port, lambda _: ["127.0.0.1"])
    assert order.status is OrderStatus.READY


def test_challenge_that_is_not_processing_is_not_validated(serve: Any, ledger: SqliteLedger) -> None:
    """Nor an order or authorization that does not exist."""
    server = serve(http(KEY_AUTHORIZATION))
    order = validate(ledger, add_order(ledger, NAME), server.port)
    assert validate(ledger, order, server.port) == order

    async def run() -> None:
        validator = HttpValidator(ledger, lambda: NOW, LOOPBACK, port=server.port)
        for challenge in ((order.account, order.id, 1), (order.account, "x", 0), ("x", order.id, 0)):
            validator.start(QueuedChallenge(*challenge))
        await validator.wait()

    asyncio.run(run())
    assert len(server.requests) == 1


def test_challenge_is_validated_once_at_a_time(serve: Any, ledger: SqliteLedger) -> None:
    """An account cannot have more waiting challenges than an order has names."""
    server = serve(http(KEY_AUTHORIZATION))
    order = add_order(ledger, NAME)

    async def run() -> None:
        validator = HttpValidator(ledger, lambda: NOW, LOOPBACK, lambda _: ["127.0.0.1"], server.port)
        for _ in range(3):
            validator.start(QueuedChallenge(order.account, order.id, 0))
        for index in range(1, 200):
            validator.start(QueuedChallenge(order.account, order.id, index))
        assert len(validator._tasks) == http_validator.MAX_WAITING_PER_ACCOUNT
        await validator.wait()

    asyncio.run(run())
    assert len(server.requests) == 1


def test_result_that_cannot_be_stored_is_logged(
    serve: Any, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The challenge stays in the status `processing`."""
    server, order = serve(http(KEY_AUTHORIZATION)), add_order(ledger, NAME)

    def fail(_order: Order) -> Order:
        raise CAUnavailable("the ledger is not available")

    monkeypatch.setattr(ledger, "update_order", fail)
    assert validate(ledger, order, server.port) == order
    assert "a challenge was not validated: the ledger is not available" in caplog.text


def test_worker_never_waits_for_the_validator() -> None:
    """The queue has room for the names of several orders; what does not fit is not added."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver.settimeout(0)
    with receiver, sender:
        queue = ChallengeQueue(sender)
        for _ in range(10_000):
            queue.put("a" * 22, "b" * 22, 99)
        packets = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(receiver.recv(MAX_PACKET))
        assert 100 <= len(packets) < 10_000
        assert {QueuedChallenge.parse(packet) for packet in packets} == {("a" * 22, "b" * 22, 99)}
        queue.put("c" * 22, "b" * 22, 0)
        assert QueuedChallenge.parse(receiver.recv(MAX_PACKET)).account_id == "c" * 22


def test_process_ends_with_the_workers_or_for_new_resolver_files(
    serve: Any, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A packet that it has not read remains for the next process."""
    server, order = serve(http(KEY_AUTHORIZATION)), add_order(ledger, NAME)
    hosts = tmp_path / "hosts"
    hosts.touch()
    monkeypatch.setattr(http_validator, "_RESOLVER_FILES", (str(hosts), "/missing"))
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver.settimeout(0)

    async def run() -> None:
        validator = HttpValidator(
            ledger, lambda: datetime.now(UTC), LOOPBACK, lambda _: ["127.0.0.1"], server.port
        )
        await http_validator.serve(receiver, validator)

    async def replace() -> None:
        task = asyncio.create_task(run())
        await asyncio.sleep(0.05)
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(hosts)
        ChallengeQueue(sender).put(order.account, order.id, 0)
        await task

    with receiver, sender:
        asyncio.run(replace())
        assert ledger.get_order(order.account, order.id) == order
        sender.close()
        asyncio.run(run())
    stored = ledger.get_order(order.account, order.id)
    assert stored
    assert stored.status is OrderStatus.READY
