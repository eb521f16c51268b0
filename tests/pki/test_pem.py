from __future__ import annotations

import base64

import pytest

from service.pki import pem
from service.pki.pem import Block
from tests import csrs

BUILT = csrs.build()
DER = csrs.der(BUILT)
PEM = csrs.pem(BUILT)
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
def test_each_form_is_told_from_the_others(data: bytes, blocks: list[Block]) -> None:
    """PEM with text around it, DER and base64 give their DER, and PEM its label."""
    assert pem.parse(data) == blocks


@pytest.mark.parametrize(
    ("data", "label"),
    [
        (b"junk!", ""),
        (b"\x30\x03\x02\x01\x01", ""),
        (PEM[:-20], "CERTIFICATE REQUEST"),
        (PEM.replace(b"END CERT", b"END NEW CERT"), "CERTIFICATE REQUEST"),
        (PEM.replace(b"\nMI", b"\nM!"), "CERTIFICATE REQUEST"),
        (PEM.replace(b"\nMI", b"\nM"), "CERTIFICATE REQUEST"),
        (PEM.replace(b"\n", b""), "CERTIFICATE REQUEST"),
        (b"-----BEGIN X-----\n-----END X-----", "X"),
    ],
)
def test_what_is_damaged_keeps_its_label(data: bytes, label: str) -> None:
    """A block whose base64, END line or line end after BEGIN is wrong has no content, and is found all the same."""
    assert pem.parse(data) == [Block(label, None)]


def test_content_is_not_shown() -> None:
    """A traceback does not show what may be a private key."""
    assert repr(DER) not in repr(REQUEST)
