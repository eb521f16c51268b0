"""What reaches the terminal, and the one error of a command that cannot do what it is asked.

Text of a certificate, a request or a server never reaches it but through here, where control characters
are escaped: no name moves the cursor, or draws a line that is none of ours.
"""

from __future__ import annotations

import sys
from typing import TextIO

from service.pki.errors import printable


class CommandError(Exception):
    """What the command was asked cannot be done; the message is for people."""


class ArgumentsError(CommandError):
    """The arguments make no sense together; the message says which."""


def say(line: str) -> None:
    """Print a line, at once."""
    _write(sys.stdout, line)


def warn(message: str) -> None:
    """Print what went wrong, or is to be known, on stderr: one line, or one for each reason."""
    for line in message.split("\n"):
        _write(sys.stderr, line)


def _write(stream: TextIO, line: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
