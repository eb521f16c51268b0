"""The metrics of the gateway, in Prometheus' text format.

The labels have few values: no names of certificates, no callers and no addresses.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.gateway.access_log import Exchange
from service.gateway.worker_pool import WorkerPool

NONE: Final = "none"  # the label of a request without an operation, a refusal without a profile, and the like
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds

# Field of `PoolStatistics` -> metric.
_POOL_METRICS: Final = {
    "configured": "certlet_workers_configured",
    "running": "certlet_workers",
    "busy": "certlet_workers_busy",
    "waiting": "certlet_calls_waiting",
    "restarts": "certlet_worker_restarts_total",
}


class Definition(NamedTuple):
    """A metric: its kind, its labels, and what it means."""

    kind: str
    labels: tuple[str, ...]
    meaning: str


DEFINITIONS: Final = {
    "certlet_http_requests_total": Definition(
        "counter", ("operation", "status"), "Requests, by operationId and status."
    ),
    "certlet_http_request_duration_seconds": Definition(
        "histogram", ("operation",), "Time from the head of a request to its response, by operationId."
    ),
    "certlet_http_connections": Definition("gauge", (), "Open connections of clients."),
    "certlet_certificates_issued_total": Definition(
        "counter", ("profile",), "Results in the audit log, by profile."
    ),
    "certlet_certificates_refused_total": Definition(
        "counter", ("profile", "reason"), "Refusals in the audit log, by profile and code of the reason."
    ),
    "certlet_certificates_revoked_total": Definition(
        "counter", ("reason",), "Revocations in the audit log, by reason."
    ),
    "certlet_workers_configured": Definition("gauge", ("pool",), "Worker processes that should run."),
    "certlet_workers": Definition("gauge", ("pool",), "Worker processes that run."),
    "certlet_workers_busy": Definition("gauge", ("pool",), "Worker processes with a call."),
    "certlet_calls_waiting": Definition("gauge", ("pool",), "Calls that no worker has begun."),
    "certlet_worker_restarts_total": Definition(
        "counter", ("pool",), "Worker processes that replaced others."
    ),
    "certlet_ready": Definition("gauge", (), "1 if the CA can issue certificates, otherwise 0."),
    "certlet_ca_not_after_timestamp_seconds": Definition(
        "gauge", (), "The end of the issuing CA and its chain."
    ),
    "certlet_crl_this_update_timestamp_seconds": Definition("gauge", (), "The date of the last CRL."),
    "certlet_crl_next_update_timestamp_seconds": Definition(
        "gauge", (), "The time until which verifiers accept the last CRL."
    ),
    "certlet_crl_entries": Definition("gauge", (), "Revoked certificates in the last CRL."),
    "certlet_tls_not_after_timestamp_seconds": Definition(
        "gauge", (), "The end of the server's own certificate, with HTTPS."
    ),
    "certlet_ledger": Definition("gauge", (), "1 if the server has a ledger, otherwise 0."),
    "certlet_build_info": Definition(
        "gauge", ("version", "python"), "The versions of Certlet and of Python."
    ),
}


class Sample(NamedTuple):
    """The current value of a metric, for one set of label values."""

    name: str
    labels: tuple[str, ...]
    value: float


class Metrics(Collector):
    """Counts requests and what the workers record; reads all other values when they are encoded."""

    def __init__(
        self, version: str, pools: Mapping[str, WorkerPool], read_gauges: Callable[[], Mapping[str, float]]
    ) -> None:
        """Start to count.

        Args:
            version: the version of the contract.
            pools: name -> pool of workers.
            read_gauges: returns the gauges without labels whose value is known: name -> value.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a metric for each metric, with its age
        self._build = Sample("certlet_build_info", (version, platform.python_version()), 1)
        self._pools = pools
        self._read_gauges = read_gauges
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._requests = self._counter("certlet_http_requests_total")
        name = "certlet_http_request_duration_seconds"
        _, labels, meaning = DEFINITIONS[name]
        self._duration = Histogram(name, meaning, labels, buckets=_BUCKETS, registry=self._registry)
        self._outcomes = {
            "result": self._counter("certlet_certificates_issued_total"),
            "refusal": self._counter("certlet_certificates_refused_total"),
            "revocation": self._counter("certlet_certificates_revoked_total"),
        }

    def _counter(self, name: str) -> Counter:
        _, labels, meaning = DEFINITIONS[name]
        return Counter(name, meaning, labels, registry=self._registry)

    def observe(self, exchange: Exchange) -> None:
        """Count a request."""
        operation = exchange.operation or NONE
        self._requests.labels(operation, exchange.status).inc()
        self._duration.labels(operation).observe(exchange.seconds)

    def add_outcomes(self, outcomes: Iterable[tuple[str, list[str], int]]) -> None:
        """Add the counts of a worker (`service.audit_counts`); ignore the rest if they are malformed."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            for event, labels, number in outcomes:
                self._outcomes[event].labels(*(label or NONE for label in labels)).inc(number)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are not counted here (prometheus_client calls this)."""
        gauges = (Sample(name, (), value) for name, value in self._read_gauges().items())
        samples = sorted([self._build, *_pool_samples(self._pools), *gauges])
        for name, group in itertools.groupby(samples, key=itemgetter(0)):
            kind, labels, meaning = DEFINITIONS[name]
            family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                name, meaning, labels=labels
            )
            for sample in group:
                family.add_metric(sample.labels, sample.value)
            yield family

    def encode(self) -> str:
        """Encode all metrics."""
        return generate_latest(self._registry).decode()


def _pool_samples(pools: Mapping[str, WorkerPool]) -> Iterator[Sample]:
    for pool_name, pool in pools.items():
        for name, value in pool.statistics()._asdict().items():
            yield Sample(_POOL_METRICS[name], (pool_name,), value)
