from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from service.pki import names
from service.pki.issuer import Issuer
from tests import csrs, factories, servers
from tests.factories import NOW, SIGNING, ca, distinguished_name, root

EMPTY = x509.Name([])


def constrained(*, permitted: Sequence[str] = (), excluded: Sequence[str] = ()) -> Issuer:
    """An issuer under name constraints."""
    subtrees = ([_subtree(each) for each in texts] or None for texts in (permitted, excluded))
    limits = x509.NameConstraints(*subtrees)
    return Issuer(ca(extra=limits, critical=True), [root()], SIGNING)


def _subtree(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    if kind == "ip":
        return x509.IPAddress(ipaddress.ip_network(value))
    if kind == "dn":
        return x509.DirectoryName(distinguished_name(value))
    return csrs.general_name(text)


@pytest.mark.parametrize(
    ("permitted", "excluded", "asked", "allowed"),
    [
        (["dns:example.com"], [], "dns:example.com", True),
        (["dns:example.com"], [], "dns:a.b.Example.com", True),
        (["dns:example.com"], [], "dns:*.example.com", True),
        (["dns:example.com"], [], "dns:badexample.com", False),
        (["dns:example.com"], [], "dns:example.org", False),
        (["dns:example.com"], [], "ip:10.0.0.1", True),
        (["dns:.example.com"], [], "dns:a.example.com", True),
        (["dns:.example.com"], [], "dns:example.com", False),
        ([], ["dns:.example.com"], "dns:example.com", False),
        ([], ["uri:example.com"], "uri:urn:x:y", False),
        ([], ["uri:example.com"], "uri:https://example.org/", True),
        ([], ["uri:.example.com"], "uri:https://example.org/.example.com:x", False),  # OpenSSL's host
        ([], ["dns:bad.example.com"], "dns:good.example.com", True),
        ([], ["dns:bad.example.com"], "dns:x.bad.example.com", False),
        ([], ["dns:bad.example.com"], "dns:*.example.com", False),
        (["dns:example.com"], ["dns:a.example.com"], "dns:a.example.com", False),
        ([], ["dns:"], "dns:a.example.com", False),
        (["ip:10.0.0.0/8"], [], "ip:10.255.0.1", True),
        (["ip:10.0.0.0/8"], [], "ip:11.0.0.1", False),
        (["ip:10.0.0.0/8"], [], "ip:2001:db8::1", False),
        ([], ["ip:0.0.0.0/0", "ip:::/0"], "ip:2001:db8::1", False),
        ([], ["ip:10.0.0.0/8"], "ip:::ffff:10.0.0.1", False),  # IPv4-mapped
        (["ip:::/0"], [], "ip:::ffff:10.0.0.1", False),
        (["ip:::/0"], ["ip:10.0.0.0/8"], "ip:2001:db8::1", True),
        ([], ["email:root@example.com"], "email:Root@example.com", False),
        (["email:root@example.com"], [], "email:Root@example.com", False),
        (["email:example.com"], [], "email:a@example.com", True),
        (["email:example.com"], [], "email:a@sub.example.com", False),
        (["email:.example.com"], [], "email:a@sub.example.com", True),
        (["email:a@example.com"], [], "email:a@example.com", True),
        (["email:a@example.com"], [], "email:b@example.com", False),
        (["uri:example.com"], [], "uri:https://example.com/x", True),
        (["uri:example.com"], [], "uri:https://a.example.com/x", False),
        (["uri:.example.com"], [], "uri:https://a.example.com/x", True),
        (["uri:example.com"], [], "uri:urn:x:y", False),
    ],
)
def test_name_constraints(permitted: list[str], excluded: list[str], asked: str, *, allowed: bool) -> None:
    """RFC 5280 4.2.1.10, for each kind of name: within the permitted, and outside the excluded."""
    issuer = constrained(permitted=permitted, excluded=excluded)
    wanted = names.parse_general_name(csrs.general_name(asked), "x")
    assert bool(issuer.name_violations(EMPTY, [wanted])) is not allowed


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
def test_name_constraints_apply_to_every_kind_of_name(
    tmp_path: Path, held: str, to: tuple[str, ...], asked: str, where: str
) -> None:
    """A CA of a domain names hosts of it alone, in URIs and mailboxes too: for us, and for OpenSSL."""
    made, by = factories.hierarchy("p-256", to), factories.create_issuer("p-256", to)
    allowed = bool(where) and where in held
    assert (
        bool(by.name_violations(EMPTY, [names.parse_general_name(csrs.general_name(asked), "x")]))
        is not allowed
    )
    key, end = csrs.private_key().public_key(), NOW + timedelta(days=1)
    builder = x509.CertificateBuilder(by.certificate.subject, EMPTY, key, 7, NOW, end)
    builder = builder.add_extension(by.authority_key_identifier, critical=False)
    leaf = builder.add_extension(x509.SubjectAlternativeName([csrs.general_name(asked)]), critical=True)
    signed = leaf.sign(factories.signing_key(made), hashes.SHA256())
    for file, certificate in (("root", made.root), ("ca", made.signing), ("leaf", signed)):
        (tmp_path / file).write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ("openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()) + 9))
    chain = ("-CAfile", "root", "-untrusted", "ca", "leaf")
    judged = servers.run(*command, *chain, cwd=tmp_path, check=False)
    assert (judged.returncode == 0) is allowed, judged.stderr


@pytest.mark.parametrize("uri", ["https://evil.org/.example.com:x", "https://evil.org?.example.com"])
def test_uri_host_as_read_by_openssl_must_be_permitted(uri: str) -> None:
    """OpenSSL accepts these, for it ends a host at a colon wherever that is, or else at a slash; we sign none."""
    name = names.parse_general_name(csrs.general_name(f"uri:{uri}"), "x")
    (told,) = factories.create_issuer("p-256", ("example.com",)).name_violations(EMPTY, [name])
    assert "is outside the CA's name constraints; OpenSSL reads 'evil.org" in told


def test_subjects_are_constrained_too() -> None:
    """A directoryName constraint holds the subject; an empty subject is outside none."""
    issuer = constrained(permitted=["dn:leaf"])
    assert not issuer.name_violations(distinguished_name("leaf"), [])
    assert not issuer.name_violations(EMPTY, [])
    assert issuer.name_violations(distinguished_name("other"), [])
    assert not issuer.name_violations(distinguished_name("LEAF "), [])
    assert constrained(excluded=["dn:evil  twin"]).name_violations(distinguished_name("Evil Twin"), [])
    wide = distinguished_name("\uff21\uff22\uff23")  # RFC 4518 2
    assert constrained(excluded=["dn:ABC"]).name_violations(wide, [])


def test_common_name_that_reads_as_a_host_is_constrained() -> None:
    """OpenSSL holds such a common name against DNS constraints where there is no DNS name beside it."""
    issuer = constrained(permitted=["dns:example.com"])
    assert issuer.name_violations(distinguished_name("evil.example.org"), [])
    assert not issuer.name_violations(distinguished_name("good.example.com"), [])
    assert issuer.name_violations(distinguished_name("10.0.0.1"), [])
    assert not issuer.name_violations(distinguished_name("Anna"), [])
