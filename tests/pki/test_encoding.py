"""DER and PEM as the library writes them, which is the judge here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding

from service.pki import encoding, names
from service.pki.profile import ATTRIBUTES
from tests import authorities

LENGTHS = [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000]


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_are_the_shortest(length: int) -> None:
    """X.690 10.1: one octet to 127, else as many as it takes."""
    assert encoding.tagged(0x04, bytes(length)) == asn1.encode_der(bytes(length))
    assert encoding.tagged(0x04, b"", bytes(length)) == encoding.tagged(0x04, bytes(length))
    assert encoding.bit_string(bytes(length)) == asn1.encode_der(asn1.BitString(bytes(length), 0))


@pytest.mark.parametrize(
    "number", [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 2**159 - 1, 2**159, 2**160]
)
def test_integers_are_the_shortest_and_not_negative(number: int) -> None:
    """X.690 8.3: a zero octet only where the sign needs it."""
    assert encoding.integer(number) == asn1.encode_der(number)


YEAR_2050 = datetime(2050, 1, 1, tzinfo=UTC)


@asn1.sequence
class Earlier:
    """Validity through 2049."""

    not_before: asn1.UTCTime
    not_after: asn1.UTCTime


@asn1.sequence
class Later:
    """Validity over the turn of 2050."""

    not_before: asn1.UTCTime
    not_after: asn1.GeneralizedTime


def test_times_are_utctime_through_2049() -> None:
    """RFC 5280 4.1.2.5: GeneralizedTime from 2050 on, not a second earlier."""
    start, last = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC), YEAR_2050 - timedelta(seconds=1)
    earlier = Earlier(not_before=asn1.UTCTime(start), not_after=asn1.UTCTime(last))
    assert encoding.validity(start, last) == asn1.encode_der(earlier)
    later = Later(not_before=asn1.UTCTime(last), not_after=asn1.GeneralizedTime(YEAR_2050))
    assert encoding.validity(last, YEAR_2050) == asn1.encode_der(later)


@asn1.sequence
class Extension:
    """RFC 5280 4.1."""

    kind: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(value=False)]
    value: bytes


@pytest.mark.parametrize("critical", [True, False])
def test_an_extension_that_is_not_critical_does_not_say_so(*, critical: bool) -> None:
    """DEFAULT FALSE is left out (X.690 11.5)."""
    value = x509.BasicConstraints(ca=False, path_length=None)
    expected = Extension(kind=value.oid, critical=critical, value=value.public_bytes())
    assert encoding.extension(value, critical=critical) == asn1.encode_der(expected)


@pytest.mark.parametrize("padding", range(64))
def test_pem_is_the_library_s(padding: int) -> None:
    """Lines of 64 characters, the last one of any length (RFC 7468 2)."""
    certificate = authorities.ca(subject="x" * (1 + padding))
    assert encoding.pem([certificate]).encode() == certificate.public_bytes(Encoding.PEM)
    other = authorities.root()
    assert encoding.pem([certificate, other]) == encoding.pem([certificate]) + encoding.pem([other])


TEXTS = {
    "C": "CH",
    "serialNumber": "A-7 (b)",
    "CN": "a.example.com",
    "O": "Zoë & Ω AG",
    "OU": "ä" * 64,
    "L": "L" * 128,
}


@pytest.mark.parametrize(
    "given", [[], ["CN"], ["C"], ["C", "serialNumber", "CN", "O", "OU", "L"], ["CN", "C"]]
)
def test_a_name_has_the_string_types_that_the_library_gives_it(given: list[str]) -> None:
    """UTF8String, but for what RFC 5280 A.1 has as PrintableString alone; one attribute to an RDN."""
    attributes = tuple((ATTRIBUTES[each][0], TEXTS[each]) for each in given)
    assert encoding.name(attributes) == names.distinguished_name(attributes).public_bytes()


def test_every_attribute_that_a_subject_may_hold_is_written_so() -> None:
    """The twin over all of the profiles' attributes, whichever there will be."""
    for oid, _ in ATTRIBUTES.values():
        attributes = ((oid, "XY"),)
        assert encoding.name(attributes) == names.distinguished_name(attributes).public_bytes()
