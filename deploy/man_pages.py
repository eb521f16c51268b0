"""The manual pages of `certlet`, one for each command: `python -m deploy.man_pages DIR`.

They have the texts of `--help`, with the macros of man(7). `make dist` adds them to the package.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click

from deploy import reference
from service import openapi

# Without these, troff prints typographic characters, which cannot be pasted into a shell.
_GLYPHS: Final = {"\\": "e", "-": "-", "'": "(aq", "`": "(ga", "^": "(ha", "~": "(ti", '"': "(dq"}
_EXIT_STATUS: Final = "Exit status: "

Definition = tuple[str, str]  # a term in troff's markup, and a text


def create_pages(date: str) -> dict[str, str]:
    """Return each page by the name of its file.

    Args:
        date: the date of the pages, such as 2030-12-31.
    """
    contexts = dict(reference.commands())
    version = openapi.load()["info"]["version"]
    pages = {}
    for name, context in contexts.items():
        command, page = context.command, _hyphenate(name)
        children = [other for other in contexts if other.startswith(f"{name} ")]
        parents = [other for other in contexts if name.startswith(f"{other} ")]
        lines = [
            f'.TH {escape(page.upper())} 1 {date} "certlet {version}" "Certlet manual"',
            *(".nh", ".ad l"),  # variables and URLs are not hyphenated
            *(".SH NAME", f"{escape(page)} \\- {escape(_summarize(command))}"),
            *(".SH SYNOPSIS", f"{_bold(name)} {escape(' '.join(command.collect_usage_pieces(context)))}"),
            *_description(command),
            *_definitions("COMMANDS", (_define(contexts[child]) for child in children)),
            *_definitions("OPTIONS", _options(context)),
            *_exit_status(command, contexts["certlet"].command),
            *_definitions("ENVIRONMENT", _variables(command)),
            *_example(command),
            *(".SH SEE ALSO", ", ".join(f"{_bold(_hyphenate(other))}(1)" for other in parents + children)),
        ]
        pages[f"{page}.1"] = "\n".join(lines) + "\n"
    return pages


def escape(text: str) -> str:
    """Escape a text for troff: one line of ASCII."""
    line = "".join(
        f"\\{_GLYPHS[char]}" if char in _GLYPHS else char if char.isascii() else f"\\[u{ord(char):04X}]"
        for char in " ".join(text.split())
    )
    return f"\\&{line}" if line.startswith(".") else line


def _bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def _hyphenate(name: str) -> str:
    return name.replace(" ", "-")


def _summarize(command: click.Command) -> str:
    """The first line of the help as a phrase, as the section NAME has it."""
    summary = (command.help or "").partition("\n")[0].removesuffix(".")
    return summary[:1].lower() + summary[1:]


def _define(context: click.Context) -> Definition:
    return _bold(context.command_path), _summarize(context.command)


def _paragraphs(command: click.Command) -> list[str]:
    return inspect.cleandoc(command.help or "").split("\n\n")


def _description(command: click.Command) -> Iterator[str]:
    first, *others = (text for text in _paragraphs(command) if not text.startswith(_EXIT_STATUS))
    yield from (".SH DESCRIPTION", escape(first))
    for text in others:
        yield from (".PP", escape(text))


def _exit_status(command: click.Command, root: click.Command) -> Iterator[str]:
    """The exit status from the help, otherwise that of `certlet`."""
    texts = [text for text in (*_paragraphs(command), root.epilog or "") if text.startswith(_EXIT_STATUS)]
    yield from (".SH EXIT STATUS", escape(texts[0].removeprefix(_EXIT_STATUS)))


def _definitions(heading: str, definitions: Iterable[Definition]) -> Iterator[str]:
    """A section of terms and their texts; nothing if it is empty."""
    lines = [line for term, text in definitions for line in (".TP", term, escape(text))]
    yield from ([f".SH {heading}", *lines] if lines else [])


def _options(context: click.Context) -> Iterator[Definition]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[1]:  # an argument has no help
            yield re.sub("[^ ,]+", _mark_up, record[0]), record[1]


def _mark_up(match: re.Match[str]) -> str:
    """Bold options, italic metavariables."""
    return _bold(match[0]) if match[0].startswith("-") else f"\\fI{escape(match[0])}\\fR"


def _variables(command: click.Command) -> Iterator[Definition]:
    for option in command.params:
        if isinstance(option, click.Option) and option.show_envvar and option.envvar:
            yield _bold(str(option.envvar)), f"The default of {option.opts[0]}."


def _example(command: click.Command) -> Iterator[str]:
    kind, _, example = (command.epilog or "").partition(": ")
    if kind.startswith("Example"):
        yield from (".SH EXAMPLES", ".nf", *map(escape, example.split("; ")), ".fi")


def main(directory: Path) -> None:
    """Write the pages into a directory, which is created."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    directory.mkdir(parents=True, exist_ok=True)
    for name, page in create_pages(time.strftime("%Y-%m-%d", time.gmtime(seconds))).items():
        (directory / name).write_text(page)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
