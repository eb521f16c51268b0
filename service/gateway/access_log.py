"""The access log: one line of JSON on stderr for each request, and for each refused TLS handshake."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from service import audit
from service.gateway.events import format_utc
from service.gateway.worker import to_json


def write(kind: str, **members: object) -> None:
    """Write a record, as one line of ASCII. Its first member is `kind`, the time.

    An unwritable log does not prevent responses.
    """
    record = {kind: format_utc(int(time.time()), "%Y-%m-%dT%H:%M:%SZ"), **members}
    stderr = sys.stderr.fileno()
    # The lock keeps long audit records in a pipe intact.
    with contextlib.suppress(OSError), audit.locked_descriptor(stderr):
        os.write(stderr, f"{to_json(record)}\n".encode("ascii"))
