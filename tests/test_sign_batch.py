"""`POST /sign/batch`: each request is judged by itself, in order, within the size and the time there is."""

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
from tests import csrs, factories, servers
from tests.assertions import DOCUMENT, JSON, assert_problem, uuid7
from tests.lambda_events import invoke_handler, proxy_event
from tests.servers import Response, Server

RESULTS = Draft4Validator(
    DOCUMENT["paths"]["/sign/batch"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
)
LONG_NAMES = [f"dns:{'x' * 60}.{number}.example.com" for number in range(99)]


@functools.cache
def request(number: int, kind: str = "p-256") -> str:
    return csrs.encode_pem(csrs.build(f"n{number}.example.com", key_type=kind)).decode()


def batch(server: Server, *requests: object, **more: Any) -> Response:
    """`POST /sign/batch`; a text is a request's csr."""
    items = [{"csr": each} if isinstance(each, str) else each for each in requests]
    headers = JSON | more.pop("headers", {})
    return server.request("POST", "/sign/batch", json.dumps({"requests": items, **more}).encode(), headers)


def results(answer: Response) -> list[Any]:
    """The results of an answer, which is as the contract says."""
    assert answer.status == 200, answer.body
    RESULTS.validate(answer.json())
    found: list[Any] = answer.json()["results"]
    return found


def common_name(result: Any) -> str:
    certificate = x509.load_pem_x509_certificate(result["certificate"]["crt_pem"].encode())
    return certificate.subject.rfc4514_string()


def codes(found: list[Any]) -> list[str]:
    """Of each result the problem's code, or ''."""
    return [each["problem"]["code"] if "problem" in each else "" for each in found]


def events(server: Server, answer: Response) -> list[str]:
    """The kinds of audit events that an answer's request left."""
    lines = [json.loads(line) for line in server.read_log().splitlines() if line.startswith('{"event"')]
    return [line["event"] for line in lines if line["request_id"] == answer.headers["x-amzn-RequestId"]]


def test_batch_results_are_in_order_with_one_chain(server: Server) -> None:
    """500 are served: each certificate at its request's place; the chain verifies all of them, and stands once."""
    answer = batch(server, *(request(number % 60) for number in range(500)))
    found = results(answer)
    names = [f"CN=n{number % 60}.example.com" for number in range(500)]
    assert [common_name(each) for each in found] == names
    chain = x509.load_pem_x509_certificates(answer.json()["chain_pem"].encode())
    for each in found:
        leaf = x509.load_pem_x509_certificate(each["certificate"]["crt_pem"].encode())
        leaf.verify_directly_issued_by(chain[0])
    assert "chain_pem" not in found[0]["certificate"]
    assert len({each["certificate"]["serial_number"] for each in found}) == 500


def test_batch_isolates_failures(server: Server) -> None:
    """What is refused is refused with its own reasons and its own status, between two certificates."""
    requests: list[tuple[object, str]] = [
        (request(0), ""),
        ("garbage", "badCSR"),
        ({"csr": request(1), "profile": "nobody's"}, "unknownProfile"),
        (csrs.encode_pem(csrs.build("bad_name.example.com")).decode(), "rejectedIdentifier"),
        ({"csr": request(2), "validity": "P100Y"}, "rejectedValidity"),
        ("A" * (MAX_DER_BYTES * 2 + 1), "badCSR"),
        ({"csr": request(3), "validity": "P1D"}, ""),
        ("", "badCSR"),
        ("\ud800", "badCSR"),
        (request(4), ""),
    ]
    found = results(batch(server, *(each for each, _ in requests)))
    assert codes(found) == [code for _, code in requests]
    assert {each["problem"]["status"] for each in found if "problem" in each} == {422}
    named = [common_name(each) for each in found if "certificate" in each]
    assert named == ["CN=n0.example.com", "CN=n3.example.com", "CN=n4.example.com"]


def test_batch_omits_text_by_default(server: Server) -> None:
    """`crt_text` is in no certificate of a batch, or in each of them."""
    assert "crt_text" not in results(batch(server, request(0)))[0]["certificate"]
    found = results(batch(server, request(0), request(1), text=True))
    texts = [each["certificate"]["crt_text"] for each in found]
    assert ["Subject: CN=n1.example.com" in text for text in texts] == [False, True]


def test_batch_retry_returns_the_same_certificates(server: Server) -> None:
    """With an Idempotency-Key each request of a retry gets its own certificate again, in any order."""
    key = {"Idempotency-Key": uuid7()}
    first = results(batch(server, request(0), "garbage", request(1), headers=key))
    second = results(batch(server, request(1), request(2), request(0), headers=key))
    assert (second[0], second[2]) == (first[2], first[0])
    other = results(batch(server, request(0), headers={"Idempotency-Key": uuid7()}))
    assert other[0]["certificate"]["serial_number"] != first[0]["certificate"]["serial_number"]


def test_batch_body_of_4mib_is_accepted(server: Server) -> None:
    """A body of 4 MB is served; an octet more is 413."""
    body = json.dumps({"requests": [{"csr": request(0)}]}).encode()
    whole = server.request("POST", "/sign/batch", body.ljust(4_194_304), JSON)
    assert codes(results(whole)) == [""]
    for octets in (4_194_305, 5_000_000):  # by the function, and before it by the gateway
        found = assert_problem(
            server.request("POST", "/sign/batch", body.ljust(octets), JSON), 413, "tooLarge"
        )
        assert "4194304" in found["detail"]


def test_batch_response_is_limited_in_size(server: Server) -> None:
    """What finds no room in 5.5 MB is a 503 of its own, unsigned; the rest of it, sent again, is signed."""
    large = csrs.encode_pem(csrs.build("a.example.com", LONG_NAMES)).decode()
    sent = [large] * (4_194_304 // (len(json.dumps({"csr": large})) + 1) - 1)
    answer = batch(server, *sent, text=True)
    found = codes(results(answer))
    issued = found.count("")
    assert found == [""] * issued + ["unavailable"] * (len(sent) - issued)
    assert 4_500_000 < len(answer.body) < 5_500_000
    assert 0 < issued < len(sent)
    assert events(server, answer).count("intent") == issued
    assert codes(results(batch(server, sent[-1], text=True))) == [""]


def test_batch_response_never_exceeds_the_limit() -> None:
    """No certificate, with its text, is larger in an answer than what is kept free for it."""
    authority = factories.authority()
    for kind in csrs.KEY_TYPES:
        for sans in ([], ["dns:a.example.com"], LONG_NAMES):
            data = csrs.encode_pem(csrs.build("a.example.com", sans, key_type=kind))
            for text in (True, False):
                answer = operations._BatchResponse(text=text)
                order = factories.issuance_request(data)
                answer.add(authority.issue_batch([order]))
                assert '"certificate"' in answer.encode().decode()
                assert len(answer.encode()) < answer._max_result_bytes(order)


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
@pytest.mark.parametrize("text_too", [True, False])
def test_batch_response_with_notes_never_exceeds_the_limit(
    oid: str, text: str, number: int, *, text_too: bool
) -> None:
    """However much of the request a note tells, and however JSON has to write it."""
    attributes = [x509.NameAttribute(x509.ObjectIdentifier(oid), text, _validate=False)] * number
    request = csrs.build(sans=["dns:a.example.com"], subject=x509.Name(attributes))
    order = factories.issuance_request(base64.b64encode(csrs.encode_der(request)))
    assert len(order.csr) > 50_000
    answer = operations._BatchResponse(text=text_too)
    answer.add(factories.authority().issue_batch([order]))
    (result,) = json.loads(answer.encode())["results"]
    assert len(result["certificate"]["notes"]) >= number
    assert len(answer.encode()) < answer._max_result_bytes(order)


def invoked(directory: Path, left: list[int], number: int, **headers: str) -> list[Any]:
    """The results of a batch of so many requests, with these milliseconds left at each look."""
    body = json.dumps({"requests": [{"csr": request(each)} for each in range(number)]}).encode()
    sent = {"Content-Type": "application/json", **headers}
    asked = proxy_event("/sign/batch", headers=sent, body=base64.b64encode(body).decode())
    (answer,), logged = invoke_handler(directory, asked, left=left)
    assert answer["statusCode"] == 200
    found = json.loads(answer["body"])
    RESULTS.validate(found)
    signed = sum('"event":"intent"' in line for line in logged.splitlines())
    assert signed == codes(found["results"]).count("")
    return list(found["results"])


def test_batch_deadline_leaves_the_rest_for_a_retry(tmp_path: Path) -> None:
    """Two seconds before its time ends a batch issues no more: what is left is 503, unsigned, in its place."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    key = {"Idempotency-Key": uuid7()}
    cut = invoked(tmp_path, [2001, 2001, 2000], 60, **key)
    assert codes(cut) == [""] * 50 + ["unavailable"] * 10
    assert {each["problem"]["status"] for each in cut[50:]} == {503}
    again = invoked(tmp_path, [29_000], 60, **key)
    assert codes(again) == [""] * 60
    assert again[:50] == cut[:50]
    assert codes(invoked(tmp_path, [1999], 3)) == ["unavailable"] * 3  # no time to begin


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
    """Nothing is signed before it is recorded, and nothing is handed out; what is refused is 503 too, then."""
    made = factories.hierarchy()
    issuer = factories.CountingIssuer(made.signing, [made.root], factories.signing_key(made))
    written: list[list[str]] = []

    def record(events: Sequence[AuditRecord]) -> None:
        if events[0].event == unwritten:
            raise OSError("disk full")
        written.append([event.event for event in events])

    authority = factories.authority(issuer=issuer, record=record)
    requests = [request(0), "nonsense", request(1)]
    found = authority.issue_batch([factories.issuance_request(each.encode()) for each in requests])
    assert list(map(type, found)) == outcomes
    assert issuer.count == signed
    whole = [["refusal"], ["intent", "intent"], ["result", "result"]]
    assert written == [each for each in whole if unwritten not in each][: 1 if unwritten == "intent" else 3]


@pytest.mark.parametrize(("key", "times"), [("p-256", 0), ("ed25519", 0), ("rsa-2048", 1), ("ml-dsa-44", 1)])
def test_slow_signatures_are_created_in_parallel(key: str, times: int) -> None:
    """Keys that sign slowly sign in several threads, and every result still has its place; fast ones, in none."""
    used = []

    def parallel_map() -> MapFunction:
        used.append(key)
        return aws_lambda.thread_pool_map(3)

    issuer = factories.create_issuer(key)
    authority = factories.authority(issuer=issuer, parallel_map=parallel_map)
    sent = [request(number).encode() if number % 3 else b"junk" for number in range(12)]
    found = authority.issue_batch([factories.issuance_request(each) for each in sent])
    assert len(used) == times
    for number, each in zip(range(12), found, strict=True):
        assert isinstance(each, IssuedCertificate) == bool(number % 3)
        if isinstance(each, IssuedCertificate):
            assert each.spec.subject.rfc4514_string() == f"CN=n{number}.example.com"
            each.certificate.verify_directly_issued_by(issuer.certificate)


def test_remote_key_is_used_in_parallel() -> None:
    """What is asked over a network is asked for several at once, whatever its kind."""
    made = factories.hierarchy()
    issuer = Issuer(made.signing, [made.root], factories.signing_key(made), is_deterministic=False)
    assert issuer.parallelise
    assert not factories.create_issuer().parallelise


@pytest.mark.parametrize("number", [1, 2, 8])
def test_thread_pool_map_runs_in_parallel(number: int) -> None:
    """So many signatures are in the making at the same time: each waits for all the others."""
    meeting = threading.Barrier(number)
    places = aws_lambda.thread_pool_map(number)(lambda _: meeting.wait(10), range(number))
    assert sorted(places) == list(range(number))
