"""`certlet completion`, and the completions of commands, options and values."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete

from service import cli
from service.pki import keys
from tests.cli import certlet

COMMANDS = {
    *("serve", "api-key", "init", "rollover", "revoke", "rotate-serial-key", "openapi", "check", "sign"),
    *("acme", "sign-ca-status"),
    *(
        "list",
        "new",
        "renew",
        "show",
        "trust",
        "verify",
        "completion",
        "login",
        "logout",
        "context",
        "doctor",
    ),
}


def completions(*arguments: str) -> set[str]:
    """Return the completions of the last word, or the kind of value (`file`) that the shell completes."""
    completion = ShellComplete(cli.certlet, {}, "certlet", cli.COMPLETION)
    items = completion.get_completions(list(arguments[:-1]), arguments[-1])
    return {item.value if item.type == "plain" else item.type for item in items}


@pytest.mark.parametrize(
    ("arguments", "values"),
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
        (
            ["api-key", "add", "-"],
            {"-h", "--help", "-q", "--quiet", "--ca", "--expires", "--from-env", "--from-stdin", "--json"},
        ),
        (["api-key", "list", "--j"], {"--json"}),
        (["api-key", "--ca"], set()),
        (["acme", ""], {"add", "list", "rekey", "remove"}),
        (["acme", "add", "--client", "c"], {"certbot", "caddy", "cert-manager"}),
        (["completion", "z"], {"zsh"}),
        (["revoke", "--reason", "key"], {"keyCompromise"}),
        (["revoke", "my"], {"file"}),
        (["show", ""], {"file"}),
        (["sign", "--profile", "mine"], set()),
    ],
)
def test_completion_offers_valid_words(arguments: list[str], values: set[str]) -> None:
    """Commands, subcommands, options and choices; the shell completes file names."""
    assert completions(*arguments) == values


def commands(group: click.Group) -> list[click.Command]:
    """Return the commands of a group and of its subgroups."""
    stubs = group.commands.items()
    loaded = [stub.make_context(name, [], resilient_parsing=True).command for name, stub in stubs]
    groups = [command for command in loaded if isinstance(command, click.Group)]
    return loaded + [command for subgroup in groups for command in commands(subgroup)]


def test_command_and_option_have_help() -> None:
    """Each command has an example; its summary in `certlet --help` is the first line of its help."""
    for command in commands(cli.certlet):
        assert command.help, command.name
        assert (command.epilog or "").startswith("Example"), command.name
        options = [param for param in command.params if isinstance(param, click.Option)]
        assert all(option.help for option in options), command.name
    for name, stub in cli.certlet.commands.items():
        command = stub.make_context(name, [], resilient_parsing=True).command
        assert (command.name, (command.help or "").partition("\n")[0]) == (name, stub.short_help)


@pytest.mark.parametrize("arguments", [("csh",), ()])
def test_unknown_shell_is_refused(arguments: tuple[str, ...]) -> None:
    """The error, one line, names the supported shells."""
    run = certlet("completion", *arguments)
    assert (run.returncode, run.stdout, run.stderr.count(b"\n")) == (2, b"", 1)
    assert b"fish" in run.stderr
