"""Compare Certlet with cfssl: alternating measurements of the same requests, with the same CA, on the same cores."""

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

from bench import baselines, contenders, load, results
from bench.baselines import Baseline
from bench.contenders import KEY_TYPES, Difference, Endpoint, Server
from bench.load import Load, Refused
from bench.results import CONNECTIONS, Comparison, Pair

TRIES: Final = 10  # attempts for a measurement in which some requests fail
_WARM_UP: Final = 1  # seconds of load before the first round


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
        rounds: how many rounds.
        seconds: duration of each measurement under load.
        baseline_seconds: minimum duration of each baseline's measurement.
        batch: certificates in a batch.
    """

    rounds: int
    seconds: int
    baseline_seconds: float
    batch: int


class LoadRunner:
    """Measures, repeats a measurement in which requests failed, and counts the repetitions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.repeated = 0

    def pairs(self, certlet: Server, cfssl: Server, connections: int) -> list[Pair]:
        """One round: each of Certlet's endpoints, followed by cfssl."""
        csrs = contenders.requests()
        endpoints = [
            contenders.sign(csrs),
            contenders.sign_pem(csrs),
            contenders.sign_batch(csrs[: self._settings.batch]),
        ]
        reference = contenders.cfssl_sign(csrs)
        return [
            Pair(
                endpoint,
                self._load(certlet, endpoint, connections),
                self._load(cfssl, reference, connections),
            )
            for endpoint in endpoints
        ]

    def _load(self, server: Server, endpoint: Endpoint, connections: int) -> Load:
        for _ in range(TRIES - 1):
            try:
                return contenders.measure(server, endpoint, connections, self._settings.seconds)
            except Refused as error:
                self.repeated += 1
                sys.stderr.write(f"repeating: {error}\n")
        return contenders.measure(server, endpoint, connections, self._settings.seconds)


def compare(directory: Path, settings: Settings) -> Comparison:
    """Measure everything, in rounds.

    Args:
        directory: for CAs, logs and policies.
        settings: how much to measure.

    Raises:
        BenchError: a server does not issue the expected certificates.
    """
    served: list[results.Served] = []
    costs: list[results.Cost] = []
    shares: list[results.Share] = []
    differences: list[Difference] = []
    runner = LoadRunner(settings)
    for key_type in KEY_TYPES:
        with ExitStack() as stack:
            ca = contenders.create_ca(directory, key_type)
            certlet = stack.enter_context(contenders.certlet(directory / f"certlet-{key_type}", ca))
            cfssl = stack.enter_context(contenders.cfssl(directory / f"cfssl-{key_type}", ca))
            differences = differences or contenders.differences(certlet, cfssl)
            for server, endpoint in ((certlet, contenders.sign), (cfssl, contenders.cfssl_sign)):
                contenders.measure(server, endpoint(contenders.requests()), 1, _WARM_UP)
            pairs: dict[int, list[list[Pair]]] = {connections: [] for connections in CONNECTIONS}
            baseline_rounds: list[list[Baseline]] = []
            for number in range(settings.rounds):
                for connections in CONNECTIONS:
                    pairs[connections].append(runner.pairs(certlet, cfssl, connections))
                baseline_rounds.append(baselines.measure(ca, key_type, settings.baseline_seconds))
                sys.stderr.write(f"{key_type} CA: round {number + 1} of {settings.rounds}\n")
            for connections in CONNECTIONS:
                served += results.served(key_type, connections, pairs[connections])
            costs += results.costs(key_type, baseline_rounds)
            batches = [round_[-1] for round_ in pairs[CONNECTIONS[-1]]]
            shares.append(results.share(key_type, batches, baseline_rounds))
    return Comparison(
        conditions=dict(_conditions(settings)),
        served=tuple(served),
        costs=tuple(costs),
        shares=tuple(shares),
        differences=tuple(differences),
        repeated=runner.repeated,
    )


def _conditions(settings: Settings) -> Iterator[tuple[str, str]]:
    """The machine and the versions of the programs."""
    server_core, load_core = load.cores()
    yield "processor", f"{_processor()}, {os.cpu_count()} cores, {platform.machine()}"
    yield "pinned", f"the server to core {server_core}, wrk to core {load_core}"
    yield "measured", f"{settings.rounds} rounds of {settings.seconds} s, batches of {settings.batch}"
    yield "load average before", f"{os.getloadavg()[0]:.1f}"
    yield "Python", platform.python_version()
    yield "cfssl", " ".join(_version("cfssl", "version").split())
    yield "pebble", _version("dpkg-query", "--show", "--showformat=${Version}", "pebble")
    yield "wrk", _version("wrk", "-v").partition(" Copyright")[0]
    yield "OpenSSL", _version("openssl", "version").strip()


def _processor() -> str:
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match.group(1) if match else "unknown"


def _version(*command: str) -> str:
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    return process.stdout + process.stderr
