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
import stat
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from service import audit, credentials, secrecy
from service.gateway import events
from service.gateway.configuration import Configuration
from service.gateway.connections import Connection, Connections, bound
from service.gateway.docs import Docs
from service.gateway.function import to_json, why
from service.gateway.processes import Function, Process, StartError
from service.gateway.routes import Contract, GatewayError, Route
from service.gateway.tls import Tls, client_certificate
from service.gateway.usage import KeyFile, KeyFileError, Keyring, Meter

MAX_PAYLOAD: Final = 10 * 1024 * 1024  # API Gateway's bound for a request
MAX_ANONYMOUS: Final = 1024 * 1024  # octets that are kept of whoever needs no key
MAX_UNASKED: Final = 16 * 1024  # and where the operation takes no body
MAX_EVENT_BODY: Final = 4_500_000  # what base64 leaves of Lambda's 6 MB
BODY_TIMEOUT: Final = 30.0  # seconds for a client to send its body
TLS_HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
SHUTDOWN_TIMEOUT: Final = 30.0  # seconds for requests in flight, longer than any integration's
STOP: Final = (signal.SIGTERM, signal.SIGINT)
_DEFAULT_INTEGRATION_TIMEOUT: Final = 29_000  # milliseconds, API Gateway's own
_NOT_LOGGED: Final = 200  # characters of a path that a log line keeps

_log = logging.getLogger(__name__)


class Gateway:
    """One document, served."""

    def __init__(self, configuration: Configuration, function: Function, connections: Connections) -> None:
        self._connections = connections
        self._active = 0
        self._is_ending = False
        self._settled = asyncio.Event()
        self._stage = configuration.stage
        self._contract = Contract(configuration.document)
        self._docs = Docs(configuration.published, configuration.stage)
        self._function = function
        self._access_log = _AccessLog()
        self._keys = Keyring(KeyFile(Path(configuration.key_file)), configuration.extra_keys)
        plan = None if configuration.unlimited else self._contract.plan
        self._meter = Meter(plan, time.monotonic, time.time) if plan else None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, and log it."""
        self._active += 1
        self._settled.clear()
        self._connections.begins(request.protocol)
        try:
            response = await self._handle(request)
            if self._is_ending:
                response.force_close()
            return response
        finally:
            self._connections.ends(request.protocol)
            self._active -= 1
            if not self._active:
                self._settled.set()

    async def settle(self) -> None:
        """Wait for the requests in flight, but not for ever; each answer is its connection's last."""
        self._is_ending = True
        with contextlib.suppress(TimeoutError):
            if self._active:
                await asyncio.wait_for(self._settled.wait(), SHUTDOWN_TIMEOUT)

    def malformed(self) -> web.Response:
        """The answer to what is not HTTP."""
        error = GatewayError("DEFAULT_4XX", "The request is not well-formed HTTP")
        request_id = str(uuid.uuid4())
        return _response(self._refusal(error, request_id), request_id)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        began = time.monotonic()
        request_id = str(uuid.uuid4())
        caller: list[str] = []
        try:
            answer = await self._answer(request, request_id, caller)
        except GatewayError as error:
            answer = self._refusal(error, request_id)
        except Exception:  # noqa: BLE001 - whatever happened, the client gets an answer
            _log.exception("%s: the gateway failed", request_id)
            answer = self._refusal(GatewayError("API_CONFIGURATION_ERROR"), request_id)
        self._access_log.write(request, request_id, caller, answer, time.monotonic() - began)
        return _response(answer, request_id)

    async def _answer(self, request: web.BaseRequest, request_id: str, caller: list[str]) -> events.Response:
        """Route, API key, usage plan, integration: API Gateway's order."""
        url = request.rel_url
        try:
            path = self._within_stage(url.raw_path)
            route, path_parameters = self._contract.route(request.method, path)
        except GatewayError:  # this is all that the gateway serves beside its document
            if beside := self._docs.answer(request.method, url.raw_path):
                return beside
            raise
        key_name = self._identify(request, route) if route.needs_key else None
        caller += [key_name] if key_name else []
        if self._meter:
            self._meter.take(key_name)
        read = events.Request(
            request_id=request_id,
            method=request.method,
            path=path,
            stage=self._stage,
            headers=request.headers,
            query=url.query,
            path_parameters=path_parameters,
            body=await _read_body(request, route),
            identity=_identity(request, key_name),
            scheme=request.scheme,
            protocol=f"HTTP/{request.version.major}.{request.version.minor}",
        )
        if route.integration["type"] == "mock":
            return events.mock_response(read, route)
        if len(read.body) > MAX_EVENT_BODY:
            raise GatewayError("REQUEST_TOO_LARGE")
        timeout = route.integration.get("timeoutInMillis", _DEFAULT_INTEGRATION_TIMEOUT) / 1000
        event = events.proxy_event(read, route)
        return events.proxy_response(await self._function.invoke(event, timeout))

    def _refusal(self, error: GatewayError, request_id: str) -> events.Response:
        return events.gateway_response(self._contract.gateway_response(error.kind), error, request_id)

    def _within_stage(self, path: str) -> str:
        prefix = f"/{self._stage}" if self._stage else ""
        if not path.startswith(prefix + "/"):
            raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
        return path.removeprefix(prefix)

    def _identify(self, request: web.BaseRequest, route: Route) -> str:
        given = credentials.api_key(request.headers.get, basic=route.takes_basic)
        if given is None and route.takes_basic and request.secure:  # nobody is asked for it in clear text
            raise GatewayError("UNAUTHORIZED")
        name = self._keys.identify(given or "")
        if name is None:
            raise GatewayError("INVALID_API_KEY")
        return name


