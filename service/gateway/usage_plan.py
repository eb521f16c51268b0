"""The usage plan: how many requests a caller may send. Counts begin again with the process."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.gateway.routes import GatewayError, UsagePlan

PERIODS: Final = {"DAY": 86_400, "WEEK": 604_800, "MONTH": 2_592_000}  # seconds; a month is 30 days
MAX_CALLERS: Final = 10_000  # without an API key, whose buckets are kept: 4 MB


@dataclass
class _Bucket:
    """How much one caller has left: tokens of the bucket, and the count of the period."""

    tokens: float
    at: float
    period: int = 0
    count: int = 0


class UsagePlanLimiter:
    """The plan, enforced: a token bucket for each caller, and a quota for each API key."""

    def __init__(self, plan: UsagePlan, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        """Count nothing yet.

        Args:
            plan: the figures.
            monotonic: seconds that never go back.
            wall: seconds since 1970, UTC, for the quota's periods.
        """
        self._plan = plan
        self._monotonic = monotonic
        self._wall = wall
        self._keys: dict[str, _Bucket] = {}
        self._others: dict[str, _Bucket] = {}  # the one that called last is the last

    def charge_key(self, name: str) -> None:
        """Count one request with an API key.

        Raises:
            GatewayError: THROTTLED or QUOTA_EXCEEDED; then it was not counted.
        """
        use = self._fill(self._keys, name)
        period = int(self._wall() // PERIODS[self._plan.period])
        if period != use.period:
            use.period, use.count = period, 0
        if use.count >= self._plan.quota:
            raise GatewayError("QUOTA_EXCEEDED")
        use.count += 1
        use.tokens -= 1

    def charge(self, caller: str) -> None:
        """Count one request without an API key, which has no quota.

        Raises:
            GatewayError: THROTTLED; then it was not counted.
        """
        if use := self._others.pop(caller, None):
            self._others[caller] = use
        elif len(self._others) >= MAX_CALLERS:
            del self._others[next(iter(self._others))]  # by now it is full, and so would a new one be
        self._fill(self._others, caller).tokens -= 1

    def _fill(self, uses: dict[str, _Bucket], caller: str) -> _Bucket:
        """The caller's bucket, which has a token."""
        now, plan = self._monotonic(), self._plan
        use = uses.setdefault(caller, _Bucket(tokens=plan.burst, at=now))
        use.tokens = min(plan.burst, use.tokens + (now - use.at) * plan.rate)
        use.at = now
        if use.tokens < 1:
            raise GatewayError("THROTTLED")
        return use


def caller_id(identity: Mapping[str, Any]) -> str:
    """Whom a request without an API key counts for: its client certificate, or else its address."""
    if certificate := identity.get("clientCert"):
        return f"{certificate['serialNumber']} {certificate['issuerDN']}"
    return network(identity["sourceIp"])


@functools.lru_cache(maxsize=1024)
def network(address: str) -> str:
    """An address of IPv4; the /64 of one of IPv6, for a host has all addresses of that (RFC 4291 2.5.1)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # the client is gone
        return ""
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ip) if ip.version == 4 else f"{int(ip) >> 64:x}::/64"  # noqa: PLR2004
