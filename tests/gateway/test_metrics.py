"""The metrics and their text format."""

from __future__ import annotations

import platform
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.gateway.access_log import Exchange
from service.gateway.metrics import DEFINITIONS, Metrics
from service.gateway.worker_pool import PoolStatistics, WorkerPool
from tests.gateway.test_access_log import EXCHANGE

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Pool:
    """A pool of workers in some state."""

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(configured=4, running=3, busy=2, waiting=1, restarts=7)


def create_metrics(**gauges: float) -> Metrics:
    return Metrics("1.2.3", {"function": cast("WorkerPool", Pool())}, lambda: gauges)


def samples(text: str) -> Samples:
    """Parse the text format: name and labels -> value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics.encode()).get((name, frozenset(labels.items())))


def test_requests_are_counted_by_operation_and_status() -> None:
    metrics = create_metrics()
    for change in ({}, {}, {"status": 503, "seconds": 1.5}, {"operation": "", "status": 404}):
        metrics.observe(EXCHANGE._replace(**cast("dict[str, Any]", change)))
    name = "certlet_http_requests_total"
    assert value(metrics, name, operation="health", status="200") == 2
    assert value(metrics, name, operation="health", status="503") == 1
    assert value(metrics, name, operation="none", status="404") == 1
    name = "certlet_http_request_duration_seconds"
    assert value(metrics, f"{name}_count", operation="health") == 3
    assert value(metrics, f"{name}_sum", operation="health") == pytest.approx(2 * EXCHANGE.seconds + 1.5)
    buckets = {
        le: value(metrics, f"{name}_bucket", operation="health", le=le)
        for le in ("0.01", "0.025", "1.0", "2.5")
    }
    assert buckets == {"0.01": 0, "0.025": 2, "1.0": 2, "2.5": 3}


def test_text_of_clients_is_in_no_label() -> None:
    """A client chooses everything of a request but its operation and its status."""
    chosen = (
        "request_id",
        "trace_id",
        "source_ip",
        "key",
        "method",
        "path",
        "protocol",
        "referer",
        "user_agent",
    )
    exchange = Exchange(**{**EXCHANGE._asdict(), **{name: f"text-{name}" for name in chosen}})
    metrics = create_metrics()
    metrics.observe(exchange)
    assert "text-" not in metrics.encode()


def test_outcomes_of_workers_are_added() -> None:
    metrics = create_metrics()
    for number in (1, 2):
        metrics.add_outcomes(
            [
                ("result", ["server"], number),
                ("refusal", ["", "unauthorized"], number),
                ("revocation", [""], number),
            ]
        )
    assert value(metrics, "certlet_certificates_issued_total", profile="server") == 3
    assert value(metrics, "certlet_certificates_refused_total", profile="none", reason="unauthorized") == 3
    assert value(metrics, "certlet_certificates_revoked_total", reason="none") == 3


@pytest.mark.parametrize(
    "outcomes",
    [
        None,
        1,
        ["x"],
        [["result"]],
        [["unknown", [], 1]],
        [["result", [], 1]],
        [["result", ["a"], -1]],
        [["result", 1, 1]],
    ],
)
def test_malformed_outcomes_are_ignored(outcomes: Any) -> None:
    metrics = create_metrics()
    metrics.add_outcomes(outcomes)
    metrics.add_outcomes([("result", ["server"], 1)])
    assert value(metrics, "certlet_certificates_issued_total", profile="server") == 1


def test_gauges_are_read_when_they_are_encoded() -> None:
    """A gauge whose value is not known is missing: 0 would be a time in 1970."""
    gauges = {"certlet_ready": 1.0}
    metrics = Metrics("1.2.3", {"function": cast("WorkerPool", Pool())}, lambda: gauges)
    assert value(metrics, "certlet_ready") == 1
    assert value(metrics, "certlet_ca_not_after_timestamp_seconds") is None
    gauges |= {"certlet_ready": 0, "certlet_ca_not_after_timestamp_seconds": 1.8e9}
    assert value(metrics, "certlet_ready") == 0
    assert value(metrics, "certlet_ca_not_after_timestamp_seconds") == 1.8e9
    for name, expected in (
        ("certlet_workers_configured", 4),
        ("certlet_workers", 3),
        ("certlet_workers_busy", 2),
        ("certlet_calls_waiting", 1),
        ("certlet_worker_restarts_total", 7),
    ):
        assert value(metrics, name, pool="function") == expected
    assert value(metrics, "certlet_build_info", version="1.2.3", python=platform.python_version()) == 1


def test_definitions_are_those_of_the_text() -> None:
    """Each metric has the name, type and meaning of its definition, and a sample has its labels."""
    metrics = create_metrics(**{name: 1 for name, definition in DEFINITIONS.items() if not definition.labels})
    metrics.observe(EXCHANGE)
    metrics.add_outcomes([("result", ["a"], 1), ("refusal", ["a", "b"], 1), ("revocation", ["a"], 1)])
    families = {}
    for family in text_string_to_metric_families(metrics.encode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = set(family.samples[0].labels) - {"le"}
        families[name] = (family.type, labels, family.documentation)
    assert families == {
        name: (definition.kind, set(definition.labels), definition.meaning)
        for name, definition in DEFINITIONS.items()
    }
