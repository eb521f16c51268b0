from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.pki import encoding, keys, revocation
from service.pki.errors import CAError
from service.pki.issuer import Issuer
from tests import csrs, factories, servers
from tests.factories import NOW, ROOT, SIGNING, ca, distinguished_name, key_usage, root

WEAK = rsa.generate_private_key(65537, 1024)


def test_issuer_is_valid_while_its_whole_chain_is() -> None:
    """The validity period of an issuer is the one that all certificates of its chain have in common."""
    issuer = Issuer(ca(end=NOW + timedelta(days=9)), [root(start=NOW - timedelta(hours=1))], SIGNING)
    assert issuer.not_after == (NOW + timedelta(days=9)).replace(microsecond=0)
    assert issuer.not_before == (NOW - timedelta(hours=1)).replace(microsecond=0)
    assert issuer.intermediates == (issuer.certificate,)
    assert issuer.root.subject == distinguished_name("Root")


def test_root_can_be_the_issuer() -> None:
    """A self-signed CA issues without intermediates."""
    issuer = Issuer(root(), [], ROOT)
    assert issuer.intermediates == ()
    assert issuer.root == issuer.certificate


@pytest.mark.parametrize(
    ("certificate", "chain", "key", "fragment"),
    [
        (ca(), [root()], ROOT, "does not match the CA certificate"),
        (ca(basic=None), [root()], SIGNING, "not a CA"),
        (ca(basic=x509.BasicConstraints(ca=False, path_length=None)), [root()], SIGNING, "not a CA"),
        (ca(usage=key_usage("crl_sign")), [root()], SIGNING, "may not sign"),
        (ca(usage=None), [root()], SIGNING, "may not sign"),
        (ca(ski=None), [root()], SIGNING, "no subject key identifier"),
        (ca(), [root(basic=x509.BasicConstraints(ca=True, path_length=0))], SIGNING, "pathLen"),
        (ca(signing_key=WEAK), [root(signing_key=WEAK, public_key=WEAK.public_key())], SIGNING, "1024 bits"),
        (ca(), [], SIGNING, "not issued by itself"),
        (ca(), [root(), ca()], SIGNING, "is not issued by"),
        (ca(issuer="Other"), [root()], SIGNING, "is not issued by"),
        (ca(signing_key=SIGNING), [root()], SIGNING, "is not issued by"),
        (ca(extra=x509.InhibitAnyPolicy(0), critical=True), [root()], SIGNING, "unsupported critical extension"),
    ],
)  # fmt: skip
def test_invalid_issuer_is_refused(
    certificate: x509.Certificate,
    chain: list[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
    fragment: str,
) -> None:
    """A chain that relying parties would reject (RFC 5280 6.1) is refused when the issuer is created."""
    with pytest.raises(CAError, match=fragment):
        Issuer(certificate, chain, key)


def test_ca_signed_with_sha_1_is_refused(tmp_path: Path) -> None:
    """TLS clients reject SHA-1 (OpenSSL's security level 1); the same CA with SHA-256 is accepted."""
    (tmp_path / "r.pem").write_text(encoding.encode_pem([root()]))
    for file, key in (("r.key", ROOT), ("s.key", SIGNING)):
        (tmp_path / file).write_bytes(keys.encode_private_key(key))
    extensions = "basicConstraints=critical,CA:TRUE keyUsage=keyCertSign subjectKeyIdentifier=hash authorityKeyIdentifier=keyid"
    (tmp_path / "x").write_text(extensions.replace(" ", "\n"))
    servers.run(
        *["openssl", "req", "-new", "-key", "s.key", "-subj", "/CN=Signing", "-out", "s.csr"], cwd=tmp_path
    )
    for digest in ("sha1", "sha256"):
        sign = f"openssl x509 -req -in s.csr -CA r.pem -CAkey r.key -set_serial 5 -{digest} -extfile x -out {digest}"
        servers.run(*sign.split(), cwd=tmp_path)
    old, new = (
        x509.load_pem_x509_certificate((tmp_path / digest).read_bytes()) for digest in ("sha1", "sha256")
    )
    with pytest.raises(CAError, match="is signed with ecdsa-with-SHA1"):
        Issuer(old, [root()], SIGNING)
    assert Issuer(new, [root()], SIGNING)


def test_unsupported_extension_is_accepted_if_not_critical() -> None:
    """RFC 5280 4.2: only a critical extension must be supported."""
    assert Issuer(ca(extra=x509.InhibitAnyPolicy(0)), [root()], SIGNING)


def leaf(issuer: Issuer, **change: Any) -> x509.CertificateBuilder:
    """A builder of an end-entity certificate."""
    return (
        x509.CertificateBuilder()
        .subject_name(distinguished_name("leaf"))
        .public_key(csrs.private_key().public_key())
        .serial_number(7)
        .not_valid_before(change.get("start", issuer.not_before))
        .not_valid_after(change.get("end", issuer.not_after))
    )


def test_certificate_outside_the_issuer_s_validity_is_refused() -> None:
    """No verifier detects a leaf that is valid when its issuer is not, so the issuer refuses it."""
    issuer = Issuer(ca(), [root()], SIGNING)
    assert issuer.sign(leaf(issuer))
    with pytest.raises(CAError, match="when its issuer is not"):
        issuer.sign(leaf(issuer, end=issuer.not_after + timedelta(seconds=1)))
    with pytest.raises(CAError, match="when its issuer is not"):
        issuer.sign(leaf(issuer, start=issuer.not_before - timedelta(seconds=1)))


def test_issuer_s_name_is_copied_octet_for_octet() -> None:
    """The issuer field keeps the encoding of the CA's subject, here PrintableString (RFC 5280 4.1.2.4)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Signing", _ASN1Type.PrintableString)])
    issuer = Issuer(ca(subject=subject), [root()], SIGNING)
    assert subject.public_bytes() in issuer.sign(leaf(issuer)).tbs_certificate_bytes


def test_authority_key_identifier_is_copied_from_the_ca() -> None:
    """The AKI is the issuer's SKI octet for octet, even if the SKI is not a hash of the key."""
    identifier = x509.SubjectKeyIdentifier(b"not a hash")
    issuer = Issuer(ca(ski=identifier), [root()], SIGNING)
    assert issuer.authority_key_identifier.key_identifier == b"not a hash"


@pytest.mark.parametrize("is_deterministic", [True, False])
def test_signatures_are_deterministic_if_the_key_supports_it(*, is_deterministic: bool) -> None:
    """Retries rely on RFC 6979 signatures; KMS does not support them."""
    issuer = Issuer(ca(), [root()], SIGNING, is_deterministic=is_deterministic)
    assert (issuer.sign(leaf(issuer)) == issuer.sign(leaf(issuer))) is is_deterministic


def test_every_signature_is_verified() -> None:
    """An issuer whose key does not match returns no certificate and no CRL."""
    issuer = Issuer(ca(), [root()], SIGNING)
    issuer._private_key = ROOT
    crl = revocation.crl_builder([], 0, NOW)
    for sign in (issuer.self_test, lambda: issuer.sign(leaf(issuer)), lambda: issuer.sign_crl(crl)):
        with pytest.raises(CAError, match="does not verify"):
            sign()


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
def test_ca_key_of_every_type_signs(key_type: str) -> None:
    """A CA key may have any accepted type; the certificates verify."""
    issuer = factories.create_issuer(key_type)
    issuer.self_test()
    certificate = issuer.sign(leaf(issuer))
    certificate.verify_directly_issued_by(issuer.certificate)
    expected = keys.signature_hash(issuer.certificate.public_key())
    assert type(certificate.signature_hash_algorithm) is type(expected)


def test_extended_key_usages_of_the_chain_are_enforced() -> None:
    """A CA with clientAuth or anyExtendedKeyUsage as its EKU may not issue for serverAuth."""
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    client_issuer = Issuer(ca(extra=client), [root()], SIGNING)
    assert client_issuer.may_issue_for(ExtendedKeyUsageOID.CLIENT_AUTH)
    assert not client_issuer.may_issue_for(ExtendedKeyUsageOID.SERVER_AUTH)
    anything = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    any_usage_issuer = Issuer(ca(extra=anything), [root()], SIGNING)
    assert not any_usage_issuer.may_issue_for(ExtendedKeyUsageOID.SERVER_AUTH)
