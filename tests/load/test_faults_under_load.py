"""Faults in the midst of load: each has its documented answer (docs/reference/failure-modes.md), and nothing is half-issued.

Half-issued is a certificate that was handed out, or signed, without an intent in the audit log.
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
from tests.load import traffic
from tests.load.traffic import Haul, Outcome, Traffic
from tests.servers import Response, Server, wait_until

SERVE = ("--workers", "2", "--no-usage-plan", "--audit-log", "audit.log")
OWN = ("--profiles", str(traffic.OWN_PROFILES))
GOOD = csrs.encode_pem(csrs.build()).decode()


def loaded(server: Server, directory: Path, calls: int = 150) -> Traffic:
    """Traffic that is under way, of clients that take a 503 for an answer."""
    running = Traffic(server, directory, is_patient=False)
    wait_until(lambda: running.calls() >= calls)
    return running


def undocumented(hauls: list[Haul]) -> list[Outcome]:
    """The answers that differ from those documented for a sound server."""
    answers = [each for haul in hauls for each in haul.outcomes]
    return [each for each in answers if (each.status, each.code) != (each.call.status, each.call.code)]


def statuses(hauls: list[Haul]) -> set[tuple[int, str]]:
    """What they are."""
    return {(each.status, each.code or each.why) for each in undocumented(hauls)}


def sound(hauls: list[Haul], directory: Path, broken: int = 0) -> traffic.Record:
    """The audit log, in which each certificate that was handed out has its intent and its result."""
    assert not [wrong for haul in hauls for wrong in haul.wrong]
    audited = traffic.record(directory / "audit.log")
    assert len(audited.broken) <= broken, audited.broken
    assert traffic.verify(hauls, audited, directory / "ca").handed_out
    for request_id, results in audited.results.items():
        assert {serial for serial, _ in results} <= audited.intents[request_id]
    return audited


def test_killed_worker_under_load_loses_one_call(tmp_path: Path) -> None:
    """kill -9: 502 for the call in flight alone, a successor within seconds, an intent for all that was signed."""
    with servers.certlet_server(tmp_path, *SERVE, *OWN) as server:
        running = loaded(server, tmp_path)
        for _ in range(3):
            victim = server.pids("worker")[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: victim not in server.pids("worker"))
            wait_until(lambda: len(server.pids("worker")) == 2)
            more = running.calls() + 100
            wait_until(lambda more=more: running.calls() >= more)
        hauls = running.end()
        assert server.sign({"csr": GOOD}).status == 200
    assert statuses(hauls) <= {(502, "badGateway"), (503, "unavailable")}
    lost = [each for haul in hauls for each in haul.outcomes if each.status == 502]
    assert len(lost) <= 3
    audited = sound(hauls, tmp_path, broken=3)
    results = {key: {serial for serial, _ in audited.results[key]} for key in audited.intents}
    without = {key for key, serials in audited.intents.items() if serials != results[key]}
    assert without <= {each.request_id for each in lost}  # these count as issued


def test_sigterm_under_load_completes_requests(tmp_path: Path) -> None:
    """SIGTERM: whatever was asked is answered, connections that are kept end with it, exit 0, within seconds."""
    with servers.certlet_server(tmp_path, *SERVE, *OWN) as server:
        running = loaded(server, tmp_path)
        began = time.monotonic()
        assert server.stop() == 0
        took = time.monotonic() - began
        hauls = running.end()
    assert took < 8, "requests in flight are awaited, not those that may still come"
    odd = undocumented(hauls)
    # A request on a kept connection may cross its end on the way (RFC 9112 9.6): nothing of it was read.
    assert not [each for each in odd if each.status or each.began < began], odd
    audited = sound(hauls, tmp_path)
    results = audited.results.items()
    assert audited.intents == {key: {serial for serial, _ in each} for key, each in results}
    handed_out = {each.request_id for haul in hauls for each in haul.outcomes if each.status == 200}
    assert audited.results.keys() <= handed_out


def test_full_audit_log_disk_stops_issuance(tmp_path: Path) -> None:
    """503 and nothing signed while no line can be written; afterwards each line stands on a line of its own."""
    log = tmp_path / "audit.log"
    with servers.certlet_server(tmp_path, *SERVE, *OWN) as server:
        running = loaded(server, tmp_path)
        bound = log.stat().st_size + 700  # as a disk that has room for one line and a half
        for pid in server.pids("worker"):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (bound, resource.RLIM_INFINITY))
        # A refusal's line is shorter than a certificate's.
        wait_until(lambda: server.sign({"csr": "garbage"}).status == 503)
        full = log.read_bytes()
        answers = [server.sign({"csr": GOOD}) for _ in range(20)]
        dry = server.sign({"csr": "garbage"})
        for answer in (*answers, dry):  # a refusal that cannot be recorded is none
            assert_problem(answer, 503, "unavailable")
        assert answers[0].headers["Retry-After"] == "60"
        assert "File too large" not in answers[0].body.decode()
        assert server.request("GET", "/health").status == 200  # it does not write
        since = log.read_bytes().removeprefix(full)  # a shorter refusal of the load's may still find room
        assert b'"intent"' not in since
        assert b'"result"' not in since
        hauls = running.end()
        for pid in server.pids("worker"):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        last = server.sign({"csr": GOOD})
        assert last.status == 200
    assert statuses(hauls) == {(503, "unavailable")}
    assert "the audit log cannot be written" in server.read_log()
    audited = sound(hauls, tmp_path)  # nothing is left of the line that had no room
    assert audited.intents[last.headers["x-amzn-RequestId"]]
    issued = sum(map(len, audited.results.values()))
    assert issued == sum(len(haul.kept.read_text().splitlines()) for haul in hauls) + 1


@contextlib.contextmanager
def clocked(directory: Path, *arguments: str) -> Iterator[tuple[Server, Path]]:
    """A server whose clock is the one of this machine, and moved by what is written into a file."""
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


def issued(answer: Response) -> x509.Certificate:
    """The certificate of an answer."""
    assert answer.status == 200, answer.body
    return x509.load_pem_x509_certificate(answer.json()["crt_pem"].encode())


def test_clock_step_changes_validity(tmp_path: Path) -> None:
    """Certificates follow the clock back and forward; outside of the CA's validity it is 503; no restart is needed."""
    with clocked(tmp_path, *SERVE) as (server, offset):
        for days in (0, 30, -0.01, 365, 0):
            offset.write_text(f"{days * 86_400:+.0f}")
            now = datetime.now(UTC) + timedelta(days=days)
            made = issued(server.sign({"csr": GOOD}))
            assert abs(made.not_valid_before_utc - now) < timedelta(hours=2)
            assert abs(made.not_valid_after_utc - now - timedelta(days=90)) < timedelta(hours=2)
            assert server.request("GET", "/health").status == 200
        for days in (-30, 5 * 366):  # before the CA began; after the issuer ended
            offset.write_text(f"{days * 86_400:+.0f}")
            before = (tmp_path / "audit.log").read_bytes()
            assert_problem(server.sign({"csr": GOOD}), 503, "unavailable")
            assert_problem(server.request("GET", "/health"), 503, "unavailable")
            assert_problem(server.request("GET", "/ca.crl"), 503, "unavailable")
            assert server.request("GET", "/ca.crt", headers={"Accept": "*/*"}).status == 200
            added = (tmp_path / "audit.log").read_bytes().removeprefix(before)
            assert [json.loads(line)["event"] for line in added.splitlines()] == ["refusal"]
        offset.write_text("+0")
        assert server.request("GET", "/health").status == 200
        issued(server.sign({"csr": GOOD}))


