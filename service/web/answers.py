"""What an operation answers, and how WSGI hands it on."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

_STATUS_LINES: Final = {each.value: f"{each.value} {each.phrase}" for each in HTTPStatus}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer.

    Attributes:
        body: its octets.
        content_type: their media type; '' for none.
        cache: its Cache-Control.
        status: its status.
        headers: whatever else it says.
    """

    body: bytes
    content_type: str
    cache: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def status_line(self) -> str:
        """Status and reason, as PEP 3333 has them."""
        return _STATUS_LINES[self.status]

    def header_list(self) -> list[tuple[str, str]]:
        """All of its headers, as PEP 3333 has them."""
        content_type = [("Content-Type", self.content_type)] if self.content_type else []
        return [*content_type, ("Cache-Control", self.cache), *self.headers]
