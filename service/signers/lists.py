"""The lists that an operator keeps next to a CA: keys that are never certified, and revoked certificates."""

from __future__ import annotations

import errno
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service import files
from service.pki import encoding, revocation
from service.pki.errors import IssuerError
from service.pki.revocation import Revoked
from service.pki.weak_keys import DenyList

DENY_LIST: Final = "denied-keys.txt"
REVOKED: Final = "revoked.yaml"
HEAD: Final = b"# What was revoked, one entry a line; `certlet revoke` adds to it, GET /ca.crl signs it.\n"


@dataclass(frozen=True)
class Lists:
    """The contents of `revoked.yaml` and `denied-keys.txt`; default: those of a new CA."""

    revoked: bytes = HEAD
    denied: bytes = b""


def load(directory: Path) -> Lists:
    """Both lists, for the CA that takes over.

    Raises:
        IssuerError: one is unreadable or malformed, or `revoked.yaml` is missing.
    """
    revoked(directory)
    deny_list(directory)
    path = directory / DENY_LIST
    denied = _read(path).encode() if path.exists() else b""
    return Lists(_read(directory / REVOKED).encode() or HEAD, denied)


def deny_list(directory: Path) -> DenyList:
    """The keys that are never certified, if there is a list; raise `IssuerError` if that is malformed."""
    path = directory / DENY_LIST
    if not path.exists():
        return DenyList()
    try:
        return DenyList.load(_read(path))
    except ValueError as error:
        raise IssuerError(f"{path}: {error}") from error


def revoked(directory: Path) -> tuple[Revoked, ...]:
    """What was revoked; raise `IssuerError` if the list is missing, unreadable or malformed."""
    path = directory / REVOKED
    try:
        now = path.stat()
    except OSError as error:
        raise IssuerError(f"{path}: {error.strerror}") from error
    return _revoked(path, (now.st_ino, now.st_mtime_ns, now.st_size))


@functools.lru_cache(maxsize=4)  # a list of 100,000 takes seconds to read, and every renewal asks for it
def _revoked(path: Path, _version: tuple[int, int, int]) -> tuple[Revoked, ...]:
    return parse_revoked(_read(path), path)


def parse_revoked(text: str, path: Path) -> tuple[Revoked, ...]:
    """Read `revoked.yaml`, which may be empty; raise `IssuerError` if it is malformed."""
    try:
        data = json.loads(text)  # as the Lambda zip has it, which has no PyYAML
    except ValueError:
        import yaml  # noqa: PLC0415 - as above

        try:
            data = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise IssuerError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    try:
        return revocation.load([] if data is None else data)
    except ValueError as error:
        raise IssuerError(f"{path}: {error}") from error


def add_revoked(directory: Path, entry: Revoked) -> None:
    """Add an entry to `revoked.yaml`, which is replaced atomically, under a lock.

    Raises:
        IssuerError: the file is missing or malformed, has the serial number already, or is not
            written one entry a line; nothing was changed.
        OSError: it cannot be written.
    """
    path = directory / REVOKED
    if not path.exists():  # nor perhaps its directory, which is locked
        raise IssuerError(f"{path}: {os.strerror(errno.ENOENT)}")
    with files.locked(directory):
        _add(path, _read(path), entry)


def _add(path: Path, text: str, entry: Revoked) -> None:
    before = parse_revoked(text, path)
    for each in before:
        if each.serial_number == entry.serial_number:
            raise IssuerError(f"it was revoked at {encoding.timestamp(each.revoked_at)} already")
    line = f"- {json.dumps(revocation.entry(entry))}"
    added = f"{text.rstrip()}\n{line}\n"
    if not _reads_as(added, (*before, entry), path):
        raise IssuerError(f"{path} is not written one entry a line; add this one: {line}")
    files.write_atomically(path, added.encode(), 0o644)


def _reads_as(text: str, entries: tuple[Revoked, ...], path: Path) -> bool:
    try:
        return parse_revoked(text, path) == entries
    except IssuerError:
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise IssuerError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise IssuerError(f"{path} is not UTF-8") from error
