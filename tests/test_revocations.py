"""`POST /revoke`: by a running server and by the Lambda handler, and its refusals."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.ocsp import OCSPCertStatus

from service.authority import Authority
from service.keystore import ca_directory
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import Ledger
from service.loaded_ca import LoadedCA
from service.pki import encoding, revocation
from service.pki.errors import CAError, CAUnavailable, IssuanceError, NotFound, Unauthorized
from service.pki.revocation import MergedList, RevokedCertificate
from service.revocations import NO_LEDGER, Revocation, RevocationRequest
from tests import csrs, factories
from tests.assertions import assert_documented, assert_problem
from tests.cli import certlet
from tests.examples import certificate_id
from tests.factories import NOW, RecordingLog
from tests.gateway.cases import JSON, KEY
from tests.lambda_events import decode_body, invoke_handler, proxy_event
from tests.servers import Response, Server, certlet_server, wait_until

COMPROMISE = x509.ReasonFlags.key_compromise
CSR = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
OPERATOR = {"principals": {"default": {"role": "operator"}, "ops": {"role": "operator", "dns": {}}}}
SECOND = timedelta(seconds=1)


def issue(ca: Path) -> x509.Certificate:
    """Issue a certificate with the keys in a directory, an hour ago."""
    loaded_ca = LoadedCA(ca_directory.load_issuer(ca, None), ca_directory.load_serial_keys(ca))
    authority = factories.authority(now=datetime.now(UTC) - timedelta(hours=1), load_ca=lambda: loaded_ca)
    return authority.issue(factories.issuance_request(CSR)).certificate


def pem(certificate: x509.Certificate) -> str:
    return encoding.encode_pem([certificate])


def revoke(server: Server, body: object, key: str = KEY["x-api-key"]) -> Response:
    return server.request("POST", "/revoke", json.dumps(body).encode(), {**JSON, "x-api-key": key})


def ocsp_request(certificate: x509.Certificate, issuer: x509.Certificate, *, nonce: bool = True) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA256())
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(os.urandom(16)), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def ask(server: Server, certificate: x509.Certificate, issuer: x509.Certificate) -> ocsp.OCSPResponse:
    """Ask for the status of a certificate now."""
    headers = {"Content-Type": "application/ocsp-request"}
    response = server.request("POST", "/ocsp", ocsp_request(certificate, issuer), headers)
    return ocsp.load_der_ocsp_response(response.body)


def listed(server: Server) -> list[int]:
    """The serial numbers in the CRL."""
    response = server.request("GET", "/ca.crl", headers={"Accept": "*/*"})
    return [entry.serial_number for entry in x509.load_der_x509_crl(response.body)]


def window_end(response: Response) -> datetime:
    return datetime.fromisoformat(response.json()["suggestedWindow"]["end"])


def test_revocation_reaches_crl_ocsp_and_ari_without_a_restart(tmp_path: Path) -> None:
    """All workers know it at once. The CRL lists what was revoked before its five minutes."""
    (tmp_path / "own.yaml").write_text(json.dumps(OPERATOR))
    assert certlet("init", "old", cwd=tmp_path).returncode == 0
    previous = issue(tmp_path / "old")
    assert certlet("rollover", "old", "ca", cwd=tmp_path).returncode == 0
    revoked, earlier, good = (issue(tmp_path / "ca") for _ in range(3))
    current, old = (ca_directory.load_chain(tmp_path / name)[0] for name in ("ca", "old"))
    arguments = ("--profiles", "own.yaml", "--ledger", "ledger.db", "--workers", "2", "--no-usage-plan")
    with certlet_server(tmp_path, *arguments) as server:
        assert server.request("GET", "/profiles/mine", headers=KEY).json()["role"] == "operator"
        assert listed(server) == []
        assert ask(server, revoked, current).certificate_status is OCSPCertStatus.GOOD
        response = revoke(server, {"certificate": pem(revoked), "reason": "keyCompromise"})
        assert response.status == 200, response.body
        answer = assert_documented("/revoke", "post", response)
        assert answer["serial_number"] == encoding.format_serial(revoked.serial_number)
        assert answer["reason"] == "keyCompromise"
        number = encoding.format_serial(previous.serial_number)
        assert revoke(server, {"serial_number": number.upper()}).status == 200
        for _ in range(8):  # of both workers
            status = ask(server, revoked, current)
            assert status.certificate_status is OCSPCertStatus.REVOKED
            assert status.revocation_reason is COMPROMISE
        assert ask(server, previous, old).certificate_status is OCSPCertStatus.REVOKED
        assert ask(server, good, current).certificate_status is OCSPCertStatus.GOOD
        info = server.request("GET", f"/renewal-info/{certificate_id(revoked)}")
        assert window_end(info) <= datetime.now(UTC)
        info = server.request("GET", f"/renewal-info/{certificate_id(good)}")
        assert window_end(info) > datetime.now(UTC)
        ledger = SqliteLedger(tmp_path / "ledger.db", lambda: NOW)
        ledger.add_revocation(RevokedCertificate(earlier.serial_number, NOW.replace(microsecond=0)))
        ledger.close()
        wait_until(lambda: listed(server) == [earlier.serial_number])  # the gateway caches it for a second
    events = [json.loads(line) for line in server.read_log().splitlines() if '"revocation"' in line]
    assert [(event["principal"], event["serial_number"], event.get("reasons")) for event in events] == [
        ("default", encoding.format_serial(revoked.serial_number), ["keyCompromise"]),
        ("default", number, None),
    ]


MOTO = """
import datetime, boto3, moto
moto.mock_aws().start()
key = [("pk", "HASH"), ("sk", "RANGE")]
boto3.client("dynamodb").create_table(
    TableName="certlet",
    BillingMode="PAY_PER_REQUEST",
    KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in key],
    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in key],
)
minutes, handle = [-6], aws_lambda.handler
def handler(event, context):  # six minutes after the event before
    minutes[0] += 6
    return handle(event, context)
