from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from schemathesis.generation.stateful import run_state_machine_as_test
from schemathesis.specs.openapi.checks import ignored_auth

from tests.fuzz import schemathesis_setup
from tests.servers import API_KEY, Server

LINKS = schemathesis_setup.find_links()
Machine: Any = schemathesis_setup.load_links().as_state_machine()


@pytest.fixture(scope="module")
def link_counts(server: Server) -> Counter[tuple[str, str, int]]:
    """Follow the links of the contract, apply all checks, and count by source, target and status."""
    counts: Counter[tuple[str, str, int]] = Counter()

    class LinkCounter(Machine):  # type: ignore[misc]  # created at run time
        """Sends each step to the server, and counts links."""

        def get_call_kwargs(self, _case: Any) -> dict[str, Any]:
            return {"base_url": server.url, "headers": {"x-api-key": API_KEY}}

        def validate_response(self, response: Any, case: Any, **_kwargs: Any) -> None:
            # tests/fuzz/test_server.py applies ignored_auth, which sends each request three times.
            case.validate_response(response, headers={"x-api-key": API_KEY}, excluded_checks=[ignored_auth])

        def step(self, input: Any) -> Any:  # noqa: A002 - the name in Schemathesis
            output = super().step(input)
            if input.transition and input.applied_parameters:
                parent = input.transition.parent_id
                counts[self.labels[parent], input.case.operation.label, output.response.status_code] += 1
            self.labels[input.case.id] = input.case.operation.label
            return output

        def setup(self) -> None:
            super().setup()
            self.labels: dict[str, str] = {}

    run_state_machine_as_test(
        LinkCounter,
        settings=settings(
            max_examples=200,
            stateful_step_count=4,
            deadline=None,
            derandomize=True,  # few dry runs have valid requests, so random data would make the test unreliable
            suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS,
        ),
    )
    return counts


def test_links_lead_to_certificates(link_counts: Counter[tuple[str, str, int]]) -> None:
    """All links of the contract were followed, and each target returned a certificate or a dry run."""
    assert {(source, target) for source, target, _ in link_counts} == LINKS, link_counts
    for target in {target for _, target in LINKS}:
        assert any(link_counts[source, target, status] for source, _ in LINKS for status in (200, 202)), (
            link_counts
        )
