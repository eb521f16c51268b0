"""The certificates that a TLS server sends, for `certlet show` and `certlet verify`."""

from __future__ import annotations

import ipaddress
import re
import select
import socket
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import idna
from cryptography import x509
from OpenSSL import SSL

from service.cli.terminal import CommandError, describe_os_error
from service.exit_status import ExitStatus
from service.gateway.listening import bracket_host

_T = TypeVar("_T")
_TIMEOUT: Final = 10.0  # seconds, to connect and for the handshake
_HTTPS_PORT: Final = 443


class UnreachableError(CommandError):
    """No TLS server can be reached at an address."""

    exit_status: Final = ExitStatus.UNREACHABLE


class Address(NamedTuple):
    """A host, which is a DNS name in ASCII or an IP address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `HOST:PORT`, as in a URL."""
        return f"{bracket_host(self.host)}:{self.port}"


def parse_address(text: str) -> Address | None:
    """Parse `https://HOST[:PORT]` or `HOST:PORT`; None for other texts, such as the name of a file."""
    is_url = text.lower().startswith("https://")
    if not is_url and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]]+):[0-9]{1,5}", text):
        return None
    try:
        parts = urllib.parse.urlsplit(text if is_url else f"https://{text}")
        host, port = parts.hostname or "", parts.port or _HTTPS_PORT
        if not host.isascii():
            host = idna.encode(host, uts46=True).decode("ascii")
    except ValueError:  # includes idna.IDNAError
        return None
    return Address(host, port) if host else None


def find_address(file: str) -> Address | None:
    """Return the address that a FILE argument is; None for an existing file, for `-` and for other texts."""
    return None if file == "-" or Path(file).exists() else parse_address(file)


def fetch_chain(address: Address) -> list[x509.Certificate]:
    """Fetch the certificates that a server sends, in its order, without verifying them.

    Raises:
        UnreachableError: there is no TLS server at the address.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")  # weak servers are to be shown, too
    deadline = time.monotonic() + _TIMEOUT
    try:
        with socket.create_connection(address, _TIMEOUT) as stream:
            connection = SSL.Connection(context, stream)
            connection.set_connect_state()
            if not _is_ip_address(address.host):
                connection.set_tlsext_host_name(address.host.encode("ascii"))
            _wait_for(connection.do_handshake, stream, deadline)
            return connection.get_peer_cert_chain(as_cryptography=True) or []
    except (SSL.Error, OSError, UnicodeError) as error:
        raise UnreachableError(f"{address}: {_describe(error, address)}") from error


def _wait_for(operation: Callable[[], _T], stream: socket.socket, deadline: float) -> _T:
    """Repeat an operation until it has its input."""
    while True:
        try:
            return operation()
        except SSL.WantReadError:
            if not select.select([stream], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"no answer within {_TIMEOUT:.0f} seconds") from None


def _describe(error: Exception, address: Address) -> str:
    match error:
        case SSL.SysCallError() | SSL.ZeroReturnError():
            return "the server closed the connection during the handshake"
        case SSL.Error(args=([*_, (_, _, "wrong version number" | "packet length too long")],)):
            return f"the server does not use TLS: try http://{address}"
        case SSL.Error(args=([*_, (_, _, str(reason))],)):
            return f"the TLS handshake failed: {reason}"
        case ConnectionRefusedError():
            return "connection refused: check the host and the port"
        case OSError():
            return describe_os_error(error)
    return str(error)


def _is_ip_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False
