"""What reaches the terminal, and the one error of a command that cannot do what it is asked."""

from __future__ import annotations

import sys


class CommandError(Exception):
    """What the command was asked cannot be done; the message is for people."""


def say(line: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
