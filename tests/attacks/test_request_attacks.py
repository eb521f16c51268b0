"""Requests, profiles and CA chains that could lead to wrong or excessive rights in a certificate."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from service.keystore import ca_directory
from service.pki import keys
from service.pki.errors import BadCSR, BadPublicKey, CAError, CompoundError
from service.pki.hierarchy import Hierarchy
from service.pki.issuer import Issuer
from service.pki.policy_parser import ProfileError
from service.pki.weak_keys import DenyList
from tests import csrs, factories, servers
from tests.cli.test_show import leaf
from tests.csrs import tlv
from tests.factories import ROOT, SIGNING
from tests.pki.test_evaluation import evaluate_in, extensions, team

MICROSOFT: Final = "1.3.6.1.4.1.311"
PKIX: Final = "1.3.6.1.5.5.7.1"
GRANTS_RIGHTS: Final = {
    "application policies": f"{MICROSOFT}.21.10",
    "certificate template": f"{MICROSOFT}.21.7",
    "enrolment template": f"{MICROSOFT}.20.2",
    "account SID": f"{MICROSOFT}.25.2",
    "nsCertType": "2.16.840.1.113730.1.1",
    "nsSslServerName": "2.16.840.1.113730.1.12",
    "obsolete subjectAltName": "2.5.29.7",  # which Windows reads
    "obsolete basicConstraints": "2.5.29.10",
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
    "private enterprise number": "1.3.6.1.4.1.99999.1",
    "arc similar to Microsoft's": "1.3.6.1.4.1.3110.21.10",
    "qualified statements": f"{PKIX}.3",
    "MUD URL": f"{PKIX}.25",
}


@pytest.mark.parametrize("oid", GRANTS_RIGHTS.values(), ids=GRANTS_RIGHTS)
def test_profile_rejects_extensions_that_grant_rights(oid: str) -> None:
    """A profile that lists such an extension does not load."""
    with pytest.raises(ProfileError, match=f"team.extensions.0: '{oid}' cannot be copied from requests"):
        team(extensions=[oid])


@pytest.mark.parametrize("oid", GRANTS_NOTHING.values(), ids=GRANTS_NOTHING)
def test_profile_copies_extensions_that_grant_nothing(oid: str) -> None:
    """The certificate has the octets of the request's extension."""
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), tlv(0x30, b"\x05\x00"))
    copied = extensions(evaluate_in(team(extensions=[oid]), extensions=[value]))
    assert (copied[oid][0].public_bytes(), copied[oid][1]) == (value.value, False)


@pytest.mark.parametrize("value", [b"", b"junk", b"\x05\x00\x00", b"\x30\x80\x00\x00", b"\x30\x03\x02\x02\x01"], ids=bytes.hex)  # fmt: skip
def test_extension_that_is_not_der_is_not_copied(value: bytes) -> None:
    """It is refused if the profile copies it, since parsers differ on it; otherwise it is left out."""
    oid = x509.ObjectIdentifier(GRANTS_NOTHING["private enterprise number"])
    malformed = x509.UnrecognizedExtension(oid, value)
    with pytest.raises(BadCSR, match="is not DER") as refusal:
        evaluate_in(team(extensions=[oid.dotted_string]), extensions=[malformed])
    assert refusal.value.field == f"extensions.{oid.dotted_string}"
    assert evaluate_in(team(), extensions=[malformed]).notes == (f"extension {oid.dotted_string} left out",)


def csr_with_rsa_key(key: rsa.RSAPublicKey, private_exponent: int) -> bytes:
    """A DER CSR with an RSA key that no library creates, signed by RFC 8017, section 8.2."""
    placeholder = keys.encode_public_key(csrs.private_key("rsa-2048").public_key())
    spki = keys.encode_public_key(key)
    request = csrs.build(key_type="rsa-2048")
    info = request.tbs_certrequest_bytes.replace(placeholder, spki)
    digest = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(info).digest()
    padded = b"\0\1" + b"\xff" * (253 - len(digest)) + b"\0" + digest
    modulus = key.public_numbers().n
    signature = pow(int.from_bytes(padded, "big"), private_exponent, modulus).to_bytes(256, "big")
    algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")
    return tlv(0x30, info, algorithm, tlv(0x03, b"\0", signature))


def test_denied_key_stays_denied_with_another_exponent() -> None:
    """Anyone with the factors can choose another exponent; without a deny list, that key is accepted."""
    private_key = csrs.private_key("rsa-2048")
    assert isinstance(private_key, rsa.RSAPrivateKey)
    numbers = private_key.private_numbers()
    key = rsa.RSAPublicNumbers(65539, numbers.public_numbers.n).public_key()
    request = x509.load_der_x509_csr(csr_with_rsa_key(key, pow(65539, -1, (numbers.p - 1) * (numbers.q - 1))))
    denied_spki = keys.encode_public_key(csrs.private_key("rsa-2048").public_key())
    assert factories.evaluate(request).subject_public_key_info == keys.encode_public_key(key)
    deny_list = DenyList.parse(hashlib.sha256(denied_spki).hexdigest())
    with pytest.raises(BadPublicKey, match="deny list"):
        factories.evaluate(request, factories.context(deny_list=deny_list))


