"""Failures under load cause the documented responses (docs/reference/failure-modes.md).

No certificate is signed or returned without an intent in the audit log.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from tests import csrs, servers
from tests.assertions import assert_problem, uuid7
from tests.load import load_generator
from tests.load.load_generator import AuditLog, ClientReport, LoadGenerator, Outcome
from tests.servers import Response, Server, wait_until

SERVE = ("--workers", "2", "--no-usage-plan", "--audit-log", "audit.log")
PROFILES = ("--profiles", str(load_generator.PROFILES))
CSR = csrs.encode_pem(csrs.build()).decode()


def start_load(server: Server, directory: Path, calls: int = 150) -> LoadGenerator:
    """Start clients that do not repeat a call after 503, and wait until they have made `calls` calls."""
    load = LoadGenerator(server, directory, is_patient=False)
    wait_until(lambda: load.calls() >= calls)
    return load


def wait_for_calls(load: LoadGenerator, count: int) -> None:
    """Wait until the clients have made `count` more calls."""
    calls = load.calls() + count
    wait_until(lambda: load.calls() >= calls)


def undocumented_outcomes(reports: list[ClientReport]) -> list[Outcome]:
    """The responses that a server without failures does not send."""
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    return [
        outcome
        for outcome in outcomes
        if (outcome.status, outcome.code) != (outcome.call.status, outcome.call.code)
    ]


def failures(reports: list[ClientReport]) -> set[tuple[int, str]]:
    """The status of each undocumented response, and its problem code or error."""
    return {(outcome.status, outcome.code or outcome.error) for outcome in undocumented_outcomes(reports)}


def verify_audit_log(reports: list[ClientReport], directory: Path, max_malformed: int = 0) -> AuditLog:
    """Verify that the audit log has an intent and a result for every certificate, and return it."""
    assert not [deviation for report in reports for deviation in report.deviations]
    audit_log = load_generator.read_audit_log(directory / "audit.log")
    assert len(audit_log.malformed_lines) <= max_malformed, audit_log.malformed_lines
    assert load_generator.verify_certificates(reports, audit_log, directory / "ca").count
    for request_id, results in audit_log.results.items():
        assert {serial for serial, _ in results} <= audit_log.intents[request_id]
    return audit_log


def test_killed_worker_under_load_loses_one_call(tmp_path: Path) -> None:
    """After kill -9 only the call in flight gets 502, and a new worker starts within seconds."""
    with servers.certlet_server(tmp_path, *SERVE, *PROFILES) as server:
        load = start_load(server, tmp_path)
        for _ in range(3):
            victim = server.pids("worker")[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: victim not in server.pids("worker"))
            wait_until(lambda: len(server.pids("worker")) == 2)
            wait_for_calls(load, 100)
        reports = load.stop()
        assert server.sign({"csr": CSR}).status == 200
    assert failures(reports) <= {(502, "badGateway"), (503, "unavailable")}
    bad_gateway = [outcome for report in reports for outcome in report.outcomes if outcome.status == 502]
    assert len(bad_gateway) <= 3
    audit_log = verify_audit_log(reports, tmp_path, max_malformed=3)
    results = {key: {serial for serial, _ in audit_log.results[key]} for key in audit_log.intents}
    without_result = {key for key, serials in audit_log.intents.items() if serials != results[key]}
    assert without_result <= {outcome.request_id for outcome in bad_gateway}  # these count as issued


def test_sigterm_under_load_completes_requests(tmp_path: Path) -> None:
    """After SIGTERM the server responds to requests in flight, closes all connections and exits with 0."""
    with servers.certlet_server(tmp_path, *SERVE, *PROFILES) as server:
        load = start_load(server, tmp_path)
        start = time.monotonic()
        assert server.stop() == 0
        duration = time.monotonic() - start
        reports = load.stop()
    assert duration < 8, "the server must wait for requests in flight only"
    outcomes = undocumented_outcomes(reports)
    # A client may send a request while the server closes the connection (RFC 9112, section 9.6). It is not read.
    assert not [outcome for outcome in outcomes if outcome.status or outcome.started < start], outcomes
    audit_log = verify_audit_log(reports, tmp_path)
    results = audit_log.results.items()
    assert audit_log.intents == {key: {serial for serial, _ in certificates} for key, certificates in results}
    successful = {
        outcome.request_id for report in reports for outcome in report.outcomes if outcome.status == 200
    }
    assert audit_log.results.keys() <= successful


def test_full_audit_log_disk_stops_issuance(tmp_path: Path) -> None:
    """While the log cannot be written, requests get 503 and nothing is signed; no partial line remains."""
    log = tmp_path / "audit.log"
    with servers.certlet_server(tmp_path, *SERVE, *PROFILES) as server:
        load = start_load(server, tmp_path)
        size_limit = log.stat().st_size + 700  # room for one and a half lines
        for pid in server.pids("worker"):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_limit, resource.RLIM_INFINITY))
        # The record of a refusal is shorter than that of a certificate.
        wait_until(lambda: server.sign({"csr": "garbage"}).status == 503)
        full_log = log.read_bytes()
        responses = [server.sign({"csr": CSR}) for _ in range(20)]
        refusal = server.sign({"csr": "garbage"})
        for response in (*responses, refusal):  # a refusal is not sent if it cannot be recorded
            assert_problem(response, 503, "unavailable")
        assert responses[0].headers["Retry-After"] == "60"
        assert "File too large" not in responses[0].body.decode()
        assert server.request("GET", "/health").status == 200  # writes no record
        added = log.read_bytes().removeprefix(full_log)  # a shorter refusal of the clients may still fit
        assert b'"intent"' not in added
        assert b'"result"' not in added
        reports = load.stop()
        for pid in server.pids("worker"):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        last = server.sign({"csr": CSR})
        assert last.status == 200
    assert failures(reports) == {(503, "unavailable")}
    assert "the audit log cannot be written" in server.read_log()
    audit_log = verify_audit_log(reports, tmp_path)  # the partial line was removed
    assert audit_log.intents[last.headers["x-amzn-RequestId"]]
    issued = sum(map(len, audit_log.results.values()))
    returned = sum(len(report.certificates.read_text().splitlines()) for report in reports)
    assert issued == returned + 1


@contextlib.contextmanager
def server_with_clock_offset(directory: Path, *arguments: str) -> Iterator[tuple[Server, Path]]:
    """Run a server that adds the seconds in a file to the system's time; yield both."""
    offset = directory / "offset"
    offset.write_text("+0")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    env = {
        "CERTLET_API_KEY": servers.API_KEY,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with servers.certlet_server(directory, *arguments, env=env) as server:
        yield server, offset


def load_certificate(response: Response) -> x509.Certificate:
    """The certificate in a response."""
    assert response.status == 200, response.body
    return x509.load_pem_x509_certificate(response.json()["crt_pem"].encode())


def test_clock_step_changes_validity(tmp_path: Path) -> None:
    """Validity follows the clock in both directions; outside the CA's validity requests get 503."""
    with server_with_clock_offset(tmp_path, *SERVE) as (server, offset):
        for days in (0, 30, -0.01, 365, 0):
            offset.write_text(f"{days * 86_400:+.0f}")
            now = datetime.now(UTC) + timedelta(days=days)
            certificate = load_certificate(server.sign({"csr": CSR}))
            assert abs(certificate.not_valid_before_utc - now) < timedelta(hours=2)
            assert abs(certificate.not_valid_after_utc - now - timedelta(days=7)) < timedelta(hours=2)
            assert server.request("GET", "/health").status == 200
        for days in (-30, 5 * 366):  # before the CA is valid; after the issuer expired
            offset.write_text(f"{days * 86_400:+.0f}")
            log_before = (tmp_path / "audit.log").read_bytes()
            assert_problem(server.sign({"csr": CSR}), 503, "unavailable")
            assert_problem(server.request("GET", "/health"), 503, "unavailable")
            assert_problem(server.request("GET", "/ca.crl"), 503, "unavailable")
            assert server.request("GET", "/ca.crt", headers={"Accept": "*/*"}).status == 200
            added = (tmp_path / "audit.log").read_bytes().removeprefix(log_before)
            assert [json.loads(line)["event"] for line in added.splitlines()] == ["refusal"]
        offset.write_text("+0")
        assert server.request("GET", "/health").status == 200
        load_certificate(server.sign({"csr": CSR}))


def test_retry_after_a_clock_step_reuses_no_serial_number(tmp_path: Path) -> None:
    """A retry returns the same certificate or a new serial number, wherever the clock was set between."""
    with server_with_clock_offset(tmp_path, *SERVE) as (server, offset):
        certificates: dict[int, x509.Certificate] = {}
        for key in (uuid7(), "a-key-that-is-not-a-UUID"):
            for seconds in (0, 1, -1, 600, 0, -600, 86_400, 0):
                offset.write_text(f"{seconds:+d}")
                headers = {**load_generator.JSON, "Idempotency-Key": key}
                body = json.dumps({"csr": CSR}).encode()
                certificate = load_certificate(server.request("POST", "/sign", body, headers))
                first = certificates.setdefault(certificate.serial_number, certificate)
                assert certificate == first
        assert 2 < len(certificates) < 16


def test_clock_steps_under_load_cause_documented_responses_only(tmp_path: Path) -> None:
    """No step of the clock causes an undocumented response or a duplicate serial number."""
    with server_with_clock_offset(tmp_path, *SERVE, *PROFILES) as (server, offset):
        load = start_load(server, tmp_path)
        for seconds in (+3, -3, +3_000, -3_000, +86_400, 0):
            offset.write_text(f"{seconds:+d}")
            wait_for_calls(load, 60)
        reports = load.stop()
    # A retry may return a different certificate: the step may leave the idempotency window.
    for report in reports:
        expected = load_generator.DIFFERENT_ON_RETRY
        report.deviations = [deviation for deviation in report.deviations if deviation != expected]
    assert not failures(reports)
    verify_audit_log(reports, tmp_path)


def kill_workers(server: Server) -> None:
    """Kill the workers and wait until the supervisor fails to start new ones."""
    for victim in server.pids("worker"):
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: server.request("GET", "/health").status == 503)
    wait_until(lambda: "cannot start a worker" in server.read_log())


