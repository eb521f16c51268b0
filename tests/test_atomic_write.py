"""Locked directories and atomic writes, on a real file system."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from service import atomic_write


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_content_is_synced_before_the_name_and_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure leaves the old or the new file: the content is synced before the name, then the directory."""
    path, snapshots, fsync = tmp_path / "list", [], os.fsync
    path.write_bytes(b"old")

    def record_fsync(descriptor: int) -> None:
        synced_path = Path(f"/proc/self/fd/{descriptor}").readlink()
        snapshots.append(
            (synced_path.read_bytes() if synced_path.is_file() else synced_path, path.read_bytes())
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_fsync)
    atomic_write.write_atomically(path, b"new", 0o644)
    assert snapshots == [(b"new", b"old"), (tmp_path, b"new")]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("before", "requested", "after"),
    [
        (0o640, 0o644, 0o640),
        (0o600, 0o644, 0o600),
        (0o640, 0o600, 0o640),
        (0o644, 0o600, 0o600),
        (None, 0o600, 0o600),
    ],
    ids=["unchanged", "private", "group-readable", "secret", "new"],
)
def test_mode_is_unchanged_unless_the_file_contains_a_secret(
    tmp_path: Path, before: int | None, requested: int, after: int
) -> None:
    """A file keeps its mode, but a secret that others can read gets the requested mode."""
    path = tmp_path / "a"
    if before is not None:
        path.touch()
        path.chmod(before)
    atomic_write.write_atomically(path, b"new", requested)
    assert (path.read_bytes(), mode(path)) == (b"new", after)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")
def test_owner_and_group_are_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file keeps its owner; without permission to set it, only files that others may read are written."""
    path = tmp_path / "a"
    path.touch()
    os.chown(path, 1234, 4321)
    atomic_write.write_atomically(path, b"new", 0o644)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(PermissionError):
        atomic_write.write_atomically(path, b"secret", 0o600)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"new", [path])
    atomic_write.write_atomically(path, b"public", 0o644)
    assert (path.read_bytes(), path.stat().st_uid) == (b"public", os.geteuid())


def test_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """The target of a symbolic link is not written."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"precious")
    target.chmod(0o600)
    link.symlink_to(target)
    atomic_write.write_atomically(link, b"new", 0o644)
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"precious", b"new", False)
    assert mode(link) != 0o600


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "copies"])
def test_target_of_a_link_is_never_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    """A copy would give the target to the directory's owner, so without hard links nothing is replaced."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    if not has_links:
        monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(errno.EMLINK, "Too many links")))
    expected = contextlib.nullcontext() if has_links else pytest.raises(OSError, match="symbolic links")
    with expected, atomic_write.atomic_files() as write:
        for path in (link, tmp_path / "other"):
            write(path, b"new", 0o600)
    assert (link.is_symlink(), len(list(tmp_path.iterdir()))) == ((False, 3) if has_links else (True, 2))


def test_last_write_of_a_path_counts(tmp_path: Path) -> None:
    """The first one reserves space, and leaves no file."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_write.atomic_files() as write:
        write(path, b"reserved", 0o644)
        write(path, b"new", 0o644)
        assert path.read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 2
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"new", [path])


@pytest.mark.parametrize("overwrite", [True, False])
def test_failure_changes_no_file_and_leaves_no_temporary(tmp_path: Path, *, overwrite: bool) -> None:
    """A file that cannot be written, or a block that fails, changes no file."""
    old, new, directory = tmp_path / "old", tmp_path / "new", tmp_path / "directory"
    old.write_bytes(b"old")
    directory.mkdir()

    def write_all(*paths: Path | None) -> None:
        with atomic_write.atomic_files(overwrite=overwrite) as write:
            for path in paths:
                if path is None:
                    raise ZeroDivisionError
                write(path, b"new", 0o600)

    for last in (directory, tmp_path / "none" / "a", None):
        with pytest.raises((OSError, ZeroDivisionError)):
            write_all(new, old, last)
        assert old.read_bytes() == b"old"
        assert sorted(tmp_path.iterdir()) == [directory, old]


