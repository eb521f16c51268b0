"""What `certlet completion` prints, loaded by fish and zsh, which then offer it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests import serving
from tests.serving import certlet

KEYS = {"p-256", "p-384", "p-521"}


def script(shell: str, directory: Path) -> Path:
    run = certlet("completion", shell, cwd=directory)
    assert run.returncode == 0, run.stderr
    (directory / f"certlet.{shell}").write_bytes(run.stdout)
    return directory / f"certlet.{shell}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("certlet ro", {"rollover"}),
        ("certlet new --key p-", KEYS),
        ("certlet key ", {"add", "list", "remove"}),
        ("certlet key add --", {"--ca", "--help"}),
        ("certlet completion ", {"bash", "fish", "zsh"}),
        ("certlet show mi", {"mine.crt"}),
        ("certlet new mi", set()),
        ("certlet new --p12 mi", {"mine.crt"}),
        ("certlet sign --profile mi", set()),
    ],
)
def test_fish_offers(tmp_path: Path, line: str, found: set[str]) -> None:
    """Commands, actions, options, choices, and files where files are taken."""
    (tmp_path / "mine.crt").write_text("")
    command = ("fish", "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"')
    env = serving.environ(HOME=str(tmp_path))
    run = serving.run(*command, script("fish", tmp_path), line, cwd=tmp_path, env=env)
    assert run.stderr == ""
    assert {each.partition("\t")[0] for each in run.stdout.splitlines()} == found


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("certlet ro", "certlet rollover"),
        ("certlet new --key p-2", "certlet new --key p-256"),
        ("certlet key ad", "certlet key add"),
        ("certlet key add --c", "certlet key add --ca"),
        ("certlet new --pro", "certlet new --profile"),
        ("certlet show mi", "certlet show mine.crt"),
    ],
)
def test_zsh_completes(tmp_path: Path, line: str, whole: str) -> None:
    """At a terminal, Tab makes the line whole."""
    (tmp_path / "mine.crt").write_text("")
    terminal, inside = pty.openpty()
    command = ["setsid", "--ctty", "zsh", "-f", "-i"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=serving.environ(HOME=str(tmp_path), TERM="dumb"),
        stdin=inside,
        stdout=inside,
        stderr=inside,
    ) as process:
        os.close(inside)
        try:
            load = f"autoload -U compinit; compinit -u -D; source {script('zsh', tmp_path)}; PS1='load''ed '"
            os.write(terminal, f"{load}\n".encode())
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