def test_retry_after_a_clock_step_reuses_no_serial_number(tmp_path: Path) -> None:
    """A retry gets the same certificate or one of another serial number, wherever the clock was put meanwhile."""
    with clocked(tmp_path, *SERVE) as (server, offset):
        found: dict[int, x509.Certificate] = {}
        for key in (uuid7(), "a-key-that-is-no-UUID"):
            for seconds in (0, 1, -1, 600, 0, -600, 86_400, 0):
                offset.write_text(f"{seconds:+d}")
                headers = {**traffic.JSON, "Idempotency-Key": key}
                body = json.dumps({"csr": GOOD}).encode()
                made = issued(server.request("POST", "/sign", body, headers))
                assert found.setdefault(made.serial_number, made) == made
        assert 2 < len(found) < 16


def test_clock_steps_under_load_cause_documented_responses_only(tmp_path: Path) -> None:
    """Under load no step makes an answer that is not documented, or a serial number of two certificates."""
    with clocked(tmp_path, *SERVE, *OWN) as (server, offset):
        running = loaded(server, tmp_path)
        for seconds in (+3, -3, +3_000, -3_000, +86_400, 0):
            offset.write_text(f"{seconds:+d}")
            more = running.calls() + 60
            wait_until(lambda more=more: running.calls() >= more)
        hauls = running.end()
    # The one thing that a client may see: a retry whose window the clock left is another certificate.
    for haul in hauls:
        haul.wrong = [each for each in haul.wrong if each != "a retry got another certificate"]
    assert not statuses(hauls)
    sound(hauls, tmp_path)


