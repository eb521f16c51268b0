from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from service.authority import Authority
from service.pki import revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.issuer import Issuer
from service.pki.revocation import MergedList, RevocationError, RevokedCertificate
from service.pki.serial import SerialNumbers
from tests import factories
from tests.factories import NOW, ROOT

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
STOLEN = RevokedCertificate(0xA1B, AT, x509.ReasonFlags.key_compromise)
GOOD: dict[str, Any] = {"serial": "0a1b", "at": "2026-11-23T12:00:00Z", "reason": "keyCompromise"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("0a1b", 0xA1B), ("0A:1B", 0xA1B), ("0x0a1b", 0xA1B), (" a1b\n", 0xA1B)),
        ("007" + "f" * 39, 2**159 - 1),
    ],
)
def test_serial_number_is_parsed_from_hexadecimal(text: str, number: int) -> None:
    """The forms of this CA, OpenSSL and browsers are accepted."""
    assert revocation.parse_serial_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "00:00", "-1", "g", "8" + "0" * 39, "1" * 41, "0x", "1 2", "\u0661"]
)
def test_malformed_serial_number_is_refused(text: str) -> None:
    """Zero, signs, more than 20 octets as an INTEGER (RFC 5280 4.1.2.2) and other digits are refused."""
    with pytest.raises(ValueError, match="hexadecimal"):
        revocation.parse_serial_number(text)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, STOLEN),
        ({"serial": "0A:1B"}, STOLEN),
        ({"at": "2026-11-23T13:00:00+01:00"}, STOLEN),
        ({"at": AT.replace(microsecond=7)}, STOLEN),
        ({"reason": None}, RevokedCertificate(0xA1B, AT)),
        ({"reason": "superseded"}, RevokedCertificate(0xA1B, AT, x509.ReasonFlags.superseded)),
    ],
)
def test_valid_entry_is_parsed(change: dict[str, Any], expected: RevokedCertificate) -> None:
    """The time is text or a YAML timestamp in any zone, the reason optional; a formatted entry is parsed again."""
    assert revocation.parse([(1, GOOD | change)]) == {0xA1B: expected}
    assert revocation.parse_canonical(revocation.format_entry(expected)) == {0xA1B: expected}


@pytest.mark.parametrize(
    ("entries", "fragments"),
    [
        ([7], ["line 1: expected a mapping"]),
        ([{"serial": "1"}], ["line 1: expected a mapping"]),
        ([GOOD | {"colour": "red"}], ["line 1: expected a mapping"]),
        ([GOOD | {"serial": 10}], ["line 1: serial is not a string: write it in hexadecimal, in quotes"]),
        ([GOOD | {"serial": "x"}], ["line 1: 'x' is not a serial number"]),
        ([GOOD | {"at": "2026-11-23"}], ["line 1: at "]),
        ([GOOD | {"at": "2026-11-23T12:00:00"}], ["line 1: at "]),
        ([GOOD | {"at": datetime(2026, 11, 23)}], ["line 1: at "]),  # noqa: DTZ001 - without a time zone on purpose
        ([GOOD | {"at": 7}], ["line 1: at "]),
        ([GOOD | {"at": "0001-01-01T00:00:00+01:00"}], ["line 1: at "]),
        ([GOOD | {"reason": "certificateHold"}], ["line 1: reason "]),
        ([GOOD | {"reason": "unspecified"}], ["line 1: reason "]),
        ([GOOD | {"reason": []}], ["line 1: reason "]),
        ([GOOD | {"at": "1949-12-31T23:59:59Z"}], ["line 1: ", "on or after 1950"]),
        ([GOOD, GOOD | {"serial": "A:1B"}], ["line 2: duplicate serial 0a1b"]),
        ([GOOD | {"serial": "x"}, GOOD, GOOD | {"at": 7}], ["line 1: 'x'", "line 3: at"]),
        ([7] * 30, ["line 20:", "and 10 more"]),
        ([GOOD] * 80_001, ["80001 entries; at most 80000 are accepted"]),
    ],
)  # fmt: skip
def test_malformed_revocation_list_is_refused(entries: Sequence[object], fragments: Sequence[str]) -> None:
    """The error lists all malformed entries; the valid ones are not used."""
    with pytest.raises(RevocationError) as refusal:
        revocation.parse(enumerate(entries, 1))
    assert all(fragment in str(refusal.value) for fragment in fragments)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["serial", "at", "reason"]), inner),
    max_leaves=6,
)  # fmt: skip


