"""Rules of the gateway's processes that no case in the table covers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from service import aws_lambda
from service.gateway.worker import Context
from tests import servers
from tests.gateway import second_api
from tests.gateway.test_failure_modes import POST, connect, receive
from tests.servers import API_KEY, certlet


def test_remaining_time_is_never_negative() -> None:
    """After the deadline it is 0, as on Lambda."""
    assert Context("id", time.monotonic() - 5).get_remaining_time_in_millis() == 0
    assert Context("id", 0).aws_request_id == "id"


def test_event_is_normalised_for_wsgi() -> None:
    """Query values are complete, header names have their usual spelling, and ambiguous headers are dropped."""
    normalise = aws_lambda._normalise_event
    normalised = normalise(
        {
            "path": "/sign/",
            "headers": {"content-type": "a", "upgrade": "h2c", "connection": "x", "X_Y": "z"},
            "multiValueQueryStringParameters": {"p": ["1", "2"]},
            "queryStringParameters": {"p": "2"},
        }
    )
    assert normalised["path"] == "/sign"
    assert normalised["headers"] == {"Content-Type": "a", "X-Forwarded-Port": "443"}
    assert normalised["queryStringParameters"] == [("p", "1"), ("p", "2")]
    bare = normalise(
        {"path": "/", "headers": {"X-Forwarded-Port": "8443"}, "queryStringParameters": {"p": "2"}}
    )
    assert (bare["path"], bare["headers"]["X-Forwarded-Port"]) == ("/", "8443")
    assert bare["queryStringParameters"] == [("p", "2")]
    assert normalise({"path": "/", "headers": None})["headers"] == {"X-Forwarded-Port": "443"}


def test_gateway_logs_key_name_and_limits_bodies(tmp_path: Path) -> None:
    """The access log omits the key's value; limits apply with and without Content-Length; a 504 ends the worker."""
    document = second_api.document()
    with second_api.gateway_server(tmp_path, document) as server:
        first = server.request("GET", "/books")
        assert first.headers["Server"] == "certlet"
        pid = first.json()["pid"]
        assert server.request("GET", "/books?do=unencodable").status == 502
        assert server.request("GET", "/books").json()["pid"] == pid
        assert server.request("POST", "/books?secret=1", b"{}", {"x-api-key": API_KEY}).status == 200
        record = json.loads(server.read_log().splitlines()[-1])
        values = [record[name] for name in ("key", "method", "path", "status")]
        assert values == ["reader", "POST", "/books", 200]
        assert API_KEY not in server.read_log()
        with connect(server) as client:
            chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
            client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 11)
            assert b" 413 " in receive(client).partition(b"\r\n")[0]
        with connect(server) as client:  # refused by its Content-Length, before any byte arrives
            client.sendall(POST + b"Content-Length: 10485761\r\n\r\n")
            assert b" 413 " in receive(client).partition(b"\r\n")[0]
        assert server.request("POST", "/books", b"x" * 1_000_000, {"x-api-key": API_KEY}).status == 200
        with connect(server) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert receive(client, until=b"never")  # times out unless the connection is closed
        assert server.request("GET", "/books?do=hang").status == 504
        servers.wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_completes_requests_in_progress(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT let requests in progress complete, including one with an incomplete body."""
    with second_api.gateway_server(tmp_path, second_api.document(), workers=2) as server:
        assert server.request("GET", "/books").status == 200
        with concurrent.futures.ThreadPoolExecutor(1) as pool, connect(server) as client:
            slow_call = pool.submit(server.request, "GET", "/books?do=nap")
            client.sendall(POST + b"Content-Length: 4\r\n\r\nab")
            servers.wait_until(lambda: second_api.count_begun(server) == 1)
            time.sleep(0.1)
            server.process.send_signal(number)
            time.sleep(0.15)
            client.sendall(b"cd")
            assert b" 200 OK" in receive(client)
            assert slow_call.result().status == 200
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.read_log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_repeated_stop_signals_complete_requests_in_progress(tmp_path: Path, number: int) -> None:
    """If all processes get many signals, requests in progress still complete, and nothing is logged."""
    with second_api.gateway_server(tmp_path, second_api.document(), workers=2) as server:
        assert server.request("GET", "/books").status == 200
        pids = [server.process.pid, *servers.child_pids(server.process.pid)]
        assert len(pids) == 4
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow_call = pool.submit(server.request, "GET", "/books?do=nap")
            servers.wait_until(lambda: second_api.count_begun(server) == 1)
            deadline = time.monotonic() + 10
            while server.process.poll() is None and time.monotonic() < deadline:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(0.002)
            assert slow_call.result().status == 200
        assert server.process.wait(10) == 0
        assert [line for line in server.read_log().splitlines() if not line.startswith('{"access":')] == []


def test_killed_gateway_is_reported(tmp_path: Path) -> None:
    """If another process kills the gateway, the exit status is 1, with an error."""
    with servers.certlet_server(tmp_path, "--ephemeral") as server:
        (gateway,) = server.pids("server")
        os.kill(gateway, signal.SIGKILL)
        assert server.process.wait(20) == 1
        assert server.read_log().endswith("certlet: the gateway was killed by signal 9\n")


def test_port_in_use_is_reported(tmp_path: Path) -> None:
    """The error is one line and suggests what to do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        run = certlet("serve", "--ephemeral", "--port", str(port), cwd=tmp_path)
    assert run.returncode == 1
    error = f"certlet: 127.0.0.1:{port} is in use, perhaps by another certlet serve: choose another --port"
    assert run.stderr.decode().splitlines() == [error]


def test_handler_import_error_prevents_start(tmp_path: Path) -> None:
    """The error contains the reason."""
    expected_error = pytest.raises(AssertionError, match="No module named 'nowhere'")
    with expected_error, second_api.gateway_server(tmp_path, second_api.document(), "nowhere.handler"):
        pass
