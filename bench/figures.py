"""From what was measured to figures: ratios of medians with their spread, and whether targets were kept."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.floors import ISSUE, Floor
from bench.load import Load
from bench.peers import Difference, Endpoint

THEIRS: Final = "cfssl"
CONNECTIONS: Final = (1, 8)
AT_MOST: Final = 1.3  # batch over HTTP, against the bare loop
AT_LEAST: Final = {  # of cfssl's rate, at the most connections
    ("/sign", "p-256"): 0.25,
    ("/sign", "rsa-2048"): 1.0,
    ("/sign/batch", "p-256"): 0.8,
    ("/sign/batch", "rsa-2048"): 2.0,
}


@dataclass(frozen=True)
class Spread:
    """A figure of several rounds.

    Attributes:
        median: of the rounds; of a ratio, the ratio of the medians.
        least, most: of any round.
    """

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value a round."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def ratio(cls, ours: Sequence[float], theirs: Sequence[float]) -> Spread:
        """Of two values a round, taken one after the other."""
        each = [one / other for one, other in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ours) / statistics.median(theirs), min(each), max(each))


@dataclass(frozen=True)
class Target:
    """What was to be reached.

    Attributes:
        bound: the figure.
        kept: whether the median keeps it.
        at_most: whether it is not to be passed, rather than to be reached.
    """

    bound: float
    kept: bool
    at_most: bool = False

    def __str__(self) -> str:
        return (
            f"{'at most' if self.at_most else 'at least'} {self.bound:g}: {'kept' if self.kept else 'missed'}"
        )


@dataclass(frozen=True)
class Served:
    """One way of asking a server, under one CA, at a number of connections.

    Attributes:
        ca: the kind of the CA's key.
        connections: requests at once.
        name: what was asked.
        batch: certificates in a request.
        rate: certificates per second.
        ratio: of the rate to cfssl's; None for cfssl itself.
        target: of the ratio; None for none.
        cpu_ratio: of the certificates for a second of processor time to cfssl's, which what else runs on
            the machine touches less; None for cfssl itself.
        p50, p99: milliseconds of a request; the medians of the rounds.
        cpu: microseconds of processor time for a certificate, of all of the server's processes.
        resident: MB of their memory, added up, at the end.
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
    """What one thing costs without a server.

    Attributes:
        ca: the kind of the CA's key.
        name: the thing.
        microseconds: for a certificate.
    """

    ca: str
    name: str
    microseconds: Spread


@dataclass(frozen=True)
class Share:
    """What a certificate of a batch costs over HTTP, against `authority.issue` in a bare loop.

    Attributes:
        ca: the kind of the CA's key.
        ratio: of the two, from the same rounds.
        target: of the ratio.
    """

    ca: str
    ratio: Spread
    target: Target


@dataclass(frozen=True)
class Comparison:
    """All that was found out about the servers.

    Attributes:
        conditions: what was measured where, and how.
        served: the servers.
        costs: the floors.
        shares: the batch against its floor.
        differences: what each makes of bad requests.
        dropped: how many measurements were repeated because an answer was no success.
    """

    conditions: Mapping[str, str]
    served: tuple[Served, ...]
    costs: tuple[Cost, ...]
    shares: tuple[Share, ...]
    differences: tuple[Difference, ...]
    dropped: int


@dataclass(frozen=True)
class Pair:
    """One measurement of ours, and the one of cfssl that followed it."""

    endpoint: Endpoint
    ours: Load
    theirs: Load


def served(ca: str, connections: int, rounds: Sequence[Sequence[Pair]]) -> list[Served]:
    """The figures of cfssl, and of ours by endpoint.

    Args:
        ca: the kind of the CA's key.
        connections: requests at once.
        rounds: of the same endpoints in each.
    """
    theirs = [pair.theirs for each in rounds for pair in each]
    found = [_served(ca, connections, THEIRS, 1, theirs)]
    for column in zip(*rounds, strict=True):
        endpoint, others = column[0].endpoint, [pair.theirs for pair in column]
        ours = [pair.ours for pair in column]
        ratio = Spread.ratio([_rate(each, endpoint.batch) for each in ours], [_rate(each) for each in others])
        cpu_ratio = Spread.ratio(
            [_cpu(each) for each in others], [_cpu(each, endpoint.batch) for each in ours]
        )
        bound = AT_LEAST.get((endpoint.path, ca)) if connections == CONNECTIONS[-1] else None
        target = None if bound is None else Target(bound, ratio.median >= bound)
        plain = _served(ca, connections, endpoint.name, endpoint.batch, ours)
        found.append(replace(plain, ratio=ratio, target=target, cpu_ratio=cpu_ratio))
    return found


def _served(ca: str, connections: int, name: str, batch: int, loads: Sequence[Load]) -> Served:
    return Served(
        ca,
        connections,
        name,
        batch,
        rate=Spread.of([_rate(each, batch) for each in loads]),
        ratio=None,
        target=None,
        cpu_ratio=None,
        p50=statistics.median(each.p50 for each in loads),
        p99=statistics.median(each.p99 for each in loads),
        cpu=statistics.median(_cpu(each, batch) for each in loads),
        resident=loads[-1].resident,
    )


def _rate(load: Load, batch: int = 1) -> float:
    """Certificates per second."""
    return load.requests * batch / load.seconds


def _cpu(load: Load, batch: int = 1) -> float:
    """Microseconds of processor time for a certificate."""
    return load.cpu / load.requests / batch * 1e6


def costs(ca: str, rounds: Sequence[Sequence[Floor]]) -> list[Cost]:
    """The floors, each of which stands at the same place in every round."""
    return [
        Cost(ca, column[0].name, Spread.of([floor.microseconds for floor in column]))
        for column in zip(*rounds, strict=True)
    ]


def share(ca: str, batches: Sequence[Pair], floors: Sequence[Sequence[Floor]]) -> Share:
    """The batch against the bare loop of the same round."""
    over_http = [1e6 / _rate(pair.ours, pair.endpoint.batch) for pair in batches]
    alone = [floor.microseconds for each in floors for floor in each if floor.name == ISSUE]
    ratio = Spread.ratio(over_http, alone)
    return Share(ca, ratio, Target(AT_MOST, ratio.median <= AT_MOST, at_most=True))
