"""Audit logs in files: plain, compressed, damaged, and with lines of any length."""

from __future__ import annotations

import gzip
import io
from typing import Any

import pytest

from service.inventory import InventoryError, log_files

LINES = [b'{"event":"result"}\n', b"\n", b"no newline at the end"]


def read(data: bytes) -> list[bytes]:
    return list(log_files.read_lines(io.BytesIO(data), "audit.log"))


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])]
)
def test_lines_are_read(compress: Any) -> None:
    """Also from several gzip members in one file."""
    assert read(compress(b"".join(LINES))) == LINES
    assert read(compress(b"")) == []


@pytest.mark.parametrize("damage", [slice(0, -9), slice(0, 12), slice(0, 2)])
def test_incomplete_compressed_file_is_an_error(damage: slice) -> None:
    """A list without the rest would look complete."""
    with pytest.raises(InventoryError, match=r"^audit\.log is not complete"):
        read(gzip.compress(b"".join(LINES) * 100)[damage])


def test_changed_compressed_file_is_an_error() -> None:
    data = bytearray(gzip.compress(b"".join(LINES) * 100))
    data[-6] ^= 1
    with pytest.raises(InventoryError):
        read(bytes(data))


def test_long_line_is_read_in_parts() -> None:
    """A file without line ends needs no more memory than others."""
    parts = read(b"x" * 2_500_000 + b"\n" + LINES[0])
    assert [len(part) for part in parts] == [1_048_576, 1_048_576, 402_849, len(LINES[0])]
