"""The table: requests, and the responses that API Gateway's developer guide documents.

Cases with `localstack` True also run against LocalStack 4.13.1; for others, `localstack` is the difference or
the reason to skip them. Cases with `events` are also sent to the Lambda handler as events.
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
class Case:
    """One request, and the expected response.

    Attributes:
        name: unique.
        status: the expected status.
        send: the headers of the request.
        content: the body of the request.
        headers: name -> value of required headers; None if the header must be absent.
        body: a predicate on the body.
        events: whether it reaches the Lambda handler.
        localstack: True if LocalStack responds identically; otherwise its different response, or the
            reason to skip it.
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


NO_EST: Final = (
    "imports the document without EST, the default on AWS; tests/gateway/test_localstack.py also imports EST"
)
NO_LAMBDA: Final = "runs no Lambda function without a container engine"
NO_RESPONSES: Final = "imports no gateway responses: AWS's default body and status"


def has(**members: object) -> Callable[[bytes], bool]:
    """Match JSON with these members."""

    def check(body: bytes) -> bool:
        document = json.loads(body)
        return all(document.get(name) == value for name, value in members.items())

    return check


def event_has(**members: object) -> Callable[[bytes], bool]:
    """Match an echoed event with these members."""

    def check(body: bytes) -> bool:
        event = json.loads(body)["event"]
        return all(event.get(name) == value for name, value in members.items())

    return check


def event_matches(predicate: Callable[[dict[str, Any]], bool]) -> Callable[[bytes], bool]:
    """Match an echoed event for which `predicate` is true."""
    return lambda body: predicate(json.loads(body)["event"])


def page(path: str) -> bytes:
    """The web page in the document at a path."""
    integration = factories.document()["paths"][path]["get"]["x-amazon-apigateway-integration"]
    return bytes(integration["responses"]["default"]["responseTemplates"]["text/html"].encode())


HOME: Final = page("/")
PAGE: Final = page("/sign")
PROBLEMS: Final = page("/problems")
SIGN_BODY: Final = json.dumps({"csr": CSR}).encode()

