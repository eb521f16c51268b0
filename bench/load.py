"""Load by wrk on a core of its own, and what it costs the server: rate, latency, processor time, memory."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import servers

WRK_SCRIPT: Final = Path(__file__).parent / "wrk.lua"
TIMEOUT: Final = "20s"  # of a request; its own 2 s are too few for eight batches on a slow machine
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """What was measured is not what should have been; the message says why."""


class Refused(BenchError):
    """Some answers were no success, so the rest does not count either. On a busy machine it may pass."""


@dataclass(frozen=True)
class Load:
    """One server under load for a while.

    Attributes:
        requests: answered, all of them with success.
        seconds: how long it took.
        octets: of an answer with its headers, on average.
        p50, p99: milliseconds from a request to its answer.
        cpu: seconds of processor time of all of the server's processes.
        resident: MB of memory of all of them afterwards, added up.
    """

    requests: int
    seconds: float
    octets: float
    p50: float
    p99: float
    cpu: float
    resident: float


def cores() -> tuple[int, int]:
    """The server's core and the load's: two of those that there are, or twice the only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


def pinned(core: int, command: Sequence[str | Path]) -> list[str]:
    """The command on one core, with all the processes and threads that it will start."""
    return ["taskset", "--cpu-list", str(core), *map(str, command)]


def run(
    pid: int, url: str, headers: Mapping[str, str], bodies: Sequence[bytes], connections: int, seconds: int
) -> Load:
    """Put a server under load.

    Args:
        pid: the server's first process; all of them run on the server's core alone.
        url: what is posted to.
        headers: of each request.
        bodies: of the requests, one after the other.
        connections: how many requests there are at once.
        seconds: for how long.

    Raises:
        Refused: an answer was no success, a connection broke, or nothing was answered.
        BenchError: the server's processes were others afterwards, or on another core.
    """
    before = [pid, *servers.descendants(pid)]
    spent = _cpu(before)
    outcome = _wrk(url, headers, bodies, connections, seconds)
    if [pid, *servers.descendants(pid)] != before:
        raise BenchError(f"{url}: a process of the server ended, or began")
    cpu = _cpu(before) - spent
    if outcome["refused"] or outcome["broken"] or not outcome["requests"]:
        raise Refused(f"{url}: {outcome}")
    if any(os.sched_getaffinity(each) != {cores()[0]} for each in before):
        raise BenchError(f"{url}: a process of the server is not on its core")
    return Load(
        requests=int(outcome["requests"]),
        seconds=outcome["seconds"],
        octets=outcome["octets"] / outcome["requests"],
        p50=outcome["p50"],
        p99=outcome["p99"],
        cpu=cpu,
        resident=sum(map(servers.resident, before)) * 1024 / 1e6,
    )


def _wrk(
    url: str, headers: Mapping[str, str], bodies: Sequence[bytes], connections: int, seconds: int
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / str(number) for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body)
        options: list[str | Path] = [f"-c{connections}", "-t1", f"-d{seconds}s", "--timeout", TIMEOUT]
        options += ["-s", WRK_SCRIPT]
        stated = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        command = pinned(cores()[1], ["wrk", *options, *stated, url, "--", *paths])
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)  # noqa: S603 - our own words
    try:
        outcome: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise BenchError(f"wrk: {ran.stdout} {ran.stderr}") from None
    return outcome


def _cpu(processes: Sequence[int]) -> float:
    # proc(5): the second field may hold blanks.
    fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) / _TICKS  # utime, stime
