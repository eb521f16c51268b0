"""`certlet openapi`: the contract, as API Gateway, CloudFormation or a tool takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from service.api_gateway import for_api_gateway, for_cloudformation
from service.cli import options
from service.openapi import public

API_GATEWAY: Final = "api-gateway"
CLOUDFORMATION: Final = "cloudformation"
PUBLIC: Final = "public"


@click.command(
    epilog="Example: certlet openapi --region eu-central-1 --account 123456789012 --function certlet",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice([API_GATEWAY, CLOUDFORMATION, PUBLIC]),
    metavar="FORMAT",
    default=API_GATEWAY,
    help=f"Print it for the import into API Gateway ({API_GATEWAY}), which needs --region, --account and "
    f"--function; for a CloudFormation template, without ARNs ({CLOUDFORMATION}); or for people and tools, "
    f"without vendor extensions ({PUBLIC}).",
)
@click.option("--region", metavar="REGION", help="Name the AWS region of the function.")
@click.option(
    "--account",
    metavar="ACCOUNT",
    type=options.matching("[0-9]{12}", "an AWS account id, which has 12 digits"),
    help="Name the AWS account of the function.",
)
@click.option("--function", metavar="NAME", help="Name the function.")
@click.option("--est", is_flag=True, help="Include EST, which needs a domain of its own.")
@options.profiles_option
def openapi(*, output_format: str, est: bool, profiles: Path | None, **arn: str | None) -> None:
    """Print the document that API Gateway imports."""
    target = [text for name in ("region", "account", "function") if (text := arn[name])]
    if len(target) != (3 if output_format == API_GATEWAY else 0):
        raise click.UsageError(
            f"give --region, --account and --function together with --format {API_GATEWAY}, "
            "and with no other format"
        )
    document = options.load_document(profiles)
    if output_format == PUBLIC:
        rendered = public(document)
    elif output_format == CLOUDFORMATION:
        rendered = for_cloudformation(document, est=est)
    else:
        rendered = for_api_gateway(document, *target, est=est)
    click.echo(json.dumps(rendered, indent=2))
