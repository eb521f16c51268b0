"""The HTTP process: it serves the contract, and has access to neither the CA's key nor its passphrase."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import HttpVersion, HttpVersion11, web
from multidict import CIMultiDict

from service import credentials, hardening, log_level
from service.gateway import events, request_head, sandbox
from service.gateway.access_log import AccessLog, Exchange
from service.gateway.api_keys import ApiKey, ApiKeys, KeyFile, KeyFileError, from_json
from service.gateway.configuration import AccessLogFormat, Configuration
from service.gateway.connections import Connection, Connections, Listener, Request
from service.gateway.docs import Docs
from service.gateway.listening import bracket_host
from service.gateway.response_cache import ResponseCache
from service.gateway.routes import JSON, METHODS, Contract, GatewayError, Route
from service.gateway.tls import Tls, TlsError, client_certificate, invoke_checked
from service.gateway.usage_plan import UsagePlanLimiter, caller_id, network
from service.gateway.worker import one_line, yield_to_others
from service.gateway.worker_pool import WorkerPool
from service.trace_context import find_trace_id

if TYPE_CHECKING:  # slow to import, and not always used
    from service.gateway.monitoring import Monitoring

MAX_PAYLOAD: Final = 10 * 1024 * 1024  # bytes; API Gateway's limit for a request
MAX_UNAUTHENTICATED_BODY: Final = 1024 * 1024  # bytes, for operations without an API key
MAX_EVENT_BODY: Final = 4_500_000  # bytes; more exceeds Lambda's 6 MB in base64
LARGE_RESPONSE: Final = 64 * 1024  # bytes; larger bodies are sent in chunks
BODY_TIMEOUT: Final = 30.0  # seconds for a client to send its body
TOKEN_TIMEOUT: Final = 10.0  # seconds to verify a token; a JWK Set is fetched within 3
SHUTDOWN_TIMEOUT: Final = 30.0  # seconds for requests in progress; longer than any integration's time-out
STOP: Final = (signal.SIGTERM, signal.SIGINT)
_DEFAULT_INTEGRATION_TIMEOUT: Final = 29_000  # milliseconds; API Gateway's default

_log = logging.getLogger(__name__)


class Gateway:
    """Handles the requests for one document.

    Attributes:
        is_draining: whether it only finishes requests in progress.
        observers: functions that are called after each request.
        pools: the workers in use, as `_create_pools` returns them.
    """

    def __init__(
        self,
        link: SupervisorLink,
        pools: Mapping[str, WorkerPool],
        connections: Connections,
        observe: Callable[[Exchange], None],
    ) -> None:
        configuration = link.configuration
        self._connections = connections
        self.observers = [observe]
        self._active = 0
        self.is_draining = False
        self._idle = asyncio.Event()
        self._stage = configuration.stage
        self._tls_name = configuration.tls_name
        self._is_https = bool(configuration.tls_certificate)
        self._port = configuration.port  # of HTTPS, for clients that use plain HTTP
        self._keys = ApiKeys(link, configuration.env_keys)
        self.pools: dict[str, WorkerPool] = {}
        self.use(configuration, pools)
        plan = None if configuration.no_usage_plan else self._contract.plan
        self._limiter = UsagePlanLimiter(plan, time.monotonic, time.time) if plan else None

    def use(self, configuration: Configuration, pools: Mapping[str, WorkerPool]) -> dict[str, WorkerPool]:
        """Use this document and these workers for the next requests. All counts stay.

        Returns:
            the pools that were in use.
        """
        contract = Contract(configuration.document)
        self._docs = Docs(configuration.public_document, configuration.stage, contract)
        self._contract = contract
        self._cache = ResponseCache(time.monotonic)
        former = dict(self.pools)
        for name in former.keys() & pools.keys():
            pools[name].on_counts = former[name].on_counts
        self.pools.clear()
        self.pools |= pools
        return former

    async def handle(self, base_request: web.BaseRequest) -> web.StreamResponse:
        """Handle an HTTP request, and log it."""
        request = cast("Request", base_request)
        self._active += 1
        self._idle.clear()
        connection, connections = cast("Connection", request.protocol), self._connections
        connections.mark_busy(connection)
        try:
            response = await self._handle(request)
            if self.is_draining or not request.is_version_served:
                response.force_close()
            connections.mark_waiting(connection, connections.responses)
            with contextlib.suppress(ConnectionError):  # the client disconnected
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            connections.mark_waiting(connection, connections.idle)
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def drain(self) -> None:
        """Wait for requests in progress, for a limited time; close each connection after its response."""
        self.is_draining = True
        with contextlib.suppress(TimeoutError):  # aiohttp's own shutdown stops reading bodies
            if self._active:
                await asyncio.wait_for(self._idle.wait(), SHUTDOWN_TIMEOUT)

    def _observe(self, exchange: Exchange) -> None:
        for observe in self.observers:
            observe(exchange)

    def malformed(self, request: web.BaseRequest, head: bytes) -> web.Response:
        """The response to malformed HTTP, which it logs.

        Args:
            request: a placeholder of aiohttp.
            head: the first octets of the request.
        """
        request_id = str(uuid.uuid4())
        response = self._refusal(request_head.refuse(head), request_id)
        method, target, version = request_head.parse_request_line(head)
        protocol = f"HTTP/{version}" if version else ""
        line = method, target.partition("?")[0], protocol
        self._observe(_exchange(request, line, request_id, response, 0.0))
        return _response(response, request_id)

    async def _handle(self, request: Request) -> web.StreamResponse:
        start = time.monotonic()
        request_id = str(uuid.uuid4())
        try:
            response = await self._respond(request, request_id)
        except GatewayError as error:
            response = self._refusal(error, request_id)
        except Exception:  # noqa: BLE001 - the client gets a response after any error
            _log.exception("%s: the gateway failed", request_id)
            response = self._refusal(GatewayError("API_CONFIGURATION_ERROR"), request_id)
        seconds = time.monotonic() - start
        line = request.method, request.rel_url.raw_path, _protocol(request.sent_version)
        self._observe(_exchange(request, line, request_id, response, seconds))
        return _response(response, request_id)

    async def _respond(self, request: Request, request_id: str) -> events.Response:
        """Route, API key, usage plan, integration, in API Gateway's order."""
        url = request.rel_url
        self._verify_supported(request)
        try:
            path = self._within_stage(url.raw_path)
            route, path_parameters = self._contract.route(request.method, path)
        except GatewayError:  # the document does not contain the API docs
            if docs := self._docs.respond(request.method, url.raw_path, self._origin(request)):
                return docs
            raise
        request["operation"] = route.operation_id
        is_get = request.method == "HEAD" and route.method != "HEAD"
        method = "GET" if is_get else request.method
        key, authorizer = None, None
        if route.needs_key and not (authorizer := await self._authorize(request, route, request_id)):
            key = self._identify(request, route)
        identity = _identity(request, key.name if key else None)
        is_shared = method == "GET" and _is_shared(request, route, path_parameters)
        is_due = is_shared and self._cache.is_due(route.resource)
        if is_shared and not is_due and (cached := self._cache.find(route.resource)):
            return cached
        if not is_due:
            caller = authorizer["principalId"] if authorizer else key.key_id if key else None
            self._count(caller, identity, route.cost)
        complete = events.Request(
            request_id=request_id,
            method=method,
            path=path,
            stage=self._stage,
            headers=request.headers,
            query=url.query,
            path_parameters=path_parameters,
            body=await self._read_body(request, route),
            identity=identity,
            authorizer=authorizer,
            scheme=request.scheme,
            domain_name=self._origin(request).partition("://")[2],
            protocol=_protocol(request.version),
        )
        if not is_due:
            return await self._integrate(complete, route)
        try:
            response = await self._integrate(complete, route)
        except GatewayError:  # for example, all workers are busy
            if cached := self._cache.find(route.resource):
                return cached
            raise
        self._cache.store(route.resource, response)
        return response

    def _verify_supported(self, request: Request) -> None:
        """Refuse other versions and methods, and plain HTTP next to HTTPS except for certificate status."""
        if not request.is_version_served:
            raise GatewayError("VERSION_NOT_SUPPORTED")
        if request.method not in METHODS:
            raise GatewayError("NOT_IMPLEMENTED")
        if request.secure or not self._is_https:
            return
        with contextlib.suppress(GatewayError):  # no operation has this path or method
            path = self._within_stage(request.rel_url.raw_path)
            if self._contract.route(request.method, path)[0].plain_http:
                return
        address, *_ = request.get_extra_info("sockname", ("",))  # the client may have disconnected
        url = self._docs.server_url(self._url("https", address, self._port))
        raise GatewayError("HTTPS_REQUIRED", f"Only the status of certificates is served here: use {url}")

    def _origin(self, request: web.BaseRequest) -> str:
        """The URL that the client connected to. The Host header would be the client's own text."""
        address, port, *_ = request.get_extra_info("sockname", ("", 0))  # the client may have disconnected
        return self._url(request.scheme, address, port)

    def _url(self, scheme: str, address: str, port: int) -> str:
        return f"{scheme}://{bracket_host(self._tls_name or address)}:{port}"

    async def _integrate(self, request: events.Request, route: Route) -> events.Response:
        if route.integration["type"] == "mock":
            return events.mock_response(request, route)
        if len(request.body) > MAX_EVENT_BODY:
            raise GatewayError("REQUEST_TOO_LARGE")
        timeout = route.integration.get("timeoutInMillis", _DEFAULT_INTEGRATION_TIMEOUT) / 1000
        event, start = events.proxy_event(request, route), time.monotonic()
        result = await self.pools["function"].invoke(event, timeout)
        _log.debug("%s: the function took %.1f ms", request.request_id, (time.monotonic() - start) * 1000)
        return events.proxy_response(result)

    async def _read_body(self, request: web.BaseRequest, route: Route) -> bytes:
        """The body, or b"" for a mock. A body that the operation does not accept is refused unread."""
        if not request.can_read_body or route.integration["type"] == "mock":
            return b""  # aiohttp reads and discards it
        limit, error = MAX_PAYLOAD, GatewayError("REQUEST_TOO_LARGE")
        if not route.needs_key:
            limit = MAX_UNAUTHENTICATED_BODY
            if not route.accepts_body:
                limit, error = 0, GatewayError("DEFAULT_4XX", "The operation accepts no body")
        if (request.content_length or 0) > limit:
            raise error
        is_complete = request.content.is_eof()  # it arrived with the head
        body = request.content.read_nowait() if is_complete else await self._receive_body(request, limit)
        if len(body) > limit:
            raise error
        return body

    async def _receive_body(self, request: web.BaseRequest, limit: int) -> bytes:
        """The body, or only its beginning if it exceeds `limit` bytes."""
        expects_continue = request.headers.get("Expect", "").lower() == "100-continue"
        if expects_continue and request.version == HttpVersion11 and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection, connections = cast("Connection", request.protocol), self._connections
        connections.mark_waiting(connection, connections.uploads)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        break
                    connections.add_partial(connection, connections.uploads, len(chunk))
        except TimeoutError:
            raise GatewayError("DEFAULT_4XX", "The body did not arrive in time") from None
        except (web.RequestPayloadError, OSError, RuntimeError):  # RuntimeError: it failed earlier
            raise GatewayError("DEFAULT_4XX", "The body is damaged, or ended early") from None
        finally:
            connections.mark_busy(connection)
        return bytes(body)

    def _refusal(self, error: GatewayError, request_id: str) -> events.Response:
        return events.gateway_response(self._contract.responses[error.kind], error, request_id)

    def _within_stage(self, path: str) -> str:
        prefix = f"/{self._stage}" if self._stage else ""
        if not f"{path}/".startswith(prefix + "/"):
            raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
        return path.removeprefix(prefix) or "/"

    async def _authorize(self, request: Request, route: Route, request_id: str) -> JSON | None:
        """The caller of a token, as an authorizer returns it; None if the request has no token, or a key."""
        header = request.headers.get
        if not route.accepts_token or credentials.extract_token(header) is None:
            return None
        if credentials.extract_api_key(header, basic=route.accepts_basic):
            return None
        if "token" not in self.pools:
            raise GatewayError("INVALID_TOKEN", credentials.NO_TOKENS)
        event = events.authorizer_event(route, request.headers["Authorization"], request_id)
        try:
            authorizer = events.authorizer_context(await self.pools["token"].invoke(event, TOKEN_TIMEOUT))
        except GatewayError as error:
            if error.kind == "INVALID_TOKEN":
                self._charge_wrong_credentials(request)
            raise
        request["key_name"] = authorizer["principalId"]
        return authorizer

    def _charge_wrong_credentials(self, request: web.BaseRequest) -> None:
        """Charge the address: guesses must not block valid credentials."""
        if self._limiter:
            self._limiter.charge(f"wrong credentials of {network(request.remote or '')}")

    def _identify(self, request: web.BaseRequest, route: Route) -> ApiKey:
        """The key of a request, which the access log names even if it has expired."""
        value = credentials.extract_api_key(request.headers.get, basic=route.accepts_basic)
        key = self._keys.identify(value or "")
        if key:
            request["key_name"], request["key_id"] = key.name, key.key_id
            if not key.is_expired(datetime.now(UTC)):
                return key
        if value:
            self._charge_wrong_credentials(request)
        if key:  # only its owner gets this response
            raise GatewayError("EXPIRED_API_KEY")
        # Never ask for a password over plain HTTP.
        asks_for_basic = route.accepts_basic and request.secure and not request.headers.get("x-api-key")
        raise GatewayError("UNAUTHORIZED" if asks_for_basic else "INVALID_API_KEY")

    def _count(self, caller: str | None, identity: JSON, cost: float) -> None:
        if self._limiter and caller is not None:
            self._limiter.charge_key(caller)
        elif self._limiter:
            self._limiter.charge(caller_id(identity), cost)


