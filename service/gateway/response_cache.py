"""Answers that anyone may keep: the gateway keeps them for a second, however many ask for the CRL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from service.gateway.events import Response

MAX_AGE: Final = 1.0  # seconds; a change of the CA is served no later
MAX_STALE: Final = 60.0  # seconds in which an answer is better than none, while no worker gives one


class ResponseCache:
    """The last answers to GET without a query, by resource. Only those that are public (RFC 9111 5.2.2.9)."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Keep nothing yet; `monotonic` says seconds that never go back."""
        self._monotonic = monotonic
        self._due: dict[str, float] = {}
        self._answers: dict[str, tuple[float, Response]] = {}

    def is_due(self, resource: str) -> bool:
        """Whether the function is to be asked; the next request after that is not, for a second."""
        now = self._monotonic()
        if now < self._due.get(resource, now):
            return False
        self._due[resource] = now + MAX_AGE
        return True

    def find(self, resource: str) -> Response | None:
        """The last answer, if it could be kept."""
        end, answer = self._answers.get(resource, (0.0, None))
        return answer if self._monotonic() < end else None

    def keep(self, resource: str, answer: Response) -> None:
        """Replace the last answer; by none, if this one cannot be kept."""
        if answer.status == 200 and "public" in answer.headers.get("Cache-Control", ""):  # noqa: PLR2004
            self._answers[resource] = self._monotonic() + MAX_STALE, answer
        else:
            self._answers.pop(resource, None)
