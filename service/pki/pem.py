"""Parse PEM, DER and base64 from untrusted sources, and verify DER."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1

# RFC 7468 7; Windows certreq and Java's keytool write `NEW`.
CSR_LABELS: Final = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")

_BEGIN: Final = re.compile(rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,64})(?=-----)")
_BLOCK: Final = re.compile(
    _BEGIN.pattern + rb"-----\s(?P<body>[A-Za-z0-9+/=\s]*+)-----END (?P=label)-----"  # RFC 7468 3
)

_ENUMERATED: Final = 0x0A
_CONSTRUCTED: Final = 0x20
_CONSTRUCTED_STRINGS: Final = frozenset(range(0x20, 0x40)) - {0x30, 0x31}  # X.690 10.2
_MAX_DEPTH: Final = 32
_PRIMITIVES: Final[dict[int, type]] = {  # by identifier octet; end-of-contents (0) is not a value
    0x00: asn1.Null,
    0x01: bool,
    0x02: int,
    0x03: asn1.BitString,
    0x05: asn1.Null,
    0x06: x509.ObjectIdentifier,
    0x0C: str,
    0x13: asn1.PrintableString,
    0x16: asn1.IA5String,
    0x17: asn1.UTCTime,
    0x18: asn1.GeneralizedTime,
}


@asn1.sequence
class _Parts:
    parts: list[asn1.TLV]


@dataclass(frozen=True)
class Block:
    """A PEM block, or the content of a file in DER or base64.

    Attributes:
        label: the PEM label; '' if the file is not PEM.
        der: the content; None if it is damaged.
    """

    label: str
    der: bytes | None = field(repr=False)  # may be secret


def is_der(data: bytes) -> bool:
    """Whether the data is a DER SEQUENCE of over 127 octets; its second octet is never ASCII."""
    return data[:1] == b"\x30" and data[1:2] >= b"\x80"


def verify_der(data: bytes) -> None:
    """Verify that the data is one value in DER, and so are all values in it (X.690 8.1, 10, 11).

    Raises:
        ValueError: a value is not DER, or there are more than 32 levels.
    """
    _verify_value(asn1.decode_der(asn1.TLV, data), 0)


def _verify_value(value: asn1.TLV, depth: int) -> None:
    tag = value.tag_bytes[0]
    if tag in _PRIMITIVES:
        value.parse(_PRIMITIVES[tag])
    elif tag == _ENUMERATED:
        asn1.decode_der(int, _with_tag(b"\x02", value.data))  # X.690 8.4
    elif tag & _CONSTRUCTED:
        if depth == _MAX_DEPTH or tag in _CONSTRUCTED_STRINGS:
            raise ValueError("a constructed string, or too many levels")
        sequence = _with_tag(b"\x30", value.data)
        for part in asn1.decode_der(_Parts, _with_tag(b"\x30", sequence)).parts:
            _verify_value(part, depth + 1)


def _with_tag(tag: bytes, content: bytes | memoryview) -> bytes:
    return tag + asn1.encode_der(bytes(content))[1:]  # an OCTET STRING with another tag


def parse(data: bytes) -> list[Block]:
    """Parse the PEM blocks of a text; without any, the data as DER or base64.

    Lines may end with LF, CRLF or CR, and base64 may contain spaces. The list is empty if the data is blank.
    """
    if is_der(data):
        return [Block("", data)]
    blocks = []
    for begin in _BEGIN.finditer(data):
        block = _BLOCK.match(data, begin.start())
        blocks.append(Block(begin["label"].decode("ascii"), _decode(block["body"]) if block else None))
    return blocks or ([Block("", _decode(data))] if data.strip() else [])


def _decode(text: bytes) -> bytes | None:
    """Decode base64 with white space anywhere; None if it is invalid or empty."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True) or None
    except ValueError:
        return None
