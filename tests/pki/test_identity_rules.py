from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import openapi
from service.overrides import verify_policy
from service.pki.identity_rules import IdentityRule, parse_rule
from service.pki.name_policy import DnsPolicy, NamePolicy, UriPolicy
from service.pki.policy_parser import ProfileError
from service.pki.profile_loader import IssuancePolicy
from tests import factories

RULE: dict[str, Any] = {
    "issuer": "https://token.actions.githubusercontent.com",
    "audience": "https://ca.example.com",
    "algorithms": ["RS256"],
    "jwks_url": "https://token.actions.githubusercontent.com/.well-known/jwks",
    "claims": {"/repository_id": "74", "/ref": "refs/heads/main"},
    "profiles": ["server"],
    "names": {"dns": {"permitted": ["{/environment}.ci.example.com"]}},
}
CLAIMS = {"repository_id": "74", "ref": "refs/heads/main", "environment": "prod"}
PROFILE = {**factories.document()[openapi.PROFILES]["server"], "certificate_policies": []}


def policy(rule: object, name: str = "ci", **profile: object) -> IssuancePolicy:
    return IssuancePolicy({"server": PROFILE | profile, "other": PROFILE}, "server", {}, {name: rule})


def without(*members: str) -> dict[str, Any]:
    return {member: value for member, value in RULE.items() if member not in members}


def test_rule_is_parsed() -> None:
    """Every member is parsed to its value; an optional member has a default."""
    (rule,) = policy(RULE).identities
    assert rule == IdentityRule(
        name="ci",
        issuer=RULE["issuer"],
        audience=RULE["audience"],
        algorithms=("RS256",),
        jwks_url=RULE["jwks_url"],
        jwks_file="",
        ca_file="",
        claims=RULE["claims"],
        max_age=timedelta(hours=1),
        is_once=False,
        profiles=("server",),
        names=NamePolicy(dns=DnsPolicy(permitted=("{/environment}.ci.example.com",))),
    )
    change = {"ca_file": "corp.pem", "max_age": "PT5M", "once": True, "claims": {"/a": 1, "/b": True}}
    (rule,) = policy(RULE | change).identities
    assert (rule.ca_file, rule.max_age, rule.is_once) == ("corp.pem", timedelta(minutes=5), True)
    assert policy(without("jwks_url") | {"jwks_file": "keys.json"}).identities[0].jwks_file == "keys.json"


def test_rules_keep_their_order() -> None:
    """The first that matches applies."""
    rules = dict.fromkeys(("z", "a", "m"), RULE)
    identities = IssuancePolicy({"server": PROFILE}, "server", {}, rules).identities
    assert [rule.name for rule in identities] == ["z", "a", "m"]
    assert IssuancePolicy({"server": PROFILE}, "server").identities == ()


