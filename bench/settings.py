"""How much a run measures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from bench import endpoints


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
        rounds: how many rounds.
        connections: the numbers of concurrent requests; those with `results.CONNECTIONS` have targets.
        seconds: duration of each measurement under load.
        baseline_seconds: minimum duration of each baseline's measurement.
        batch: certificates in a batch.
        large_batch: certificates in a batch for the workers: a multiple of a hundred.
        large_batches: how many of these each worker gets in a measurement.
        latency_seconds: duration of a measurement of latency.
        issuances: ACME issuances in a measurement.
        zip_rounds: rounds of cold starts.
        import_runs: how often the handler of the zip is imported.
        pythons: the versions of Python that run the zip.
    """

    rounds: int
    connections: tuple[int, ...]
    seconds: int
    baseline_seconds: float
    batch: int
    large_batch: int
    large_batches: int
    latency_seconds: float
    issuances: int
    zip_rounds: int
    import_runs: int
    pythons: tuple[str, ...]


FULL: Final = Settings(
    rounds=7,
    connections=(1, 8),
    seconds=2,
    baseline_seconds=0.3,
    batch=endpoints.BATCH,
    large_batch=500,
    large_batches=8,
    latency_seconds=5,
    issuances=60,
    zip_rounds=15,
    import_runs=9,
    pythons=("3.11", "3.13"),
)
# Small batches: on a slow machine, eight of them at once must not occupy the worker for a second.
SHORT: Final = Settings(
    rounds=1,
    connections=(8,),
    seconds=1,
    baseline_seconds=0.05,
    batch=20,
    large_batch=100,
    large_batches=2,
    latency_seconds=1,
    issuances=5,
    zip_rounds=1,
    import_runs=1,
    pythons=(f"{sys.version_info.major}.{sys.version_info.minor}",),
)
