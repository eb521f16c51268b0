from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as library
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponseStatus
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.audit import AuditRecord
from service.authority import Authority
from service.ocsp_responders import RETRY_AFTER
from service.pki import encoding, revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.issuer import Issuer
from tests import factories
from tests.factories import NOW, CountingIssuer, RecordingLog
from tests.pki.test_ocsp import NONCE, answer, build_request, issue

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


def paid_issuer(key_type: str = "p-256") -> CountingIssuer:
    """An issuer whose signatures are not free."""
    ca = factories.hierarchy(key_type)
    return CountingIssuer(ca.signing, [ca.root], factories.signing_key(ca), has_free_signatures=False)


def issuer_from_before() -> Issuer:
    """The issuer of `factories.ca`, whose key usage has no digitalSignature."""
    return Issuer(factories.ca(), [factories.root()], factories.SIGNING)


@dataclass
class Process:
    """A process with a clock, an audit log that may be full, and an issuer that may not sign."""

    issuer: Issuer
    now: datetime = NOW
    log: RecordingLog = field(default_factory=RecordingLog)
    room: int = 1000

    def __post_init__(self) -> None:
        self.authority: Authority = factories.authority(
            issuer=self.issuer, clock=lambda: self.now, record=self.record
        )

    def record(self, records: list[AuditRecord]) -> None:
        """Record, or raise if there is no room."""
        if not self.room:
            raise OSError("no space left")
        self.room -= 1
        self.log.extend(records)

    def ask(self, nonce: bytes | None = None) -> library.OCSPResponse:
        """Return the response to a request."""
        return answer(self.authority, build_request(1, self.issuer.certificate, nonce=nonce))

    def responder(self) -> x509.Certificate:
        """Return the certificate of the responder of a response."""
        (certificate,) = self.ask().certificates
        return certificate


@pytest.mark.parametrize("issuer", [paid_issuer(), paid_issuer("rsa-2048"), issuer_from_before()])
def test_delegated_responder_answers(issuer: Issuer) -> None:
    """With and without a nonce: the responder's certificate is in the response, which its key signed."""
    number = issue(factories.authority(issuer=issuer)).serial_number
    process = Process(issuer)
    for nonce in (None, NONCE):
        response = answer(process.authority, build_request(number, issuer.certificate, nonce=nonce))
        assert response.certificate_status is OCSPCertStatus.GOOD
        (responder,) = response.certificates
        responder.verify_directly_issued_by(issuer.certificate)
        key_id = responder.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        assert response.responder_key_hash == key_id
        public_key, algorithm = responder.public_key(), response.signature_hash_algorithm
        assert algorithm
        public_key.verify(  # type: ignore[union-attr,call-arg]
            response.signature,
            response.tbs_response_bytes,
            ec.ECDSA(algorithm),  # type: ignore[arg-type]
        )
        assert [extension.value for extension in response.extensions] == [x509.OCSPNonce(NONCE)] * bool(nonce)


def test_one_signature_of_the_issuer_is_enough_for_many_answers() -> None:
    """The issuer signs again only when a response would outlive the responder's certificate."""
    issuer = paid_issuer()
    process = Process(issuer)
    first = process.responder()
    while process.now + revocation.NEXT_UPDATE <= first.not_valid_after_utc:
        assert process.ask(NONCE).certificates == [first]
        process.now += HOUR
    assert issuer.count == 1
    second = process.responder()
    assert (issuer.count, second == first) == (2, False)
    assert second.public_key() != first.public_key()


def test_issuer_that_may_sign_needs_no_responder() -> None:
    """The negative twin: digitalSignature, and free signatures."""
    process = Process(factories.create_issuer())
    assert (process.ask().certificates, process.log) == ([], [])


def test_each_issuer_has_a_responder_of_its_own() -> None:
    """A process with another CA does not use the responder of the first one."""
    process, other = Process(paid_issuer()), issuer_from_before()
    first = process.responder()
    request = build_request(1, other.certificate)
    responders = process.authority.status._responders
    authority = factories.authority(issuer=other)
    authority.status._responders = responders
    (second,) = answer(authority, request).certificates
    second.verify_directly_issued_by(other.certificate)
    assert process.responder() == first


