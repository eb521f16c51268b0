"""Files that several processes change, on a real file system."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from service import files


def test_a_file_is_on_the_disk_before_it_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves the old file or the new one: contents are synced, then the name, then the directory."""
    path, seen, fsync = tmp_path / "list", [], os.fsync
    path.write_bytes(b"old")

    def watched(descriptor: int) -> None:
        synced = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((synced.name, synced.read_bytes() if synced.is_file() else None, path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with files.alone(tmp_path):
        files.replace(path, b"new", 0o640)
    assert seen == [("list.new", b"new", b"old"), (tmp_path.name, None, b"new")]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """A file that cannot be replaced is as it was; a draft that a process left is in nobody's way."""
    path = tmp_path / "list"
    path.write_bytes(b"old")
    (tmp_path / "list.new").mkdir()
    with pytest.raises(OSError), files.alone(tmp_path):  # noqa: PT011 - which one is the system's
        files.replace(path, b"new", 0o600)
    assert path.read_bytes() == b"old"
    (tmp_path / "list.new").rmdir()
    (tmp_path / "list.new").write_bytes(b"half")
    files.replace(path, b"new", 0o600)
    assert path.read_bytes() == b"new"


def test_one_at_a_time(tmp_path: Path) -> None:
    """Who comes second waits until the first is done, even if that failed; another directory's are not kept waiting."""
    done = threading.Event()

    def second() -> None:
        with files.alone(tmp_path):
            done.set()

    waiting = threading.Thread(target=second)
    (tmp_path / "other").mkdir()
    with contextlib.suppress(ZeroDivisionError), files.alone(tmp_path):
        waiting.start()
        with files.alone(tmp_path / "other"):
            assert not done.wait(0.2)
        raise ZeroDivisionError
    assert done.wait(10)
    waiting.join()
