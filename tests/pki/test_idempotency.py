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
from tests import csrs, factories
from tests.factories import NOW, issuance_request

KEY = "retry-0123456789"
GOOD = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))


def uuid7(moment: datetime) -> str:
    """A UUIDv7 (RFC 9562 5.7) that was made at a moment."""
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
def test_window_of_a_key(key: str, now: datetime, start: datetime) -> None:
    """A UUIDv7 of the last five minutes begins its own; an old one and all else, the clock's."""
    assert idempotency.replay_window(key, now) == idempotency.ReplayWindow(
        start, start + timedelta(minutes=5)
    )


@pytest.mark.parametrize(
    ("ahead", "until"), [(1, 101), (199, 299), (200, 300), (201, 300), (10**11, 300)]
)  # the last one is in the year 5195
def test_key_of_the_future_promises_until_its_time(ahead: int, until: int) -> None:
    """The clock's window, as for any key; once its time has come it counts from there, so no longer than that."""
    key = uuid7(START + timedelta(seconds=100 + ahead))
    window = idempotency.replay_window(key, START + timedelta(seconds=100))
    assert window == idempotency.ReplayWindow(START, START + timedelta(seconds=until))
    last = str(uuid.UUID(int=(2**48 - 1) << 80 | 7 << 76 | 0b10 << 62))  # beyond the year 9999
    assert idempotency.replay_window(last, START) == idempotency.ReplayWindow(
        START, START + timedelta(minutes=5)
    )


def test_serial_numbers_have_159_bits() -> None:
    """Positive and of at most 20 octets (RFC 5280 4.1.2.2), and all their bits are used."""
    numbers = [idempotency.derive_serial_number(bytes(32), [n.to_bytes(2, "big")]) for n in range(500)]
    assert len(set(numbers)) == 500
    assert max(numbers).bit_length() == 159
    assert all(0 < number < 2**159 for number in numbers)


def test_lengths_keep_inputs_apart() -> None:
    """What ends one input never begins the next, and the secret decides as well."""
    inputs = [[b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""], [b"ab", b"c", b""]]
    numbers = [idempotency.derive_serial_number(bytes(32), each) for each in inputs]
    numbers.append(idempotency.derive_serial_number(bytes(31) + b"\1", inputs[0]))
    assert len(set(numbers)) == 6


def issue(
    csr: bytes = GOOD, now: datetime = NOW, of: Issuer | None = None, **change: Any
) -> IssuedCertificate:
    """One certificate, by an authority of its own: nothing is kept from one request to the next."""
    made = factories.authority(now=now, issuer=of, policy=change.pop("policy", None))
    return made.issue(issuance_request(csr, **{"idempotency_key": KEY, **change}))


@pytest.mark.parametrize("kind", ["p-256", "p-384", "p-521", "rsa-2048", "ed25519"])
def test_retry_gets_the_same_certificate(kind: str) -> None:
    """Octet for octet, from another process's authority, until the window ends; then another one."""
    of = factories.create_issuer(kind)
    first = issue(of=of)
    until = first.idempotent_until
    assert until == datetime(2026, 11, 23, 12, 35, tzinfo=UTC)
    later = issue(of=of, now=until - timedelta(microseconds=1))
    assert later.certificate.public_bytes(Encoding.DER) == first.certificate.public_bytes(Encoding.DER)
    assert later.spec.notes == first.spec.notes
    other = issue(of=of, now=until)
    assert other.certificate.serial_number != first.certificate.serial_number
    assert other.idempotent_until == until + timedelta(minutes=5)


def test_promise_to_a_clock_that_is_ahead_is_kept() -> None:
    """A client whose clock is three seconds fast gets the same until `idempotent_until`, and then another one."""
    key = uuid7(NOW.replace(microsecond=0) + timedelta(seconds=3))
    first = issue(idempotency_key=key)
    until = first.idempotent_until
    assert until is not None
    assert issue(idempotency_key=key, now=until - timedelta(microseconds=1)).certificate == first.certificate
    assert issue(idempotency_key=key, now=until).certificate != first.certificate


@pytest.mark.parametrize("validity", ["PT6M", "PT8M"])
def test_certificate_that_expires_within_window_is_not_reissued(validity: str) -> None:
    """A certificate has a minute to live at least: the promise ends before, and then there is another one."""
    start = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    first = issue(now=start, validity=validity)
    until = first.idempotent_until
    assert until == first.spec.not_after + timedelta(seconds=1) - timedelta(minutes=1)
    assert issue(now=until, validity=validity).certificate == first.certificate
    late = start + timedelta(seconds=299)
    one, other = (issue(now=late, validity=validity) for _ in range(2))
    assert one.certificate.serial_number != other.certificate.serial_number
    for each in (one, other):
        assert each.certificate.not_valid_after_utc >= late + timedelta(seconds=59)
        assert each.idempotent_until is None
        assert each.spec.notes[-1].startswith(
            "a retry will return a different certificate: the certificate of"
        )
    with pytest.raises(RejectedValidity):
        issue(now=late, not_after="2026-11-23T12:35:00Z")


