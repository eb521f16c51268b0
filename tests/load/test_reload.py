"""Reloads under load: no request is lost, and nothing accumulates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests import servers
from tests.load import load_generator
from tests.load.load_generator import LoadGenerator
from tests.servers import Server

RELOADS = 20
MAX_GROWTH_KIB = 12_000  # of the supervisor, and of the gateway


def usage(server: Server) -> tuple[int, int]:
    """Return the number of processes, and that of descriptors of supervisor and gateway."""
    pids = (server.process.pid, *server.pids("server"))
    return len(server.processes()), sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def test_reloads_under_load_lose_no_request(tmp_path: Path, report_figures: Callable[[str], None]) -> None:
    """Each call of patient clients on persistent connections gets its documented response.

    The audit log is replaced at each reload: every certificate has its records in one of the files.
    """
    profiles = ("--profiles", str(load_generator.PROFILES))
    options = ("--workers", "2", "--no-usage-plan", "--audit-log", "audit.log", *profiles)
    with servers.certlet_server(tmp_path, *options) as server:
        load = LoadGenerator(server, tmp_path)
        server.reload()
        pids = (server.process.pid, *server.pids("server"))
        resident = [servers.resident_kib(pid) for pid in pids]
        for number in range(RELOADS):
            (tmp_path / "audit.log").rename(tmp_path / f"audit.log.{number}")
            assert server.reload() == "reloaded: audit log"
        calls = load.calls()
        servers.wait_until(lambda: load.calls() > calls + 100)
        reports = load.stop()
        servers.wait_until(lambda: usage(server)[0] == 4)
        processes, descriptors = usage(server)
        growth = [servers.resident_kib(pid) - before for pid, before in zip(pids, resident, strict=True)]
        report_figures(f"{calls} calls, {RELOADS} reloads: {descriptors} descriptors, {growth} KiB more")
        assert not load_generator.count_deviations(reports)
        assert processes == 4
        assert descriptors < 60
        assert max(growth) < MAX_GROWTH_KIB
    with (tmp_path / "all.log").open("w") as file:
        for path in tmp_path.glob("audit.log*"):
            file.write(path.read_text())
    audit_log = load_generator.read_audit_log(tmp_path / "all.log")
    assert not audit_log.malformed_lines
    assert load_generator.verify_certificates(reports, audit_log, tmp_path / "ca").count
