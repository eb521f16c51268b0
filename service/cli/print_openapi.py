"""`certlet openapi`: print the contract for API Gateway, CloudFormation or OpenAPI tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from service.cli import options
from service.openapi import for_api_gateway, for_cloudformation, public

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
    help=f"Print the document for API Gateway ({API_GATEWAY}; requires --region, --account and --function), "
    f"for a CloudFormation template ({CLOUDFORMATION}), or for readers and OpenAPI tools, without vendor "
    f"extensions ({PUBLIC}).",
)
@click.option("--region", metavar="REGION", help="Set the function's AWS region.")
@click.option(
    "--account",
    metavar="ACCOUNT",
    type=options.create_parser("[0-9]{12}", "an AWS account ID of 12 digits"),
    help="Set the function's AWS account ID.",
)
@click.option("--function", metavar="NAME", help="Set the function's name.")
@click.option("--est", is_flag=True, help="Include EST, which requires a custom domain.")
@options.profiles_option
def openapi(*, output_format: str, est: bool, profiles: Path | None, **arn: str | None) -> None:
    """Print the OpenAPI document.

    The default is the document that API Gateway imports.
    """
    target = [text for name in ("region", "account", "function") if (text := arn[name])]
    if len(target) != (3 if output_format == API_GATEWAY else 0):
        raise click.UsageError(
            f"--format {API_GATEWAY} requires --region, --account and --function; the other formats do not "
            "accept them"
        )
    document = options.load_document(profiles)
    if output_format == PUBLIC:
        rendered = public(document)
    elif output_format == CLOUDFORMATION:
        rendered = for_cloudformation(document, est=est)
    else:
        rendered = for_api_gateway(document, *target, est=est)
    click.echo(json.dumps(rendered, indent=2))