aws_lambda.handler = handler
aws_lambda._now = lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes[0])
"""
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}


def test_handler_revokes_in_a_table(tmp_path: Path) -> None:
    """The next CRL lists the certificate, and OCSP and ARI say that it is revoked."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "own.yaml").write_text(json.dumps(OPERATOR))
    certificate, issuer = issue(tmp_path / "ca"), ca_directory.load_chain(tmp_path / "ca")[0]
    body = json.dumps({"certificate": pem(certificate), "reason": "superseded"})
    request = proxy_event("/revoke", body=body, isBase64Encoded=False)
    question = base64.b64encode(ocsp_request(certificate, issuer, nonce=False)).decode()
    ocsp_type: dict[str, Any] = {
        "headers": {"Content-Type": "application/ocsp-request"},
        "multiValueHeaders": None,
    }
    responses, log = invoke_handler(
        tmp_path,
        request,
        request,
        proxy_event("/ca.crl", "GET", headers={"Accept": "*/*"}),
        proxy_event("/ocsp", body=question, **ocsp_type),
        proxy_event(f"/renewal-info/{certificate_id(certificate)}", "GET"),
        before=MOTO,
        CERTLET_PROFILES=str(tmp_path / "own.yaml"),
        CERTLET_API_KEY_NAMES='{"abc123": "ops"}',
        CERTLET_LEDGER_TABLE="certlet",
        **AWS,
    )
    assert [response["statusCode"] for response in responses] == [200] * 5, log
    first, second = (json.loads(response["body"]) for response in responses[:2])
    assert first == second
    assert first["reason"] == "superseded"
    crl = x509.load_der_x509_crl(decode_body(responses[2]))
    assert [entry.serial_number for entry in crl] == [certificate.serial_number]
    status = ocsp.load_der_ocsp_response(decode_body(responses[3]))
    assert status.revocation_reason is x509.ReasonFlags.superseded
    end = datetime.fromisoformat(json.loads(responses[4]["body"])["suggestedWindow"]["end"])
    assert end == datetime.fromisoformat(first["revoked_at"])
    assert log.count('"event":"revocation"') == 1


