from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID

from service import audit
from service.audit import AuditRecord
from service.loaded_ca import LoadedCA
from service.pki import encoding
from service.pki.errors import CAError, CAUnavailable, IssuanceError, UnknownProfile
from service.pki.names import Identifier, IdentifierKind
from service.pki.profile_loader import IssuancePolicy
from tests import csrs, factories, servers
from tests.factories import NOW, RecordingLog, issuance_request

GOOD = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))


def test_certificate_is_recorded_as_intent_and_result() -> None:
    """Issuing records one intent and one result with the certificate's serial number."""
    log = RecordingLog()
    issued = factories.authority(log).issue(issuance_request(GOOD))
    assert log.kinds() == ["intent", "result"]
    intent, result = log
    assert (
        intent.serial_number
        == result.serial_number
        == encoding.format_serial(issued.certificate.serial_number)
    )
    assert intent.fingerprint_sha256 == ""
    assert result.fingerprint_sha256 == encoding.fingerprint(issued.certificate)
    assert result.names == ("dns:a.example.com",)
    assert result.principal == "tests"
    issued.certificate.verify_directly_issued_by(issued.intermediates[0])


def test_serial_numbers_are_random_and_bounded() -> None:
    """Serial numbers are positive, at most 20 octets (RFC 5280 4.1.2.2), and never repeat."""
    authority = factories.authority()
    numbers = {authority.issue(issuance_request(GOOD)).certificate.serial_number for _ in range(200)}
    assert len(numbers) == 200
    assert all(0 < number < 2**159 for number in numbers)
    assert max(numbers).bit_length() > 150


REFUSALS = {
    "garbage": (b"garbage!", None, "badCSR"),
    "forged": (GOOD[:100] + b"AAAA" + GOOD[104:], None, "badCSR"),
    "profile": (GOOD, "admin", "unknownProfile"),
    "name": (csrs.encode_pem(csrs.build("localhost")), None, "rejectedIdentifier"),
    "several": (csrs.encode_pem(csrs.build("x", ["dns:_"])), None, "compound"),
}


