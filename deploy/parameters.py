"""Print the template parameters that depend on the contract and on the options of `certlet openapi`.

`sam deploy` keeps the previous value of each parameter that it does not get, so that all are printed, always.
"""

from __future__ import annotations

from typing import Any

import click

from service import openapi
from service.cli.print_openapi import aws_options, parse_aws_options


@click.command()
@aws_options
def main(**arguments: Any) -> None:  # noqa: ANN401 - each option has its own type
    """Print `NAME=VALUE ...` for `sam deploy --parameter-overrides`."""
    options = parse_aws_options(arguments)
    parameters = {
        **{name.title(): value for name, value in openapi.load()["x-usage-plan"].items()},
        "Est": "on" if options.est else "off",
        "Oidc": "on" if options.oidc else "off",
        "Auth": options.auth,
        "PublicUrl": options.public_url or '""',  # SAM refuses `NAME=`
        "VpcEndpointIds": ",".join(options.vpc_endpoints) or '""',
        "ExecuteApiEndpoint": "off" if options.disable_execute_api_endpoint else "on",
    }
    click.echo(" ".join(f"{name}={value}" for name, value in parameters.items()))


if __name__ == "__main__":
    main()