BAD_BODIES = {
    "nothing": ({}, [""]),
    "both": ({"certificate": "x", "serial_number": "0a"}, [""]),
    "not-pem": ({"certificate": "garbage"}, ["certificate"]),
    "not-hex": ({"serial_number": "xyz"}, ["serial_number"]),
    "too-long": ({"serial_number": "f" * 41}, ["serial_number"]),
    "zero": ({"serial_number": "00"}, ["serial_number"]),
    "reason": ({"serial_number": "0a", "reason": "certificateHold"}, ["reason"]),
    "unknown": ({"serial_number": "0a", "at": "2026-01-01"}, [""]),
}


def test_refusals_of_the_operation(tmp_path: Path) -> None:
    """Only an operator may revoke; a caller without a key is refused by the gateway."""
    (tmp_path / "own.yaml").write_text(json.dumps(OPERATOR))
    with certlet_server(tmp_path, "--profiles", "own.yaml", "--ledger", "l.db", "--no-usage-plan") as server:
        certificate = issue(tmp_path / "ca")
        for body, fields in BAD_BODIES.values():
            problem = assert_problem(revoke(server, body), 400, "malformed")
            assert [error["field"] for error in problem["errors"]] == fields
        assert_problem(revoke(server, {"certificate": pem(certificate)}, "wrong"), 403, "unauthorized")
        other = certlet("api-key", "add", "other", "--ca", "ca", cwd=tmp_path).stdout.decode().split()[-1]
        assert "role" not in server.request("GET", "/profiles/mine", headers={"x-api-key": other}).json()
        problem = assert_problem(
            revoke(server, {"certificate": pem(certificate)}, other), 403, "unauthorized"
        )
        assert "does not have role: operator" in problem["detail"]
        foreign = pem(factories.authority().issue(factories.issuance_request(CSR)).certificate)
        problem = assert_problem(revoke(server, {"certificate": foreign}), 404, "notFound")
        assert problem["errors"][0]["field"] == "certificate"
    refusals = [json.loads(line) for line in server.read_log().splitlines() if '"event":"refusal"' in line]
    assert [event["principal"] for event in refusals] == ["other", "default"]
    assert refusals[0]["serial_number"] == encoding.format_serial(certificate.serial_number)


def test_without_a_ledger_the_command_is_named(ca_server: Server) -> None:
    problem = assert_problem(revoke(ca_server, {"serial_number": "0a"}), 404, "notFound")
    assert problem["detail"] == NO_LEDGER
    assert "certlet revoke" in NO_LEDGER


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.db", clock)
    yield ledger
    ledger.close()


class Site:
    """An authority with a ledger, a list `listed`, and a recorder."""

    def __init__(self, ledger: Ledger, clock: Clock, **change: Any) -> None:
        self.log = RecordingLog()
        self.listed: dict[int, RevokedCertificate] = {}
        merged = MergedList(lambda: dict(self.listed), ledger.load_revoked)
        self.ledger = ledger
        options = {"clock": clock, "load_revoked": merged.load, **change}
        self.authority: Authority = factories.authority(self.log, **options)

    def issue(self) -> x509.Certificate:
        certificate = self.authority.issue(factories.issuance_request(CSR)).certificate
        self.log.clear()
        return certificate

    def revoke(
        self,
        certificate: x509.Certificate | int,
        reason: x509.ReasonFlags | None = None,
        authorize: Callable[[], None] = lambda: None,
    ) -> Revocation:
        request = RevocationRequest(certificate, reason, "ops", "session", "id")
        return self.authority.revocations.revoke(request, self.ledger, authorize)


@pytest.fixture
def site(ledger: SqliteLedger, clock: Clock) -> Site:
    return Site(ledger, clock)


def test_times_are_those_of_the_next_crl(site: Site, clock: Clock) -> None:
    """The CRL lists the certificate at `listed_at`, and not a second earlier."""
    certificate = site.issue()
    revoked = site.revoke(certificate, COMPROMISE)
    assert revoked.is_new
    assert revoked.entry == RevokedCertificate(
        certificate.serial_number, NOW.replace(microsecond=0), COMPROMISE
    )
    assert NOW < revoked.listed_at <= NOW + revocation.WINDOW
    assert revoked.known_at == revoked.listed_at + timedelta(days=1)
    for time, count in ((revoked.listed_at - SECOND, 0), (revoked.listed_at, 1)):
        clock.now = time
        assert len(site.authority.status.current_crl()) == count


