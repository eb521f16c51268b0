"""The listening sockets: the supervisor opens them before it creates anything, for the gateway process."""

from __future__ import annotations

import errno
import socket
from typing import Final

_BACKLOG: Final = 1024  # connections that the kernel queues until they are accepted
# A name may have an address that this machine does not have, such as ::1 without IPv6.
_OTHER_MACHINE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(host: str, port: int, option: str, host_option: str = "--host") -> list[socket.socket]:
    """Listen on all addresses of a host. Connections wait until the gateway process accepts them.

    Args:
        host: an IP address or a name; '' for all addresses of this machine.
        port: the port; 0 selects a free one.
        option: the option of the port, for errors.
        host_option: the option of the host, for errors.

    Returns:
        the sockets, which have the same port.

    Raises:
        OSError: the address cannot be used; the message says which option to change, in one line.
    """
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: not a possible DNS name
        raise OSError(f"host {host} not found: set {host_option} to an address of this machine") from error
    listeners: list[socket.socket] = []
    unusable = OSError(f"host {host} has no address")
    for family, _, _, _, (address, _, *scope) in addresses:
        try:
            listener = socket.create_server((address, port, *scope), family=family, backlog=_BACKLOG)
        except OSError as error:
            unusable = _explain(error, host, port, option, host_option)
            if error.errno in _OTHER_MACHINE:
                continue
            close_all(listeners)
            raise unusable from error
        listeners.append(listener)
        port = listener.getsockname()[1]
    if not listeners:
        raise unusable
    return listeners


def bracket_host(host: str) -> str:
    """Return a host for a URL: an IPv6 address in brackets (RFC 3986 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def close_all(listeners: list[socket.socket]) -> None:
    """Close sockets."""
    for listener in listeners:
        listener.close()


def _explain(error: OSError, host: str, port: int, option: str, host_option: str) -> OSError:
    """Return an error that says which option to change."""
    match error.errno:
        case errno.EADDRINUSE:
            reason = f"{host}:{port} is in use, perhaps by another certlet serve: choose another {option}"
        case errno.EACCES:
            reason = f"no permission to listen on {host}:{port}: choose a {option} above 1023"
        case code if code in _OTHER_MACHINE:
            reason = f"{host} is not an address of this machine: choose another {host_option}"
        case _:
            return error
    return OSError(reason)
