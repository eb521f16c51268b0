from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from service import check
from service.pki.errors import UnknownProfile
from service.pki.policy import ProfileError, Profiles
from service.pki.profile import Revocation
from tests import authorities

GOOD: dict[str, Any] = {
    "description": "x",
    "validity": "P90D",
    "backdate": "PT5M",
    "extended_key_usage": ["serverAuth"],
    "names": {"dns": {}},
}
OWN = "1.3.6.1.4.1.32473.9"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_validity": "P365D"},
        {"short_lived": "P1D"},
        {"subject": {"allowed": ["CN", "O", "OU"], "fixed": {"C": "CH"}}},
        {"subject": {}},
        {"public_keys": ["RSA-3072", "P-256", "Ed25519", "ML-DSA-65"]},
        {"public_keys": ["RSA"]},
        {"extensions": ["tlsFeature", "1.3.6.1.4.1.99999.1"]},
        {"certificate_policies": [OWN, "2.23.140.1.2.1"]},
        {"ca_issuers": "http://ca.example/ca.crt"},
        {"revocation": "crl", "crl": "http://ca.example/ca.crl"},
        {"principals": ["ci", "*"]},
        {"principals": []},
        {"extended_key_usage": ["1.3.6.1.5.2.3.5"]},
        {"extended_key_usage": ["codeSigning", "emailProtection"]},
        {"extended_key_usage": ["clientAuth"], "subject": {"fixed": {"CN": "a"}}},
    ],
)  # fmt: skip
def test_a_profile_is_read(change: dict[str, Any]) -> None:
    """Every member, in every form that it has; the JSON Schema takes it too."""
    assert Profiles({"server": GOOD | change}, "server").named("server").name == "server"
    assert schema_takes({"server": GOOD | change})


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"validity": "P1Y"}, "validity", "ISO 8601"),
        ({"validity": 90}, "validity", "ISO 8601"),
        ({"backdate": "x"}, "backdate", "ISO 8601"),
        ({"validity": "PT5M"}, "validity", "less than a minute"),
        ({"max_validity": "P89D"}, "max_validity", "shorter"),
        ({"short_lived": "7"}, "short_lived", "ISO 8601"),
        ({"description": 1}, "description", "text"),
        ({"extended_key_usage": []}, "extended_key_usage", "list of one or more"),
        ({"extended_key_usage": "serverAuth"}, "extended_key_usage", "list of one or more"),
        ({"extended_key_usage": ["anyExtendedKeyUsage"]}, "extended_key_usage.0", "OID"),
        ({"extended_key_usage": ["2.5.29.37.0"]}, "extended_key_usage.0", "not for certificates of an end entity"),
        ({"extended_key_usage": ["1.3.6.1.5.5.7.3.9"]}, "extended_key_usage.0", "not for certificates"),
        ({"extended_key_usage": ["1.3.6.1.5.5.7.3.8"]}, "extended_key_usage.0", "not for certificates"),
        ({"extended_key_usage": ["serverAuth", "serverAuth"]}, "extended_key_usage.1", "twice"),
        ({"extended_key_usage": ["serverAuth", "1.3.6.1.5.5.7.3.1"]}, "extended_key_usage", "by name and by OID"),
        ({"names": ["dns"]}, "names", "mapping"),
        ({"names": {"dn": {}}}, "names.dn", "none of dns, ip, email, uri"),
        ({"names": {"dns": {"permitted": "example.com"}}}, "names.dns.permitted", "list"),
        ({"subject": "CN"}, "subject", "mapping"),
        ({"subject": {"allow": []}}, "subject.allow", "no such member"),
        ({"subject": {"allowed": ["XX"]}}, "subject.allowed", "some of C, ST"),
        ({"subject": {"fixed": {"XX": "a"}}}, "subject.fixed", "some of C, ST"),
        ({"subject": {"fixed": {"C": "Switzerland"}}}, "subject.fixed.C", "country code"),
        ({"subject": {"fixed": {"O": 7}}}, "subject.fixed.O", "text"),
        ({"subject": {"fixed": {"CN": "a"}}}, "subject.fixed.CN", "one of its names"),
        ({"public_keys": []}, "public_keys", "one or more"),
        ({"public_keys": ["RSA-1024"]}, "public_keys.0", "none of RSA-2048"),
        ({"public_keys": ["RSA-99999"]}, "public_keys.0", "none of"),
        ({"public_keys": ["RSA-20480000"]}, "public_keys.0", "none of"),
        ({"public_keys": ["RSA-002048"]}, "public_keys.0", "none of"),
        ({"public_keys": ["RSA-004096123"]}, "public_keys.0", "none of"),
        ({"public_keys": ["secp256k1"]}, "public_keys.0", "none of"),
        ({"public_keys": ["RSA-2048", "RSA-3072"]}, "public_keys", "RSA stands in it twice"),
        ({"extensions": ["basicConstraints"]}, "extensions.0", "OID"),
        ({"extensions": ["2.5.29.19"]}, "extensions.0", "the CA's to say"),
        ({"extensions": ["2.5.29.17"]}, "extensions.0", "the CA's to say"),
        ({"extensions": ["2.5.29.18"]}, "extensions.0", "the CA's to say"),
        ({"extensions": ["2.5.29.56"]}, "extensions.0", "the CA's to say"),
        ({"certificate_policies": ["x"]}, "certificate_policies.0", "OID"),
        ({"certificate_policies": ["1.2.03"]}, "certificate_policies.0", "OID"),
        ({"certificate_policies": ["01.2.3"]}, "certificate_policies.0", "OID"),
        ({"ca_issuers": "HTTP://x/y"}, "ca_issuers", "http or https"),
        ({"ca_issuers": "ldap://x"}, "ca_issuers", "http or https"),
        ({"ca_issuers": "http://a b"}, "ca_issuers", "http or https"),
        ({"ca_issuers": "http://[x"}, "ca_issuers", "http or https"),
        ({"revocation": "ocsp"}, "revocation", "neither none nor crl"),
        ({"revocation": "crl"}, "crl", "a URL for revocation crl"),
        ({"crl": "http://x/y"}, "crl", "and for no other"),
        ({"principals": "ci"}, "principals", "list"),
        ({"principals": [""]}, "principals.0", "name of a principal"),
        ({"principals": [7]}, "principals.0", "'7' is not text"),
        ({"colour": "red"}, "colour", "no such member"),
    ],
)  # fmt: skip
def test_a_malformed_profile_is_refused(change: dict[str, Any], place: str, words: str) -> None:
    """Every member is checked when the profiles are read, and the fault says where it stands."""
    with pytest.raises(ProfileError) as refusal:
        Profiles({"server": GOOD | change}, "server")
    (fault,) = refusal.value.faults
    assert ".".join(map(str, fault.path)) == f"profiles.server.{place}"
    assert words in fault.detail


