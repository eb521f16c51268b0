"""`certlet completion`: what a shell offers at Tab, made from the very parsers that read the arguments."""

from __future__ import annotations

import argparse
import functools
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.cli.arguments import Commands
from service.cli.terminal import say


@dataclass(frozen=True)
class _Argument:
    """An option, or a positional argument, which has no flags.

    Attributes:
        flags: `-h`, `--help`.
        name: what stands for its value in the help; '' if it takes none.
        choices: its values, if only some are allowed.
        is_path: whether its value is the name of a file or a directory.
        help: one line, '' for none.
    """

    flags: tuple[str, ...]
    name: str
    choices: tuple[str, ...]
    is_path: bool
    help: str


@dataclass(frozen=True)
class _Command:
    """A command, the whole program, or an action of a command.

    Attributes:
        words: how it is called: none for the whole, `("key", "add")`.
        help: one line.
        arguments: what it takes.
        commands: what is beneath it.
    """

    words: tuple[str, ...]
    help: str
    arguments: tuple[_Argument, ...]
    commands: tuple[_Command, ...]

    @property
    def options(self) -> list[_Argument]:
        """Those of its arguments that have flags."""
        return [each for each in self.arguments if each.flags]

    @property
    def positionals(self) -> list[_Argument]:
        """Those that have none."""
        return [each for each in self.arguments if not each.flags]

    def all(self) -> Iterator[_Command]:
        """It, and all that is beneath it."""
        yield self
        for each in self.commands:
            yield from each.all()


def add_to(commands: Commands, whole: argparse.ArgumentParser) -> None:
    """Add `completion`, of the whole program."""
    completion = commands.add_parser(
        "completion",
        help="print what lets a shell complete certlet's arguments",
        epilog="bash: certlet completion bash > ~/.local/share/bash-completion/completions/certlet; "
        'zsh: certlet completion zsh > "${fpath[1]}/_certlet"; '
        "fish: certlet completion fish > ~/.config/fish/completions/certlet.fish",
    )
    completion.add_argument("shell", choices=sorted(_SHELLS), metavar="SHELL", help="bash, fish or zsh")
    completion.set_defaults(run=functools.partial(_completion, whole))


def _completion(whole: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for line in _SHELLS[options.shell](_read(whole)):
        say(line)


def _read(parser: argparse.ArgumentParser, words: tuple[str, ...] = (), summary: str = "") -> _Command:
    """What a parser takes."""
    arguments, commands = [], []
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to ask a parser
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - nor names what holds commands
            told = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001 - nor their help
            commands += [
                _read(each, (*words, name), told.get(name, "")) for name, each in action.choices.items()
            ]
        else:
            metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
            arguments.append(
                _Argument(
                    tuple(action.option_strings),
                    "" if action.nargs == 0 else metavar,
                    tuple(map(str, action.choices or ())),
                    action.type is Path,
                    action.help or "",
                )
            )
    return _Command(words, summary, tuple(arguments), tuple(commands))


def _bash(whole: _Command) -> Iterator[str]:
    """A function that sets COMPREPLY (bash(1), Programmable Completion), for bash 3.2 too."""
    yield "_certlet() {"
    yield "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= words= i"
    yield "    # --key=p-256 is three words here."
    yield "    if [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi"
    yield "    if [[ $cur == = ]]; then cur=; fi"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        case "$command ${COMP_WORDS[i]}" in'
    known = "|".join(
        shlex.quote(f"{' '.join(each.words[:-1])} {each.words[-1]}") for each in list(whole.all())[1:]
    )
    yield f"            {known}) command=${{command:+$command }}${{COMP_WORDS[i]}} ;;"
    yield "        esac"
    yield "    done"
    yield "    COMPREPLY=()"
    yield '    case "$command $prev" in'
    for command in whole.all():
        for option in command.options:
            if option.name:
                called = "|".join(shlex.quote(f"{' '.join(command.words)} {flag}") for flag in option.flags)
                yield f"        {called}) {_bash_words(option.choices)} ;;"
    yield "    esac"
    yield '    case "$command" in'
    for command in whole.all():
        flags = [flag for option in command.options for flag in option.flags]
        offered = [each.words[-1] for each in command.commands]
        offered += [choice for each in command.positionals for choice in each.choices]
        yield f"        {shlex.quote(' '.join(command.words))})"
        yield f"            if [[ $cur == -* ]]; then words={shlex.quote(' '.join(flags))}"
        yield f"            else words={shlex.quote(' '.join(offered))}; fi ;;"
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$cur"))'
    yield "}"
    yield "# Where it offers nothing, names of files are offered."
    yield "complete -o default -F _certlet certlet"


def _bash_words(choices: Sequence[str]) -> str:
    if not choices:
        return "return"
    return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(choices))} -- "$cur")); return'


