from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.authority import IssuedCertificate, Principal, PrincipalKind
from service.pki import idempotency
from service.pki.errors import RejectedValidity
from service.pki.issuer import Issuer
from service.pki.profile_loader import IssuancePolicy
from service.pki.serial import SerialKeys
from tests import csrs, factories
from tests.factories import NOW, issuance_request

KEY = "retry-0123456789"
GOOD = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))


def uuid7(moment: datetime) -> str:
    """A UUIDv7 (RFC 9562 5.7) of a moment."""
    milliseconds = int(moment.timestamp() * 1000)
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | 0b10 << 62 | 0x1234))


START = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "now", "start"),
    [
        (KEY, START, START),
        (KEY, START + timedelta(seconds=299, microseconds=999_999), START),
        (KEY, START + timedelta(seconds=300), START + timedelta(seconds=300)),
        (uuid7(START + timedelta(seconds=100)), START + timedelta(seconds=100), START + timedelta(seconds=100)),
        (uuid7(START + timedelta(seconds=100)), START + timedelta(seconds=399), START + timedelta(seconds=100)),
        (uuid7(START + timedelta(seconds=100)).upper(), START + timedelta(seconds=399), START + timedelta(seconds=100)),
        (uuid7(START + timedelta(seconds=100)), START + timedelta(seconds=400), START + timedelta(seconds=300)),
        (str(uuid.UUID(int=4 << 76 | 0b10 << 62)), START + timedelta(seconds=7), START),
        ("0" * 36, START + timedelta(seconds=7), START),
    ],
)  # fmt: skip
def test_replay_window_starts_at_uuid7_time_or_clock(key: str, now: datetime, start: datetime) -> None:
    """A UUIDv7 of the last five minutes starts its window; for any other key, the clock does."""
    assert idempotency.replay_window(key, now) == idempotency.ReplayWindow(
        start, start + timedelta(minutes=5)
    )


@pytest.mark.parametrize(
    ("ahead", "end"), [(1, 101), (199, 299), (200, 300), (201, 300), (10**11, 300)]
)  # the last moment is in the year 5195
def test_window_of_future_uuid7_ends_at_its_time(ahead: int, end: int) -> None:
    """The clock's window applies until the time of the key, when the key's window starts."""
    key = uuid7(START + timedelta(seconds=100 + ahead))
    window = idempotency.replay_window(key, START + timedelta(seconds=100))
    assert window == idempotency.ReplayWindow(START, START + timedelta(seconds=end))
    far_future = str(uuid.UUID(int=(2**48 - 1) << 80 | 7 << 76 | 0b10 << 62))  # beyond the year 9999
    assert idempotency.replay_window(far_future, START) == idempotency.ReplayWindow(
        START, START + timedelta(minutes=5)
    )


def test_derived_numbers_have_64_bits() -> None:
    """The derived numbers are different, and use all bits."""
    numbers = [idempotency.derive_random(bytes(32), [n.to_bytes(2, "big")]) for n in range(500)]
    assert len(set(numbers)) == 500
    assert max(numbers).bit_length() == 64


def test_derived_number_depends_on_input_boundaries_and_secret() -> None:
    """The same octets, split differently or with another key, give another number."""
    inputs = [[b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""], [b"ab", b"c", b""]]
    numbers = [idempotency.derive_random(bytes(32), parts) for parts in inputs]
    numbers.append(idempotency.derive_random(bytes(31) + b"\1", inputs[0]))
    assert len(set(numbers)) == 6


def issue(
    csr: bytes = GOOD, now: datetime = NOW, issuer: Issuer | None = None, **change: Any
) -> IssuedCertificate:
    """Issue a certificate with a new authority, which has no state of earlier requests."""
    authority = factories.authority(now=now, issuer=issuer, policy=change.pop("policy", None))
    return authority.issue(issuance_request(csr, **{"idempotency_key": KEY, **change}))


