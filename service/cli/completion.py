"""`certlet completion`: print a completion script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from service.cli import COMPLETION, certlet
from service.cli.terminal import Command

_SHELLS = {"bash": BashComplete, "fish": FishComplete, "zsh": ZshComplete}


@click.command(
    cls=Command,
    epilog="Examples: certlet completion bash > ~/.local/share/bash-completion/completions/certlet; "
    'certlet completion zsh > "${fpath[1]}/_certlet"; '
    "certlet completion fish > ~/.config/fish/completions/certlet.fish",
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(*, shell: str) -> None:
    """Print a completion script for a shell."""
    click.echo(_SHELLS[shell](certlet, {}, "certlet", COMPLETION).source())