@given(JSON)
def test_revocation_parser_never_crashes(entry: object) -> None:
    """Any YAML value is accepted or raises a RevocationError."""
    try:
        revocation.parse([(1, entry)])
    except RevocationError:
        return


def by_serial_number(*revoked: RevokedCertificate) -> dict[int, RevokedCertificate]:
    """A revocation list of these certificates."""
    return {certificate.serial_number: certificate for certificate in revoked}


def create_authority(issuer: Issuer, now: datetime, *revoked: RevokedCertificate) -> Authority:
    """Create an authority with a revocation list."""
    return factories.authority(issuer=issuer, now=now, load_revoked=lambda: by_serial_number(*revoked))


@pytest.mark.parametrize("key_type", ["p-256", "p-384", "p-521", "rsa-2048", "ed25519", "ml-dsa-65"])
def test_crl_is_signed_by_ca_key_of_every_type(key_type: str) -> None:
    """The CRL has the number and times of its window, the CA's name and key identifier, and all entries."""
    issuer = factories.create_issuer(key_type)
    earlier = RevokedCertificate(0xFF, AT - timedelta(days=1))
    crl = create_authority(issuer, NOW, STOLEN, earlier).status.current_crl()
    assert crl.is_signature_valid(factories.signing_key(factories.hierarchy(key_type, ())).public_key())
    assert crl.issuer.public_bytes() == issuer.certificate.subject.public_bytes()
    start = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    assert (crl.last_update_utc, crl.next_update_utc) == (start, start + timedelta(hours=24))
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == int(start.timestamp()) // 300
    identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier == issuer.authority_key_identifier
    entries = [(entry.serial_number, entry.revocation_date_utc) for entry in crl]
    assert entries == [(0xFF, earlier.revoked_at), (0xA1B, AT)]
    stolen = crl.get_revoked_certificate_by_serial_number(0xA1B)
    assert stolen is not None
    assert stolen.extensions.get_extension_for_class(x509.CRLReason).value.reason is STOLEN.reason
    without_reason = crl.get_revoked_certificate_by_serial_number(0xFF)
    assert without_reason is not None
    assert not list(without_reason.extensions)


def test_crl_is_the_same_within_a_window() -> None:
    """All authorities sign the same CRL within a window; the next window has the next number."""
    start = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    late = RevokedCertificate(7, start + timedelta(seconds=1))
    issuer = factories.create_issuer()
    crls = [
        create_authority(issuer, moment, STOLEN, late).status.current_crl()
        for moment in (start, start + timedelta(seconds=299), start + timedelta(seconds=300))
    ]
    first, same, following = crls
    assert first.public_bytes(Encoding.DER) == same.public_bytes(Encoding.DER)
    assert following.last_update_utc - first.last_update_utc == timedelta(minutes=5)
    assert first.get_revoked_certificate_by_serial_number(7) is None
    assert following.get_revoked_certificate_by_serial_number(7) is not None


def test_crl_is_signed_once_per_window_and_after_a_change() -> None:
    """An unchanged list returns the same CRL, so that all processes have the same response."""
    moments = iter([NOW, NOW, NOW, NOW + timedelta(minutes=5)])
    revoked = Mock(side_effect=[{}, {}, by_serial_number(STOLEN), by_serial_number(STOLEN)])
    authority = factories.authority(clock=lambda: next(moments), load_revoked=revoked)
    first, again, changed, following = (authority.status.current_crl() for _ in range(4))
    assert again is first
    assert [len(list(crl)) for crl in (first, changed, following)] == [0, 1, 1]
    assert following.last_update_utc - changed.last_update_utc == timedelta(minutes=5)


