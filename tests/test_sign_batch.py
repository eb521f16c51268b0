"""`POST /sign/batch`: each request is evaluated separately, in order, within the limits of size and time."""

from __future__ import annotations

import base64
import functools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from jsonschema import Draft4Validator

from service import aws_lambda
from service.audit import AuditRecord
from service.authority import IssuedCertificate, MapFunction
from service.pki.csr import MAX_DER_BYTES
from service.pki.errors import BadCSR, CAUnavailable
from service.pki.issuer import Issuer
from service.web import operations
from tests import csrs, factories
from tests.assertions import DOCUMENT, JSON, assert_problem, uuid7
from tests.cli import certlet
from tests.lambda_events import invoke_handler, proxy_event
from tests.servers import Response, Server

RESULTS = Draft4Validator(
    DOCUMENT["paths"]["/sign/batch"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
)
LONG_NAMES = [f"dns:{'x' * 60}.{number}.example.com" for number in range(99)]


@functools.cache
def request(number: int, key_type: str = "p-256") -> str:
    return csrs.encode_pem(csrs.build(f"n{number}.example.com", key_type=key_type)).decode()


def batch(server: Server, *requests: object, **members: Any) -> Response:
    """Send `POST /sign/batch`; a string is the `csr` of a request."""
    items = [{"csr": item} if isinstance(item, str) else item for item in requests]
    headers = JSON | members.pop("headers", {})
    return server.request("POST", "/sign/batch", json.dumps({"requests": items, **members}).encode(), headers)


def results(response: Response) -> list[Any]:
    """Validate a response against the contract, and return its results."""
    assert response.status == 200, response.body
    RESULTS.validate(response.json())
    return list(response.json()["results"])


def common_name(result: Any) -> str:
    certificate = x509.load_pem_x509_certificate(result["certificate"]["crt_pem"].encode())
    return certificate.subject.rfc4514_string()


def codes(results: list[Any]) -> list[str]:
    """Return the problem's code for each result, or ''."""
    return [result["problem"]["code"] if "problem" in result else "" for result in results]


def events(server: Server, response: Response) -> list[str]:
    """Return the kinds of the audit records of the request that got this response."""
    lines = [json.loads(line) for line in server.read_log().splitlines() if line.startswith('{"event"')]
    return [line["event"] for line in lines if line["request_id"] == response.headers["x-amzn-RequestId"]]


def test_batch_results_are_in_order_with_one_chain(server: Server) -> None:
    """The results of 500 requests have the order of the requests; the one chain verifies all certificates."""
    response = batch(server, *(request(number % 60) for number in range(500)))
    signed = results(response)
    names = [f"CN=n{number % 60}.example.com" for number in range(500)]
    assert [common_name(result) for result in signed] == names
    chain = x509.load_pem_x509_certificates(response.json()["chain_pem"].encode())
    for result in signed:
        leaf = x509.load_pem_x509_certificate(result["certificate"]["crt_pem"].encode())
        leaf.verify_directly_issued_by(chain[0])
    assert "chain_pem" not in signed[0]["certificate"]
    assert len({result["certificate"]["serial_number"] for result in signed}) == 500


def test_batch_isolates_failures(server: Server) -> None:
    """An invalid request gets a problem of its own; the other requests get certificates."""
    requests: list[tuple[object, str]] = [
        (request(0), ""),
        ("garbage", "badCSR"),
        ({"csr": request(1), "profile": "unknown"}, "unknownProfile"),
        (csrs.encode_pem(csrs.build("bad_name.example.com")).decode(), "rejectedIdentifier"),
        ({"csr": request(2), "validity": "P100Y"}, "rejectedValidity"),
        ("A" * (MAX_DER_BYTES * 2 + 1), "badCSR"),
        ({"csr": request(3), "validity": "P1D"}, ""),
        ("", "badCSR"),
        ("\ud800", "badCSR"),
        (request(4), ""),
    ]
    outcomes = results(batch(server, *(item for item, _ in requests)))
    assert codes(outcomes) == [code for _, code in requests]
    assert {result["problem"]["status"] for result in outcomes if "problem" in result} == {422}
    names = [common_name(result) for result in outcomes if "certificate" in result]
    assert names == ["CN=n0.example.com", "CN=n3.example.com", "CN=n4.example.com"]


def test_batch_omits_text_by_default(server: Server) -> None:
    """Certificates of a batch have `crt_text` only if the request has `text: true`."""
    assert "crt_text" not in results(batch(server, request(0)))[0]["certificate"]
    signed = results(batch(server, request(0), request(1), text=True))
    texts = [result["certificate"]["crt_text"] for result in signed]
    assert ["Subject: CN=n1.example.com" in text for text in texts] == [False, True]


def test_batch_retry_returns_the_same_certificates(server: Server) -> None:
    """With an Idempotency-Key a retry returns the same certificate for each request, in any order."""
    key = {"Idempotency-Key": uuid7()}
    first = results(batch(server, request(0), "garbage", request(1), headers=key))
    second = results(batch(server, request(1), request(2), request(0), headers=key))
    assert (second[0], second[2]) == (first[2], first[0])
    another = results(batch(server, request(0), headers={"Idempotency-Key": uuid7()}))
    assert another[0]["certificate"]["serial_number"] != first[0]["certificate"]["serial_number"]


def test_batch_body_of_4mib_is_accepted(server: Server) -> None:
    """A body of 4 MiB is accepted; one octet more is 413."""
    body = json.dumps({"requests": [{"csr": request(0)}]}).encode()
    response = server.request("POST", "/sign/batch", body.ljust(4_194_304), JSON)
    assert codes(results(response)) == [""]
    for octets in (4_194_305, 5_000_000):  # refused by the function; refused by the gateway
        problem = assert_problem(
            server.request("POST", "/sign/batch", body.ljust(octets), JSON), 413, "tooLarge"
        )
        assert "4194304" in problem["detail"]


def test_batch_response_is_limited_in_size(server: Server) -> None:
    """Requests whose results would exceed 5.5 MB get 503 and are not signed; a retry signs them."""
    large = csrs.encode_pem(csrs.build("a.example.com", LONG_NAMES)).decode()
    requests = [large] * (4_194_304 // (len(json.dumps({"csr": large})) + 1) - 1)
    response = batch(server, *requests, text=True)
    outcomes = codes(results(response))
    issued = outcomes.count("")
    assert outcomes == [""] * issued + ["unavailable"] * (len(requests) - issued)
    assert 4_500_000 < len(response.body) < 5_500_000
    assert 0 < issued < len(requests)
    assert events(server, response).count("intent") == issued
    assert codes(results(batch(server, requests[-1], text=True))) == [""]


def test_batch_response_never_exceeds_the_limit() -> None:
    """The result of a request is never larger than the estimate that is reserved for it."""
    authority = factories.authority()
    for key_type in csrs.KEY_TYPES:
        for sans in ([], ["dns:a.example.com"], LONG_NAMES):
            data = csrs.encode_pem(csrs.build("a.example.com", sans, key_type=key_type))
            for text in (True, False):
                response = operations._BatchResponse(text=text)
                issuance_request = factories.issuance_request(data)
                response.add(authority.issue_batch([issuance_request]))
                assert '"certificate"' in response.encode().decode()
                assert len(response.encode()) < response._max_result_bytes(issuance_request)


@pytest.mark.parametrize(
    ("oid", "text", "number"),
    [
        ("1.2.3", "\x01" * 80, 650),
        ("1.2.3", "\x01", 4000),
        ("1.2.3", "\U0001f600" * 80, 180),
        ("1.2.3", "", 4000),
        ("1.2" + ".127" * 58, "\x01", 700),
        ("2.5.4.97", "'" * 80, 600),
    ],
    ids=["controls", "many", "astral", "empty", "long-oid", "quotes"],
)
@pytest.mark.parametrize("has_text", [True, False])
def test_batch_response_with_notes_never_exceeds_the_limit(
    oid: str, text: str, number: int, *, has_text: bool
) -> None:
    """The estimate suffices however long the notes are, and however JSON escapes them."""
    attributes = [x509.NameAttribute(x509.ObjectIdentifier(oid), text, _validate=False)] * number
    request = csrs.build(sans=["dns:a.example.com"], subject=x509.Name(attributes))
    issuance_request = factories.issuance_request(base64.b64encode(csrs.encode_der(request)))
    assert len(issuance_request.csr) > 50_000
    response = operations._BatchResponse(text=has_text)
    response.add(factories.authority().issue_batch([issuance_request]))
    (result,) = json.loads(response.encode())["results"]
    assert len(result["certificate"]["notes"]) >= number
    assert len(response.encode()) < response._max_result_bytes(issuance_request)


def invoke_batch(directory: Path, remaining: list[int], number: int, **headers: str) -> list[Any]:
    """Invoke the handler with `number` requests; `remaining` are the milliseconds left, one value for each query."""
    body = json.dumps({"requests": [{"csr": request(index)} for index in range(number)]}).encode()
    event = proxy_event(
        "/sign/batch",
        headers={"Content-Type": "application/json", **headers},
        body=base64.b64encode(body).decode(),
    )
    (response,), logged = invoke_handler(directory, event, left=remaining)
    assert response["statusCode"] == 200
    content = json.loads(response["body"])
    RESULTS.validate(content)
    signed = sum('"event":"intent"' in line for line in logged.splitlines())
    assert signed == codes(content["results"]).count("")
    return list(content["results"])


def test_batch_deadline_leaves_later_requests_for_a_retry(tmp_path: Path) -> None:
    """In the last two seconds a batch issues nothing more: the remaining requests get 503 and are not signed."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    key = {"Idempotency-Key": uuid7()}
    first = invoke_batch(tmp_path, [2001, 2001, 2000], 60, **key)
    assert codes(first) == [""] * 50 + ["unavailable"] * 10
    assert {result["problem"]["status"] for result in first[50:]} == {503}
    second = invoke_batch(tmp_path, [29_000], 60, **key)
    assert codes(second) == [""] * 60
    assert second[:50] == first[:50]
    assert codes(invoke_batch(tmp_path, [1999], 3)) == ["unavailable"] * 3  # too late to start


@pytest.mark.parametrize(
    ("unwritten", "signed", "outcomes"),
    [
        ("intent", 0, [CAUnavailable, BadCSR, CAUnavailable]),
        ("result", 2, [CAUnavailable, BadCSR, CAUnavailable]),
        ("refusal", 2, [IssuedCertificate, CAUnavailable, IssuedCertificate]),
        ("nothing", 2, [IssuedCertificate, BadCSR, IssuedCertificate]),
    ],
)
def test_unwritable_audit_log_fails_the_batch(unwritten: str, signed: int, outcomes: list[type]) -> None:
    """Without a record nothing is signed or returned, and a refusal becomes 503."""
    hierarchy = factories.hierarchy()
    issuer = factories.CountingIssuer(hierarchy.signing, [hierarchy.root], factories.signing_key(hierarchy))
    batches: list[list[str]] = []

    def record(events: Sequence[AuditRecord]) -> None:
        if events[0].event == unwritten:
            raise OSError("disk full")
        batches.append([event.event for event in events])

    authority = factories.authority(issuer=issuer, record=record)
    requests = [request(0), "nonsense", request(1)]
    results = authority.issue_batch([factories.issuance_request(text.encode()) for text in requests])
    assert list(map(type, results)) == outcomes
    assert issuer.count == signed
    expected = [["refusal"], ["intent", "intent"], ["result", "result"]]
    assert (
        batches
        == [kinds for kinds in expected if unwritten not in kinds][: 1 if unwritten == "intent" else 3]
    )


@pytest.mark.parametrize(("key", "times"), [("p-256", 0), ("ed25519", 0), ("rsa-2048", 1), ("ml-dsa-44", 1)])
def test_slow_signatures_are_created_in_parallel(key: str, times: int) -> None:
    """Slow keys sign in several threads, and the results keep their order; fast keys use no threads."""
    calls = []

    def parallel_map() -> MapFunction:
        calls.append(key)
        return aws_lambda.thread_pool_map(3)

    issuer = factories.create_issuer(key)
    authority = factories.authority(issuer=issuer, parallel_map=parallel_map)
    requests = [request(number).encode() if number % 3 else b"junk" for number in range(12)]
    results = authority.issue_batch([factories.issuance_request(text) for text in requests])
    assert len(calls) == times
    for number, result in zip(range(12), results, strict=True):
        assert isinstance(result, IssuedCertificate) == bool(number % 3)
        if isinstance(result, IssuedCertificate):
            assert result.spec.subject.rfc4514_string() == f"CN=n{number}.example.com"
            result.certificate.verify_directly_issued_by(issuer.certificate)


def test_remote_key_is_used_in_parallel() -> None:
    """A key behind a network signs in parallel, whatever its type."""
    hierarchy = factories.hierarchy()
    issuer = Issuer(
        hierarchy.signing, [hierarchy.root], factories.signing_key(hierarchy), is_deterministic=False
    )
    assert issuer.parallelise
    assert not factories.create_issuer().parallelise


@pytest.mark.parametrize("number", [1, 2, 8])
def test_thread_pool_map_runs_in_parallel(number: int) -> None:
    """`number` calls run at the same time: each waits for all the others."""
    barrier = threading.Barrier(number)
    positions = aws_lambda.thread_pool_map(number)(lambda _: barrier.wait(10), range(number))
    assert sorted(positions) == list(range(number))
