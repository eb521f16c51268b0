from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pki import profile
from service.pki.errors import UnknownProfile
from service.pki.profile import ProfileError, Profiles
from tests import authorities, csrs

GOOD: dict[str, Any] = {
    "description": "x",
    "validity": "P90D",
    "backdate": "PT5M",
    "extended_key_usage": ["serverAuth"],
    "names": ["dns"],
}


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=9_999)))
def test_durations_round_trip(length: timedelta) -> None:
    """A duration in whole seconds is read back as it was written."""
    whole = timedelta(days=length.days, seconds=length.seconds) or timedelta(seconds=1)
    assert profile.duration(profile.iso8601(whole)) == whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "P",
        "PT",
        "P1M",
        "P1Y",
        "P1W",
        "90D",
        "P-1D",
        "P1.5D",
        "P1DT",
        "p1d",
        "P99999D",
        "P9" + "9" * 40 + "D",
    ],
)
def test_other_durations_are_refused(text: str) -> None:
    """Years, months, weeks, fractions, signs and absurd lengths are no durations here."""
    with pytest.raises(ValueError, match="is"):
        profile.duration(text)


def test_the_period_is_inclusive_and_whole_seconds() -> None:
    """not_after is the last second of the period, so that both ends count (RFC 5280 4.1.2.5)."""
    chosen = Profiles({"server": GOOD}, "server").named(None)
    now = datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=UTC)
    start, end = chosen.period(now, now - timedelta(days=1))
    assert start == datetime(2026, 1, 1, 11, 55, tzinfo=UTC)
    assert end - start + timedelta(seconds=1) == timedelta(days=90)


def test_not_before_never_precedes_the_chain() -> None:
    """The backdate is cut where the issuer's chain begins."""
    chosen = Profiles({"server": GOOD}, "server").named(None)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert chosen.period(now, now - timedelta(seconds=7))[0] == now - timedelta(seconds=7)


@pytest.mark.parametrize("kind", csrs.KINDS)
def test_key_usage_follows_the_kind_of_key(kind: str) -> None:
    """keyEncipherment is for RSA alone (RFC 8813 3, RFC 9881 5); digitalSignature for all."""
    usage = Profiles({"server": GOOD}, "server").named(None).key_usage(csrs.key(kind).public_key())
    assert usage.digital_signature
    assert usage.key_encipherment is kind.startswith("rsa")
    assert not usage.key_cert_sign
    assert not usage.crl_sign
    assert not usage.key_agreement


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"validity": "P1Y"}, "validity"),
        ({"backdate": "x"}, "backdate"),
        ({"validity": "PT5M"}, "less than a minute"),
        ({"extended_key_usage": ["codeSigning"]}, "codeSigning"),
        ({"extended_key_usage": []}, "extended_key_usage"),
        ({"extended_key_usage": ["serverAuth", "serverAuth"]}, "different"),
        ({"names": ["dn"]}, "dn"),
        ({"names": "dns"}, "list"),
        ({"colour": "red"}, "colour unknown"),
    ],
)
def test_a_malformed_profile_is_refused(change: dict[str, Any], word: str) -> None:
    """Every member of a profile is checked when the profiles are read."""
    with pytest.raises(ProfileError, match=word):
        Profiles({"server": GOOD | change}, "server")


def test_all_faults_of_all_profiles_at_once() -> None:
    """One refusal names every fault, of every profile, and a default that is none."""
    with pytest.raises(ProfileError) as refusal:
        Profiles({"a": GOOD | {"validity": "x"}, "B!": {}}, "c")
    for word in ("profile a: validity", "profile B!: the name", "missing", "default profile 'c'"):
        assert word in str(refusal.value)


def test_profiles_by_name() -> None:
    """None means the default profile; an unknown name is refused with the names that there are."""
    profiles = authorities.profiles()
    assert profiles.named(None).name == "server"
    assert profiles.named("peer").name == "peer"
    with pytest.raises(UnknownProfile, match="server, client, peer"):
        profiles.named("admin")
