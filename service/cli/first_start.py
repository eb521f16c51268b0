"""What the first start of `certlet serve --create` creates, and a start that fails removes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Final, NamedTuple

from service.cli.options import API_KEY, KEY_FILE
from service.cli.serve_checks import open_ledger
from service.cli.terminal import CommandError, warn
from service.gateway import api_keys
from service.keystore import ca_directory
from service.settings import AUDIT_LOG

DEFAULT_KEY: Final = "default"  # the name of the API key of the first start or the environment
_SQLITE_SUFFIXES: Final = ("", "-wal", "-shm")


class Created(NamedTuple):
    """What a start created: whether a CA, and the value of an API key, '' for none."""

    ca: bool
    api_key: str


def create_missing(
    settings: SimpleNamespace, directory: Path, environ: Mapping[str, str], rollback: ExitStack
) -> Created:
    """Create what does not exist, if the options say so; nothing that was lost is created again by accident.

    Args:
        settings: the options.
        directory: the CA's directory; it need not exist.
        environ: the environment of the workers, which create the logs.
        rollback: gets callbacks that remove what was created, and the logs.

    Raises:
        CommandError: the CA or the ledger cannot be created.
        KeyFileError, OSError: the API key cannot be created.
    """
    may_create = settings.create or settings.ephemeral
    has_new_ca, new_key = may_create and not ca_directory.has_ca(directory), ""
    if has_new_ca:
        _create_ca(directory, rollback)
    if may_create and settings.ledger and not settings.ledger.exists():
        _create_ledger(settings.ledger, rollback)
    key_file = api_keys.KeyFile(directory / KEY_FILE)
    # In a container the directory may be read-only, and callers may have tokens instead of keys.
    may_create_key = may_create and os.access(directory, os.W_OK)
    if may_create_key and not (os.environ.get(API_KEY) or key_file.read()):
        new_key = _create_api_key(key_file, rollback)
    if log := environ.get(AUDIT_LOG):
        _remove_new_log(Path(log), rollback, has_new_ca=has_new_ca)
    return Created(has_new_ca, new_key)


def _create_ca(directory: Path, rollback: ExitStack) -> None:
    """Create a CA in a child process, so that no key is ever in the memory of this one."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    before = set(directory.iterdir()) if directory.is_dir() else set()
    rollback.callback(_remove, (), missing)  # `init` removes its files if it fails
    command = [sys.executable, "-P", "-m", "service.cli", "init", str(directory)]
    init = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if init.returncode:
        reason = init.stderr.rpartition("certlet: ")[2].strip() or f"exit status {init.returncode}"
        raise CommandError(f"cannot create a CA in {directory}: {reason}")
    rollback.callback(_remove, [path for path in directory.iterdir() if path not in before])
    for warning in init.stderr.splitlines():
        warn(warning)


def _create_api_key(key_file: api_keys.KeyFile, rollback: ExitStack) -> str:
    """Create an API key, and return it; `rollback` gets the callback that removes it."""
    existed, value = key_file.path.exists(), api_keys.generate_key()
    key_file.add(DEFAULT_KEY, value, datetime.now(UTC))

    def remove() -> None:
        key_file.remove(api_keys.key_id(api_keys.hash_key(value)))
        if not existed and not key_file.read():
            key_file.path.unlink()

    rollback.callback(remove)
    return value


def _create_ledger(path: Path, rollback: ExitStack) -> None:
    """Create a ledger; `rollback` gets the callback that removes it."""
    rollback.callback(_remove, [Path(f"{path}{suffix}") for suffix in _SQLITE_SUFFIXES])
    open_ledger(path, create=True)


def _remove_new_log(path: Path, rollback: ExitStack, *, has_new_ca: bool) -> None:
    """Have `rollback` remove a log that a worker creates, unless it has records of an older CA."""

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            if has_new_ca or not path.stat().st_size:
                path.unlink()

    if not path.exists():
        rollback.callback(remove)


def _remove(files: Sequence[Path], directories: Sequence[Path] = ()) -> None:
    """Remove files, and then the directories that are empty."""
    for path in files:
        path.unlink(missing_ok=True)
    for path in directories:
        with contextlib.suppress(OSError):
            path.rmdir()