def _is_shared(request: web.BaseRequest, route: Route, path_parameters: dict[str, str]) -> bool:
    """Whether the function's response to this GET is the same for all clients."""
    depends = route.needs_key or path_parameters or request.rel_url.raw_query_string or request.can_read_body
    return route.integration["type"] != "mock" and not depends


def _response(response: events.Response, request_id: str) -> web.Response:
    headers = CIMultiDict(response.headers)
    headers["x-amzn-RequestId"] = request_id
    headers["x-amz-apigw-id"] = request_id.replace("-", "")[:16]
    headers["Server"] = "certlet"
    body: bytes | AsyncIterator[memoryview] = response.body
    if len(response.body) > LARGE_RESPONSE:
        headers["Content-Length"] = str(len(response.body))
        body = _in_chunks(response.body)
    return web.Response(status=response.status, headers=headers, body=body)


async def _in_chunks(body: bytes) -> AsyncIterator[memoryview]:
    """Send a large body in chunks: aiohttp would copy all of it for each slow client."""
    for start in range(0, len(body), LARGE_RESPONSE):
        yield memoryview(body)[start : start + LARGE_RESPONSE]


def _identity(request: web.BaseRequest, key_name: str | None) -> dict[str, Any]:
    certificate = client_certificate(request.get_extra_info("ssl_object"))
    return {
        "apiKeyId": key_name,
        "sourceIp": request.remote or "",
        "userAgent": request.headers.get("User-Agent"),
        **({"clientCert": certificate} if certificate else {}),
    }


