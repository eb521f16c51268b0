from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import api_gateway, openapi
from service.overrides import OverridesError, YAMLSource, merge_patch, verify_policy
from service.pki.policy_parser import ProfileError
from service.pki.profile_loader import IssuancePolicy
from tests import factories

GOOD: dict[str, Any] = factories.document()[openapi.PROFILES]["server"]

RULE = "<<: {issuer: x, algorithms: [ES256], jwks_file: k.json, claims: {/sub: x}, profiles: [server], names: {}}"
RULE_KEYS = (
    "issuer, audience, algorithms, jwks_url, jwks_file, ca_file, claims, max_age, once, profiles, names"
)

TEXT = """\
profiles:
  server: &server
    validity: P1D
    names: {dns: {permitted: [a.example,
      b.example]}}
  team:
    <<: [*server, {validity: P2D, backdate: PT1M}]
    description: x
"""


def test_yaml_source_locates_every_value() -> None:
    """The line of a member is that of its key; a merged member (`<<`) has the line where it is defined."""
    source = YAMLSource(TEXT)
    names = {"dns": {"permitted": ["a.example", "b.example"]}}
    server = {"validity": "P1D", "names": names}
    team = {"description": "x", **server, "backdate": "PT1M"}
    assert source.data == {"profiles": {"server": server, "team": team}}
    for path, line in (
        ((), 1),
        (("profiles", "server"), 2),
        (("profiles", "server", "names", "dns", "permitted", 0), 4),
        (("profiles", "server", "names", "dns", "permitted", 1), 5),
        (("profiles", "team", "description"), 8),
        (("profiles", "team", "validity"), 3),
        (("profiles", "team", "backdate"), 7),
    ):
        assert source.lines[path] == source.locate((*path, "absent")) == line


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [\n", 3, "not YAML"),
        ("default:\tclient", 1, "not YAML"),
        ("a: \x07", 1, "not YAML"),
        ("a: &a {b: *a}", 1, "nested too deeply"),
        ("a: &a {b: {<<: *a}}", 1, "nested too deeply"),
        pytest.param("[" * 100_000, 1, "nested too deeply", id="deep"),
        pytest.param("\n".join(f"x{n}: &x{n} [{f'*x{n - 1}, ' * 20}]" for n in range(1, 9)).replace("*x0", "0"), 1, "too many values; use fewer aliases", id="bomb"),
        ("a: 1\nb: 2026-01-01", 2, "'timestamp' is not a JSON type"),
        ("!!python/object:os.system {}", 1, "'python/object:os.system' is not a JSON type"),
        ("!!set {a}", 1, "'set' is not a JSON type"),
        ("a: !!bool maybe", 1, "'maybe' is not of the type bool"),
        ("a: !!int ''", 1, "'' is not of the type int"),
        ("a:\n  <<: 7", 2, "<< can merge only mappings"),
    ],
)  # fmt: skip
def test_yaml_without_json_equivalent_is_refused(text: str, line: int, message: str) -> None:
    """Types that JSON does not have, recursive values, and aliases that expand to too many values."""
    with pytest.raises(OverridesError, match=message) as refusal:
        YAMLSource(text)
    assert [line for line, _ in refusal.value.problems] == [line]


