"""Addresses of TLS servers, and the chains that they send."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.cli import input_files, tls_peer
from service.cli.input_files import Address
from service.cli.terminal import CommandError
from service.exit_status import ExitStatus
from service.pki import encoding
from tests import servers
from tests.cli import certlet, tls_context, write_site

NAMES: list[str | None] = []  # that clients sent (RFC 6066 3)


class Handler(servers.QuietHandler):
    def respond(self) -> None:
        self.reply(200, b"{}")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, the chain `localhost.crt` and the key `localhost.key`."""
    directory = tmp_path_factory.mktemp("chain")
    assert certlet("init", "ca", cwd=directory).returncode == 0
    write_site(directory / "ca", directory, age=timedelta(hours=1))
    (directory / "root.crt").write_bytes((directory / "ca" / "root-ca.crt").read_bytes())
    return directory


@pytest.fixture(scope="module")
def address(chain: Path) -> Iterator[Address]:
    """The address of a TLS server with that chain."""
    context = tls_context(chain)
    context.sni_callback = lambda _, name, __: NAMES.append(name)
    with servers.http_server(Handler, context) as url:
        yield Address("localhost", int(url.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://ca.example.com", ("ca.example.com", 443)),
        ("HTTPS://ca.example.com:8443/sign", ("ca.example.com", 8443)),
        ("ca.example.com:443", ("ca.example.com", 443)),
        ("[::1]:8443", ("::1", 8443)),
        ("https://[::1]", ("::1", 443)),
        ("192.0.2.1:443", ("192.0.2.1", 443)),
        ("bücher.example:443", ("xn--bcher-kva.example", 443)),
        ("ca.example.com", None),
        ("www.crt", None),
        ("http://ca.example.com", None),
        ("ca.example.com:99999", None),
        ("ca.example.com:0", None),
        ("https://ca.example.com:0", None),
        ("ca.example.com:", None),
        ("https://", None),
        ("https://[::1", None),
        ("C:\\www.crt", None),
        ("a b:443", None),
        (f"{'ü' * 64}.example:443", None),
    ],
)
def test_address_has_a_port_or_is_a_url(text: str, address: tuple[str, int] | None) -> None:
    """Other texts are names of files: an error says so if there is none, and what an address is."""
    assert input_files.parse_address(text) == address
    if address:
        assert input_files.find_address(text) == address
        return
    message = rf"{re.escape(text)}: No such file or directory \(the address of a server is HOST:PORT or "
    with pytest.raises(CommandError, match=message):
        input_files.find_address(text)
    Path("file.crt").touch()
    assert input_files.find_address("file.crt") is input_files.find_address("-") is None


def test_address_is_printed_as_in_a_url() -> None:
    """An IPv6 address has brackets."""
    assert [str(Address("a", 1)), str(Address("::1", 443))] == ["a:1", "[::1]:443"]


def test_chain_of_a_server_is_shown(chain: Path, address: Address) -> None:
    """`certlet show` explains what the server sends, and says if it is for another host."""
    NAMES.clear()
    fetched = tls_peer.fetch_chain(address)
    assert encoding.encode_pem(fetched) == (chain / "localhost.crt").read_text()
    shown = certlet("show", f"https://localhost:{address.port}/sign")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"Certificate 1 of 2" in shown.stdout
    other = certlet("show", f"127.0.0.1:{address.port}")
    assert other.returncode == 1
    assert NAMES == ["localhost", "localhost", None]
    assert b"Error     is not for 127.0.0.1: its names are dns:localhost" in other.stdout


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("plain", "the server does not use TLS: check the host and the port"),
        ("closed", "the server closed the connection during the handshake: check the host and the port"),
        ("silent", "no answer within 1 seconds: check the host and the port"),
        ("absent", "connection refused: check the host and the port"),
        ("too old", "the TLS handshake failed: "),
    ],
)
def test_unreachable_server_has_its_reason(
    monkeypatch: pytest.MonkeyPatch, behaviour: str, reason: str
) -> None:
    """The exit status is 5."""
    monkeypatch.setattr(tls_peer, "_TIMEOUT", 1.0)
    answers = {
        "plain": b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "closed": b"",
        "too old": b"\x15\x03\x01\0\x02\x02\x46",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(4096)
                stream.sendall(answers[behaviour])

        thread = threading.Thread(target=answer)
        if behaviour in answers:
            thread.start()
        elif behaviour == "absent":
            listener.close()
        start = time.monotonic()
        run = certlet("show", target)
        assert time.monotonic() - start < 10
        if behaviour in answers:
            thread.join()
    assert (run.returncode, run.stdout) == (ExitStatus.UNREACHABLE, b"")
    assert run.stderr.decode().startswith(f"certlet: {target}: {reason}")
    assert run.stderr.count(b"\n") == 1
