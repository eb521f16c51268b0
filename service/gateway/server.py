"""The HTTP process: it answers from the document, and holds neither the CA's key nor its passphrase."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import web
from multidict import CIMultiDict

from service import audit, credentials, hardening
from service.gateway import events, sandbox
from service.gateway.api_keys import KeyFile, KeyFileError, Keyring
from service.gateway.configuration import Configuration
from service.gateway.connections import Connection, Connections, Listener
from service.gateway.docs import Docs
from service.gateway.response_cache import ResponseCache
from service.gateway.routes import JSON, Contract, GatewayError, Route
from service.gateway.tls import Tls, TlsError, client_certificate
from service.gateway.usage_plan import UsagePlanLimiter, caller_id, network
from service.gateway.worker import one_line, to_json, yield_to_others
from service.gateway.worker_pool import WorkerPool

MAX_PAYLOAD: Final = 10 * 1024 * 1024  # API Gateway's bound for a request
MAX_UNAUTHENTICATED_BODY: Final = 1024 * 1024  # octets that are kept of whoever needs no key
MAX_EVENT_BODY: Final = 4_500_000  # what base64 leaves of Lambda's 6 MB
LARGE_RESPONSE: Final = 64 * 1024  # octets; larger ones are sent in parts
BODY_TIMEOUT: Final = 30.0  # seconds for a client to send its body
SHUTDOWN_TIMEOUT: Final = 30.0  # seconds for requests in flight, longer than any integration's
STOP: Final = (signal.SIGTERM, signal.SIGINT)
_DEFAULT_INTEGRATION_TIMEOUT: Final = 29_000  # milliseconds, API Gateway's own
_LOGGED_CHARS: Final = 200  # longer methods and paths are cut off in the access log

_log = logging.getLogger(__name__)


class Gateway:
    """One document, served."""

    def __init__(self, link: SupervisorLink, pool: WorkerPool, connections: Connections) -> None:
        configuration = link.configuration
        self._connections = connections
        self._active = 0
        self._is_ending = False
        self._is_idle = asyncio.Event()
        self._stage = configuration.stage
        self._contract = Contract(configuration.document)
        self._docs = Docs(configuration.public_document, configuration.stage)
        self._pool = pool
        self._cache = ResponseCache(time.monotonic)
        self._keys = Keyring(link, configuration.env_keys)
        plan = None if configuration.no_usage_plan else self._contract.plan
        self._limiter = UsagePlanLimiter(plan, time.monotonic, time.time) if plan else None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, and log it."""
        self._active += 1
        self._is_idle.clear()
        connection, connections = cast("Connection", request.protocol), self._connections
        connections.busy(connection)
        try:
            response = await self._handle(request)
            if self._is_ending:
                response.force_close()
            connections.wait(connection, connections.answers)
            with contextlib.suppress(ConnectionError):  # the client left
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            connections.wait(connection, connections.idle)
            self._active -= 1
            if not self._active:
                self._is_idle.set()

    async def drain(self) -> None:
        """Wait for the requests in flight, but not for ever; each answer is its connection's last."""
        self._is_ending = True
        with contextlib.suppress(TimeoutError):  # not aiohttp's own shutdown, which reads no further body
            if self._active:
                await asyncio.wait_for(self._is_idle.wait(), SHUTDOWN_TIMEOUT)

    def malformed(self) -> web.Response:
        """The answer to what is not HTTP."""
        request_id = str(uuid.uuid4())
        error = GatewayError("DEFAULT_4XX", "The request is not well-formed HTTP")
        return _response(self._refusal(error, request_id), request_id)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        began = time.monotonic()
        request_id = str(uuid.uuid4())
        callers: list[str] = []
        try:
            answer = await self._answer(request, request_id, callers)
        except GatewayError as error:
            answer = self._refusal(error, request_id)
        except Exception:  # noqa: BLE001 - whatever happened, the client gets an answer
            _log.exception("%s: the gateway failed", request_id)
            answer = self._refusal(GatewayError("API_CONFIGURATION_ERROR"), request_id)
        _log_access(request, request_id, callers, answer, time.monotonic() - began)
        return _response(answer, request_id)

    async def _answer(self, request: web.BaseRequest, request_id: str, callers: list[str]) -> events.Response:
        """Route, API key, usage plan, integration: API Gateway's order."""
        url = request.rel_url
        try:
            path = self._within_stage(url.raw_path)
            route, path_parameters = self._contract.route(request.method, path)
        except GatewayError:  # this is all that the gateway serves beside its document
            if beside := self._docs.respond(request.method, url.raw_path):
                return beside
            raise
        key_name = self._identify(request, route) if route.needs_key else None
        callers += [key_name] if key_name else []
        identity = _identity(request, key_name)
        is_shared = _is_shared(request, route, path_parameters)
        is_due = is_shared and self._cache.is_due(route.resource)
        if is_shared and not is_due and (kept := self._cache.find(route.resource)):
            return kept
        if not is_due:
            self._count(key_name, identity)
        read = events.Request(
            request_id=request_id,
            method=request.method,
            path=path,
            stage=self._stage,
            headers=request.headers,
            query=url.query,
            path_parameters=path_parameters,
            body=await self._read_body(request, route),
            identity=identity,
            scheme=request.scheme,
            protocol=f"HTTP/{request.version.major}.{request.version.minor}",
        )
        if not is_due:
            return await self._integrate(read, route)
        try:
            answer = await self._integrate(read, route)
        except GatewayError:  # such as that all workers are busy
            if kept := self._cache.find(route.resource):
                return kept
            raise
        self._cache.keep(route.resource, answer)
        return answer

    async def _integrate(self, read: events.Request, route: Route) -> events.Response:
        if route.integration["type"] == "mock":
            return events.mock_response(read, route)
        if len(read.body) > MAX_EVENT_BODY:
            raise GatewayError("REQUEST_TOO_LARGE")
        timeout = route.integration.get("timeoutInMillis", _DEFAULT_INTEGRATION_TIMEOUT) / 1000
        event = events.proxy_event(read, route)
        return events.proxy_response(await self._pool.invoke(event, timeout))

    async def _read_body(self, request: web.BaseRequest, route: Route) -> bytes:
        """The body; none of a mock's request. Where none is taken, one is refused, and none of it is kept."""
        if not request.can_read_body or route.integration["type"] == "mock":
            return b""  # aiohttp reads it to its end, and keeps none of it
        most, error = MAX_PAYLOAD, GatewayError("REQUEST_TOO_LARGE")
        if not route.needs_key:
            most = MAX_UNAUTHENTICATED_BODY
            if not route.takes_body:
                most, error = 0, GatewayError("DEFAULT_4XX", "This takes no body")
        if (request.content_length or 0) > most:
            raise error
        complete = request.content.is_eof()  # all of it came with the head
        body = request.content.read_nowait() if complete else await self._receive_body(request, most)
        if len(body) > most:
            raise error
        return body

    async def _receive_body(self, request: web.BaseRequest, most: int) -> bytes:
        """The body, or its beginning if that has more octets than `most`."""
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection, connections = cast("Connection", request.protocol), self._connections
        connections.wait(connection, connections.uploads)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        break
                    connections.received(connection, connections.uploads, len(chunk))
        except TimeoutError:
            raise GatewayError("DEFAULT_4XX", "The body did not arrive in time") from None
        except (web.RequestPayloadError, ConnectionError, RuntimeError):  # the last if it ended before this
            raise GatewayError("DEFAULT_4XX", "The body is damaged, or ended early") from None
        finally:
            connections.busy(connection)
        return bytes(body)

    def _refusal(self, error: GatewayError, request_id: str) -> events.Response:
        return events.gateway_response(self._contract.responses[error.kind], error, request_id)

    def _within_stage(self, path: str) -> str:
        prefix = f"/{self._stage}" if self._stage else ""
        if not path.startswith(prefix + "/"):
            raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
        return path.removeprefix(prefix)

    def _identify(self, request: web.BaseRequest, route: Route) -> str:
        given = credentials.extract_api_key(request.headers.get, basic=route.takes_basic)
        name = self._keys.identify(given or "")
        if name is not None:
            return name
        if given and self._limiter:  # not for the right key: guesses do not lock it out
            self._limiter.charge(f"wrong keys of {network(request.remote or '')}")
        # A client may only send a password over TLS.
        wants_basic = route.takes_basic and request.secure and not request.headers.get("x-api-key")
        raise GatewayError("UNAUTHORIZED" if wants_basic else "INVALID_API_KEY")

    def _count(self, key_name: str | None, identity: JSON) -> None:
        if self._limiter and key_name is not None:
            self._limiter.charge_key(key_name)
        elif self._limiter:
            self._limiter.charge(caller_id(identity))


