from __future__ import annotations

import concurrent.futures
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from service.gateway import usage_plan
from service.gateway.routes import GatewayError, UsagePlan
from service.gateway.usage_plan import UsagePlanLimiter
from tests import csrs, factories, servers
from tests.assertions import assert_problem
from tests.gateway import second_api
from tests.servers import API_KEY

PLAN = UsagePlan(rate=2, burst=3, quota=5, period="DAY")


class Clock:
    """A clock that the test sets."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def outcomes(charge: Callable[[str], None], name: str, times: int) -> list[str]:
    """The outcomes of several requests: `ok`, or the type of the gateway response."""
    results = []
    for _ in range(times):
        try:
            charge(name)
            results.append("ok")
        except GatewayError as error:
            results.append(error.kind)
    return results


def test_bucket_fills_at_the_rate() -> None:
    """It allows `burst` requests at once, then `rate` a second, and never accumulates more than `burst`."""
    clock = Clock()
    limiter = UsagePlanLimiter(UsagePlan(rate=2, burst=3, quota=99, period="DAY"), clock, clock)
    assert outcomes(limiter.charge_key, "a", 4) == ["ok"] * 3 + ["THROTTLED"]
    clock.now += 0.5
    assert outcomes(limiter.charge_key, "a", 2) == ["ok", "THROTTLED"]
    clock.now += 3600
    assert outcomes(limiter.charge_key, "a", 4) == ["ok"] * 3 + ["THROTTLED"]


def test_callers_have_separate_buckets() -> None:
    """A caller does not use another caller's bucket; without a key there is no quota."""
    clock = Clock()
    limiter = UsagePlanLimiter(PLAN, clock, clock)
    assert outcomes(limiter.charge_key, "a", 4)[-1] == "THROTTLED"
    assert outcomes(limiter.charge_key, "b", 1) == ["ok"]
    assert outcomes(limiter.charge, "a", 4) == ["ok"] * 3 + ["THROTTLED"]
    assert outcomes(limiter.charge, "b", 1) == ["ok"]
    for _ in range(10):
        clock.now += 10
        assert outcomes(limiter.charge, "a", 1) == ["ok"]


def test_cheap_requests_count_as_a_part_of_one() -> None:
    """They use the same bucket: when it has no whole token left, an ordinary request is refused."""
    clock = Clock()
    limiter = UsagePlanLimiter(PLAN, clock, clock)
    cheap = functools.partial(limiter.charge, cost=0.25)
    assert outcomes(cheap, "a", 9) == ["ok"] * 9
    assert outcomes(limiter.charge, "a", 1) == ["THROTTLED"]
    assert outcomes(cheap, "a", 4) == [*["ok"] * 3, "THROTTLED"]


