"""`certlet openapi`: the documents for OpenAPI tools and for API Gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from deploy import lint
from service import api_gateway, openapi
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


AWS = ("--region", "eu-west-1", "--account", "123456789012", "--function", "certlet")


@pytest.mark.parametrize("options", [("--format", "public"), ("--format", "cloudformation"), AWS])
def test_rules_for_tokens_are_in_no_document(tmp_path: Path, options: tuple[str, ...]) -> None:
    """They are the operator's. API docs and generated clients are made from the public document."""
    rule = (
        "{issuer: https://i.example, audience: y, algorithms: [ES256], jwks_file: k.json, claims: {/sub: x}"
    )
    path = tmp_path / "own.yaml"
    path.write_text(f"identities:\n  deploy: {rule}, profiles: [server], names: {{}}}}\ndefault: client\n")
    run = certlet("openapi", *options, "--profiles", path)
    assert run.returncode == 0, run.stderr
    assert b'"client"' in run.stdout
    assert not re.findall(rb"i\.example|x-certificate|identities|deploy\b", run.stdout)


def test_api_gateway_document_keeps_the_import_rules() -> None:
    """The default document violates no rule of the import."""
    arguments = ("--region", "eu-west-1", "--account", "123456789012", "--function", "certlet")
    run = certlet("openapi", *arguments)
    assert lint.violations(json.loads(run.stdout)) == []


def test_openapi_options_reach_the_document() -> None:
    """`--auth iam`, `--vpc-endpoint` and `--disable-execute-api-endpoint` print what a CloudFormation template includes."""
    run = certlet(
        *("openapi", "--format", "cloudformation", "--auth", "iam", "--disable-execute-api-endpoint"),
        *("--vpc-endpoint", "vpce-01234567", "--vpc-endpoint", "vpce-0123456789abcdef0"),
    )
    options = api_gateway.Options(
        auth=api_gateway.Auth.IAM,
        vpc_endpoints=("vpce-01234567", "vpce-0123456789abcdef0"),
        disable_execute_api_endpoint=True,
    )
    assert json.loads(run.stdout) == api_gateway.for_cloudformation(openapi.load(), options)
    assert json.loads(run.stdout) != api_gateway.for_cloudformation(openapi.load())


def test_options_with_an_authorizer_reach_the_document() -> None:
    """`--est --oidc` is one authorizer for both."""
    run = certlet("openapi", "--format", "cloudformation", "--est", "--oidc")
    options = api_gateway.Options(est=True, oidc=True)
    assert json.loads(run.stdout) == api_gateway.for_cloudformation(openapi.load(), options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--est", "--auth", "iam"),
            "certlet: a method of API Gateway has one authorizer: use either IAM or EST, which",
        ),
        (
            ("--oidc", "--auth", "iam"),
            "certlet: a method of API Gateway has one authorizer: use either IAM or OIDC, which",
        ),
        (("--auth", "basic"), "'basic' is not one of 'api-key', 'iam'"),
        (("--vpc-endpoint", "vpc-1"), "'vpc-1' is not the ID of a VPC endpoint"),
        (("--public-url", "http://pki.example.com"), "'http://pki.example.com' is not an https URL"),
        (("--public-url", "https://a?b"), "'https://a?b' is not an http or https URL without query"),
        (("--format", "public", "--est"), "--format public has no options for AWS except --public-url"),
        (("--format", "public", "--oidc"), "--format public has no options for AWS except --public-url"),
    ],
)
def test_invalid_openapi_option_is_refused(arguments: tuple[str, ...], message: str) -> None:
    """An invalid option, and options that exclude each other, are usage errors in one line."""
    run = certlet("openapi", "--format", "cloudformation", *arguments)
    assert (run.returncode, run.stdout) == (2, b"")
    assert message in run.stderr.decode()
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("output_format", ["cloudformation", "public"])
def test_public_url_is_the_server_of_the_printed_document(output_format: str) -> None:
    """`--public-url` makes `servers` and problem types absolute, for AWS and for readers."""
    url = "https://pki.example.com/certlet"
    printed = certlet("openapi", "--format", output_format, "--public-url", url).stdout.decode()
    assert json.loads(printed)["servers"] == [{"url": url}]
    assert f"{url}/problems#malformed" in printed
    assert '"/problems#' not in printed
