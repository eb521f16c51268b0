from __future__ import annotations

import pytest
from multidict import CIMultiDict

from service.gateway.events import Response
from service.gateway.response_cache import MAX_AGE, MAX_STALE, ResponseCache


def test_cache_is_due_once_a_second() -> None:
    """This applies to each resource, whether or not it has a response."""
    now = 10.0
    cache = ResponseCache(lambda: now)
    assert [cache.is_due(resource) for resource in ("/a", "/a", "/b", "/b")] == [True, False, True, False]
    now += MAX_AGE
    assert [cache.is_due("/a") for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("status", "cache_control", "is_stored"),
    [
        (200, "public, max-age=300", True),
        (200, "no-cache", False),
        (200, None, False),
        (503, "public, max-age=300", False),
    ],
)
def test_cache_stores_public_responses_only(
    status: int, cache_control: str | None, *, is_stored: bool
) -> None:
    """They are valid for a minute. Any other response removes the previous one."""
    now = 1.0
    cache = ResponseCache(lambda: now)
    old = Response(200, CIMultiDict({"Cache-Control": "public, max-age=1"}), b"old")
    cache.store("/a", old)
    assert (cache.find("/a"), cache.find("/b")) == (old, None)
    headers = CIMultiDict({"Cache-Control": cache_control} if cache_control else {})
    new = Response(status, headers, b"new")
    cache.store("/a", new)
    assert cache.find("/a") == (new if is_stored else None)
    now += MAX_STALE
    assert cache.find("/a") is None
