from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from service import openapi, profile_lint
from tests import factories
from tests.servers import ROOT

LINES = (ROOT / "openapi.yaml").read_text().splitlines()


def test_profiles_of_the_contract_cause_no_warning() -> None:
    """They can be revoked if the service has a URL, and are short-lived otherwise."""
    assert not profile_lint.lint(None)
    assert not profile_lint.lint(None, has_status_url=True)


def test_profile_without_revocation_causes_a_warning(tmp_path: Path) -> None:
    """A profile without CRL whose validity exceeds `short_lived` gets a warning with its line."""
    path = tmp_path / "own.yaml"
    path.write_text("profiles:\n  client: null\n  peer:\n    validity: P8D\n    revocation: none")
    text = "peer: certificates valid for up to P8D cannot be revoked"
    assert [str(warning) for warning in profile_lint.lint(path)] == [f"{path}:3: warning: {text}"]
    quiet = (
        "server: {validity: P7D, revocation: none}, client: {short_lived: P90D, revocation: none}, "
        "peer: {revocation: crl, crl: 'http://a.example/crl'}"
    )
    path.write_text(f"profiles: {{{quiet}}}")
    assert not profile_lint.lint(path)
    path.write_text(f"profiles: {{{quiet.replace('P7D', 'P7D, max_validity: P8D')}}}")
    assert [str(warning) for warning in profile_lint.lint(path)] == [
        f"{path}:1: warning: server: certificates valid for up to P8D cannot be revoked"
    ]


def test_validity_that_needs_a_status_url_causes_a_warning(tmp_path: Path) -> None:
    """Without a status URL the validity of an operator's profile is limited."""
    path = tmp_path / "own.yaml"
    path.write_text("profiles: {server: {validity: P30D}, client: {validity: P6D}}")
    text = "server: certificates are valid for up to P7D without a status URL"
    [warning] = profile_lint.lint(path)
    assert str(warning).startswith(f"{path}:1: warning: {text}: ")
    assert not profile_lint.lint(path, has_status_url=True)


@pytest.mark.parametrize(("scheme", "count"), [("https", 3), ("http", 0)])
def test_https_url_in_a_profile_causes_a_warning(tmp_path: Path, scheme: str, count: int) -> None:
    """Verifiers fetch CRLs and certificates of issuers by plain HTTP."""
    path = tmp_path / "own.yaml"
    members = ("crl", "ca_issuers", "ocsp")
    urls = ", ".join(f"{member}: '{scheme}://a.example/x'" for member in members)
    path.write_text(
        "profiles: {server: {validity: P7D}, client: {validity: P7D}, "
        f"peer: {{revocation: crl, {urls}}}}}\n"
    )
    warning = f"{path}:1: warning: peer: {scheme}://a.example/x: {profile_lint.HTTP_ONLY}"
    assert [str(finding) for finding in profile_lint.lint(path)] == [warning] * count


def test_profile_without_policy_causes_a_warning(tmp_path: Path) -> None:
    """The first policy identifies the profile in a renewal, so a profile without one gets a warning with its line."""
    path = tmp_path / "own.yaml"
    team = (
        "{description: x, validity: P7D, backdate: PT5M, extended_key_usage: [clientAuth], names: {dns: {}}}"
    )
    others = "  server: {validity: P7D}\n  client: {validity: P7D}\n"
    path.write_text(
        f"profiles:\n{others}  peer: {{validity: P7D, certificate_policies: []}}\n  team: {team}\n"
    )
    text = "certificates cannot be renewed, except by certlet renew --profile: set certificate_policies"
    assert [str(warning) for warning in profile_lint.lint(path)] == [
        f"{path}:4: warning: peer: {text}",
        f"{path}:5: warning: team: {text}",
    ]
    team = team.replace("{desc", "{certificate_policies: [1.2.3], desc")
    path.write_text(f"profiles:\n{others}  peer: {{validity: P7D}}\n  team: {team}\n")
    assert not profile_lint.lint(path)


