"""Client connections: their limit, and the choice of the one to close if there are too many."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import sys
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Sequence
from typing import Final, cast

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web

from service.gateway import request_head, tls_connection

# Seconds without a complete request head. A proxy should close idle connections earlier, so that it never
# sends a request on a closed one: nginx does after 60 s, Caddy after 120 s. aiohttp's default is an hour.
IDLE_TIMEOUT: Final = 150.0
TLS_HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
_ALERT_TIMEOUT: Final = 1.0  # seconds for a client to read an alert; closing earlier could discard it
MAX_CONNECTIONS: Final = 4096  # connections at once; idle ones use 20 MB, with TLS 400 MB
RESERVED_FDS: Final = 128  # descriptors for other uses: slots of 64 workers, files, sockets that are closing
MIN_CONNECTIONS: Final = 16  # connections, even if there are fewer descriptors
MAX_PARTIAL: Final = 128 * 1024 * 1024  # bytes of incomplete heads and bodies, in all connections
_ACCEPTS: Final = 16  # connections to accept in a row; sockets that this closes are freed only afterwards
_ACCEPT_PAUSE: Final = 0.1  # seconds without `accept` after it failed
_BUFFER: Final = 32 * 1024  # bytes of a connection's buffers

SSLProtocol.max_size = _BUFFER  # asyncio's buffer for each connection, 256 KiB by default


def connection_limit() -> int:
    """Raise the soft limit of descriptors as needed and allowed, and return the limit of connections."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits)
    wanted = MAX_CONNECTIONS + RESERVED_FDS
    if soft < min(wanted, hard):
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    return max(MIN_CONNECTIONS, min(soft, wanted) - RESERVED_FDS)