def test_second_revocation_changes_nothing(site: Site, clock: Clock) -> None:
    """The first time and reason remain, of the ledger or of `revoked.yaml`."""
    recorded, listed = site.issue(), site.issue()
    first = site.revoke(recorded)
    entry = RevokedCertificate(listed.serial_number, NOW.replace(microsecond=0) - SECOND, COMPROMISE)
    site.listed[entry.serial_number] = entry
    clock.now += timedelta(hours=1)
    assert site.revoke(recorded, COMPROMISE) == first._replace(is_new=False)
    assert site.revoke(listed.serial_number).entry == entry
    assert site.log.kinds() == ["revocation"]
    assert list(site.ledger.load_revoked()) == [recorded.serial_number]


def test_entry_with_a_future_time_does_not_delay_the_revocation(site: Site) -> None:
    certificate = site.issue()
    later = RevokedCertificate(certificate.serial_number, NOW.replace(microsecond=0) + timedelta(days=9))
    site.listed[later.serial_number] = later
    revoked = site.revoke(certificate)
    assert revoked.is_new
    assert revoked.entry.revoked_at == NOW.replace(microsecond=0)


def test_revocation_by_another_process_at_the_same_time_is_returned(
    ledger: SqliteLedger, clock: Clock
) -> None:
    """The ledger has it already when this process adds it."""
    site = Site(ledger, clock)
    certificate = site.issue()
    other = RevokedCertificate(certificate.serial_number, NOW.replace(microsecond=0) - SECOND)
    ledger.add_revocation(other)
    site.authority = factories.authority(
        site.log, clock=clock, load_revoked=Mock(side_effect=[{}, ledger.load_revoked()])
    )
    revoked = site.revoke(certificate)
    assert (revoked.is_new, revoked.entry) == (False, other)


def test_signature_of_a_certificate_is_verified(site: Site) -> None:
    """A certificate with the issuer's name and a serial number of the CA, but another key's signature."""
    certificate = site.issue()
    builder = x509.CertificateBuilder(
        certificate.issuer, certificate.subject, certificate.public_key(), certificate.serial_number
    )
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    forged = builder.sign(factories.ROOT, hashes.SHA256())
    authorize = Mock()
    with pytest.raises(NotFound, match="The certificate was not issued by this CA"):
        site.revoke(forged, authorize=authorize)
    authorize.assert_not_called()
    assert not site.ledger.load_revoked()
    (record,) = site.log
    assert (record.event, record.principal, record.session) == ("refusal", "ops", "session")
    assert record.reasons == ("notFound certificate: The certificate was not issued by this CA",)


@pytest.mark.parametrize("change", [{}, {"serial_keys": None}], ids=["unknown", "no serial.key"])
def test_serial_number_that_is_not_recognised_is_refused(
    ledger: SqliteLedger, clock: Clock, change: dict[str, Any]
) -> None:
    site = Site(ledger, clock, **change)
    certificate = site.issue()
    number = certificate.serial_number ^ (0 if change else 1)
    with pytest.raises(NotFound, match="does not recognise the serial number: send the certificate"):
        site.revoke(number)
    assert site.revoke(certificate).is_new


def test_caller_who_may_not_revoke_is_recorded(site: Site) -> None:
    refuse = Mock(side_effect=Unauthorized("not an operator"))
    with pytest.raises(Unauthorized):
        site.revoke(site.issue(), authorize=refuse)
    assert [record.reasons for record in site.log] == [("unauthorized : not an operator",)]
    assert not site.ledger.load_revoked()


def test_nothing_is_revoked_without_an_audit_record(ledger: SqliteLedger, clock: Clock) -> None:
    certificate = Site(ledger, clock).issue()
    site = Site(ledger, clock, record=Mock(side_effect=OSError("disk full")))
    for authorize in (lambda: None, Mock(side_effect=Unauthorized("no"))):
        with pytest.raises(CAUnavailable, match="the audit log cannot be written"):
            site.revoke(certificate, authorize=authorize)
    assert not ledger.load_revoked()