def _zsh(whole: _Command) -> Iterator[str]:
    """Functions around `_arguments` (zshcompsys(1)), one a command."""
    yield "#compdef certlet"
    for command in whole.all():
        yield f"{_zsh_name(command)}() {{"
        yield "    local context state state_descr line"
        yield "    typeset -A opt_args"
        parts = [_zsh_option(each) for each in command.options]
        if command.commands:
            parts += ["'1:command:->command'", "'*::argument:->argument'"]
        parts += [_zsh_positional(each) for each in command.positionals]
        yield f"    _arguments -C {' '.join(parts)}"
        if command.commands:
            yield "    case $state in"
            told = (shlex.quote(f"{each.words[-1]}:{each.help}") for each in command.commands)
            yield f"        command) local -a found=({' '.join(told)}); _describe command found ;;"
            yield "        argument) case $words[1] in"
            for each in command.commands:
                yield f"            {each.words[-1]}) {_zsh_name(each)} ;;"
            yield "        esac ;;"
            yield "    esac"
        yield "}"
    yield "# Loaded from a directory of $fpath, or sourced."
    yield 'if [[ $funcstack[1] == _certlet ]]; then _certlet "$@"; else compdef _certlet certlet; fi'


def _zsh_name(command: _Command) -> str:
    return "_".join(("_certlet", *command.words))


def _zsh_option(option: _Argument) -> str:
    plain = option.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    text = f"[{plain}]" if plain else ""
    value = f":{option.name}:{_zsh_values(option)}" if option.name else ""
    return " ".join(shlex.quote(f"*{flag}{text}{value}") for flag in option.flags)


def _zsh_positional(argument: _Argument) -> str:
    return shlex.quote(f"*:{argument.name}:{_zsh_values(argument)}")


def _zsh_values(argument: _Argument) -> str:
    if argument.choices:
        return f"({' '.join(argument.choices)})"
    return "_files" if argument.is_path else "()"  # a space would be a message, which keeps Tab from its work


def _fish(whole: _Command) -> Iterator[str]:
    """One `complete` for each thing that is offered (fish's complete(1))."""
    yield "complete -c certlet -f"
    for command in whole.all():
        beneath = [each.words[-1] for each in command.commands]
        seen = [f"__fish_seen_subcommand_from {word}" for word in command.words]
        unseen = [f"not __fish_seen_subcommand_from {' '.join(beneath)}"] if beneath else []
        rule = f"complete -c certlet -n {_fish_quoted('; and '.join(seen + unseen))}"
        for each in command.commands:
            yield f"{rule} -a {each.words[-1]} -d {_fish_quoted(each.help)}"
        for option in command.options:
            names = " ".join(
                f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}" for flag in option.flags
            )
            yield f"{rule} {names}{_fish_values(option)} -d {_fish_quoted(option.help)}"
        for positional in command.positionals:
            if positional.choices:
                yield f"{rule} -a {_fish_quoted(' '.join(positional.choices))}"
            elif positional.is_path:
                yield f"{rule} -F"


def _fish_values(option: _Argument) -> str:
    if not option.name:
        return ""
    if option.choices:
        return f" -x -a {_fish_quoted(' '.join(option.choices))}"
    return " -r -F" if option.is_path else " -x"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: Final[dict[str, Callable[[_Command], Iterator[str]]]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