class Connections:
    """All connections. Those that wait for their client are in one of three groups, the oldest first.

    At the limit, the oldest connection of the largest group is closed: so idle clients cannot end uploads.

    Attributes:
        idle: without a complete request head -> bytes of its part; includes those in the TLS handshake.
        uploads: with an incomplete body -> bytes of its part.
        responses: with a response that is not sent yet.
    """

    def __init__(self, limit: Callable[[], int] = connection_limit) -> None:
        self._limit = limit
        self._open: set[Connection] = set()
        self._partial_bytes = 0
        self.idle: dict[Connection, int] = {}
        self.uploads: dict[Connection, int] = {}
        self.responses: dict[Connection, int] = {}

    @property
    def open_count(self) -> int:
        """The number of connections."""
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Add a connection, and make room for it; False if all others have requests in progress."""
        while len(self._open) >= self._limit():  # the limit may change at run time
            if not self.drop_oldest(max(self.idle, self.uploads, self.responses, key=len)):
                return False
        self._open.add(connection)
        self.idle[connection] = 0
        return True

    def drop_oldest(self, group: dict[Connection, int]) -> bool:
        """Close the connection that has been in this group longest; False if the group is empty."""
        oldest = next(iter(group), None)
        if oldest:
            self._drop(oldest)
        return oldest is not None

    def _drop(self, connection: Connection) -> None:
        self.remove(connection)
        connection.drop()

    def remove(self, connection: Connection) -> None:
        """Remove a connection."""
        self.mark_busy(connection)
        self._open.discard(connection)

    def mark_busy(self, connection: Connection) -> None:
        """Protect a connection while its request is in progress."""
        self.responses.pop(connection, None)
        self._partial_bytes -= self.idle.pop(connection, 0) + self.uploads.pop(connection, 0)

    def mark_waiting(self, connection: Connection, group: dict[Connection, int]) -> None:
        """Move a connection that waits for its client to a group, unless it was removed."""
        self.mark_busy(connection)
        if connection in self._open:
            group[connection] = 0

    def add_partial(self, connection: Connection, group: dict[Connection, int], size: int) -> None:
        """Count bytes of an incomplete head or body. Above MAX_PARTIAL, close the connection with most."""
        if connection in group:
            group[connection] += size
            self._partial_bytes += size
        while self._partial_bytes > MAX_PARTIAL:
            group = max(self.idle, self.uploads, key=lambda group: max(group.values(), default=0))
            self._drop(max(group, key=group.__getitem__))


class Request(web.BaseRequest):
    """An HTTP request. The response to a version that is not served is HTTP/1.1 (RFC 9110 15.6.6)."""

    @property
    def is_version_served(self) -> bool:
        """Whether the version is HTTP/1.0 or HTTP/1.1."""
        return super().version in (HttpVersion10, HttpVersion11)

    @property
    def version(self) -> HttpVersion:
        """The version, which is also that of the response."""
        return super().version if self.is_version_served else HttpVersion11

    @property
    def sent_version(self) -> HttpVersion:
        """The version that the client sent."""
        return super().version


class Connection(web.RequestHandler):
    """The connection of one client; malformed HTTP gets a problem document too."""

    def __init__(
        self,
        manager: web.Server,
        connections: Connections,
        malformed: Callable[[web.BaseRequest, bytes], web.Response],
        client: socket.socket,
        on_refused_handshake: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        """Create a connection.

        Args:
            manager: the server.
            connections: all connections.
            malformed: creates the response to malformed HTTP, from the first octets of the request's head.
            client: the accepted socket.
            on_refused_handshake: called with the address of a client and why its TLS handshake is refused.
        """
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp itself passes None
            auto_decompress=False,
            keepalive_timeout=IDLE_TIMEOUT,
            max_line_size=request_head.MAX_LINE,
            max_field_size=request_head.MAX_LINE,
            max_headers=request_head.MAX_FIELDS,
        )
        self._connections = connections
        self._malformed = malformed
        self._head = b""
        self._client = client
        self._on_refused_handshake = on_refused_handshake
        self._wire: asyncio.Transport | None = None  # aiohttp drops its reference when it starts to close

    async def establish(self, context: ssl.SSLContext | None) -> None:
        """Start HTTP, with `context` after the TLS handshake."""
        timeout = TLS_HANDSHAKE_TIMEOUT if context else None
        if context:  # in a context, the connection is in a reference cycle
            tls_connection.on_refusal.set(self._refuse_handshake)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, self._client, ssl=context, ssl_handshake_timeout=timeout
            )
        except OSError as error:  # the client disconnected, or does not use TLS
            error.__traceback__ = None  # break a cycle with asyncio's frames that keeps 100 KB of TLS state
        finally:
            if not self._wire:
                self._connections.remove(self)

    def _refuse_handshake(self, reason: str) -> None:
        """Log a refused handshake, send no more after the alert, and close the connection soon."""
        with contextlib.suppress(OSError):  # the client has disconnected
            self._on_refused_handshake(self._client.getpeername()[0], reason)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._shut_down, socket.SHUT_WR)
        loop.call_later(_ALERT_TIMEOUT, self.drop)

    def _shut_down(self, how: int) -> None:
        with contextlib.suppress(OSError):  # it is closed
            self._client.shutdown(how)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Limit the write buffer."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        self._wire.set_write_buffer_limits(_BUFFER)

    def data_received(self, data: bytes) -> None:
        """Count the bytes, and record the first of a head: aiohttp does not pass a malformed one on."""
        received = self._connections.idle.get(self)
        if received is not None:
            self._head = (self._head if received else b"") + data[: max(0, request_head.RECORDED - received)]
        super().data_received(data)
        self._connections.add_partial(self, self._connections.idle, len(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the connection."""
        super().connection_lost(exc)
        self._connections.remove(self)

    def drop(self) -> None:
        """Close the connection at once, without sending the rest."""
        if self._wire:
            self._wire.abort()
        else:  # the handshake then fails
            self._shut_down(socket.SHUT_RDWR)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to malformed HTTP, and close."""
        if status >= 500:  # noqa: PLR2004 - `Gateway.handle` raises nothing
            return super().handle_error(request, status, exc, message)
        response = self._malformed(request, self._head)
        response.force_close()
        return response


class Listener:
    """Accepts clients."""

    def __init__(
        self,
        connections: Connections,
        create: Callable[[socket.socket], Connection],
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Call `create` for each client; with `context`, use TLS."""
        self._connections = connections
        self._create = create
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, descriptors: Sequence[int]) -> None:
        """Accept clients of these listening sockets."""
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for listener in self._sockets:
            listener.setblocking(False)  # noqa: FBT003 - a standard library signature
            self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Stop accepting clients."""
        for listener in self._sockets:
            self._loop.remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, _address = listener.accept()
            except (BlockingIOError, ConnectionError):  # no client is waiting, or one disconnected
                return
            except OSError:  # out of descriptors or memory
                self._connections.drop_oldest(self._connections.idle)
                self._loop.remove_reader(listener)
                self._loop.call_later(_ACCEPT_PAUSE, self._resume, listener)
                return
            connection = self._create(client)
            if not self._connections.admit(connection):
                client.close()
                continue
            task = self._loop.create_task(connection.establish(self._context))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)
