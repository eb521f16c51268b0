"""A cache of public responses: the function builds the CRL at most once a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from service.gateway.events import Response

MAX_AGE: Final = 1.0  # seconds; the longest delay before a change of the CA is visible
MAX_STALE: Final = 60.0  # seconds; the age up to which a response is used if no worker responds


class ResponseCache:
    """The latest public responses (RFC 9111 5.2.2.9) to GET without a query, by resource."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Create an empty cache; `monotonic` returns seconds and never goes back."""
        self._monotonic = monotonic
        self._due: dict[str, float] = {}
        self._responses: dict[str, tuple[float, Response]] = {}

    def is_due(self, resource: str) -> bool:
        """Whether to call the function; after True, False for the next second."""
        now = self._monotonic()
        if now < self._due.get(resource, now):
            return False
        self._due[resource] = now + MAX_AGE
        return True

    def find(self, resource: str) -> Response | None:
        """The latest response, if there is one and it is not too old."""
        expires_at, response = self._responses.get(resource, (0.0, None))
        return response if self._monotonic() < expires_at else None

    def store(self, resource: str, response: Response) -> None:
        """Replace the latest response; remove it if the new one is not public."""
        if response.status == 200 and "public" in response.headers.get("Cache-Control", ""):  # noqa: PLR2004
            self._responses[resource] = self._monotonic() + MAX_STALE, response
        else:
            self._responses.pop(resource, None)
