"""Clients' connections. They are counted when they are accepted, and end while they wait for the client."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import sys
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Final, cast

from aiohttp import web

# Seconds without a whole head of a request. A proxy should hang up first, or it asks as we do: nginx does
# after 60, Caddy after 120. aiohttp would wait for an hour.
IDLE_TIMEOUT: Final = 150.0
TLS_HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
MAX_CONNECTIONS: Final = 4096  # connections at once; silent ones take 20 MB, over TLS 400
RESERVED_FDS: Final = 128  # descriptors for all else: slots of 64 workers, files, what is not closed yet
MIN_CONNECTIONS: Final = 16  # connections, however few descriptors there are
MAX_PARTIAL: Final = 128 * 1024 * 1024  # octets of heads and bodies that are not complete, in all connections
_BACKLOG: Final = 1024  # connections that the kernel keeps until they are accepted
_ACCEPTS: Final = 16  # connections that are accepted before others are read; what they end is closed later
_ACCEPT_PAUSE: Final = 0.1  # seconds without an accept after one that failed
_BUFFER: Final = 32 * 1024  # octets of a connection's buffers

SSLProtocol.max_size = _BUFFER  # asyncio has a buffer of this size for each connection: 256 KiB by default


def connection_limit() -> int:
    """How many connections there may be; as many descriptors are asked for as that takes, and may be had."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits)
    wanted = MAX_CONNECTIONS + RESERVED_FDS
    if soft < min(wanted, hard):
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    return max(MIN_CONNECTIONS, min(soft, wanted) - RESERVED_FDS)


class Connections:
    """All of them. Those that wait for their client are in one of three groups, the oldest first.

    A new one takes the place of the oldest of the largest group: silent clients end no upload.

    Attributes:
        idle: without a request: silent, in the TLS handshake, with half a head -> its octets.
        uploads: with half a body -> its octets.
        answers: with an answer that is not sent yet.
    """

    def __init__(self, limit: Callable[[], int] = connection_limit) -> None:
        self._limit = limit
        self._open: set[Connection] = set()
        self._octets = 0
        self.idle: dict[Connection, int] = {}
        self.uploads: dict[Connection, int] = {}
        self.answers: dict[Connection, int] = {}

    def admit(self, connection: Connection) -> bool:
        """Count a connection, and make room for it; False if all others are about to be answered."""
        while len(self._open) >= self._limit():  # which may change while we run
            if not self.drop_oldest(max(self.idle, self.uploads, self.answers, key=len)):
                return False
        self._open.add(connection)
        self.idle[connection] = 0
        return True

    def drop_oldest(self, group: dict[Connection, int]) -> bool:
        """End the connection that is in this group for the longest time, if there is one."""
        oldest = next(iter(group), None)
        if oldest:
            self._drop(oldest)
        return oldest is not None

    def _drop(self, connection: Connection) -> None:
        self.closed(connection)
        connection.drop()

    def closed(self, connection: Connection) -> None:
        """Count it no more."""
        self.busy(connection)
        self._open.discard(connection)

    def busy(self, connection: Connection) -> None:
        """Its request is being answered: it is not dropped."""
        self.answers.pop(connection, None)
        self._octets -= self.idle.pop(connection, 0) + self.uploads.pop(connection, 0)

    def wait(self, connection: Connection, group: dict[Connection, int]) -> None:
        """It waits for its client, if it is still there."""
        self.busy(connection)
        if connection in self._open:
            group[connection] = 0

    def received(self, connection: Connection, group: dict[Connection, int], octets: int) -> None:
        """More of its head or body has arrived. Too much in all together ends the one with most."""
        if connection in group:
            group[connection] += octets
            self._octets += octets
        while self._octets > MAX_PARTIAL:
            group = max(self.idle, self.uploads, key=lambda group: max(group.values(), default=0))
            self._drop(max(group, key=group.__getitem__))


class Connection(web.RequestHandler):
    """One client's connection; what is not HTTP gets a problem document too."""

    def __init__(
        self,
        manager: web.Server,
        connections: Connections,
        malformed: Callable[[], web.Response],
        client: socket.socket,
    ) -> None:
        """Belong to `connections`; `malformed` makes the answer to what is not HTTP."""
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp itself calls it
            auto_decompress=False,
            keepalive_timeout=IDLE_TIMEOUT,
        )
        self._connections = connections
        self._malformed = malformed
        self._client = client
        self._wire: asyncio.Transport | None = None  # aiohttp forgets its own when it begins to close

    async def establish(self, context: ssl.SSLContext | None) -> None:
        """Begin to speak HTTP, after the handshake if there is a context."""
        timeout = TLS_HANDSHAKE_TIMEOUT if context else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, self._client, ssl=context, ssl_handshake_timeout=timeout
            )
        except OSError as error:  # the client is gone, or speaks no TLS
            error.__traceback__ = None  # a cycle with asyncio's frames, which keep what TLS takes: 100 KB
        finally:
            if not self._wire:
                self._connections.closed(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        self._wire.set_write_buffer_limits(_BUFFER)

    def data_received(self, data: bytes) -> None:
        """The client sends something."""
        super().data_received(data)
        self._connections.received(self, self._connections.idle, len(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._connections.closed(self)

    def drop(self) -> None:
        """End it at once, without sending the rest."""
        if self._wire:
            self._wire.abort()
        else:  # in the handshake, which notices
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read as HTTP, and close."""
        if status >= 500:  # noqa: PLR2004 - ours: `Gateway.handle` lets nothing through
            return super().handle_error(request, status, exc, message)
        response = self._malformed()
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
        """Have a connection created for each; with a `context` over TLS."""
        self._connections = connections
        self._create = create
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Listen on all addresses of a host; returns the port, which was free if it is 0.

        Raises:
            OSError, UnicodeError: that cannot be.
        """
        bound = await self._loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        self._sockets = [each.dup() for each in bound.sockets]
        bound.close()
        for each in self._sockets:
            each.listen(_BACKLOG)
            self._loop.add_reader(each, self._accept, each)
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop accepting clients."""
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, _address = listener.accept()
            except (BlockingIOError, ConnectionError):  # there are no more, or one left
                return
            except OSError:  # there are no descriptors, or no memory
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
