"""`certlet openapi`: for tools, and for the import."""

from __future__ import annotations

import json
import re
from pathlib import Path

from openapi_spec_validator import validate

from deploy import lint
from service import openapi
from tests.cli import certlet


def test_openapi_prints_what_anybody_reads(tmp_path: Path) -> None:
    """`certlet openapi --format public` prints valid OpenAPI 3.0 of the same operations, without a vendor extension."""
    (tmp_path / "own.yaml").write_text("profiles: {peer: null}")
    printed = certlet("openapi", "--format", "public", "--profiles", "own.yaml")
    assert printed.returncode == 0, printed.stderr
    document = json.loads(printed.stdout)
    validate(document)
    assert not re.findall(rb'"x-[^"]*":', printed.stdout)
    assert set(openapi.operations_by_id(document)) == set(openapi.operations_by_id(openapi.load()))
    assert document["components"]["schemas"]["ProfileName"]["enum"] == ["server", "client"]


def test_openapi_prints_what_can_be_imported() -> None:
    """`certlet openapi` prints JSON that keeps every rule of the import."""
    arguments = ("--region", "eu-west-1", "--account", "123456789012", "--function", "certlet")
    printed = certlet("openapi", *arguments)
    assert lint.violations(json.loads(printed.stdout)) == []
