"""The plain HTTP listener next to HTTPS, which serves the status of certificates, on real sockets."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.gateway import connections
from tests import csrs, factories, servers
from tests.est.devices import client_context
from tests.gateway.test_connections import DESCRIPTORS, HALF_A_HEAD, is_open
from tests.gateway.test_failure_modes import connect, receive
from tests.servers import API_KEY, Server

PEM = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))


def status_server(server: Server) -> Server:
    """Return the same server, at its printed URL for certificate status."""
    (url,) = re.findall(r"^Status    (http://\S+) \(", "\n".join(server.output), re.MULTILINE)
    return Server(url, server.process, server.output, server.log)


@contextlib.contextmanager
def https_server(directory: Path, *arguments: str, **options: list[str]) -> Iterator[tuple[Server, Server]]:
    """Run `certlet serve --tls`: its HTTPS and its plain HTTP."""
    command = options.get("command", servers.SERVE)
    arguments = ("--tls", "--no-usage-plan", *(() if "--port" in arguments else ("--port", "0")), *arguments)
    with servers.certlet_server(directory, *arguments, command=command) as server:
        yield server, status_server(server)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    with https_server(tmp_path_factory.mktemp("plain-http")) as servers_of_both:
        yield servers_of_both


def test_openssl_and_curl_fetch_the_status_by_plain_http(both: tuple[Server, Server], tmp_path: Path) -> None:
    """`openssl ocsp` verifies the response, and curl gets the CRL and the issuer's certificate."""
    https, plain = both
    context, headers = client_context(https), {"x-api-key": API_KEY, "Content-Type": "application/pkcs10"}
    chain = https.request("POST", "/sign.pem", PEM, headers, context).body
    (tmp_path / "leaf.pem").write_bytes(chain)
    root = https.log.parent / "ca" / "root-ca.crt"
    for name in ("ca.crt", "ca.crl"):
        servers.run("curl", "-sSf", "-o", name, f"{plain.url}/{name}", cwd=tmp_path)
    for kind, out in (("x509", "issuer.pem"), ("crl", "crl.pem")):
        name = "ca.crt" if kind == "x509" else "ca.crl"
        servers.run("openssl", kind, "-inform", "DER", "-in", name, "-out", out, cwd=tmp_path)
    ocsp = ("openssl", "ocsp", "-issuer", "issuer.pem", "-CAfile", root, "-cert", "leaf.pem")
    asked = servers.run(*ocsp, "-url", f"{plain.url}/ocsp", cwd=tmp_path)
    assert "Response verify OK" in asked.stderr
    assert "leaf.pem: good" in asked.stdout
    check = ("-crl_check", "-CRLfile", "crl.pem", "-CAfile", root, "-untrusted", "issuer.pem")
    servers.run("openssl", "verify", *check, "leaf.pem", cwd=tmp_path)


def test_marked_operations_are_served_and_no_others(both: tuple[Server, Server]) -> None:
    """Every operation of the contract is tried: only those with x-plain-http reach the function."""
    https, plain = both
    values = {"request": "AAAA", "key_id": "0" * 40, "certificate_id": "AA.AA", "label": "server"}
    served = set()
    for path, item in factories.document()["paths"].items():
        for method in item.keys() & {"get", "post"}:
            target = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], "0"), path)
            response = plain.request(method.upper(), target, b"x" if method == "post" else None)
            if response.status != 403:
                served.add((method, path))
                continue
            assert response.json()["code"] == "httpsRequired"
            assert response.json()["detail"].endswith(f": use {https.url}")
    assert served == {
        ("post", "/ocsp"),
        *(("get", path) for path in ("/ca.crl", "/ca.crt", "/ca.p7c", "/crl/{key_id}", "/issuer/{key_id}")),
        ("get", "/ocsp/{request}"),
    }
    marked = {
        (method, path)
        for path, item in factories.document()["paths"].items()
        for method, operation in item.items()
        if operation.get("x-plain-http")
    }
    assert served == marked


def test_head_of_the_crl_is_served_by_plain_http(both: tuple[Server, Server]) -> None:
    response = both[1].request("HEAD", "/ca.crl")
    assert (response.status, response.body) == (200, b"")
    assert int(response.headers["Content-Length"]) > 100
    assert both[1].request("HEAD", "/sign").status == 403


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/health", "/nothing", "/ca.crl/x", "/root.crt"])
def test_other_paths_name_the_https_url(both: tuple[Server, Server], path: str) -> None:
    """The response is a problem and no redirect, which a client would only follow after it sent its key."""
    response = both[1].request("GET", path)
    assert (response.status, response.json()["code"]) == (403, "httpsRequired")
    assert response.headers["Location"] is None
    assert both[0].request("GET", path, context=client_context(both[0])).status in (200, 404)