OTHER_DIRECTORY_NAMES: Final = x509.NameConstraints(
    [x509.DirectoryName(factories.distinguished_name("Other"))], None
)
ROOT_ID: Final = x509.SubjectKeyIdentifier.from_public_key(ROOT.public_key())
AKI: Final = x509.AuthorityKeyIdentifier
AKI_WITH_SERIAL: Final = AKI(ROOT_ID.digest, [x509.DirectoryName(factories.distinguished_name("Root"))], 1)
CA_CONSTRAINTS: Final = x509.BasicConstraints(ca=True, path_length=1)
# Changes to the signing CA and to its root, and the error; empty if the chain is valid.
CHAINS: Final[dict[str, tuple[dict[str, Any], dict[str, Any], str]]] = {
    "valid": ({}, {}, ""),
    "root identifies itself": ({}, {"aki": AKI(ROOT_ID.digest, None, None)}, ""),
    "root permits only host names": ({}, {"extra": x509.NameConstraints([x509.DNSName("example.com")], None)}, ""),
    "identifier of another key": ({"aki": AKI(b"other", None, None)}, {}, "has an authorityKeyIdentifier of another key"),
    "root identifies another key": ({}, {"aki": AKI(b"other", None, None)}, "has an authorityKeyIdentifier of another key"),
    "root has another identifier": ({}, {"ski": x509.SubjectKeyIdentifier(b"other")}, "has an authorityKeyIdentifier of another key"),
    "another serial number": ({"aki": AKI_WITH_SERIAL}, {}, "has an authorityKeyIdentifier of another key"),
    "no identifier": ({"aki": None}, {}, "has no key identifier"),
    "empty identifier": ({"aki": AKI(None, None, None)}, {}, "has no key identifier"),
    "basicConstraints not critical": ({"basic": None, "extra": CA_CONSTRAINTS}, {}, "basicConstraints that are not critical"),
    "root's basicConstraints not critical": ({}, {"basic": None, "extra": CA_CONSTRAINTS}, "basicConstraints that are not critical"),
    "no subject": ({"subject": x509.Name([])}, {}, "empty subject"),
    "subject outside the constraints": ({}, {"extra": OTHER_DIRECTORY_NAMES}, "outside the nameConstraints"),
    "not a CA": ({}, {"basic": x509.BasicConstraints(ca=False, path_length=None)}, "not a CA"),
    "pathLen too small": ({}, {"basic": x509.BasicConstraints(ca=True, path_length=0)}, "pathLen that is too small"),
    "no key usage": ({"usage": None}, {}, "may not sign certificates"),
}  # fmt: skip


@pytest.mark.parametrize(("signing_change", "root_change", "fragment"), CHAINS.values(), ids=CHAINS)
def test_issuer_rejects_chains_that_openssl_rejects(
    tmp_path: Path, signing_change: dict[str, Any], root_change: dict[str, Any], fragment: str
) -> None:
    """An issuer accepts a chain exactly if `openssl verify -x509_strict` accepts a leaf below it."""
    chain = [factories.ca(**signing_change), factories.root(**root_change)]
    identifier = AKI.from_issuer_public_key(SIGNING.public_key())
    end_entity = leaf(issuer=chain[0].subject, aki=identifier, end=factories.NOW + timedelta(days=9))
    for name, certificate in zip("lcr", [end_entity, *chain], strict=True):
        (tmp_path / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    moment = str(int(factories.NOW.timestamp()))
    command = ("openssl", "verify", "-x509_strict", "-attime", moment, "-CAfile", "r", "-untrusted", "c", "l")
    run = servers.run(*command, cwd=tmp_path, check=False)
    assert (run.returncode == 0) is not bool(fragment), run.stderr
    with pytest.raises(CAError, match=fragment) if fragment else nullcontext():
        Issuer(chain[0], chain[1:], SIGNING)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"aki": AKI(b"other", None, None)}, "has an authorityKeyIdentifier of another key"),
        ({"end": datetime.now(UTC) - timedelta(hours=1)}, "the CA's chain expired at 20"),
    ],
    ids=["another key", "expired"],
)
def test_server_does_not_start_with_an_invalid_chain(
    tmp_path: Path, change: dict[str, Any], fragment: str
) -> None:
    """`certlet serve` prints one line with the error and the remedy."""
    validity = {"start": datetime.now(UTC) - timedelta(days=9), "end": datetime.now(UTC) + timedelta(days=99)}
    hierarchy = Hierarchy(factories.root(**validity), factories.ca(**validity | change), ROOT, SIGNING)
    ca_directory.save_hierarchy(tmp_path / "ca", hierarchy, None)
    run = servers.certlet("serve", "--port", "0", cwd=tmp_path)
    (error,) = run.stderr.decode().splitlines()
    assert run.returncode == 1
    assert fragment in error
    assert "create another CA (certlet rollover or init)" in error


@pytest.mark.parametrize(("count", "limit"), [(100, ""), (5000, " for the first 100")])
def test_refusal_lists_at_most_100_reasons(count: int, limit: str) -> None:
    """Without the limit, an audit record has 20 times the size of the request: 90 MB for a batch of 4 MiB."""
    usages = [x509.ObjectIdentifier(f"1.3.{number}") for number in range(count)]
    with pytest.raises(CompoundError) as refusal:
        evaluate_in(team(), extensions=[x509.ExtendedKeyUsage(usages)])
    assert refusal.value.detail == f"{count} problems, see errors{limit}"
    assert len(refusal.value.subproblems) == 100