def _exchange(
    request: web.BaseRequest,
    line: tuple[str, str, str],
    request_id: str,
    response: events.Response,
    seconds: float,
) -> Exchange:
    method, path, protocol = line
    return Exchange(
        request_id=request_id,
        trace_id=find_trace_id(request.headers.items()),
        operation=request.get("operation", ""),
        source_ip=request.remote,
        key=request.get("key_name"),
        key_id=request.get("key_id"),
        method=method,
        path=path,
        protocol=protocol,
        referer=request.headers.get("Referer", ""),
        user_agent=request.headers.get("User-Agent", ""),
        status=response.status,
        size=0 if method == "HEAD" else len(response.body),
        seconds=seconds,
    )


def _protocol(version: HttpVersion) -> str:
    return f"HTTP/{version.major}.{version.minor}"


class SupervisorLink(KeyFile):
    """The socket to the supervisor, which also reads the file of API keys: this process cannot.

    Each method raises EOFError if the supervisor has exited.
    """

    def __init__(self, control: socket.socket) -> None:
        """Receive the configuration."""
        self._control = control
        self._messages = control.makefile("rb")
        self.configuration = Configuration(**json.loads(self._receive()))
        super().__init__(Path(self.configuration.key_file))

    def _receive(self) -> bytes:
        if message := self._messages.readline():
            return message
        raise EOFError("the supervisor has exited")

    def wait_for_workers(self, on_close: Callable[[], None]) -> None:
        """Wait until all workers are ready; after that, call `on_close` when the supervisor exits."""
        self._receive()
        asyncio.get_running_loop().add_reader(self._control, on_close)

    def send(self, **message: object) -> None:
        """Send that it serves, an error, or a request for the API keys."""
        self._control.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> list[ApiKey]:
        """Have the supervisor read the file; see `KeyFile`."""
        self.send(api_keys=True)
        message = json.loads(self._receive())
        if "error" in message:
            raise KeyFileError(message["error"])
        return from_json(message["keys"])