def test_violations_in_rules_for_tokens_have_lines(tmp_path: Path) -> None:
    """`certlet check` shows them as it shows those of profiles; a rule without violations is silent."""
    path = tmp_path / "own.yaml"
    rule = "{issuer: x, algorithms: [ES256], jwks_file: k.json, claims: {/sub: x}, names: {}"
    key = {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "1"}
    (tmp_path / "k.json").write_text(json.dumps({"keys": [key]}))
    path.write_text(
        f"profiles: {{server: {{validity: P7D}}}}\nidentities:\n  ci: {rule}, audience: a, profiles: [server]}}\n"
    )
    assert not profile_lint.lint(path, has_status_url=True)
    path.write_text(
        f"identities:\n  ci: {rule}, audience: 'a*', profiles: [server]}}\n  cd: {rule}, profiles: [x]}}\n"
    )
    assert [str(error).removeprefix(f"{path}:") for error in profile_lint.lint(path)] == [
        "2: identities.ci.audience: 'a*' looks like a pattern, but values are compared exactly",
        "3: identities.cd: missing: audience",
    ]


def test_rule_for_tokens_that_permits_all_names_causes_a_warning(tmp_path: Path) -> None:
    """Every token of the rule could have the name of any host."""
    path = tmp_path / "own.yaml"
    rule = (
        "{issuer: x, audience: y, algorithms: [ES256], jwks_url: 'https://127.0.0.1:9/', claims: {/sub: x}, "
        "profiles: [server]"
    )
    names = "dns: {excluded: [a.example.com]}, ip: {permitted: [10.0.0.0/8]}, uri: {hosts: [a.example.com]}"
    path.write_text(
        f"profiles: {{server: {{validity: P7D}}}}\nidentities:\n  ci: {rule}, names: {{{names},\n    email: {{}}}}}}\n"
    )
    text = "are not restricted: set permitted"
    assert [str(warning) for warning in profile_lint.lint(path)] == [
        f"{path}:3: warning: rule ci: names of kind dns {text}",
        f"{path}:4: warning: rule ci: names of kind email {text}",
    ]


@pytest.mark.parametrize(
    ("source", "column", "message"),
    [
        ("jwks_file: absent.json", "jwks_file", "No such file or directory"),
        ("jwks_file: own.yaml", "jwks_file", "not a JWK Set"),
        ("jwks_file: .", "jwks_file", "directory"),
        ("jwks_url: https://127.0.0.1:9/keys\n    ca_file: absent.pem", "ca_file", "absent.pem"),
        ("jwks_url: https://127.0.0.1:9/keys\n    ca_file: own.yaml", "ca_file", "own.yaml"),
    ],
)
def test_unusable_file_of_a_rule_for_tokens_is_an_error(
    tmp_path: Path, source: str, column: str, message: str
) -> None:
    """It is relative to the operator's file. `certlet check` downloads nothing."""
    path = tmp_path / "own.yaml"
    path.write_text(
        f"identities:\n  ci:\n    {source}\n    issuer: x\n    audience: y\n    algorithms: [ES256]\n"
        "    claims: {/sub: x}\n    profiles: [server]\n    names: {}\n"
    )
    (finding,) = profile_lint.lint(path)
    line = (
        path.read_text()
        .splitlines()
        .index(next(text for text in path.read_text().splitlines() if column in text))
    )
    assert (finding.line, finding.is_error) == (line + 1, True)
    assert finding.text.startswith("rule ci: ")
    assert message in finding.text


def test_violations_in_the_contract_have_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Violations in `openapi.yaml` itself have lines too."""
    document = copy.deepcopy(factories.document())
    del document[openapi.PROFILES]["client"]["names"]
    document[openapi.PRINCIPALS] = {"*": {}}
    document["components"]["schemas"]["ProfileName"]["default"] = "x"
    monkeypatch.setattr(openapi, "load", lambda _: document)
    violations = profile_lint.lint(None)
    assert [LINES[violation.line - 1].partition(":")[0] for violation in violations] == [
        "  client",
        "x-certificate-principals",
        "      default",
    ]
    assert all(violation.is_error for violation in violations)


def test_documented_profiles_are_valid(tmp_path: Path) -> None:
    """The profiles in docs/how-to/profiles.md have no violations, only warnings."""
    path = tmp_path / "own.yaml"
    path.write_text(
        (ROOT / "docs" / "how-to" / "profiles.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    )
    assert [warning.text.partition(":")[0] for warning in profile_lint.lint(path)] == ["server"]
