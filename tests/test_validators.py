"""One response reports all problems in the query, headers and body of a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import factories
from tests.lambda_events import CSR_PEM, est_event, invoke_application, proxy_event


def sign(
    body: object, query: dict[str, list[str]] | None = None, path: str = "/sign", /, **headers: str
) -> dict[str, Any]:
    """Create an event of a sign operation. A body that is not a string is sent as JSON."""
    headers = {"Content-Type": "text/plain" if path == "/sign.pem" else "application/json", **headers}
    body = body if isinstance(body, str) else json.dumps(body)
    members = {"headers": headers, "multiValueQueryStringParameters": query, "body": body}
    return proxy_event(path) | members | {"isBase64Encoded": False}


def batch(requests: object) -> dict[str, Any]:
    return sign({"requests": requests}, None, "/sign/batch")


CSR = json.dumps({"csr": CSR_PEM})
KEY, KEY_FORMAT = "Idempotency-Key", "8 to 128 visible ASCII characters without a space"
DURATION_DETAIL = "'90 days' is not a duration such as 12h, 30d or 4w, or in ISO 8601 such as PT12H or P30D"
PROBLEMS = {
    "all-parts": (
        sign('{"csr": 1, "x": 2, "text": "yes"}', {"y": ["1"], "dry_run": ["maybe"]}, **{KEY: "a b"}),
        [("query.y", "Unknown query parameter 'y'"), ("query.dry_run", "Must be true or false"),
         (f"header.{KEY}", f"'a b' is not {KEY_FORMAT}"),
         ("", "Unknown members: 'x'"), ("csr", "Must be a string"), ("text", "Must be true or false")],
    ),
    "repeated-parameter": (sign(CSR, {"dry_run": ["true", "false"]}), [("query.dry_run", "The parameter must not occur more than once")]),
    "no-body": (sign("", {"y": ["1"]}), [("query.y", "Unknown query parameter 'y'"), ("", "The body is missing")]),
    "not-json": (sign('{"csr": }'), [("", "The body is not JSON: Expecting value, at line 1, column 9")]),
    "pem": (sign("\n" + CSR_PEM), [("", "The body is PEM, not JSON: send it to /sign.pem")]),
    "pem-after-bom": (sign("\ufeff" + CSR_PEM), [("", "The body is PEM, not JSON: send it to /sign.pem")]),
    "two-boms": (sign("\ufeff\ufeff{}"), [("", "The body is not JSON: Expecting value, at line 1, column 1")]),
    "duplicate-member": (sign('{"csr": "x", "csr": "y"}'), [("", "The body is not JSON: an object has a duplicate member")]),
    "nan": (sign('{"csr": NaN}'), [("", "The body is not JSON: NaN is not allowed")]),
    "deep": (sign("[" * 100_000), [("", "The body is not JSON: nested too deeply: at most 20 levels are accepted")]),
    "deep-but-parsed": (sign("[" * 21 + "]" * 21), [("", "The body is not JSON: nested too deeply: at most 20 levels are accepted")]),
    "not-too-deep": (sign('{"a":' * 20 + "1" + "}" * 20), [("", "Missing members: csr"), ("", "Unknown members: 'a'")]),
    "long-number": (sign(f'{{"csr": {"1" * 5_000}}}'), [("", "The body is not JSON: a number has 5000 digits; at most 100 are accepted")]),
    "null": (sign("null"), [("", "Must be an object")]),
    "not-utf-8": (sign("") | {"body": "eyJcgP8iOiAxfQ==", "isBase64Encoded": True}, [("", "The body is not JSON: octet 4 is not UTF-8")]),
    "no-csr": (sign({}), [("", "Missing members: csr")]),
    "empty-csr": (sign({"csr": ""}), [("csr", "Must not be empty")]),
    "long-csr": (sign({"csr": "A" * 131_073}), [("csr", "Too long: 131073 characters, the limit is 131072")]),
    "no-profile": (sign({"csr": "x", "profile": None}), [("profile", "Must be a string")]),
    "other-profile": (sign({"csr": "x", "profile": "admin"}), [("profile", "'admin' is not one of: server, client, peer")]),
    "no-validity": (sign({"csr": "x", "validity": ""}), [("validity", "Must not be empty")]),
    "no-duration": (sign({"csr": "x", "validity": "90 days"}), [("validity", DURATION_DETAIL)]),
    "no-time": (sign({"csr": "x", "not_after": "2030-1-1"}), [("not_after", "'2030-1-1' is not a time in UTC and whole seconds, such as 2030-12-31T23:59:59Z (RFC 3339)")]),
    "query-of-pem": (
        sign(CSR_PEM, {"validity": ["90 days"], "profile": ["x"], "x": ["1"], "y": ["1"]}, "/sign.pem", **{KEY: "with a space"}),
        [("query.validity", DURATION_DETAIL), ("query.profile", "'x' is not one of: server, client, peer"),
         ("query.x", "Unknown query parameter 'x'"), ("query.y", "Unknown query parameter 'y'"),
         (f"header.{KEY}", f"'with a space' is not {KEY_FORMAT}")],
    ),
    "no-pem": (sign("", None, "/sign.pem"), [("", "The body is missing")]),
    "short-key": (sign(CSR, **{KEY: "short"}), [(f"header.{KEY}", f"'short' is not {KEY_FORMAT}")]),
    "long-key": (sign(CSR, **{KEY: "x" * 129}), [(f"header.{KEY}", f"'{'x' * 39}\\u2026' is not {KEY_FORMAT}")]),
    "key-of-letters-beyond-ascii": (sign(CSR, **{KEY: "\xe9" * 8}), [(f"header.{KEY}", "'" + "\\xe9" * 8 + f"' is not {KEY_FORMAT}")]),
    "batch-of-none": (batch([]), [("requests", "Must not be empty")]),
    "batch-of-501": (batch([{"csr": CSR_PEM}] * 501), [("requests", "Too long: 501 items, the limit is 500")]),
    "batch-of-text": (batch(["x"]), [("requests.0", "Must be an object")]),
    "batch-of-nothing": (batch([{}]), [("requests.0", "Missing members: csr")]),
    "batch-of-number": (batch([{"csr": 1}]), [("requests.0.csr", "Must be a string")]),
    "batch-with-text": (batch([{"csr": "x", "text": True}]), [("requests.0", "Unknown members: 'text'")]),
    "no-batch": (batch({}), [("requests", "Must be an array")]),
    **{
        path: (proxy_event(path, "GET", queryStringParameters={"x": "1"}), [("query.x", "Unknown query parameter 'x'")])
        for path in ("/ca.crt", "/ca.pem", "/ca.p7c", "/root.crt", "/profiles", "/health")
    },
    "no-parameters": (proxy_event("/ca", "GET", queryStringParameters={"x\x1b": "1"}), [("query.x\\x1b", "Unknown query parameter 'x\\x1b'")]),
    "a-body-where-none-belongs": (proxy_event("/ca", "GET", body="x", queryStringParameters={"x": "1"}), [("query.x", "Unknown query parameter 'x'"), ("", "The operation accepts no body")]),
    "no-parameters-but-a-body": (est_event(body="", queryStringParameters={"x": "1"}), [("query.x", "Unknown query parameter 'x'"), ("", "The body is missing")]),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBLEMS)
def test_all_problems_are_reported_at_once(case: str) -> None:
    """The status is 400, `errors` lists each field with its problem, and nothing is issued."""
    request, problems = PROBLEMS[case]
    (response,), log = invoke_application(factories.document(), request)
    document = json.loads(response["body"])
    assert (response["statusCode"], document["code"], log) == ("400", "malformed", [])
    assert [(error["field"], error["detail"]) for error in document["errors"]] == problems
    assert document["detail"] in {problems[0][1], f"{len(problems)} problems, see errors"}


def invoke(event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the response to one event, and its body, which is JSON."""
    (response,), _ = invoke_application(factories.document(), event)
    return response, json.loads(response["body"])


