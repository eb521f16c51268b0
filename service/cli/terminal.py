"""Output to the terminal, and the error of a failed command.

All text from certificates, requests and servers is printed here. Control characters are escaped, so that such
text can neither move the cursor nor forge a line of output.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import click

from service.pki.errors import escape_controls


class CommandError(click.ClickException):
    """A command failed; the message says why and what to do."""


def echo(line: str) -> None:
    """Print a line on stdout and flush it."""
    _print(line, err=False)


def echo_lines(lines: Iterable[str]) -> None:
    """Print many lines on stdout, and flush it at the end."""
    for line in lines:
        sys.stdout.write(_printable(line, sys.stdout) + "\n")
    sys.stdout.flush()


def format_table(headings: Sequence[str], rows: Callable[[], Iterable[Sequence[str]]]) -> Iterator[str]:
    """Format a table, without the headings if it has no rows.

    Args:
        headings: the headings; the last column is not padded.
        rows: returns the rows; it is called twice, so that they need not be in memory for the widths.
    """
    widths = [0] * (len(headings) - 1)
    for row in rows():
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=False)]
    if any(widths):
        widths = [max(width, len(heading)) for width, heading in zip(widths, headings, strict=False)]
        for row in itertools.chain([headings], rows()):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            yield "  ".join((*cells, row[-1]))


def warn(message: str) -> None:
    """Print an error, a warning or a note on stderr, which may have several lines."""
    for line in message.split("\n"):
        _print(line, err=True)


def describe_os_error(error: OSError, path: Path | None = None) -> str:
    """Describe an error of the operating system, with the file's name unless that is `path`."""
    name = f"{error.filename}: " if error.filename and str(error.filename) != str(path) else ""
    return name + (error.strerror or str(error))


def _print(line: str, *, err: bool) -> None:
    click.echo(_printable(line, sys.stderr if err else sys.stdout), err=err)


def _printable(line: str, file: TextIO) -> str:
    """Escape what is not printable, or not in the encoding of the file."""
    encoding = file.encoding or "utf-8"
    return escape_controls(line).encode(encoding, "backslashreplace").decode(encoding)
