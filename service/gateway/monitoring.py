"""The listener for monitoring: metrics, and the probes of orchestrators and load balancers.

It is separate from the listener for clients: the usage plan and the limit of connections there must not fail
a probe, and strangers get no metrics. However many requests there are, the function gets each event at most
once a second, and the metrics are encoded at most once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import socket
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final, cast

from aiohttp import web
from cryptography import x509
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service.gateway import events
from service.gateway.configuration import Configuration
from service.gateway.connections import Connection, Connections, Listener
from service.gateway.metrics import Metrics
from service.gateway.routes import JSON, GatewayError
from service.gateway.worker_pool import WorkerPool

MAX_CONNECTIONS: Final = 16
INTERVAL: Final = 1.0  # seconds between two calls with one event, and between encodings
WAIT: Final = 2.0  # seconds for a response of the function; less than the 10 of a scrape
_TIMEOUT: Final = 29.0  # seconds after which the worker is replaced, as for calls of clients

_Reply = tuple[HTTPStatus, str]


class Probe:
    """Invokes the function with the events of some operations, and remembers the responses for a second."""

    def __init__(self, pools: Mapping[str, WorkerPool], probe_events: Mapping[str, JSON]) -> None:
        """Remember the pools, which a reload replaces, and name -> event; invoke nothing yet."""
        self._pools = pools
        self._events = probe_events
        self._calls: dict[str, tuple[float, asyncio.Task[events.Response | None]]] = {}

    async def response(self, name: str) -> events.Response | None:
        """The response to an event, at most a second old; None if there is none in time."""
        if name not in self._events:
            return None
        now = time.monotonic()
        began_at, task = self._calls.get(name, (-math.inf, None))
        if task is None or (task.done() and now - began_at >= INTERVAL):
            task = asyncio.create_task(self._invoke(self._events[name]))
            self._calls[name] = now, task
        done, _ = await asyncio.wait([task], timeout=WAIT)
        return task.result() if done else None

    async def _invoke(self, event: JSON) -> events.Response | None:
        try:
            result = await self._pools["function"].invoke(events.with_new_id(event), _TIMEOUT)
            return events.proxy_response(result)
        except GatewayError:  # for example, all workers are busy
            return None


class Monitoring:
    """Serves `/metrics`, `/livez` and `/readyz`, by plain HTTP.

    Attributes:
        metrics: counts.
        listener: to open.
    """

    def __init__(
        self,
        configuration: Configuration,
        pools: Mapping[str, WorkerPool],
        clients: Connections,
        is_draining: Callable[[], bool],
        read_tls_end: Callable[[], float | None],
    ) -> None:
        """Prepare to serve.

        Args:
            configuration: names the version, the events and the ledger.
            pools: name -> pool of workers; `function` gets the events.
            clients: the connections of the other listeners.
            is_draining: returns whether the server is stopping.
            read_tls_end: returns the end of the server's certificate, in seconds since 1970; None without.
        """
        version = configuration.document.get("info", {}).get("version", "")
        self.metrics = Metrics(version, pools, self._read_gauges)
        self._probe = Probe(pools, configuration.probe_events)
        self._clients = clients
        self._is_draining = is_draining
        self._read_tls_end = read_tls_end
        self._gauges: dict[str, float] = {"certlet_ledger": configuration.has_ledger}
        self._encoded = -math.inf, ""
        self._connections = Connections(lambda: MAX_CONNECTIONS)
        self._server = web.Server(self._handle)
        self.listener = Listener(self._connections, self._create)

    def _create(self, client: socket.socket) -> Connection:
        return Connection(
            self._server, self._connections, lambda *_: web.Response(status=HTTPStatus.BAD_REQUEST), client
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        self._connections.mark_busy(connection)
        try:
            status, text = await self._respond(request.method, request.path)
        finally:
            self._connections.mark_waiting(connection, self._connections.idle)
        headers = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store", "Server": "certlet"}
        response = web.Response(status=status, headers=headers, text=text)
        if request.can_read_body:
            response.force_close()
        return response

    async def _respond(self, method: str, path: str) -> _Reply:
        handlers = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        if path not in handlers:
            return HTTPStatus.NOT_FOUND, f"not found: this port serves {', '.join(handlers)}\n"
        if method not in {"GET", "HEAD"}:
            return HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n"
        return await handlers[path]()

    async def _livez(self) -> _Reply:
        """This process responds. It exits with the supervisor, which replaces workers."""
        return HTTPStatus.OK, "ok\n"

    async def _readyz(self) -> _Reply:
        """The server accepts connections, and a worker can issue certificates."""
        if self._is_draining():
            return HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping\n"
        health = await self._probe.response("health")
        if health is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "no worker responds\n"
        if health.status != HTTPStatus.OK:
            return HTTPStatus.SERVICE_UNAVAILABLE, "the CA cannot issue certificates: see GET /health\n"
        return HTTPStatus.OK, "ok\n"

    async def _metrics(self) -> _Reply:
        if time.monotonic() - self._encoded[0] >= INTERVAL:
            await self._refresh()
            self._encoded = time.monotonic(), self.metrics.encode()
        return HTTPStatus.OK, self._encoded[1]

    async def _refresh(self) -> None:
        """Invoke the function. Without a response, the last values stay, so that their age shows."""
        health, ca, crl = await asyncio.gather(*map(self._probe.response, ("health", "ca", "crl")))
        self._gauges["certlet_ready"] = health is not None and health.status == HTTPStatus.OK
        for response, read in ((ca, _ca_gauges), (crl, _crl_gauges)):
            if response and response.status == HTTPStatus.OK:
                with contextlib.suppress(KeyError, TypeError, ValueError):  # it is not as documented
                    self._gauges |= read(response.body)

    def _read_gauges(self) -> dict[str, float]:
        end = self._read_tls_end()
        tls = {} if end is None else {"certlet_tls_not_after_timestamp_seconds": end}
        return {**self._gauges, **tls, "certlet_http_connections": self._clients.open_count}


def _ca_gauges(body: bytes) -> dict[str, float]:
    end = datetime.fromisoformat(json.loads(body)["not_after"])
    return {"certlet_ca_not_after_timestamp_seconds": end.timestamp()}


@functools.lru_cache(maxsize=1)  # a long list is several megabytes
def _crl_gauges(der: bytes) -> dict[str, float]:
    crl = x509.load_der_x509_crl(der)
    next_update = crl.next_update_utc
    return {
        "certlet_crl_entries": len(crl),
        "certlet_crl_this_update_timestamp_seconds": crl.last_update_utc.timestamp(),
        **({"certlet_crl_next_update_timestamp_seconds": next_update.timestamp()} if next_update else {}),
    }
