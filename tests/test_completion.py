"""`certlet completion`: what bash offers at Tab, asked as bash asks."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from service import cli
from service.pki import keys
from tests.serving import certlet

COMMANDS = {
    *("serve", "key", "init", "rollover", "revoke", "openapi", "check", "sign"),
    *("new", "renew", "show", "trust", "completion"),
}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `certlet completion bash` prints, in a file."""
    directory = tmp_path_factory.mktemp("completion")
    run = certlet("completion", "bash", cwd=directory)
    assert run.returncode == 0, run.stderr
    (directory / "certlet").write_bytes(run.stdout)
    return directory / "certlet"


def offered(script: Path, *words: str) -> set[str]:
    """What is offered for the last of these words, which is not yet whole."""
    asking = f'source "$0"; COMP_WORDS=("$@"); COMP_CWORD={len(words)}; _certlet; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "--norc", "-uc", asking, str(script), "certlet", *words]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([""], COMMANDS),
        (["re"], {"renew", "revoke"}),
        (["-"], {"-h", "--help", "--version"}),
        (["no"], set()),
        (["new", "--ke"], {"--key"}),
        (["new", "--key", ""], set(keys.GENERATORS)),
        (["new", "--key", "="], set(keys.GENERATORS)),
        (["new", "--key", "=", "p-3"], {"p-384"}),
        (["new", "--p12", ""], set()),
        (["sign", "new", ""], set()),
        (["key", ""], {"add", "list", "remove"}),
        (["key", "add", "-"], {"-h", "--help", "--ca"}),
        (["key", "--ca"], set()),
        (["completion", "z"], {"zsh"}),
        (["revoke", "--reason", "key"], {"keyCompromise"}),
        (["show", ""], set()),
    ],
)
def test_bash_offers(script: Path, words: list[str], found: set[str]) -> None:
    """Commands, actions, options and choices, each where it may stand; names of files are bash's own to offer."""
    assert offered(script, *words) == found


def test_every_option_is_offered(script: Path) -> None:
    """Each command's options are offered, all of them and no other's."""
    (beneath,) = [each for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert set(beneath.choices) == COMMANDS
    for name, parser in beneath.choices.items():
        options = {flag for action in parser._actions for flag in action.option_strings}
        assert offered(script, name, "-") == options


def test_every_argument_is_explained() -> None:
    """--help has a line on each command and each argument."""
    left = [cli.parser()]
    while left:
        for action in left.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert [each.dest for each in action._choices_actions if each.help] == list(action.choices)
                left += action.choices.values()
            else:
                assert action.help, action


def test_only_shells_are_known(tmp_path: Path) -> None:
    """Another shell is refused, in one line."""
    run = certlet("completion", "csh", cwd=tmp_path)
    assert run.returncode == 2
    assert b"invalid choice: 'csh'" in run.stderr