def kill_workers(server: Server) -> None:
    """End them, and wait until no successor starts."""
    for victim in server.pids("worker"):
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: server.request("GET", "/health").status == 503)
    wait_until(lambda: "cannot start a worker" in server.read_log())


def test_unreadable_ca_key_prevents_start_only(tmp_path: Path) -> None:
    """It refuses to start, in one line; while it runs the key is in memory, and a successor waits for its return."""
    with servers.certlet_server(tmp_path, *SERVE) as server:
        key = tmp_path / "ca" / "signing-ca.key"
        key.rename(tmp_path / "away")
        key.mkdir()  # which root cannot read either
        assert server.sign({"csr": GOOD}).status == 200
        kill_workers(server)
        assert_problem(server.sign({"csr": GOOD}), 503, "unavailable")
        assert_problem(server.request("GET", "/health"), 503, "unavailable")
        assert "signing-ca.key: Is a directory" in server.read_log()
        run = servers.certlet("serve", "--port", "0", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (1, b"")
        (line,) = run.stderr.decode().splitlines()
        assert line.startswith("certlet: ")
        assert "signing-ca.key: Is a directory" in line
        key.rmdir()
        (tmp_path / "away").rename(key)
        wait_until(lambda: server.request("GET", "/health").status == 200)
        issued(server.sign({"csr": GOOD}))


def test_missing_ca_directory_keeps_signing(tmp_path: Path) -> None:
    """Signing goes on, a CRL is never made up, keys of the file are refused; when it is back all is as before."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    added = servers.certlet("api-key", "add", "other", cwd=tmp_path)
    other = added.stdout.decode().split()[-1]
    with servers.certlet_server(tmp_path, *SERVE) as server:
        assert server.sign({"csr": GOOD}, other).status == 200
        (tmp_path / "ca").rename(tmp_path / "moved")
        issued(server.sign({"csr": GOOD}))
        assert_problem(server.sign({"csr": GOOD}, other), 403, "unauthorized")
        assert_problem(server.request("GET", "/ca.crl"), 503, "unavailable")
        assert server.request("GET", "/ca").status == 200
        kill_workers(server)
        assert_problem(server.sign({"csr": GOOD}), 503, "unavailable")
        assert not (tmp_path / "ca").exists()  # a new CA is never made while it runs
        (tmp_path / "moved").rename(tmp_path / "ca")
        wait_until(lambda: server.request("GET", "/health").status == 200)
        assert server.sign({"csr": GOOD}, other).status == 200
        assert server.request("GET", "/ca.crl").status == 200
