"""Output to the terminal, and the error of a failed command.

All text from certificates, requests and servers is printed here. Control characters and line breaks are
escaped, so that such text can neither move the cursor nor forge a line of output.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from service.pki.errors import escape_controls

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from pathlib import Path

_QUIET: Final = "quiet"
_JSON: Final = "as_json"
_DETAIL: Final = "\n  "  # before each of several reasons of `client.ClientError`
_EXIT_STATUS: Final = "Exit status:"
_STATUSES: Final = "0 on success; 1 on failure; 2 if the arguments are invalid; 4 without permission."
_SERVICE_STATUSES: Final = (
    "0 on success; 1 on failure; 2 if the arguments are invalid; 3 if a later attempt may succeed; 4 without "
    "permission; 5 if the service cannot be reached."
)


class CommandError(click.ClickException):
    """A command failed; the message, one line, says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(escape_controls(message))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`, for `report`."""
    text = "Print JSON instead of text, one object a line."
    flag = click.option("--json", _JSON, is_flag=True, expose_value=False, callback=_store, help=text)
    return flag(command)


class Command(click.Command):
    """A command with `--quiet`, whose help names its exit statuses.

    Args:
        name: the name.
        uses_service: whether it sends requests to a service, so that it has the statuses of `ClientError`.
        attributes: those of `click.Command`.
    """

    def __init__(self, name: str | None, *, uses_service: bool = False, **attributes: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(name, **attributes)
        text = "Print only errors, and the certificate or key that is the result."
        names = ["-q", "--quiet", _QUIET]
        self.params.append(click.Option(names, is_flag=True, expose_value=False, callback=_store, help=text))
        _add_exit_statuses(self, _SERVICE_STATUSES if uses_service else _STATUSES)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. click's error for a missing value does not name the command."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class Group(click.Group):
    """A group of such commands; the arguments are those of `Command`."""

    command_class = Command

    def __init__(self, name: str | None, *, uses_service: bool = False, **attributes: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(name, **attributes)
        _add_exit_statuses(self, _SERVICE_STATUSES if uses_service else _STATUSES)


def _add_exit_statuses(command: click.Command, statuses: str) -> None:
    if _EXIT_STATUS not in str(command.help):
        command.help = f"{inspect.cleandoc(command.help or '')}\n\n{_EXIT_STATUS} {statuses}"


def _store(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    ctx.meta[str(parameter.name)] = value


def _is_set(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(name))


def has_text() -> bool:
    """Whether lines for people are printed on stdout: neither `--json` nor `--quiet` is an argument."""
    return not (is_json() or is_quiet())


def is_quiet() -> bool:
    """Whether `--quiet` is among the arguments."""
    return _is_set(_QUIET)


def is_json() -> bool:
    """Whether `--json` is among the arguments."""
    return _is_set(_JSON)


def report(facts: Mapping[str, object], *lines: str, result: str = "") -> None:
    """Print facts: lines for people, or with `--json` one object.

    With `--quiet` it prints only `result`, a certificate, key or error in the facts, or the object with it.
    """
    if is_json():
        import json  # noqa: PLC0415 - slow to import, and --help does not need it

        lines = (json.dumps(facts),)
    elif is_quiet():
        lines = tuple(result.splitlines())
    if result or not is_quiet():
        _write(lines)


def note(text: str) -> None:
    """Print a note on stderr, without `--quiet`."""
    if not is_quiet():
        warn(f"note: {escape_controls(text)}")


def echo(line: str) -> None:
    """Print a line on stdout and flush it; with `--quiet` nothing."""
    echo_lines((line,))


def echo_lines(lines: Iterable[str]) -> None:
    """Print many lines on stdout, and flush it at the end; with `--quiet` nothing."""
    _write(() if is_quiet() else lines)


def _write(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            sys.stdout.write(_printable(line, sys.stdout) + "\n")
        sys.stdout.flush()
    except OSError as error:
        error.filename = "stdout"
        raise


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
    """Print an error, a warning or a note on stderr.

    Only the error of a refused request has several lines: a line break before an indented one is printed,
    and any other is escaped. The text of others must be escaped, as `note` and `CommandError` do.
    """
    first, *details = message.split(_DETAIL)
    for line in (first, *(f"  {detail}" for detail in details)):
        click.echo(_printable(line, sys.stderr), err=True)


def prompt_secret(name: str, variable: str, *, is_repeated: bool = False) -> str:
    """Have the user type a secret, which the terminal does not show; twice if `is_repeated`.

    Raises:
        CommandError: stdin is not a terminal, or the secret is not UTF-8.
    """
    if not sys.stdin.isatty():
        raise CommandError(f"no terminal to prompt for the {name}: set ${variable}")
    try:
        typed = str(click.prompt(name, hide_input=True, confirmation_prompt=is_repeated, err=True))
        typed.encode()
    except UnicodeError as error:
        raise CommandError(f"the {name} is not UTF-8") from error
    return typed


def describe_os_error(error: OSError, path: Path | None = None) -> str:
    """Describe an error of the operating system, with the file's name unless that is `path`."""
    name = f"{error.filename}: " if error.filename and str(error.filename) != str(path) else ""
    return escape_controls(name + (error.strerror or str(error)))


def _printable(line: str, file: TextIO) -> str:
    """Escape what is not printable, or not in the encoding of the file."""
    encoding = file.encoding or "utf-8"
    return escape_controls(line).encode(encoding, "backslashreplace").decode(encoding)
