from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import baselines, contenders
from tests.bench.conftest import is_positive

NAMES = ["cfssl", "POST /sign", "POST /sign.pem", "POST /sign/batch of 20"]


@pytest.fixture(scope="module")
def section(run_section: Callable[[str], Any]) -> Any:
    return run_section("cfssl")


def test_short_run_reports_every_figure(section: Any) -> None:
    """Each endpoint has rate, ratio, latency, processor time and memory, for both CAs."""
    rows = [(row["ca"], row["connections"], row["name"]) for row in section["served"]]
    assert rows == [(ca, 8, name) for ca in contenders.KEY_TYPES for name in NAMES]
    for row in section["served"]:
        figures = [row["rate"], row["p50"], row["p99"], row["cpu"], row["resident"]]
        if row["name"] != "cfssl":
            figures += [row["ratio"], row["cpu_ratio"]]
        for figure in figures:
            assert all(map(is_positive, figure.values() if isinstance(figure, dict) else [figure])), row
        has_target = row["name"] in (NAMES[1], NAMES[3])
        assert (row["target"] is not None) == has_target, row
    assert [share["ca"] for share in section["shares"]] == list(contenders.KEY_TYPES)
    assert all(is_positive(share["ratio"]["median"]) for share in section["shares"])


def test_short_run_reports_every_baseline(section: Any) -> None:
    """Issuance, the library and OpenSSL are measured for both CAs."""
    costs = section["costs"]
    names = [
        baselines.ISSUE,
        baselines.ISSUE_ALL,
        baselines.LOAD,
        baselines.VERIFY_CSR,
        baselines.SIGN,
        baselines.PEM,
    ]
    names += [baselines.OPENSSL_SIGN, baselines.OPENSSL_VERIFY]
    expected = [(ca, name) for ca in contenders.KEY_TYPES for name in names]
    assert [(cost["ca"], cost["name"]) for cost in costs] == expected
    assert all(is_positive(cost["microseconds"]["median"]) for cost in costs)


def test_short_run_compares_responses_to_bad_requests(section: Any) -> None:
    """The report shows Certlet's problem code and cfssl's response for each bad request."""
    document = section["differences"]
    refusals = ["422 badCSR", "422 badPublicKey", "422 badPublicKey", "422 rejectedIdentifier"]
    assert [difference["certlet"] for difference in document] == [*refusals, "403 unauthorized"]
    assert all(difference["cfssl"] for difference in document)