def _tls(configuration: Configuration) -> Tls | None:
    """The server's side of TLS, with the operator's certificate if there is one; None for plain HTTP."""
    if not configuration.tls_certificate:
        return None
    tls = Tls(configuration.tls_certificate, configuration.tls_key, configuration.tls_key_password)
    if not configuration.tls_signing_event:
        tls.load()
    return tls


def _enter_sandbox(configuration: Configuration) -> None:
    """Enter the sandbox. The file of API keys is in the CA's directory.

    SQLite's other files are next to the ledger.
    """
    own_key = [Path(configuration.tls_key)] if configuration.tls_signing_event else []
    secret = [Path(configuration.key_file).parent]
    secret += [Path(configuration.ledger)] if configuration.ledger else []
    sandbox.enter(secret, readable=own_key)


def _create_pools(
    configuration: Configuration, channel: socket.socket, token_channel: socket.socket | None = None
) -> dict[str, WorkerPool]:
    """Create the pools of the workers: `function`, and `token` for the one that verifies tokens, if any."""
    pools = {"function": WorkerPool(channel, configuration.workers)}
    if token_channel:
        pools["token"] = WorkerPool(token_channel)
    return pools


class _Commands:
    """Reads the commands of the supervisor: to respond, or to use another configuration and its workers."""

    def __init__(
        self, commands: socket.socket, link: SupervisorLink, gateway: Gateway, tls: Tls | None
    ) -> None:
        """Start to read, in the running loop."""
        commands.setblocking(False)  # noqa: FBT003 - a standard library signature
        self._commands = commands
        self._link = link
        self._gateway = gateway
        self._tls = tls
        self._task: asyncio.Task[None] | None = None
        asyncio.get_running_loop().add_reader(commands, self._read)

    def _read(self) -> None:
        data, descriptors, *_ = socket.recv_fds(self._commands, 1, 3)
        if not data:  # the supervisor has exited
            asyncio.get_running_loop().remove_reader(self._commands)
        elif not descriptors:
            self._link.send(responds=True)
        else:
            self._task = asyncio.create_task(self._reload(*descriptors))

    async def _reload(self, memfd: int, *descriptors: int) -> None:
        """Prepare everything, and then switch, or change nothing. The earlier workers finish their calls."""
        with os.fdopen(memfd, "rb") as file:
            configuration = Configuration(**json.load(file))
        channels = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        pools = _create_pools(configuration, *channels)
        try:
            invoke = pools["function"].invoke
            if configuration.health_event:
                await invoke_checked(invoke, configuration.health_event)
            if self._tls:
                await self._tls.start(invoke, configuration)
            pools = self._gateway.use(configuration, pools)
        except Exception as error:  # noqa: BLE001 - the supervisor reports any error, in one line
            self._link.send(reload_failed=one_line(error))
        else:
            self._link.send(reloaded=True)
        for pool in pools.values():
            pool.retire()
        gc.collect()  # parts of a configuration are in reference cycles


