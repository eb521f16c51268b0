from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.pki import serial
from service.pki.profile import Profile, format_duration
from service.pki.serial import Lifetime, SerialKeys, SerialNumbers
from tests import csrs, factories
from tests.factories import NOW, SERIAL_KEYS, issuance_request

ISSUER = factories.create_issuer().certificate
OTHER_ISSUER = factories.create_issuer("p-384").certificate
NUMBERS = SerialNumbers(SERIAL_KEYS, ISSUER)
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
MINUTE, SECOND, EPOCH = timedelta(minutes=1), timedelta(seconds=1), datetime(2020, 1, 1, tzinfo=UTC)
LATEST = EPOCH + (2**26 - 1) * MINUTE - SECOND
START = NOW.replace(second=0, microsecond=0)
DAY = START + timedelta(days=1) - SECOND

RANDOM = st.integers(0, 2**64 - 1)
START_TIMES = st.integers(0, 2**31).map(lambda seconds: EPOCH + seconds * SECOND)
VALIDITIES = st.integers(1, (2**24 - 2) * 60).map(lambda seconds: seconds * SECOND)


@given(RANDOM, START_TIMES, VALIDITIES)
def test_every_serial_number_is_recognised_with_its_lifetime(
    random: int, start: datetime, validity: timedelta
) -> None:
    """The lifetime is that of the certificate, widened to whole minutes; the number is positive in 20 octets."""
    end = min(start + validity, LATEST)
    number = NUMBERS.create(random, start, end)
    assert 0 < number < 2**159
    assert number >> 95 == random
    lifetime = NUMBERS.recognize(number)
    assert lifetime is not None
    assert lifetime.start <= start < lifetime.start + MINUTE
    assert lifetime.end - MINUTE <= end < lifetime.end


