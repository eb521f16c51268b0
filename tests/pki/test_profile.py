from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from service.pki import keys, profile
from service.pki.errors import BadPublicKey, RejectedValidity
from service.pki.keys import KeyKind
from service.pki.name_policy import NamePolicy
from service.pki.profile import Profile, RequestedValidity, Revocation
from tests import csrs, factories, servers

DOCUMENT = factories.document()
NOW = datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=1000)
SERVER = Profile(
    name="server",
    description="x",
    validity=timedelta(days=30),
    max_validity=timedelta(days=90),
    backdate=timedelta(minutes=5),
    extended_key_usage=("serverAuth",),
    names=NamePolicy(),
)


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=9_999)))
def test_durations_round_trip(length: timedelta) -> None:
    """A formatted duration in whole seconds is parsed as the same duration."""
    duration = timedelta(days=length.days, seconds=length.seconds) or timedelta(seconds=1)
    assert profile.parse_duration(profile.format_duration(duration)) == duration


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "P1M", "P1Y", "P1W", "90D", "P-1D", "P1.5D", "P1DT", "p1d", "P999999999D", "999999999d", "P1D\n", "P٣D",
     "30", "d", "30 d", "30d\n", "1y", "30s", "1d12h", "-1d", "1.5d", "٣d", "PT1M1H", "P30", "P30d"],
)  # fmt: skip
def test_malformed_duration_is_refused(text: str) -> None:
    """Years, months, ISO 8601 weeks, fractions, signs and more than eight digits are refused."""
    with pytest.raises(ValueError, match="is not a duration such as 12h"):
        profile.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "iso"),
    [("90m", "PT1H30M"), ("12h", "PT12H"), ("36h", "P1DT12H"), ("30d", "P30D"), ("4w", "P28D")],
)
def test_short_duration_is_accepted(text: str, iso: str) -> None:
    """A number of minutes, hours, days or weeks is the same duration as in ISO 8601."""
    assert profile.parse_duration(text) == profile.parse_duration(iso)
    assert profile.format_duration(profile.parse_duration(text)) == iso


