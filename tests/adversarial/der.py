"""DER (X.690) as a tree that can be encoded incorrectly: false lengths, and forms that only BER permits."""

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
        tag: the identifier octets.
        content: the content octets of a primitive node.
        children: the elements; None for a primitive node.
        prefix: octets between the length and the children: a BIT STRING's count of unused bits.
        form: the form of the length: `short` (DER), `long` (one octet too many), or `indefinite`.
        length_error: a number added to the true length.
    """

    tag: bytes
    content: bytes = b""
    children: list[Node] | None = None
    prefix: bytes = b""
    form: str = "short"
    length_error: int = 0

    def encode(self) -> bytes:
        """Return the encoding."""
        body = self.content if self.children is None else self.prefix + b"".join(child.encode() for child in self.children)  # fmt: skip
        if self.form == "indefinite":
            return self.tag + b"\x80" + body + b"\0\0"
        return self.tag + _length(max(0, len(body) + self.length_error), long=self.form == "long") + body

    def walk(self) -> Iterator[Node]:
        """Yield this node and all its descendants."""
        yield self
        for child in self.children or ():
            yield from child.walk()


class RawBytes(Node):
    """Bytes that are encoded unchanged."""

    def __init__(self, octets: bytes) -> None:
        super().__init__(b"", octets)

    def encode(self) -> bytes:
        """Return the octets."""
        return self.content


def _length(count: int, *, long: bool) -> bytes:
    if count < 0x80 and not long:
        return bytes([count])
    octets = count.to_bytes(max(1, (count.bit_length() + 7) // 8), "big")
    octets = b"\0" + octets if long and count >= 0x80 else octets
    return bytes([0x80 | len(octets)]) + octets


def tlv(tag: bytes, *parts: bytes) -> bytes:
    """Encode a TLV from its parts."""
    body = b"".join(parts)
    return tag + _length(len(body), long=False) + body


def oid(dotted: str) -> bytes:
    """Encode an OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    return tlv(b"\x06", b"".join(map(_base128, [first * 40 + second, *rest])))


def _base128(number: int) -> bytes:
    septets = [number & 0x7F]
    while number := number >> 7:
        septets.append(number & 0x7F | 0x80)
    return bytes(reversed(septets))


def integer(number: int) -> bytes:
    """Encode an INTEGER."""
    return tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


@dataclass
class _Reader:
    data: bytes
    position: int = 0
    depth: int = field(default=0)

    def read_node(self) -> Node:
        start = self.position
        self.position += 1
        if self.data[start] & _LONG_TAG == _LONG_TAG:
            while self._octet() & 0x80:
                pass
        tag = self.data[start : self.position]
        count = self._octet()
        if count & 0x80:
            octets = self._octets(count & 0x7F)
            if not octets or len(octets) > 4:
                raise ValueError("no definite length")
            count = int.from_bytes(octets, "big")
        return self._build(tag, self._octets(count))

    def _build(self, tag: bytes, body: bytes) -> Node:
        prefix = body[:1] if tag == BIT_STRING else b""
        is_wrapper = tag in (OCTET_STRING, BIT_STRING) and body[len(prefix) :][:1] in (SEQUENCE, OCTET_STRING, BIT_STRING)  # fmt: skip
        if self.depth < _MAX_DEPTH and (is_wrapper or tag[0] & _CONSTRUCTED):
            try:
                return Node(tag, children=parse(body[len(prefix) :], self.depth + 1), prefix=prefix)
            except (ValueError, IndexError):  # keep it as octets
                pass
        return Node(tag, body)

    def _octet(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def _octets(self, count: int) -> bytes:
        self.position += count
        if self.position > len(self.data):
            raise ValueError("truncated")
        return self.data[self.position - count : self.position]


def parse(data: bytes, depth: int = 0) -> list[Node]:
    """Parse a sequence of TLVs, also inside OCTET STRINGs and BIT STRINGs, as far as they are DER.

    Raises:
        ValueError, IndexError: the data is not DER.
    """
    reader = _Reader(data, depth=depth)
    nodes = []
    while reader.position < len(data):
        nodes.append(reader.read_node())
    return nodes


def split(data: bytes) -> list[bytes]:
    """Return the octets of each TLV in a sequence of TLVs."""
    reader, parts = _Reader(data, depth=_MAX_DEPTH), []
    while (start := reader.position) < len(data):
        reader.read_node()
        parts.append(data[start : reader.position])
    return parts


def content(value: bytes) -> bytes:
    """Return the content of a TLV."""
    return _Reader(value, depth=_MAX_DEPTH).read_node().content


def request_parts(request: bytes) -> tuple[Node, Node, Node]:
    """Return the subject, SubjectPublicKeyInfo and attributes of a CSR (RFC 2986 4.1)."""
    info = (parse(request)[0].children or [])[0].children or []
    return info[1], info[2], info[3] if info[3:] else Node(ATTRIBUTES, children=[])


def key_parts(spki: Node) -> tuple[bytes, bytes, bytes]:
    """Return the algorithm, curve and key of a SubjectPublicKeyInfo; other parameters have no meaning."""
    algorithm, key = spki.children or []
    kind, *parameters = [node.encode() for node in algorithm.children or []]
    return kind, b"".join(parameters) if kind == oid("1.2.840.10045.2.1") else b"", key.encode()


def certificate_parts(certificate: bytes) -> tuple[Node, Node, Node]:
    """Return the subject, SubjectPublicKeyInfo and extensions of a version 3 certificate (RFC 5280 4.1)."""
    info = (parse(certificate)[0].children or [])[0].children or []
    return info[5], info[6], info[7]


def extension(root: Node, dotted: str) -> Node | None:
    """Return the OCTET STRING of the first extension with this OID below a node."""
    identifier = oid(dotted)
    for node in root.walk():
        parts = node.children or []
        if len(parts) in (2, 3) and parts[0].encode() == identifier and parts[-1].tag == OCTET_STRING:
            return parts[-1]
    return None
