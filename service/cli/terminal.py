"""What reaches the terminal, and the one error of a command that cannot do what it is asked.

Text of a certificate, a request or a server reaches the terminal only through here, where control characters
are escaped: no name moves the cursor, or draws a line that is not ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from service.pki.errors import escape_controls


class CommandError(click.ClickException):
    """The command cannot do what it was asked; the message is for people."""


def say(line: str) -> None:
    """Print a line on stdout, at once."""
    _echo(line, err=False)


def warn(message: str) -> None:
    """Print what went wrong, or is to be known, on stderr: one line, or one for each reason."""
    for line in message.split("\n"):
        _echo(line, err=True)


def os_error(error: OSError, path: Path | None = None) -> str:
    """What the system says of a file, after its name unless that is `path`."""
    name = f"{error.filename}: " if error.filename and str(error.filename) != str(path) else ""
    return name + (error.strerror or str(error))


def _echo(line: str, *, err: bool) -> None:
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    click.echo(escape_controls(line).encode(encoding, "backslashreplace").decode(encoding), err=err)
