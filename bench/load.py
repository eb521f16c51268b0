"""Put a server under load with wrk on another core; measure rate, latency, processor time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from tests import servers

WRK_SCRIPT: Final = Path(__file__).parent / "wrk.lua"
TRIES: Final = 10  # attempts for a measurement in which some requests fail
TIMEOUT: Final = "20s"  # per request; wrk's default of 2 s is too short for eight batches on a slow machine
P = ParamSpec("P")
T = TypeVar("T")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A measurement is not valid; the message gives the reason."""


class Refused(BenchError):
    """Some requests failed, so the measurement does not count. On a busy machine, repeat it."""


class Retries:
    """Repeats measurements in which requests failed.

    Attributes:
        count: how many measurements were repeated.
    """

    def __init__(self) -> None:
        self.count = 0

    def run(self, measure: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Measure; repeat it while it raises `Refused`, at most `TRIES` times in all."""
        for _ in range(TRIES - 1):
            try:
                return measure(*args, **kwargs)
            except Refused as error:
                self.count += 1
                sys.stderr.write(f"repeating: {error}\n")
        return measure(*args, **kwargs)


@dataclass(frozen=True)
class Load:
    """The measurement of one server under load.

    Attributes:
        requests: the number of requests, all of them successful.
        seconds: the duration.
        octets: the average size of a response with its headers.
        p50, p99: milliseconds from a request to its response.
        cpu: seconds of processor time of all of the server's processes.
        resident: total memory of these processes afterwards, in MB.
    """

    requests: int
    seconds: float
    octets: float
    p50: float
    p99: float
    cpu: float
    resident: float


def cores() -> tuple[int, int]:
    """Return the server's core and wrk's: the first and the last available, which may be the same."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


def pinned(core: int, command: Sequence[str | Path]) -> list[str]:
    """Return the command that runs a command and its child processes on one core."""
    return ["taskset", "--cpu-list", str(core), *map(str, command)]


@contextlib.contextmanager
def pinned_to(core: int) -> Iterator[None]:
    """Run this process, and those that it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(
    pid: int, url: str, headers: Mapping[str, str], bodies: Sequence[bytes], connections: int, seconds: int
) -> Load:
    """Put a server under load.

    Args:
        pid: the server's first process; all its processes run only on the server's core.
        url: the URL to post to.
        headers: the headers of each request.
        bodies: the bodies, sent in turn.
        connections: how many concurrent requests.
        seconds: the duration.

    Raises:
        Refused: a request failed, a connection broke, or there was no response.
        BenchError: a process of the server started, ended, or ran on another core.
    """
    with processor_time(pid) as cpu:
        outcome = saturate(url, headers, bodies, connections, seconds, core=cores()[1])
    return Load(
        requests=int(outcome["requests"]),
        seconds=outcome["seconds"],
        octets=outcome["octets"] / outcome["requests"],
        p50=outcome["p50"],
        p99=outcome["p99"],
        cpu=cpu(),
        resident=sum(map(servers.resident_kib, _processes(pid))) * 1024 / 1e6,
    )


@contextlib.contextmanager
def processor_time(pid: int) -> Iterator[Callable[[], float]]:
    """Measure the processor time of a server's processes during the block.

    Args:
        pid: the server's first process.

    Yields:
        a function that returns the seconds, after the block.

    Raises:
        BenchError: a process of the server started, ended, or ran on another core.
    """
    processes, seconds = _processes(pid), 0.0
    before = _cpu(processes)
    yield lambda: seconds
    if _processes(pid) != processes:
        raise BenchError("a process of the server started or ended")
    seconds = _cpu(processes) - before
    if any(os.sched_getaffinity(process) != {cores()[0]} for process in processes):
        raise BenchError("a process of the server runs on another core")


def _processes(pid: int) -> list[int]:
    return [pid, *servers.descendant_pids(pid)]


def saturate(
    url: str,
    headers: Mapping[str, str],
    bodies: Sequence[bytes],
    connections: int,
    seconds: int,
    *,
    core: int | None = None,
) -> dict[str, float]:
    """Run wrk, on one core or on any; return what wrk.lua prints. The arguments are those of `run`.

    Raises:
        Refused: as for `run`.
        BenchError: wrk failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / str(number) for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body)
        options: list[str | Path] = [f"-c{connections}", "-t1", f"-d{seconds}s", "--timeout", TIMEOUT]
        options += ["-s", WRK_SCRIPT]
        header_options = [option for name, value in headers.items() for option in ("-H", f"{name}: {value}")]
        command = list(map(str, ["wrk", *options, *header_options, url, "--", *paths]))
        command = command if core is None else pinned(core, command)
        process = servers.run(*command, check=False, timeout=seconds + 60)
    try:
        outcome: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise BenchError(f"wrk: {process.stdout} {process.stderr}") from None
    if outcome["refused"] or outcome["broken"] or not outcome["requests"]:
        raise Refused(f"{url}: {outcome}")
    return outcome


def _cpu(processes: Sequence[int]) -> float:
    # proc(5): the second field may contain spaces.
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(values[11]) + int(values[12]) for values in fields) / _TICKS  # utime, stime
