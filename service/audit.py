"""The audit log: one JSON line for each intent, result, refusal and revocation.

Nothing else is stored. An intent is written before the certificate is signed, so that every certificate has a
record even after a crash: an intent without a result counts as issued. A revocation is written before the
revocation list changes.
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
    """One line of the audit log. Times are RFC 3339, UTC; digests and serial numbers are hexadecimal.

    Attributes:
        request_id: the gateway's ID of the request.
        trace_id: the ID of the trace that the request belongs to, which the caller chose; '' if it has none.
        principal: the caller that the gateway authenticated; for a revocation `user:`, name and user id; for
            a certificate that the service issues to itself `service:` and the purpose.
        profile: the certificate profile; '' if the requested profile does not exist.
        session: the session of an IAM role, whose name the caller chose; '' for other principals.
        token_issuer, token_subject, token_id: the claims `iss`, `sub` and `jti` of the caller's token; '' for
            callers without a token.
        names, common_name: the certificate's; in a refusal the requested ones, as sent.
        content_sha256: digest of the certificate's content except issuer, serial number and signature
            (`CertificateSpec.digest`).
        reasons: code and detail of each reason of a refusal; the reason of a revocation.
        milliseconds: time from the request to this record; only in a result or a refusal.
    """

    event: Literal["intent", "result", "refusal", "revocation"]
    time: str
    request_id: str
    principal: str
    profile: str
    trace_id: str = ""
    session: str = ""
    token_issuer: str = ""
    token_subject: str = ""
    token_id: str = ""
    serial_number: str = ""
    names: tuple[str, ...] = ()
    common_name: str = ""
    subject_public_key_sha256: str = ""
    content_sha256: str = ""
    not_before: str = ""
    not_after: str = ""
    fingerprint_sha256: str = ""
    reasons: tuple[str, ...] = ()
    milliseconds: int | None = None


Recorder = Callable[[Sequence[AuditRecord]], None]
"""Writes all records, or raises OSError: the caller must then not sign, or not return the certificate."""


def serialize(entry: AuditRecord, metrics: str = "") -> bytes:
    """Encode one record as a line of ASCII JSON, without empty fields; no text can forge a second line.

    Args:
        entry: the record.
        metrics: a CloudWatch namespace; results and refusals then carry a metric in CloudWatch's embedded
            metric format. '' for no metrics. The profile is the only dimension, since it has few values.
    """
    fields = {name: value for name, value in entry._asdict().items() if value or value == 0}
    if metrics and entry.event in _COUNTS:
        fields |= _embedded_metric(entry, _COUNTS[entry.event], metrics)
    return _to_json(fields).encode("ascii") + b"\n"


def _embedded_metric(entry: AuditRecord, count: str, namespace: str) -> dict[str, object]:
    metrics = [{"Name": count, "Unit": "Count"}, {"Name": "milliseconds", "Unit": "Milliseconds"}]
    directive = {"Namespace": namespace, "Dimensions": [["profile"]], "Metrics": metrics}
    milliseconds = int(datetime.fromisoformat(entry.time).timestamp() * 1000)
    return {
        count: 1,
        "profile": entry.profile or "unknown",
        "_aws": {"Timestamp": milliseconds, "CloudWatchMetrics": [directive]},
    }


def open_log(path: Path | None, *, create: bool = True) -> int:
    """Open the audit log, or stderr if there is no path; return a descriptor for `fd_recorder`.

    Raises:
        OSError: the file cannot be opened.
    """
    if path is None:
        return sys.stderr.fileno()
    # `_ends_mid_line` reads files. A pipe must not be opened for reading: it would never break.
    readable = not path.exists() or (path.is_file() and os.access(path, os.R_OK))
    flags = (os.O_RDWR if readable else os.O_WRONLY) | os.O_APPEND | (os.O_CREAT if create else 0)
    return os.open(path, flags, 0o600)


def fd_recorder(descriptor: int, metrics: str = "") -> Recorder:
    """Return a recorder that writes all its lines at once, so that lines of several processes never mix.

    Each write holds a lock: a pipe is atomic only up to 4096 bytes (PIPE_BUF), and a record with a hundred
    names is longer. If the disk is full, a partial write is undone. If a killed process left a partial line,
    the next record starts on a new line.

    Args:
        descriptor: open for appending; a file also for reading, so that partial lines are found.
        metrics: as in `serialize`.

    Raises (the recorder): OSError, if the lines cannot be written completely.
    """
    size_after_write = 0

    def record(entries: Sequence[AuditRecord]) -> None:
        nonlocal size_after_write
        data = b"".join([serialize(entry, metrics) for entry in entries])
        with locked_descriptor(descriptor):
            size = os.fstat(descriptor).st_size
            if size != size_after_write and _ends_mid_line(descriptor, size):
                data = b"\n" + data
            written = os.write(descriptor, data)
            if written != len(data):
                _truncate_partial_write(descriptor, written)
                raise OSError("the audit log was written only in part")
            size_after_write = size + written

    return record


@contextlib.contextmanager
def locked_descriptor(descriptor: int) -> Iterator[None]:
    """Hold a lock on an open file against other processes; do without if it cannot be locked."""
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
    """Remove a partial write from the end of a file, if nothing follows it; do nothing for a pipe."""
    with contextlib.suppress(OSError):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        if end == os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, end - written)
            os.lseek(descriptor, end - written, os.SEEK_SET)


def _ends_mid_line(descriptor: int, size: int) -> bool:
    """Whether a file of this size ends with a partial line; False for a pipe or an unreadable file."""
    try:
        return os.pread(descriptor, 1, size - 1) != b"\n"
    except OSError:
        return False