def test_all_faults_of_all_profiles_at_once() -> None:
    """One refusal names every fault, of every profile, the default and the principals."""
    with pytest.raises(ProfileError) as refusal:
        Profiles(
            {"a": GOOD | {"validity": "x"}, "B!": {}, "d": 7}, "c", {"ci": {"dns": {"permitted": ["-"]}}}
        )
    for words in (
        "profiles.a.validity",
        "profiles.B!: the name",
        "profiles.B!: description, validity",
        "profiles.d: a profile is a mapping",
        "default: 'c' is not among the profiles: a, B!, d",
        "principals.ci.dns.permitted.0",
    ):
        assert words in str(refusal.value)


@pytest.mark.parametrize("name", ["", "*"])
def test_a_principal_has_a_name(name: str) -> None:
    """`*` in a profile is anybody; names are held to one principal, and a rule for nobody would hold nobody."""
    with pytest.raises(
        ProfileError, match=rf"principals.{re.escape(name)}: '{re.escape(name)}' is not the name"
    ):
        Profiles({"server": GOOD}, "server", {name: {"dns": {}}})
    assert Profiles({"server": GOOD}, "server", {"ci": {"dns": {}}}).held_to("ci")


def test_no_two_profiles_have_one_policy_of_their_own() -> None:
    """A certificate is known by its first policy; the others may be shared."""
    first, second = GOOD | {"certificate_policies": [OWN, f"{OWN}.1"]}, GOOD | {"certificate_policies": [OWN]}
    with pytest.raises(ProfileError, match=r"profiles.b.certificate_policies.0: the profile a has it"):
        Profiles({"a": first, "b": second}, "a")
    assert Profiles({"a": first, "b": GOOD | {"certificate_policies": [f"{OWN}.2", f"{OWN}.1"]}}, "a")


def test_profiles_by_name() -> None:
    """None means the default profile; an unknown name is refused with the names that there are."""
    profiles = authorities.profiles()
    assert profiles.named(None).name == profiles.known(None) == "server"
    assert profiles.named("peer").name == "peer"
    assert profiles.known("admin") == ""
    with pytest.raises(UnknownProfile, match="server, client, peer"):
        profiles.named("admin")


def test_warnings() -> None:
    """What nobody can revoke, and lives for more than the profile calls short, is worth a word."""
    crl = {"revocation": "crl", "crl": "http://ca.example/ca.crl"}
    made = Profiles(
        {"long": GOOD, "short": GOOD | {"validity": "P7D"}, "said": GOOD | {"short_lived": "P90D"}, "crl": GOOD | crl}
        | {"most": GOOD | {"validity": "P7D", "max_validity": "P8D"}},
        "long",
    )  # fmt: skip
    assert [name for name, _ in made.warnings()] == ["long", "most"]
    assert made.named("crl").revocation is Revocation.CRL


def schema_takes(stated: object) -> bool:
    """Whether the JSON Schema takes these profiles."""
    document = {"profiles": stated, "default": "server", "principals": {}}
    return bool(Draft202012Validator(check.schema()).is_valid(document))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "P1D", "P٣D", "CN", "crl", "1.2.3", "1.02.3", "http://a/b", "HTTP://a/b", "RSA-2048", "RSA-02048", "RSA-002048"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dns", "permitted", "allowed"]), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*GOOD, "subject", "public_keys", "extensions", "max_validity"] + ["crl", "revocation", "principals"]), JSON, max_size=3))  # fmt: skip
def test_whatever_is_stated_is_read_or_refused(change: dict[str, Any]) -> None:
    """No JSON makes the reader fail otherwise, and what the JSON Schema refuses the reader refuses."""
    try:
        Profiles({"server": GOOD | change}, "server")
    except ProfileError:
        return
    assert schema_takes({"server": GOOD | change})


def test_the_contract_s_profiles_keep_the_schema() -> None:
    """What this package carries is well formed, by the schema and by the reader."""
    assert not list(Draft202012Validator(check.schema()).iter_errors(check.stated(authorities.document())))
