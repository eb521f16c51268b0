"""The usage plan: how many requests a caller may send. A restart resets all counts."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.gateway.routes import GatewayError, UsagePlan
from service.quota import PERIODS

MAX_CALLERS: Final = 10_000  # callers without an API key that have a bucket; 4 MB


@dataclass
class _Bucket:
    """The token bucket of one caller, and its count of requests in the current period."""

    tokens: float
    filled_at: float
    period: int = 0
    count: int = 0


class UsagePlanLimiter:
    """Enforces the plan: a token bucket for each caller, and a quota for each API key."""

    def __init__(self, plan: UsagePlan, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        """Start with full buckets.

        Args:
            plan: the limits.
            monotonic: returns seconds and never goes back.
            wall: returns seconds since 1970, UTC, for the periods of the quota.
        """
        self._plan = plan
        self._monotonic = monotonic
        self._wall = wall
        self._keys: dict[str, _Bucket] = {}
        self._others: dict[str, _Bucket] = {}  # least recently used first

    def charge_key(self, name: str) -> None:
        """Count a request with an API key or a token.

        Args:
            name: the ID of the key, or the principal of the token.

        Raises:
            GatewayError: THROTTLED or QUOTA_EXCEEDED; the request does not count.
        """
        bucket = self._fill(self._keys, name)
        period = int(self._wall() // PERIODS[self._plan.period])
        if period != bucket.period:
            bucket.period, bucket.count = period, 0
        if bucket.count >= self._plan.quota:
            raise GatewayError("QUOTA_EXCEEDED")
        bucket.count += 1
        bucket.tokens -= 1

    def charge(self, caller: str, cost: float = 1) -> None:
        """Count a request without an API key; such requests have no quota.

        Args:
            caller: the caller.
            cost: the number of requests that it counts as.

        Raises:
            GatewayError: THROTTLED; the request does not count.
        """
        if bucket := self._others.pop(caller, None):
            self._others[caller] = bucket
        elif len(self._others) >= MAX_CALLERS:
            del self._others[next(iter(self._others))]  # its bucket is full by now, like a new one
        self._fill(self._others, caller, cost).tokens -= cost

    def _fill(self, buckets: dict[str, _Bucket], caller: str, cost: float = 1) -> _Bucket:
        """Fill the caller's bucket; raise GatewayError if it contains less than the cost of a request."""
        now, plan = self._monotonic(), self._plan
        bucket = buckets.setdefault(caller, _Bucket(tokens=plan.burst, filled_at=now))
        bucket.tokens = min(plan.burst, bucket.tokens + (now - bucket.filled_at) * plan.rate)
        bucket.filled_at = now
        if bucket.tokens < cost:
            raise GatewayError("THROTTLED")
        return bucket


def caller_id(identity: Mapping[str, Any]) -> str:
    """The caller of a request without an API key: its client certificate, otherwise its address."""
    if certificate := identity.get("clientCert"):
        return f"{certificate['serialNumber']} {certificate['issuerDN']}"
    return network(identity["sourceIp"])


@functools.lru_cache(maxsize=1024)
def network(address: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 address: a host can use all of it (RFC 4291 2.5.1)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # empty: the client has disconnected
        return ""
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ip) if ip.version == 4 else f"{int(ip) >> 64:x}::/64"  # noqa: PLR2004
