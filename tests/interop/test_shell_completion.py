"""bash, fish and zsh complete with the scripts of `certlet completion`."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests import servers
from tests.servers import certlet

KEYS = {"p-256", "p-384", "p-521"}


def prepare(shell: str, directory: Path) -> tuple[Path, dict[str, str]]:
    """Write a completion script and a file `mine.crt`; return the script and an environment with `certlet`."""
    run = certlet("completion", shell, cwd=directory)
    assert run.returncode == 0, run.stderr
    (directory / "script").write_bytes(run.stdout)
    (directory / "mine.crt").touch()
    path = f"{servers.create_script(directory / 'bin' / 'certlet').parent}:{os.environ['PATH']}"
    return directory / "script", servers.environ(HOME=str(directory), TERM="dumb", PATH=path)


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("certlet rol", {"rollover"}),
        ("certlet new --key-type p-", KEYS),
        ("certlet api-key ", {"add", "list", "remove"}),
        (
            "certlet api-key add --",
            {"--ca", "--expires", "--from-env", "--from-stdin", "--help", "--json", "--quiet"},
        ),
        ("certlet completion ", {"bash", "fish", "zsh"}),
        ("certlet show mi", {"mine.crt"}),
        ("certlet new mi", set()),
        ("certlet new --p12 mi", {"mine.crt"}),
        ("certlet sign --profile mi", set()),
    ],
)
def test_fish_completes_words(tmp_path: Path, line: str, completions: set[str]) -> None:
    """Commands, subcommands, options and choices; file names only where a file is expected."""
    command = ("fish", "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"')
    script, env = prepare("fish", tmp_path)
    run = servers.run(*command, script, line, cwd=tmp_path, env=env)
    assert run.stderr == ""
    assert {row.partition("\t")[0] for row in run.stdout.splitlines()} == completions


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("certlet rol", "certlet rollover"),
        ("certlet new --key-type p-2", "certlet new --key-type p-256"),
        ("certlet api-key ad", "certlet api-key add"),
        ("certlet api-key add --c", "certlet api-key add --ca"),
        ("certlet new --pro", "certlet new --profile"),
        ("certlet show mi", "certlet show mine.crt"),
    ],
)
@pytest.mark.parametrize(
    ("shell", "load"),
    [
        (("bash", "--norc", "--noprofile", "-i"), ""),
        (("zsh", "-f", "-i"), "autoload -U compinit; compinit -u -D; "),
    ],
    ids=["bash", "zsh"],
)
def test_tab_completes_the_line(
    tmp_path: Path, shell: tuple[str, ...], load: str, line: str, completed: str
) -> None:
    """At a terminal, Tab completes commands, subcommands, options, choices and files."""
    script, env = prepare(shell[0], tmp_path)
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *shell], cwd=tmp_path, env=env, stdin=inside, stdout=inside, stderr=inside
    ) as process:
        os.close(inside)
        try:
            os.write(terminal, f"{load}source {script}; PS1='load''ed '\n".encode())
            _read_until(terminal, "loaded ")
            os.write(terminal, f"{line}\t".encode())
            _read_until(terminal, completed)
        finally:
            process.kill()
            os.close(terminal)


def _read_until(terminal: int, text: str, seconds: float = 60) -> None:
    """Read the output of the shell until it contains a text."""
    output, end = "", time.monotonic() + seconds
    while text not in output:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        if not ready:
            raise AssertionError(f"no {text!r} in the output {output!r}")
        output += os.read(terminal, 4096).decode(errors="replace")
