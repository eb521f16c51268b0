from __future__ import annotations

import pytest
from multidict import CIMultiDict

from service.gateway.answer_cache import MAX_AGE, AnswerCache
from service.gateway.events import Response


def test_function_is_asked_once_a_second() -> None:
    """Once for each resource, whatever it answers."""
    now = 10.0
    cache = AnswerCache(lambda: now)
    assert [cache.is_due(resource) for resource in ("/a", "/a", "/b", "/b")] == [True, False, True, False]
    now += MAX_AGE
    assert [cache.is_due("/a") for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("status", "cache_control", "is_kept"),
    [
        (200, "public, max-age=300", True),
        (200, "no-cache", False),
        (200, None, False),
        (503, "public, max-age=300", False),
        (None, None, False),
    ],
)
def test_only_a_public_answer_is_kept(
    status: int | None, cache_control: str | None, *, is_kept: bool
) -> None:
    """Anything else, or no answer at all, also ends the one before it."""
    cache = AnswerCache(lambda: 0.0)
    old = Response(200, CIMultiDict({"Cache-Control": "public, max-age=1"}), b"old")
    cache.keep("/a", old)
    assert (cache.find("/a"), cache.find("/b")) == (old, None)
    headers = CIMultiDict({"Cache-Control": cache_control} if cache_control else {})
    new = Response(status, headers, b"new") if status else None
    cache.keep("/a", new)
    assert cache.find("/a") == (new if is_kept else None)
