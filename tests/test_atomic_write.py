"""Locked directories and atomic writes, on a real file system."""

from __future__ import annotations

import contextlib
import errno
import os
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
    """A power cut leaves the old file or the new one: contents are synced, then the name, then the directory."""
    path, seen, fsync = tmp_path / "list", [], os.fsync
    path.write_bytes(b"old")

    def watched(descriptor: int) -> None:
        synced = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((synced.read_bytes() if synced.is_file() else synced, path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    atomic_write.write_atomically(path, b"new", 0o644)
    assert seen == [(b"new", b"old"), (tmp_path, b"new")]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        (0o640, 0o644, 0o640),
        (0o600, 0o644, 0o600),
        (0o640, 0o600, 0o640),
        (0o644, 0o600, 0o600),
        (None, 0o600, 0o600),
    ],
    ids=["kept", "kept private", "kept for a group", "a secret's", "new"],
)
def test_mode_is_kept_unless_the_file_contains_a_secret(
    tmp_path: Path, before: int | None, given: int, after: int
) -> None:
    """A file keeps its mode; but a secret that others may read gets the one that the caller says."""
    path = tmp_path / "a"
    if before is not None:
        path.touch()
        path.chmod(before)
    atomic_write.write_atomically(path, b"new", given)
    assert (path.read_bytes(), mode(path)) == (b"new", after)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owner_and_group_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign owner keeps the file; where we may not give it, a file that others may read is written, and no other."""
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
    """What another user's link points to is not written."""
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
    """The copy would be the directory owner's, who may not read the target: then nothing is replaced."""
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


@pytest.mark.parametrize("overwrite", [True, False])
def test_failure_changes_no_file_and_leaves_no_temporary(tmp_path: Path, *, overwrite: bool) -> None:
    """A file that cannot be written, or a block that fails, leaves every file as it was."""
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


def test_files_that_may_not_be_replaced_are_created_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name is there before the end, nor after a failure; one that is taken by then keeps its content."""
    first, second, third = (tmp_path / name for name in "abc")
    with atomic_write.atomic_files(overwrite=False) as write:
        write(first, b"a", 0o600)
        write(second, b"b", 0o644)
        assert list(map(Path.exists, (first, second))) == [False, False]

    def take(taken: Path) -> None:
        with atomic_write.atomic_files(overwrite=False) as write:
            write(third, b"other", 0o600)
            write(taken, b"other", 0o600)
            taken.write_bytes(b"a")

    for path in (first, tmp_path / "d"):
        with pytest.raises(FileExistsError):
            take(path)
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"), atomic_write.atomic_files(overwrite=False) as write:
        write(third, b"other", 0o600)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"a", "b": b"b", "d": b"a"}
    assert mode(first) == 0o600


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "copies"])
@pytest.mark.parametrize("last", [True, False], ids=["fails", "succeeds"])
def test_files_are_restored_if_a_later_one_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool, last: bool
) -> None:
    """What was replaced or created before has its old content, owner and mode again, also without hard links."""
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
    """A block that fails leaves nothing; what an earlier process left is removed; one that exists is used."""
    path, left = tmp_path / "a" / "b", tmp_path / "a" / ".certlet.new"
    left.mkdir(parents=True)
    (left / "key").touch()
    with contextlib.suppress(ZeroDivisionError), atomic_write.atomic_directory(path) as place:
        assert not (place / "key").exists()
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    for name in ("c", "d"):
        with atomic_write.atomic_directory(path) as place:
            (place / name).touch()
            assert path.exists() == (name == "d")
    assert (sorted(each.name for each in path.iterdir()), mode(path)) == (["c", "d"], 0o700)
    with pytest.raises(NotADirectoryError), atomic_write.atomic_directory(path / "c"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("is_attacked", [True, False])
def test_link_in_place_of_a_new_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_attacked: bool
) -> None:
    """The owner of a directory gets what root creates in it, and not what a link in it points to."""
    (tmp_path / "target").mkdir()
    os.chown(tmp_path, 1234, 4321)
    if is_attacked:
        monkeypatch.setattr(Path, "mkdir", lambda path, **_: path.symlink_to(tmp_path / "target"))
    with contextlib.suppress(OSError), atomic_write.atomic_directory(tmp_path / "new"):
        pass
    assert ((tmp_path / "target").stat().st_uid, (tmp_path / "new").lstat().st_uid) == (0, 1234)


def test_directory_lock_is_exclusive(tmp_path: Path) -> None:
    """The second waits until the first has ended, even if that failed; another directory's does not wait."""
    done = threading.Event()

    def second() -> None:
        with atomic_write.locked_directory(tmp_path):
            done.set()

    waiting = threading.Thread(target=second)
    (tmp_path / "other").mkdir()
    with contextlib.suppress(ZeroDivisionError), atomic_write.locked_directory(tmp_path):
        waiting.start()
        with atomic_write.locked_directory(tmp_path / "other"):
            assert not done.wait(0.2)
        raise ZeroDivisionError
    assert done.wait(10)
    waiting.join()


def test_lock_timeout_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user who can read the directory can hold its lock: a command says so, and does not wait for ever."""
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
    """As a copy with `cp -p` does; a file that nobody wrote to has the version that it had."""
    path = tmp_path / "file"
    assert atomic_write.file_version(path) == ()
    path.write_text("a")
    before, times = atomic_write.file_version(path), path.stat()
    assert atomic_write.file_version(str(path)) == before
    time.sleep(0.02)  # the kernel's clock has steps
    path.write_text("b")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert atomic_write.file_version(path) != before
