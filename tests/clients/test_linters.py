"""The published contract in the linters of other projects: Redocly's strict rules and Spectral's rules for OpenAPI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service import openapi
from tests import factories, servers

HERE = Path(__file__).parent
PUBLISHED = openapi.public(factories.document())
# The linters load no rules from the network and send no usage data.
OPTIONS = {
    "redocly": ["--extends=recommended-strict"],
    "spectral": [f"--ruleset={HERE}/spectral.yaml", "--fail-severity=hint"],
}
ENVIRON = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}


def lint(name: str, document: dict[str, Any], folder: Path) -> tuple[int, str]:
    """Run a linter on a document; return its exit status and output."""
    (folder / "openapi.json").write_text(json.dumps(document))
    program, env = HERE / "node_modules/.bin" / name, servers.environ(**ENVIRON)
    done = servers.run(program, "lint", *OPTIONS[name], "openapi.json", cwd=folder, env=env, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", OPTIONS)
def test_published_contract_has_no_problems(tmp_path: Path, name: str) -> None:
    """Every rule passes, except for those that spectral.yaml turns off with a reason."""
    status, output = lint(name, PUBLISHED, tmp_path)
    assert status == 0, output


@pytest.mark.parametrize(
    ("name", "rule"), [("redocly", "no-unused-components"), ("spectral", "oas3-unused-component")]
)
def test_linter_reports_problems(tmp_path: Path, name: str, rule: str) -> None:
    """Each linter reports a problem, which it considers only a warning by default, and fails."""
    schemas = PUBLISHED["components"]["schemas"] | {"Unused": {"type": "string"}}
    components = {**PUBLISHED["components"], "schemas": schemas}
    status, output = lint(name, {**PUBLISHED, "components": components}, tmp_path)
    assert status == 1
    assert rule in output
