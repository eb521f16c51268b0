"""DER (X.690) as a tree that can be written wrongly: lengths that lie, forms that BER alone allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

SEQUENCE: Final = b"\x30"
SET: Final = b"\x31"
INTEGER: Final = b"\x02"
BIT_STRING: Final = b"\x03"
OCTET_STRING: Final = b"\x04"
NULL: Final = b"\x05\x00"
BOOLEAN: Final = b"\x01"
ATTRIBUTES: Final = b"\xa0"
_CONSTRUCTED: Final = 0x20
_LONG_TAG: Final = 0x1F
_MAX_DEPTH: Final = 40


@dataclass
class Node:
    """One TLV.

    Attributes:
        tag: its identifier octets.
        content: its octets, if it is primitive.
        children: what it is made of; None if it is primitive.
        prefix: octets between its length and its children: a BIT STRING's count of unused bits.
        form: how the length is written: `short` (DER), `long` (one octet too many), or `indefinite`.
        lie: what is added to the true length.
    """

    tag: bytes
    content: bytes = b""
    children: list[Node] | None = None
    prefix: bytes = b""
    form: str = "short"
    lie: int = 0

    def encode(self) -> bytes:
        """Its octets."""
        body = self.content if self.children is None else self.prefix + b"".join(each.encode() for each in self.children)  # fmt: skip
        if self.form == "indefinite":
            return self.tag + b"\x80" + body + b"\0\0"
        return self.tag + _length(max(0, len(body) + self.lie), long=self.form == "long") + body

    def walk(self) -> Iterator[Node]:
        """Itself, and all beneath it."""
        yield self
        for each in self.children or ():
            yield from each.walk()


class Octets(Node):
    """Octets that stand for themselves."""

    def __init__(self, octets: bytes) -> None:
        super().__init__(b"", octets)

    def encode(self) -> bytes:
        """They themselves."""
        return self.content


def _length(count: int, *, long: bool) -> bytes:
    if count < 0x80 and not long:
        return bytes([count])
    octets = count.to_bytes(max(1, (count.bit_length() + 7) // 8), "big")
    octets = b"\0" + octets if long and count >= 0x80 else octets
    return bytes([0x80 | len(octets)]) + octets


def tlv(tag: bytes, *parts: bytes) -> bytes:
    """A TLV of its parts."""
    body = b"".join(parts)
    return tag + _length(len(body), long=False) + body


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    return tlv(b"\x06", b"".join(map(_base128, [first * 40 + second, *rest])))


def _base128(number: int) -> bytes:
    septets = [number & 0x7F]
    while number := number >> 7:
        septets.append(number & 0x7F | 0x80)
    return bytes(reversed(septets))


def integer(number: int) -> bytes:
    """An INTEGER."""
    return tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


@dataclass
class _Reader:
    data: bytes
    at: int = 0
    depth: int = field(default=0)

    def node(self) -> Node:
        start = self.at
        self.at += 1
        if self.data[start] & _LONG_TAG == _LONG_TAG:
            while self._octet() & 0x80:
                pass
        tag = self.data[start : self.at]
        count = self._octet()
        if count & 0x80:
            octets = self._octets(count & 0x7F)
            if not octets or len(octets) > 4:
                raise ValueError("no definite length")
            count = int.from_bytes(octets, "big")
        return self._made(tag, self._octets(count))

    def _made(self, tag: bytes, body: bytes) -> Node:
        prefix = body[:1] if tag == BIT_STRING else b""
        wrapped = tag in (OCTET_STRING, BIT_STRING) and body[len(prefix) :][:1] in (SEQUENCE, OCTET_STRING, BIT_STRING)  # fmt: skip
        if self.depth < _MAX_DEPTH and (wrapped or tag[0] & _CONSTRUCTED):
            try:
                return Node(tag, children=parse(body[len(prefix) :], self.depth + 1), prefix=prefix)
            except (ValueError, IndexError):  # octets, as what lies too deep
                pass
        return Node(tag, body)

    def _octet(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _octets(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("it ends too early")
        return self.data[self.at - count : self.at]


def parse(data: bytes, depth: int = 0) -> list[Node]:
    """The TLVs that octets are, with what stands in OCTET STRINGs and BIT STRINGs; each as far as it is DER.

    Raises:
        ValueError, IndexError: they are none.
    """
    reader = _Reader(data, depth=depth)
    found = []
    while reader.at < len(data):
        found.append(reader.node())
    return found


def request_parts(request: bytes) -> tuple[Node, Node, Node]:
    """Subject, SubjectPublicKeyInfo and attributes of a certification request (RFC 2986 4.1)."""
    info = (parse(request)[0].children or [])[0].children or []
    return info[1], info[2], info[3]


def certificate_parts(certificate: bytes) -> tuple[Node, Node, Node]:
    """Subject, SubjectPublicKeyInfo and extensions of a version 3 certificate (RFC 5280 4.1)."""
    info = (parse(certificate)[0].children or [])[0].children or []
    return info[5], info[6], info[7]


def extension(within: Node, dotted: str) -> Node | None:
    """The OCTET STRING of the extension with this OID, somewhere within."""
    wanted = oid(dotted)
    for each in within.walk():
        parts = each.children or []
        if len(parts) in (2, 3) and parts[0].encode() == wanted and parts[-1].tag == OCTET_STRING:
            return parts[-1]
    return None
