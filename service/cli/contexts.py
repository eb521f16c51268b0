"""The services of `certlet login`, in the user's configuration directory; and commands that change them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509

from service import atomic_write
from service.cli.terminal import Command, CommandError, Group, json_option, note, report
from service.client import Service

FILE: Final = "contexts.json"
_MODE: Final = 0o600


@dataclass(frozen=True)
class Context:
    """A service, its root certificate (PEM) and the caller's API key; '' if they are not stored."""

    url: str
    root_pem: str = ""
    api_key: str = field(default="", repr=False)

    @property
    def service(self) -> Service:
        """The service."""
        return Service(self.url, self.root_pem)


@dataclass(frozen=True)
class Contexts:
    """The contexts by name, and the name of the current one; '' if there is none."""

    current: str = ""
    by_name: Mapping[str, Context] = field(default_factory=dict)

    def find(self, name: str | None, url: str | None) -> Context | None:
        """Find the context of this name, or of this URL, or the current one; None if there is none.

        Raises:
            CommandError: there is no context of this name.
        """
        if url is not None:
            same = (context for context in self.by_name.values() if context.url == url.rstrip("/"))
            return next(same, None)
        if name is not None and name not in self.by_name:
            raise CommandError(f"there is no context {name}: certlet context list shows them")
        return self.by_name.get(self.current if name is None else name)


def path() -> Path:
    """Return the path of the file; `XDG_CONFIG_HOME` changes its directory on Linux."""
    return Path(click.get_app_dir("certlet")) / FILE


def load() -> Contexts:
    """Load the contexts; CommandError if the file is damaged."""
    try:
        return _parse(json.loads(path().read_bytes()))
    except FileNotFoundError:
        return Contexts()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"{path()} is damaged: delete it, and log in again") from error


def _parse(content: Any) -> Contexts:  # noqa: ANN401 - JSON
    """Parse the content of the file; a ValueError, KeyError, TypeError or AttributeError if it is damaged."""
    contexts = Contexts(
        content["current"], {name: Context(**members) for name, members in content["contexts"].items()}
    )
    for item in contexts.by_name.values():
        if not all(isinstance(text, str) for text in vars(item).values()):
            raise TypeError("a member of a context is not a string")
        if item.root_pem:
            x509.load_pem_x509_certificate(item.root_pem.encode())
    if contexts.current not in ("", *contexts.by_name):
        raise ValueError("the current context does not exist")
    return contexts


def change(update: Callable[[Contexts], Contexts]) -> Contexts:
    """Change the contexts in the file, which only the user can read; return the new ones."""
    path().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_write.locked_directory(path().parent):
        contexts = update(load())
        members = {name: asdict(context) for name, context in contexts.by_name.items()}
        text = json.dumps({"current": contexts.current, "contexts": members}, indent=2)
        atomic_write.write_atomically(path(), f"{text}\n".encode(), _MODE)
    return contexts


@click.group(cls=Group, no_args_is_help=False, epilog="Example: certlet context use ca.example.com")
def context() -> None:
    """Choose between the services of certlet login."""


@context.command("list", epilog="Example: certlet context list --json")
@json_option
def list_contexts() -> None:
    """List the contexts; * marks the current one."""
    contexts = load()
    for name, item in contexts.by_name.items():
        is_current = name == contexts.current
        facts = {"name": name, "url": item.url, "current": is_current}
        report(facts, f"{'*' if is_current else ' '} {name}  {item.url}")


@context.command(epilog="Example: certlet context use ca.example.com")
@click.argument("name")
def use(*, name: str) -> None:
    """Make a context the current one, which commands use without --url and --context."""

    def update(contexts: Contexts) -> Contexts:
        contexts.find(name, None)
        return Contexts(name, contexts.by_name)

    change(update)


@click.command(cls=Command, epilog="Example: certlet logout ca.example.com")
@click.argument("name", required=False, metavar="[NAME]")
def logout(*, name: str | None) -> None:
    """Delete a context, and with it the API key on this machine.

    NAME is that of certlet context list, by default the current one. The API key stays valid until the
    operator removes it with certlet api-key remove.
    """

    def update(contexts: Contexts) -> Contexts:
        if contexts.find(name, None) is None:
            raise CommandError("there is no current context: pass NAME of certlet context list")
        removed = contexts.current if name is None else name
        rest = {other: item for other, item in contexts.by_name.items() if other != removed}
        return Contexts("" if removed == contexts.current else contexts.current, rest)

    contexts = change(update)
    if contexts.by_name and not contexts.current:
        note("there is no current context now: certlet context use NAME chooses one")
