from __future__ import annotations

import base64
import functools
import json
from dataclasses import replace

import pytest

from service.pki import pem
from service.pki.pem import Block
from tests import csrs, input_forms
from tests.csrs import tlv

BUILT = csrs.build()
DER = csrs.encode_der(BUILT)
PEM = csrs.encode_pem(BUILT)
REQUEST = Block("CERTIFICATE REQUEST", DER)


@pytest.mark.parametrize(
    ("data", "blocks"),
    [
        (DER, [Block("", DER)]),
        (base64.b64encode(DER), [Block("", DER)]),
        (base64.encodebytes(DER).replace(b"\n", b"\r\n  "), [Block("", DER)]),
        (PEM, [REQUEST]),
        (PEM.rstrip(), [REQUEST]),
        (b"text\r\n" + PEM.replace(b"\n", b"\r\n") + b"text", [REQUEST]),
        (PEM.replace(b"CERT", b"NEW CERT"), [Block("NEW CERTIFICATE REQUEST", DER)]),
        (PEM.replace(b"\nMI", b"\nM I"), [REQUEST]),
        (PEM * 2, [REQUEST] * 2),
        (PEM[:90] + b"\n" + PEM, [Block("CERTIFICATE REQUEST", None), REQUEST]),
        (b"-----BEGIN A" + PEM, [Block("A", None), REQUEST]),
        (b"", []),
        (b" \r\n", []),
    ],
)
def test_pem_der_and_base64_are_distinguished(data: bytes, blocks: list[Block]) -> None:
    """PEM, DER and base64 are decoded to DER; a PEM block has its label, and text around it is ignored."""
    assert pem.parse(data) == blocks


@pytest.mark.parametrize(
    ("data", "label"),
    [
        (b"junk!", ""),
        (b"\x30\x04\x02\x01\x01", ""),
        (PEM[:-20], "CERTIFICATE REQUEST"),
        (PEM.replace(b"END CERT", b"END NEW CERT"), "CERTIFICATE REQUEST"),
        (PEM.replace(b"\nMI", b"\nM!"), "CERTIFICATE REQUEST"),
        (PEM.replace(b"\nMI", b"\nM=I"), "CERTIFICATE REQUEST"),
        (PEM.replace(b"\n", rb"\q"), "CERTIFICATE REQUEST"),
        (json.dumps({"csr": PEM.decode(), "profile": "client"}).encode(), "CERTIFICATE REQUEST"),
        (b"-----BEGIN X-----\n-----END X-----", "X"),
    ],
)
def test_damaged_pem_block_keeps_its_label(data: bytes, label: str) -> None:
    """A block with malformed base64, END line or escapes, or in a JSON object, has a label but no content."""
    assert pem.parse(data) == [Block(label, None)]


@pytest.mark.parametrize("name", [*input_forms.READ, *input_forms.READ_LENIENTLY])
def test_encodings_are_decoded_and_noted(name: str) -> None:
    """What several programs write instead of PEM or base64 is decoded; the notes name what differs."""
    data, notes = input_forms.READ_LENIENTLY.get(name) or (input_forms.READ[name], ())
    assert [(block.der, block.notes) for block in pem.parse(data)] == [(input_forms.DER, notes)]


def test_decoding_is_bounded() -> None:
    """Six encodings are decoded, not seven."""
    data = PEM
    for _ in range(6):
        data = base64.b64encode(data)
    assert pem.parse(data) == [replace(REQUEST, notes=("base64 of PEM",))]
    assert pem.parse(base64.b64encode(data)) == [Block("", None)]


def test_repr_of_block_omits_content() -> None:
    """The content may be a private key, which tracebacks must not show."""
    assert repr(DER) not in repr(REQUEST)


DEEP = functools.reduce(lambda value, _: tlv(0x30, value), range(32), b"\x05\x00")


@pytest.mark.parametrize(
    "data",
    [
        *(b"\x05\x00", tlv(0x30), tlv(0x30, b"\x05\x00", tlv(0xA0, b"\x01\x01\xff")), tlv(0x04, b"any octets"), tlv(0x80, b"\xff"), DEEP),
        *(tlv(0x31, b"\x02\x01\x80"), tlv(0x0C, b"x" * 300), b"\x0a\x01\x05", b"\x03\x02\x01\x02", b"\x06\x01\x2a", tlv(0x5F, b"")[:1] + b"\x20\x01a"),
    ],
    ids=bytes.hex,
)  # fmt: skip
def test_valid_der_is_accepted(data: bytes) -> None:
    """Nested values are verified too; for context-specific values, only the length is."""
    pem.verify_der(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x05", b"junk", b"\x05\x00\x00", b"\x05\x00\x05\x00", b"\x30\x80\x05\x00\x00\x00", b"\x04\x81\x01a", b"\x04\x02a", b"\x00\x00"),
        *(tlv(0x30, b"\x05"), tlv(0x30, tlv(0xA0, b"\x05\x01")), tlv(0xA0, b"\x30\x80\x00\x00"), tlv(0x24, b"\x04\x01a"), tlv(0x30, DEEP)),
        *(b"\x01\x01\x05", b"\x02\x02\x00\x01", b"\x02\x00", b"\x0a\x02\x00\x01", b"\x0a\x00", b"\x03\x02\x01\x01", b"\x05\x01\x00", b"\x06\x02\x80\x01", b"\x0c\x01\xff", b"\x17\x01a"),
    ],
    ids=bytes.hex,
)  # fmt: skip
def test_invalid_der_is_refused(data: bytes) -> None:
    """Missing or trailing octets, BER encodings and non-canonical primitive values are refused."""
    with pytest.raises(ValueError, match=r"."):
        pem.verify_der(data)
