from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from service import openapi
from service.pki.errors import UnknownProfile
from service.pki.keys import KeyKind
from service.pki.name_policy import DnsPolicy, NamePolicy
from service.pki.policy_parser import ProfileError
from service.pki.profile import Profile
from service.pki.profile_loader import Challenge, IssuancePolicy
from tests import factories

GOOD: dict[str, Any] = {**factories.document()[openapi.PROFILES]["server"], "certificate_policies": []}


def test_profile_members_are_parsed() -> None:
    """Every member is parsed to its value; an optional member has a default."""
    required = ("description", "validity", "backdate", "extended_key_usage")
    minimal = {member: GOOD[member] for member in required}
    profile = IssuancePolicy({"a": minimal | {"names": {"dns": {}}}}, "a").get("a")
    assert vars(profile) == vars(
        Profile(
            name="a",
            description=GOOD["description"],
            validity=timedelta(days=90),
            max_validity=timedelta(days=90),
            backdate=timedelta(minutes=5),
            extended_key_usage=("serverAuth",),
            names=NamePolicy(dns=DnsPolicy()),
        )
    )
    change = {
        "subject": {"allowed": ["O"], "fixed": {"C": "CH"}},
        "public_keys": ["RSA-3072", "P-256"],
        "extensions": ["tlsFeature"],
        "certificate_policies": ["1.2.3"],
        "principals": ["ci"],
    }
    profile = IssuancePolicy({"a": GOOD | change}, "a").get("a")
    assert (profile.allowed_attributes, profile.fixed_attributes) == (("O",), (("C", "CH"),))
    assert profile.public_keys == ((KeyKind.RSA, 3072), (KeyKind.P256, 0))
    assert profile.extensions == (x509.TLSFeature.oid,)
    assert profile.certificate_policies == (x509.ObjectIdentifier("1.2.3"),)
    assert profile.principals == ("ci",)


@pytest.mark.parametrize(
    "change",
    [
        *[{member: None} for member in GOOD],
        {"principal": ["ci"]},
        {"principals": "ci"},
        {"principals": None},
        {"public_keys": []},
        {"extended_key_usage": []},
        {"extensions": {"2.5.29.17": 1}},
        {"max_validity": 90},
        {"subject": []},
        {"names": {"dns": None}},
        {"names": {"dns": {"wildcards": "no"}}},
        {"names": {"dns": {"permitted": []}}},
        {"names": {"dns": {"permitted": "a"}}},
        {"names": {"dns": {"exclude": ["a.example"]}}},
        {"names": {"ip": {"permitted": [167772160]}}},
    ],
)  # fmt: skip
def test_malformed_profile_is_an_error_without_the_schema(change: dict[str, Any]) -> None:
    """The core refuses the profile without the schema, which a cold start does not load."""
    with pytest.raises(ProfileError, match=r"^profiles\.a\."):
        IssuancePolicy({"a": GOOD | change}, "a")


@pytest.mark.parametrize("arguments", [([], "a"), ({}, "a"), ({"a": GOOD}, ["a"]), ({"a": GOOD}, "a", []), ({"a": 7}, "a")])  # fmt: skip
def test_malformed_policy_is_an_error_without_the_schema(arguments: tuple[Any, ...]) -> None:
    """The core also refuses malformed profiles, defaults and principals."""
    with pytest.raises(ProfileError):
        IssuancePolicy(*arguments)


def test_policy_of_a_principal_may_require_a_challenge() -> None:
    """It is no kind of name; a principal without a policy needs no challenge."""
    principals = {"proven": {"dns": {}, "challenge": "http-01"}, "ci": {"dns": {}}}
    policy = IssuancePolicy({"a": GOOD}, "a", principals)
    assert policy.challenge_for("proven") is Challenge.HTTP_01
    assert policy.challenge_for("ci") is policy.challenge_for("other") is None
    assert policy.names_permitted_for("proven") == policy.names_permitted_for("ci") is not None
    assert policy.names_permitted_for("other") is None
    assert policy.has_challenges
    assert not IssuancePolicy({"a": GOOD}, "a", {"ci": {"dns": {}}}).has_challenges


def test_operator_is_a_role_of_a_principal() -> None:
    """Other roles are errors."""
    policy = IssuancePolicy({"a": GOOD}, "a", {"ops": {"role": "operator"}, "ci": {"dns": {}}})
    assert [policy.is_operator(name) for name in ("ops", "ci", "other")] == [True, False, False]
    for role in ("admin", "", None, ["operator"]):
        with pytest.raises(ProfileError, match=r"^principals\.ops\.role"):
            IssuancePolicy({"a": GOOD}, "a", {"ops": {"role": role}})


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({}, {}),
        ({"role": "operator"}, None),
        ({"challenge": "http-01"}, None),
        ({"role": "operator", "challenge": "http-01"}, None),
        ({"role": "operator", "ip": {}}, {"ip": {}}),
        ({"challenge": "http-01", "ip": {}}, {"ip": {}}),
    ],
)
def test_policy_without_a_kind_of_name_does_not_limit_names(
    data: dict[str, Any], names: dict[str, Any] | None
) -> None:
    """The profiles decide then; only a policy without any member permits no names."""
    policy = IssuancePolicy({"a": GOOD}, "a", {"ci": data}).names_permitted_for("ci")
    assert (policy and policy.to_dict()) == names


@pytest.mark.parametrize("challenge", ["dns-01", "", None, ["http-01"], True])
def test_unknown_challenge_is_an_error_without_the_schema(challenge: object) -> None:
    """Otherwise, a misspelt challenge would not be required."""
    with pytest.raises(ProfileError, match=r"^principals\.ci\.challenge"):
        IssuancePolicy({"a": GOOD}, "a", {"ci": {"dns": {}, "challenge": challenge}})


def test_profile_is_found_by_name() -> None:
    """None is the default profile; the error for an unknown name lists the profiles."""
    profiles = factories.profiles()
    assert profiles.get(None).name == profiles.resolve_name(None) == "server"
    assert profiles.get("peer").name == "peer"
    assert profiles.resolve_name("admin") == ""
    with pytest.raises(UnknownProfile, match="server, client, peer"):
        profiles.get("admin")
