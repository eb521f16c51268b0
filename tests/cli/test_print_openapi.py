"""`certlet openapi`: the documents for OpenAPI tools and for API Gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path

from openapi_spec_validator import validate

from deploy import lint
from service import openapi
from tests.cli import certlet


def test_public_document_is_valid_openapi(tmp_path: Path) -> None:
    """It has the same operations, the operator's profiles, and no vendor extension."""
    (tmp_path / "own.yaml").write_text("profiles: {peer: null}")
    run = certlet("openapi", "--format", "public", "--profiles", "own.yaml")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    validate(document)
    assert not re.findall(rb'"x-[^"]*":', run.stdout)
    assert set(openapi.operations_by_id(document)) == set(openapi.operations_by_id(openapi.load()))
    assert document["components"]["schemas"]["ProfileName"]["enum"] == ["server", "client"]


def test_api_gateway_document_keeps_the_import_rules() -> None:
    """The default document violates no rule of the import."""
    arguments = ("--region", "eu-west-1", "--account", "123456789012", "--function", "certlet")
    run = certlet("openapi", *arguments)
    assert lint.violations(json.loads(run.stdout)) == []
