"""`certlet api-key`: the API keys of the local gateway."""

from __future__ import annotations

import os
from pathlib import Path

import click

from service.cli import options
from service.cli.options import API_KEY, KEY_FILE
from service.cli.terminal import CommandError, echo, warn
from service.gateway import api_keys


@click.group(no_args_is_help=False, epilog="Example: certlet api-key add ci")
def api_key() -> None:
    """Manage the API keys of the local gateway."""


@api_key.command(epilog="Example: certlet api-key add ci --ca /var/lib/certlet/ca")
@click.argument("name")
@options.ca_option
def add(*, name: str, ca: Path) -> None:
    """Create an API key for NAME and print it once.

    If $CERTLET_API_KEY is set, that key is added instead, and is not printed.
    """
    existing = os.environ.get(API_KEY)
    value = existing or api_keys.generate_key()
    try:
        _key_file(ca).add(name, value)
    except api_keys.KeyFileError as error:
        hint = f" (the key is from ${API_KEY}: unset it to create a new key)" if existing else ""
        raise CommandError(f"{error}{hint}") from error
    if existing:
        warn(f"note: added the key in ${API_KEY}")
    else:
        click.echo(value)


@api_key.command("list", epilog="Example: certlet api-key list")
@options.ca_option
def list_keys(*, ca: Path) -> None:
    """List the SHA-256 and the name of each API key."""
    for name, digest in _key_file(ca).read().items():
        echo(f"{digest}  {name}")


@api_key.command(epilog="Example: certlet api-key remove ci")
@click.argument("name")
@options.ca_option
def remove(*, name: str, ca: Path) -> None:
    """Remove the API key of NAME, with immediate effect."""
    _key_file(ca).remove(name)


def _key_file(ca: Path) -> api_keys.KeyFile:
    return api_keys.KeyFile(options.require_ca(ca) / KEY_FILE)
