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


def create_constrained_issuer(*, permitted: Sequence[str] = (), excluded: Sequence[str] = ()) -> Issuer:
    """Create an issuer with name constraints."""
    subtrees = ([_parse_subtree(text) for text in texts] or None for texts in (permitted, excluded))
    constraints = x509.NameConstraints(*subtrees)
    return Issuer(ca(extra=constraints, critical=True), [root()], SIGNING)


def _parse_subtree(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    if kind == "ip":
        return x509.IPAddress(ipaddress.ip_network(value))
    if kind == "dn":
        return x509.DirectoryName(distinguished_name(value))
    return csrs.general_name(text)


@pytest.mark.parametrize(
    ("permitted", "excluded", "name", "allowed"),
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
def test_name_is_within_permitted_and_outside_excluded_subtrees(
    permitted: list[str], excluded: list[str], name: str, *, allowed: bool
) -> None:
    """RFC 5280 4.2.1.10, for each kind of name."""
    issuer = create_constrained_issuer(permitted=permitted, excluded=excluded)
    identifier = names.parse_general_name(csrs.general_name(name), "x")
    assert bool(issuer.name_violations(EMPTY, [identifier])) is not allowed


CONSTRAINED = [
    ("dns:example.com", "a"), ("dns:a.example.com", "a"), ("dns:example.org", ""), ("dns:badexample.com", ""),
    ("ip:10.0.0.1", "b"), ("ip:192.0.2.1", ""),
    ("email:anna@example.com", "a"), ("email:anna@mail.example.com", "a"), ("email:ceo@example.org", ""), ("email:x@badexample.com", ""),
    ("uri:https://example.com/x", "a"), ("uri:https://a.example.com:8443/", "a"), ("uri:spiffe://example.com/x", "a"),
    ("uri:https://a.example.com:8443/x:y?z", "a"), ("uri:https://a.example.com/x:y", ""), ("uri:https://a.example.com?x", ""),
    ("uri:https://example.org/", ""), ("uri:spiffe://example.org/admin", ""), ("uri:https://10.0.0.1/", ""), ("uri:urn:x:y", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "subtree"), CONSTRAINED)
@pytest.mark.parametrize(
    ("subtrees", "permitted"),
    [("a", ("example.com",)), ("b", ("10.0.0.0/8",)), ("ab", ("example.com", "10.0.0.0/8"))],
)
def test_name_constraints_apply_to_every_kind_of_name(
    tmp_path: Path, subtrees: str, permitted: tuple[str, ...], name: str, subtree: str
) -> None:
    """A CA of a domain names only its hosts, also in URIs and mailboxes; OpenSSL has the same result."""
    hierarchy = factories.hierarchy("p-256", permitted)
    issuer = factories.create_issuer("p-256", permitted)
    allowed = bool(subtree) and subtree in subtrees
    general_name = csrs.general_name(name)
    violations = issuer.name_violations(EMPTY, [names.parse_general_name(general_name, "x")])
    assert bool(violations) is not allowed
    key, end = csrs.private_key().public_key(), NOW + timedelta(days=1)
    builder = x509.CertificateBuilder(issuer.certificate.subject, EMPTY, key, 7, NOW, end)
    builder = builder.add_extension(issuer.authority_key_identifier, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([general_name]), critical=True)
    leaf = builder.sign(factories.signing_key(hierarchy), hashes.SHA256())
    for file, certificate in (("root", hierarchy.root), ("ca", hierarchy.signing), ("leaf", leaf)):
        (tmp_path / file).write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ("openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()) + 9))
    chain = ("-CAfile", "root", "-untrusted", "ca", "leaf")
    verification = servers.run(*command, *chain, cwd=tmp_path, check=False)
    assert (verification.returncode == 0) is allowed, verification.stderr


@pytest.mark.parametrize("uri", ["https://evil.org/.example.com:x", "https://evil.org?.example.com"])
def test_uri_host_as_read_by_openssl_must_be_permitted(uri: str) -> None:
    """The host must be permitted as OpenSSL parses it: up to the first colon, or slash if there is none."""
    name = names.parse_general_name(csrs.general_name(f"uri:{uri}"), "x")
    ((_, violation),) = factories.create_issuer("p-256", ("example.com",)).name_violations(EMPTY, [name])
    subtrees = "which permit 'example.com', '.example.com'"
    assert f"is outside the CA's name constraints, {subtrees}; OpenSSL reads 'evil.org" in violation


def test_message_lists_the_subtrees_of_the_kind() -> None:
    """The message says what is permitted and excluded, up to four subtrees each."""
    permitted = ["dns:example.com", "ip:10.0.0.0/8"]
    issuer = create_constrained_issuer(
        permitted=permitted, excluded=[f"dns:x{n}.example.com" for n in range(5)]
    )
    name = names.parse_general_name(csrs.general_name("dns:a.x1.example.com"), "x")
    excluded = "'x0.example.com', 'x1.example.com', 'x2.example.com', 'x3.example.com' (and 1 more)"
    outside = (
        f"{name} is outside the CA's name constraints, which permit 'example.com' and exclude {excluded}"
    )
    assert issuer.name_violations(EMPTY, [name]) == [(0, outside)]
    subject = create_constrained_issuer(permitted=["dn:leaf"]).name_violations(distinguished_name("x"), [])
    assert subject == [(None, "The subject is outside the CA's name constraints, which permit 'CN=leaf'")]


def test_name_constraints_apply_to_subject() -> None:
    """A directoryName constraint applies to the subject; an empty subject is permitted."""
    issuer = create_constrained_issuer(permitted=["dn:leaf"])
    assert not issuer.name_violations(distinguished_name("leaf"), [])
    assert not issuer.name_violations(EMPTY, [])
    assert issuer.name_violations(distinguished_name("other"), [])
    assert not issuer.name_violations(distinguished_name("LEAF "), [])
    assert create_constrained_issuer(excluded=["dn:evil  corp"]).name_violations(
        distinguished_name("Evil Corp"), []
    )
    full_width = distinguished_name("\uff21\uff22\uff23")  # RFC 4518 2
    assert create_constrained_issuer(excluded=["dn:ABC"]).name_violations(full_width, [])


def test_common_name_in_the_form_of_a_host_is_constrained() -> None:
    """OpenSSL applies DNS constraints to such a common name if the SANs have no DNS name."""
    issuer = create_constrained_issuer(permitted=["dns:example.com"])
    assert issuer.name_violations(distinguished_name("evil.example.org"), [])
    assert not issuer.name_violations(distinguished_name("good.example.com"), [])
    assert issuer.name_violations(distinguished_name("10.0.0.1"), [])
    assert not issuer.name_violations(distinguished_name("Anna"), [])
