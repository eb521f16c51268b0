"""Two validators, one verdict: what `service.web.requests` accepts at once, and what it explains."""

from __future__ import annotations

from typing import Any

import fastjsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from service import contract
from service.web.requests import Expectation
from tests import authorities

OPERATIONS = contract.operations(contract.for_function(authorities.document()))
BODIES = [name for name, stated in OPERATIONS.items() if "application/json" in stated.get("requestBody", {}).get("content", {})]  # fmt: skip
MEMBERS = ["csr", "profile", "text", "validity", "not_after", "requests", "x"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
    | st.sampled_from(["server", "client", "P1D", "P1D\n", "PT", "2030-01-01T00:00:00Z", "x" * 131_073, ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=500, deadline=None)
@example({"csr": "x"})
@example({"csr": "x", "text": 1})
@example({"requests": [{"csr": "x"}] * 500})
@example({"requests": [{"csr": "x"}] * 501})
@example({"requests": [{"csr": "x", "profile": 1.0}]})
@given(VALUES | st.fixed_dictionaries({"csr": st.just("x")}, optional=dict.fromkeys(MEMBERS[1:], VALUES)))
def test_the_fast_validator_takes_nothing_more(name: str, document: Any) -> None:
    """What fastjsonschema takes jsonschema takes as well; what it refuses jsonschema is asked about again."""
    expectation = Expectation(OPERATIONS[name])
    try:
        expectation._accept(document)
    except fastjsonschema.JsonSchemaValueException:
        return
    schema = OPERATIONS[name]["requestBody"]["content"]["application/json"]["schema"]
    assert not list(Draft4Validator(schema).iter_errors(document))


def test_there_are_bodies_to_compare() -> None:
    """The operations that take JSON, so that none is forgotten."""
    assert sorted(BODIES) == ["sign", "signBatch"]
