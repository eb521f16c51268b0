"""Compute figures from measurements: ratios of medians with their spread, and whether targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.bad_requests import Difference
from bench.baselines import ISSUE, Baseline
from bench.endpoints import Endpoint
from bench.load import Load

CFSSL: Final = "cfssl"
CONNECTIONS: Final = 8  # concurrent requests, for targets
MAX_BATCH_RATIO: Final = 1.3  # of a batch over HTTP to `authority.issue` in a loop
MIN_RATIOS: Final = {  # to cfssl's rate, with these connections
    ("/sign", "p-256"): 0.25,
    ("/sign", "rsa-2048"): 1.0,
    ("/sign/batch", "p-256"): 1.0,
    ("/sign/batch", "rsa-2048"): 2.0,
}


@dataclass(frozen=True)
class Spread:
    """A figure of several rounds.

    Attributes:
        median: the median of the rounds; for a ratio, the ratio of the medians.
        least, most: the extremes of the rounds.
    """

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From one value per round."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def ratio(cls, numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
        """From two values per round, measured one after the other."""
        ratios = [value / base for value, base in zip(numerators, denominators, strict=True)]
        return cls(statistics.median(numerators) / statistics.median(denominators), min(ratios), max(ratios))


@dataclass(frozen=True)
class Target:
    """A target for a figure.

    Attributes:
        bound: the limit.
        met: whether the median meets it.
        at_most: whether the bound is an upper limit.
    """

    bound: float
    met: bool
    at_most: bool = False

    @classmethod
    def minimum(cls, bound: float, value: float) -> Target:
        """The target that a value is at least `bound`."""
        return cls(bound, value >= bound)

    @classmethod
    def maximum(cls, bound: float, value: float) -> Target:
        """The target that a value is at most `bound`."""
        return cls(bound, value <= bound, at_most=True)

    def __str__(self) -> str:
        return (
            f"{'at most' if self.at_most else 'at least'} {self.bound:g}: {'met' if self.met else 'missed'}"
        )


@dataclass(frozen=True)
class Served:
    """The figures of one endpoint, with one CA and one number of connections.

    Attributes:
        ca: the type of the CA's key.
        connections: concurrent requests.
        name: the endpoint.
        batch: certificates in a request.
        rate: certificates per second.
        ratio: the rate divided by cfssl's; None for cfssl itself.
        target: the target of the ratio, if there is one.
        cpu_ratio: certificates per second of processor time, divided by cfssl's; less sensitive to other
            load on the machine. None for cfssl itself.
        p50, p99: milliseconds per request; the medians of the rounds.
        cpu: microseconds of processor time per certificate, of all of the server's processes.
        resident: total memory of these processes at the end, in MB.
    """

    ca: str
    connections: int
    name: str
    batch: int
    rate: Spread
    ratio: Spread | None
    target: Target | None
    cpu_ratio: Spread | None
    p50: float
    p99: float
    cpu: float
    resident: float


@dataclass(frozen=True)
class Cost:
    """The cost of a baseline.

    Attributes:
        ca: the type of the CA's key.
        name: the baseline.
        microseconds: time per certificate.
    """

    ca: str
    name: str
    microseconds: Spread


@dataclass(frozen=True)
class Share:
    """The cost of a certificate in a batch over HTTP, relative to `authority.issue` in a loop.

    Attributes:
        ca: the type of the CA's key.
        ratio: their ratio, from the same rounds.
        target: the target of the ratio.
    """

    ca: str
    ratio: Spread
    target: Target


@dataclass(frozen=True)
class Comparison:
    """All figures of the servers.

    Attributes:
        served: the servers' figures.
        costs: the costs of the baselines.
        shares: batches relative to their baseline.
        differences: the responses to bad requests.
        repeated: how many measurements were repeated because a request failed.
    """

    served: tuple[Served, ...]
    costs: tuple[Cost, ...]
    shares: tuple[Share, ...]
    differences: tuple[Difference, ...]
    repeated: int


@dataclass(frozen=True)
class Pair:
    """A measurement of Certlet, and the one of cfssl that followed it."""

    endpoint: Endpoint
    certlet: Load
    cfssl: Load


def served(ca: str, connections: int, rounds: Sequence[Sequence[Pair]]) -> list[Served]:
    """Return the figures of cfssl, then those of Certlet by endpoint.

    Args:
        ca: the type of the CA's key.
        connections: concurrent requests.
        rounds: the pairs of each round, with the same endpoints in the same order.
    """
    rows = [_served(ca, connections, CFSSL, 1, [pair.cfssl for pairs in rounds for pair in pairs])]
    for column in zip(*rounds, strict=True):
        endpoint = column[0].endpoint
        certlet, cfssl = [pair.certlet for pair in column], [pair.cfssl for pair in column]
        ratio = Spread.ratio([rate(load, endpoint.batch) for load in certlet], [rate(load) for load in cfssl])
        cpu_ratio = Spread.ratio(
            [cpu_cost(load) for load in cfssl], [cpu_cost(load, endpoint.batch) for load in certlet]
        )
        bound = MIN_RATIOS.get((endpoint.path, ca)) if connections == CONNECTIONS else None
        target = None if bound is None else Target.minimum(bound, ratio.median)
        row = _served(ca, connections, endpoint.name, endpoint.batch, certlet)
        rows.append(replace(row, ratio=ratio, target=target, cpu_ratio=cpu_ratio))
    return rows


def _served(ca: str, connections: int, name: str, batch: int, loads: Sequence[Load]) -> Served:
    return Served(
        ca,
        connections,
        name,
        batch,
        rate=Spread.of([rate(load, batch) for load in loads]),
        ratio=None,
        target=None,
        cpu_ratio=None,
        p50=statistics.median(load.p50 for load in loads),
        p99=statistics.median(load.p99 for load in loads),
        cpu=statistics.median(cpu_cost(load, batch) for load in loads),
        resident=loads[-1].resident,
    )


def rate(load: Load, batch: int = 1) -> float:
    """Certificates per second."""
    return load.requests * batch / load.seconds


def cpu_cost(load: Load, batch: int = 1) -> float:
    """Microseconds of processor time per certificate."""
    return load.cpu / load.requests / batch * 1e6


def costs(ca: str, rounds: Sequence[Sequence[Baseline]]) -> list[Cost]:
    """Return the costs of the baselines; every round has the same baselines in the same order."""
    return [
        Cost(ca, column[0].name, Spread.of([baseline.microseconds for baseline in column]))
        for column in zip(*rounds, strict=True)
    ]


def share(ca: str, batches: Sequence[Pair], baselines: Sequence[Sequence[Baseline]]) -> Share:
    """Compare batches over HTTP with `authority.issue` in the same rounds."""
    over_http = [1e6 / rate(pair.certlet, pair.endpoint.batch) for pair in batches]
    direct = [item.microseconds for round_ in baselines for item in round_ if item.name == ISSUE]
    ratio = Spread.ratio(over_http, direct)
    return Share(ca, ratio, Target.maximum(MAX_BATCH_RATIO, ratio.median))
