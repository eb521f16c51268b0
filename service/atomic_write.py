"""Change files that running servers read: lock directories, and write atomically."""

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

LOCK_TIMEOUT: Final = 60.0  # seconds; another command may hold the lock while it waits for a service
_EXISTS: Final = "already exists; nothing was changed"


@contextlib.contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """Hold a lock on the directory itself, since the files in it are replaced.

    Raises:
        OSError: the directory cannot be opened; or another process (of any user who can read the directory)
            holds the lock for longer than `LOCK_TIMEOUT`.
    """
    with _open_directory(directory) as descriptor:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    message = "another process holds the lock of this directory; try again later"
                    raise OSError(errno.EWOULDBLOCK, message, str(directory)) from error
                time.sleep(0.05)
        yield


def verify_writable(path: Path) -> None:
    """Check that `path` can be written, before creating something that cannot be re-created.

    Raises:
        OSError: as writing it would.
    """
    if path.is_dir():
        raise _os_error(errno.EISDIR, path)
    if not path.parent.is_dir():
        raise _os_error(errno.ENOTDIR if path.parent.exists() else errno.ENOENT, path)
    if not os.access(path.parent, os.W_OK):
        raise _os_error(errno.EACCES, path)


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def file_version(path: Path | str) -> tuple[int, ...]:
    """Return a value that changes when the file is replaced or written; () if it does not exist.

    It contains the change time, since the modification time can be set, and a copy may preserve it.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - runs for every request, and takes half the time
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Create or replace one file, as `atomic_files` does."""
    with atomic_files() as write:
        write(path, data, mode)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Create a directory with all the files that the block creates, or not at all, even after a crash.

    Yields a locked temporary directory next to it, which is renamed when the block ends; one that a killed
    process left behind is removed first. If the directory exists, it is locked and yielded itself.

    Raises:
        FileExistsError: another process created the directory in the meantime.
        NotADirectoryError: the path is a file.
        OSError: the directory cannot be created.
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
        try:
            with _errors_about(path, temporary):
                temporary.mkdir(mode=0o700)
                _give_to_owner(path.parent, temporary)
                yield temporary
                temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(path.parent)


@contextlib.contextmanager
def atomic_files(*, overwrite: bool = True) -> Iterator[Writer]:
    """Create or replace several files: readers always see complete files, and an error changes none.

    Each file is written and synced under a temporary name in its directory: `.certlet.` and 16 digits. To
    reserve space for data that does not exist yet, write other data before: the last write counts. When
    the block ends, all are renamed in the order in which they were written. If a rename fails, the files
    replaced so far are restored from hard links. A killed process leaves temporary names behind. To change
    several files consistently, the caller must hold the lock of their directory.

    A replaced file keeps its owner, group and mode, unless others may read it and `mode` gives them no
    access: then it gets `mode`. A new file that root creates gets the owner of its directory. Symbolic links
    are replaced, not followed. The umask limits the `mode` of new files.

    Raises:
        FileExistsError: a file exists, and `overwrite` is false.
        OSError: a file cannot be written or replaced, or its owner could no longer read it.
    """
    temporaries: dict[Path, Path] = {}

    def verify_new(path: Path) -> None:
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, _EXISTS, str(path))

    def write(path: Path, data: bytes, mode: int) -> None:
        verify_new(path)
        if earlier := temporaries.pop(path, None):
            earlier.unlink()
        temporaries[path] = _write_temporary(path, data, mode)

    try:
        yield write
        for path in temporaries:  # a program that ignores the lock may have created it since
            verify_new(path)
        _rename_all(temporaries)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    for directory in {path.parent for path in temporaries}:
        _sync(directory)


@contextlib.contextmanager
def _errors_about(path: Path, temporary: Path) -> Iterator[None]:
    """Name `path` in errors of the block that name `temporary`, or a file in it, or no file."""
    try:
        yield
    except OSError as error:
        name = Path(str(error.filename or temporary))
        if name.is_relative_to(temporary):
            error.filename = str(path / name.relative_to(temporary))
        raise


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".certlet.{secrets.token_hex(8)}")  # short enough wherever the longest name fits


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = _temporary_name(path)
    with _errors_about(path, temporary):
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
        if len(temporaries) > 1:  # a single rename needs no undo
            backups.update((path, _back_up(path)) for path in old)
        for path, temporary in temporaries.items():
            with _errors_about(path, temporary):
                temporary.replace(path)
    except BaseException:
        for path in [path for path, temporary in temporaries.items() if not temporary.exists()]:
            with contextlib.suppress(OSError):  # keep its backup
                if path not in old:
                    path.unlink()
                elif path in backups:
                    backups.pop(path).replace(path)
        raise
    finally:
        for backup in backups.values():
            backup.unlink()


def _back_up(path: Path) -> Path:
    """Hard-link a file to a temporary name; copy it where links fail: a mount, an immutable file, FAT.

    Symbolic links are not followed: the owner of the copy may not be allowed to read the target.
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
    if replaced and stat.S_ISDIR(replaced.st_mode):  # fail before the first rename
        raise _os_error(errno.EISDIR, path)
    if not (replaced and stat.S_ISREG(replaced.st_mode)):
        _give_to_owner(path.parent, descriptor)
        return
    new_mode = stat.S_IMODE(replaced.st_mode)
    if new_mode & stat.S_IRWXO and not mode & stat.S_IRWXO:
        new_mode = mode
    if (replaced.st_uid, replaced.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
        except PermissionError:
            if not new_mode & stat.S_IROTH:  # its owner could not read it
                raise
    os.fchmod(descriptor, new_mode)


def _give_to_owner(directory: Path, created: int | Path) -> None:
    """Give a file that root created to the owner of its directory, who must be able to read it."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        with contextlib.suppress(PermissionError):  # root in a container, or on a network file system
            # The owner could replace the path by a link.
            os.chown(created, owner.st_uid, owner.st_gid, follow_symlinks=isinstance(created, int))


def _sync(directory: Path) -> None:
    with contextlib.suppress(OSError), _open_directory(directory) as descriptor:  # some file systems fail
        os.fsync(descriptor)


@contextlib.contextmanager
def _open_directory(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
