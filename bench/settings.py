"""How much a run measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench import endpoints


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
        rounds: how many rounds.
        seconds: duration of each measurement under load.
        baseline_seconds: minimum duration of each baseline's measurement.
        batch: certificates in a batch.
        issuances: ACME issuances in a measurement.
        zip_rounds: rounds of cold starts.
    """

    rounds: int
    seconds: int
    baseline_seconds: float
    batch: int
    issuances: int
    zip_rounds: int


FULL: Final = Settings(
    rounds=7, seconds=2, baseline_seconds=0.3, batch=endpoints.BATCH, issuances=60, zip_rounds=15
)
# Small batches: on a slow machine, eight of them at once must not occupy the worker for a second.
SHORT: Final = Settings(rounds=1, seconds=1, baseline_seconds=0.05, batch=20, issuances=5, zip_rounds=1)