def _is_shared(request: web.BaseRequest, route: Route, path_parameters: dict[str, str]) -> bool:
    """Whether everybody who sends this request may get the same answer of the function."""
    depends = route.needs_key or path_parameters or request.rel_url.raw_query_string or request.can_read_body
    return request.method == "GET" and route.integration["type"] != "mock" and not depends


def _response(answer: events.Response, request_id: str) -> web.Response:
    headers = CIMultiDict(answer.headers)
    headers["x-amzn-RequestId"] = request_id
    headers["x-amz-apigw-id"] = request_id.replace("-", "")[:16]
    headers["Server"] = "certlet"
    body: bytes | AsyncIterator[memoryview] = answer.body
    if len(answer.body) > LARGE_RESPONSE:
        headers["Content-Length"] = str(len(answer.body))
        body = _in_parts(answer.body)
    return web.Response(status=answer.status, headers=headers, body=body)


async def _in_parts(body: bytes) -> AsyncIterator[memoryview]:
    """A large body: aiohttp would keep a copy of it for each client that does not read it."""
    for start in range(0, len(body), LARGE_RESPONSE):
        yield memoryview(body)[start : start + LARGE_RESPONSE]


def _identity(request: web.BaseRequest, key_name: str | None) -> dict[str, Any]:
    presented = client_certificate(request.get_extra_info("ssl_object"))
    return {
        "apiKeyId": key_name,
        "sourceIp": request.remote or "",
        "userAgent": request.headers.get("User-Agent"),
        **({"clientCert": presented} if presented else {}),
    }