@pytest.mark.parametrize(("csr", "profile", "code"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_are_recorded_and_nothing_is_signed(csr: bytes, profile: str | None, code: str) -> None:
    """A refusal writes one record with every reason, and no intent."""
    log = RecordingLog()
    with pytest.raises(IssuanceError) as refusal:
        factories.authority(log).issue(issuance_request(csr, profile))
    assert refusal.value.code == code
    assert log.kinds() == ["refusal"]
    assert len(log[0].reasons) == len(refusal.value.subproblems)


def test_challenge_password_over_est_is_refused_with_the_other_reasons() -> None:
    """A challengePassword has a meaning only over EST; it does not hide what else is wrong with the request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(factories.distinguished_name("localhost"))
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hush")
    request = csrs.encode_pem(builder.sign(csrs.private_key(), hashes.SHA256()))
    for is_est, fields in ((True, ["csr", "subject.common_name"]), (False, ["subject.common_name"])):
        log = RecordingLog()
        with pytest.raises(IssuanceError) as refusal:
            factories.authority(log).issue(issuance_request(request, is_est=is_est))
        assert [problem.field for problem in refusal.value.subproblems] == fields
        assert log[0].common_name == "localhost"


def test_refusal_record_names_the_principal_and_the_request() -> None:
    """A refusal record has the names as sent and the hash of the key, if the request could be parsed."""
    log = RecordingLog()
    registered_id = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    authority, request = (
        factories.authority(log),
        csrs.build("x\ny", ["dns:_.example", "email:a@b", registered_id]),
    )
    with pytest.raises(IssuanceError):
        authority.issue(issuance_request(csrs.encode_pem(request)))
    spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert log[0].names == ("dns:_.example", "email:a@b", "registeredID")
    assert log[0].common_name == "x\ny"
    assert log[0].subject_public_key_sha256 == hashlib.sha256(spki).hexdigest()
    assert b"\n" not in audit.serialize(log[0])[:-1]
    refusal, *_ = authority.issue_batch(
        [issuance_request(b"junk"), issuance_request(csrs.encode_pem(request))]
    )
    assert isinstance(refusal, IssuanceError)
    assert (log[1].names, log[1].subject_public_key_sha256) == ((), "")
    assert log[2].names == log[0].names


def test_unavailable_issuer_is_loaded_again() -> None:
    """After a failure the next request loads the issuer again, without a restart."""
    outcomes = [CAUnavailable("the disk is gone"), LoadedCA(factories.create_issuer())]
    authority = factories.authority(load_ca=Mock(side_effect=outcomes))
    with pytest.raises(CAUnavailable):
        authority.issue(issuance_request(GOOD))
    assert authority.issue(issuance_request(GOOD)).certificate


def test_readiness_follows_the_clock() -> None:
    """The issuer is usable from the start of its chain until an hour before its end."""
    issuer = factories.create_issuer()
    assert factories.authority(now=issuer.not_after - timedelta(hours=1), issuer=issuer).load_usable_issuer()
    for moment in (issuer.not_after - timedelta(minutes=59), issuer.not_before - timedelta(seconds=1)):
        with pytest.raises(CAUnavailable):
            factories.authority(now=moment, issuer=issuer).load_usable_issuer()


@pytest.mark.parametrize("later", [timedelta(days=1), timedelta(days=-1)])
def test_request_is_evaluated_at_one_time(later: timedelta) -> None:
    """Evaluation uses one reading of the clock; a second one measures only the duration, never negative."""
    readings, log = iter([NOW, NOW + later]), RecordingLog()
    authority = factories.authority(log, clock=lambda: next(readings))
    certificate = authority.issue(issuance_request(GOOD)).certificate
    assert certificate.not_valid_before_utc == NOW.replace(microsecond=0) - timedelta(minutes=5)
    assert [record.time for record in log] == ["2026-11-23T12:30:45Z"] * 2
    assert log[1].milliseconds == max(0, round(later.total_seconds() * 1000))


def test_approved_request_is_issued_later() -> None:
    """An approval records nothing, and a refusal its reasons; the intent and the result follow at issuing."""
    log = RecordingLog()
    authority = factories.authority(log)
    approval = authority.approve(issuance_request(GOOD))
    assert not list(log)
    issued = authority.issue_approved(approval)
    assert issued.spec is approval.spec
    assert [record.event for record in log] == ["intent", "result"]
    assert log[1].fingerprint_sha256 == issued.fingerprint_sha256
    with pytest.raises(IssuanceError):
        authority.approve(issuance_request(b"junk"))
    assert log[2].event == "refusal"


def test_audit_line_cannot_be_forged() -> None:
    """A record escapes control characters and newlines, and is one line of ASCII."""
    event = AuditRecord("refusal", "t", "r", "p", "server", common_name='x\n{"event":"result"}\u2028é\x1b[2J')
    line = audit.serialize(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert line.isascii()
    assert b"\x1b" not in line
    assert json.loads(line)["common_name"] == event.common_name


def test_recorder_writes_complete_lines() -> None:
    """A failed or partial write is an OSError."""
    read_end, write_end = os.pipe()
    audit.fd_recorder(write_end)([AuditRecord("intent", "t", "r", "p", "server")])
    assert json.loads(os.read(read_end, 1000))["event"] == "intent"
    os.close(read_end)
    with pytest.raises(OSError, match="pipe"):
        audit.fd_recorder(write_end)([AuditRecord("intent", "t", "r", "p", "server")])
    os.close(write_end)


def test_record_after_a_partial_line_starts_a_new_line(tmp_path: Path) -> None:
    """The record after a partial line (full disk, killed process) is complete, and there are no empty lines."""
    log = tmp_path / "log"
    descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    record = audit.fd_recorder(descriptor)
    record([AuditRecord("intent", "t", "r1", "p", "server")])
    os.write(descriptor, b'{"event":"int')
    record([AuditRecord("intent", "t", "r2", "p", "server"), AuditRecord("intent", "t", "r3", "p", "server")])
    record([AuditRecord("result", "t", "r2", "p", "server")])
    os.close(descriptor)
    lines = log.read_text().split("\n")
    assert lines.pop(1) == '{"event":"int'
    assert lines.pop() == ""
    assert [json.loads(line)["request_id"] for line in lines] == ["r1", "r2", "r3", "r2"]


def test_failed_write_leaves_no_partial_line(tmp_path: Path) -> None:
    """After a partial line and a failed write, the next record is complete."""
    log = tmp_path / "log"
    log.write_bytes(b'{"event":"int')
    descriptor = os.open(log, os.O_RDWR | os.O_APPEND)
    record = audit.fd_recorder(descriptor)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            record([AuditRecord("intent", "t", "r1", "p", "server")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    record([AuditRecord("intent", "t", "r2", "p", "server")])
    os.close(descriptor)
    partial, line, remainder = log.read_text().split("\n")
    assert (partial, json.loads(line)["request_id"], remainder) == ('{"event":"int', "r2", "")


def test_audit_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    """Processes that write to one file at the same time leave only complete lines."""
    log = tmp_path / "log"
    code = (
        "import os, sys; from service import audit; from service.audit import AuditRecord\n"
        "record = audit.fd_recorder(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND))\n"
        "for n in range(3000): record([AuditRecord('intent', 't', 'r', 'p', 'server', common_name='x' * (n % 900))] * (n % 3))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(log)], env=servers.environ()) for _ in range(4)
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    lines = log.read_text().split("\n")
    assert lines.pop() == ""
    assert len(lines) == 12_000
    assert all(json.loads(line)["event"] == "intent" for line in lines)


@pytest.mark.parametrize("cause", [CAError("no signature"), RuntimeError("a bug")])
def test_unexpected_error_becomes_a_ca_error(cause: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request has an intent without a result, and the error has its cause for the log."""
    issuer, log = factories.create_issuer(), RecordingLog()
    monkeypatch.setattr(issuer, "sign", Mock(side_effect=cause))
    with pytest.raises(CAError) as error:
        factories.authority(log, issuer=issuer).issue(issuance_request(GOOD))
    assert cause in (error.value, error.value.__cause__)
    assert log.kinds() == ["intent"]


def name(text: str) -> Identifier:
    """An identifier in the form `dns:a.example.com`."""
    kind, _, value = text.partition(":")
    return Identifier(IdentifierKind(kind), value)


def test_names_are_verified_before_there_is_a_csr() -> None:
    """The profile and its principals are verified, and the CA's remaining validity."""
    authority = factories.authority()
    assert not authority.name_violations([name("dns:a.example.com"), name("ip:192.0.2.1")], "ci")
    ((position, detail),) = authority.name_violations([name("dns:a.example.com"), name("email:a@b.c")], "ci")
    assert (position, detail.partition(" ")[0]) == (1, "email:a@b.c:")
    assert not authority.name_violations([name("email:a@b.c")], "ci", "client")
    with pytest.raises(UnknownProfile, match="Profile 'x' does not exist"):
        authority.name_violations([], "ci", "x")
    with pytest.raises(CAUnavailable, match="The CA expires"):
        factories.authority(now=NOW + timedelta(days=9999)).name_violations([], "ci")


def test_principal_may_have_names_of_any_of_its_profiles() -> None:
    """All names must be permitted by one profile that the principal may use, and by its policy."""
    profile = factories.document()["x-certificate-profiles"]["server"]
    profiles = {
        "hosts": profile | {"names": {"dns": {}}},
        "mail": profile | {"names": {"email": {}}, "principals": ["mail"], "certificate_policies": []},
    }
    policy = IssuancePolicy(profiles, "hosts", {"ci": {"dns": {"permitted": ["ci.example.com"]}}})
    authority = factories.authority(policy=policy)
    host, mailbox = name("dns:a.example.com"), name("email:a@example.com")
    assert authority.may_have_names([name("dns:a.ci.example.com")], "ci")
    assert not authority.may_have_names([name("dns:a.ci.example.com"), host], "ci")
    assert authority.may_have_names([mailbox], "mail")
    assert authority.may_have_names([host], "mail")
    assert not authority.may_have_names([host, mailbox], "mail")
    assert not authority.may_have_names([mailbox], "other")
