"""`certlet openapi`: the contract, as API Gateway, CloudFormation or a tool takes it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from service import contract
from service.cli import options


@click.command(
    epilog="Example: certlet openapi --region eu-central-1 --account 123456789012 --function certlet"
)
@click.option("--region", metavar="REGION", help="Name the AWS region of the function.")
@click.option(
    "--account",
    metavar="ACCOUNT",
    type=options.matching("[0-9]{12}", "an AWS account id, which has 12 digits"),
    help="Name the AWS account of the function.",
)
@click.option("--function", metavar="NAME", help="Name the function.")
@click.option("--template", is_flag=True, help="Print it for a CloudFormation template: no ARNs yet.")
@click.option("--plain", is_flag=True, help="Print it for people and tools: no vendor extensions.")
@click.option("--est", is_flag=True, help="Include EST, which needs a domain of its own.")
@options.profiles_option
def openapi(*, template: bool, plain: bool, est: bool, profiles: Path | None, **arn: str | None) -> None:
    """Print the document that API Gateway imports."""
    target = [text for name in ("region", "account", "function") if (text := arn[name])]
    if (template, plain, len(target)) not in {(True, False, 0), (False, True, 0), (False, False, 3)}:
        raise click.UsageError(
            "give --region, --account and --function together, or --template alone, or --plain alone"
        )
    document = options.load_document(profiles)
    if plain:
        rendered = contract.public(document)
    elif template:
        rendered = contract.for_cloudformation(document, est=est)
    else:
        rendered = contract.for_api_gateway(document, *target, est=est)
    click.echo(json.dumps(rendered, indent=2))