@pytest.mark.parametrize("key_type", ["p-256", "p-384", "p-521", "rsa-2048", "ed25519"])
def test_retry_returns_the_same_certificate(key_type: str) -> None:
    """Another authority returns the same octets until the window ends, then another certificate."""
    issuer = factories.create_issuer(key_type)
    first = issue(issuer=issuer)
    expiry = first.idempotent_until
    assert expiry == datetime(2026, 11, 23, 12, 35, tzinfo=UTC)
    later = issue(issuer=issuer, now=expiry - timedelta(microseconds=1))
    assert later.certificate.public_bytes(Encoding.DER) == first.certificate.public_bytes(Encoding.DER)
    assert later.spec.notes == first.spec.notes
    other = issue(issuer=issuer, now=expiry)
    assert other.certificate.serial_number != first.certificate.serial_number
    assert other.idempotent_until == expiry + timedelta(minutes=5)


def test_client_with_fast_clock_gets_the_same_certificate() -> None:
    """A key three seconds in the future returns the same certificate until `idempotent_until`."""
    key = uuid7(NOW.replace(microsecond=0) + timedelta(seconds=3))
    first = issue(idempotency_key=key)
    expiry = first.idempotent_until
    assert expiry is not None
    assert issue(idempotency_key=key, now=expiry - timedelta(microseconds=1)).certificate == first.certificate
    assert issue(idempotency_key=key, now=expiry).certificate != first.certificate


@pytest.mark.parametrize("validity", ["PT6M", "PT8M"])
def test_certificate_that_expires_within_window_is_not_reissued(validity: str) -> None:
    """The replay window ends a minute before the certificate expires; a retry then gets another certificate."""
    start = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    first = issue(now=start, validity=validity)
    expiry = first.idempotent_until
    assert expiry == first.spec.not_after + timedelta(seconds=1) - timedelta(minutes=1)
    assert issue(now=expiry, validity=validity).certificate == first.certificate
    late = start + timedelta(seconds=299)
    certificates = [issue(now=late, validity=validity) for _ in range(2)]
    assert len({issued.certificate.serial_number for issued in certificates}) == 2
    for issued in certificates:
        assert issued.certificate.not_valid_after_utc >= late + timedelta(seconds=59)
        assert issued.idempotent_until is None
        assert issued.spec.notes[-1].startswith(
            "a retry will return a different certificate: the certificate of"
        )
    with pytest.raises(RejectedValidity):
        issue(now=late, not_after="2026-11-23T12:35:00Z")


def test_requests_without_idempotency_key_get_different_certificates() -> None:
    """Without an Idempotency-Key there is no replay window."""
    first, second = issue(idempotency_key=None), issue(idempotency_key=None)
    assert first.certificate.serial_number != second.certificate.serial_number
    assert first.idempotent_until is None


def policy(**change: Any) -> IssuancePolicy:
    """A policy of one profile with changed members."""
    profile = {
        "description": "x",
        "validity": "P90D",
        "backdate": "PT5M",
        "extended_key_usage": ["serverAuth"],
        "names": {"dns": {}, "ip": {}},
        "extensions": ["1.2.3.4", "1.2.3.5"],
    }
    return IssuancePolicy({"server": profile | change}, "server")


def csr_with_extension(oid: str, value: bytes) -> bytes:
    """A CSR with this extension."""
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
    return csrs.encode_pem(csrs.build(sans=["dns:a.example.com"], extensions=[extension]))


