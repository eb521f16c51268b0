"""`certlet api-key`: the API keys of the local gateway."""

from __future__ import annotations

import os
from pathlib import Path

import click

from service.cli import options
from service.cli.options import API_KEY, KEY_FILE
from service.cli.terminal import CommandError, say, warn
from service.gateway import api_keys


@click.group(no_args_is_help=False, epilog="Example: certlet api-key add ci")
def api_key() -> None:
    """Manage the API keys of the local gateway."""


@api_key.command(epilog="Example: certlet api-key add ci --ca /var/lib/certlet/ca")
@click.argument("name")
@options.ca_option
def add(*, name: str, ca: Path) -> None:
    """Make a key for NAME and show it, this one time.

    If $CERTLET_API_KEY is set, that is the key, and it is not shown.
    """
    own = os.environ.get(API_KEY)
    value = own or api_keys.generate_key()
    try:
        _key_file(ca).add(name, value)
    except api_keys.KeyFileError as error:
        hint = f" (${API_KEY} is taken for it: unset that to have another made)" if own else ""
        raise CommandError(f"{error}{hint}") from error
    if own:
        warn(f"note: the key is the one in ${API_KEY}")
    else:
        click.echo(value)


@api_key.command("list", epilog="Example: certlet api-key list")
@options.ca_option
def list_keys(*, ca: Path) -> None:
    """List the names, and the SHA-256 of each key."""
    for name, digest in _key_file(ca).read().items():
        say(f"{digest}  {name}")


@api_key.command(epilog="Example: certlet api-key remove ci")
@click.argument("name")
@options.ca_option
def remove(*, name: str, ca: Path) -> None:
    """Remove the key of NAME, which a running server notices."""
    _key_file(ca).remove(name)


def _key_file(ca: Path) -> api_keys.KeyFile:
    return api_keys.KeyFile(options.require_ca(ca) / KEY_FILE)
