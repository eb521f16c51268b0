from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import contenders, endpoints, load
from bench.contenders import Server
from bench.load import BenchError, Refused
from service.keystore import ca_directory
from tests import servers


def test_failed_requests_invalidate_a_measurement(certlet: Server) -> None:
    """With a wrong API key the measurement fails; with the right one it succeeds."""
    endpoint = endpoints.sign(endpoints.requests())
    wrong_key = {**endpoint.headers, "x-api-key": "wrong"}
    with pytest.raises(Refused, match=r"'refused': [1-9]"):
        load.run(certlet.pid, certlet.url + endpoint.path, wrong_key, endpoint.bodies, 1, 1)
    result = load.run(certlet.pid, certlet.url + endpoint.path, endpoint.headers, endpoint.bodies, 1, 1)
    assert result.requests > 0
    assert result.cpu > 0


def test_certificates_of_another_ca_invalidate_a_measurement(certlet: Server, directory: Path) -> None:
    """Each certificate must be issued by the server's CA."""
    endpoint = endpoints.sign(endpoints.requests())
    assert contenders.verify(certlet, endpoint, 7) > 1000
    assert servers.certlet("init", directory / "other", cwd=directory).returncode == 0
    with pytest.raises(BenchError, match="another issuer than the CA"):
        contenders.verify(replace(certlet, ca=directory / "other"), endpoint, 7)


def test_certificates_for_another_request_invalidate_a_measurement(certlet: Server) -> None:
    """Each certificate must have the key and name of its request."""
    endpoint = endpoints.sign(endpoints.requests())
    with pytest.raises(BenchError, match="another key or name"):
        contenders.verify(certlet, replace(endpoint, csrs=endpoint.csrs[1:]), 0)


def test_failures_within_a_batch_invalidate_a_measurement(certlet: Server) -> None:
    """A batch is 200 even if nothing was signed; the size of the responses shows this."""
    endpoint = endpoints.sign_batch(endpoints.requests()[:20])
    garbage = json.dumps({"requests": [{"csr": "garbage"}] * 20}).encode()
    assert contenders.measure(certlet, endpoint, 1, 1).requests > 0
    with pytest.raises(BenchError, match="bytes per response under load"):
        contenders.measure(certlet, replace(endpoint, bodies=(endpoint.bodies[0], *[garbage] * 9)), 1, 1)


def test_all_processes_of_a_server_run_on_its_core(certlet: Server) -> None:
    """Supervisor, gateway and worker run only on the server's core."""
    processes = [certlet.pid, *servers.descendant_pids(certlet.pid)]
    assert len(processes) == 3
    assert {frozenset(os.sched_getaffinity(pid)) for pid in processes} == {frozenset({load.cores()[0]})}


@pytest.mark.parametrize("start", [contenders.certlet, contenders.cfssl])
def test_servers_stop_after_a_failure(start: Any, tmp_path: Path, ca: Path) -> None:
    """No process is left when the benchmark fails."""
    processes: list[int] = []
    with contextlib.suppress(KeyError), start(tmp_path / "server", ca) as server:
        processes = [server.pid, *servers.descendant_pids(server.pid)]
        raise KeyError
    assert processes
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_cfssl_start_failure_is_reported(tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains cfssl's message; a cfssl that starts without a CA and cannot sign is an error too."""
    (tmp_path / ca_directory.SIGNING_CERTIFICATE).write_bytes(
        (ca / ca_directory.SIGNING_CERTIFICATE).read_bytes()
    )
    with (
        contenders.cfssl(tmp_path / "idle", tmp_path) as server,
        pytest.raises(BenchError, match="/sign: 404"),
    ):
        contenders.verify(server, endpoints.cfssl_sign(endpoints.requests()), 0)
    monkeypatch.setattr(contenders, "CFSSL_POLICY", {"signing": {"default": {"expiry": "soon"}}})
    with (
        pytest.raises(BenchError, match=r"did not start: [\s\S]*soon"),
        contenders.cfssl(tmp_path / "other", ca),
    ):
        pass