@pytest.mark.parametrize("member", ["issuer", "audience", "algorithms", "claims", "profiles", "names", "jwks_url"])  # fmt: skip
def test_rule_without_a_required_member_is_refused(member: str) -> None:
    """In particular without audience, and if that is misspelt."""
    for misspelt in ({}, {member.upper(): RULE[member]}, {f"{member}s": RULE[member]}):
        with pytest.raises(ProfileError, match=rf"identities\.ci: (missing: )?.*{member}"):
            policy(without(member) | misspelt)


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"audiance": "x"}, "audiance", "unknown key; known: issuer, audience, "),
        ({"sub": "x"}, "sub", "unknown key"),
        ({"audience": ["https://ca.example.com"]}, "audience", "is not of the type"),
        ({"audience": ""}, "audience", "is not 1 to 2048 printable ASCII characters"),
        ({"audience": "https://*.example.com"}, "audience", "compared exactly"),
        ({"issuer": "https://.*"}, "issuer", "compared exactly"),
        ({"issuer": "https://ex\u0430mple.com"}, "issuer", "printable ASCII"),
        ({"issuer": "https://example.com\n"}, "issuer", "printable ASCII"),
        ({"algorithms": []}, "algorithms", "the list is empty"),
        ({"algorithms": ["RS256", "RS256"]}, "algorithms", "listed twice"),
        *[({"algorithms": [name]}, "algorithms.0", "is not an asymmetric algorithm") for name in ("HS256", "none", "rs256", "RS1", "ES256K")],
        ({"jwks_file": "keys.json"}, "", "exactly one of jwks_url and jwks_file"),
        *[({"jwks_url": url}, "jwks_url", "is not an https URL") for url in ("http://example.com/keys", "https://", "https:///keys", "HTTPS://example.com", "https://a@example.com/", "https://example.com/#a", "https://example.com/ a", "https://example.com\n", "https://example.com:99999/", "https://[::1/", "file:///keys.json", "")],
        ({"ca_file": ""}, "ca_file", "1 to 2048"),
        ({"claims": {}}, "claims", "at least one claim is required"),
        ({"claims": {"sub": "x"}}, "claims.sub", "is not a JSON pointer"),
        ({"claims": {"": "x"}}, "claims.", "is not a JSON pointer"),
        *[({"claims": {f"/{name}": "x"}}, f"claims./{name}", "is not a claim to compare") for name in ("iss", "aud", "aud/0", "exp", "nbf", "iat")],
        *[({"claims": {"/sub": value}}, "claims./sub", "looks like a pattern, but values are compared exactly") for value in ("repo:a/b:*", "*", "^repo", "main$", "refs/.*", "a*b")],
        *[({"claims": {"/sub": value}}, "claims./sub", "claims are compared with text, an integer, true or false") for value in (None, 7.0, 7.5, ["x"], {"a": "x"})],
        ({"max_age": "1y"}, "max_age", "a duration"),
        ({"max_age": 3600}, "max_age", "type"),
        ({"max_age": "PT0S"}, "max_age", "is not between a minute and 30 days"),
        ({"max_age": "31d"}, "max_age", "is not between a minute and 30 days"),
        ({"once": "yes"}, "once", "type"),
        ({"once": 1}, "once", "type"),
        ({"profiles": []}, "profiles", "the list is empty"),
        ({"profiles": "server"}, "profiles", "type"),
        ({"profiles": ["server", "server"]}, "profiles", "listed twice"),
        ({"profiles": ["server", "Server"]}, "profiles.1", "profile 'Server' does not exist; use one of: server, other"),
        ({"names": {"dns": {"permitted": ["{/x}"]}}}, "names.dns.permitted.0", "has no fixed domain"),
        ({"names": {"dns": {"permitted": []}}}, "names.dns.permitted", "the list is empty"),
        ({"names": {"dns": {"permit": ["a.example.com"]}}}, "names.dns.permit", "unknown key"),
        ({"names": {"dns": {"excluded": ["{/x}.example.com"]}}}, "names.dns.excluded.0", "is not a DNS name"),
        ({"names": {"uri": {"permitted": ["{/x}"]}}}, "names.uri.permitted.0", "only in a path"),
        ({"names": {"uri": {"hosts": ["{/x}.example.com"]}}}, "names.uri.hosts.0", "is not a DNS name"),
        ({"names": {"email": {"permitted": ["{/x}.example.com"]}}}, "names.email.permitted.0", "is not a DNS name"),
        ({"names": {"ip": {"permitted": ["{/x}"]}}}, "names.ip.permitted.0", ""),
    ],
)  # fmt: skip
def test_invalid_rule_is_refused(change: dict[str, Any], path: str, message: str) -> None:
    """The core refuses it without the schema, and so does the schema or the core for the operator's file."""
    with pytest.raises(ProfileError) as refusal:
        policy(RULE | change)
    (violation,) = refusal.value.violations
    assert ".".join(map(str, violation.path)) == ("identities.ci." + path if path else "identities.ci")
    assert message in violation.detail
    data = {"profiles": {"server": PROFILE}, "default": "server", "principals": {}}
    with pytest.raises(ProfileError, match=r"^identities\.ci"):
        verify_policy(data | {"identities": {"ci": RULE | change}})