def test_responders_certificate_is_recorded() -> None:
    """As for all certificates: the intent, then the result, with the ID of the request."""
    process = Process(paid_issuer())
    request = build_request(1, process.issuer.certificate)
    response = library.load_der_ocsp_response(
        process.authority.status.certificate_status(request, "the request").der
    )
    (certificate,) = response.certificates
    assert process.log.kinds() == ["intent", "result"]
    intent, result = process.log
    assert (intent.principal, intent.profile) == ("service:ocsp", "service:ocsp-responder")
    assert (intent.request_id, intent.common_name) == ("the request", "OCSP responder")
    assert intent.serial_number == encoding.format_serial(certificate.serial_number)
    assert intent.not_after == encoding.format_timestamp(certificate.not_valid_after_utc)
    assert result.fingerprint_sha256 == encoding.fingerprint(certificate)
    assert result.content_sha256 == intent.content_sha256 != ""
    assert result.milliseconds == 0


def test_nothing_is_signed_without_a_record() -> None:
    """If the intent cannot be written, the issuer does not sign; later requests try again."""
    issuer = paid_issuer()
    process = Process(issuer, room=0)
    with pytest.raises(CAUnavailable):
        process.ask()
    assert issuer.count == 0
    process.room = 1000
    process.now += RETRY_AFTER
    assert process.responder()


def test_responder_whose_result_is_not_recorded_is_not_used() -> None:
    """The certificate of the intent is discarded, and another one is issued."""
    issuer = paid_issuer()
    process = Process(issuer, room=1)
    with pytest.raises(CAUnavailable):
        process.ask()
    assert (issuer.count, process.log.kinds()) == (1, ["intent"])
    process.room, process.now = 1000, NOW + RETRY_AFTER
    number = process.responder().serial_number
    assert encoding.format_serial(number) != process.log[0].serial_number


def test_failure_is_not_repeated_by_each_request() -> None:
    """Requests without credentials cause one audit record and one paid signature in ten seconds."""
    issuer = paid_issuer()
    issuer.sign = Mock(side_effect=CAUnavailable("KMS is unavailable"))  # type: ignore[method-assign]
    process = Process(issuer)
    for seconds in (0, 1, 9, 10, 11):
        process.now = NOW + timedelta(seconds=seconds)
        with pytest.raises(CAUnavailable):
            process.ask()
    assert issuer.sign.call_count == 2
    assert process.log.kinds() == ["intent"] * 2
    del issuer.sign
    process.now += RETRY_AFTER
    assert process.ask().response_status is OCSPResponseStatus.SUCCESSFUL


def test_earlier_responder_answers_while_the_issuer_does_not_sign() -> None:
    """No response outlives it. Shortly before its end, and after it, the status is not available."""
    issuer = paid_issuer()
    process = Process(issuer)
    first = process.responder()
    end = first.not_valid_after_utc
    issuer.sign = Mock(side_effect=CAError("damaged"))  # type: ignore[method-assign]
    for before_end in (DAY - HOUR, HOUR, revocation.WINDOW):
        process.now = end - before_end
        for nonce in (None, NONCE):
            response = process.ask(nonce)
            assert (response.certificates, response.next_update_utc) == ([first], end)
    for after in (timedelta(minutes=-4), SECOND):
        process.now = end + after
        with pytest.raises(CAUnavailable):
            process.ask()


def test_clock_step_back_creates_another_responder() -> None:
    """A responder whose certificate is not valid yet does not answer."""
    process = Process(paid_issuer())
    first = process.responder()
    process.now -= 2 * HOUR
    second = process.responder()
    assert second.not_valid_before_utc < first.not_valid_before_utc
    assert process.ask(NONCE).certificates == [second]


def test_responder_ends_with_the_issuer() -> None:
    """In the last days of the issuer, and in its first minutes, there is one certificate, too."""
    issuer = paid_issuer()
    for now in (issuer.not_after - HOUR, issuer.not_before + SECOND):
        process = Process(issuer, now)
        responder = process.responder()
        assert issuer.not_before <= responder.not_valid_before_utc
        assert responder.not_valid_after_utc <= issuer.not_after
        assert process.responder() == responder
        assert process.ask(NONCE).next_update_utc == min(
            now.replace(microsecond=0) + DAY, responder.not_valid_after_utc
        )
    for now in (issuer.not_after + SECOND, issuer.not_before - SECOND):
        assert Process(issuer, now).ask().response_status is OCSPResponseStatus.UNAUTHORIZED


def test_chain_that_permits_no_responder_is_unauthorized() -> None:
    """Nothing is signed, and nothing recorded."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    process = Process(Issuer(factories.ca(extra=usage), [factories.root()], factories.SIGNING))
    assert process.ask().response_status is OCSPResponseStatus.UNAUTHORIZED
    assert process.log == []


def test_responders_serial_number_is_recognised() -> None:
    """It is tagged like all others."""
    process = Process(paid_issuer())
    numbers = process.authority.status._load_ca().serial_numbers[0]
    assert numbers.recognize(process.responder().serial_number)
