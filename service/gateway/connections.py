"""Clients' connections: how long one may be idle, and how many there may be."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

# Seconds without a whole head of a request. A proxy should hang up first, or it asks as we do: nginx does
# after 60, Caddy after 120. aiohttp would wait for an hour.
IDLE: Final = 150.0
MOST: Final = 4096  # connections at once, which take some 80 MB
RESERVE: Final = 160  # descriptors for all else, and for what is accepted at once and not counted yet
LEAST: Final = 16  # connections, however few descriptors there are


def bound() -> int:
    """How many connections there may be; as many descriptors are asked for as that takes, and may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + RESERVE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST if soft == resource.RLIM_INFINITY else max(LEAST, min(MOST, soft - RESERVE))


class Connections:
    """All of them. A new one above the bound takes the place of the one that is idle longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[object] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became so

    def made(self, connection: Connection) -> None:
        """Count a connection, and make room for it."""
        self._open.add(connection)
        self._idle[connection] = None
        if len(self._open) > self._most:
            longest = next(iter(self._idle))  # which is at least this one
            self.lost(longest)
            longest.force_close()

    def lost(self, connection: Connection) -> None:
        """Count it no more."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def begins(self, connection: object) -> None:
        """A request was read: the connection is not closed until it is answered."""
        self._idle.pop(connection, None)  # type: ignore[call-overload]  # a connection, as aiohttp knows it

    def ends(self, connection: object) -> None:
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
        **options: Any,  # noqa: ANN401 - aiohttp's own
    ) -> None:
        """Begin one.

        Args:
            manager: aiohttp's.
            connections: where it is counted.
            malformed: makes the answer to what is not HTTP.
            options: aiohttp's.
        """
        loop = asyncio.get_running_loop()
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as aiohttp itself calls it
            auto_decompress=False,
            keepalive_timeout=IDLE,
            **options,
        )
        self._connections = connections
        self._malformed = malformed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        super().connection_made(transport)
        self._connections.made(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._connections.lost(self)

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