@given(RANDOM, VALIDITIES, st.integers(0, 160))
def test_serial_number_with_a_changed_bit_is_not_recognised(
    random: int, validity: timedelta, bit: int
) -> None:
    """Every bit is protected, and so is the length."""
    number = NUMBERS.create(random, NOW, NOW + validity)
    assert NUMBERS.recognize(number ^ 1 << bit) is None


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(factories.profiles())), st.data())
def test_serial_number_of_every_certificate_is_recognised(profile: Profile, data: st.DataObject) -> None:
    """In every profile and lifetime, with an Idempotency-Key or without; with any changed bit it is not."""
    shortest, longest = (time // SECOND for time in (profile.backdate + MINUTE, profile.max_validity))
    validity = data.draw(st.integers(shortest, longest)) * SECOND
    now = NOW + data.draw(st.integers(0, 120)) * SECOND
    key = data.draw(st.sampled_from([None, "retry-0123456789"]))
    csr = csrs.encode_pem(csrs.build("a.example.com"))
    request = issuance_request(csr, profile.name, validity=format_duration(validity), idempotency_key=key)
    certificate = factories.authority(now=now).issue(request).certificate
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == validity - SECOND
    lifetime = NUMBERS.recognize(certificate.serial_number)
    assert lifetime is not None
    assert lifetime.start <= certificate.not_valid_before_utc < lifetime.start + MINUTE
    assert lifetime.end - MINUTE <= certificate.not_valid_after_utc < lifetime.end
    changed = (certificate.serial_number ^ 1 << bit for bit in range(159))
    assert not any(map(NUMBERS.recognize, changed))


NUMBER = NUMBERS.create(7, START, DAY)


@pytest.mark.parametrize("number", [0, -1, 1, 2**159, 2**160, 2**400, NUMBER | 1 << 159, NUMBER - 2**159], ids=["zero", "-1", "1", "2^159", "2^160", "2^400", "160 bits", "negative"])  # fmt: skip
def test_number_that_is_no_serial_number_is_not_recognised(number: int) -> None:
    """Zero, negative numbers and more than 159 bits are not recognised."""
    assert NUMBERS.recognize(number) is None


def test_serial_number_with_leading_zero_bits_is_recognised() -> None:
    """The layout counts from the last bit, so a small random number makes a short serial number."""
    number = NUMBERS.create(0, START, DAY)
    assert 0 < number.bit_length() <= 95
    assert NUMBERS.recognize(number) == Lifetime(START, START + timedelta(days=1))


@pytest.mark.parametrize(
    ("start", "end", "minutes"),
    [
        (START, START + 59 * SECOND, 1),
        (START, START + 60 * SECOND, 2),
        (START + SECOND, START + 59 * SECOND, 1),
        (START + 59 * SECOND, START + 60 * SECOND, 2),
    ],
)
def test_lifetime_is_widened_to_whole_minutes(start: datetime, end: datetime, minutes: int) -> None:
    """The last second is part of the validity period, so the certificate has ended a second later."""
    assert NUMBERS.recognize(NUMBERS.create(7, start, end)) == Lifetime(START, START + minutes * MINUTE)


@pytest.mark.parametrize(
    ("random", "start", "end"),
    [
        (-1, START, DAY),
        (2**64, START, DAY),
        (7, LATEST, LATEST + SECOND),
        (7, EPOCH - 2 * SECOND, EPOCH - SECOND),
        (7, START, START + (2**24) * MINUTE - SECOND),
        (7, START, START - MINUTE),
    ],
)
def test_serial_number_out_of_range_is_refused(random: int, start: datetime, end: datetime) -> None:
    """More random bits, an end before 2020 or after 26 bits, and a lifetime of no minute or over 24 bits."""
    with pytest.raises(ValueError, match=r"bits|at most 11650 days, and ends by 2147-08-06T"):
        NUMBERS.create(random, start, end)


@pytest.mark.parametrize(
    ("random", "start", "end"),
    [
        (2**64 - 1, LATEST - MINUTE, LATEST),
        (7, EPOCH - SECOND, EPOCH),
        (7, START, START + (2**24 - 1) * MINUTE - SECOND),
    ],
)
def test_serial_number_at_the_end_of_a_range_is_recognised(
    random: int, start: datetime, end: datetime
) -> None:
    """The largest values are accepted."""
    assert NUMBERS.recognize(NUMBERS.create(random, start, end))


def test_mask_hides_the_dates() -> None:
    """Serial numbers of equal times differ in the bits of the times; those of one random number do, too."""
    bits = {NUMBERS.create(random, START, DAY) >> 45 & (1 << 50) - 1 for random in range(1000)}
    assert len(bits) == 1000
    counts = [sum(value >> bit & 1 for value in bits) for bit in range(50)]
    assert all(350 < count < 650 for count in counts)
    tags = {NUMBERS.create(random, START, DAY) & (1 << 45) - 1 for random in range(1000)}
    assert len(tags) == 1000


def test_serial_number_of_another_issuer_is_not_recognised() -> None:
    """The tag depends on the issuer's key, not on its certificate."""
    number = NUMBERS.create(7, START, DAY)
    assert SerialNumbers(SERIAL_KEYS, OTHER_ISSUER).recognize(number) is None
    assert SerialNumbers(SerialKeys((OTHER_KEY,)), ISSUER).recognize(number) is None
    reissued = [factories.ca(end=NOW + timedelta(days=days)) for days in (1, 2)]
    first, second = (SerialNumbers(SERIAL_KEYS, certificate) for certificate in reissued)
    assert second.recognize(first.create(7, START, DAY))


def test_rotated_key_still_recognises() -> None:
    """The new key creates serial numbers, and the earlier keys recognise theirs until they are removed."""
    before = NUMBERS.create(7, START, DAY)
    rotated = SERIAL_KEYS.with_key(OTHER_KEY)
    assert rotated.keys == (OTHER_KEY, KEY)
    numbers = SerialNumbers(rotated, ISSUER)
    after = numbers.create(7, START, DAY)
    assert after != before
    assert numbers.recognize(before) == numbers.recognize(after) == Lifetime(START, START + timedelta(days=1))
    assert NUMBERS.recognize(after) is None


def test_serial_keys_are_parsed_from_their_text() -> None:
    """The text has all keys in order and all marked issuers; a file of earlier versions is one key."""
    marked = SERIAL_KEYS.with_key(OTHER_KEY).with_tagged_issuer(ISSUER)
    assert SerialKeys.parse(marked.encode()) == marked
    assert SerialKeys.parse(b"# comment\r\n\r\n" + marked.encode()) == marked
    assert SerialKeys.parse(KEY) == SERIAL_KEYS
    assert not SerialNumbers(SERIAL_KEYS, ISSUER).all_tagged
    assert SerialNumbers(marked, ISSUER).all_tagged
    assert not SerialNumbers(marked, OTHER_ISSUER).all_tagged


SECRET = "ab" * 32


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "0 keys; expected 1 to 8"),
        (f"issuer {SECRET}\n", "0 keys"),
        (f"key {SECRET}\n" * 9, "9 keys"),
        (f"key {SECRET}\nkey {SECRET[1:]}\n", "line 2 is not"),
        (f"key {SECRET.upper()}\n", "line 1 is not"),
        (f"keys {SECRET}\n", "line 1 is not"),
        (f"key {SECRET} # mine\n", "line 1 is not"),
        (f"{SECRET}\n", "line 1 is not"),
        ("\xff" * 31, "line 1 is not"),
        ("\xff" * 9, "line 1 is not"),
    ],
)
def test_malformed_serial_keys_are_refused(text: str, fragment: str) -> None:
    """The error names the line, and shows no part of a key."""
    with pytest.raises(ValueError, match=fragment) as refusal:
        SerialKeys.parse(text.encode("latin-1"))
    assert "abab" not in str(refusal.value)
    assert KEY.hex() not in repr(SERIAL_KEYS)


def test_keys_have_a_maximum() -> None:
    """A key beyond the maximum is refused, because every key is tried."""
    full = SerialKeys((KEY,) * serial.MAX_KEYS)
    assert SerialKeys.parse(full.encode()) == full
    with pytest.raises(ValueError, match="8 keys, the maximum: remove the last one"):
        full.with_key(OTHER_KEY)


def test_serial_numbers_of_predecessors_are_recognised() -> None:
    """Those of each signing CA are; a root above one of them has none."""
    old_root, old = factories.hierarchy("p-384").root, OTHER_ISSUER
    issuers = serial.for_issuers(SERIAL_KEYS, ISSUER, [old, old_root])
    assert len(issuers) == 2
    number = SerialNumbers(SERIAL_KEYS, old).create(7, START, DAY)
    assert serial.recognize(number, issuers) == Lifetime(START, START + timedelta(days=1))
    assert serial.recognize(number, issuers[:1]) is None
    assert serial.recognize(number, ()) is None


def test_ca_without_serial_keys_issues_random_serial_numbers() -> None:
    """All 159 bits are random."""
    authority = factories.authority(serial_keys=None)
    csr = csrs.encode_pem(csrs.build("a.example.com"))
    certificates = [authority.issue(issuance_request(csr)).certificate for _ in range(20)]
    assert len({certificate.serial_number for certificate in certificates}) == 20
    assert not any(NUMBERS.recognize(certificate.serial_number) for certificate in certificates)