async def serve(link: SupervisorLink, commands: socket.socket, channels: Sequence[socket.socket]) -> int:
    """Serve until SIGTERM, SIGINT or the supervisor's exit, and then finish the requests in progress.

    Args:
        link: the socket to the supervisor.
        commands: the socket from the supervisor; see `_Commands`.
        channels: as in `_create_pools`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP:
        loop.add_signal_handler(number, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)  # the supervisor starts this process with them blocked
    configuration = link.configuration
    pools = _create_pools(configuration, *channels)
    connections = Connections()
    log = AccessLog(AccessLogFormat(configuration.access_log_format))
    gateway = Gateway(link, pools, connections, log.write_exchange)

    def create(client: socket.socket) -> Connection:
        return Connection(manager, connections, gateway.malformed, client, log.write_refused_handshake)

    manager = web.Server(gateway.handle, request_factory=functools.partial(Request, loop=loop))
    try:
        link.wait_for_workers(stop.set)
        tls = _tls(configuration)
        # Before any other thread, which the sandbox would not restrict, and before any client.
        _enter_sandbox(configuration)
        monitoring = _create_monitoring(configuration, gateway, connections, tls)
        if tls:
            await tls.start(pools["function"].invoke, configuration)
        listeners = [Listener(connections, create, tls.context if tls else None)]
        listeners[0].open(configuration.listeners)
        if configuration.status_listeners:
            listeners.append(Listener(connections, create))
            listeners[1].open(configuration.status_listeners)
        if monitoring:
            monitoring.listener.open(configuration.metrics_listeners)
    except (TlsError, OSError) as error:
        link.send(failed=one_line(error))
        return 1
    _Commands(commands, link, gateway, tls)
    link.send(ready=True)
    await stop.wait()
    for listener in listeners:
        listener.close()
    if tls:
        tls.stop()
    await gateway.drain()
    await manager.shutdown(1)
    # The loop removes its handlers, after which a further signal would kill the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    return 0


def _create_monitoring(
    configuration: Configuration,
    gateway: Gateway,
    connections: Connections,
    tls: Tls | None,
) -> Monitoring | None:
    if not configuration.metrics_listeners:
        return None
    from service.gateway.monitoring import Monitoring  # noqa: PLC0415 - prometheus_client takes time and memory

    monitoring = Monitoring(
        configuration,
        gateway.pools,
        connections,
        is_draining=lambda: gateway.is_draining,
        read_tls_end=lambda: tls.end if tls else None,
    )
    gateway.pools["function"].on_counts = monitoring.metrics.add_outcomes
    gateway.observers.append(monitoring.metrics.observe)
    return monitoring


def main(arguments: list[str]) -> int:
    """Run the HTTP process: `CONTROL COMMANDS CHANNEL [TOKENS]`, descriptors of sockets.

    They lead to the supervisor, from it, to the workers, and to the worker that verifies tokens.
    """
    hardening.disable_core_dumps_and_ptrace()
    yield_to_others()
    log_level.configure(os.environ.get(log_level.VARIABLE, ""))
    control, commands, *channels = (socket.socket(fileno=int(argument)) for argument in arguments)
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        return asyncio.run(serve(SupervisorLink(control), commands, channels))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
