"""Every problem of a request's query, headers and body is in one answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import authorities
from tests.events import GOOD, ask, est, event


def sign(body: str, query: dict[str, list[str]] | None = None, **headers: str) -> dict[str, Any]:
    """An event of `POST /sign`."""
    return event(
        headers={"Content-Type": "application/json", **headers},
        multiValueQueryStringParameters=query,
        body=body,
        isBase64Encoded=False,
    )


CSR = json.dumps({"csr": GOOD})
PROBLEMS = {
    "everything": (
        sign('{"csr": 1, "x": 2, "text": "yes"}', {"y": ["1"], "dry_run": ["maybe"]}, **{"Idempotency-Key": "a b"}),
        [("query.y", "there is no query parameter 'y'"), ("query.dry_run", "this must be true or false"),
         ("header.Idempotency-Key", "'a b' is not 8 to 128 visible ASCII characters without a space"),
         ("", "unknown: 'x'"), ("csr", "this must be text"), ("text", "this must be true or false")],
    ),
    "twice": (sign(CSR, {"dry_run": ["true", "false"]}), [("query.dry_run", "given more than once")]),
    "no-body": (sign("", {"y": ["1"]}), [("query.y", "there is no query parameter 'y'"), ("", "the body is missing")]),
    "not-json": (sign('{"csr": }'), [("", "the body is not JSON: Expecting value, at line 1, column 9")]),
    "twice-in-json": (sign('{"csr": "x", "csr": "y"}'), [("", "the body is not JSON: a member stands twice in one object")]),
    "nan": (sign('{"csr": NaN}'), [("", "the body is not JSON: NaN is not JSON")]),
    "deep": (sign("[" * 100_000), [("", "the body is not JSON: it is nested too deeply")]),
    "null": (sign("null"), [("", "this must be an object")]),
    "not-utf-8": (sign("") | {"body": "eyJcgP8iOiAxfQ==", "isBase64Encoded": True}, [("", "the body is not JSON: octet 4 of it is not UTF-8")]),
    "no-parameters": (event("/ca", "GET", queryStringParameters={"x\x1b": "1"}), [("query.x\\x1b", "there is no query parameter 'x\\x1b'")]),
    "a-body-where-none-belongs": (event("/ca", "GET", body="x", queryStringParameters={"x": "1"}), [("query.x", "there is no query parameter 'x'"), ("", "this takes no body")]),
    "no-parameters-but-a-body": (est(body="", queryStringParameters={"x": "1"}), [("query.x", "there is no query parameter 'x'"), ("", "the body is missing")]),
}  # fmt: skip


@pytest.mark.parametrize("what", PROBLEMS)
def test_every_problem_is_reported_at_once(what: str) -> None:
    """400, and `errors` lists each field with what is wrong with it; nothing is issued."""
    asked, problems = PROBLEMS[what]
    (answer,), log = ask(authorities.document(), asked)
    found = json.loads(answer["body"])
    assert (answer["statusCode"], found["code"], log) == ("400", "malformed", [])
    assert [(each["field"], each["detail"]) for each in found["errors"]] == problems
    assert found["detail"] in {problems[0][1], f"{len(problems)} faults, each listed in errors."}


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_boolean_in_the_query_is_a_boolean(value: str) -> None:
    """`dry_run=true` issues nothing, `dry_run=false` a certificate."""
    (answer,), log = ask(authorities.document(), sign(CSR, {"dry_run": [value]}))
    assert answer["statusCode"] == ("202" if value == "true" else "200")
    assert log.kinds() == ([] if value == "true" else ["intent", "result"])