def test_ca_file_without_url_is_refused() -> None:
    """It would have no effect."""
    with pytest.raises(ProfileError, match=r"identities\.ci\.ca_file: allowed only with jwks_url"):
        policy(without("jwks_url") | {"jwks_file": "keys.json", "ca_file": "corp.pem"})


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a:b", "a.b", "a" * 33, "a\n", "\u0430"])
def test_malformed_name_of_a_rule_is_refused(name: str) -> None:
    """The name is part of the principal's."""
    with pytest.raises(ProfileError, match="lower-case letters"):
        policy(RULE, name)


@pytest.mark.parametrize(
    ("claims", "differing"),
    [
        ({"/a": "74"}, []),
        ({"/a": 74}, ["/a"]),
        ({"/n": 1}, []),
        ({"/n": True}, ["/n"]),
        ({"/n": "1"}, ["/n"]),
        ({"/f": 1}, ["/f"]),
        ({"/t": True}, []),
        ({"/t": 1}, ["/t"]),
        ({"/t": "true"}, ["/t"]),
        ({"/nested/a": "x"}, []),
        ({"/nested/b": "x"}, ["/nested/b"]),
        ({"/nested": "x", "/none": "None", "/a": "74"}, ["/nested", "/none"]),
        ({"/a": "74 "}, ["/a"]),
        ({"/main": "Main"}, ["/main"]),
        ({"/main": "m\u0430in"}, ["/main"]),
        ({"/list": "x"}, ["/list"]),
        ({"/list/0": "x"}, ["/list/0"]),
        ({"/A": "74"}, ["/A"]),
    ],
)
def test_claims_are_compared_with_their_types(claims: dict[str, Any], differing: list[str]) -> None:
    """True is not 1, 1 is not 1.0, and '74' is not 74."""
    rule = policy(RULE | {"claims": claims}).identities[0]
    token = {"a": "74", "n": 1, "f": 1.0, "t": True, "nested": {"a": "x"}, "none": None, "main": "main", "list": ["x"]}  # fmt: skip
    assert rule.find_differing_claims(token) == differing


def test_names_are_expanded() -> None:
    """Only the permitted names change."""
    names = {
        "dns": {"permitted": ["{/environment}.ci.example.com", "a.example.com"], "excluded": ["x.example.com"], "wildcards": True},
        "ip": {"permitted": ["10.0.0.0/8"]},
        "uri": {"permitted": ["spiffe://example.com/{/ref2}"], "schemes": ["spiffe"]},
    }  # fmt: skip
    rule = policy(RULE | {"names": names}).identities[0]
    expanded = rule.expand_names(CLAIMS | {"ref2": "A.b"})
    assert expanded.dns == DnsPolicy(("prod.ci.example.com", "a.example.com"), ("x.example.com",), wildcards=True)  # fmt: skip
    assert expanded.ip == rule.names.ip
    assert expanded.uri == UriPolicy(("spiffe",), (), ("spiffe://example.com/A.b",))
    assert policy(RULE | {"names": {}}).identities[0].expand_names({}) == NamePolicy()


@pytest.mark.parametrize("value", [None, 7, "a.b", ""])
def test_claim_that_names_may_not_contain_is_an_error(value: object) -> None:
    """There is no certificate, rather than fewer or other names."""
    names = {"dns": {"permitted": ["{/environment}.ci.example.com", "a.example.com"]}}
    rule = policy(RULE | {"names": names}).identities[0]
    with pytest.raises(ValueError, match=r"^the claim /environment "):
        rule.expand_names({"environment": value})


