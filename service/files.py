"""Files that commands change while servers read them: one command at a time, and never half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold a directory's lock; a file's own would go with the file, which is replaced.

    Raises:
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(OSError):  # of a file system that cannot: all is done, and visible
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_writable(path: Path) -> None:
    """Know, as far as that can be known, that a file can be put there: before what there is but once is made.

    Raises:
        OSError: it is a directory, its own is not there, or nobody may write in that.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def replace(path: Path, data: bytes, mode: int) -> None:
    """Put a file in a file's place, whole: not even a power cut leaves a part of it, or none.

    Args:
        path: the file, which need not be there; whoever changes it holds its directory's lock.
        data: what it is to hold.
        mode: who may read and write it.

    Raises:
        OSError: it cannot be written; then nothing was changed.
    """
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask is
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
