"""`certlet completion`: what makes a shell complete the arguments of certlet."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from service.cli import COMPLETION, certlet

_SHELLS = ("bash", "fish", "zsh")


@click.command(
    epilog="Examples: certlet completion bash > ~/.local/share/bash-completion/completions/certlet; "
    'certlet completion zsh > "${fpath[1]}/_certlet"; '
    "certlet completion fish > ~/.config/fish/completions/certlet.fish"
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(*, shell: str) -> None:
    """Print what lets a shell complete the arguments of certlet."""
    complete = get_completion_class(shell)
    if complete is None:  # all three are click's own
        raise RuntimeError(f"click has no completion for {shell}")
    click.echo(complete(certlet, {}, "certlet", COMPLETION).source())
