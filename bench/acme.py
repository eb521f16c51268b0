"""Compare ACME of Certlet and of Debian's pebble: processor time of an issuance, by the same client."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from bench import contenders, load
from bench.contenders import KEY_TYPES, Server
from bench.load import BenchError
from bench.results import Spread, Target
from bench.settings import Settings
from service.keystore import ca_directory
from tests import csrs, servers
from tests.servers import Response
from tests.web import jws_requests
from tests.web.acme_client import AcmeClient

PRINCIPAL: Final = "bench"
PEBBLE: Final = "pebble"
MAX_RATIO: Final = 2.0  # to pebble's processor time
PEBBLE_SETTINGS: Final = {
    "PEBBLE_VA_ALWAYS_VALID": "1",
    "PEBBLE_VA_NOSLEEP": "1",
    "PEBBLE_WFE_NONCEREJECT": "0",
    "GOMAXPROCS": "1",
}
_WARM_UP: Final = 5  # issuances before the first round
_POLL: Final = 0.02  # seconds until the client asks again for an order
_MAX_POLLS: Final = 100


@dataclass(frozen=True)
class Issuances:
    """The measurement of some issuances, one after the other.

    Attributes:
        count: the number of issuances.
        requests: the number of their requests.
        cpu: seconds of processor time of all of the server's processes.
        waited: seconds that the client waited for responses.
    """

    count: int
    requests: int
    cpu: float
    waited: float


@dataclass(frozen=True)
class AcmeFigures:
    """The figures of Certlet and pebble, with one CA of Certlet's.

    Attributes:
        ca: the type of the key of Certlet's CA; pebble's own CA has an RSA key of 2,048 bits.
        requests: requests per certificate, of Certlet and of pebble.
        cpu: microseconds of processor time per certificate, of each.
        waited: milliseconds per certificate that the client waited for responses; medians, of each.
        ratio: processor time per certificate, relative to pebble's.
        target: the target of the ratio.
    """

    ca: str
    requests: tuple[float, float]
    cpu: tuple[Spread, Spread]
    waited: tuple[float, float]
    ratio: Spread
    target: Target


class Client(AcmeClient):
    """A client with one connection, which counts requests and the time that it waits for responses."""

    def __init__(self, url: str, ca_file: Path) -> None:
        """Use the directory at an HTTPS URL."""
        address = urllib.parse.urlsplit(url).netloc
        context = ssl.create_default_context(cafile=str(ca_file))
        self._connection = http.client.HTTPSConnection(address, context=context, timeout=30)
        self.requests = 0
        self.waited = 0.0
        super().__init__(self._send, url)

    @functools.cached_property
    def directory(self) -> dict[str, Any]:  # read once, as clients do
        """The directory."""
        directory: dict[str, Any] = self.send("GET", self._directory_url, None, {}).json()
        return directory

    def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        started = time.perf_counter()
        self._connection.request(method, urllib.parse.urlsplit(url).path, body, dict(headers))
        response = self._connection.getresponse()
        content = response.read()
        self.waited += time.perf_counter() - started
        self.requests += 1
        return Response(response.status, response.headers, content)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get_certificate(self, *names: str) -> list[x509.Certificate]:
        """Order, respond to challenges that are pending, finalize, and download; return the chain.

        Raises:
            BenchError: the server refuses, or the certificate is wrong.
        """
        response = self.order(*(f"dns:{name}" for name in names))
        url, order = response.headers["Location"] or "", _parse(response)
        if order["status"] == "pending":
            for authorization_url in order["authorizations"]:
                challenges = _parse(self.post(authorization_url))["challenges"]
                _parse(self.post(challenges[0]["url"], {}))
            order = self._wait_for(url, "ready")
        csr = csrs.build(None, [f"dns:{name}" for name in names])
        order = _parse(self.post(order["finalize"], {"csr": jws_requests.encode(csrs.encode_der(csr))}))
        if order["status"] != "valid":
            order = self._wait_for(url, "valid")
        chain = x509.load_pem_x509_certificates(self.post(order["certificate"]).body)
        contenders.verify_certificate(csr, *chain[:2])
        return chain

    def _wait_for(self, url: str, status: str) -> dict[str, Any]:
        for _ in range(_MAX_POLLS):
            time.sleep(_POLL)
            order = _parse(self.post(url))
            if order["status"] == status:
                return order
        raise BenchError(f"{url}: the order is {order['status']}, not {status}")


def _parse(response: Response) -> dict[str, Any]:
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise BenchError(f"{response.status} {response.body.decode()}")
    document: dict[str, Any] = response.json()
    return document


@contextlib.contextmanager
def certlet(directory: Path, ca: Path) -> Iterator[tuple[Server, Client]]:
    """Run Certlet with one worker, TLS and a ledger, and register a client."""
    directory.mkdir()
    if (added := servers.certlet("acme", "add", PRINCIPAL, "--ca", ca, cwd=directory)).returncode:
        raise BenchError(added.stderr.decode())
    options = ["--tls", "--ledger=ledger.sqlite", "--workers=1", "--no-usage-plan", "--audit-log=audit.log"]
    command = load.pinned(load.cores()[0], [*servers.SERVE, "--port", "0", "--ca", str(ca)])
    with servers.certlet_server(directory, *options, command=command) as server:
        client = Client(f"{server.url}/acme/directory", ca / ca_directory.ROOT_CERTIFICATE)
        key = ca_directory.load_acme_key(ca)
        assert key  # noqa: S101 - `acme add` has created it
        binding = client.binding(key, PRINCIPAL)
        with _registered(client, externalAccountBinding=binding):
            yield Server(server.process.pid, server.url, ca), client


@contextlib.contextmanager
def pebble(directory: Path, certlet: Server) -> Iterator[tuple[Server, Client]]:
    """Run pebble, with a TLS certificate from Certlet, and register a client."""
    directory.mkdir()
    root = certlet.ca / ca_directory.ROOT_CERTIFICATE
    trust = {"CERTLET_API_KEY": servers.API_KEY, "SSL_CERT_FILE": str(root)}
    new = ("new", "127.0.0.1", "--out", "tls", "--url", certlet.url)
    if (created := servers.certlet(*new, cwd=directory, env=trust)).returncode:
        raise BenchError(created.stderr.decode())
    port, log = servers.free_port(), directory / "pebble.log"
    addresses = {"listenAddress": f"127.0.0.1:{port}", "managementListenAddress": ""}
    files = {"certificate": "tls.crt", "privateKey": "tls.key"}
    (directory / "pebble.json").write_text(json.dumps({"pebble": {**addresses, **files}}))
    command = [PEBBLE, "-config", "pebble.json"]
    environ = {**os.environ, **PEBBLE_SETTINGS}
    pinned = load.pinned(load.cores()[0], command)
    with contenders.background(pinned, directory, environ, log, port) as process:
        client = Client(f"https://127.0.0.1:{port}/dir", root)
        with _registered(client, termsOfServiceAgreed=True):
            yield Server(process.pid, f"https://127.0.0.1:{port}", certlet.ca), client


@contextlib.contextmanager
def _registered(client: Client, **payload: object) -> Iterator[None]:
    with contextlib.closing(client):
        response = client.post(client.directory["newAccount"], payload)
        _parse(response)
        client.account = response.headers["Location"] or ""
        yield


def measure(server: Server, client: Client, names: Iterator[int], count: int) -> Issuances:
    """Get certificates for two new names each, one after the other, with the client on the other core.

    Raises:
        BenchError: the server refuses, a certificate is wrong, or a process of the server ended.
    """
    requests, waited = client.requests, client.waited
    with load.processor_time(server.pid) as cpu, load.pinned_to(load.cores()[1]):
        for number in itertools.islice(names, count):
            client.get_certificate(f"n{number}.example.com", f"m{number}.example.com")
    return Issuances(count, client.requests - requests, cpu(), client.waited - waited)


def compare(settings: Settings) -> list[AcmeFigures]:
    """Measure both servers in turn, in rounds.

    Args:
        settings: how much to measure.

    Raises:
        BenchError: as `measure`, or a server does not start.
    """
    figures = []
    names = itertools.count()
    for key_type in KEY_TYPES:
        with tempfile.TemporaryDirectory(prefix="certlet-bench-") as temporary, ExitStack() as stack:
            directory = Path(temporary)
            ca = contenders.create_ca(directory, key_type)
            ours = stack.enter_context(certlet(directory / "certlet", ca))
            pair = (ours, stack.enter_context(pebble(directory / PEBBLE, ours[0])))
            for server, client in pair:
                measure(server, client, names, _WARM_UP)
            measured = []
            for number in range(settings.rounds):
                measured.append(
                    [measure(server, client, names, settings.issuances) for server, client in pair]
                )
                sys.stderr.write(f"ACME, {key_type} CA: round {number + 1} of {settings.rounds}\n")
            figures.append(_figures(key_type, measured))
    return figures


def _figures(ca: str, rounds: list[list[Issuances]]) -> AcmeFigures:
    certlet, pebble = zip(*rounds, strict=True)
    costs = [[item.cpu / item.count * 1e6 for item in items] for items in (certlet, pebble)]
    waited, requests = (
        tuple(
            statistics.median(getattr(item, name) / item.count for item in items)
            for items in (certlet, pebble)
        )
        for name in ("waited", "requests")
    )
    ratio = Spread.ratio(costs[0], costs[1])
    return AcmeFigures(
        ca,
        (requests[0], requests[1]),
        (Spread.of(costs[0]), Spread.of(costs[1])),
        (waited[0] * 1e3, waited[1] * 1e3),
        ratio,
        Target.maximum(MAX_RATIO, ratio.median),
    )
