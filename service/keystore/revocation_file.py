"""The lists in a CA's directory: denied keys, and revoked certificates."""

from __future__ import annotations

import contextlib
import functools
import logging
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
HEADER: Final = b"# Revoked certificates, one per line: `certlet revoke` adds them, GET /ca.crl lists them.\n"
_MAX_YAML: Final = 1_000_000  # characters; parsing them takes seconds

_log = logging.getLogger(__name__)


def load_lists(directory: Path) -> dict[str, bytes]:
    """Load the files of both lists, name -> content, for the CA that replaces this one.

    Raises:
        CAError: a list is unreadable or malformed, or `revoked.yaml` is missing.
    """
    load_revoked(directory)
    load_deny_list(directory)
    path = directory / DENY_LIST
    denied = read_file(path) if os.path.lexists(path) else b""
    return {REVOKED: read_file(directory / REVOKED) or HEADER, DENY_LIST: denied}


def load_deny_list(directory: Path) -> DenyList:
    """Load the denied keys, none if there is no list; raise `CAError` if the list is malformed.

    A dangling link (the volume is not mounted) is an error, not a missing list.
    """
    path = directory / DENY_LIST
    if not os.path.lexists(path):
        return DenyList()
    try:
        return DenyList.parse(_read_text(path))
    except ValueError as error:
        raise CAError(f"{path}: {error}") from error


def load_revoked(directory: Path) -> Mapping[int, RevokedCertificate]:
    """Load the revoked certificates by serial number; raise `CAError` if the list is missing or malformed."""
    path = directory / REVOKED
    result = _load_revoked(path, atomic_write.file_version(path))
    if isinstance(result, str):
        raise CAError(result)
    return result


def verify_revoked(directory: Path) -> None:
    """Raise `CAError` if the list is missing or malformed; keep nothing of it in memory."""
    path = directory / REVOKED
    parse_revoked(_read_text(path), path)


@functools.lru_cache(4)  # a long list takes seconds, and any client may request the CRL
def _load_revoked(path: Path, _version: tuple[int, ...]) -> Mapping[int, RevokedCertificate] | str:
    text = _read_text(path)
    try:
        revoked = parse_revoked(text, path)
    except CAError as error:
        return error.detail
    _log.info("%s is loaded: %d certificates", path, len(revoked))
    return revoked


def parse_revoked(text: str, path: Path) -> Mapping[int, RevokedCertificate]:
    """Parse `revoked.yaml`, which may be empty; raise `CAError` if it is malformed.

    A list longer than a megabyte must have one entry per line, as `certlet revoke` writes it: parsing YAML
    of that length takes too long.
    """
    try:
        result = revocation.parse_canonical(text)
        if not isinstance(result, int):
            return result
        if len(text) > _MAX_YAML:
            message = f"line {result} is not in the format of `certlet revoke`, required for a long list"
            raise ValueError(message)  # noqa: TRY301
        return revocation.parse(_parse_yaml(text))
    except ValueError as error:
        raise CAError(f"{path}: {error}") from error


def _parse_yaml(text: str) -> list[tuple[int, object]]:
    """Parse a YAML list to pairs of line and entry; raise `ValueError` if it is not a list."""
    import yaml  # noqa: PLC0415 - takes 70 ms, and most lists do not need it

    line, entries = 1, []
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode):
            raise ValueError("not a list")  # noqa: TRY004, TRY301 - as below
        for child in root.value:
            line = child.start_mark.line + 1
            entries.append((line, loader.construct_document(child)))
    except Exception as error:  # PyYAML raises any class for a value of the wrong type
        detail = escape_controls(" ".join(str(error).split()))[:200]
        raise ValueError(f"line {line}: not a YAML list: {detail}") from error
    return entries


def encode_revoked(entries: Iterable[RevokedCertificate]) -> bytes:
    """Encode entries in the format that `parse_revoked` parses fastest."""
    return HEADER + "".join(map(revocation.format_entry, entries)).encode()


def add_revoked(directory: Path, entry: RevokedCertificate, record: Callable[[], None]) -> None:
    """Add an entry to `revoked.yaml`, which is replaced atomically, under a lock.

    Args:
        directory: the CA's directory.
        entry: the revoked certificate.
        record: called just before the list is replaced; if it raises OSError, nothing is changed.

    Raises:
        CAError: the file is missing or malformed, already has the serial number, or does not have one
            entry per line; nothing was changed.
        OSError: the file cannot be written.
    """
    path = directory / REVOKED
    with atomic_write.locked_directory(directory):
        text = _append_entry(path, _read_text(path), entry)
        with atomic_write.atomic_files() as write:
            write(path, text.encode(), 0o644)
            record()


def _append_entry(path: Path, text: str, entry: RevokedCertificate) -> str:
    before = parse_revoked(text, path)
    if earlier := before.get(entry.serial_number):
        raise CAError(f"already revoked at {encoding.format_timestamp(earlier.revoked_at)}")
    if len(before) == revocation.MAX_ENTRIES:
        raise CAError(f"{path} has {len(before)} entries, which is the maximum")
    line = revocation.format_entry(entry)
    added = f"{text.rstrip()}\n{line}"
    with contextlib.suppress(CAError):
        if parse_revoked(added, path) == {**before, entry.serial_number: entry}:
            return added
    raise CAError(f"{path} does not have one entry per line; add this line yourself: {line.rstrip()}")


def read_file(path: Path) -> bytes:
    """Read a file; raise `CAError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CAError(f"{path}: {error.strerror}") from error


def _read_text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise CAError(f"{path} is not UTF-8") from error
