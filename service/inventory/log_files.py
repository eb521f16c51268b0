"""Audit logs in files and on stdin, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Generator
from functools import partial
from typing import BinaryIO, Final, cast

from service.inventory import InventoryError

_GZIP: Final = b"\x1f\x8b"  # RFC 1952 2.3.1
_MAX_LINE: Final = 1_048_576  # bytes; the parts of a longer line are not records
_BUFFER: Final = 262_144


def read_lines(file: BinaryIO, name: str) -> Generator[bytes, None, None]:
    """Yield the lines of an audit log; memory does not grow with its length.

    Close the generator before the file, if it is not read to its end.

    Raises:
        InventoryError: the compressed data is damaged or incomplete; `name` is in the message.
    """
    reader = io.BufferedReader(cast(io.RawIOBase, file), _BUFFER)
    try:
        if reader.peek(len(_GZIP)).startswith(_GZIP):
            with gzip.GzipFile(fileobj=reader) as uncompressed:
                yield from iter(partial(uncompressed.readline, _MAX_LINE), b"")
        else:
            yield from iter(partial(reader.readline, _MAX_LINE), b"")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InventoryError(f"{name} is not complete, or its compressed data is damaged") from error
    finally:
        reader.detach()  # the caller closes the file
