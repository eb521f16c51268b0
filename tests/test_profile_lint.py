from __future__ import annotations

import copy
from pathlib import Path

import pytest

from service import openapi, profile_lint
from tests import factories
from tests.servers import ROOT

LINES = (ROOT / "openapi.yaml").read_text().splitlines()


def test_profile_without_revocation_causes_a_warning(tmp_path: Path) -> None:
    """A profile without CRL whose validity exceeds `short_lived` gets a warning with its line."""
    warnings = profile_lint.lint(None)
    assert [LINES[warning.line - 1] for warning in warnings] == ["  server:", "  client:", "  peer:"]
    for name, warning in zip(("server", "client", "peer"), warnings, strict=True):
        text = f"{name}: certificates valid for up to P90D cannot be revoked"
        assert str(warning) == f"openapi.yaml:{warning.line}: warning: {text}"
    path = tmp_path / "own.yaml"
    path.write_text("profiles:\n  client: null\n  peer:\n    validity: P8D")
    assert [(warning.file, warning.line) for warning in profile_lint.lint(path)] == [
        (str(path), 3),
        ("openapi.yaml", warnings[0].line),
    ]
    quiet = "server: {validity: P7D}, client: {short_lived: P90D}, peer: {revocation: crl, crl: 'http://a.example/crl'}"
    path.write_text(f"profiles: {{{quiet}}}")
    assert not profile_lint.lint(path)
    path.write_text(f"profiles: {{{quiet.replace('P7D', 'P7D, max_validity: P8D')}}}")
    assert [str(warning) for warning in profile_lint.lint(path)] == [
        f"{path}:1: warning: server: certificates valid for up to P8D cannot be revoked"
    ]


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
    assert [warning.text.partition(":")[0] for warning in profile_lint.lint(path)] == ["server", "peer"]
