"""Tokens that are good for one certificate: claims, retries, batches, and ledgers that fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from cryptography import x509

from service import openapi
from service.authority import Authority, IssuanceRequest, IssuedCertificate, Principal, PrincipalKind
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import Ledger
from service.pki.errors import CAUnavailable, RequestError, Unauthorized
from service.pki.serial import SerialKeys
from service.pki.token_identity import TokenIdentity
from service.token_claims import EXPIRED, NO_LEDGER, USED
from service.web import app
from tests import csrs, factories
from tests.factories import NOW, RecordingLog
from tests.lambda_events import CSR_PEM, est_event, invoke, proxy_event
from tests.ledger.conftest import Clock
from tests.token_events import DOCUMENT, POLICY, TOKEN, token_event

SECOND = timedelta(seconds=1)
END = NOW.replace(microsecond=0) + timedelta(minutes=10)
ONCE = TOKEN._replace(rule="once", is_once=True, expires_at=END)
OTHER = ONCE._replace(token_id="b7b1-2")  # noqa: S106 - not a password
CSR = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
OTHER_CSR = csrs.encode_pem(csrs.build(sans=["dns:b.example.com"]))
REFUSED_CSR = csrs.encode_pem(csrs.build(sans=["dns:a.example.org"]))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.db", clock)
    yield ledger
    ledger.close()


@pytest.fixture
def log() -> RecordingLog:
    return RecordingLog()


@pytest.fixture
def authority(log: RecordingLog, ledger: SqliteLedger, clock: Clock) -> Authority:
    return factories.authority(log, policy=POLICY, clock=clock, ledger=ledger)


def request(token: TokenIdentity = ONCE, csr: bytes = CSR, **change: Any) -> IssuanceRequest:
    principal = Principal(PrincipalKind.TOKEN, token.principal, token=token)
    return factories.issuance_request(csr, **{"principal": principal, **change})


def assert_used(authority: Authority, refused: IssuanceRequest) -> None:
    with pytest.raises(Unauthorized) as refusal:
        authority.issue(refused)
    assert refusal.value.detail == USED


def test_token_gets_one_certificate(authority: Authority, log: RecordingLog) -> None:
    """The same request again, another one, and one with a key are refused; another token is not."""
    authority.issue(request())
    for refused in (request(), request(csr=OTHER_CSR), request(idempotency_key="a")):
        assert_used(authority, refused)
    assert log.kinds() == ["intent", "result", "refusal", "refusal", "refusal"]
    assert log[-1].reasons == (f"unauthorized : {USED}",)
    authority.issue(request(OTHER))
    authority.issue(request(ONCE._replace(issuer="https://other.example")))


def test_token_of_another_rule_gets_many_certificates(authority: Authority) -> None:
    certificates = {authority.issue(request(TOKEN)).fingerprint_sha256 for _ in range(2)}
    assert len(certificates) == 2


def test_retry_gets_the_same_certificate_until_the_token_ends(authority: Authority, clock: Clock) -> None:
    """Under the same key, also after the five minutes of other retries, and in another format of the response."""
    first = authority.issue(request(idempotency_key="a"))
    assert first.idempotent_until == END + timedelta(seconds=60)
    assert not any("retry" in note for note in first.spec.notes)
    for now in (NOW + SECOND, NOW + timedelta(minutes=6), END, END + timedelta(seconds=59)):
        clock.now = now
        retry = authority.issue(request(idempotency_key="a"))
        assert (retry.certificate, retry.idempotent_until) == (first.certificate, first.idempotent_until)


@pytest.mark.parametrize("now", [END + timedelta(seconds=60), END + timedelta(hours=1)])
def test_token_ends_with_the_leeway(authority: Authority, clock: Clock, now: datetime) -> None:
    """The ledger may forget the claim then, so a request that took too long is refused."""
    authority.issue(request(idempotency_key="a"))
    clock.now = now
    for token in (ONCE, OTHER):
        with pytest.raises(Unauthorized) as refusal:
            authority.issue(request(token, idempotency_key="a"))
        assert refusal.value.detail == EXPIRED


@pytest.mark.parametrize(
    "change",
    [
        {"csr": OTHER_CSR},
        {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"], key_type="p-384"))},
        {"profile": "client"},
        {"validity": "P3D"},
        {"not_after": "2026-11-30T00:00:00Z"},
        {"idempotency_key": "b"},
        {"idempotency_key": None},
    ],
)
def test_another_request_is_no_retry(authority: Authority, change: dict[str, Any]) -> None:
    first = request(idempotency_key="a")
    authority.issue(first)
    assert_used(authority, replace(first, **change))
    assert authority.issue(replace(first, profile="server"))  # the default


def test_retry_after_a_short_certificate_has_ended_is_refused(authority: Authority, clock: Clock) -> None:
    """Any other Idempotency-Key gets a new certificate then."""
    first = authority.issue(request(idempotency_key="a", validity="PT10M"))
    clock.now = first.spec.usable_until
    authority.issue(request(idempotency_key="a", validity="PT10M"))
    clock.now += SECOND
    assert_used(authority, request(idempotency_key="a", validity="PT10M"))


def test_retry_after_a_change_of_the_ca_is_refused(ledger: SqliteLedger, clock: Clock) -> None:
    """Another profile, serial key or issuer would make it a second certificate."""
    sites: list[dict[str, Any]] = [
        {"policy": openapi.parse_policy(DOCUMENT, "https://status.example.com")},
        {"serial_keys": SerialKeys((bytes(32),))},
        {"issuer": factories.create_issuer("p-384")},
    ]
    default: dict[str, Any] = {"policy": POLICY, "clock": clock, "ledger": ledger}
    first = factories.authority(**default).issue(request(idempotency_key="a"))
    for site in sites:
        assert_used(factories.authority(**default | site), request(idempotency_key="a"))
    retry = factories.authority(**default).issue(request(idempotency_key="a"))
    assert retry.certificate == first.certificate


@pytest.mark.parametrize(
    "change", [{"serial_keys": None}, {"issuer": factories.create_issuer(is_deterministic=False)}]
)
def test_ca_that_cannot_repeat_a_certificate_refuses_retries(
    ledger: SqliteLedger, clock: Clock, change: dict[str, Any]
) -> None:
    """It would issue a second certificate; a note of the first one says so."""
    authority = factories.authority(policy=POLICY, clock=clock, ledger=ledger, **change)
    first = authority.issue(request(idempotency_key="a"))
    assert first.idempotent_until is None
    assert first.spec.notes[-1].startswith("a retry will be refused: this CA ")
    assert_used(authority, request(idempotency_key="a"))


def test_refused_request_and_dry_run_do_not_use_the_token(authority: Authority) -> None:
    with pytest.raises(RequestError):
        authority.issue(request(csr=REFUSED_CSR))
    with pytest.raises(RequestError):
        authority.issue(request(csr=b"x"))
    authority.dry_run(request())
    authority.issue(request())
    authority.dry_run(request())
    assert_used(authority, request())


def test_batch_gets_one_certificate(authority: Authority, log: RecordingLog) -> None:
    """The first request that is not refused gets it. Equal requests under one key are retries."""
    results = authority.issue_batch([request(csr=csr) for csr in (REFUSED_CSR, CSR, OTHER_CSR, CSR)])
    kinds = [type(result) for result in results]
    assert kinds[1:] == [IssuedCertificate, Unauthorized, Unauthorized]
    assert isinstance(results[0], RequestError)
    assert log.kinds() == ["refusal", "refusal", "refusal", "intent", "result"]
    batch = [request(OTHER, csr, idempotency_key="a") for csr in (CSR, OTHER_CSR, CSR)]
    first, other, retry = authority.issue_batch(batch)
    assert isinstance(first, IssuedCertificate)
    assert isinstance(retry, IssuedCertificate)
    assert (first.certificate, type(other)) == (retry.certificate, Unauthorized)


def test_one_of_many_requests_at_once_gets_the_certificate(authority: Authority) -> None:
    """With a key, all equal requests get the same one."""

    def issue(number: int, key: str | None = None) -> x509.Certificate | None:
        token = ONCE._replace(token_id=str(number))
        try:
            return authority.issue(request(token, idempotency_key=key)).certificate
        except Unauthorized:
            return None

    with ThreadPoolExecutor(8) as pool:
        for number in range(5):
            certificates = list(pool.map(issue, [number] * 8))
            assert [bool(certificate) for certificate in certificates].count(True) == 1
        retries = list(pool.map(lambda _: issue(9, "a"), range(8)))
    assert retries[0] is not None
    assert len(set(retries)) == 1


class UnavailableLedger:
    """A ledger that does not respond."""

    def claim_token(self, *_arguments: object) -> None:
        raise CAUnavailable("the ledger is not available")


@pytest.mark.parametrize(
    ("unavailable", "detail"), [(UnavailableLedger(), "the ledger is not available"), (None, NO_LEDGER)]
)
def test_nothing_is_issued_without_a_ledger(log: RecordingLog, unavailable: object, detail: str) -> None:
    """503; callers whose token is good for many certificates, and those without one, are not affected."""
    issuer = factories.CountingIssuer(
        factories.hierarchy().signing,
        [factories.hierarchy().root],
        factories.signing_key(factories.hierarchy()),
    )
    authority = factories.authority(log, issuer=issuer, policy=POLICY, ledger=cast("Ledger", unavailable))
    with pytest.raises(CAUnavailable) as error:
        authority.issue(request())
    assert (error.value.detail, issuer.count, log.kinds()) == (detail, 0, ["refusal"])
    authority.issue(request(TOKEN))
    authority.issue(factories.issuance_request(CSR))
    assert issuer.count == 2


def test_claim_survives_an_audit_log_that_fails(ledger: SqliteLedger, clock: Clock) -> None:
    """The token is used then, and a retry under its key gets the certificate."""
    log = Mock(side_effect=[OSError, None, None, None])
    authority = factories.authority(policy=POLICY, clock=clock, ledger=ledger, record=log)
    with pytest.raises(CAUnavailable):
        authority.issue(request(idempotency_key="a"))
    assert authority.issue(request(idempotency_key="a"))
    assert_used(authority, request())


def test_every_operation_uses_the_token(ledger: SqliteLedger) -> None:
    """/sign, /sign.pem, /sign/batch and EST, each with a token of its own, and then again."""
    authority = factories.authority(policy=POLICY, ledger=ledger)
    application = app.create(DOCUMENT, authority, {})
    batch = json.dumps({"requests": [{"csr": CSR_PEM}] * 2})
    pem = {"Content-Type": "application/pkcs10"}
    requests = [
        proxy_event(),
        proxy_event("/sign.pem", body=CSR_PEM, isBase64Encoded=False, headers=pem, multiValueHeaders=None),
        est_event(),
        proxy_event("/sign/batch", body=batch, isBase64Encoded=False),
    ]
    for number, event in enumerate(requests):
        token = ONCE._replace(token_id=str(number))
        first, *again = invoke(application, *[token_event(token, other) for other in (event, *requests)])
        assert first["statusCode"] == "200"
        assert [response["statusCode"] for response in again] == ["403", "403", "403", "200"]
        for response in again[:3]:
            problem = json.loads(response["body"])
            assert (problem["code"], problem["detail"]) == ("unauthorized", USED)
        results = json.loads(again[3]["body"])["results"]
        assert [result["problem"]["code"] for result in results] == ["unauthorized"] * 2
        if number == 3:
            results = json.loads(first["body"])["results"]
            assert [*results[0], *results[1]] == ["certificate", "problem"]


def test_retry_by_header_gets_the_same_certificate(ledger: SqliteLedger) -> None:
    """Through events, with the Idempotency-Key of the contract; a dry run in between uses nothing."""
    application = app.create(DOCUMENT, factories.authority(policy=POLICY, ledger=ledger), {})
    headers = {"Content-Type": "application/json", "Idempotency-Key": "deployment-1"}
    event = token_event(ONCE, proxy_event(headers=headers, multiValueHeaders=None))
    dry_run = {**event, "queryStringParameters": {"dry_run": "true"}}
    responses = invoke(application, dry_run, event, dry_run, event)
    assert [response["statusCode"] for response in responses] == ["202", "200", "202", "200"]
    first, retry = (json.loads(response["body"]) for response in responses[1::2])
    assert first == retry
