"""Full load: for 45 seconds by default, for ten minutes in `make nightly` (LOAD_SECONDS)."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.pki import errors
from tests import servers
from tests.load import load_generator
from tests.load.load_generator import AuditLog, ClientReport, LoadGenerator

SECONDS = float(os.environ.get("LOAD_SECONDS", "45"))
WARM_UP = min(60.0, SECONDS / 3)
# A process may grow by this after the warm-up: malloc's arenas, and the collector's oldest generation with the
# garbage of some thousand requests. A leak of 200 bytes per request exceeds it in ten minutes, one of 2 KB
# in 45 seconds.
MAX_GROWTH = 12 * 1024  # KiB


def resident_memory(server: servers.Server) -> dict[str, int]:
    """The resident memory of the server's processes in KiB, by module and process ID."""
    pids = servers.child_pids(server.process.pid)
    return {f"{servers.running_module(pid)} {pid}": servers.resident_kib(pid) for pid in pids}


def test_full_load_is_served_as_documented(tmp_path: Path, report_figures: Callable[[str], None]) -> None:
    """Responses, logs and certificates are as documented, and the memory does not grow."""
    arguments = ("--workers", "2", "--no-usage-plan", "--audit-log", "audit.log")
    with servers.certlet_server(tmp_path, *arguments, "--profiles", str(load_generator.PROFILES)) as server:
        load = LoadGenerator(server, tmp_path)
        start = time.monotonic()
        time.sleep(WARM_UP)
        warm = resident_memory(server)
        time.sleep(max(0.0, SECONDS - (time.monotonic() - start)))
        reports = load.stop()
        duration = time.monotonic() - start
        after = resident_memory(server)
        assert warm.keys() == after.keys()  # no process was replaced
        assert server.stop() == 0
    calls, busy = sum(report.calls for report in reports), sum(report.busy for report in reports)
    non_http = sum(report.non_http for report in reports)
    report_figures(f"{calls} calls in {duration:.0f} s, {non_http} that were not HTTP, {busy} busy")
    report_figures(f"resident KiB after {WARM_UP:.0f} s and at the end: {warm} {after}")
    assert not load_generator.count_deviations(reports)
    assert busy <= calls / 1000
    assert has_every_code(reports)
    assert all(after[name] <= warm[name] + MAX_GROWTH for name in warm)
    audit_log = load_generator.read_audit_log(tmp_path / "audit.log")
    assert not audit_log.malformed_lines
    verify_audit_log(reports, audit_log)
    verify_access_log(reports, server.read_log())
    verified = load_generator.verify_certificates(reports, audit_log, tmp_path / "ca")
    sample_size = load_generator.verify_with_openssl(verified.sample, tmp_path / "ca", tmp_path)
    assert sum(map(len, audit_log.results.values())) == verified.count  # a retry has its own records
    replays = sum(report.replays for report in reports)
    assert verified.distinct == verified.count - replays
    report_figures(
        f"{verified.count} certificates returned and verified, {verified.distinct} of them distinct, "
        f"{replays} by a retry; {sample_size} verified by openssl"
    )


def has_every_code(reports: list[ClientReport]) -> bool:
    """Whether the clients received every problem code of an invalid request."""
    codes = {code for report in reports for code in report.codes} - {"", "unavailable"}
    subclasses = errors.RequestError.__subclasses__()
    http = {"malformed", "notFound", "methodNotAllowed", "tooLarge", "unsupportedMediaType"}
    pki = {errors.Unauthorized.code, errors.RequestError.code, *(error.code for error in subclasses)}
    return codes == pki | http


def verify_audit_log(reports: list[ClientReport], audit_log: AuditLog) -> None:
    """Verify that every result has an intent, and every refusal exactly one record."""
    expected: Counter[str] = Counter()
    for report in reports:
        for outcome in report.outcomes:
            if outcome.status != 503:
                expected[outcome.request_id] += outcome.call.recorded_refusals
    assert +expected == audit_log.refusals
    for request_id, results in audit_log.results.items():
        assert {serial for serial, _ in results} == audit_log.intents[request_id]
    assert audit_log.intents.keys() == audit_log.results.keys()


def verify_access_log(reports: list[ClientReport], log: str) -> None:
    """Verify that the server's log has the status of every response, and no other line."""
    lines: list[Any] = [json.loads(line) for line in log.splitlines()]  # a traceback is not JSON
    logged = {line["request_id"]: line["status"] for line in lines}
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    expected = {outcome.request_id: outcome.status for outcome in outcomes}
    others = [status for request_id, status in logged.items() if request_id not in expected]
    assert logged.items() >= expected.items()
    assert len(others) == sum(report.non_http for report in reports)
    assert {*others} <= {400, 501}