def _log_access(
    request: web.BaseRequest, request_id: str, callers: list[str], answer: events.Response, took: float
) -> None:
    """Write one line of JSON in ASCII for an answer to stderr: neither the event nor the key."""
    line = {
        "access": events.utc(int(time.time()), "%Y-%m-%dT%H:%M:%SZ"),
        "request_id": request_id,
        "source_ip": request.remote,
        "key": callers[0] if callers else None,
        "method": request.method[:_LOGGED_CHARS],
        "path": request.rel_url.raw_path[:_LOGGED_CHARS],
        "status": answer.status,
        "bytes": len(answer.body),
        "milliseconds": round(took * 1000, 1),
    }
    stderr = sys.stderr.fileno()
    # A log that nobody reads is no reason not to answer. In a pipe a long audit line may be under way.
    with contextlib.suppress(OSError), audit.locked_descriptor(stderr):
        os.write(stderr, f"{to_json(line)}\n".encode("ascii"))


class SupervisorLink(KeyFile):
    """The socket to the supervisor, which also reads the file of API keys: this process cannot.

    Each method raises EOFError if the supervisor is gone.
    """

    def __init__(self, control: socket.socket) -> None:
        """Receive the configuration."""
        self._control = control
        self._lines = control.makefile("rb")
        self.configuration = Configuration(**json.loads(self._line()))
        super().__init__(Path(self.configuration.key_file))

    def _line(self) -> bytes:
        if line := self._lines.readline():
            return line
        raise EOFError("the supervisor is gone")

    def wait_for_workers(self, on_close: Callable[[], None]) -> None:
        """Wait until all workers are ready; `on_close` is called when the supervisor is gone after that."""
        self._line()
        asyncio.get_running_loop().add_reader(self._control, on_close)

    def send(self, **message: object) -> None:
        """Tell the supervisor where we listen, or why we do not; or ask for API keys."""
        self._control.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> dict[str, str]:
        """The API keys, as in `KeyFile`."""
        self.send(api_keys=True)
        message = json.loads(self._line())
        if "error" in message:
            raise KeyFileError(message["error"])
        keys: dict[str, str] = message["keys"]
        return keys