@pytest.mark.parametrize("error", [CAUnavailable("gone"), CAError("malformed")])
def test_unavailable_list_is_an_error_without_a_refusal(
    ledger: SqliteLedger, clock: Clock, error: IssuanceError
) -> None:
    site = Site(ledger, clock)
    certificate = site.issue()
    site.authority = factories.authority(site.log, clock=clock, load_revoked=Mock(side_effect=error))
    with pytest.raises(CAUnavailable):
        site.revoke(certificate)
    assert not site.log


def test_notes_say_why_verifiers_do_not_learn_of_it(site: Site, clock: Clock) -> None:
    """A certificate that names neither CRL nor OCSP, or that has ended."""
    certificate = site.issue()
    end = encoding.format_timestamp(certificate.not_valid_after_utc)
    names_nothing = f"the certificate names neither CRL nor OCSP: verifiers may accept it until {end}"
    assert site.revoke(certificate).notes == (names_nothing,)
    assert site.revoke(certificate.serial_number).notes == ()
    clock.now = certificate.not_valid_after_utc + timedelta(minutes=2)
    assert site.revoke(certificate).notes == (names_nothing, f"the certificate ended at {end}")
    assert site.revoke(certificate.serial_number).notes[0].startswith("the certificate ended at")


def test_full_disk_refuses_revocations_only(tmp_path: Path) -> None:
    """503 while the ledger cannot grow; certificates are issued, and their status is known."""
    (tmp_path / "own.yaml").write_text(json.dumps(OPERATOR))
    with certlet_server(tmp_path, "--profiles", "own.yaml", "--ledger", "l.db", "--no-usage-plan") as server:
        first, second = issue(tmp_path / "ca"), issue(tmp_path / "ca")
        assert revoke(server, {"certificate": pem(first)}).status == 200
        limit = (tmp_path / "l.db-wal").stat().st_size
        (worker,) = server.pids("worker")
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        problem = assert_problem(revoke(server, {"certificate": pem(second)}), 503, "unavailable")
        assert "l.db" not in problem["detail"]
        assert server.sign({"csr": CSR.decode()}).status == 200
        issuer = ca_directory.load_chain(tmp_path / "ca")[0]
        assert ask(server, first, issuer).certificate_status is OCSPCertStatus.REVOKED
        assert ask(server, second, issuer).certificate_status is OCSPCertStatus.GOOD
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert revoke(server, {"certificate": pem(second)}).status == 200
        assert ask(server, second, issuer).certificate_status is OCSPCertStatus.REVOKED


def test_killed_workers_lose_no_revocation(tmp_path: Path) -> None:
    """What was answered is stored, each once; what was not can be sent again."""
    (tmp_path / "own.yaml").write_text(json.dumps(OPERATOR))
    arguments = ("--profiles", "own.yaml", "--ledger", "l.db", "--workers", "2", "--no-usage-plan")
    with certlet_server(tmp_path, *arguments) as server, ThreadPoolExecutor(4) as pool:
        certificates = [issue(tmp_path / "ca") for _ in range(30)]
        bodies = [{"certificate": pem(certificate)} for certificate in certificates]
        answers = [pool.submit(revoke, server, body) for body in bodies]
        for number in (2, 10):
            wait_until(lambda number=number: sum(answer.done() for answer in answers) >= number)
            os.kill(server.pids("worker")[0], signal.SIGKILL)
        statuses = [answer.result().status for answer in answers]
        assert set(statuses) <= {200, 502, 503}
        ledger = SqliteLedger(tmp_path / "l.db", lambda: NOW)
        stored = set(ledger.load_revoked())
        for certificate, status in zip(certificates, statuses, strict=True):
            assert status != 200 or certificate.serial_number in stored
        wait_until(lambda: len(server.pids("worker")) == 2)
        for body in bodies:
            wait_until(lambda body=body: revoke(server, body).status == 200)
        assert set(ledger.load_revoked()) == {certificate.serial_number for certificate in certificates}
        ledger.close()
