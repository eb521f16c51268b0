"""Read values in BER (X.690) with definite lengths, and encode values in DER."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat import asn1

from service.pki.errors import BadCSR

CONSTRUCTED: Final = 0x20
SEQUENCE: Final = 0x30
_LONG_TAG: Final = 0x1F
_MAX_LENGTH_OCTETS: Final = 4  # few programs, if any, read longer lengths


class Value(NamedTuple):
    """A value: its identifier octet, its content, and all its octets as sent."""

    tag: int
    content: bytes
    octets: bytes


def encode(tag: int, *parts: bytes | memoryview) -> bytes:
    """Encode a value of these parts in DER."""
    return bytes([tag]) + asn1.encode_der(b"".join(parts))[1:]  # an OCTET STRING with another tag


def malformed(detail: str, field: str, hint: str = "create the CSR with another program") -> BadCSR:
    """Return the error for a malformed part of a CSR; `field` is its place in the request."""
    return BadCSR(f"The CSR cannot be parsed as PKCS#10 (RFC 2986): {detail}; {hint}", field)


class Reader:
    """Read the values of one CSR, and note what is not DER.

    In all methods, `what` names the part of the CSR in errors, and `field` its place in the request.
    """

    def __init__(self) -> None:
        """Create a reader without notes."""
        self.notes: dict[str, None] = {}

    def note(self, text: str) -> None:
        """Note what is read leniently, once."""
        self.notes[f"read leniently: {text}"] = None

    def value(self, data: bytes, start: int, what: str, field: str) -> Value:
        """Read the value at `start`; its length may have more octets than necessary."""
        tag, first = (*data[start : start + 2], 0, 0)[:2]
        count = first & 0x7F if first & 0x80 else 0
        if first & 0x80 and not count:
            raise malformed(f"{what} has an indefinite length (X.690 10.1)", field)
        if count > _MAX_LENGTH_OCTETS:
            raise malformed(f"{what} has a length of {count} octets, more than 4 (X.690 8.1.3)", field)
        begin = start + 2 + count
        end = begin + (int.from_bytes(data[start + 2 : begin], "big") if count else first)
        if end > len(data) or tag & _LONG_TAG == _LONG_TAG:
            raise malformed(f"{what} is truncated or has an unknown tag", field)
        value = Value(tag, data[begin:end], data[start:end])
        if len(value.octets) != len(encode(tag, value.content)):
            self.note("a length is not minimal (X.690 10.1)")
        return value

    def values(self, data: bytes, what: str, field: str) -> list[Value]:
        """Read all values in the data."""
        values, start = [], 0
        while start < len(data):
            values.append(self.value(data, start, what, field))
            start += len(values[-1].octets)
        return values

    def fields(self, value: Value, what: str, field: str, *alternatives: tuple[int, ...]) -> list[Value]:
        """Read the fields of a SEQUENCE, whose tags must be one of the alternatives."""
        if value.tag != SEQUENCE:
            raise malformed(f"{what} has the tag {value.tag:#04x}, not that of a SEQUENCE", field)
        fields = self.values(value.content, what, field)
        tags = tuple(part.tag for part in fields)
        if tags not in alternatives:
            actual, expected = bytes(tags[:9]).hex(" "), bytes(alternatives[0]).hex(" ")
            raise malformed(f"the tags in {what} are {actual or 'missing'}, not {expected}", field)
        return fields

    def oid(self, value: Value, what: str, field: str) -> x509.ObjectIdentifier:
        """Parse an OBJECT IDENTIFIER."""
        try:
            return asn1.decode_der(x509.ObjectIdentifier, encode(value.tag, value.content))
        except ValueError as error:
            raise malformed(f"{what} has no valid OBJECT IDENTIFIER", field) from error

    def note_order(self, values: Sequence[Value], what: str) -> None:
        """Note if the values of a SET OF are not sorted."""
        octets = [value.octets for value in values]
        if octets != sorted(octets):
            self.note(f"{what} are not in the order of DER (X.690 10.3)")
