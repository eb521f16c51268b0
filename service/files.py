"""Files that commands change while servers read them: locked directories and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

Writer: TypeAlias = Callable[[Path, bytes, int], None]  # path, content, mode of a new file


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory's lock. It is not on a file in it, since files are replaced."""
    with _opened(directory) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def verify_writable(path: Path) -> None:
    """Raise the OSError that writing `path` would, before creating something that cannot be re-created."""
    if path.is_dir():
        raise _os_error(errno.EISDIR, path)
    if not path.parent.is_dir():
        raise _os_error(errno.ENOENT, path)
    if not os.access(path.parent, os.W_OK):
        raise _os_error(errno.EACCES, path)


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Create or replace one file, as in `atomic_files`; OSError if it cannot be, and nothing was changed.

    A symbolic link is replaced, not followed. The umask limits `mode`, the permissions of a new file.
    """
    with atomic_files() as write:
        write(path, data, mode)


@contextlib.contextmanager
def atomic_files(*, overwrite: bool = True) -> Iterator[Writer]:
    """Create or replace several files: each is whole at any time, and a block that fails changes none.

    Each file is written and synced under a random name in its directory at once. All are renamed, in the
    order of their writing, when the block ends. A file that is replaced keeps its owner and group. It keeps
    its mode too, unless the caller's gives nothing to others: that one is for a secret, and always applies.

    Raises:
        FileExistsError: a file exists, and not `overwrite`. New names are then taken when they are written.
        OSError: a file cannot be written, or its owner would lose it.
    """
    created: list[Path] = []
    renames: list[tuple[Path, Path]] = []

    def write(path: Path, data: bytes, mode: int) -> None:
        if not overwrite:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            except FileExistsError as error:
                error.strerror = "it is there already; nothing was changed"
                raise
            created.append(path)
        temporary = path.with_name(f".certlet.{secrets.token_hex(8)}")  # fits where the longest name does
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        renames.append((temporary, path))
        with os.fdopen(descriptor, "wb") as file:
            _keep_owner_and_mode(descriptor, path, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    try:
        yield write
        for temporary, path in renames:
            temporary.replace(path)
    except BaseException:
        for leftover in (*created, *(temporary for temporary, _ in renames)):
            leftover.unlink(missing_ok=True)
        raise
    for directory in {path.parent for _, path in renames}:
        with contextlib.suppress(OSError), _opened(directory) as descriptor:  # some file systems cannot
            os.fsync(descriptor)


def _keep_owner_and_mode(descriptor: int, path: Path, mode: int) -> None:
    """Give a temporary file the owner, group and mode of the regular file that it replaces, if any."""
    try:
        replaced = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(replaced.st_mode):  # before the first rename, which nothing undoes
        raise _os_error(errno.EISDIR, path)
    if not stat.S_ISREG(replaced.st_mode):
        return
    kept = stat.S_IMODE(replaced.st_mode) if mode & stat.S_IRWXO else mode
    if (replaced.st_uid, replaced.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
        except PermissionError:
            if not kept & stat.S_IROTH:  # its owner could not read it any more
                raise
    os.fchmod(descriptor, kept)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