def _tls(configuration: Configuration) -> Tls | None:
    """The server's side of TLS, with the operator's certificate if there is one."""
    if not configuration.tls_certificate:
        return None
    tls = Tls(configuration.tls_certificate, configuration.tls_key, configuration.tls_key_password)
    if not configuration.tls_signing_event:
        tls.load()
    return tls


def _enter_sandbox(configuration: Configuration) -> None:
    """Give up what is not needed; the directory of API keys is the CA's."""
    is_self_issued = bool(configuration.tls_signing_event)
    writable = [Path(configuration.tls_certificate).parent] if is_self_issued else []
    sandbox.enter([Path(configuration.key_file).parent], writable)


async def serve(link: SupervisorLink, channel: socket.socket) -> int:
    """Serve until SIGTERM, SIGINT or the supervisor's end; requests in flight are answered first."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP:
        loop.add_signal_handler(number, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)  # as the supervisor starts us they are blocked
    configuration = link.configuration
    pool = WorkerPool(channel)
    connections = Connections()
    gateway = Gateway(link, pool, connections)

    def create(client: socket.socket) -> Connection:
        return Connection(manager, connections, gateway.malformed, client)

    manager = web.Server(gateway.handle)
    renewal: asyncio.Task[None] | None = None
    try:
        link.wait_for_workers(stop.set)
        tls = _tls(configuration)
        # From here on: no thread has been started that could be left out, and no client is there yet.
        _enter_sandbox(configuration)
        if tls and configuration.tls_client_ca_event:
            await tls.load_client_cas(pool.invoke, configuration.tls_client_ca_event)
        if tls and configuration.tls_signing_event:
            ends = await tls.enroll(pool.invoke, configuration.tls_signing_event)
            renewal = asyncio.create_task(
                tls.renew_forever(pool.invoke, configuration.tls_signing_event, ends)
            )
        listener = Listener(connections, create, tls.context if tls else None)
        port = await listener.open(configuration.host, configuration.port)
    except (TlsError, OSError, UnicodeError) as error:
        link.send(failed=_startup_error(error, configuration))
        return 1
    link.send(port=port)
    await stop.wait()
    listener.close()
    if renewal:
        renewal.cancel()
    await gateway.drain()
    await manager.shutdown(1)
    # The loop takes its handlers along: one more signal would end us by what it does by default.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    return 0


def _startup_error(error: Exception, configuration: Configuration) -> str:
    """Why it does not listen, for whoever started it, in one line."""
    if isinstance(error, socket.gaierror | UnicodeError):  # the latter's of what no DNS name can be
        return f"the host {configuration.host} is not found: give --host an address of this machine"
    where = f"{configuration.host}:{configuration.port}"
    if isinstance(error, OSError) and not error.filename:
        match error.errno:
            case errno.EADDRINUSE:
                return f"{where} is in use, perhaps by another certlet serve: give another --port"
            case errno.EACCES:
                return f"{where} is not for this user to open: give a --port above 1023"
            case errno.EADDRNOTAVAIL | None:  # newer Pythons tell no number
                return f"{configuration.host} is no address of this machine: give another --host"
    return one_line(error)


def main(arguments: list[str]) -> int:
    """Be the HTTP process: `CONTROL CHANNEL`, descriptors of sockets to the supervisor and the workers."""
    hardening.disable_core_dumps_and_ptrace()
    yield_to_others()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    control, channel = (socket.socket(fileno=int(argument)) for argument in arguments)
    with control, channel, contextlib.suppress(KeyboardInterrupt, EOFError):
        return asyncio.run(serve(SupervisorLink(control), channel))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