@given(
    st.text(alphabet="ab:-[]{}&*<!'\"?|>%@` \n\t0.") | st.binary().map(lambda data: data.decode("latin-1"))
)
def test_yaml_source_never_crashes(text: str) -> None:
    """Any text is parsed as JSON values, or refused with a line."""
    try:
        json.dumps(YAMLSource(text).data)
    except OverridesError as error:
        assert error.problems


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[]", [(1, "expected a mapping of profiles, default, principals, identities")]),
        ("", [(1, "expected a mapping of profiles, default, principals, identities")]),
        ("profiles: []", [(1, "profiles: expected a mapping")]),
        ("profiles:\n  peer: {}\n  peer: null", [(3, "duplicate key 'peer'")]),
        ("<<: {default: client}", [(1, "<<: unknown key; known: profiles, default, principals, identities")]),
        ("principals:\n  ci:\n    dn: {}", [(3, "principals.ci.dn: unknown key; known: dns, ip, email, uri, challenge, role")]),
        ("default: 7\nprofile: {}\nprincipals:\n  ci: {}\n  ci: {dns: {}}", [(1, "default: '7': expected text"), (2, "profile: unknown key; known: profiles, default, principals, identities"), (5, "duplicate key 'ci'")]),
        ("profiles:\n  server: null", [(1, "default: profile 'server' does not exist; use one of: client, peer")]),
        ("profiles:\n  server: {names: null}", [(2, "profiles.server: missing: names")]),
        ('profiles:\n  server: {"\\e[2J": 1}', [(2, r"profiles.server.\x1b[2J: unknown key; known: description, validity, max_validity, backdate, extended_key_usage, names, subject, public_keys, extensions, certificate_policies, ca_issuers, revocation, crl, ocsp, short_lived, principals")]),
        (b"default: server\n# \xff", [(2, "not UTF-8")]),
    ],
)  # fmt: skip
def test_overrides_with_problems_are_refused(
    tmp_path: Path, text: str | bytes, problems: list[tuple[int, str]]
) -> None:
    """Each problem has its line, also those of the merged profiles; one message lists all problems."""
    path = tmp_path / "own.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OverridesError) as refusal:
        openapi.load(path)
    assert refusal.value.problems == problems
    assert str(refusal.value) == "; ".join(f"line {line}: {detail}" for line, detail in problems)


def test_overrides_are_merged_over_the_contract(tmp_path: Path) -> None:
    """RFC 7396; requests may name the merged profiles, in the document for API Gateway too."""
    path = tmp_path / "own.yaml"
    path.write_text("profiles: {server: null, peer: {validity: P1D}}\ndefault: client")
    document = openapi.load(path)
    policy = openapi.parse_policy(document)
    assert [profile.name for profile in policy] == ["client", "peer"]
    assert policy.get(None).name == "client"
    assert policy.get("peer").validity == timedelta(days=1)
    rendered = api_gateway.for_cloudformation(document)
    name = rendered["components"]["schemas"]["ProfileName"]
    assert (name["enum"], name.get("default")) == (["client", "peer"], None)
    assert not any(key.startswith("x-certificate") for key in rendered)


def names(**kinds: object) -> dict[str, object]:
    """Return a change of a profile's names."""
    return {"names": kinds}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"validity": "30d", "max_validity": "52w", "backdate": "5m", "short_lived": "24h"},
        {"max_validity": "P365D", "short_lived": "P1D", "certificate_policies": ["1.3.6.1.4.1.32473.9", "2.23.140.1.2.1"]},
        {"subject": {"allowed": ["CN", "O", "OU"], "fixed": {"C": "CH"}}, "principals": ["ci", "*"]},
        {"subject": {}, "principals": [], "extensions": ["tlsFeature", "1.3.6.1.4.1.99999.1"]},
        {"public_keys": ["RSA-3072", "P-256", "Ed25519", "ML-DSA-65"], "ca_issuers": "http://ca.example/ca.crt"},
        {"public_keys": ["RSA"], "revocation": "crl", "crl": "http://ca.example/ca.crl"},
        {"extended_key_usage": ["1.3.6.1.5.2.3.5"], "crl": "", "revocation": "none"},
        {"extended_key_usage": ["codeSigning", "clientAuth"], "subject": {"fixed": {"CN": "a"}}},
        names(),
        names(dns={"permitted": ["example.com", ".a_b.example"], "underscores": True}, ip={"excluded": ["10.0.0.0/8", "::1"]}),
        names(email={"permitted": [".example.com"]}, uri={"schemes": ["spiffe"], "hosts": ["example.com"]}),
    ],
)  # fmt: skip
def test_profile_is_accepted(change: dict[str, Any]) -> None:
    """Every member is accepted in each of its forms."""
    verify_policy(
        {
            "profiles": {"server": GOOD | change},
            "default": "server",
            "principals": {"ci": {"dns": {}, "challenge": "http-01"}},
        }
    )


