"""Tell PEM, DER and base64 apart: bytes from outside -> DER, with the label that PEM gives it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Final

# RFC 7468 7; `NEW` is what Windows certreq and Java's keytool write.
REQUEST_LABELS: Final = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")

_BEGIN: Final = re.compile(rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,64})(?=-----)")
_BLOCK: Final = re.compile(
    _BEGIN.pattern + rb"-----\s(?P<body>[A-Za-z0-9+/=\s]*+)-----END (?P=label)-----"  # RFC 7468 3
)


@dataclass(frozen=True)
class Block:
    """One PEM block, or the DER or base64 that a whole file is.

    Attributes:
        label: its PEM label; '' if there is no PEM.
        der: its content; None if it is damaged.
    """

    label: str
    der: bytes | None = field(repr=False)  # it may be secret


def is_der(data: bytes) -> bool:
    """Whether it is a DER SEQUENCE of over 127 octets, whose second octet is never ASCII."""
    return data[:1] == b"\x30" and data[1:2] >= b"\x80"


def parse(data: bytes) -> list[Block]:
    """Every PEM block, with any text around them; else the DER, or the base64, that the data is.

    LF, CRLF and CR are allowed, as are spaces within base64. Nothing at all is an empty list.
    """
    if is_der(data):
        return [Block("", data)]
    blocks = []
    for begin in _BEGIN.finditer(data):
        block = _BLOCK.match(data, begin.start())
        blocks.append(Block(begin["label"].decode("ascii"), _decode(block["body"]) if block else None))
    return blocks or ([Block("", _decode(data))] if data.strip() else [])


def _decode(text: bytes) -> bytes | None:
    """Base64, with white space anywhere; None if it is none, or of nothing."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True) or None
    except ValueError:
        return None
