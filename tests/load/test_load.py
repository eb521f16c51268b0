"""Full load: 45 seconds here, ten minutes by `make nightly` (LOAD_SECONDS)."""

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
from tests.load import traffic
from tests.load.traffic import Haul, Record, Traffic

SECONDS = float(os.environ.get("LOAD_SECONDS", "45"))
WARM_UP = min(60.0, SECONDS / 3)
# What a process may grow by after the warm-up, whatever the number of requests: malloc's arenas, and the
# collector's oldest generation, which holds some thousand requests' garbage. A leak of 200 octets a
# request passes it in ten minutes, and one of 2 KB in the short form.
GROWTH = 12 * 1024  # KiB


def memory(server: servers.Server) -> dict[str, int]:
    """Resident memory of the server's processes, KiB, by module and number."""
    pids = servers.child_pids(server.process.pid)
    return {f"{servers.running_module(pid)} {pid}": servers.resident_kib(pid) for pid in pids}


def test_full_load_is_served_as_documented(tmp_path: Path, say: Callable[[str], None]) -> None:
    """Everything at once is answered as documented, recorded and verified, in memory that stays flat."""
    arguments = ("--workers", "2", "--no-usage-plan", "--audit-log", "audit.log")
    with servers.certlet_server(tmp_path, *arguments, "--profiles", str(traffic.OWN_PROFILES)) as server:
        running = Traffic(server, tmp_path)
        began = time.monotonic()
        time.sleep(WARM_UP)
        warm = memory(server)
        time.sleep(max(0.0, SECONDS - (time.monotonic() - began)))
        hauls = running.end()
        took = time.monotonic() - began
        after = memory(server)
        assert warm.keys() == after.keys()  # nobody was replaced
        assert server.stop() == 0
    calls, busy = sum(each.calls for each in hauls), sum(each.busy for each in hauls)
    garbage = sum(each.garbage for each in hauls)
    say(f"{calls} calls in {took:.0f} s, {garbage} that were not HTTP, {busy} busy")
    say(f"resident KiB after {WARM_UP:.0f} s and at the end: {warm} {after}")
    assert not traffic.surprises(hauls)
    assert busy <= calls / 1000
    assert every_code_was_seen(hauls)
    assert all(after[name] <= warm[name] + GROWTH for name in warm)
    audited = traffic.record(tmp_path / "audit.log")
    assert not audited.broken
    recorded(hauls, audited)
    answered(hauls, server.read_log())
    verified = traffic.verify(hauls, audited, tmp_path / "ca")
    looked_at = traffic.judged_by_openssl(verified.sample, tmp_path / "ca", tmp_path)
    assert sum(map(len, audited.results.values())) == verified.handed_out  # a retry has its own lines
    again = sum(each.again for each in hauls)
    assert verified.distinct == verified.handed_out - again
    say(
        f"{verified.handed_out} certificates handed out and verified, {verified.distinct} of them different, "
        f"{again} by a retry; {looked_at} looked at by openssl"
    )


def every_code_was_seen(hauls: list[Haul]) -> bool:
    """Whether each class of refusal that is a client's fault came up, and each one of HTTP's."""
    seen = {code for haul in hauls for code in haul.codes} - {"", "unavailable"}
    kinds = errors.RequestError.__subclasses__()
    http = {"malformed", "notFound", "methodNotAllowed", "tooLarge", "unsupportedMediaType"}
    whole = {errors.Unauthorized.code, errors.RequestError.code, *(each.code for each in kinds)}
    return seen == whole | http


def recorded(hauls: list[Haul], audited: Record) -> None:
    """Each request has exactly its lines in the audit log: no result without an intent, each refusal one."""
    expected: Counter[str] = Counter()
    for haul in hauls:
        for each in haul.outcomes:
            if each.status != 503:
                expected[each.request_id] += each.call.recorded
    assert +expected == audited.refusals
    for request_id, results in audited.results.items():
        assert {serial for serial, _ in results} == audited.intents[request_id]
    assert audited.intents.keys() == audited.results.keys()


def answered(hauls: list[Haul], log: str) -> None:
    """The access log has each answer that clients got, with its status, and nothing else went wrong."""
    lines: list[Any] = [json.loads(line) for line in log.splitlines()]  # a traceback is no JSON
    logged = {line["request_id"]: line["status"] for line in lines}
    assert logged == {each.request_id: each.status for haul in hauls for each in haul.outcomes}