def _response(answer: events.Response, request_id: str) -> web.Response:
    headers = CIMultiDict(answer.headers)
    headers["x-amzn-RequestId"] = request_id
    headers["x-amz-apigw-id"] = request_id.replace("-", "")[:16]
    headers["Server"] = "certlet"
    return web.Response(status=answer.status, headers=headers, body=answer.body)


async def _read_body(request: web.BaseRequest, route: Route) -> bytes:
    if not request.can_read_body:
        return b""
    length = request.content_length
    if not (route.needs_key or route.takes_body) and (length is None or length > MAX_UNASKED):
        return b""  # aiohttp reads it to its end, and keeps none of it
    most = MAX_PAYLOAD if route.needs_key else MAX_ANONYMOUS
    if (length or 0) > most:
        raise GatewayError("REQUEST_TOO_LARGE")
    if request.content.is_eof():  # all of it came with the head
        return request.content.read_nowait()
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most:
                    raise GatewayError("REQUEST_TOO_LARGE")
    except TimeoutError:
        raise GatewayError("DEFAULT_4XX", "The body did not arrive in time") from None
    except (web.RequestPayloadError, ConnectionError):
        raise GatewayError("DEFAULT_4XX", "The body is damaged, or ended early") from None
    return bytes(body)


def _identity(request: web.BaseRequest, key_name: str | None) -> dict[str, Any]:
    presented = client_certificate(request.get_extra_info("ssl_object"))
    return {
        "apiKeyId": key_name,
        "sourceIp": request.remote or "",
        "userAgent": request.headers.get("User-Agent"),
        **({"clientCert": presented} if presented else {}),
    }


class _AccessLog:
    """One line of JSON in ASCII for each answer, on stderr: neither the event nor the key."""

    def __init__(self) -> None:
        self._descriptor = sys.stderr.fileno()
        # A file takes a write as one. In a pipe a long line of the audit log may be under way.
        is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._alone = contextlib.nullcontext() if is_file else audit.Alone(self._descriptor)

    def write(
        self,
        request: web.BaseRequest,
        request_id: str,
        caller: list[str],
        answer: events.Response,
        took: float,
    ) -> None:
        """Say what was asked, and what was answered after `took` seconds."""
        line = {
            "access": events.utc(int(time.time()), "%Y-%m-%dT%H:%M:%SZ"),
            "request_id": request_id,
            "source_ip": request.remote,
            "key": caller[0] if caller else None,
            "method": request.method[:_NOT_LOGGED],
            "path": request.rel_url.raw_path[:_NOT_LOGGED],
            "status": answer.status,
            "bytes": len(answer.body),
            "milliseconds": round(took * 1000, 1),
        }
        with contextlib.suppress(OSError), self._alone:  # a log that nobody reads is no reason not to answer
            os.write(self._descriptor, f"{to_json(line)}\n".encode("ascii"))


