from __future__ import annotations

import ipaddress
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.pki import names, signing
from service.pki.errors import IssuerError
from service.pki.issuer import Issuer
from tests import authorities, csrs
from tests.authorities import NOW, ROOT, SIGNING, ca, name, root, usage

WEAK = rsa.generate_private_key(65537, 1024)


def test_a_sound_chain_is_an_issuer() -> None:
    """A signing CA and its root make an issuer, valid where all of its chain is."""
    issuer = Issuer(ca(end=NOW + timedelta(days=9)), [root(start=NOW - timedelta(hours=1))], SIGNING)
    assert issuer.not_after == (NOW + timedelta(days=9)).replace(microsecond=0)
    assert issuer.not_before == (NOW - timedelta(hours=1)).replace(microsecond=0)
    assert issuer.intermediates == (issuer.certificate,)
    assert issuer.root.subject == name("Root")


def test_a_root_alone_is_an_issuer() -> None:
    """A self-signed CA may issue by itself; there are no intermediates then."""
    issuer = Issuer(root(), [], ROOT)
    assert issuer.intermediates == ()
    assert issuer.root == issuer.certificate


@pytest.mark.parametrize(
    ("certificate", "chain", "key", "word"),
    [
        (ca(), [root()], ROOT, "not the one in the CA certificate"),
        (ca(basic=None), [root()], SIGNING, "not a CA"),
        (ca(basic=x509.BasicConstraints(ca=False, path_length=None)), [root()], SIGNING, "not a CA"),
        (ca(usage=usage("crl_sign")), [root()], SIGNING, "may not sign"),
        (ca(usage=None), [root()], SIGNING, "may not sign"),
        (ca(ski=None), [root()], SIGNING, "no subject key identifier"),
        (ca(), [root(basic=x509.BasicConstraints(ca=True, path_length=0))], SIGNING, "pathLen"),
        (ca(signer=WEAK), [root(signer=WEAK, public_key=WEAK.public_key())], SIGNING, "1024 bits"),
        (ca(), [], SIGNING, "not issued by itself"),
        (ca(), [root(), ca()], SIGNING, "is not issued by"),
        (ca(issuer="Other"), [root()], SIGNING, "is not issued by"),
        (ca(signer=SIGNING), [root()], SIGNING, "is not issued by"),
        (
            ca(extra=x509.InhibitAnyPolicy(0), critical=True),
            [root()],
            SIGNING,
            "critical extension unknown",
        ),
    ],
)
def test_an_unsound_issuer_is_refused(
    certificate: x509.Certificate, chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey, word: str
) -> None:
    """What relying parties would refuse is refused when the issuer is made (RFC 5280 6.1)."""
    with pytest.raises(IssuerError, match=word):
        Issuer(certificate, chain, key)


def test_an_extension_that_is_not_critical_may_be_unknown() -> None:
    """The twin of the critical one: it does not matter (RFC 5280 4.2)."""
    assert Issuer(ca(extra=x509.InhibitAnyPolicy(0)), [root()], SIGNING)


def leaf(issuer: Issuer, **change: Any) -> bytes:
    """A plain end-entity certificate to be signed, in the library's encoding."""
    key = issuer._private_key if issuer.certificate.public_key() != SIGNING.public_key() else SIGNING
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("leaf"))
        .issuer_name(change.get("issuer_name", issuer.certificate.subject))
        .public_key(csrs.key().public_key())
        .serial_number(7)
        .not_valid_before(change.get("start", issuer.not_before))
        .not_valid_after(change.get("end", issuer.not_after))
    )
    return builder.sign(key, signing.signature_hash(key.public_key())).tbs_certificate_bytes


def test_nothing_outlives_its_issuer() -> None:
    """No outside judge notices a leaf that is valid when its issuer is not, so the issuer refuses it."""
    issuer = Issuer(ca(), [root()], SIGNING)
    assert issuer.sign(leaf(issuer))
    with pytest.raises(IssuerError, match="while its issuer is not"):
        issuer.sign(leaf(issuer, end=issuer.not_after + timedelta(seconds=1)))
    with pytest.raises(IssuerError, match="while its issuer is not"):
        issuer.sign(leaf(issuer, start=issuer.not_before - timedelta(seconds=1)))


@pytest.mark.parametrize("is_deterministic", [True, False])
def test_a_signer_that_draws_random_numbers_is_asked_to(*, is_deterministic: bool) -> None:
    """RFC 6979 where a retry relies on it; what cannot do that, as KMS cannot, is not asked for it."""
    issuer = Issuer(ca(), [root()], SIGNING, is_deterministic=is_deterministic)
    to_be_signed = leaf(issuer)
    assert (issuer.sign(to_be_signed) == issuer.sign(to_be_signed)) is is_deterministic


def test_what_is_no_certificate_of_the_issuer_s_is_withheld() -> None:
    """The library reads what was signed, and the issuer is named in it: all else is our own fault."""
    issuer = Issuer(ca(), [root()], SIGNING)
    with pytest.raises(IssuerError, match="does not name its issuer"):
        issuer.sign(leaf(issuer, issuer_name=name("Another")))
    good = leaf(issuer)
    year = good.index(b"\x17\x0d") + 2
    for bad in (b"", good[:-1], good + b"\0", good[:year] + b"xx" + good[year + 2 :]):
        with pytest.raises(IssuerError, match="cannot be read"):
            issuer.sign(bad)