def test_unreadable_ca_key_prevents_start_only(tmp_path: Path) -> None:
    """The server refuses to start, with a one-line error; running workers sign with the key in memory."""
    with servers.certlet_server(tmp_path, *SERVE) as server:
        key = tmp_path / "ca" / "signing-ca.key"
        key.rename(tmp_path / "moved.key")
        key.mkdir()  # not even root can read a directory
        assert server.sign({"csr": CSR}).status == 200
        kill_workers(server)
        assert_problem(server.sign({"csr": CSR}), 503, "unavailable")
        assert_problem(server.request("GET", "/health"), 503, "unavailable")
        assert "signing-ca.key: Is a directory" in server.read_log()
        run = servers.certlet("serve", "--port", "0", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (1, b"")
        (line,) = run.stderr.decode().splitlines()
        assert line.startswith("certlet: ")
        assert "signing-ca.key: Is a directory" in line
        key.rmdir()
        (tmp_path / "moved.key").rename(key)
        wait_until(lambda: server.request("GET", "/health").status == 200)
        load_certificate(server.sign({"csr": CSR}))


def test_missing_ca_directory_keeps_signing(tmp_path: Path) -> None:
    """Workers continue to sign; the CRL and API keys of the missing directory are unavailable until it is back."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    run = servers.certlet("api-key", "add", "other", cwd=tmp_path)
    api_key = run.stdout.decode().split()[-1]
    with servers.certlet_server(tmp_path, *SERVE) as server:
        assert server.sign({"csr": CSR}, api_key).status == 200
        (tmp_path / "ca").rename(tmp_path / "moved")
        load_certificate(server.sign({"csr": CSR}))
        assert_problem(server.sign({"csr": CSR}, api_key), 403, "unauthorized")
        assert_problem(server.request("GET", "/ca.crl"), 503, "unavailable")
        assert server.request("GET", "/ca").status == 200
        kill_workers(server)
        assert_problem(server.sign({"csr": CSR}), 503, "unavailable")
        assert not (tmp_path / "ca").exists()  # a running server never creates a CA
        (tmp_path / "moved").rename(tmp_path / "ca")
        wait_until(lambda: server.request("GET", "/health").status == 200)
        assert server.sign({"csr": CSR}, api_key).status == 200
        assert server.request("GET", "/ca.crl").status == 200