@pytest.mark.parametrize(
    ("principals", "is_permitted"),
    [(["*"], True), (["oidc:ci"], True), (["ops", "oidc:ci"], True), (["ops"], False), (["ci"], False), ([], False)],
)  # fmt: skip
def test_profile_has_to_permit_the_rule(principals: list[str], is_permitted: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A rule that lists a profile which refuses it is an error, not a refusal of each request."""
    if is_permitted:
        profiles = policy(RULE, principals=principals)
        assert profiles.get("server").permits_principal("oidc:ci")
        return
    with pytest.raises(ProfileError, match=r"identities\.ci\.profiles\.0: principals of profile 'server'"):
        policy(RULE, principals=principals)


def test_principal_of_a_token_uses_only_the_profiles_of_its_rule() -> None:
    """Also of those that permit everyone; the principal of an unknown rule uses none."""
    profiles = policy(RULE)
    permitted = {
        principal: [profile.name for profile in profiles if profile.permits_principal(principal)]
        for principal in ("oidc:ci", "oidc:other", "oidc:", "oidc:ci ", "ci", "server")
    }
    assert permitted == {
        "oidc:ci": ["server"],
        "oidc:other": [],
        "oidc:": [],
        "oidc:ci ": [],
        "ci": ["server", "other"],
        "server": ["server", "other"],
    }


@pytest.mark.parametrize("principal", ["oidc:cd", "oidc:", "oidc:CI"])
def test_principal_of_an_unknown_rule_is_refused(principal: str) -> None:
    """A misspelt limit would have no effect."""
    profiles = {"server": PROFILE, "other": PROFILE | {"principals": ["ops", principal]}}
    with pytest.raises(ProfileError) as refusal:
        IssuancePolicy(profiles, "server", {principal: {}}, {"ci": RULE})
    paths = [violation.path for violation in refusal.value.violations]
    assert paths == [("profiles", "other", "principals", 1), ("principals", principal)]


def test_policy_knows_whether_a_rule_needs_a_ledger() -> None:
    """Only rules with `once` do."""
    assert policy(RULE | {"once": True}).once_rule == "ci"
    assert not policy(RULE | {"once": False}).once_rule
    assert not policy(RULE).once_rule


def test_null_in_a_rule_is_refused() -> None:
    """A JSON Merge Patch would remove it, and with it a condition."""
    document = factories.document()
    for change, path in (
        ({"claims": {"/ref": None, "/repository_id": "74"}}, r"claims\./ref"),
        ({"max_age": None}, "max_age"),
        ({"names": {"dns": {"permitted": ["a.example.com"]}, "uri": None}}, r"names\.uri"),
    ):
        with pytest.raises(ProfileError, match=rf"identities\.ci\.{path}"):
            openapi.with_overrides(document, {"identities": {"ci": RULE | change}})
    assert openapi.with_overrides(document, {"identities": {"ci": RULE}})[openapi.IDENTITIES] == {"ci": RULE}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["RS256", "server", "PT1H", "{/x}.ci.example.com", "https://a.example/k", "/sub"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["/sub", "/aud", "dns", "uri", "permitted"]), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*RULE, "jwks_file", "ca_file", "max_age", "once", "audiance"]), JSON_VALUES, max_size=3))  # fmt: skip
def test_any_rule_is_parsed_or_refused(change: dict[str, Any]) -> None:
    """A rule that is accepted has all conditions of its JSON."""
    data = RULE | change
    try:
        rule = policy(data).identities[0]
    except ProfileError as error:
        assert error.violations
        return
    assert data.keys() - {"once", "jwks_file", "ca_file", "max_age"} <= RULE.keys()
    assert (rule.issuer, rule.audience) == (data["issuer"], data["audience"])
    assert (list(rule.algorithms), dict(rule.claims)) == (data["algorithms"], data["claims"])
    assert rule.audience
    assert rule.claims
    assert rule.find_differing_claims({}) == list(data["claims"])


def test_rules_are_not_in_public_documents() -> None:
    """They are in the contract that the service executes, not in API docs, clients or the function's routes."""
    document = openapi.with_overrides(factories.document(), {"identities": {"ci": RULE}})
    assert openapi.parse_policy(document).identities == (parse_rule("ci", RULE),)
    for public in (openapi.public(document), openapi.for_function(document)):
        assert RULE["issuer"] not in json.dumps(public)
        assert "identities" not in json.dumps(public)
