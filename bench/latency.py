"""Measure the latency of single requests, sent at a constant rate to a server with two workers on all cores."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from bench import client, contenders, endpoints, load
from bench.client import Client
from bench.contenders import Server
from bench.endpoints import Endpoint
from bench.load import Retries
from bench.results import CONNECTIONS, Spread, Target
from bench.settings import Settings

WORKERS: Final = 2
RATES: Final = {"p-256": 100, "rsa-4096": 20}
"""CA's key type -> requests per second next to those in flight."""

MAX_P99: Final = 25  # ms, next to those in flight, with a P-256 CA
MAX_RATIO: Final = 2.5  # of p99 to p50, at half of the saturating rate


@dataclass(frozen=True)
class Sample:
    """The latencies of one round.

    Attributes:
        rate: requests per second.
        milliseconds: of each request.
    """

    rate: float
    milliseconds: Sequence[float]

    def percentile(self, percent: int) -> float:
        """The latency that this part of the requests does not exceed."""
        return statistics.quantiles(self.milliseconds, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True)
class Latency:
    """The latency of single requests.

    Attributes:
        ca: the type of the CA's key.
        in_flight: the other requests; '' for none, at half of the saturating rate.
        rate: single requests per second.
        p50, p99: milliseconds.
        ratio: p99 divided by p50.
        p99_target, ratio_target: their targets, if there are any.
    """

    ca: str
    in_flight: str
    rate: Spread
    p50: Spread
    p99: Spread
    ratio: Spread
    p99_target: Target | None = None
    ratio_target: Target | None = None


def compute(ca: str, samples: Sequence[Sample], in_flight: Sequence[str] = ()) -> Latency:
    """Return the figures of all rounds, next to these requests in flight, or without other load."""
    p50, p99 = ([sample.percentile(percent) for sample in samples] for percent in (50, 99))
    ratio = Spread.ratio(p99, p50)
    has_target = ca == contenders.KEY_TYPES[0]
    return Latency(
        ca,
        " and ".join(in_flight),
        Spread.of([sample.rate for sample in samples]),
        Spread.of(p50),
        Spread.of(p99),
        ratio,
        Target.maximum(MAX_P99, statistics.median(p99)) if in_flight and has_target else None,
        None if in_flight else Target.maximum(MAX_RATIO, ratio.median),
    )


def compare(directory: Path, settings: Settings) -> list[Latency]:
    """Measure, in rounds.

    Args:
        directory: for CAs and logs.
        settings: how much to measure.

    Raises:
        BenchError: a response is not the expected certificate, or a server does not start.
    """
    key = rsa.generate_private_key(65537, 4096)
    others = [
        endpoints.sign_batch(endpoints.requests() * (settings.large_batch // endpoints.BATCH)),
        endpoints.sign([endpoints.request("rsa.example.com", key)], "an RSA-4096 key"),
    ]
    names = [endpoint.name for endpoint in others]
    rows, seconds = [], settings.latency_seconds
    for ca, rate in RATES.items():
        retries = Retries()
        busy, idle = [], []
        with _server(directory, ca) as server:
            for number in range(settings.rounds):
                busy.append(retries.run(measure, server, rate, seconds, others))
                if ca == contenders.KEY_TYPES[0]:
                    saturating_rate = retries.run(_saturating_rate, server, settings)
                    idle.append(retries.run(measure, server, saturating_rate / 2, seconds))
                sys.stderr.write(f"latency, {ca} CA: round {number + 1} of {settings.rounds}\n")
        rows += [compute(ca, busy, names), *([compute(ca, idle)] if idle else [])]
    return rows


@contextmanager
def _server(directory: Path, key_type: str) -> Iterator[Server]:
    ca = contenders.create_ca(directory, key_type)
    with contenders.certlet(directory / key_type, ca, workers=WORKERS, is_pinned=False) as server:
        yield server


def _saturating_rate(server: Server, settings: Settings) -> float:
    endpoint = endpoints.sign(endpoints.requests())
    url, headers = f"{server.url}{endpoint.path}", endpoint.headers
    outcome = load.saturate(url, headers, endpoint.bodies, CONNECTIONS, settings.seconds)
    return outcome["requests"] / outcome["seconds"]


def measure(server: Server, rate: float, seconds: float, others: Sequence[Endpoint] = ()) -> Sample:
    """Send single requests at a constant rate, while one request of each of the others is in flight.

    Raises:
        Refused: a request failed.
        BenchError: a response is not the expected certificate.
    """
    single = endpoints.sign(endpoints.requests())
    for endpoint in (single, *others):
        contenders.verify(server, endpoint, 0)

    async def run() -> list[float]:
        paced, *flights = [Client(server.url, endpoint) for endpoint in (single, *others)]
        try:
            await asyncio.gather(*(paced.post() for _ in range(CONNECTIONS)))  # opens the connections
            async with client.in_flight(*(flight.post for flight in flights)):
                return await client.pace(paced.post, rate, seconds)
        finally:
            for item in (paced, *flights):
                await item.close()

    with client.runner() as runner:
        return Sample(rate, runner.run(run()))
