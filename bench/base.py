"""Compare Certlet with an earlier commit: alternating measurements, on the same core."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import contenders, endpoints, results
from bench.contenders import Server
from bench.endpoints import Endpoint
from bench.load import Load, Retries
from bench.results import CONNECTIONS, Spread, Target
from bench.settings import Settings
from bench.source import PRESENT, Source

KEY_TYPE: Final = "p-256"
MIN_RATIO: Final = 1.15  # to the base's rate


@dataclass(frozen=True)
class AgainstBase:
    """The figures of one endpoint.

    Attributes:
        name: the endpoint.
        rates: certificates per second: of the present source, and of the base.
        ratio: the first divided by the second.
        cpu_ratio: certificates per second of processor time, divided by those of the base.
        target: the target of the ratio.
    """

    name: str
    rates: tuple[Spread, Spread]
    ratio: Spread
    cpu_ratio: Spread
    target: Target


def compare(directory: Path, settings: Settings, base: Source) -> list[AgainstBase]:
    """Measure both, in rounds. Each has a CA of its own.

    Args:
        directory: for CAs and logs.
        settings: how much to measure.
        base: the earlier source.

    Raises:
        BenchError: as `contenders.measure`, or a server does not start.
    """
    retries = Retries()
    csrs = endpoints.requests()
    measured = (endpoints.sign(csrs), endpoints.sign_batch(csrs[: settings.batch]))
    loads: list[list[dict[Source, Load]]] = [[] for _ in measured]
    servers: dict[Source, Server] = {}

    def measure(source: Source, endpoint: Endpoint) -> Load:
        return retries.run(contenders.measure, servers[source], endpoint, CONNECTIONS, settings.seconds)

    with ExitStack() as stack:
        for source in (PRESENT, base):
            ca = contenders.create_ca(directory, KEY_TYPE, source)
            context = contenders.certlet(directory / f"certlet-{source.name}", ca, source)
            servers[source] = stack.enter_context(context)
            measure(source, measured[0])  # to warm up
        for number in range(settings.rounds):
            order = list(servers)[:: -1 if number % 2 else 1]  # a drift of the machine affects both
            for endpoint, rounds in zip(measured, loads, strict=True):
                rounds.append({source: measure(source, endpoint) for source in order})
            sys.stderr.write(f"{base.name}: round {number + 1} of {settings.rounds}\n")
    return [
        compute(endpoint.name, endpoint.batch, [(item[PRESENT], item[base]) for item in rounds])
        for endpoint, rounds in zip(measured, loads, strict=True)
    ]


def compute(name: str, batch: int, pairs: list[tuple[Load, Load]]) -> AgainstBase:
    """Return the figures of an endpoint, from the loads of both sources in each round."""
    present, base = ([results.rate(pair[index], batch) for pair in pairs] for index in (0, 1))
    costs = [[results.cpu_cost(pair[index], batch) for pair in pairs] for index in (0, 1)]
    ratio = Spread.ratio(present, base)
    return AgainstBase(
        name,
        (Spread.of(present), Spread.of(base)),
        ratio,
        Spread.ratio(costs[1], costs[0]),
        Target.minimum(MIN_RATIO, ratio.median),
    )
