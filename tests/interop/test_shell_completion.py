"""What `certlet completion` prints, loaded by bash, fish and zsh, which then ask `certlet` what to offer."""

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


def prepared(shell: str, directory: Path) -> tuple[Path, dict[str, str]]:
    """The script for a shell, and an environment in which `certlet` is a program; and a file, `mine.crt`."""
    run = certlet("completion", shell, cwd=directory)
    assert run.returncode == 0, run.stderr
    (directory / "script").write_bytes(run.stdout)
    (directory / "mine.crt").touch()
    path = f"{servers.create_script(directory / 'bin' / 'certlet').parent}:{os.environ['PATH']}"
    return directory / "script", servers.environ(HOME=str(directory), TERM="dumb", PATH=path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("certlet ro", {"rollover"}),
        ("certlet new --key-type p-", KEYS),
        ("certlet api-key ", {"add", "list", "remove"}),
        ("certlet api-key add --", {"--ca", "--help"}),
        ("certlet completion ", {"bash", "fish", "zsh"}),
        ("certlet show mi", {"mine.crt"}),
        ("certlet new mi", set()),
        ("certlet new --p12 mi", {"mine.crt"}),
        ("certlet sign --profile mi", set()),
    ],
)
def test_fish_offers(tmp_path: Path, line: str, found: set[str]) -> None:
    """Commands, actions, options, choices, and files where files are taken."""
    command = ("fish", "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"')
    script, env = prepared("fish", tmp_path)
    run = servers.run(*command, script, line, cwd=tmp_path, env=env)
    assert run.stderr == ""
    assert {each.partition("\t")[0] for each in run.stdout.splitlines()} == found


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("certlet ro", "certlet rollover"),
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
def test_tab_makes_the_line_whole(
    tmp_path: Path, shell: tuple[str, ...], load: str, line: str, whole: str
) -> None:
    """At a terminal, Tab completes commands, actions, options, choices and files."""
    script, env = prepared(shell[0], tmp_path)
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *shell], cwd=tmp_path, env=env, stdin=inside, stdout=inside, stderr=inside
    ) as process:
        os.close(inside)
        try:
            os.write(terminal, f"{load}source {script}; PS1='load''ed '\n".encode())
            _read(terminal, "loaded ")
            os.write(terminal, f"{line}\t".encode())
            _read(terminal, whole)
        finally:
            process.kill()
            os.close(terminal)


def _read(terminal: int, awaited: str, seconds: float = 60) -> None:
    """Read what the shell writes until it has written something."""
    found, end = "", time.monotonic() + seconds
    while awaited not in found:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        if not ready:
            raise AssertionError(f"no {awaited!r} came, but {found!r}")
        found += os.read(terminal, 4096).decode(errors="replace")
