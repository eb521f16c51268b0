"""The comparison with cfssl: interleaved rounds of the same requests, under the same CA, on the same cores."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import figures, floors, load, peers
from bench.figures import CONNECTIONS, Comparison, Pair
from bench.floors import Floor
from bench.load import BenchError, Load, Refused
from bench.peers import KINDS, Difference, Endpoint, Server
from tests import servers

TRIES: Final = 10  # of a measurement that some answers spoil
_SETTLE: Final = 1  # seconds of load before the first round


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of everything.
        seconds: of load in each measurement.
        floor_seconds: of each floor.
        batch: certificates of a batch.
    """

    rounds: int
    seconds: int
    floor_seconds: float
    batch: int


class Rounds:
    """Measurements that are repeated when answers were refused, and how many were."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.dropped = 0

    def pairs(self, ours: Server, theirs: Server, connections: int) -> list[Pair]:
        """One round: each of our endpoints, and cfssl after each."""
        csrs = peers.requests()
        endpoints = [peers.sign(csrs), peers.sign_pem(csrs), peers.sign_batch(csrs[: self._plan.batch])]
        cfssl = peers.cfssl_sign(csrs)
        return [
            Pair(endpoint, self._load(ours, endpoint, connections), self._load(theirs, cfssl, connections))
            for endpoint in endpoints
        ]

    def _load(self, server: Server, endpoint: Endpoint, connections: int) -> Load:
        for _ in range(TRIES - 1):
            try:
                return peers.measure(server, endpoint, connections, self._plan.seconds)
            except Refused as refused:
                self.dropped += 1
                sys.stderr.write(f"again: {refused}\n")
        return peers.measure(server, endpoint, connections, self._plan.seconds)


def compare(directory: Path, plan: Plan) -> Comparison:
    """Measure everything, in rounds.

    Args:
        directory: for CAs, logs and policies.
        plan: how much.

    Raises:
        BenchError: a server does not do what is measured.
    """
    served: list[figures.Served] = []
    costs: list[figures.Cost] = []
    shares: list[figures.Share] = []
    differences: list[Difference] = []
    rounds = Rounds(plan)
    for kind in KINDS:
        with ExitStack() as stack:
            ca = _made(directory, kind)
            ours = stack.enter_context(peers.certlet(directory / f"certlet-{kind}", ca))
            theirs = stack.enter_context(peers.cfssl(directory / f"cfssl-{kind}", ca))
            differences = differences or peers.differences(ours, theirs)
            for server, endpoint in ((ours, peers.sign), (theirs, peers.cfssl_sign)):
                peers.measure(server, endpoint(peers.requests()), 1, _SETTLE)
            pairs: dict[int, list[list[Pair]]] = {connections: [] for connections in CONNECTIONS}
            alone: list[list[Floor]] = []
            for number in range(plan.rounds):
                for connections in CONNECTIONS:
                    pairs[connections].append(rounds.pairs(ours, theirs, connections))
                alone.append(floors.measure(ca, kind, plan.floor_seconds))
                sys.stderr.write(f"{kind} CA: round {number + 1} of {plan.rounds}\n")
            for connections in CONNECTIONS:
                served += figures.served(kind, connections, pairs[connections])
            costs += figures.costs(kind, alone)
            shares.append(figures.share(kind, [each[-1] for each in pairs[CONNECTIONS[-1]]], alone))
    return Comparison(
        conditions=dict(_conditions(plan)),
        served=tuple(served),
        costs=tuple(costs),
        shares=tuple(shares),
        differences=tuple(differences),
        dropped=rounds.dropped,
    )


def _made(directory: Path, kind: str) -> Path:
    ca = directory / f"ca-{kind}"
    made = servers.certlet("init", ca, "--key-type", kind, cwd=directory)
    if made.returncode:
        raise BenchError(made.stderr.decode())
    return ca


def _conditions(plan: Plan) -> Iterator[tuple[str, str]]:
    """What has to be known of the machine and the programs."""
    ours, other = load.cores()
    yield "processor", f"{_processor()}, {os.cpu_count()} cores, {platform.machine()}"
    yield "pinned", f"the server to core {ours}, wrk to core {other}"
    yield "measured", f"{plan.rounds} rounds of {plan.seconds} s, batches of {plan.batch}"
    yield "load average before", f"{os.getloadavg()[0]:.1f}"
    yield "Python", platform.python_version()
    yield "cfssl", " ".join(_said("cfssl", "version").split())
    yield "wrk", _said("wrk", "-v").partition(" Copyright")[0]
    yield "OpenSSL", _said("openssl", "version").strip()


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def _said(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a version is asked
    return ran.stdout + ran.stderr