def test_byte_order_mark_before_json_is_ignored() -> None:
    """Editors on Windows write a UTF-8 byte order mark, which parsers may ignore (RFC 8259 8.1)."""
    response, certificate = invoke(sign("\ufeff" + CSR))
    assert (response["statusCode"], certificate["profile"]) == ("200", "server")


@pytest.mark.parametrize("coding", ["gzip", "identity, br", "GZIP\x1b[31m"])
@pytest.mark.parametrize("path", ["/sign", "/sign.pem"])
def test_content_encoding_is_415_and_named(path: str, coding: str) -> None:
    """The first content coding is quoted, escaped; Accept-Encoding says that there is none (RFC 9110 12.5.3)."""
    response, problem = invoke(sign(CSR, None, path, **{"Content-Encoding": coding}))
    assert (response["statusCode"], problem["code"]) == ("415", "unsupportedMediaType")
    assert response["headers"]["Accept-Encoding"] == "identity"
    name = coding.removeprefix("identity, ").replace("\x1b", "\\x1b")
    assert problem["detail"] == f"Content-Encoding '{name}' is not supported: send the body without it"


@pytest.mark.parametrize("coding", ["", "identity", "Identity"])
def test_content_encoding_identity_is_accepted(coding: str) -> None:
    """The name `identity` is for no coding (RFC 9110 12.5.3), so the body is as it must be."""
    response, _ = invoke(sign(CSR, **{"Content-Encoding": coding}))
    assert response["statusCode"] == "200"


def test_other_415_has_no_accept_encoding() -> None:
    """Accept-Encoding is only in the response to a content coding (RFC 9110 15.5.16)."""
    response, _ = invoke(sign(CSR, **{"Content-Type": "text/csv"}))
    assert (response["statusCode"], response["headers"].get("Accept-Encoding")) == ("415", None)


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/pkcs10"]
)
def test_pem_for_a_json_operation_is_pointed_to_sign_pem(media_type: str) -> None:
    """The 415 names /sign.pem if the body is PEM; if not, it only lists the media types."""
    accepted = "The operation accepts only application/json"
    _, problem = invoke(sign(CSR_PEM, **{"Content-Type": media_type}))
    assert (problem["status"], problem["detail"]) == (415, accepted + ": send PEM to /sign.pem")
    _, problem = invoke(sign("x" + CSR_PEM, **{"Content-Type": media_type}))
    assert (problem["status"], problem["detail"]) == (415, accepted)


def test_no_content_type_means_octet_stream() -> None:
    """RFC 9110 8.3: /sign.pem accepts application/octet-stream, so it accepts no Content-Type; /sign does not."""
    for path, status in (("/sign.pem", "200"), ("/sign", "415")):
        event = sign(CSR_PEM, None, path)
        del event["headers"]["Content-Type"]
        (response,), _ = invoke_application(factories.document(), event | {"multiValueHeaders": None})
        assert response["statusCode"] == status
