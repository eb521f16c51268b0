"""The listening sockets: their addresses, and errors that name the option to change."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from service.gateway import listening

Address = tuple[object, ...]


@contextlib.contextmanager
def listen(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    """Listen until the end of the block."""
    listeners = listening.listen(host, port, "--port")
    try:
        yield listeners
    finally:
        listening.close_all(listeners)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: Address) -> None:
    """Have every name resolve to these addresses."""
    results = [
        (socket.AF_INET6 if len(address) > 2 else socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
        for address in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: results)


@pytest.mark.parametrize(("host", "families"), [("127.0.0.1", 1), ("::1", 1), ("", 2)])
def test_clients_connect_to_each_address(host: str, families: int) -> None:
    """All have the same port. Connections wait until they are accepted."""
    with listen(host) as listeners:
        assert len(listeners) == families
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        for listener in listeners:
            with socket.create_connection(listener.getsockname()[:2]) as client:
                listener.accept()[0].close()
                assert client.recv(1) == b""


def test_address_of_another_machine_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have several addresses; one of them suffices."""
    resolve_to(monkeypatch, ("203.0.113.9", 0), ("127.0.0.1", 0))
    with listen("a.example") as (listener,):
        assert listener.getsockname()[0] == "127.0.0.1"


def test_name_without_an_address_of_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ("203.0.113.9", 0), ("2001:db8::1", 0, 0, 0))
    with (
        pytest.raises(OSError, match="name is not an address of this machine: choose another --host"),
        listen("name"),
    ):
        pass


def test_port_in_use_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the option. The other address is free again."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        resolve_to(monkeypatch, ("127.0.0.2", port), ("127.0.0.1", port))
        error = f"^a.example:{port} is in use, perhaps by another certlet serve: choose another --port$"
        with pytest.raises(OSError, match=error), listen("a.example", port):
            pass
        socket.create_server(("127.0.0.2", port)).close()


@pytest.mark.parametrize("host", ["a.invalid", "a..b"])
def test_unknown_host_is_refused(host: str) -> None:
    with pytest.raises(OSError, match=f"^host {host} not found: set --host to an address"), listen(host):
        pass
