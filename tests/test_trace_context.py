"""The ID of a trace: valid, malformed and repeated headers."""

from __future__ import annotations

import pytest

from service.trace_context import find_trace_id

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
ROOT = "1-5759e988-bd862e3fe1be46a994272793"
X_RAY_ID = "5759e988bd862e3fe1be46a994272793"


@pytest.mark.parametrize(
    "value",
    [
        TRACEPARENT,
        f" {TRACEPARENT}\t",
        TRACEPARENT.removesuffix("01") + "ff",
        f"cc-{TRACE_ID}-{PARENT_ID}-00",
        f"01-{TRACE_ID}-{PARENT_ID}-01-what the future will be like",
        f"fe-{TRACE_ID}-{PARENT_ID}-01-",
    ],
)
def test_traceparent_has_the_trace_id(value: str) -> None:
    assert find_trace_id([("Accept", "*/*"), ("TraceParent", value)]) == TRACE_ID


@pytest.mark.parametrize(
    "value",
    [
        "",
        "garbage",
        TRACE_ID,
        TRACEPARENT.upper(),
        TRACEPARENT.replace("f", "F"),
        TRACEPARENT.replace("f", "g"),
        TRACEPARENT.replace("-", "_"),
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID[1:]}-{PARENT_ID}-01",
        f"00-{TRACE_ID}0-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-1",
        f"00-{TRACE_ID}-{PARENT_ID}-001",
        f"00-{TRACE_ID}-{PARENT_ID}-",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"{TRACEPARENT}-more",
        f"{TRACEPARENT}-",
        f"{TRACEPARENT}\n",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"0-{TRACE_ID}-{PARENT_ID}-01",
        f"cc-{TRACE_ID}-{PARENT_ID}-01more",
        f"cc-{'0' * 32}-{PARENT_ID}-01-more",
        f"{TRACEPARENT}, {TRACEPARENT}",
        TRACEPARENT.replace("4", "\N{FULLWIDTH DIGIT FOUR}"),
    ],
)
def test_malformed_traceparent_is_ignored(value: str) -> None:
    assert find_trace_id([("traceparent", value)]) == ""


def test_repeated_traceparent_is_ignored() -> None:
    assert find_trace_id([("traceparent", TRACEPARENT), ("Traceparent", TRACEPARENT)]) == ""


@pytest.mark.parametrize(
    "value",
    [
        f"Root={ROOT}",
        f"Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1",
        f"Self=1-67891234-12456789abcdef012345678;Root={ROOT}",
        f"Self=1-67891234-12456789abcdef012345678; Root={ROOT} ; any=thing",
    ],
)
def test_x_amzn_trace_id_has_the_trace_id(value: str) -> None:
    assert find_trace_id([("X-Amzn-Trace-Id", value)]) == X_RAY_ID


@pytest.mark.parametrize(
    "value", ["", ROOT, f"root={ROOT}", f"Root={ROOT}0", f"Root=2{ROOT[1:]}", f"Parent=1;Root={ROOT.upper()}"]
)
def test_malformed_x_amzn_trace_id_is_ignored(value: str) -> None:
    assert find_trace_id([("X-Amzn-Trace-Id", value)]) == ""


def test_traceparent_precedes_x_amzn_trace_id() -> None:
    """The service that added X-Amzn-Trace-Id may be the gateway, which knows no other trace."""
    headers = [("X-Amzn-Trace-Id", f"Root={ROOT}"), ("traceparent", TRACEPARENT)]
    assert find_trace_id(headers) == TRACE_ID
    assert find_trace_id([headers[0], ("traceparent", "garbage")]) == X_RAY_ID
    assert find_trace_id([headers[0], headers[0]]) == ""
    assert find_trace_id([]) == ""
