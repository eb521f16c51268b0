"""The record of what was issued: one JSON line for each intent, result and refusal.

A storageless CA remembers nothing else. An intent is written before signing, so that a certificate
that exists has a line, whatever happens afterwards: an intent without a result counts as issued.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """One line. Text from requests stands in it JSON-escaped, in ASCII, so it cannot forge a line.

    Attributes:
        event: what happened.
        time: when, RFC 3339, UTC.
        request_id: the gateway's name for the request.
        principal: who asked, as the gateway identified them.
        profile: the certificate profile asked for.
        serial_number: hexadecimal; '' in a refusal.
        names: the subject alternative names.
        common_name: the subject's common name.
        subject_public_key_sha256: of the SubjectPublicKeyInfo, hexadecimal.
        not_before, not_after: RFC 3339, UTC.
        fingerprint_sha256: of the certificate, hexadecimal; in a result alone.
        reasons: code and detail of every refusal.
    """

    event: Literal["intent", "result", "refusal"]
    time: str
    request_id: str
    principal: str
    profile: str
    serial_number: str = ""
    names: tuple[str, ...] = ()
    common_name: str = ""
    subject_public_key_sha256: str = ""
    not_before: str = ""
    not_after: str = ""
    fingerprint_sha256: str = ""
    reasons: tuple[str, ...] = ()


Recorder = Callable[[Event], None]
"""Writes one event, or raises OSError: then nothing is signed, or nothing is handed out."""


def line(event: Event) -> bytes:
    """One event as a line of JSON in ASCII; members without a value are left out."""
    members = {name: value for name, value in asdict(event).items() if value}
    return json.dumps(members, separators=(",", ":")).encode("ascii") + b"\n"


def to_descriptor(descriptor: int) -> Recorder:
    """A recorder that makes one write of each line, so that lines of several processes never mix.

    Raises (the recorder): OSError, if the line could not be written whole.
    """

    def record(event: Event) -> None:
        data = line(event)
        if os.write(descriptor, data) != len(data):
            raise OSError("the audit log took a part of a line")

    return record