def test_without_a_key_every_certificate_is_another() -> None:
    """No Idempotency-Key, no promise."""
    first, second = issue(idempotency_key=None), issue(idempotency_key=None)
    assert first.certificate.serial_number != second.certificate.serial_number
    assert first.idempotent_until is None


def policy(**change: Any) -> IssuancePolicy:
    """A policy of one profile, with something changed."""
    stated = {
        "description": "x",
        "validity": "P90D",
        "backdate": "PT5M",
        "extended_key_usage": ["serverAuth"],
        "names": {"dns": {}, "ip": {}},
        "extensions": ["1.2.3.4", "1.2.3.5"],
    }
    return IssuancePolicy({"server": stated | change}, "server")


def extension(oid: str, value: bytes) -> bytes:
    """A request that brings an extension along."""
    asked = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
    return csrs.encode_pem(csrs.build(sans=["dns:a.example.com"], extensions=[asked]))


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
    "an extension": lambda: issue(policy=policy(), csr=extension("1.2.3.4", b"\5\0")),
    "its value": lambda: issue(policy=policy(), csr=extension("1.2.3.4", b"\4\0")),
    "its kind": lambda: issue(policy=policy(), csr=extension("1.2.3.5", b"\5\0")),
    "issuer": lambda: issue(policy=policy(), of=factories.create_issuer("p-384")),
    "serial secret": lambda: factories.authority(policy=policy(), serial_secret=bytes(32)).issue(issuance_request(GOOD, idempotency_key=KEY)),
}  # fmt: skip


def test_each_input_alone_makes_another_serial_number() -> None:
    """Whatever is changed of what a certificate holds, or of who asked for it, the serial number is another."""
    numbers: dict[int, str] = {}
    for name, change in CHANGES.items():
        number = change().certificate.serial_number
        assert number not in numbers, f"{name} has the serial number of {numbers.get(number)}"
        numbers[number] = name
    assert issue(policy=policy()).certificate.serial_number == next(iter(numbers))


def test_another_certificate_of_the_ca_makes_another_serial_number() -> None:
    """The same name, key and identifier in another certificate: what signs, and how, is an input too."""
    one, other = (Issuer(factories.ca(), [factories.root()], factories.SIGNING) for _ in range(2))
    assert (one.certificate.subject, one.public_keys) == (other.certificate.subject, other.public_keys)
    first, second = issue(of=one), issue(of=other)
    assert first.spec.digest == second.spec.digest
    assert first.certificate.serial_number != second.certificate.serial_number


def test_text_around_csr_does_not_change_serial_number() -> None:
    """DER is what counts: base64, line ends and text around the PEM make no other certificate."""
    first = issue()
    for same in (GOOD.replace(b"\n", b"\r\n"), b"text\n" + GOOD):
        assert issue(csr=same).certificate == first.certificate
    other = csrs.encode_der(csrs.build(sans=["dns:a.example.com"]))  # its signature is another
    assert issue(csr=other).certificate != first.certificate


def repeating_nothing() -> Issuer:
    """An issuer whose ECDSA signatures are random, as KMS's are."""
    made = factories.hierarchy()
    return Issuer(made.signing, [made.root], factories.signing_key(made), is_deterministic=False)


@pytest.mark.parametrize(
    ("issuer", "secret", "words"),
    [
        (lambda: factories.create_issuer("ml-dsa-44"), factories.SERIAL_SECRET, "cannot repeat a signature"),
        (repeating_nothing, factories.SERIAL_SECRET, "cannot repeat a signature"),
        (factories.create_issuer, None, "has no serial.key"),
    ],
)  # fmt: skip
def test_issuer_without_idempotency_adds_note(
    issuer: Callable[[], Issuer], secret: bytes | None, words: str
) -> None:
    """A signer that hedges, or a CA without the secret, issues with random serial numbers and says so."""
    made = factories.authority(issuer=issuer(), serial_secret=secret)
    first, second = (made.issue(issuance_request(GOOD, idempotency_key=KEY)) for _ in range(2))
    assert first.certificate.serial_number != second.certificate.serial_number
    assert first.idempotent_until is None
    assert words in first.spec.notes[-1]
    assert "a retry will return a different certificate" in first.spec.notes[-1]
    assert made.dry_run(issuance_request(GOOD, idempotency_key=KEY)).notes == first.spec.notes
    assert words not in str(made.dry_run(issuance_request(GOOD)).notes)
