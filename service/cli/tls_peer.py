"""The certificates that a TLS server sends, for `certlet show` and `certlet verify`."""

from __future__ import annotations

import ipaddress
import select
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

from cryptography import x509
from OpenSSL import SSL

from service.cli.input_files import Address
from service.cli.terminal import CommandError, describe_os_error
from service.exit_status import ExitStatus

_T = TypeVar("_T")
_TIMEOUT: Final = 10.0  # seconds, to connect and for the handshake
_REMEDY: Final = "check the host and the port"


class UnreachableError(CommandError):
    """No TLS server can be reached at an address."""

    exit_status: Final = ExitStatus.UNREACHABLE


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
        raise UnreachableError(f"{address}: {_describe(error)}") from error


def _wait_for(operation: Callable[[], _T], stream: socket.socket, deadline: float) -> _T:
    """Repeat an operation until it has its input."""
    while True:
        try:
            return operation()
        except SSL.WantReadError:
            if not select.select([stream], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"no answer within {_TIMEOUT:.0f} seconds") from None


def _describe(error: Exception) -> str:
    match error:
        case SSL.SysCallError() | SSL.ZeroReturnError():
            return f"the server closed the connection during the handshake: {_REMEDY}"
        case SSL.Error(args=([*_, (_, _, "wrong version number" | "packet length too long")],)):
            return f"the server does not use TLS: {_REMEDY}"
        case SSL.Error(args=([*_, (_, _, str(reason))],)):
            return f"the TLS handshake failed: {reason}"
        case ConnectionRefusedError():
            return f"connection refused: {_REMEDY}"
        case OSError():
            return f"{describe_os_error(error)}: {_REMEDY}"
    return str(error)


def _is_ip_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False
