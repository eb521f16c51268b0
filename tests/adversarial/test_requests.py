"""Requests and profiles that would have a certificate say more, or say it wrongly, than the CA means."""

from __future__ import annotations

from typing import Final

import pytest
from cryptography import x509

from service.pki.errors import BadCSR
from service.pki.profile_loader import ProfileError
from tests.csrs import tlv
from tests.pki.test_evaluation import extensions, granted, team

MICROSOFT: Final = "1.3.6.1.4.1.311"
PKIX: Final = "1.3.6.1.5.5.7.1"
AUTHORISES: Final = {
    "application policies": f"{MICROSOFT}.21.10",
    "certificate template": f"{MICROSOFT}.21.7",
    "enrolment template": f"{MICROSOFT}.20.2",
    "SID of an account": f"{MICROSOFT}.25.2",
    "nsCertType": "2.16.840.1.113730.1.1",
    "nsSslServerName": "2.16.840.1.113730.1.12",
    "subjectAltName of old": "2.5.29.7",  # which Windows reads
    "basicConstraints of old": "2.5.29.10",
    "subject directory attributes": "2.5.29.9",  # clearances and roles
    "proxyCertInfo": f"{PKIX}.14",
    "IP addresses": f"{PKIX}.7",
    "AS numbers": f"{PKIX}.8",
    "telephone numbers": f"{PKIX}.26",
    "delegated credentials": "1.3.6.1.4.1.44363.44",
    "SCTs": "1.3.6.1.4.1.11129.2.4.2",
    "poison": "1.3.6.1.4.1.11129.2.4.3",
    "admission": "1.3.36.8.3.3",
}
GRANTS_NOTHING: Final = {
    "own": "1.3.6.1.4.1.99999.1",
    "an arc that looks like Microsoft's": "1.3.6.1.4.1.3110.21.10",
    "qualified statements": f"{PKIX}.3",
    "MUD URL": f"{PKIX}.25",
}


@pytest.mark.parametrize("oid", AUTHORISES.values(), ids=AUTHORISES)
def test_profile_copies_no_extension_that_authorises(oid: str) -> None:
    """A profile that lists one is a fault at load, whose text says why."""
    with pytest.raises(ProfileError, match=f"team.extensions.0: '{oid}' is the CA's to set, .* rights"):
        team(extensions=[oid])


@pytest.mark.parametrize("oid", GRANTS_NOTHING.values(), ids=GRANTS_NOTHING)
def test_profile_copies_what_grants_nothing(oid: str) -> None:
    """The positive twin: the octets of the request are in the certificate."""
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), tlv(0x30, b"\x05\x00"))
    found = extensions(granted(team(extensions=[oid]), extensions=[value]))
    assert (found[oid][0].public_bytes(), found[oid][1]) == (value.value, False)


@pytest.mark.parametrize("value", [b"", b"junk", b"\x05\x00\x00", b"\x30\x80\x00\x00", b"\x30\x03\x02\x02\x01"], ids=bytes.hex)  # fmt: skip
def test_copied_extension_is_der(value: bytes) -> None:
    """What parsers of other programs would read differently, or past its end, is refused with the reason; not
    copied, it is only left out.
    """
    oid = x509.ObjectIdentifier(GRANTS_NOTHING["own"])
    malformed = x509.UnrecognizedExtension(oid, value)
    with pytest.raises(BadCSR, match="whose value is not DER") as refusal:
        granted(team(extensions=[oid.dotted_string]), extensions=[malformed])
    assert refusal.value.field == f"extensions.{oid.dotted_string}"
    assert granted(team(), extensions=[malformed]).notes == (f"extension {oid.dotted_string} left out",)