def test_every_signature_is_verified() -> None:
    """A signer that signs with another key, as a faulty one would, lets nothing out."""

    class Faulty(ec.EllipticCurvePrivateKey):
        """Says that it is SIGNING, and signs with ROOT: a fake that holds real keys."""

        curve = property(lambda _self: SIGNING.curve)
        key_size = property(lambda _self: SIGNING.key_size)

        def public_key(self) -> ec.EllipticCurvePublicKey:
            return SIGNING.public_key()

        def sign(self, data: Any, signature_algorithm: Any) -> bytes:
            return ROOT.sign(data, signature_algorithm)

        def exchange(self, algorithm: Any, peer_public_key: Any) -> bytes:
            raise NotImplementedError

        def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
            raise NotImplementedError

        def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002
            raise NotImplementedError

        def __copy__(self) -> Faulty:
            return self

        def __deepcopy__(self, memo: Any) -> Faulty:
            return self

    issuer = Issuer(ca(), [root()], Faulty())
    with pytest.raises(IssuerError, match="does not verify"):
        issuer.sign(leaf(issuer))


@pytest.mark.parametrize("kind", csrs.KINDS)
def test_every_kind_of_ca_key_signs(kind: str) -> None:
    """A CA may have any kind of key that is certified, and its certificates verify."""
    issuer = authorities.issuer(kind)
    certificate = x509.load_der_x509_certificate(issuer.sign(leaf(issuer)))
    certificate.verify_directly_issued_by(issuer.certificate)
    expected = signing.signature_hash(issuer.certificate.public_key())
    assert type(certificate.signature_hash_algorithm) is type(expected)


def constrained(*, permitted: list[str] | None = None, excluded: list[str] | None = None) -> Issuer:
    """An issuer under name constraints."""

    def subtrees(texts: list[str] | None) -> list[x509.GeneralName] | None:
        return [_subtree(each) for each in texts] if texts else None

    limits = x509.NameConstraints(subtrees(permitted), subtrees(excluded))
    return Issuer(ca(extra=limits, critical=True), [root()], SIGNING)


def _subtree(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    if kind == "ip":
        return x509.IPAddress(ipaddress.ip_network(value))
    if kind == "dn":
        return x509.DirectoryName(name(value))
    return csrs.general_name(text)


@pytest.mark.parametrize(
    ("permitted", "excluded", "asked", "allowed"),
    [
        (["dns:example.com"], None, "dns:example.com", True),
        (["dns:example.com"], None, "dns:a.b.Example.com", True),
        (["dns:example.com"], None, "dns:*.example.com", True),
        (["dns:example.com"], None, "dns:badexample.com", False),
        (["dns:example.com"], None, "dns:example.org", False),
        (["dns:example.com"], None, "ip:10.0.0.1", True),
        (["dns:.example.com"], None, "dns:a.example.com", True),
        (["dns:.example.com"], None, "dns:example.com", False),
        (None, ["dns:.example.com"], "dns:example.com", False),
        (None, ["uri:example.com"], "uri:urn:x:y", False),
        (None, ["uri:example.com"], "uri:https://example.org/", True),
        (None, ["uri:.example.com"], "uri:https://example.org/.example.com:x", False),  # OpenSSL's host
        (None, ["dns:bad.example.com"], "dns:good.example.com", True),
        (None, ["dns:bad.example.com"], "dns:x.bad.example.com", False),
        (None, ["dns:bad.example.com"], "dns:*.example.com", False),
        (["dns:example.com"], ["dns:a.example.com"], "dns:a.example.com", False),
        (None, ["dns:"], "dns:a.example.com", False),
        (["ip:10.0.0.0/8"], None, "ip:10.255.0.1", True),
        (["ip:10.0.0.0/8"], None, "ip:11.0.0.1", False),
        (["ip:10.0.0.0/8"], None, "ip:2001:db8::1", False),
        (None, ["ip:0.0.0.0/0", "ip:::/0"], "ip:2001:db8::1", False),
        (["email:example.com"], None, "email:a@example.com", True),
        (["email:example.com"], None, "email:a@sub.example.com", False),
        (["email:.example.com"], None, "email:a@sub.example.com", True),
        (["email:a@example.com"], None, "email:a@example.com", True),
        (["email:a@example.com"], None, "email:b@example.com", False),
        (["uri:example.com"], None, "uri:https://example.com/x", True),
        (["uri:example.com"], None, "uri:https://a.example.com/x", False),
        (["uri:.example.com"], None, "uri:https://a.example.com/x", True),
        (["uri:example.com"], None, "uri:urn:x:y", False),
    ],
)
def test_name_constraints(
    permitted: list[str] | None, excluded: list[str] | None, asked: str, *, allowed: bool
) -> None:
    """RFC 5280 4.2.1.10, for each kind of name: within the permitted, and outside the excluded."""
    issuer = constrained(permitted=permitted, excluded=excluded)
    wanted = names.load(csrs.general_name(asked), "x")
    assert bool(issuer.name_violations((), [wanted])) is not allowed


NAMED = [
    ("dns:example.com", "a"), ("dns:a.example.com", "a"), ("dns:example.org", ""), ("dns:badexample.com", ""),
    ("ip:10.0.0.1", "b"), ("ip:192.0.2.1", ""),
    ("email:anna@example.com", "a"), ("email:anna@mail.example.com", "a"), ("email:ceo@example.org", ""), ("email:x@badexample.com", ""),
    ("uri:https://example.com/x", "a"), ("uri:https://a.example.com:8443/", "a"), ("uri:spiffe://example.com/x", "a"),
    ("uri:https://a.example.com:8443/x:y?z", "a"), ("uri:https://a.example.com/x:y", ""), ("uri:https://a.example.com?x", ""),
    ("uri:https://example.org/", ""), ("uri:spiffe://example.org/admin", ""), ("uri:https://10.0.0.1/", ""), ("uri:urn:x:y", ""),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "where"), NAMED)