class Control:
    """The line to the foreman, who alone starts and ends processes."""

    def __init__(self, line: socket.socket, hung_up: Callable[[], None]) -> None:
        """Listen to the line; `hung_up` is called when the foreman is gone."""
        self._line = line
        self._hung_up = hung_up
        self._expected: deque[asyncio.Future[Process]] = deque()
        asyncio.get_running_loop().add_reader(line, self._hear)

    async def hire(self, instead_of: int | None) -> Process:
        """A new process of the function, in place of one that is ended.

        Raises:
            OSError: the foreman is gone.
        """
        expected = asyncio.get_running_loop().create_future()
        self._expected.append(expected)
        self.report(instead_of=instead_of)
        process: Process = await expected
        return process

    def report(self, **news: object) -> None:
        """Tell the foreman what we want, where we listen, or why we do not."""
        self._line.sendall(json.dumps(news).encode() + b"\n")

    def _hear(self) -> None:
        """One process at a time: each message carries one descriptor, which ends a read."""
        data, descriptors, _, _ = socket.recv_fds(self._line, 4096, 1)
        if descriptors:
            process = Process(json.loads(data)["number"], socket.socket(fileno=descriptors[0]))
            self._expected.popleft().set_result(process)
            return
        asyncio.get_running_loop().remove_reader(self._line)
        for expected in self._expected:
            expected.set_exception(ConnectionResetError("the foreman is gone"))
        self._hung_up()


async def _tls(configuration: Configuration, function: Function) -> Tls | None:
    if not configuration.tls_certificate:
        return None
    tls = Tls(configuration.tls_certificate, configuration.tls_key)
    if not configuration.tls_order:
        tls.load()
    if configuration.tls_clients:
        await tls.trust(function.invoke, configuration.tls_clients)
    return tls


async def serve(configuration: Configuration, line: socket.socket) -> int:
    """Serve until SIGTERM, SIGINT or the foreman's end; requests in flight are answered first."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in STOP:
        loop.add_signal_handler(each, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)  # as the foreman starts us they are blocked
    control = Control(line, stop.set)
    function = Function(control.hire)
    connections = Connections(bound())
    gateway = Gateway(configuration, function, connections)

    def connection() -> Connection:
        return Connection(manager, connections, gateway.malformed)

    manager = web.Server(gateway.handle)
    keeping: asyncio.Task[None] | None = None
    try:
        await function.start(configuration.workers)
        tls = await _tls(configuration, function)
        if tls and configuration.tls_order:
            ends = await tls.enroll(function.invoke, configuration.tls_order)
            keeping = asyncio.create_task(tls.keep(function.invoke, configuration.tls_order, ends))
        listener = await loop.create_server(
            connection,
            configuration.host,
            configuration.port,
            ssl=tls.context if tls else None,
            ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT if tls else None,
        )
    except (StartError, KeyFileError, OSError, UnicodeError) as error:
        control.report(failed=_failure(error, configuration))
        return 1
    control.report(port=listener.sockets[0].getsockname()[1])
    await stop.wait()
    listener.close()
    if keeping:
        keeping.cancel()
    await gateway.settle()
    await manager.shutdown(1)
    await function.stop()
    # The loop takes its handlers along: one more signal would end us by what it does by default.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    return 0


def _failure(error: Exception, configuration: Configuration) -> str:
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
    return why(error)


def main(arguments: list[str]) -> int:
    """Be the HTTP process: `DESCRIPTOR` of the line to the foreman."""
    secrecy.seal()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    with socket.socket(fileno=int(arguments[0])) as line:
        first = bytearray()
        while not first.endswith(b"\n"):
            chunk = line.recv(1 << 16)
            if not chunk:
                return 1
            first += chunk
        with contextlib.suppress(KeyboardInterrupt):
            return asyncio.run(serve(Configuration(**json.loads(first)), line))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
