from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from tests.fuzz import schemathesis_setup
from tests.servers import API_KEY, Server

sign = schemathesis_setup.load(refusable=True).include(method="POST", path="/sign")
sign_pem = schemathesis_setup.load(refusable=True).include(method="POST", path="/sign.pem")
keyed = schemathesis_setup.load(batched=True).include(schemathesis_setup.keyed)
others = schemathesis_setup.load(refusable=False).exclude(schemathesis_setup.signs)
tally = schemathesis_setup.Tally()
ways = schemathesis_setup.Ways()


def ask(case: Any, server: Server, headers: dict[str, str]) -> None:
    """Send one case, and apply every check."""
    schemathesis_setup.count(ways, case)
    response = case.call(base_url=server.url, headers=headers)
    tally[f"{case.method} {case.path}", response.status_code] += 1
    case.validate_response(response, headers=headers)


@sign.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=1300, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_signing(case: Any, server: Server) -> None:
    """`POST /sign` answers as the contract says, whatever is sent."""
    ask(case, server, {"x-api-key": API_KEY})


@sign_pem.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=300, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_signing_in_pem(case: Any, server: Server) -> None:
    """So does `POST /sign.pem`, which takes the same and is answered in another form."""
    ask(case, server, {"x-api-key": API_KEY})


@keyed.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=150, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_operations_with_a_key(case: Any, server: Server) -> None:
    """A batch answers 200 whatever is in its requests, and 400 for what is none."""
    ask(case, server, {"x-api-key": API_KEY})


@others.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=50, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_every_other_operation(case: Any, server: Server) -> None:
    """Every other operation answers as the contract says, whatever is sent."""
    ask(case, server, {})


@pytest.mark.usefixtures("server")
def test_there_was_enough() -> None:
    """The figures of a fuzz that means something: 2,000 requests, 300 issued and 300 refused by /sign."""
    assert sum(tally.values()) >= 2000, tally
    assert tally["POST /sign", 200] >= 300, tally
    assert tally["POST /sign", 422] >= 300, tally
    assert tally["POST /sign/batch", 200] >= 50, tally


@pytest.mark.usefixtures("server")
def test_every_phase_and_mode() -> None:
    """Every operation got examples, coverage and fuzzing, good data and bad, as far as it has any."""
    assert not schemathesis_setup.missing(ways), ways
