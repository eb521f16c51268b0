"""`certlet completion`, and what click completes: commands, options and values, each where it may stand."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete

from service import cli
from service.pki import keys
from tests.cli import certlet

COMMANDS = {
    *("serve", "api-key", "init", "rollover", "revoke", "openapi", "check", "sign"),
    *("new", "renew", "show", "trust", "completion"),
}


def offered(*words: str) -> set[str]:
    """What is offered for the last of these words, or the kind of value (`file`) that the shell completes."""
    completion = ShellComplete(cli.certlet, {}, "certlet", cli.COMPLETION)
    items = completion.get_completions(list(words[:-1]), words[-1])
    return {item.value if item.type == "plain" else item.type for item in items}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([""], COMMANDS),
        (["re"], {"renew", "revoke"}),
        (["-"], {"-h", "--help", "--version"}),
        (["no"], set()),
        (["new", "--ke"], {"--key-type"}),
        (["new", "--key-type", ""], set(keys.GENERATORS)),
        (["new", "--key-type=p-3"], {"p-384"}),
        (["new", "--p12", ""], {"file"}),
        (["new", "mine"], set()),
        (["api-key", ""], {"add", "list", "remove"}),
        (["api-key", "add", "-"], {"-h", "--help", "--ca"}),
        (["api-key", "--ca"], set()),
        (["completion", "z"], {"zsh"}),
        (["revoke", "--reason", "key"], {"keyCompromise"}),
        (["revoke", "my"], {"file"}),
        (["show", ""], {"file"}),
        (["sign", "--profile", "mine"], set()),
    ],
)
def test_completion_offers_what_may_stand_there(words: list[str], values: set[str]) -> None:
    """Commands, actions, options and choices; names of files are the shell's own to offer."""
    assert offered(*words) == values


def commands(group: click.Group) -> list[click.Command]:
    """The commands of a group, loaded, and those within them."""
    stubs = group.commands.items()
    loaded = [stub.make_context(name, [], resilient_parsing=True).command for name, stub in stubs]
    groups = [command for command in loaded if isinstance(command, click.Group)]
    return loaded + [inner for each in groups for inner in commands(each)]


def test_each_command_and_option_has_its_help() -> None:
    """Each has a sentence and an example; the list of --help has the first sentence of each command."""
    for command in commands(cli.certlet):
        assert command.help, command.name
        assert (command.epilog or "").startswith("Example"), command.name
        options = [param for param in command.params if isinstance(param, click.Option)]
        assert all(option.help for option in options), command.name
    for name, stub in cli.certlet.commands.items():
        command = stub.make_context(name, [], resilient_parsing=True).command
        assert (command.name, (command.help or "").partition("\n")[0]) == (name, stub.short_help)


@pytest.mark.parametrize("arguments", [("csh",), ()])
def test_an_unknown_shell_is_refused(arguments: tuple[str, ...]) -> None:
    """One line names those that there are."""
    run = certlet("completion", *arguments)
    assert (run.returncode, run.stdout, run.stderr.count(b"\n")) == (2, b"", 1)
    assert b"fish" in run.stderr
