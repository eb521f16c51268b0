"""Files that commands change while servers read them: locked directories and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

Writer: TypeAlias = Callable[[Path, bytes, int], None]  # path, content, mode of a new file

LOCK_TIMEOUT: Final = 60.0  # seconds; another command may wait for a slow service
_EXISTS: Final = "it is there already; nothing was changed"


@contextlib.contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """Hold a directory's lock. It is not on a file in it, since files are replaced.

    Raises:
        OSError: it cannot be opened; or another process, which may be of any user who can read the
            directory, holds the lock for `LOCK_TIMEOUT`.
    """
    with _open_directory(directory) as descriptor:
        give_up = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    message = "another process holds the lock of this directory"
                    raise OSError(errno.EWOULDBLOCK, message, str(directory)) from error
                time.sleep(0.05)
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


def file_version(path: Path | str) -> tuple[int, ...]:
    """What is another once the file is, or was written to; () if there is none.

    The change time, which the kernel keeps: the modification time can be set, and a copy may preserve it.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - for every request, and half the time
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Create or replace one file, as in `atomic_files`."""
    with atomic_files() as write:
        write(path, data, mode)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Create a directory with what the block puts into it, or nothing, even if the process is killed.

    Yields a directory next to it, which is renamed when the block ends. One that a killed process left is
    removed first. A directory that exists already is yielded itself. Both are locked.

    Raises:
        FileExistsError: another process created it in the meantime.
        NotADirectoryError: it is a file.
        OSError: it cannot be created.
    """
    if path.is_dir():
        with locked_directory(path):
            yield path
        return
    if os.path.lexists(path):
        raise _os_error(errno.ENOTDIR, path)
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked_directory(path.parent):
        if path.exists():
            raise FileExistsError(errno.EEXIST, _EXISTS, str(path))
        temporary = path.with_name(".certlet.new")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        try:
            _give_to_owner(path.parent, temporary)
            yield temporary
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(path.parent)


@contextlib.contextmanager
def atomic_files(*, overwrite: bool = True) -> Iterator[Writer]:
    """Create or replace several files: each is whole at any time, and an error changes none.

    Each file is written and synced under a random name in its directory, `.certlet.` and 16 digits. All are
    renamed, in the order of their writing, when the block ends. Until then a hard link keeps each that is
    replaced, and it is put back if a later one cannot be. A process that is killed in between leaves these
    names. Files that belong together need the lock of their directory, which the caller holds.

    A file that is replaced keeps its owner, group and mode; but if others may read it, and `mode` gives them
    nothing, it gets `mode`. A new file that root creates belongs to the owner of its directory. A symbolic
    link is replaced, not followed. The umask limits `mode` of a new file.

    Raises:
        FileExistsError: a file exists, and not `overwrite`.
        OSError: a file cannot be written or replaced, or its owner would lose it.
    """
    temporaries: dict[Path, Path] = {}

    def verify_new(path: Path) -> None:
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, _EXISTS, str(path))

    def write(path: Path, data: bytes, mode: int) -> None:
        verify_new(path)
        temporaries[path] = _write_temporary(path, data, mode)

    try:
        yield write
        for path in temporaries:  # a program that takes no lock may have created it since
            verify_new(path)
        _rename_all(temporaries)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    for directory in {path.parent for path in temporaries}:
        _sync(directory)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".certlet.{secrets.token_hex(8)}")  # fits where the longest name does


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = _temporary_name(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _keep_owner_and_mode(descriptor, path, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def _rename_all(temporaries: Mapping[Path, Path]) -> None:
    old = [path for path in temporaries if os.path.lexists(path)]
    backups: dict[Path, Path] = {}
    try:
        if len(temporaries) > 1:  # one rename needs no undoing
            backups.update((path, _back_up(path)) for path in old)
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except BaseException:
        for path in [path for path, temporary in temporaries.items() if not temporary.exists()]:
            with contextlib.suppress(OSError):  # then its backup stays
                if path not in old:
                    path.unlink()
                elif path in backups:
                    backups.pop(path).replace(path)
        raise
    finally:
        for backup in backups.values():
            backup.unlink()


def _back_up(path: Path) -> Path:
    """Give a file a second name; copy it where it can have none: a mount, an immutable file, FAT.

    A link is not followed: the copy is the directory owner's, who may not be allowed to read its target.
    """
    backup = _temporary_name(path)
    try:
        os.link(path, backup, follow_symlinks=False)
    except OSError:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return _write_temporary(path, file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
    return backup


def _keep_owner_and_mode(descriptor: int, path: Path, mode: int) -> None:
    """Give a temporary file the owner, group and mode of the regular file that it replaces, if any."""
    replaced = path.lstat() if os.path.lexists(path) else None
    if replaced and stat.S_ISDIR(replaced.st_mode):  # before the first rename
        raise _os_error(errno.EISDIR, path)
    if not (replaced and stat.S_ISREG(replaced.st_mode)):
        _give_to_owner(path.parent, descriptor)
        return
    kept = stat.S_IMODE(replaced.st_mode)
    kept = mode if kept & stat.S_IRWXO and not mode & stat.S_IRWXO else kept
    if (replaced.st_uid, replaced.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
        except PermissionError:
            if not kept & stat.S_IROTH:  # its owner could not read it any more
                raise
    os.fchmod(descriptor, kept)


def _give_to_owner(directory: Path, created: int | Path) -> None:
    """Give what root created to the directory's owner, who has to read it and could replace it."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        with contextlib.suppress(PermissionError):  # root of a container, or of another machine
            # The owner could put a link in place of a path.
            os.chown(created, owner.st_uid, owner.st_gid, follow_symlinks=isinstance(created, int))


def _sync(directory: Path) -> None:
    with contextlib.suppress(OSError), _open_directory(directory) as descriptor:  # some file systems cannot
        os.fsync(descriptor)


@contextlib.contextmanager
def _open_directory(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
