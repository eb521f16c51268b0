from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import endpoints, latency
from bench.contenders import Server
from bench.latency import Sample
from bench.load import BenchError, Refused
from bench.results import Target
from tests import servers


@pytest.fixture(scope="module")
def section(run_section: Callable[[str], Any]) -> Any:
    return run_section("latency")


def test_short_run_reports_latencies(section: Any) -> None:
    """Next to a batch and an RSA-4096 request, with both CAs; and at half of the saturating rate."""
    others = "POST /sign/batch of 100 and POST /sign of an RSA-4096 key"
    rows = [("p-256", others), ("p-256", ""), ("rsa-4096", others)]
    assert [(row["ca"], row["in_flight"]) for row in section] == rows
    for row in section:
        assert 0 < row["p50"]["median"] <= row["p99"]["median"], row
        assert row["rate"]["median"] > 0
    assert [bool(row["p99_target"]) for row in section] == [True, False, False]
    assert [bool(row["ratio_target"]) for row in section] == [False, True, False]


@pytest.mark.parametrize(("slowest", "met"), [(25, True), (26, False)])
def test_target_of_p99_ignores_one_in_a_hundred(slowest: float, *, met: bool) -> None:
    """Of 101 requests, one is slow, and another one is slower."""
    sample = Sample(100, [10.0] * 99 + [slowest, 1000])
    row = latency.compute("p-256", [sample], ["batch"])
    assert (row.p50.median, row.p99.median) == (10, slowest)
    assert (row.p99_target, row.ratio_target) == (Target(25, met, at_most=True), None)
    assert latency.compute("rsa-4096", [sample], ["batch"]).p99_target is None


@pytest.mark.parametrize(("slowest", "met"), [(25, True), (26, False)])
def test_target_of_the_ratio_is_for_single_requests_only(slowest: float, *, met: bool) -> None:
    row = latency.compute("p-256", [Sample(100, [10.0] * 98 + [slowest, slowest, slowest])])
    assert (row.p99_target, row.ratio_target) == (None, Target(2.5, met, at_most=True))


def test_latency_is_of_certificates(certlet: Server, tmp_path: Path) -> None:
    """The responses before the measurement are verified; one that fails during it is an error."""
    others = [endpoints.sign_batch(endpoints.requests()[:5])]
    sample = latency.measure(certlet, 20, 0.5, others)
    assert (sample.rate, len(sample.milliseconds)) == (20, 10)
    garbage = json.dumps({"csr": "garbage"}).encode()
    failing = replace(
        others[0], path="/sign", bodies=(endpoints.sign(endpoints.requests()).bodies[0], garbage)
    )
    failing = replace(failing, certificates=endpoints.sign(endpoints.requests()).certificates, batch=1)
    with pytest.raises(Refused, match="422"):
        latency.measure(certlet, 20, 0.5, [failing])
    servers.create_ca(tmp_path / "ca")
    with pytest.raises(BenchError, match="another issuer than the CA"):
        latency.measure(replace(certlet, ca=tmp_path / "ca"), 20, 0.5)