# The contract, with the real function.
CERTLET: Final = [
    Case("form", "GET", "/sign", 200, headers={"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff"}, body=lambda b: b == PAGE, localstack=True),
    Case("form-accept-any", "GET", "/sign", 200, send={"Accept": "*/*"}, headers={"Content-Type": "text/html; charset=utf-8"}, localstack=True),
    Case("form-accept-html", "GET", "/sign", 200, send={"Accept": "text/html,*/*;q=0.8"}, body=lambda b: b == PAGE, localstack=True),
    Case("form-slash", "GET", "/sign/", 200, body=lambda b: b == PAGE, localstack=True),
    Case("form-csp", "GET", "/sign", 200, headers={"Content-Security-Policy": "frame-ancestors 'none'"}, localstack=True),
    Case("home", "GET", "/", 200, headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}, body=lambda b: b == HOME, localstack=True),
    Case("home-head", "HEAD", "/", 200, headers={"Content-Type": "text/html; charset=utf-8"}, body=lambda b: b == b"", localstack=True),
    Case("home-preflight", "OPTIONS", "/", 204, headers={"Access-Control-Allow-Methods": "GET"}, localstack=True),
    Case("home-method", "POST", "/", 405, send=JSON, content=b"{}", headers={"Allow": "GET, HEAD, OPTIONS"}, localstack=True),
    Case("problems", "GET", "/problems", 200, headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}, body=lambda b: b == PROBLEMS, localstack=True),
    Case("form-head", "HEAD", "/sign", 200, headers={"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff"}, body=lambda b: b == b"", localstack=True),
    Case("form-type", "GET", "/sign", 200, send={"Content-Type": "image/png"}, body=lambda b: b == PAGE, localstack="415 with AWS's default body: " + NO_RESPONSES),
    Case("problems-head", "HEAD", "/problems", 200, headers={"Content-Type": "text/html; charset=utf-8"}, body=lambda b: b == b"", localstack=True),
    Case("preflight", "OPTIONS", "/sign", 204, headers={"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Origin": "*", "Access-Control-Max-Age": "86400"}, body=lambda b: b == b"", localstack=True),
    Case("preflight-get", "OPTIONS", "/ca.crt", 204, headers={"Access-Control-Allow-Methods": "GET"}, localstack=True),
    Case("any-method", "DELETE", "/ca", 405, headers={"Allow": "GET, HEAD, OPTIONS", **PROBLEM}, body=has(code="methodNotAllowed", status=405), localstack=True),
    Case("any-method-form", "PUT", "/sign", 405, send={"Content-Type": "application/x-www-form-urlencoded"}, content=b"a=b", headers={"Allow": "GET, HEAD, POST, OPTIONS"}, localstack=True),
    Case("any-method-head", "HEAD", "/sign.pem", 405, headers={"Allow": "POST, OPTIONS"}, body=lambda b: b == b"", localstack=True),
    Case("any-method-get-type", "GET", "/sign.pem", 405, send={"Content-Type": "image/png"}, headers={"Allow": "POST, OPTIONS"}, localstack="415 with AWS's default body: " + NO_RESPONSES),
    Case("any-method-415", "PUT", "/sign", 415, send={"Content-Type": "image/png"}, content=b"x", headers=PROBLEM, body=has(code="unsupportedMediaType"), localstack="415 with AWS's default body: " + NO_RESPONSES),
    Case("no-key", "POST", "/sign", 403, send=JSON, content=b"{}", headers={"x-amzn-ErrorType": "ForbiddenException", **PROBLEM}, body=has(code="unauthorized", status=403), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Case("wrong-key", "POST", "/sign", 403, send={**JSON, "x-api-key": API_KEY + "x"}, content=b"{}", body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Case("unknown-path", "GET", "/nope", 404, headers={"x-amzn-ErrorType": "MissingAuthenticationTokenException", **PROBLEM}, body=has(code="notFound"), localstack="403 Missing Authentication Token: " + NO_RESPONSES),
    Case("unknown-below", "GET", "/sign/nope", 404, body=has(code="notFound"), localstack="403 Missing Authentication Token: " + NO_RESPONSES),
    Case("signed", "POST", "/sign", 200, send={**JSON, **KEY}, content=SIGN_BODY, headers={"Content-Type": "application/json", "Access-Control-Allow-Origin": "*"}, body=has(profile="server", notes=[]), events=True, localstack=NO_LAMBDA),
    Case("signed-any-accept", "POST", "/sign", 200, send={**JSON, **KEY, "Accept": "*/*"}, content=SIGN_BODY, body=has(profile="server"), events=True, localstack=NO_LAMBDA),
    Case("signed-pem", "POST", "/sign.pem?profile=peer", 200, send={**KEY, "Content-Type": "text/plain"}, content=CSR.encode(), body=lambda b: b.count(b"BEGIN CERTIFICATE") == 2, events=True, localstack=NO_LAMBDA),
    Case("refused", "POST", "/sign", 422, send={**JSON, **KEY}, content=b'{"csr":"x"}', headers=PROBLEM, body=has(code="badCSR"), events=True, localstack=NO_LAMBDA),
    Case("malformed", "POST", "/sign", 400, send={**JSON, **KEY}, content=b"{", headers=PROBLEM, body=has(code="malformed"), events=True, localstack=NO_LAMBDA),
    Case("media-type", "POST", "/sign", 415, send={"Content-Type": "text/plain", **KEY}, content=b"x", headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("no-type", "POST", "/sign.pem", 200, send=KEY, content=CSR.encode(), headers={"Content-Type": "application/pem-certificate-chain"}, events=True, localstack=NO_LAMBDA),
    Case("content-encoding", "POST", "/sign", 415, send={**JSON, **KEY, "Content-Encoding": "gzip"}, content=SIGN_BODY, headers={**PROBLEM, "Accept-Encoding": "identity"}, body=has(detail="Content-Encoding 'gzip' is not supported: send the body without it"), events=True, localstack=NO_LAMBDA),
    Case("bom", "POST", "/sign", 200, send={**JSON, **KEY}, content=b"\xef\xbb\xbf" + SIGN_BODY, body=has(profile="server"), events=True, localstack=NO_LAMBDA),
    Case("pem-to-sign", "POST", "/sign", 415, send={**KEY, "Content-Type": "application/x-www-form-urlencoded"}, content=CSR.encode(), body=has(detail="The operation accepts only application/json: send PEM to /sign.pem"), events=True, localstack=NO_LAMBDA),
    Case("pem-as-json", "POST", "/sign", 400, send={**JSON, **KEY}, content=CSR.encode(), body=has(detail="The body is PEM, not JSON: send it to /sign.pem"), events=True, localstack=NO_LAMBDA),
    Case("body-too-large", "POST", "/sign", 413, send={**JSON, **KEY}, content=b" " * 262_145, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("payload-too-large", "POST", "/sign", 413, send={**JSON, **KEY}, content=b" " * 10_485_761, headers={"x-amzn-ErrorType": "RequestTooLargeException", **PROBLEM}, localstack=NO_LAMBDA),
    Case("event-too-large", "POST", "/sign", 413, send={**JSON, **KEY}, content=b" " * 4_600_000, headers={"x-amzn-ErrorType": "RequestTooLargeException"}, localstack=NO_LAMBDA),
    Case("der", "GET", "/ca.crt", 200, headers={"Content-Type": "application/pkix-cert"}, body=lambda b: b[:1] == b"\x30", events=True, localstack=NO_LAMBDA),
    Case("der-head", "HEAD", "/ca.crt", 200, headers={"Content-Type": "application/pkix-cert"}, body=lambda b: b == b"", events=True, localstack=NO_LAMBDA),
    Case("der-type", "GET", "/ca.crt", 200, send={"Content-Type": "image/png"}, body=lambda b: b[:1] == b"\x30", events=True, localstack=NO_LAMBDA),
    Case("der-accept", "GET", "/ca.crt", 200, send={"Accept": "application/pkix-cert, */*"}, body=lambda b: b[:1] == b"\x30", events=True, localstack=NO_LAMBDA),
    Case("crl", "GET", "/ca.crl", 200, send={"Accept": "*/*"}, headers={"Content-Type": "application/pkix-crl"}, body=lambda b: b[:1] == b"\x30", events=True, localstack=NO_LAMBDA),
    Case("crl-unknown", "GET", "/crl/00", 404, headers=PROBLEM, body=has(code="notFound", detail="The CA signs no CRL with a key of this identifier"), events=True, localstack=NO_LAMBDA),
    Case("crl-query", "GET", "/crl/00?a=1", 400, headers=PROBLEM, body=has(code="malformed"), events=True, localstack=NO_LAMBDA),
    Case("crl-preflight", "OPTIONS", "/crl/00", 204, headers={"Access-Control-Allow-Methods": "GET"}, localstack=True),
    Case("crl-method", "POST", "/crl/00", 405, send=JSON, content=b"{}", headers={"Allow": "GET, HEAD, OPTIONS"}, localstack=True),
    Case("issuer-unknown", "GET", "/issuer/00", 404, headers=PROBLEM, body=has(code="notFound", detail="The CA has no CA certificate with this key identifier"), events=True, localstack=NO_LAMBDA),
    Case("issuer-query", "GET", "/issuer/00?a=1", 400, headers=PROBLEM, body=has(code="malformed"), events=True, localstack=NO_LAMBDA),
    Case("issuer-preflight", "OPTIONS", "/issuer/00", 204, headers={"Access-Control-Allow-Methods": "GET"}, localstack=True),
    Case("issuer-method", "POST", "/issuer/00", 405, send=JSON, content=b"{}", headers={"Allow": "GET, HEAD, OPTIONS"}, localstack=True),
    Case("ocsp", "POST", "/ocsp", 200, send={"Content-Type": "application/ocsp-request"}, content=b"\xff\x00", headers={"Content-Type": "application/ocsp-response", "Cache-Control": "no-store"}, body=lambda b: b == b"\x30\x03\x0a\x01\x01", events=True, localstack=NO_LAMBDA),
    Case("ocsp-media-type", "POST", "/ocsp", 415, send={"Content-Type": "text/plain"}, content=b"x", headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("ocsp-too-large", "POST", "/ocsp", 413, send={"Content-Type": "application/ocsp-request"}, content=b"x" * 16_385, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("ocsp-without-request", "GET", "/ocsp", 405, headers={"Allow": "POST, OPTIONS"}, localstack=True),
    Case("ocsp-get", "GET", "/ocsp/a//b%2F+=", 200, headers={"Content-Type": "application/ocsp-response", "Cache-Control": "no-store", "ETag": None}, body=lambda b: b == b"\x30\x03\x0a\x01\x01", events=True, localstack=NO_LAMBDA),
    Case("ocsp-get-octets", "GET", "/ocsp/%2Fa%0A%C2%85b", 200, headers={"Content-Type": "application/ocsp-response", "Cache-Control": "no-store", "ETag": None}, body=lambda b: b == b"\x30\x03\x0a\x01\x01", events=True, localstack=NO_LAMBDA),
    Case("ocsp-get-query", "GET", "/ocsp/a?b=c", 400, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("ocsp-get-any-method", "DELETE", "/ocsp/a/b", 405, headers={"Allow": "GET, HEAD, OPTIONS"}, localstack=True),
    Case("ocsp-get-preflight", "OPTIONS", "/ocsp/a//b", 204, headers={"Access-Control-Allow-Methods": "GET"}, localstack=True),
    Case("renewal-info-unknown", "GET", "/renewal-info/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", 404, headers=PROBLEM, body=has(code="notFound", detail="The certificate was not issued by this CA"), events=True, localstack=NO_LAMBDA),
    Case("renewal-info-malformed", "GET", "/renewal-info/a.b", 400, headers=PROBLEM, body=has(code="malformed"), events=True, localstack=NO_LAMBDA),
    Case("renewal-info-preflight", "OPTIONS", "/renewal-info/a.b", 204, headers={"Access-Control-Allow-Methods": "GET"}, localstack=True),
    Case("renewal-info-method", "POST", "/renewal-info/a.b", 405, send=JSON, content=b"{}", headers={"Allow": "GET, HEAD, OPTIONS"}, localstack=True),
    Case("renewal-info-below", "GET", "/renewal-info/a/b", 404, body=has(code="notFound"), localstack="403 Missing Authentication Token: " + NO_RESPONSES),
    Case("dry-run", "POST", "/sign?dry_run=true", 202, send={**JSON, **KEY}, content=SIGN_BODY, headers={"Content-Type": "application/json"}, body=has(names=["dns:a.example.com"]), events=True, localstack=NO_LAMBDA),
    Case("idempotency-key", "POST", "/sign", 200, send={**JSON, **KEY, "Idempotency-Key": "0123456789"}, content=SIGN_BODY, body=lambda b: "idempotent_until" in json.loads(b), events=True, localstack=NO_LAMBDA),
    Case("idempotency-key-short", "POST", "/sign", 400, send={**JSON, **KEY, "idempotency-key": "0123"}, content=SIGN_BODY, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("batch", "POST", "/sign/batch", 200, send={**JSON, **KEY}, content=b'{"requests":[%s,{"csr":"x"}]}' % SIGN_BODY, body=lambda b: [*map(list, json.loads(b)["results"])] == [["certificate"], ["problem"]], events=True, localstack=NO_LAMBDA),
    Case("batch-malformed", "POST", "/sign/batch", 400, send={**JSON, **KEY}, content=b'{"requests":[]}', headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("batch-4-megabytes", "POST", "/sign/batch", 200, send={**JSON, **KEY}, content=(b'{"requests":[%s]}' % SIGN_BODY).ljust(4_194_304), events=True, localstack=NO_LAMBDA),
    Case("batch-too-large", "POST", "/sign/batch", 413, send={**JSON, **KEY}, content=b" " * 4_194_305, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
    Case("batch-no-key", "POST", "/sign/batch", 403, send=JSON, content=b"{}", body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Case("batch-preflight", "OPTIONS", "/sign/batch", 204, headers={"Access-Control-Allow-Methods": "POST"}, localstack=True),
    Case("revoke-without-ledger", "POST", "/revoke", 404, send={**JSON, **KEY}, content=b'{"serial_number":"0a"}', headers=PROBLEM, body=has(code="notFound"), events=True, localstack=NO_LAMBDA),
    Case("revoke-malformed", "POST", "/revoke", 400, send={**JSON, **KEY}, content=b"{}", headers=PROBLEM, body=has(code="malformed"), events=True, localstack=NO_LAMBDA),
    Case("revoke-no-key", "POST", "/revoke", 403, send=JSON, content=b"{}", body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Case("revoke-preflight", "OPTIONS", "/revoke", 204, headers={"Access-Control-Allow-Methods": "POST"}, localstack=True),
    Case("mine", "GET", "/profiles/mine", 200, send=KEY, body=lambda b: {"principal", "profiles", "default"} == set(json.loads(b)), events=True, localstack=NO_LAMBDA),
    Case("mine-no-key", "GET", "/profiles/mine", 403, body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Case("health", "GET", "/health", 200, body=has(status="ready"), events=True, localstack=NO_LAMBDA),
    Case("est-cacerts-http", "GET", "/.well-known/est/cacerts", 403, headers={"Content-Type": "application/problem+json", "Access-Control-Allow-Origin": None}, body=has(code="httpsRequired"), events=True, localstack=NO_LAMBDA),
    Case("est-forwarded-forged", "GET", "/.well-known/est/cacerts", 403, send={"x-forwarded-proto": "https"}, body=has(code="httpsRequired"), localstack=NO_LAMBDA),
    Case("est-basic-http", "POST", "/.well-known/est/simpleenroll", 403, send={"Authorization": BASIC, "Content-Type": "application/pkcs10"}, content=CSR.encode(), body=has(code="httpsRequired"), localstack=NO_LAMBDA),
    Case("est-basic-wrong", "POST", "/.well-known/est/simpleenroll", 403, send={"Authorization": "Basic eDp5", "Content-Type": "application/pkcs10"}, content=CSR.encode(), headers={"x-amzn-ErrorType": "ForbiddenException"}, body=has(code="unauthorized"), localstack=NO_EST),
    Case("est-no-credentials-http", "POST", "/.well-known/est/simpleenroll", 403, send={"Content-Type": "application/pkcs10"}, content=CSR.encode(), headers={"WWW-Authenticate": None}, body=has(code="unauthorized"), localstack=NO_EST),
    Case("est-basic-elsewhere", "POST", "/sign", 403, send={**JSON, "Authorization": BASIC}, content=SIGN_BODY, body=has(code="unauthorized"), localstack="403 with AWS's default body: " + NO_RESPONSES),
    Case("est-no-preflight", "OPTIONS", "/.well-known/est/simpleenroll", 405, headers={"Allow": "POST", "Access-Control-Allow-Origin": None}, localstack=NO_EST),
    Case("est-any-method", "DELETE", "/.well-known/est/peer/cacerts", 405, headers={"Allow": "GET, HEAD", "Access-Control-Allow-Origin": None}, body=has(code="methodNotAllowed"), localstack=NO_EST),
    Case("unknown-parameter", "GET", "/health?x=1", 400, headers=PROBLEM, events=True, localstack=NO_LAMBDA),
]  # fmt: skip

# A second API, whose function returns its event, which the contract's function does not.
SECOND_API: Final = [
    Case("event-shape", "GET", "/books", 200, headers={"X-Seen": "yes", "Content-Type": "application/json"}, body=event_has(resource="/books", path="/books", httpMethod="GET", queryStringParameters=None, multiValueQueryStringParameters=None, pathParameters=None, stageVariables=None, body=None, isBase64Encoded=False)),
    Case("event-context", "GET", "/books", 200, body=event_matches(lambda e: {"accountId", "apiId", "httpMethod", "identity", "path", "protocol", "requestId", "requestTime", "requestTimeEpoch", "resourceId", "resourcePath", "stage"} <= set(e["requestContext"]))),
    Case("event-identity", "GET", "/books", 200, send={"User-Agent": "reader/1"}, body=event_matches(lambda e: e["requestContext"]["identity"] == {"apiKeyId": None, "sourceIp": "127.0.0.1", "userAgent": "reader/1"})),
    Case("event-key", "POST", "/books", 200, send={**KEY, **JSON}, content=b"{}", body=event_matches(lambda e: e["requestContext"]["identity"]["apiKeyId"] == "reader")),
    Case("event-second-key", "POST", "/books", 200, send={"x-api-key": API_KEY[::-1], **JSON}, content=b"{}", body=event_matches(lambda e: e["requestContext"]["identity"]["apiKeyId"] == "other")),
    Case("event-no-length", "POST", "/books", 200, send={**KEY, **JSON}, content=b"{}", body=event_matches(lambda e: "content-length" not in {name.lower() for name in {**e["headers"], **e["multiValueHeaders"]}})),
    Case("event-binary", "POST", "/books", 200, send={**KEY, "Content-Type": "image/png"}, content=b"\x89PNG", body=event_has(body="iVBORw==", isBase64Encoded=True)),
    Case("event-query", "GET", "/books?a=1&b=2&a=3&c=", 200, body=event_has(queryStringParameters={"a": "3", "b": "2", "c": ""}, multiValueQueryStringParameters={"a": ["1", "3"], "b": ["2"], "c": [""]})),
    Case("event-query-decoded", "GET", "/books?a=%20%2B+x", 200, body=event_has(queryStringParameters={"a": " + x"})),
    Case("path-parameter", "GET", "/books/978-3", 200, body=event_has(resource="/books/{isbn}", pathParameters={"isbn": "978-3"})),
    Case("path-parameter-encoded", "GET", "/books/a%20b", 200, body=event_has(path="/books/a%20b", pathParameters={"isbn": "a%20b"})),
    Case("path-greedy", "GET", "/files/a//b%2Fc+d/", 200, body=event_has(resource="/files/{path+}", path="/files/a//b%2Fc+d/", pathParameters={"path": "a//b%2Fc+d/"})),
    Case("path-greedy-empty", "GET", "/files/", 404),
    Case("path-whole-segment", "GET", "/books/a/b", 404),
    Case("handler-raises", "GET", "/books?do=raise", 502, headers={**PROBLEM, "x-amzn-ErrorType": "InternalServerErrorException"}, body=lambda b: b"secret" not in b),
    Case("handler-malformed", "GET", "/books?do=malformed", 502),
    Case("handler-binary", "GET", "/books?do=png", 200, headers={"Content-Type": "image/png"}, body=lambda b: b == b"\x89PNG"),
    Case("handler-exits", "GET", "/books?do=exit", 502),
    Case("handler-hangs", "GET", "/books?do=hang", 504),
    Case("handler-recovers", "GET", "/books", 200),
]  # fmt: skip