def test_number_of_buckets_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many callers displace the least recently used bucket, but not the quota of a key."""
    monkeypatch.setattr(usage_plan, "MAX_CALLERS", 3)
    clock = Clock()
    limiter = UsagePlanLimiter(PLAN, clock, clock)
    assert outcomes(limiter.charge_key, "key", 3) == ["ok"] * 3
    assert outcomes(limiter.charge, "a", 4)[-1] == "THROTTLED"
    assert [outcomes(limiter.charge, name, 3)[-1] for name in "bcad"] == ["ok", "ok", "THROTTLED", "ok"]
    assert [outcomes(limiter.charge, name, 3)[-1] for name in "adb"] == ["THROTTLED", "THROTTLED", "ok"]
    assert outcomes(limiter.charge_key, "key", 1) == ["THROTTLED"]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002::/64"),
        ("2001:db8:1:2::", "20010db800010002::/64"),
        ("2001:db8:1:3::", "20010db800010003::/64"),
        ("fe80::1%eth0", "fe80000000000000::/64"),
        ("::1", "0::/64"),
        ("", ""),
    ],
)
def test_caller_id_without_a_key(address: str, network: str) -> None:
    """Addresses of one /64 are one caller; a client certificate is a caller, regardless of the address."""
    identity = {"sourceIp": address}
    assert usage_plan.caller_id(identity) == network
    certificate = {"serialNumber": "0a:1b", "issuerDN": "CN=x"}
    assert usage_plan.caller_id({**identity, "clientCert": certificate}) == "0a:1b CN=x"


@pytest.mark.parametrize(("period", "seconds"), [("DAY", 86_400), ("WEEK", 604_800), ("MONTH", 2_592_000)])
def test_quota_lasts_a_period(period: str, seconds: int) -> None:
    """After `quota` requests, a key is refused until the period ends; refused requests do not count."""
    clock = Clock()
    clock.now = 10.0 * seconds
    limiter = UsagePlanLimiter(UsagePlan(rate=99, burst=99, quota=5, period=period), clock, clock)
    assert outcomes(limiter.charge_key, "a", 7) == ["ok"] * 5 + ["QUOTA_EXCEEDED"] * 2
    clock.now += seconds - 1
    assert outcomes(limiter.charge_key, "a", 1) == ["QUOTA_EXCEEDED"]
    clock.now += 1
    assert outcomes(limiter.charge_key, "a", 6) == ["ok"] * 5 + ["QUOTA_EXCEEDED"]


def test_refused_request_uses_no_token() -> None:
    """A request needs a whole token; a request that the quota refuses uses none."""
    clock = Clock()
    limiter = UsagePlanLimiter(UsagePlan(rate=1, burst=1, quota=99, period="DAY"), clock, clock)
    assert outcomes(limiter.charge_key, "a", 1) == ["ok"]
    clock.now += 0.5
    assert outcomes(limiter.charge_key, "a", 1) == ["THROTTLED"]
    limiter = UsagePlanLimiter(UsagePlan(rate=0.000001, burst=3, quota=1, period="DAY"), clock, clock)
    assert outcomes(limiter.charge_key, "a", 9) == ["ok"] + ["QUOTA_EXCEEDED"] * 8  # never THROTTLED


def test_throttling_is_shared_by_workers(tmp_path: Path) -> None:
    """All workers share one count: after `burst` requests, 429 with Retry-After."""
    with servers.certlet_server(tmp_path, "--ephemeral", "--workers", "2") as server:
        body = {"csr": csrs.encode_pem(csrs.build()).decode(), "text": False}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda _: server.sign(body), range(60)))
        signed = [response for response in responses if response.status == 200]
        throttled = [response for response in responses if response.status == 429]
        assert len(signed) + len(throttled) == 60
        plan = factories.document()["x-usage-plan"]
        assert plan["burst"] <= len(signed) <= plan["burst"] + 15
        for response in throttled:
            assert_problem(response, 429, "rateLimited")
            assert response.headers["Retry-After"] == "1"
            assert response.headers["x-amzn-ErrorType"] == "TooManyRequestsException"


def test_exceeded_quota_is_429(tmp_path: Path) -> None:
    """The detail names the quota, and Retry-After is long."""
    document = json.loads(json.dumps(factories.document()))
    document["x-usage-plan"] = {"rate": 100, "burst": 100, "quota": 2, "period": "DAY"}
    with second_api.gateway_server(tmp_path, document, no_usage_plan=False) as server:
        statuses = [server.sign({}).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        response = server.sign({})
        assert "quota" in assert_problem(response, 429, "rateLimited")["detail"]
        assert int(response.headers["Retry-After"]) > 60
        assert server.sign({}, API_KEY[::-1]).status == 200
        assert server.request("GET", "/health").status == 200


def test_public_operations_share_a_bucket_per_address(tmp_path: Path) -> None:
    """Public operations call the function too, so they are limited, except once a second for each resource."""
    with second_api.gateway_server(tmp_path, second_api.document(), no_usage_plan=False) as server:
        statuses = [server.request("GET", f"/books/{number}").status for number in range(8)]
        assert statuses[:4] == [200] * 4
        assert 429 in statuses[4:]
        assert server.request("GET", "/books").status == 200


def test_acme_clients_may_send_more(tmp_path: Path) -> None:
    """An order of a hundred names is some 200 requests of one address."""
    with second_api.gateway_server(tmp_path, factories.document(), no_usage_plan=False) as server:
        assert 429 not in {server.request("HEAD", "/acme/new-nonce").status for _ in range(200)}
        assert 429 in {server.request("GET", f"/crl/{number}").status for number in range(60)}


def test_no_usage_plan_option_warns(tmp_path: Path) -> None:
    """`--no-usage-plan` disables the usage plan and prints a warning."""
    with servers.certlet_server(tmp_path, "--ephemeral", "--no-usage-plan") as server:
        assert any("usage plan is disabled" in line for line in server.output)
        assert {server.request("GET", "/profiles").status for _ in range(60)} == {200}
