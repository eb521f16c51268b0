"""Parse PEM, DER and base64 from untrusted sources, and verify DER."""

from __future__ import annotations

import base64
import codecs
import json
import re
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat import asn1

from service.pki import ber

_LABEL: Final = "CERTIFICATE REQUEST"  # RFC 7468 7
_WRONG_LABEL: Final = "CERTIFICATE SIGNING REQUEST"  # of several tools
CSR_LABELS: Final = (_LABEL, f"NEW {_LABEL}", _WRONG_LABEL)  # Windows certreq and Java's keytool write NEW

_MAX_DECODINGS: Final = 6  # such as base64 of UTF-16 with escaped line ends

_BEGIN: Final = re.compile(rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,64})(?=-----)")
_FROM_BASE64URL: Final = bytes.maketrans(b"-_", b"+/")
_URL_ENCODED: Final = re.compile(rb"BEGIN\+|%[0-9A-Fa-f]{2}")
_FORM_FIELD: Final = re.compile(rb"\A\s*\w{1,32}=(?=\w{16})")  # `=` ends base64, so this is not base64
_QUOTES: Final = b"\"' \t\r\n"

_INTEGER: Final = 0x02
_ENUMERATED: Final = 0x0A
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
        notes: what differs from RFC 7468.
    """

    label: str
    der: bytes | None = field(repr=False)  # may be secret
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """Data in one encoding.

    Attributes:
        data: the data.
        blocks: the PEM blocks in it, or the whole if it is DER.
        notes: the encodings around it that were decoded.
    """

    data: bytes = field(repr=False)  # may be secret
    blocks: list[Block]
    notes: tuple[str, ...] = ()


def is_der(data: bytes) -> bool:
    """Whether the data begins with a SEQUENCE of over 127 octets, or is a shorter one: text is neither."""
    return data[:1] == b"\x30" and (data[1:2] >= b"\x80" or data[1:2] == bytes([len(data[2:130])]))


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
        asn1.decode_der(int, ber.encode(_INTEGER, value.data))  # X.690 8.4
    elif tag & ber.CONSTRUCTED:
        if depth == _MAX_DEPTH or tag in _CONSTRUCTED_STRINGS:
            raise ValueError("a constructed string, or too many levels")
        sequence = ber.encode(ber.SEQUENCE, value.data)
        for part in asn1.decode_der(_Parts, ber.encode(ber.SEQUENCE, sequence)).parts:
            _verify_value(part, depth + 1)


def parse(data: bytes) -> list[Block]:
    """Parse the PEM blocks of a text; without any, the data as DER or base64.

    Lines may end with LF, CRLF, CR or not at all, and base64 may contain spaces. The whole may be encoded, as
    `decode` describes. The list is empty if the data is blank.
    """
    layer = decode(data)[-1]
    blocks = layer.blocks or ([Block("", None)] if layer.data.strip() else [])
    return [replace(block, notes=layer.notes + block.notes) for block in blocks] if layer.notes else blocks


def decode(data: bytes) -> list[Layer]:
    r"""Decode UTF-16, base64, form encoding and escapes such as `\n` around PEM or DER, at most six times.

    Returns:
        The data itself, and the result of each decoding. The last is PEM, DER or not known.
    """
    layers = [_layer(data)]
    while len(layers) <= _MAX_DECODINGS and (decoded := _decode_once(layers[-1])):
        content, note = decoded
        layers.append(_layer(content, tuple(filter(None, dict.fromkeys((*layers[-1].notes, note))))))
    return layers


def _layer(data: bytes, notes: tuple[str, ...] = ()) -> Layer:
    return Layer(data, [Block("", data)] if is_der(data) else _pem_blocks(data), notes)


def _pem_blocks(data: bytes) -> list[Block]:
    blocks = []
    for begin in _BEGIN.finditer(data):
        label, start = begin["label"].decode("ascii"), begin.end() + len("-----")
        end = data.find(b"-----", start)
        is_complete = data.startswith(b"-----END %b-----" % begin["label"], end)
        body = data[start:end] if is_complete else b""
        der, note = _decode_base64(body)
        if not der:
            blocks.append(Block(label, None))
            continue
        notes = [note] if note else []
        if b"\n" not in body and b"\r" not in body:
            notes.append("PEM without line breaks")
        if label == _WRONG_LABEL:
            notes.append(f"the PEM label {label}")
        blocks.append(Block(label, der, tuple(notes)))
    return blocks


def _decode_once(layer: Layer) -> tuple[bytes, str] | None:
    """Decode the outermost encoding, with a note; None if it is PEM, DER or not known."""
    data = layer.data
    if any(block.der for block in layer.blocks):
        return None
    decoded: bytes | None
    if codec := _utf_16_codec(data):
        return data.decode(codec, "replace").encode(), "UTF-16"
    if _URL_ENCODED.search(data) and b"&" not in data:
        return unquote_to_bytes(data.replace(b"+", b" ") if b"BEGIN+" in data else data), "form encoding"
    if b"\\" in data:
        decoded, note = _unescape(data), r"escaped line ends (\n)"
    elif layer.blocks:
        return None
    else:
        text = data.removeprefix(codecs.BOM_UTF8)
        decoded, note = _decode_base64(_FORM_FIELD.sub(b"", text, count=1).strip(_QUOTES))
        note = "base64 of PEM" if b"-----BEGIN " in (decoded or b"") else note
    return (decoded, note) if decoded else None


def _utf_16_codec(data: bytes) -> str:
    """Return the codec of UTF-16 with a BOM, or that begins with an ASCII character; '' for other data."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if data[:1] > b"\0" == data[1:2]:
        return "utf-16-le"
    return "utf-16-be" if data[:1] == b"\0" < data[1:2] else ""


def _unescape(data: bytes) -> bytes | None:
    """Replace JSON's escapes in PEM, without the text around it, or in base64; None if they are invalid."""
    if data.lstrip()[:1] in (b"{", b"["):  # other members must not be ignored
        return None
    start, end = data.find(b"-----BEGIN "), data.rfind(b"-----") + 5
    text = data[start:end] if start >= 0 else data.strip(_QUOTES)
    try:
        return str(json.loads(b'"%b"' % text, strict=False)).encode("utf-8", "replace")
    except ValueError:
        return None


def _decode_base64(text: bytes) -> tuple[bytes | None, str]:
    """Decode base64 or base64url with white space anywhere; note a variant; None if invalid or empty."""
    text = b"".join(text.split())
    note = ""
    if b"-" in text or b"_" in text:
        text, note = text.translate(_FROM_BASE64URL), "base64url"
    if len(text) % 4 and not text.endswith(b"="):
        text += b"=" * (-len(text) % 4)
        note = note or "base64 without padding"
    try:
        return base64.b64decode(text, validate=True) or None, note
    except ValueError:
        return None, ""