DURATION, OID, URL = "a duration such as 12h, ", "an OID in dotted decimals", "an http or https URL"
USAGE, EXTENSION, KEY = "serverAuth, clientAuth, ", "tlsFeature, ocspNoCheck or an OID", "one of RSA-2048"
DOMAIN = "is not a DNS name"


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"validity": "P1Y"}, "validity", f"'P1Y': expected {DURATION}"),
        ({"validity": "P99999D"}, "validity", "longer than 10000 days"),
        ({"max_validity": "10001d"}, "max_validity", "longer than 10000 days"),
        ({"validity": "P1D\n"}, "validity", DURATION),
        ({"validity": "PT5M"}, "validity", "less than a minute"),
        ({"max_validity": "P89D"}, "max_validity", "shorter"),
        ({"description": 1}, "description", "'1': expected text"),
        ({"extended_key_usage": []}, "extended_key_usage", "expected a list with at least one entry"),
        ({"extended_key_usage": ["anyExtendedKeyUsage"]}, "extended_key_usage.0", USAGE),
        ({"extended_key_usage": ["2.5.29.37.0"]}, "extended_key_usage.0", "not allowed in end-entity certificates"),
        ({"extended_key_usage": ["1.3.6.1.5.5.7.3.9"]}, "extended_key_usage.0", "not allowed in end-entity"),
        ({"extended_key_usage": ["serverAuth", "serverAuth"]}, "extended_key_usage", "listed twice"),
        ({"extended_key_usage": ["serverAuth", "1.3.6.1.5.5.7.3.1"]}, "extended_key_usage", "'1.3.6.1.5.5.7.3.1' is listed twice"),
        (names(dn={}), "names.dn", "unknown key; known: dns, ip, email, uri"),
        (names(dns={"permit": []}), "names.dns.permit", "unknown key; known: permitted, "),
        (names(dns={"permitted": []}), "names.dns.permitted", "a list with at least one entry"),
        (names(dns={"permitted": ["a.b", "-"]}), "names.dns.permitted.1", "hyphen"),
        (names(dns={"excluded": [7]}), "names.dns.excluded.0", "'7': expected text"),
        (names(dns={"wildcards": "yes"}), "names.dns.wildcards", "expected true or false"),
        (names(ip={"permitted": ["10.0.0.1/8"]}), "names.ip.permitted.0", "has host bits set"),
        (names(email={"permitted": ["a@b.c"]}), "names.email.permitted.0", "a@b"),
        (names(uri={"schemes": ["HTTPS"]}), "names.uri.schemes.0", "scheme in lower case"),
        (names(uri={"hosts": ["https://a.b"]}), "names.uri.hosts.0", "https:"),
        ({"subject": {"allowed": ["XX"]}}, "subject.allowed.0", "one of C, ST"),
        ({"subject": {"fixed": {"XX": "a"}}}, "subject.fixed.XX", "one of C, ST"),
        ({"subject": {"fixed": {"C": "Switzerland"}}}, "subject.fixed.C", "country code"),
        ({"subject": {"fixed": {"CN": "a"}}}, "subject.fixed.CN", "one of its names"),
        ({"public_keys": ["RSA-1024"]}, "public_keys.0", "2048 to 8192 bits"),
        ({"public_keys": ["RSA-002048"]}, "public_keys.0", KEY),
        ({"public_keys": ["RSA-2048", "RSA-3072"]}, "public_keys", "'RSA-3072' is listed twice"),
        ({"extensions": ["basicConstraints"]}, "extensions.0", EXTENSION),
        *[({"extensions": [f"2.5.29.{arc}"]}, "extensions.0", "only the CA may set it") for arc in (7, 17, 18, 19, 56)],
        ({"certificate_policies": ["1.2.03"]}, "certificate_policies.0", OID),
        ({"certificate_policies": ["2.5", "9.9"]}, "certificate_policies.1", OID),
        ({"certificate_policies": ["0.99"]}, "certificate_policies.0", OID),
        *[({"ca_issuers": url}, "ca_issuers", URL) for url in ("HTTP://x/y", "ldap://x", "http://a b", "http://a/\n", "http://\xe9")],
        ({"ca_issuers": "http://[x"}, "ca_issuers", "Invalid IPv6 URL"),
        ({"ca_issuers": "http:///x"}, "ca_issuers", "has no host"),
        ({"revocation": "ocsp"}, "revocation", "'ocsp': expected one of none, crl, service"),
        ({"revocation": "crl"}, "crl", "required if revocation is crl, and only then"),
        ({"crl": "http://x/y"}, "crl", "and only then"),
        ({"revocation": "service", "crl": "http://x/y"}, "crl", "and only then"),
        ({"ocsp": "http://x/y"}, "ocsp", "allowed only if revocation is crl"),
        ({"principals": [""]}, "principals.0", "name of a principal"),
        ({"colour": "red"}, "colour", "unknown key"),
    ],
)  # fmt: skip
def test_malformed_profile_is_refused(change: dict[str, Any], path: str, message: str) -> None:
    """Every member is checked, by the schema or by code; the violation has its path."""
    with pytest.raises(ProfileError) as refusal:
        verify_policy({"profiles": {"server": GOOD | change}, "default": "server", "principals": {}})
    (violation,) = refusal.value.violations
    assert ".".join(map(str, violation.path)) == f"profiles.server.{path}"
    assert message in violation.detail