def test_crl_is_unavailable_while_the_revocation_list_is() -> None:
    """A malformed or missing list makes the CA unavailable; the next valid list is signed."""
    authority = factories.authority(
        load_revoked=Mock(side_effect=[CAError("revoked.yaml: gone"), by_serial_number(STOLEN)])
    )
    with pytest.raises(CAUnavailable, match="the revocation list cannot be loaded"):
        authority.status.current_crl()
    assert len(list(authority.status.current_crl())) == 1


@pytest.mark.parametrize(("age", "is_listed"), [(-1, True), (0, True), (1, False)])
def test_entry_stays_for_a_crl_lifetime_after_the_end(age: int, *, is_listed: bool) -> None:
    """A CRL after the end of the certificate contains it (RFC 5280 3.3); without keys, every CRL does."""
    window = NOW.replace(minute=30, second=0, microsecond=0)
    last = window - timedelta(days=1, minutes=age, seconds=1)
    numbers = SerialNumbers(factories.SERIAL_KEYS, factories.create_issuer().certificate)
    number = numbers.create(7, last - timedelta(days=30), last)
    entry = RevokedCertificate(number, AT - timedelta(days=7))
    for serial_keys in (factories.SERIAL_KEYS, None):
        authority = factories.authority(load_revoked=lambda: by_serial_number(entry), serial_keys=serial_keys)
        assert [item.serial_number for item in authority.status.current_crl()] == (
            [number] if is_listed or not serial_keys else []
        )


def test_crl_does_not_outlive_its_issuer() -> None:
    """nextUpdate is not after the chain's end; outside the chain's validity no CRL is signed."""
    issuer = factories.create_issuer()
    crl = create_authority(issuer, issuer.not_after - timedelta(hours=1)).status.current_crl()
    assert crl.next_update_utc == issuer.not_after
    for moment in (issuer.not_after + timedelta(seconds=1), issuer.not_before - timedelta(seconds=1)):
        with pytest.raises(CAUnavailable, match="not valid now"):
            create_authority(issuer, moment).status.current_crl()


def test_ca_without_crl_sign_has_no_crl() -> None:
    """RFC 5280 4.2.1.3: a CA without cRLSign issues certificates, but no CRL."""
    issuer = Issuer(factories.root(usage=factories.key_usage("key_cert_sign")), [], ROOT)
    with pytest.raises(CAUnavailable) as refusal:
        create_authority(issuer, NOW).status.current_crl()
    assert "may not sign CRLs" in str(refusal.value.__cause__)


def test_merged_list_has_the_earlier_of_two_entries() -> None:
    """It is the same object until one of the lists is another object."""
    earlier = replace(STOLEN, revoked_at=STOLEN.revoked_at - timedelta(days=1), reason=None)
    other = RevokedCertificate(99, NOW)
    lists = [by_serial_number(STOLEN), by_serial_number(earlier, other)]
    merged = MergedList(lambda: lists[0], lambda: lists[1])
    first = merged.load()
    assert first == by_serial_number(earlier, other)
    assert merged.load() is first
    lists.reverse()
    assert merged.load() == first
    lists[:] = [lists[0], {}]
    assert merged.load() == lists[0]
    assert MergedList(lambda: lists[0]).load() is lists[0]
    assert MergedList(dict, dict).load() == {}


def test_error_of_a_merged_list_is_raised() -> None:
    """A list that is not available does not hide its entries."""
    merged = MergedList(dict, Mock(side_effect=[{}, CAUnavailable("gone"), by_serial_number(STOLEN)]))
    assert merged.load() == {}
    with pytest.raises(CAUnavailable):
        merged.load()
    assert merged.load() == by_serial_number(STOLEN)


def test_crl_with_too_many_entries_is_refused() -> None:
    """Two lists may have more entries than a response of Lambda can carry."""
    entries = [RevokedCertificate(number, NOW) for number in range(1, revocation.MAX_ENTRIES + 2)]
    with pytest.raises(ValueError, match="80001 entries; at most 80000 are accepted"):
        revocation.crl_builder(entries, 1, NOW + timedelta(days=1))
