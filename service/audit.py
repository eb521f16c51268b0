"""The record of what was issued and revoked: one JSON line for each intent, result, refusal and revocation.

A storageless CA remembers nothing else. An intent is written before signing, so that a certificate
that exists has a line, whatever happens afterwards: an intent without a result counts as issued. So is a
revocation, before the list is changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode
_COUNTS: Final = {"result": "issued", "refusal": "refused"}


class AuditRecord(NamedTuple):
    """One line. Times are RFC 3339, UTC; digests and serial numbers hexadecimal.

    Attributes:
        request_id: the gateway's name for the request.
        principal: who asked, as the gateway identified them; of a revocation `user:`, name and user id.
        profile: the certificate profile; '' if the one asked for does not exist.
        names, common_name: of the certificate; in a refusal those that were asked for, as sent.
        template_sha256: of all that the certificate will hold but issuer, serial number and signature
            (`CertificateSpec.digest`).
        reasons: code and detail of every refusal; the reason of a revocation.
        milliseconds: from the request to this line; in a result or a refusal.
    """

    event: Literal["intent", "result", "refusal", "revocation"]
    time: str
    request_id: str
    principal: str
    profile: str
    serial_number: str = ""
    names: tuple[str, ...] = ()
    common_name: str = ""
    subject_public_key_sha256: str = ""
    template_sha256: str = ""
    not_before: str = ""
    not_after: str = ""
    fingerprint_sha256: str = ""
    reasons: tuple[str, ...] = ()
    milliseconds: int | None = None


Recorder = Callable[[Sequence[AuditRecord]], None]
"""Writes events, all of them, or raises OSError: then nothing is signed, or nothing is handed out."""


def serialize(event: AuditRecord, metrics: str = "") -> bytes:
    """One event as a line of JSON in ASCII, which no text can forge; members without a value are left out.

    Args:
        event: what happened.
        metrics: a CloudWatch namespace, for which a result or a refusal is a metric too, in CloudWatch's
            embedded metric format; '' for none. The profile is the only dimension: it has few values.
    """
    members = {name: value for name, value in event._asdict().items() if value or value == 0}
    if metrics and event.event in _COUNTS:
        members |= _embedded(event, _COUNTS[event.event], metrics)
    return _to_json(members).encode("ascii") + b"\n"


def _embedded(event: AuditRecord, count: str, namespace: str) -> dict[str, object]:
    names = [{"Name": count, "Unit": "Count"}, {"Name": "milliseconds", "Unit": "Milliseconds"}]
    directive = {"Namespace": namespace, "Dimensions": [["profile"]], "Metrics": names}
    moment = int(datetime.fromisoformat(event.time).timestamp() * 1000)
    return {
        count: 1,
        "profile": event.profile or "unknown",
        "_aws": {"Timestamp": moment, "CloudWatchMetrics": [directive]},
    }


def open_log(path: Path | None, *, create: bool = True) -> int:
    """A descriptor of this file, or of stderr, for `fd_recorder`; raise `OSError` if there is none."""
    if path is None:
        return sys.stderr.fileno()
    # Of a file its end is read, too. A pipe is not opened so: a pipe that we read ourselves never breaks.
    is_read = not path.exists() or (path.is_file() and os.access(path, os.R_OK))
    flags = (os.O_RDWR if is_read else os.O_WRONLY) | os.O_APPEND | (os.O_CREAT if create else 0)
    return os.open(path, flags, 0o600)


def fd_recorder(descriptor: int, metrics: str = "") -> Recorder:
    """A recorder that makes one write of its lines, so that lines of several processes never mix.

    A local file takes such a write as one. A pipe does so for 4096 octets at most (PIPE_BUF), and a line of
    a hundred names is longer: so each process holds a lock while it writes. Of lines that a file has no
    room for nothing is left; after half a line, which the end of a process left, the next begins on its own.

    Args:
        descriptor: open for appending; and for reading, if it is a file that may have such a part.
        metrics: as `line` takes it.

    Raises (the recorder): OSError, if the lines could not be written whole.
    """
    ours = 0  # the file's size after our last lines

    def record(events: Sequence[AuditRecord]) -> None:
        nonlocal ours
        data = b"".join([serialize(event, metrics) for event in events])
        with locked_descriptor(descriptor):
            size = os.fstat(descriptor).st_size
            if size != ours and _ends_mid_line(descriptor, size):
                data = b"\n" + data
            written = os.write(descriptor, data)
            if written != len(data):
                _truncate_partial_write(descriptor, written)
                raise OSError("the audit log took a part of a line")
            ours = size + written

    return record


@contextlib.contextmanager
def locked_descriptor(descriptor: int) -> Iterator[None]:
    """Hold the lock of what a descriptor is open for, against other processes, if it has one."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _truncate_partial_write(descriptor: int, written: int) -> None:
    """Take the last octets from a file's end, if they are what was written last; a pipe cannot."""
    with contextlib.suppress(OSError):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        if end == os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, end - written)
            os.lseek(descriptor, end - written, os.SEEK_SET)


def _ends_mid_line(descriptor: int, size: int) -> bool:
    """Whether a file of this size ends with a part of a line; never if it is a pipe, or cannot be read."""
    try:
        return os.pread(descriptor, 1, size - 1) != b"\n"
    except OSError:
        return False