def test_violations_of_all_profiles_are_collected() -> None:
    """One refusal lists all violations of the profiles, the default and the principals."""
    shared, reversed_policies = (
        GOOD | {"certificate_policies": oids} for oids in (["1.2.3", "1.2.4"], ["1.2.4", "1.2.3"])
    )
    brief = shared | {"validity": "PT1M"}
    profiles = {"a": brief, "b": shared, "c": reversed_policies, "d": shared, "B!\n": {}, "e": 7}
    principals = {"": {}, "*": {}, "ci": {"dns": {"permitted": ["-"]}, "challenge": "dns-01"}}
    with pytest.raises(ProfileError) as refusal:
        verify_policy({"profiles": profiles, "default": "f", "principals": principals})
    for message in (
        "profiles.a.validity: less than a minute",
        "profiles.d.certificate_policies.0: the first policy of profile 'b' is the same",
        "profiles.B!\\n: 'B!\\n': expected a profile name: 1 to 32",
        "profiles.e: '7': expected a mapping",
        "default: profile 'f' does not exist; use one of: a, b, c, d, B!\\n, e",
        "principals.: '': expected the name of a principal",
        "principals.*: '*' is not the name of a principal",
        "principals.ci.dns.permitted.0: ",
        "principals.ci.challenge: 'dns-01': expected http-01",
    ):
        assert message in str(refusal.value)
    assert len(refusal.value.violations) == 10


def test_contract_profiles_are_valid() -> None:
    """The profiles of the package are valid; the server does not check them against the schema."""
    verify_policy(openapi.policy_data(openapi.load()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "P1D", "P٣D", "CN", "crl", "1.2.3", "1.02.3", "http://a/b", "HTTP://a/b", "RSA-2048", "RSA-02048"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dns", "permitted", "wildcards", "allowed"]), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*GOOD, "subject", "public_keys", "extensions", "max_validity", "crl", "revocation", "principals"]), JSON, max_size=3))  # fmt: skip
def test_profile_parser_never_crashes(change: dict[str, Any]) -> None:
    """Any JSON is a profile or is refused; only `verify_policy` checks URLs and empty principals."""
    policy: dict[str, Any] = {"profiles": {"server": GOOD | change}, "default": "server", "principals": {}}
    try:
        profile = IssuancePolicy(**policy).get("server")
    except ProfileError:
        with pytest.raises(ProfileError):
            verify_policy(policy)
        return
    try:
        verify_policy(policy)
    except ProfileError as error:
        members = {violation.path[2] for violation in error.violations}
        assert members <= {"crl", "ca_issuers"} or not all(profile.principals)


@given(JSON, JSON)
def test_merge_patch_is_idempotent(target: Any, patch: Any) -> None:
    """RFC 7396 2: applying a patch twice has the effect of applying it once."""
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
