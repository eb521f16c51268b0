"""The lists that an operator keeps next to a CA: keys that are never certified, and revoked certificates."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from service import atomic_write
from service.pki import encoding, revocation
from service.pki.errors import CAError, escape_controls
from service.pki.revocation import RevokedCertificate
from service.pki.weak_keys import DenyList

DENY_LIST: Final = "denied-keys.txt"
REVOKED: Final = "revoked.yaml"
HEADER: Final = b"# What was revoked, one entry a line; `certlet revoke` adds to it, GET /ca.crl signs it.\n"
_MAX_YAML: Final = 1_000_000  # characters, which take some seconds


def load_lists(directory: Path) -> dict[str, bytes]:
    """The files of both lists, name -> content, for the CA that takes over.

    Raises:
        CAError: one is unreadable or malformed, or `revoked.yaml` is missing.
    """
    load_revoked(directory)
    load_deny_list(directory)
    path = directory / DENY_LIST
    denied = read_file(path) if os.path.lexists(path) else b""
    return {REVOKED: read_file(directory / REVOKED) or HEADER, DENY_LIST: denied}


def load_deny_list(directory: Path) -> DenyList:
    """The keys that are never certified, if there is a list; raise `CAError` if that is malformed.

    A link to nothing, as on a volume that is not mounted, is no missing list.
    """
    path = directory / DENY_LIST
    if not os.path.lexists(path):
        return DenyList()
    try:
        return DenyList.parse(_read_text(path))
    except ValueError as error:
        raise CAError(f"{path}: {error}") from error


def load_revoked(directory: Path) -> Mapping[int, RevokedCertificate]:
    """What was revoked, by serial number; raise `CAError` if the list is missing or malformed."""
    path = directory / REVOKED
    result = _load_revoked(path, atomic_write.file_version(path))
    if isinstance(result, str):
        raise CAError(result)
    return result


@functools.lru_cache(4)  # a long list, or its faults, may take seconds, and anybody asks for the CRL
def _load_revoked(path: Path, _version: tuple[int, ...]) -> Mapping[int, RevokedCertificate] | str:
    text = _read_text(path)
    try:
        return parse_revoked(text, path)
    except CAError as error:
        return error.detail


def parse_revoked(text: str, path: Path) -> Mapping[int, RevokedCertificate]:
    """Read `revoked.yaml`, which may be empty; raise `CAError` if it is malformed.

    YAML takes seconds for a megabyte: a longer list has to have one entry a line, as `certlet revoke` has it.
    """
    try:
        result = revocation.parse_canonical(text)
        if not isinstance(result, int):
            return result
        if len(text) > _MAX_YAML:
            raise ValueError(f"line {result} is not as `certlet revoke` writes it, and the list is long")  # noqa: TRY301
        return revocation.parse(_parse_yaml(text))
    except ValueError as error:
        raise CAError(f"{path}: {error}") from error


def _parse_yaml(text: str) -> list[tuple[int, object]]:
    """The entries of a list in YAML, each with its line; raise `ValueError` if it is none."""
    import yaml  # noqa: PLC0415 - 70 ms that most lists do without

    line, entries = 1, []
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode):
            raise ValueError("it is none")  # noqa: TRY004, TRY301 - as below
        for child in root.value:
            line = child.start_mark.line + 1
            entries.append((line, loader.construct_document(child)))
    except Exception as error:  # of a value that is not of its type PyYAML says so in any class
        detail = escape_controls(" ".join(str(error).split()))[:200]
        raise ValueError(f"line {line}: not a list in YAML: {detail}") from error
    return entries


def encode_revoked(entries: Iterable[RevokedCertificate]) -> bytes:
    """What `parse_revoked` reads fastest."""
    return HEADER + "".join(map(revocation.format_entry, entries)).encode()


def add_revoked(directory: Path, entry: RevokedCertificate, record: Callable[[], None]) -> None:
    """Add an entry to `revoked.yaml`, which is replaced atomically, under a lock.

    Args:
        directory: the CA's.
        entry: what was revoked.
        record: called when all is ready to replace the list; OSError keeps it as it is.

    Raises:
        CAError: the file is missing or malformed, has the serial number already, or is not
            written one entry a line; nothing was changed.
        OSError: it cannot be written.
    """
    path = directory / REVOKED
    with atomic_write.locked_directory(directory):
        added = _append_entry(path, _read_text(path), entry)
        with atomic_write.atomic_files() as write:
            write(path, added.encode(), 0o644)
            record()


def _append_entry(path: Path, text: str, entry: RevokedCertificate) -> str:
    before = parse_revoked(text, path)
    if known := before.get(entry.serial_number):
        raise CAError(f"it was revoked at {encoding.format_timestamp(known.revoked_at)} already")
    if len(before) == revocation.MAX_ENTRIES:
        raise CAError(f"{path} has {len(before)} entries, and no more are accepted")
    line = revocation.format_entry(entry)
    added = f"{text.rstrip()}\n{line}"
    with contextlib.suppress(CAError):
        if parse_revoked(added, path) == {**before, entry.serial_number: entry}:
            return added
    raise CAError(f"{path} is not written one entry a line; add this one: {line.rstrip()}")


def read_file(path: Path) -> bytes:
    """The content of a file; raise `CAError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CAError(f"{path}: {error.strerror}") from error


def _read_text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise CAError(f"{path} is not UTF-8") from error
