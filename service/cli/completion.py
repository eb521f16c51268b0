"""`certlet completion`: what makes a shell complete the arguments of certlet."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from service.cli import COMPLETION, certlet

_SHELLS = {"bash": BashComplete, "fish": FishComplete, "zsh": ZshComplete}


@click.command(
    epilog="Examples: certlet completion bash > ~/.local/share/bash-completion/completions/certlet; "
    'certlet completion zsh > "${fpath[1]}/_certlet"; '
    "certlet completion fish > ~/.config/fish/completions/certlet.fish"
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(*, shell: str) -> None:
    """Print what lets a shell complete the arguments of certlet."""
    click.echo(_SHELLS[shell](certlet, {}, "certlet", COMPLETION).source())
