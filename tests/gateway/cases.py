"""The table: requests, and the answers that API Gateway documents (../shared facts, and its guide).

A row says which targets it reaches. `LOCALSTACK` rows run against LocalStack 4.13.1 too; a row that it
answers otherwise says in `localstack` what it does and why ours differs. `EVENTS` rows reach the Lambda
handler by themselves.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests import csrs, factories
from tests.servers import API_KEY

KEY: Final = {"x-api-key": API_KEY}
BASIC: Final = "Basic " + base64.b64encode(f"device:{API_KEY}".encode()).decode()
JSON: Final = {"Content-Type": "application/json"}
PROBLEM: Final = {"Content-Type": "application/problem+json", "Access-Control-Allow-Origin": "*"}
CSR: Final = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()


@dataclass(frozen=True)
class Row:
    """One request, and what must come back.

    Attributes:
        name: of the row, unique.
        status: the answer's.
        headers: that the answer must have; None for one that it must not have.
        body: a predicate on the body.
        events: whether it reaches the Lambda handler.
        localstack: True if LocalStack must answer the same; else why it is not asked, or what it
            answers instead.
    """

    name: str
    method: str
    path: str
    status: int
    send: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: Callable[[bytes], bool] = lambda _: True
    events: bool = False
    localstack: bool | str = False


NO_EST: Final = "is given the document without EST, as AWS is by default; tests/gateway/test_localstack.py imports the other"
NO_LAMBDA: Final = "runs no Lambda function without a container engine"
NO_RESPONSES: Final = "imports no gateway responses: AWS's default body and status"


def has(**members: object) -> Callable[[bytes], bool]:
    """The body is JSON with these members."""

    def check(body: bytes) -> bool:
        found = json.loads(body)
        return all(found.get(name) == value for name, value in members.items())

    return check


def told(**members: object) -> Callable[[bytes], bool]:
    """The body tells an event with these members."""

    def check(body: bytes) -> bool:
        event = json.loads(body)["event"]
        return all(event.get(name) == value for name, value in members.items())

    return check


def event(predicate: Callable[[dict[str, Any]], bool]) -> Callable[[bytes], bool]:
    """The body tells an event for which this holds."""
    return lambda body: predicate(json.loads(body)["event"])


def page(path: str) -> bytes:
    """The page that stands in the document at a path."""
    integration = factories.document()["paths"][path]["get"]["x-amazon-apigateway-integration"]
    return bytes(integration["responses"]["default"]["responseTemplates"]["text/html"].encode())


PAGE: Final = page("/sign")
PROBLEMS: Final = page("/problems")
ORDER: Final = json.dumps({"csr": CSR}).encode()

# The contract: the whole path behind it.
CERTLET: Final = [
    Row("form", "GET", "/sign", 200, headers={"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff"}, body=lambda b: b == PAGE, localstack=True),
    Row("form-accept-any", "GET", "/sign", 200, send={"Accept": "*/*"}, headers={"Content-Type": "text/html; charset=utf-8"}, localstack=True),
    Row("form-accept-html", "GET", "/sign", 200, send={"Accept": "text/html,*/*;q=0.8"}, body=lambda b: b == PAGE, localstack=True),
    Row("form-slash", "GET", "/sign/", 200, body=lambda b: b == PAGE, localstack=True),
    Row("form-csp", "GET", "/sign", 200, headers={"Content-Security-Policy": "frame-ancestors 'none'"}, localstack=True),
    Row("problems", "GET", "/problems", 200, headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}, body=lambda b: b == PROBLEMS, localstack=True),
    Row("problems-head", "HEAD", "/problems", 405, headers={"Allow": "GET, OPTIONS"}, localstack=True),
    Row("preflight", "OPTIONS", "/sign", 204, headers={"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Origin": "*", "Access-Control-Max-Age": "86400"}, body=lambda b: b == b"", localstack=True),
    Row("preflight-get", "OPTIONS", "/ca.crt", 204, headers={"Access-Control-Allow-Methods": "GET"}, localstack=True),
    Row("any-method", "DELETE", "/ca", 405, headers={"Allow": "GET, OPTIONS", **PROBLEM}, body=has(code="methodNotAllowed", status=405), localstack=True),
    Row("any-method-form", "PUT", "/sign", 405, send={"Content-Type": "application/x-www-form-urlencoded"}, content=b"a=b", headers={"Allow": "GET, POST, OPTIONS"}, localstack=True),
    Row("any-method-head", "HEAD", "/ca", 405, headers={"Allow": "GET, OPTIONS"}, body=lambda b: b == b"", localstack=True),
    Row("any-method-415", "PUT", "/sign", 415, send={"Content-Type": "image/png"}, content=b"x", headers=PROBLEM, body=has(code="unsupportedMediaType"), localstack="415 with AWS's default body: " + NO_RESPONSES),
    Row("no-key", "POST", "/sign", 403, send=JSON, content=b"{}", headers={"x-amzn-ErrorType": "ForbiddenException", **PROBLEM}, body=has(code="unauthorized", status=403), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Row("wrong-key", "POST", "/sign", 403, send={**JSON, "x-api-key": API_KEY + "x"}, content=b"{}", body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Row("unknown-path", "GET", "/nope", 404, headers={"x-amzn-ErrorType": "MissingAuthenticationTokenException", **PROBLEM}, body=has(code="notFound"), localstack="403 Missing Authentication Token: " + NO_RESPONSES),
    Row("unknown-below", "GET", "/sign/nope", 404, body=has(code="notFound"), localstack="403 Missing Authentication Token: " + NO_RESPONSES),
    Row("signed", "POST", "/sign", 200, send={**JSON, **KEY}, content=ORDER, headers={"Content-Type": "application/json", "Access-Control-Allow-Origin": "*"}, body=has(profile="server", notes=[]), events=True, localstack=NO_LAMBDA),
    Row("signed-any-accept", "POST", "/sign", 200, send={**JSON, **KEY, "Accept": "*/*"}, content=ORDER, body=has(profile="server"), events=True, localstack=NO_LAMBDA),
    Row("signed-pem", "POST", "/sign.pem?profile=peer", 200, send={**KEY, "Content-Type": "text/plain"}, content=CSR.encode(), body=lambda b: b.count(b"BEGIN CERTIFICATE") == 2, events=True, localstack=NO_LAMBDA),
    Row("refused", "POST", "/sign", 422, send={**JSON, **KEY}, content=b'{"csr":"x"}', headers=PROBLEM, body=has(code="badCSR"), events=True, localstack=NO_LAMBDA),
    Row("malformed", "POST", "/sign", 400, send={**JSON, **KEY}, content=b"{", headers=PROBLEM, body=has(code="malformed"), events=True, localstack=NO_LAMBDA),
    Row("media-type", "POST", "/sign", 415, send={"Content-Type": "text/plain", **KEY}, content=b"x", headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Row("body-too-large", "POST", "/sign", 413, send={**JSON, **KEY}, content=b" " * 262_145, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Row("payload-too-large", "POST", "/sign", 413, send={**JSON, **KEY}, content=b" " * 10_485_761, headers={"x-amzn-ErrorType": "RequestTooLargeException", **PROBLEM}, localstack=NO_LAMBDA),
    Row("event-too-large", "POST", "/sign", 413, send={**JSON, **KEY}, content=b" " * 4_600_000, headers={"x-amzn-ErrorType": "RequestTooLargeException"}, localstack=NO_LAMBDA),
    Row("der", "GET", "/ca.crt", 200, headers={"Content-Type": "application/pkix-cert"}, body=lambda b: b[:1] == b"\x30", events=True, localstack=NO_LAMBDA),
    Row("der-accept", "GET", "/ca.crt", 200, send={"Accept": "application/pkix-cert, */*"}, body=lambda b: b[:1] == b"\x30", events=True, localstack=NO_LAMBDA),
    Row("crl", "GET", "/ca.crl", 200, send={"Accept": "*/*"}, headers={"Content-Type": "application/pkix-crl"}, body=lambda b: b[:1] == b"\x30", events=True, localstack=NO_LAMBDA),
    Row("dry-run", "POST", "/sign?dry_run=true", 202, send={**JSON, **KEY}, content=ORDER, headers={"Content-Type": "application/json"}, body=has(names=["dns:a.example.com"]), events=True, localstack=NO_LAMBDA),
    Row("idempotency-key", "POST", "/sign", 200, send={**JSON, **KEY, "Idempotency-Key": "0123456789"}, content=ORDER, body=lambda b: "idempotent_until" in json.loads(b), events=True, localstack=NO_LAMBDA),
    Row("idempotency-key-short", "POST", "/sign", 400, send={**JSON, **KEY, "idempotency-key": "0123"}, content=ORDER, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Row("batch", "POST", "/sign/batch", 200, send={**JSON, **KEY}, content=b'{"requests":[%s,{"csr":"x"}]}' % ORDER, body=lambda b: [*map(list, json.loads(b)["results"])] == [["certificate"], ["problem"]], events=True, localstack=NO_LAMBDA),
    Row("batch-malformed", "POST", "/sign/batch", 400, send={**JSON, **KEY}, content=b'{"requests":[]}', headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Row("batch-4-megabytes", "POST", "/sign/batch", 200, send={**JSON, **KEY}, content=(b'{"requests":[%s]}' % ORDER).ljust(4_194_304), events=True, localstack=NO_LAMBDA),
    Row("batch-too-large", "POST", "/sign/batch", 413, send={**JSON, **KEY}, content=b" " * 4_194_305, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Row("batch-no-key", "POST", "/sign/batch", 403, send=JSON, content=b"{}", body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Row("batch-preflight", "OPTIONS", "/sign/batch", 204, headers={"Access-Control-Allow-Methods": "POST"}, localstack=True),
    Row("mine", "GET", "/profiles/mine", 200, send=KEY, body=lambda b: {"principal", "profiles", "default"} == set(json.loads(b)), events=True, localstack=NO_LAMBDA),
    Row("mine-no-key", "GET", "/profiles/mine", 403, body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Row("health", "GET", "/health", 200, body=has(status="ready"), events=True, localstack=NO_LAMBDA),
    Row("est-cacerts-http", "GET", "/.well-known/est/cacerts", 403, headers={"Content-Type": "application/problem+json", "Access-Control-Allow-Origin": None}, body=has(code="httpsRequired"), events=True, localstack=NO_LAMBDA),
    Row("est-forwarded-forged", "GET", "/.well-known/est/cacerts", 403, send={"x-forwarded-proto": "https"}, body=has(code="httpsRequired"), localstack=NO_LAMBDA),
    Row("est-basic-http", "POST", "/.well-known/est/simpleenroll", 403, send={"Authorization": BASIC, "Content-Type": "application/pkcs10"}, content=CSR.encode(), body=has(code="httpsRequired"), localstack=NO_LAMBDA),
    Row("est-basic-wrong", "POST", "/.well-known/est/simpleenroll", 403, send={"Authorization": "Basic eDp5", "Content-Type": "application/pkcs10"}, content=CSR.encode(), headers={"x-amzn-ErrorType": "ForbiddenException"}, body=has(code="unauthorized"), localstack=NO_EST),
    Row("est-no-credentials-http", "POST", "/.well-known/est/simpleenroll", 403, send={"Content-Type": "application/pkcs10"}, content=CSR.encode(), headers={"WWW-Authenticate": None}, body=has(code="unauthorized"), localstack=NO_EST),
    Row("est-basic-elsewhere", "POST", "/sign", 403, send={**JSON, "Authorization": BASIC}, content=ORDER, body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Row("est-no-preflight", "OPTIONS", "/.well-known/est/simpleenroll", 405, headers={"Allow": "POST", "Access-Control-Allow-Origin": None}, localstack=NO_EST),
    Row("est-any-method", "DELETE", "/.well-known/est/peer/cacerts", 405, headers={"Allow": "GET", "Access-Control-Allow-Origin": None}, body=has(code="methodNotAllowed"), localstack=NO_EST),
    Row("unknown-parameter", "GET", "/health?x=1", 400, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
]  # fmt: skip

# A second API, whose function returns its event: what the contract's function does not show.
LIBRARY: Final = [
    Row("event-shape", "GET", "/books", 200, headers={"X-Seen": "yes", "Content-Type": "application/json"}, body=told(resource="/books", path="/books", httpMethod="GET", queryStringParameters=None, multiValueQueryStringParameters=None, pathParameters=None, stageVariables=None, body=None, isBase64Encoded=False)),
    Row("event-context", "GET", "/books", 200, body=event(lambda e: {"accountId", "apiId", "httpMethod", "identity", "path", "protocol", "requestId", "requestTime", "requestTimeEpoch", "resourceId", "resourcePath", "stage"} <= set(e["requestContext"]))),
    Row("event-identity", "GET", "/books", 200, send={"User-Agent": "reader/1"}, body=event(lambda e: e["requestContext"]["identity"] == {"apiKeyId": None, "sourceIp": "127.0.0.1", "userAgent": "reader/1"})),
    Row("event-key", "POST", "/books", 200, send={**KEY, **JSON}, content=b"{}", body=event(lambda e: e["requestContext"]["identity"]["apiKeyId"] == "reader")),
    Row("event-second-key", "POST", "/books", 200, send={"x-api-key": API_KEY[::-1], **JSON}, content=b"{}", body=event(lambda e: e["requestContext"]["identity"]["apiKeyId"] == "other")),
    Row("event-no-length", "POST", "/books", 200, send={**KEY, **JSON}, content=b"{}", body=event(lambda e: "content-length" not in {name.lower() for name in {**e["headers"], **e["multiValueHeaders"]}})),
    Row("event-binary", "POST", "/books", 200, send={**KEY, "Content-Type": "image/png"}, content=b"\x89PNG", body=told(body="iVBORw==", isBase64Encoded=True)),
    Row("event-query", "GET", "/books?a=1&b=2&a=3&c=", 200, body=told(queryStringParameters={"a": "3", "b": "2", "c": ""}, multiValueQueryStringParameters={"a": ["1", "3"], "b": ["2"], "c": [""]})),
    Row("event-query-decoded", "GET", "/books?a=%20%2B+x", 200, body=told(queryStringParameters={"a": " + x"})),
    Row("path-parameter", "GET", "/books/978-3", 200, body=told(resource="/books/{isbn}", pathParameters={"isbn": "978-3"})),
    Row("path-parameter-encoded", "GET", "/books/a%20b", 200, body=told(path="/books/a%20b", pathParameters={"isbn": "a%20b"})),
    Row("path-whole-segment", "GET", "/books/a/b", 404),
    Row("handler-raises", "GET", "/books?do=raise", 502, headers={**PROBLEM, "x-amzn-ErrorType": "InternalServerErrorException"}, body=lambda b: b"secret" not in b),
    Row("handler-malformed", "GET", "/books?do=malformed", 502),
    Row("handler-binary", "GET", "/books?do=png", 200, headers={"Content-Type": "image/png"}, body=lambda b: b == b"\x89PNG"),
    Row("handler-exits", "GET", "/books?do=exit", 502),
    Row("handler-hangs", "GET", "/books?do=hang", 504),
    Row("handler-recovers", "GET", "/books", 200),
]  # fmt: skip