OTHER_KEY = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"], key_type="p-384"))
CHANGES: dict[str, Callable[[], IssuedCertificate]] = {
    "nothing": lambda: issue(policy=policy()),
    "idempotency key": lambda: issue(policy=policy(), idempotency_key=KEY + "1"),
    "principal's name": lambda: issue(policy=policy(), principal=Principal(PrincipalKind.API_KEY, "other")),
    "principal's kind": lambda: issue(policy=policy(), principal=Principal(PrincipalKind.IAM, "tests")),
    "the same names, signed again": lambda: issue(policy=policy(), csr=csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))),
    "subject public key": lambda: issue(policy=policy(), csr=OTHER_KEY),
    "subject": lambda: issue(policy=policy(subject={"fixed": {"O": "Example"}})),
    "no subject": lambda: issue(policy=policy(subject={"allowed": []})),
    "names": lambda: issue(policy=policy(), csr=csrs.encode_pem(csrs.build(sans=["dns:a.example.com", "ip:10.0.0.1"]))),
    "not_after": lambda: issue(policy=policy(), validity="P1D"),
    "not_before": lambda: issue(policy=policy(backdate="PT4M", validity="P89DT23H59M")),
    "window": lambda: issue(policy=policy(), now=NOW + timedelta(minutes=5)),
    "extended key usage": lambda: issue(policy=policy(extended_key_usage=["serverAuth", "clientAuth"])),
    "certificate policy": lambda: issue(policy=policy(certificate_policies=["1.2.3"])),
    "authority information access": lambda: issue(policy=policy(ca_issuers="http://a.example/")),
    "CRL distribution point": lambda: issue(policy=policy(revocation="crl", crl="http://a.example/")),
    "noRevAvail": lambda: issue(policy=policy(short_lived="P90D")),
    "extension": lambda: issue(policy=policy(), csr=csr_with_extension("1.2.3.4", b"\5\0")),
    "extension value": lambda: issue(policy=policy(), csr=csr_with_extension("1.2.3.4", b"\4\0")),
    "extension OID": lambda: issue(policy=policy(), csr=csr_with_extension("1.2.3.5", b"\5\0")),
    "issuer": lambda: issue(policy=policy(), issuer=factories.create_issuer("p-384")),
    "serial key": lambda: factories.authority(policy=policy(), serial_keys=SerialKeys((bytes(32),))).issue(issuance_request(GOOD, idempotency_key=KEY)),
}  # fmt: skip


def test_every_input_changes_the_serial_number() -> None:
    """A change to one field of the certificate, or to the principal, changes the serial number."""
    numbers: dict[int, str] = {}
    for name, change in CHANGES.items():
        number = change().certificate.serial_number
        assert number not in numbers, f"{name} has the serial number of {numbers.get(number)}"
        numbers[number] = name
    assert issue(policy=policy()).certificate.serial_number == next(iter(numbers))


def test_ca_certificate_changes_the_serial_number() -> None:
    """Another CA certificate with the same name, key and identifier gives another serial number."""
    old, new = (Issuer(factories.ca(), [factories.root()], factories.SIGNING) for _ in range(2))
    assert (old.certificate.subject, old.public_keys) == (new.certificate.subject, new.public_keys)
    first, second = issue(issuer=old), issue(issuer=new)
    assert first.spec.digest == second.spec.digest
    assert first.certificate.serial_number != second.certificate.serial_number


def test_text_around_csr_does_not_change_serial_number() -> None:
    """The serial number depends on the DER, not on line ends or text around the PEM."""
    first = issue()
    for variant in (GOOD.replace(b"\n", b"\r\n"), b"text\n" + GOOD):
        assert issue(csr=variant).certificate == first.certificate
    other = csrs.encode_der(csrs.build(sans=["dns:a.example.com"]))  # has another signature
    assert issue(csr=other).certificate != first.certificate


def create_randomized_issuer() -> Issuer:
    """An issuer with randomized ECDSA signatures, like KMS."""
    hierarchy = factories.hierarchy()
    key = factories.signing_key(hierarchy)
    return Issuer(hierarchy.signing, [hierarchy.root], key, is_deterministic=False)


@pytest.mark.parametrize(
    ("create_issuer", "serial_keys", "reason"),
    [
        (lambda: factories.create_issuer("ml-dsa-44"), factories.SERIAL_KEYS, "cannot repeat a signature"),
        (create_randomized_issuer, factories.SERIAL_KEYS, "cannot repeat a signature"),
        (factories.create_issuer, None, "has no serial.key"),
    ],
)  # fmt: skip
def test_issuer_without_idempotency_adds_note(
    create_issuer: Callable[[], Issuer], serial_keys: SerialKeys | None, reason: str
) -> None:
    """An issuer with randomized signatures, or without keys of serial numbers, uses random serial numbers and adds a note."""
    authority = factories.authority(issuer=create_issuer(), serial_keys=serial_keys)
    first, second = (authority.issue(issuance_request(GOOD, idempotency_key=KEY)) for _ in range(2))
    assert first.certificate.serial_number != second.certificate.serial_number
    assert first.idempotent_until is None
    assert reason in first.spec.notes[-1]
    assert "a retry will return a different certificate" in first.spec.notes[-1]
    assert authority.dry_run(issuance_request(GOOD, idempotency_key=KEY)).notes == first.spec.notes
    assert reason not in str(authority.dry_run(issuance_request(GOOD)).notes)