PATTERNS = {
    "request": DOCUMENT["components"]["schemas"]["SignRequest"]["properties"]["validity"]["pattern"],
    "profile": json.loads((servers.ROOT / "service/profiles.schema.json").read_text())["$defs"]["duration"]["pattern"],
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@given(
    text=st.from_regex(profile.DURATION, fullmatch=True, alphabet=st.characters(codec="ascii"))
    | st.text("PTDHMSdhmwy019 .-\n")
    | st.text(max_size=5)
)
def test_schemas_describe_exactly_the_accepted_durations(pattern: str, text: str) -> None:
    """A text matches the patterns of the contract and of the profiles' schema if, and only if, it is parsed."""
    assert pattern == profile.DURATION.pattern
    try:
        profile.parse_duration(text)
    except ValueError:
        assert not re.fullmatch(pattern, text)
    else:
        assert re.fullmatch(pattern, text)


def test_validity_period_is_inclusive_and_in_whole_seconds() -> None:
    """not_after is the last second of the period: both ends are included (RFC 5280 4.1.2.5)."""
    start, end = SERVER.validity_period(NOW, LONG_AGO, RequestedValidity())
    assert start == datetime(2026, 1, 1, 11, 55, tzinfo=UTC)
    assert end - start + timedelta(seconds=1) == timedelta(days=30)


def test_not_before_never_precedes_the_chain() -> None:
    """A certificate is backdated at most to the start of the chain's validity."""
    earliest = NOW.replace(microsecond=0) - timedelta(seconds=7)
    assert SERVER.validity_period(NOW, earliest, RequestedValidity())[0] == earliest


@pytest.mark.parametrize(
    ("requested", "length"),
    [
        (RequestedValidity(timedelta(days=90)), timedelta(days=90)),
        (RequestedValidity(timedelta(minutes=6)), timedelta(minutes=6)),
        (RequestedValidity(timedelta(minutes=6, seconds=1)), timedelta(minutes=6, seconds=1)),
        (RequestedValidity(not_after=datetime(2026, 1, 2, 11, 54, 59, tzinfo=UTC)), timedelta(days=1)),
        (RequestedValidity(not_after=datetime(2026, 4, 1, 11, 54, 59, tzinfo=UTC)), timedelta(days=90)),
    ],
)
def test_shorter_validity_is_granted(requested: RequestedValidity, length: timedelta) -> None:
    """A length or an end is granted up to the profile's maximum, if at least a minute is left."""
    start, end = SERVER.validity_period(NOW, LONG_AGO, requested)
    assert end - start + timedelta(seconds=1) == length


@pytest.mark.parametrize(
    ("requested", "field", "fragment"),
    [
        (RequestedValidity(timedelta(days=90, seconds=1)), "validity", "allows up to P90D, until 2026-04-01T11:54:59Z"),
        (RequestedValidity(profile.parse_duration("99999999w")), "validity", "allows up to P90D, until 2026-04-01"),
        (RequestedValidity(not_after=datetime(2026, 4, 1, 11, 55, tzinfo=UTC)), "not_after", "allows up to P90D"),
        (RequestedValidity(timedelta(minutes=5)), "validity", "less than a minute would be left; it starts at 2026-01-01T11:55:00Z"),
        (RequestedValidity(timedelta()), "validity", "less than a minute"),
        (RequestedValidity(not_after=NOW), "not_after", "less than a minute would be left; request more$"),
        (RequestedValidity(not_after=datetime(1, 1, 1, tzinfo=UTC)), "not_after", "less than a minute"),
        (RequestedValidity(timedelta(days=1), NOW + timedelta(days=1)), "validity", "both"),
    ],
)  # fmt: skip
def test_validity_out_of_bounds_is_refused(requested: RequestedValidity, field: str, fragment: str) -> None:
    """A validity is refused if it is too long, leaves less than a minute, or is requested twice."""
    with pytest.raises(RejectedValidity, match=fragment) as refusal:
        SERVER.validity_period(NOW, LONG_AGO, requested)
    assert refusal.value.field == field


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_not_after_is_utc_in_any_time_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """RFC 3339 with Z and whole seconds is required; other forms that Python accepts are refused."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        requested = RequestedValidity.parse(None, "2026-12-01T00:00:00Z")
        assert requested.not_after == datetime(2026, 12, 1, tzinfo=UTC)
        for text in (
            "2026-12-01", "2026-W49", "20261201T0000", "2026-12-01T00:00:00", "2026-12-01X00:00:00Z", "", "2026-12-01T00:00:00+00:00",
            "2026-12-01T00:00:00.5Z", "2026-02-30T00:00:00Z", "2026-12-01T24:00:01Z", "0000-01-01T00:00:00Z", "\u0662026-12-01T00:00:00Z",
        ):  # fmt: skip
            with pytest.raises(RejectedValidity, match="is not a time in UTC") as refusal:
                RequestedValidity.parse(None, text)
            assert refusal.value.field == "not_after"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
def test_key_usage_depends_on_the_key_type(key_type: str) -> None:
    """keyEncipherment is only for RSA (RFC 8813 3, RFC 9881 5); digitalSignature is for all keys."""
    usage = profile.key_usage(keys.kind_of(csrs.private_key(key_type).public_key()))
    assert usage.digital_signature
    assert usage.key_encipherment is key_type.startswith("rsa")
    assert not usage.key_cert_sign
    assert not usage.crl_sign
    assert not usage.key_agreement


@pytest.mark.parametrize(
    ("accepted_key", "key_type", "fits"),
    [
        *[((KeyKind.RSA, 3072), f"rsa-{bits}", bits >= 3072) for bits in (2048, 3072, 4096)],
        *[
            ((KeyKind.P256, 0), key_type, key_type == "p-256")
            for key_type in ("p-256", "p-384", "rsa-2048", "ml-dsa-44")
        ],
    ],
)
def test_profile_accepts_its_key_types(
    accepted_key: tuple[KeyKind, int], key_type: str, *, fits: bool
) -> None:
    """A profile accepts the key types that it lists, and RSA keys from the minimum size."""
    server = replace(SERVER, public_keys=(accepted_key,))
    if fits:
        server.verify_key(csrs.private_key(key_type).public_key())
        return
    with pytest.raises(BadPublicKey) as refusal:
        server.verify_key(csrs.private_key(key_type).public_key())
    assert (
        f"does not accept {key_type} keys; it accepts {accepted_key[0]}".lower()
        in refusal.value.detail.lower()
    )
    assert refusal.value.field == "public_key"


@pytest.mark.parametrize(
    ("revocation", "short_lived", "length", "asserted"),
    [
        (Revocation.NONE, 7, timedelta(days=7), True),
        (Revocation.NONE, 7, timedelta(days=7, seconds=1), False),
        (Revocation.NONE, 0, timedelta(minutes=6), False),
        (Revocation.NONE, 30, timedelta(days=30), True),
        (Revocation.CRL, 7, timedelta(days=1), False),
    ],
)
def test_short_lived_certificates_assert_no_rev_avail(
    revocation: Revocation, short_lived: int, length: timedelta, *, asserted: bool
) -> None:
    """RFC 9608: noRevAvail is for a validity, both ends included, of at most `short_lived`, without a CRL."""
    server = replace(SERVER, revocation=revocation, short_lived=timedelta(days=short_lived))
    assert server.asserts_no_rev_avail(NOW, NOW + length - timedelta(seconds=1)) is asserted


def test_extended_key_usage_is_a_name_or_an_oid() -> None:
    """A usage without a name in RFC 5280 is written as its OID."""
    server = replace(SERVER, extended_key_usage=("serverAuth", "1.3.6.1.5.2.3.5"))
    assert [usage.dotted_string for usage in server.extended_key_usage_oids] == [
        "1.3.6.1.5.5.7.3.1",
        "1.3.6.1.5.2.3.5",
    ]
    assert profile.eku_oid("clientAuth") == ExtendedKeyUsageOID.CLIENT_AUTH


@pytest.mark.parametrize(
    ("usage", "is_server"),
    [
        ("serverAuth", True),
        ("1.3.6.1.4.1.311.10.3.3", True),
        ("2.16.840.1.113730.4.1", True),
        ("clientAuth", False),
        ("1.3.6.1.5.2.3.5", False),
    ],
)
def test_profile_is_for_tls_servers_by_serverauth_or_gated_cryptography(
    usage: str, *, is_server: bool
) -> None:
    """OpenSSL and Java accept the gated cryptography of the 1990s in place of serverAuth."""
    assert replace(SERVER, extended_key_usage=(usage,)).is_tls_server is is_server


@pytest.mark.parametrize(
    ("principals", "caller", "permitted"),
    [(("*",), "anyone", True), (("ci",), "ci", True), (("ci",), "CI", False), (("ci", "*"), "x", True), ((), "ci", False)],
)  # fmt: skip
def test_profile_permits_its_principals(principals: tuple[str, ...], caller: str, *, permitted: bool) -> None:
    """A profile permits the principals that it lists; `*` permits every principal."""
    assert replace(SERVER, principals=principals).permits_principal(caller) is permitted


@pytest.mark.parametrize(
    ("name", "text", "violation"),
    [
        ("CN", "a" * 64, ""),
        *[(name, "a" * length, f"has {length} characters") for name, length in (("CN", 65), ("CN", 0), ("O", 65), ("L", 129))],
        *[("CN", text, "control character") for text in ("a\nb", "a\x00b", "\u2028")],
        ("L", "Zürich", ""),
        ("C", "CH", ""),
        *[("C", text, "country code") for text in ("ch", "CHE")],
        ("serialNumber", "A-7", ""),
        ("serialNumber", "7_7", "PrintableString"),
    ],
)  # fmt: skip
def test_subject_attribute_limits_are_enforced(name: str, text: str, violation: str) -> None:
    """The bounds of RFC 5280 A.1, in characters; C is by ISO 3166, serialNumber a PrintableString."""
    message = profile.check_subject_attribute(name, text)
    assert violation in message
    assert bool(message) is bool(violation)


STATUS_URL = "http://ca.example.com"


def service_profile(**change: Any) -> Profile:
    """A profile with `revocation: service`, valid for 90 days."""
    length = timedelta(days=90)
    defaults = {"revocation": Revocation.SERVICE, "validity": length, "max_validity": length}
    return replace(SERVER, **{**defaults, **change})


def test_certificates_of_a_service_with_status_url_can_be_revoked() -> None:
    """They name its CRL, OCSP (if it has serial numbers that it recognises) and issuer's certificate."""
    profile = service_profile().with_status_url(STATUS_URL, has_ocsp=True)
    assert (profile.revocation, profile.max_validity) == (Revocation.CRL, timedelta(days=90))
    assert (profile.crl, profile.ocsp, profile.ca_issuers) == (
        f"{STATUS_URL}/crl/{{key_id}}",
        f"{STATUS_URL}/ocsp",
        f"{STATUS_URL}/issuer/{{key_id}}",
    )
    assert service_profile().with_status_url(STATUS_URL, has_ocsp=False).ocsp == ""
    own = service_profile(ca_issuers="http://a.example/ca.p7c").with_status_url(STATUS_URL, has_ocsp=True)
    assert own.ca_issuers == "http://a.example/ca.p7c"


def test_certificates_of_a_service_without_status_url_are_short_lived() -> None:
    """They are valid for at most `short_lived`, and a request for more is refused with what to do."""
    profile = service_profile().with_status_url("", has_ocsp=True)
    assert (profile.revocation, profile.crl, profile.ocsp, profile.ca_issuers) == (
        Revocation.NONE,
        "",
        "",
        "",
    )
    assert (profile.validity, profile.max_validity) == (timedelta(days=7),) * 2
    for name, hint in ((profile, "set a status URL"), (SERVER, "until ")):
        request = RequestedValidity(name.max_validity + timedelta(days=1))
        with pytest.raises(RejectedValidity, match=hint) as caught:
            name.validity_period(NOW, NOW, request)
        assert ("status URL" in str(caught.value)) is (name is profile)
    shorter = service_profile(validity=timedelta(hours=1)).with_status_url("", has_ocsp=True)
    assert (shorter.validity, shorter.max_validity) == (timedelta(hours=1), timedelta(days=7))


@pytest.mark.parametrize("revocation", [Revocation.NONE, Revocation.CRL])
def test_status_url_does_not_change_other_profiles(revocation: Revocation) -> None:
    profile = service_profile(revocation=revocation)
    assert profile.with_status_url(STATUS_URL, has_ocsp=True) is profile
    assert profile.with_status_url("", has_ocsp=True) is profile