@pytest.mark.parametrize(
    ("held", "to"), [("a", ("example.com",)), ("b", ("10.0.0.0/8",)), ("ab", ("example.com", "10.0.0.0/8"))]
)
def test_what_a_ca_is_held_to_binds_every_kind_of_name(
    tmp_path: Path, held: str, to: tuple[str, ...], asked: str, where: str
) -> None:
    """A CA of a domain names hosts of it alone, in URIs and mailboxes too: for us, and for OpenSSL."""
    made, by = authorities.hierarchy("p-256", to), authorities.issuer("p-256", to)
    allowed = bool(where) and where in held
    assert bool(by.name_violations((), [names.load(csrs.general_name(asked), "x")])) is not allowed
    builder = x509.CertificateBuilder(
        by.certificate.subject, x509.Name([]), csrs.key().public_key(), 7, NOW, NOW + timedelta(days=1)
    )
    builder = builder.add_extension(by.authority_key_identifier, critical=False)
    leaf = builder.add_extension(x509.SubjectAlternativeName([csrs.general_name(asked)]), critical=True)
    signed = leaf.sign(authorities.signing_key(made), hashes.SHA256())
    for file, certificate in (("root", made.root), ("ca", made.signing), ("leaf", signed)):
        (tmp_path / file).write_bytes(certificate.public_bytes(Encoding.PEM))
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-attime",
        str(int(NOW.timestamp()) + 9),
        "-CAfile",
        "root",
        "-untrusted",
        "ca",
        "leaf",
    ]
    judged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (judged.returncode == 0) is allowed, judged.stderr


@pytest.mark.parametrize("uri", ["https://evil.org/.example.com:x", "https://evil.org?.example.com"])
def test_no_host_is_named_by_what_openssl_takes_for_it(uri: str) -> None:
    """OpenSSL accepts these, for it ends a host at a colon wherever that is, or else at a slash; we sign none."""
    name = names.load(csrs.general_name(f"uri:{uri}"), "x")
    (told,) = authorities.issuer("p-256", ("example.com",)).name_violations((), [name])
    assert "is outside what the CA is constrained to; OpenSSL takes 'evil.org" in told


def cn(text: str) -> names.DistinguishedName:
    """A subject of a common name alone."""
    return ((NameOID.COMMON_NAME, text),)


def test_subjects_are_constrained_too() -> None:
    """A directoryName constraint holds the subject; an empty subject is outside none."""
    issuer = constrained(permitted=["dn:leaf"])
    assert not issuer.name_violations(cn("leaf"), [])
    assert not issuer.name_violations((), [])
    assert issuer.name_violations(cn("other"), [])
    assert not issuer.name_violations(cn("LEAF "), [])
    assert constrained(excluded=["dn:evil  twin"]).name_violations(cn("Evil Twin"), [])


def test_a_common_name_that_reads_as_a_host_is_constrained() -> None:
    """OpenSSL holds such a common name against DNS constraints where there is no DNS name beside it."""
    issuer = constrained(permitted=["dns:example.com"])
    assert issuer.name_violations(cn("evil.example.org"), [])
    assert not issuer.name_violations(cn("good.example.com"), [])
    assert issuer.name_violations(cn("10.0.0.1"), [])
    assert not issuer.name_violations(cn("Anna"), [])


def test_extended_key_usages_of_the_chain_bind() -> None:
    """A CA whose EKU is clientAuth may not issue for serverAuth; nor may one with anyExtendedKeyUsage."""
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    limited = Issuer(ca(extra=client), [root()], SIGNING)
    assert limited.may_issue_for(ExtendedKeyUsageOID.CLIENT_AUTH)
    assert not limited.may_issue_for(ExtendedKeyUsageOID.SERVER_AUTH)
    anything = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    unclear = Issuer(ca(extra=anything), [root()], SIGNING)
    assert not unclear.may_issue_for(ExtendedKeyUsageOID.SERVER_AUTH)