def test_files_without_overwrite_are_created_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file exists before the end or after a failure; a file that was created meanwhile keeps its content."""
    first, second, third = (tmp_path / name for name in "abc")
    with atomic_write.atomic_files(overwrite=False) as write:
        write(first, b"a", 0o600)
        write(second, b"b", 0o644)
        assert list(map(Path.exists, (first, second))) == [False, False]

    def write_existing(path: Path) -> None:
        with atomic_write.atomic_files(overwrite=False) as write:
            write(third, b"other", 0o600)
            write(path, b"other", 0o600)
            path.write_bytes(b"a")

    for path in (first, tmp_path / "d"):
        with pytest.raises(FileExistsError):
            write_existing(path)
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"), atomic_write.atomic_files(overwrite=False) as write:
        write(third, b"other", 0o600)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"a", "b": b"b", "d": b"a"}
    assert mode(first) == 0o600


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "copies"])
@pytest.mark.parametrize("last", [True, False], ids=["fails", "succeeds"])
def test_files_are_restored_if_a_later_one_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool, last: bool
) -> None:
    """Replaced files get their old content and mode back, and new files are removed, also without hard links."""
    old, new, stuck = (tmp_path / name for name in ("old", "new", "stuck"))
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target) == stuck and last:
            raise OSError(errno.EBUSY, "busy", str(stuck))
        replace(source, target)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    for path in (old, stuck):
        path.write_bytes(b"old")
        path.chmod(0o640)
    monkeypatch.setattr(os, "replace", fail)
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    expected = pytest.raises(OSError, match="busy") if last else contextlib.nullcontext()
    with expected, atomic_write.atomic_files() as write:
        for path in (old, new, stuck):
            write(path, b"new", 0o600)
    content = {path.name: (path.read_bytes(), mode(path)) for path in tmp_path.iterdir()}
    before = dict.fromkeys(["old", "stuck"], (b"old", 0o640))
    after = dict.fromkeys(["old", "stuck"], (b"new", 0o640)) | {"new": (b"new", 0o600)}
    assert content == (before if last else after)


def test_atomic_directory_appears_with_its_files(tmp_path: Path) -> None:
    """A failed block leaves nothing; remains of an earlier process are removed; an existing directory is used."""
    path, remains = tmp_path / "a" / "b", tmp_path / "a" / ".certlet.new"
    remains.mkdir(parents=True)
    (remains / "key").touch()
    with contextlib.suppress(ZeroDivisionError), atomic_write.atomic_directory(path) as directory:
        assert not (directory / "key").exists()
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    for name in ("c", "d"):
        with atomic_write.atomic_directory(path) as directory:
            (directory / name).touch()
            assert path.exists() == (name == "d")
    assert (sorted(entry.name for entry in path.iterdir()), mode(path)) == (["c", "d"], 0o700)
    with pytest.raises(NotADirectoryError), atomic_write.atomic_directory(path / "c"):
        pass


@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new directory", "existing directory"])
def test_error_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, *, is_new: bool
) -> None:
    """Not a temporary file or directory; the system names no file if the disk is full."""
    directory, original = tmp_path / "ca", getattr(os, function)
    if not is_new:
        directory.mkdir()

    def fail(file: object, *arguments: object, **options: object) -> object:
        if function == "open" and not re.search(r"/\.certlet\.[0-9a-f]{16}$", str(file)):
            return original(file, *arguments, **options)
        raise OSError(errno.ENOSPC, "full", None if function == "fsync" else str(file))

    def create() -> None:
        with atomic_write.atomic_directory(directory) as target, atomic_write.atomic_files() as write:
            monkeypatch.setattr(os, function, fail)
            write(target / "a", b"new", 0o600)

    with pytest.raises(OSError, match="full") as info:
        create()
    assert info.value.filename == str(directory / "a")
    assert list(tmp_path.iterdir()) == ([] if is_new else [directory])


def test_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    """What the block does is not only writing."""
    with pytest.raises(FileNotFoundError) as info, atomic_write.atomic_directory(tmp_path / "ca"):
        (tmp_path / "absent").read_bytes()
    assert info.value.filename == str(tmp_path / "absent")


def test_file_that_cannot_be_written_is_found_before(tmp_path: Path) -> None:
    """The reason is that of writing it; a file that does not exist can be written."""
    (tmp_path / "a").touch()
    for path, error in (("a/b", NotADirectoryError), ("c/b", FileNotFoundError), (".", IsADirectoryError)):
        with pytest.raises(error):
            atomic_write.verify_writable(tmp_path / path)
    atomic_write.verify_writable(tmp_path / "b")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")
@pytest.mark.parametrize("is_attacked", [True, False])
def test_link_instead_of_a_new_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_attacked: bool
) -> None:
    """A new directory gets the owner of its parent; the target of a link keeps its owner."""
    (tmp_path / "target").mkdir()
    os.chown(tmp_path, 1234, 4321)
    if is_attacked:
        monkeypatch.setattr(Path, "mkdir", lambda path, **_: path.symlink_to(tmp_path / "target"))
    with contextlib.suppress(OSError), atomic_write.atomic_directory(tmp_path / "new"):
        pass
    assert ((tmp_path / "target").stat().st_uid, (tmp_path / "new").lstat().st_uid) == (0, 1234)


def test_directory_lock_is_exclusive(tmp_path: Path) -> None:
    """A second lock waits until the first ends, also by an error; locks of other directories do not wait."""
    acquired = threading.Event()

    def lock_again() -> None:
        with atomic_write.locked_directory(tmp_path):
            acquired.set()

    thread = threading.Thread(target=lock_again)
    (tmp_path / "other").mkdir()
    with contextlib.suppress(ZeroDivisionError), atomic_write.locked_directory(tmp_path):
        thread.start()
        with atomic_write.locked_directory(tmp_path / "other"):
            assert not acquired.wait(0.2)
        raise ZeroDivisionError
    assert acquired.wait(10)
    thread.join()


def test_lock_timeout_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user who can read the directory can hold its lock, so commands fail after a timeout."""
    monkeypatch.setattr(atomic_write, "LOCK_TIMEOUT", 0.1)
    with (
        atomic_write.locked_directory(tmp_path),
        pytest.raises(OSError, match="another process holds"),
        atomic_write.locked_directory(tmp_path),
    ):
        pass
    with atomic_write.locked_directory(tmp_path):
        pass


def test_file_version_detects_a_change_that_keeps_size_and_time(tmp_path: Path) -> None:
    """A change by `cp -p`, for example, is detected; the version of an unchanged file stays the same."""
    path = tmp_path / "file"
    assert atomic_write.file_version(path) == ()
    path.write_text("a")
    before, times = atomic_write.file_version(path), path.stat()
    assert atomic_write.file_version(str(path)) == before
    time.sleep(0.02)  # more than one tick of the kernel's clock
    path.write_text("b")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert atomic_write.file_version(path) != before
