"""`certlet openapi`: print the contract for API Gateway, CloudFormation or OpenAPI tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from service.api_gateway import Auth, Options, for_api_gateway, for_cloudformation
from service.cli import options
from service.cli.terminal import Command
from service.openapi import public, with_public_url

_Command = TypeVar("_Command", bound=Callable[..., Any])

API_GATEWAY: Final = "api-gateway"
CLOUDFORMATION: Final = "cloudformation"
PUBLIC: Final = "public"


def aws_options(command: _Command) -> _Command:
    """Add the options that `parse_aws_options` parses."""
    for option in (
        options.public_url_option("--public-url", options.parse_https_url),
        click.option(
            "--disable-execute-api-endpoint",
            is_flag=True,
            help="Serve the API only at its custom domain.",
        ),
        click.option(
            "--vpc-endpoint",
            "vpc_endpoints",
            multiple=True,
            type=options.create_parser(
                "vpce-[0-9a-f]{8,17}", "the ID of a VPC endpoint, such as vpce-0123456789abcdef0"
            ),
            metavar="ID",
            help="Limit a private API to this VPC endpoint (repeatable).",
        ),
        click.option(
            "--auth",
            type=click.Choice([auth.value for auth in Auth]),
            metavar="METHOD",
            default=Auth.API_KEY.value,
            help=f"Identify callers by API key ({Auth.API_KEY}), or by AWS IAM, which verifies signed "
            f"requests ({Auth.IAM}).",
        ),
        click.option(
            "--oidc", is_flag=True, help="Accept tokens of workloads, by the rules in the profiles file."
        ),
        click.option("--est", is_flag=True, help="Include EST, which needs a domain of its own."),
    ):
        command = option(command)
    return command


def parse_aws_options(arguments: dict[str, Any]) -> Options:
    """Return the options of the document for API Gateway.

    Raises:
        UsageError: they exclude each other.
    """
    try:
        return Options(
            **{**arguments, "auth": Auth(arguments["auth"]), "public_url": arguments["public_url"] or ""}
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@click.command(
    cls=Command,
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
@aws_options
@options.profiles_option
def openapi(
    *,
    output_format: str,
    region: str | None,
    account: str | None,
    function: str | None,
    profiles: Path | None,
    **arguments: Any,  # noqa: ANN401 - each option has its own type
) -> None:
    """Print the OpenAPI document.

    The default is the document that API Gateway imports.
    """
    target = (region or "", account or "", function or "")
    if not (all(target) if output_format == API_GATEWAY else not any(target)):
        raise click.UsageError(
            f"--format {API_GATEWAY} requires --region, --account and --function; the other formats do not "
            "accept them"
        )
    aws = parse_aws_options(arguments)
    if output_format == PUBLIC and aws != Options(public_url=aws.public_url):
        raise click.UsageError(f"--format {PUBLIC} has no options for AWS except --public-url")
    document = options.load_document(profiles)
    if output_format == PUBLIC:
        rendered = public(with_public_url(document, aws.public_url))
    elif output_format == CLOUDFORMATION:
        rendered = for_cloudformation(document, aws)
    else:
        rendered = for_api_gateway(document, *target, aws)
    click.echo(json.dumps(rendered, indent=2))
