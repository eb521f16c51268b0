from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from service.gateway.routes import METHODS
from tests.fuzz import schemathesis_setup
from tests.servers import API_KEY, Server

sign_schema = schemathesis_setup.load(refusable=True).include(method="POST", path="/sign")
sign_pem_schema = schemathesis_setup.load(refusable=True).include(method="POST", path="/sign.pem")
api_key_schema = schemathesis_setup.load(batched=True).include(schemathesis_setup.is_other_key_operation)
acme_schema = schemathesis_setup.load(unsigned=True).include(schemathesis_setup.is_signed_operation)
other_schema = (
    schemathesis_setup.load(refusable=False)
    .exclude(schemathesis_setup.is_sign_operation)
    .exclude(schemathesis_setup.is_signed_operation)
)
status_counts = schemathesis_setup.StatusCounts()
coverage = schemathesis_setup.Coverage()


def send(case: Any, server: Server, headers: dict[str, str]) -> None:
    """Send one case, and apply all checks."""
    schemathesis_setup.record_coverage(coverage, case)
    response = case.call(base_url=server.url, headers=headers)
    status_counts[f"{case.method} {case.path}", response.status_code] += 1
    if case.method in METHODS:
        case.validate_response(response, headers=headers)
    else:  # QUERY: Schemathesis expects 405 also for a method that the server does not know
        assert (response.status_code, response.json()["code"]) == (501, "notImplemented")


@sign_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=1300, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_sign_follows_the_contract(case: Any, server: Server) -> None:
    """`POST /sign` follows the contract for generated requests."""
    send(case, server, {"x-api-key": API_KEY})


@sign_pem_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=300, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_sign_pem_follows_the_contract(case: Any, server: Server) -> None:
    """`POST /sign.pem` follows the contract for generated requests."""
    send(case, server, {"x-api-key": API_KEY})


@api_key_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=150, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_operations_with_api_key_follow_the_contract(case: Any, server: Server) -> None:
    """A batch is 200 with a result for each request, or 400 if it is malformed."""
    send(case, server, {"x-api-key": API_KEY})


@acme_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=50, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_acme_refuses_unsigned_requests(case: Any, server: Server) -> None:
    """As the contract says, also if they are valid by its schemas; test_acme.py signs requests."""
    send(case, server, {})


@other_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=50, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_other_operations_follow_the_contract(case: Any, server: Server) -> None:
    """All other operations follow the contract for generated requests."""
    send(case, server, {})


@pytest.mark.usefixtures("server")
def test_fuzzing_reached_minimum_responses() -> None:
    """The tests above sent 2,000 requests; /sign issued 200 and refused 300."""
    assert sum(status_counts.values()) >= 2000, status_counts
    assert status_counts["POST /sign", 200] >= 200, status_counts
    assert status_counts["POST /sign", 422] >= 300, status_counts
    assert status_counts["POST /sign/batch", 200] >= 50, status_counts
    assert status_counts["POST /acme/new-order", 400] >= 20, status_counts
    assert status_counts["GET /acme/directory", 200] >= 1, status_counts
    assert status_counts["HEAD /acme/new-nonce", 200] >= 1, status_counts
    assert status_counts["GET /acme/new-nonce", 204] >= 1, status_counts


@pytest.mark.usefixtures("server")
def test_each_operation_got_each_phase_and_mode() -> None:
    """Each operation got examples, coverage and fuzzing, with valid and invalid data, where they exist."""
    assert not schemathesis_setup.missing_coverage(coverage), coverage
