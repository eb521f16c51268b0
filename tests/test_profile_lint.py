from __future__ import annotations

import copy
from pathlib import Path

import pytest

from service import openapi, profile_lint
from tests import factories
from tests.servers import ROOT

LINES = (ROOT / "openapi.yaml").read_text().splitlines()


def test_profile_without_revocation_causes_a_warning(tmp_path: Path) -> None:
    """A line for each profile of more than `short_lived` without a CRL, where it is defined; else nothing."""
    warnings = profile_lint.lint(None)
    assert [LINES[warning.line - 1] for warning in warnings] == ["  server:", "  client:", "  peer:"]
    for name, warning in zip(("server", "client", "peer"), warnings, strict=True):
        text = f"{name}: certificates valid for up to P90D cannot be revoked"
        assert str(warning) == f"openapi.yaml:{warning.line}: warning: {text}"
    own = tmp_path / "own.yaml"
    own.write_text("profiles:\n  client: null\n  peer:\n    validity: P8D")
    assert [(warning.file, warning.line) for warning in profile_lint.lint(own)] == [
        (str(own), 3),
        ("openapi.yaml", warnings[0].line),
    ]
    quiet = "server: {validity: P7D}, client: {short_lived: P90D}, peer: {revocation: crl, crl: 'http://a.example/crl'}"
    own.write_text(f"profiles: {{{quiet}}}")
    assert not profile_lint.lint(own)
    own.write_text(f"profiles: {{{quiet.replace('P7D', 'P7D, max_validity: P8D')}}}")
    assert [str(warning) for warning in profile_lint.lint(own)] == [
        f"{own}:1: warning: server: certificates valid for up to P8D cannot be revoked"
    ]


def test_contract_violations_have_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits `openapi.yaml` itself learns the same as of a file of one's own."""
    document = copy.deepcopy(factories.document())
    del document[openapi.PROFILES]["client"]["names"]
    document[openapi.PRINCIPALS] = {"*": {}}
    document["components"]["schemas"]["ProfileName"]["default"] = "x"
    monkeypatch.setattr(openapi, "load", lambda _: document)
    faults = profile_lint.lint(None)
    assert [LINES[fault.line - 1].partition(":")[0] for fault in faults] == [
        "  client",
        "x-certificate-principals",
        "      default",
    ]
    assert all(fault.is_error for fault in faults)


def test_documented_profiles_are_valid(tmp_path: Path) -> None:
    """What docs/how-to/profiles.md shows has no faults."""
    own = tmp_path / "own.yaml"
    own.write_text(
        (ROOT / "docs" / "how-to" / "profiles.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    )
    assert [warning.text.partition(":")[0] for warning in profile_lint.lint(own)] == ["server", "peer"]
