"""Clients' connections: how long one may be idle, and how many there may be."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Callable
from typing import Final

from aiohttp import web

# Seconds without a whole head of a request. A proxy should hang up first, or it asks as we do: nginx does
# after 60, Caddy after 120. aiohttp would wait for an hour.
IDLE_TIMEOUT: Final = 150.0
MAX_CONNECTIONS: Final = 4096  # connections at once, which take some 80 MB
RESERVED_FDS: Final = 160  # descriptors for all else, and for what is accepted at once and not counted yet
MIN_CONNECTIONS: Final = 16  # connections, however few descriptors there are


def connection_limit() -> int:
    """How many connections there may be; as many descriptors are asked for as that takes, and may be had."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits)
    wanted = MAX_CONNECTIONS + RESERVED_FDS
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    return max(MIN_CONNECTIONS, min(soft, wanted) - RESERVED_FDS)


class Connections:
    """All of them. A new one above the bound takes the place of the one that is idle longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[object] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became so

    def opened(self, connection: Connection) -> None:
        """Count a connection, and make room for it."""
        self._open.add(connection)
        self._idle[connection] = None
        if len(self._open) > self._most:
            longest = next(iter(self._idle))  # which is at least this one
            self.closed(longest)
            longest.force_close()

    def closed(self, connection: Connection) -> None:
        """Count it no more."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def mark_busy(self, connection: object) -> None:
        """A request was read: the connection is not closed until it is answered."""
        self._idle.pop(connection, None)  # type: ignore[call-overload]  # a connection, as aiohttp knows it

    def mark_idle(self, connection: object) -> None:
        """It was answered, and the connection is idle, if it is still there."""
        if connection in self._open and isinstance(connection, Connection):
            self._idle[connection] = None


class Connection(web.RequestHandler):
    """One client's connection; what is not HTTP gets a problem document too."""

    def __init__(
        self,
        manager: web.Server,
        connections: Connections,
        malformed: Callable[[], web.Response],
    ) -> None:
        """Count it among `connections`; `malformed` makes the answer to what is not HTTP."""
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp itself calls it
            auto_decompress=False,
            keepalive_timeout=IDLE_TIMEOUT,
        )
        self._connections = connections
        self._malformed = malformed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._connections.closed(self)

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
