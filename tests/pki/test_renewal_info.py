"""ARI: identifiers are strict, and windows are inside the lifetime, or earlier."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pki import renewal_info
from service.pki.idempotency import WINDOW
from service.pki.renewal_info import CertificateId, EarlyRenewal, UnknownCertificate
from service.pki.serial import Lifetime, SerialKeys, SerialNumbers
from tests import factories

RFC_EXAMPLE = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"  # RFC 9773 4.1
MINUTE = timedelta(minutes=1)
BACKDATE = timedelta(minutes=5)
IDS = st.builds(CertificateId, st.binary(min_size=1, max_size=64), st.integers(1, (1 << 159) - 1))
STARTS = st.datetimes(datetime(2020, 1, 1), datetime(2140, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 - `timezones` sets it
    lambda time: time.replace(second=0, microsecond=0)
)
LENGTHS = st.integers(1, (1 << 24) - 1).map(lambda minutes: minutes * MINUTE)
LIFETIMES = st.builds(lambda start, length: Lifetime(start, start + length), STARTS, LENGTHS)


def test_example_of_the_rfc_is_parsed() -> None:
    """The serial number's leading zero octet makes it positive."""
    certificate_id = CertificateId.parse(RFC_EXAMPLE)
    assert certificate_id.key_identifier.hex() == "69885b6b87464041e1b37b847ba0ae2cde01c8d4"
    assert certificate_id.serial_number == 0x87654321
    assert certificate_id.encode() == RFC_EXAMPLE


@given(IDS)
def test_identifier_survives_encoding(certificate_id: CertificateId) -> None:
    assert CertificateId.parse(certificate_id.encode()) == certificate_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.",
        ".AIdlQyE",
        RFC_EXAMPLE + "=",
        RFC_EXAMPLE + ".AA",
        RFC_EXAMPLE + "\n",
        RFC_EXAMPLE.replace("Q.", "R."),  # bits after the end
        RFC_EXAMPLE.replace("QyE", "QyF"),
        RFC_EXAMPLE[:-1],
        RFC_EXAMPLE.replace(".", "+."),
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.h2VDIQ",  # negative
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AA",  # zero
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AAB_",  # a leading zero octet too many
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ." + "A" * 28,  # 21 octets
        "A" * 87 + ".AIdlQyE",
        "é.AIdlQyE",
        "A" * 100_000,
    ],
)
def test_malformed_identifier_is_refused(text: str) -> None:
    """The error quotes a short part of it."""
    with pytest.raises(ValueError, match=r"RFC 9773 4\.1") as error:
        CertificateId.parse(text)
    assert len(str(error.value)) < 250


@given(IDS, LIFETIMES)
def test_window_is_in_the_last_third(certificate_id: CertificateId, lifetime: Lifetime) -> None:
    """It is the same each time, in whole seconds, and leaves time for retries."""
    window = renewal_info.window_of(certificate_id, lifetime, None, BACKDATE)
    assert window == renewal_info.window_of(certificate_id, lifetime, None, timedelta())
    third = (lifetime.end - lifetime.start) / 3
    assert lifetime.end - third - timedelta(seconds=1) <= window.start < window.end < lifetime.end
    assert window.end <= lifetime.end - third / 4 + timedelta(seconds=1)
    assert window.start.microsecond == window.end.microsecond == 0


@pytest.mark.parametrize(
    ("length", "expected"),
    [(MINUTE, MINUTE), (timedelta(days=1), timedelta(hours=1.5)), (timedelta(days=90), timedelta(hours=6))],
)
def test_client_of_a_short_certificate_asks_in_time(length: timedelta, expected: timedelta) -> None:
    """It waits no longer than the window, and at least a minute."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    certificate_id = CertificateId.parse(RFC_EXAMPLE)
    window = renewal_info.window_of(certificate_id, Lifetime(start, start + length), None, BACKDATE)
    assert abs(renewal_info.retry_after(window) - expected) <= timedelta(seconds=1)


def test_windows_are_spread() -> None:
    """Certificates of the same lifetime are not due at once."""
    lifetime = Lifetime(factories.NOW, factories.NOW + timedelta(days=90))
    starts = [
        renewal_info.window_of(CertificateId(b"x" * 20, serial), lifetime, None, BACKDATE).start
        for serial in range(1, 500)
    ]
    assert max(starts) - min(starts) > timedelta(days=16)  # of 16.9
    first_half = sum(start < min(starts) + (max(starts) - min(starts)) / 2 for start in starts)
    assert 200 < first_half < 300


@given(IDS, LIFETIMES, st.integers(0, 1 << 24), st.integers(1, 1 << 20))
def test_early_window_is_never_later(
    certificate_id: CertificateId, lifetime: Lifetime, minutes: int, over: int
) -> None:
    """Within the period, or as without an order; the end is after the start, and inside the lifetime."""
    early = EarlyRenewal(lifetime.start + minutes * MINUTE, over * MINUTE)
    normal = renewal_info.window_of(certificate_id, lifetime, None, BACKDATE)
    window = renewal_info.window_of(certificate_id, lifetime, early, BACKDATE)
    assert window.start < window.end
    assert window.start <= normal.start
    assert window.end <= normal.end
    if window != normal:
        assert early.before - timedelta(seconds=1) <= window.start
        assert window.end <= early.before + early.over


@pytest.mark.parametrize("margin", [timedelta(), MINUTE])
def test_certificate_whose_issue_is_in_doubt_is_not_renewed_early(margin: timedelta) -> None:
    """A minute, the largest backdate and a replay window separate it from the start of the lifetime."""
    lifetime = Lifetime(factories.NOW, factories.NOW + timedelta(days=90))
    before = lifetime.start + MINUTE + BACKDATE + WINDOW - margin
    assert EarlyRenewal(before, MINUTE).includes(lifetime, BACKDATE) == (not margin)


def test_window_of_a_revoked_certificate_has_passed() -> None:
    window = renewal_info.window_of_revoked(factories.NOW)
    assert window.start < window.end <= factories.NOW


def test_issuer_is_found_by_its_key_identifier() -> None:
    """Another key identifier is unknown."""
    issuer = factories.create_issuer().certificate
    numbers = SerialNumbers(SerialKeys((b"k" * 32,)), issuer)
    assert numbers.key_identifier
    certificate_id = CertificateId(numbers.key_identifier, 1)
    assert renewal_info.find_serial_numbers(certificate_id, (numbers,)) is numbers
    with pytest.raises(UnknownCertificate, match="not issued by this CA"):
        renewal_info.find_serial_numbers(CertificateId(b"x" * 20, 1), (numbers,))
