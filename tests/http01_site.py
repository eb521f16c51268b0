"""`certlet serve`, a name server and web servers on port 80, in a network namespace: see `tests.test_http01`.

The process prints the results of all scenarios as JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from service.keystore.acme_principals import ACME_PRINCIPALS
from service.pki.acme_key import AcmeKey
from tests import servers
from tests.servers import Response, Server
from tests.web import jws_requests
from tests.web.acme_client import AcmeClient

URL: Final = "https://ca.example"
PROFILES: Final = "principals: {web: {dns: {}, ip: {}, challenge: http-01}}\n"
NETWORK: Final = "127.0.0.0/28"
# Each name has the addresses for its queries, of which the last one remains.
ADDRESSES: Final = {
    "good.example.com": ["127.0.0.1"],
    "second.example.com": ["127.0.0.1"],
    "other.example.com": ["127.0.0.2"],
    "slow.example.com": ["127.0.0.3"],
    "rebinding.example.com": ["127.0.0.14", "127.0.0.100"],
    "forbidden.example.com": ["127.0.0.100"],
}


class Site:
    """The servers, and what they were asked."""

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """The name server has these addresses. It does not answer queries for other names."""
        self.addresses = addresses
        self.queries: Counter[str] = Counter()
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}
        self.is_slow = True

    def start(self, *web_servers: str) -> None:
        """Start the network interface, the name server and the web servers with these addresses."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interface:
            fcntl.ioctl(
                interface, 0x8914, struct.pack("16sh14x", b"lo", 1)
            )  # netdevice(7): SIOCSIFFLAGS, IFF_UP
        name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        name_server.bind(("127.0.0.1", 53))
        threading.Thread(target=self._answer_queries, args=(name_server,), daemon=True).start()
        for address in web_servers:
            listener = socket.create_server((address, 80), backlog=100)
            threading.Thread(target=self._accept, args=(listener, address), daemon=True).start()

    def _answer_queries(self, name_server: socket.socket) -> None:
        while True:
            query, client = name_server.recvfrom(512)
            labels, position = [], 12
            while size := query[position]:  # RFC 1035 4.1.2
                labels.append(query[position + 1 : position + 1 + size].decode())
                position += 1 + size
            name, is_a = ".".join(labels), query[position + 1 : position + 3] == b"\0\1"
            addresses = self.addresses.get(name)
            if addresses is None:
                continue
            answer, has_answer = b"", bool(is_a and addresses)
            if has_answer:
                address = addresses[min(self.queries[name], len(addresses) - 1)]
                self.queries[name] += 1
                answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address)
            header = query[:2] + b"\x81\x80\0\1\0" + bytes([has_answer]) + b"\0\0\0\0"
            name_server.sendto(header + query[12 : position + 5] + answer, client)

    def _accept(self, listener: socket.socket, address: str) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._respond, args=(connection, address), daemon=True).start()

    def _respond(self, connection: socket.socket, address: str) -> None:
        with connection, contextlib.suppress(OSError):
            path = connection.recv(65536).split()[1].decode()
            self.requests.append(f"{address} {path}")
            while address == "127.0.0.3" and self.is_slow:
                connection.sendall(b"H")
                time.sleep(0.2)
            body = b"other octets" if address == "127.0.0.2" else self.files.get(path, b"")
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)


class Order:
    """An order for one name, whose challenge has a file on the web servers."""

    def __init__(self, site: Site, client: AcmeClient, name: str) -> None:
        self._client = client
        ordered = client.order(name)
        assert ordered.status == 201, ordered.body
        self.order: dict[str, Any] = ordered.json()
        authorization = client.post(self.order["authorizations"][0]).json()
        (challenge,) = authorization["challenges"]
        thumbprint = client.key.thumbprint()
        token = challenge["token"]
        site.files[f"/.well-known/acme-challenge/{token}"] = f"{token}.{thumbprint}\n".encode()
        started = client.post(challenge["url"], {})
        assert (started.status, started.json()["status"]) == (200, "processing"), started.body

    def wait(self) -> dict[str, Any]:
        """Poll until the challenge has ended, and return it."""
        deadline = time.monotonic() + 60
        while True:
            authorization = self._client.post(self.order["authorizations"][0]).json()
            if authorization["status"] != "pending":
                return dict(authorization["challenges"][0])
            assert time.monotonic() < deadline, authorization
            time.sleep(0.1)


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[tuple[Server, AcmeClient]]:
    """Run the CA, and register a client."""
    servers.create_ca(directory / "ca")
    (directory / "ca" / "acme.key").write_bytes(bytes(32))
    (directory / "ca" / ACME_PRINCIPALS).write_text("web: {generation: 1}\n")
    (directory / "profiles.yaml").write_text(PROFILES)
    options = ("--no-usage-plan", "--url", URL, "--ledger", "ledger.db", "--workers", "2")
    policy = ("--profiles", "profiles.yaml", "--acme-network", NETWORK)
    with servers.certlet_server(directory, *options, *policy) as server:

        def send(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
            return server.request(method, url.removeprefix(URL), body, headers)

        client = AcmeClient(send, f"{URL}/acme/directory", jws_requests.P256)
        registered = client.register(AcmeKey(bytes(32)), "web")
        assert registered.status == 201, registered.body
        yield server, client


def validator_of(server: Server) -> int:
    """The process that validates; waits until there is one."""
    pids: list[int] = []

    def find() -> bool:
        pids[:] = [pid for pid, module in server.processes().items() if module == "service.http_validator"]
        return bool(pids)

    servers.wait_until(find)
    return pids[0]


def run(directory: Path) -> dict[str, Any]:
    """Run all scenarios; those that wait for time-outs at the same time."""
    site = Site(ADDRESSES)
    results: dict[str, Any] = {}
    site.start("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.100")
    with serve(directory) as (server, client):
        validator = validator_of(server)
        lost = Order(site, client, "dns:slow.example.com")  # the validator is killed while it validates
        servers.wait_until(lambda: any(request.startswith("127.0.0.3") for request in site.requests))
        os.kill(validator, signal.SIGKILL)
        queued = Order(site, client, "dns:second.example.com")  # while there is no validator
        site.is_slow = False
        names = (
            "dns:stalled.example.com",
            *(f"dns:{name}" for name in ADDRESSES if "slow" not in name and "second" not in name),
        )
        orders = {name: Order(site, client, name) for name in (*names, "ip:127.0.0.1", "ip:127.0.0.100")}
        for name, order in orders.items():
            results[name] = order.wait()
        results["queued"], results["lost"] = queued.wait(), lost.wait()
        finalized = client.finalize(orders["dns:good.example.com"].order)
        results["finalized"] = finalized.json()
        results["refused"] = client.finalize(orders["dns:other.example.com"].order).json()
        results["validators"] = [validator, validator_of(server)]
        results["queries"], results["requests"] = dict(site.queries), site.requests
        results["log"] = server.read_log()
        server.stop()
    return results


if __name__ == "__main__":
    json.dump(run(Path(sys.argv[1])), sys.stdout)
