from __future__ import annotations

import concurrent.futures
from pathlib import Path

import pytest

from service import atomic_write
from service.gateway.api_keys import ApiKeys, KeyFile, KeyFileError, hash_key


def test_key_file_permissions_and_name_limits(tmp_path: Path) -> None:
    """The directory has mode 0700; leftovers of a crash are ignored; without the file, no key is valid."""
    file = KeyFile(tmp_path / "d" / "keys.json")
    file.add("a", "a" * 40)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    (tmp_path / "d" / "keys.json.new").write_text("left over")
    for name in ("", "a", "\u00e9", "x" * 129):
        with pytest.raises(KeyFileError):
            file.add(name, "b" * 40)
    file.add("b", "b" * 40)
    api_keys = ApiKeys(file, {})
    assert api_keys.identify("b" * 40) == "b"
    file.path.unlink()
    assert api_keys.identify("b" * 40) is None


def test_api_keys_follow_changes_of_the_file(tmp_path: Path) -> None:
    """A key is valid as soon as the file contains it, and invalid as soon as it does not."""
    file = KeyFile(tmp_path / "keys.json")
    api_keys = ApiKeys(file, {"env": hash_key("e" * 40)})
    assert api_keys.identify("a" * 40) is None
    file.add("a", "a" * 40)
    assert api_keys.identify("a" * 40) == "a"
    assert api_keys.identify("e" * 40) == "env"
    assert api_keys.identify("") is None
    file.remove("a")
    assert api_keys.identify("a" * 40) is None


def test_concurrent_key_changes_are_serialised(tmp_path: Path) -> None:
    """No concurrent change undoes another."""
    keys = KeyFile(tmp_path / "keys.json")
    for number in range(20):
        keys.add(f"old{number}", f"{number:030}")

    def change(number: int) -> None:
        keys.add(f"new{number}", f"{number:040}")
        keys.remove(f"old{number}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(20)))
    assert sorted(keys.read()) == sorted(f"new{number}" for number in range(20))
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]
    assert keys.path.stat().st_mode & 0o777 == 0o600


def test_concurrent_add_keeps_a_removal(tmp_path: Path) -> None:
    """`add` waits until another change is complete, and reads its result."""
    keys = KeyFile(tmp_path / "keys.json")
    keys.add("stolen", "s" * 30)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with atomic_write.locked_directory(tmp_path):
            adding = pool.submit(keys.add, "new", "n" * 30)
            assert not concurrent.futures.wait([adding], 0.2).done
            keys.path.write_text("{}")
        adding.result(5)
    assert sorted(keys.read()) == ["new"]


def test_key_removal_without_a_file_creates_no_directory(tmp_path: Path) -> None:
    """The error is the usual one for an unknown name."""
    with pytest.raises(KeyFileError, match="no key is named 'x'"):
        KeyFile(tmp_path / "nowhere" / "keys.json").remove("x")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "\xff", "[" * 100_000, ""])
def test_damaged_key_file_raises_on_every_lookup(tmp_path: Path, text: str) -> None:
    """An unreadable file or a dangling link is an error at each lookup, never an empty or a stale list."""
    path = tmp_path / "keys.json"
    KeyFile(path).add("a", "a" * 40)
    api_keys = ApiKeys(KeyFile(path), {})
    assert api_keys.identify("a" * 40) == "a"
    path.write_bytes(text.encode("latin-1"))
    if not text:
        path.unlink()
        path.symlink_to("nothing")
    for _ in range(2):
        with pytest.raises(KeyFileError):
            api_keys.identify("a" * 40)
