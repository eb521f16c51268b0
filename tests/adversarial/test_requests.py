"""Requests and profiles that would have a certificate say more, or say it wrongly, than the CA means."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from service.pki import csr, keys
from service.pki.errors import BadCSR, BadPublicKey
from service.pki.profile_loader import ProfileError
from service.pki.weak_keys import DenyList
from tests import authorities, csrs
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


# A prime whose cube has 2,048 bits.
PRIME: Final = 25 * 2**678 + 793


def proved(key: rsa.RSAPublicKey, private_exponent: int) -> bytes:
    """A request that is signed as RFC 8017 8.2 has it, with a key that no library makes."""
    own, spki = (keys.subject_public_key_info(each) for each in (csrs.key("rsa-2048").public_key(), key))
    request = csrs.build(kind="rsa-2048")
    info = request.tbs_certrequest_bytes.replace(own, spki)
    digest = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(info).digest()
    padded = b"\0\1" + b"\xff" * (253 - len(digest)) + b"\0" + digest
    modulus = key.public_numbers().n
    signature = pow(int.from_bytes(padded, "big"), private_exponent, modulus).to_bytes(256, "big")
    algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")
    return tlv(0x30, info, algorithm, tlv(0x03, b"\0", signature))


def test_rsa_modulus_that_is_a_power_is_refused() -> None:
    """Anyone who takes the cube root has the key, and so the proof of possession proves nothing."""
    key = rsa.RSAPublicNumbers(65537, PRIME**3).public_key()
    with pytest.raises(BadPublicKey, match="a power"):
        csr.load(proved(key, pow(65537, -1, PRIME**2 * (PRIME - 1))))


def test_denied_key_stays_denied_with_another_exponent() -> None:
    """A thief has the factors, and so chooses the exponent; with nothing denied such a key is good."""
    private_key = csrs.key("rsa-2048")
    assert isinstance(private_key, rsa.RSAPrivateKey)
    stolen = private_key.private_numbers()
    key = rsa.RSAPublicNumbers(65539, stolen.public_numbers.n).public_key()
    request = x509.load_der_x509_csr(proved(key, pow(65539, -1, (stolen.p - 1) * (stolen.q - 1))))
    usual = keys.subject_public_key_info(csrs.key("rsa-2048").public_key())
    assert authorities.evaluate(request).subject_public_key_info == keys.subject_public_key_info(key)
    denied = DenyList.load(hashlib.sha256(usual).hexdigest())
    with pytest.raises(BadPublicKey, match="deny list"):
        authorities.evaluate(request, authorities.context(deny_list=denied))
