"""The HTTP process: it answers from the document, and holds neither the CA's key nor its passphrase."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from service.gateway import mapping
from service.gateway.contract import Contract, GatewayError, Route
from service.gateway.function import Function, Process, StartError
from service.gateway.usage import KeyFile, KeyFileError, Keyring, Meter

MAX_PAYLOAD: Final = 10 * 1024 * 1024  # API Gateway's bound for a request
MAX_EVENT_BODY: Final = 4_500_000  # what base64 leaves of Lambda's 6 MB
BODY_TIMEOUT: Final = 30.0  # seconds for a client to send its body
SHUTDOWN_TIMEOUT: Final = 30.0  # seconds for requests in flight, longer than any integration's
_DEFAULT_INTEGRATION_TIMEOUT: Final = 29_000  # milliseconds, API Gateway's own
_NOT_LOGGED: Final = 200  # characters of a path that a log line keeps

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Configuration:
    """What the gateway is told when it starts, as one JSON object.

    Attributes:
        document: the contract.
        host, port: where to listen; port 0 takes a free one.
        workers: the function's concurrency.
        key_file: the file of API keys.
        extra_keys: name -> SHA-256 of keys that are in no file.
        unlimited: whether the usage plan is off.
    """

    document: dict[str, Any] = field(repr=False)
    host: str
    port: int
    workers: int
    key_file: str
    extra_keys: dict[str, str] = field(repr=False)
    unlimited: bool = False

    def encode(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


class Gateway:
    """One document, served."""

    def __init__(self, configuration: Configuration, function: Function) -> None:
        self._contract = Contract(configuration.document)
        self._function = function
        self._keys = Keyring(KeyFile(Path(configuration.key_file)), configuration.extra_keys)
        plan = None if configuration.unlimited else self._contract.plan
        self._meter = Meter(plan, time.monotonic, time.time) if plan else None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, and log it."""
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
        _access_log(request, request_id, caller, answer, time.monotonic() - began)
        headers = CIMultiDict(answer.headers)
        headers["x-amzn-RequestId"] = request_id
        headers["Server"] = "certlet"
        headers["x-amz-apigw-id"] = request_id.replace("-", "")[:16]
        return web.Response(status=answer.status, headers=headers, body=answer.body)

    async def _answer(self, request: web.BaseRequest, request_id: str, caller: list[str]) -> mapping.Answer:
        """Route, API key, usage plan, parameters, integration: API Gateway's order."""
        url = request.rel_url
        path = url.raw_path
        route, path_parameters = self._contract.route(request.method, path)
        key_name = self._identify(request) if route.needs_key else None
        caller += [key_name] if key_name else []
        if self._meter:
            self._meter.take(key_name)
        _require_parameters(route, request, url)
        read = mapping.Request(
            request_id=request_id,
            method=request.method,
            path=path,
            stage="",
            headers=request.headers,
            query=url.query,
            path_parameters=path_parameters,
            body=await _read_body(request),
            identity=_identity(request, key_name),
            protocol=f"HTTP/{request.version.major}.{request.version.minor}",
        )
        if route.integration["type"] == "mock":
            return mapping.mock_answer(read, route)
        if len(read.body) > MAX_EVENT_BODY:
            raise GatewayError("REQUEST_TOO_LARGE")
        timeout = route.integration.get("timeoutInMillis", _DEFAULT_INTEGRATION_TIMEOUT) / 1000
        event = mapping.proxy_event(read, route, self._contract)
        return mapping.proxy_answer(await self._function.invoke(event, timeout), read, self._contract)

    def _refusal(self, error: GatewayError, request_id: str) -> mapping.Answer:
        return mapping.gateway_answer(self._contract.gateway_response(error.kind), error, request_id)

    def _identify(self, request: web.BaseRequest) -> str:
        name = self._keys.identify(request.headers.get("x-api-key", ""))
        if name is None:
            raise GatewayError("INVALID_API_KEY")
        return name


def _require_parameters(route: Route, request: web.BaseRequest, url: URL) -> None:
    places = {"query": url.query, "header": request.headers}
    missing = [name for place, name in route.required if name not in places.get(place, {})]
    if missing:
        message = f"Missing required request parameters: [{', '.join(missing)}]"
        raise GatewayError("BAD_REQUEST_PARAMETERS", message)


async def _read_body(request: web.BaseRequest) -> bytes:
    if not request.can_read_body:
        return b""
    if (request.content_length or 0) > MAX_PAYLOAD:
        raise GatewayError("REQUEST_TOO_LARGE")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_PAYLOAD:
                    raise GatewayError("REQUEST_TOO_LARGE")
    except TimeoutError:
        raise GatewayError("DEFAULT_4XX", "The body did not arrive in time") from None
    return bytes(body)


def _identity(request: web.BaseRequest, key_name: str | None) -> dict[str, Any]:
    return {
        "apiKeyId": key_name,
        "sourceIp": request.remote or "",
        "userAgent": request.headers.get("User-Agent"),
    }


def _access_log(
    request: web.BaseRequest, request_id: str, caller: list[str], answer: mapping.Answer, took: float
) -> None:
    """One line of JSON in ASCII: neither the event nor the key."""
    line = {
        "access": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": request_id,
        "source_ip": request.remote,
        "key": caller[0] if caller else None,
        "method": request.method[:_NOT_LOGGED],
        "path": request.rel_url.raw_path[:_NOT_LOGGED],
        "status": answer.status,
        "bytes": len(answer.body),
        "milliseconds": round(took * 1000, 1),
    }
    sys.stderr.write(json.dumps(line, separators=(",", ":")) + "\n")


class Control:
    """The line to the foreman, who alone starts and ends processes."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._turn = asyncio.Lock()

    async def hire(self, instead_of: int | None) -> Process:
        """A new process of the function, in place of one that is ended."""
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(None, self._hire, instead_of)

    def _hire(self, instead_of: int | None) -> Process:
        self._line.sendall(json.dumps({"instead_of": instead_of}).encode() + b"\n")
        data, descriptors, _, _ = socket.recv_fds(self._line, 4096, 1)
        if not descriptors:
            raise StartError("the foreman is gone")
        return Process(json.loads(data)["number"], socket.socket(fileno=descriptors[0]))

    def report(self, **news: object) -> None:
        """Tell the foreman where we listen, or why we do not."""
        self._line.sendall(json.dumps(news).encode() + b"\n")


async def serve(configuration: Configuration, line: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT; requests in flight are answered first."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    control = Control(line)
    function = Function(control.hire)
    server = web.ServerRunner(
        web.Server(Gateway(configuration, function).handle, access_log=None, logger=_log),
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    try:
        await function.start(configuration.workers)
        await server.setup()
        site = web.TCPSite(server, configuration.host, configuration.port)
        await site.start()
    except (StartError, KeyFileError, OSError) as error:
        control.report(failed=" ".join(str(error).split()))
        return 1
    control.report(port=server.addresses[0][1])
    await stop.wait()
    await server.cleanup()
    await function.stop()
    return 0


def main(arguments: list[str]) -> int:
    """Be the HTTP process: `DESCRIPTOR` of the line to the foreman."""
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