def test_api_key_over_plain_http_signs_nothing_and_is_not_logged(both: tuple[Server, Server]) -> None:
    https, plain = both
    refused = '"path":"/sign.pem","status":403'
    before = https.read_log()
    for headers in ({"x-api-key": API_KEY}, {"Authorization": f"Basic {API_KEY}"}):
        response = plain.request("POST", "/sign.pem", PEM, headers)
        assert (response.status, response.json()["code"]) == (403, "httpsRequired")
    servers.wait_until(lambda: https.read_log().count(refused) == before.count(refused) + 2)
    assert https.read_log().count('"event":"intent"') == before.count('"event":"intent"')
    assert API_KEY not in https.read_log()


def test_tls_on_the_plain_port_is_refused(both: tuple[Server, Server]) -> None:
    with connect(both[1]) as client:
        client.sendall(bytes.fromhex("16030100050100000100"))
        client.shutdown(socket.SHUT_WR)
        assert not receive(client).startswith(b"HTTP/1.1 2")
    assert both[1].request("GET", "/ca.crl").status == 200


def test_slow_clients_do_not_delay_the_other_listener(both: tuple[Server, Server]) -> None:
    """100 incomplete requests by plain HTTP delay neither HTTPS nor plain HTTP by a second."""
    https, plain = both
    with contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(connect(plain))
            head = b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nx"
            client.sendall(head if number % 2 else HALF_A_HEAD)
        for server, context in ((https, client_context(https)), (plain, None)):
            start = time.monotonic()
            assert server.request("GET", "/ca.crl", context=context).status == 200
            assert time.monotonic() - start < 1


def test_limit_of_connections_is_that_of_both_listeners(tmp_path: Path) -> None:
    """Idle clients of HTTPS are closed when there are too many of plain HTTP."""
    limited = ["bash", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "bash", *servers.SERVE]
    limit = DESCRIPTORS - connections.RESERVED_FDS
    with (
        https_server(tmp_path, "--ephemeral", command=limited) as (https, plain),
        contextlib.ExitStack() as stack,
    ):
        # `--ephemeral` deletes its root: an idle connection needs no handshake.
        idle = [stack.enter_context(connect(https)) for _ in range(5)]
        assert plain.request("GET", "/ca.crl").status == 200  # so these were accepted
        assert all(map(is_open, idle))
        for _ in range(limit):
            stack.enter_context(connect(plain))
        assert plain.request("GET", "/ca.crl").status == 200
        assert not any(map(is_open, idle))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_completes_a_plain_request_in_progress(tmp_path: Path, number: int) -> None:
    """Both listeners stop accepting, and a request with an incomplete body gets its response."""
    with https_server(tmp_path) as (https, plain), connect(plain) as client:
        client.sendall(
            b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Type: application/ocsp-request\r\nContent-Length: 2\r\n\r\nx"
        )
        time.sleep(0.3)
        https.process.send_signal(number)
        time.sleep(0.3)
        for server in (https, plain):
            with pytest.raises(ConnectionRefusedError), connect(server):
                pass
        client.sendall(b"x")
        assert b" 200 OK" in receive(client)
        assert https.process.wait(20) == 0
        assert "Traceback" not in https.read_log()


def test_status_port_in_use_is_reported(tmp_path: Path) -> None:
    """The error is one line with the option to change; no process stays, and the main port is free again."""
    port = servers.free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        used = other.getsockname()[1]
        arguments = ("--ephemeral", "--tls", "--port", str(port), "--status-port", str(used))
        failed = servers.certlet("serve", *arguments, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert failed.returncode == 1
    error = (
        f"certlet: 127.0.0.1:{used} is in use, perhaps by another certlet serve: choose another --status-port"
    )
    assert [line for line in failed.stderr.decode().splitlines() if not line.startswith("{")] == [error]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("certlet-")]
    socket.create_server(("127.0.0.1", port)).close()


def test_status_port_follows_the_port_by_default(tmp_path: Path) -> None:
    """It is the next port; --no-status-port opens none."""
    port = servers.free_port()
    with https_server(tmp_path, "--port", str(port)) as (https, plain):
        assert (https.port, plain.port) == (port, port + 1)
    off = ("--tls", "--no-status-port", "--port", str(port))
    with servers.certlet_server(tmp_path, *off, command=servers.SERVE) as server:
        assert not [line for line in server.output if line.startswith("Status")]
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port + 1)):
            pass


def test_server_without_https_has_no_second_listener(tmp_path: Path, server: Server) -> None:
    """Its listener serves everything by plain HTTP, so --status-port is refused."""
    assert not [line for line in server.output if line.startswith("Status")]
    assert server.request("GET", "/health").status == 200
    refused = servers.certlet("serve", "--status-port", "0", cwd=tmp_path)
    assert refused.returncode == 2
    assert b"--status-port requires --tls, or --tls-cert and --tls-key" in refused.stderr


def test_public_url_and_stage_are_in_the_refusal(tmp_path: Path) -> None:
    """The refusal names the public URL, if there is one; the URL for certificate status has the stage."""
    options = ("--stage", "prod", "--url", "https://ca.example.com/x")
    with https_server(tmp_path, *options) as (_, plain):
        assert plain.url.endswith("/prod")
        assert plain.request("GET", "/ca.crl").status == 200
        assert plain.request("GET", "/sign").json()["detail"].endswith(": use https://ca.example.com/x")
