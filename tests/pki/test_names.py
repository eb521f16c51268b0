from __future__ import annotations

import ipaddress
import unicodedata

import idna
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from service.pki import names
from service.pki.errors import RejectedIdentifier
from service.pki.names import Identifier, IdentifierKind
from tests import csrs

GOOD = [
    ("dns:a.example.com", "dns:a.example.com"),
    ("dns:A.Example.COM", "dns:a.example.com"),
    ("dns:localhost", "dns:localhost"),
    ("dns:*.example.com", "dns:*.example.com"),
    ("dns:xn--bcher-kva.example", "dns:xn--bcher-kva.example"),
    ("dns:1.2.3.example", "dns:1.2.3.example"),
    ("dns:XN--BCHER-KVA.Example", "dns:xn--bcher-kva.example"),
    ("dns:xn--strae-oqa.example", "dns:xn--strae-oqa.example"),  # ß, which IDNA 2003 mapped to ss
    ("dns:*.xn--80ak6aa92e.example", "dns:*.xn--80ak6aa92e.example"),
    ("dns:_sip._tcp.example.com", "dns:_sip._tcp.example.com"),
    ("dns:in-addr.arpa.example", "dns:in-addr.arpa.example"),
    ("dns:a-b--c.example", "dns:a-b--c.example"),
    ("dns:" + ".".join(["a" * 63] * 3 + ["b" * 61]), "dns:" + ".".join(["a" * 63] * 3 + ["b" * 61])),
    ("ip:10.0.0.1", "ip:10.0.0.1"),
    ("ip:2001:DB8::1", "ip:2001:db8::1"),
    ("email:Anna.B+c@Example.com", "email:Anna.B+c@example.com"),
    ("uri:spiffe://trust.example/workload/a", "uri:spiffe://trust.example/workload/a"),
    ("uri:HTTPS://a.example:8443/x?y=%20#z", "uri:https://a.example:8443/x?y=%20#z"),
    ("uri:spiffe://my_td.example/a", "uri:spiffe://my_td.example/a"),
    ("uri:https://a.example?b=/?c", "uri:https://a.example?b=/?c"),
    ("uri:mailto:a@b.example", "uri:mailto:a@b.example"),
    ("dns:db01", "dns:db01"),
    ("dns:0x1.example", "dns:0x1.example"),
    ("uri:https://[2001:db8::1]/", "uri:https://[2001:db8::1]/"),
    ("uri:https://[2001:db8::1]:443", "uri:https://[2001:db8::1]:443"),
    ("uri:urn:uuid:f81d4fae-7dec-11d0-a765", "uri:urn:uuid:f81d4fae-7dec-11d0-a765"),
]

BAD = [
    ("dns:", "DNS name is empty"),
    ("dns:a..example", "empty label"),
    ("dns:.example.com", "empty label"),
    ("dns:.", "ends with a dot"),
    ("dns:example.com.", "ends with a dot"),
    ("dns:a\x7f.example", "labels"),
    ("dns:a/b.example", "labels"),
    ("dns:a@b.example", "labels"),
    ("dns:-_a.example", "labels"),
    ("dns:xn--.example", "labels"),
    ("dns:xn--a.example", "A-label"),
    ("dns:xn--abc-.example", "labels"),
    ("dns:xn--n3h.example", "A-label"),  # a snowman, valid in IDNA 2003
    ("dns:xn--a-ecp.example", "A-label"),  # not in normalization form C
    ("dns:xn--0.example", "A-label"),
    ("dns:xn--80ak6aa92e-.example", "labels"),
    ("dns:xn--zca.xn--99999999.example", "A-label"),
    ("dns:ab--cd.example", "A-label"),
    ("dns:*.xn--a.example", "A-label"),
    ("dns:1.0.0.10.in-addr.arpa", "reverse zone"),
    ("dns:in-addr.arpa", "reverse zone"),
    ("dns:*.in-addr.arpa", "reverse zone"),
    ("dns:8.b.d.0.1.0.0.2.IP6.ARPA", "reverse zone"),
    ("dns:-a.example", "labels"),
    ("dns:a-.example", "labels"),
    ("dns:a b.example", "labels"),
    ("dns:a\x00.example", "labels"),
    ("dns:a.example\n", "labels"),
    ("dns:" + "a" * 64 + ".example", "more than 63 octets"),
    ("dns:" + ".".join(["a" * 63] * 4), "longer"),
    ("dns:*", "wildcard"),
    ("dns:a.*.example", "wildcard"),
    ("dns:a*.example", "wildcard"),
    ("dns:*.*.example", "wildcard"),
    ("dns:10.0.0.1", "IP address"),
    ("dns:127.0.0.0x1", "IP address"),
    ("dns:0X7F000001", "IP address"),
    ("dns:2001:db8::1", "labels"),
    ("email:a", "email"),
    ("email:@example.com", "email"),
    ("email:a@", "empty"),
    ("email:a@*.example.com", "wildcard"),
    ("email:.a@example.com", "email"),
    ("email:a b@example.com", "email"),
    ("email:é@example.com", "SmtpUTF8Mailbox"),
    ("email:a@b_c.example", "labels"),
    ("email:a@1.0.0.10.in-addr.arpa", "reverse zone"),
    ("email:a@[10.0.0.1]", "labels"),
    ("email:a\x00@example.com", "email"),
    ("email:" + "a" * 65 + "@example.com", "email"),
    ("email:a@b@example.com", "email"),
    ("email:a@" + ".".join(["b" * 50] * 5), "email"),
    ("uri:https://a.example/[x]", "absolute"),
    ("uri:https://a.example/?x=[", "absolute"),
    ("uri:https://a.example/#a#b", "absolute"),
    ("uri:urn:a[b]", "absolute"),
    ("uri:https://[v1.fe]/", "authority"),
    ("uri:https://[::1%25eth0]/", "zone"),
    ("uri:https://a%2eexample/", "percent-encoding"),
    ("uri:spiffe://my*td.example/a", "wildcard"),
    ("uri:relative/path", "absolute"),
    ("uri:https:", "absolute"),
    ("uri:https://", "absolute"),
    ("uri://example.com/x", "absolute"),
    ("uri:https://exa mple.com/", "absolute"),
    ("uri:https://a_b.example/", "labels"),
    ("uri:https://[::1/", "absolute"),
    ("uri:https://evil.example[::1]/", "absolute"),
    ("uri:https://[::1]evil.example/", "absolute"),
    ("uri:https://evil.example:80@good.example/", "user name"),
    ("uri:https://a.example/%zz", "absolute"),
    ("uri:https://a.example:99999/", "authority"),
    ("uri:javascript:alert('1')<x>", "absolute"),
    ("uri:https://a.example/" + "a" * 2048, "absolute"),
]


@pytest.mark.parametrize(("text", "normalised"), GOOD)
def test_well_formed_names_are_normalised(text: str, normalised: str) -> None:
    """A well-formed name has one normal form, which is parsed again as the same name."""
    name = names.parse_general_name(csrs.general_name(text), "x")
    assert str(name) == normalised
    assert names.parse_general_name(name.general_name(), "x") == name


@pytest.mark.parametrize(("text", "fragment"), BAD)
def test_malformed_names_are_refused_with_the_field(text: str, fragment: str) -> None:
    """A name that RFC 5280 4.2.1.6 or RFC 1123 forbids is rejectedIdentifier, with its field."""
    with pytest.raises(RejectedIdentifier, match=fragment) as refusal:
        names.parse_general_name(csrs.general_name(text), "subject_alt_name[7]")
    assert refusal.value.field == "subject_alt_name[7]"
    assert refusal.value.detail.isascii() or "…" in refusal.value.detail
    assert "\n" not in refusal.value.detail
    assert len(refusal.value.detail) <= 220


@pytest.mark.parametrize(
    "general_name",
    [
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.DirectoryName(x509.Name([])),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
        x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")),
        x509.IPAddress(ipaddress.ip_network("2001:db8::/32")),
    ],
)
def test_unsupported_kind_of_name_is_refused(general_name: x509.GeneralName) -> None:
    """Only DNS names, IP addresses, email addresses and URIs are accepted; networks are not."""
    remedy = (
        "^Names of kind (registeredID|directoryName|otherName) .*: send names of kind dns, ip, email, uri$"
    )
    with pytest.raises(RejectedIdentifier, match=f"{remedy}|is a network, not an address: send each address"):
        names.parse_general_name(general_name, "x")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (
            "dns:bücher.example",
            "'b\\\\xfccher.example' is not ASCII; write it in A-labels, 'xn--bcher-kva.example'",
        ),
        ("dns:" + "ü." * 130 + "example", "write it in A-labels, xn--… "),  # too long to convert
        ("dns:https://a.example/", "send only a host, not a URL, port, mailbox or address$"),
        ("dns:a_b!.example", "digits and inner hyphens$"),
        (
            "dns:10.0.0.1",
            "send it as an IP address: with openssl IP: instead of DNS:, with ACME an identifier of type ip$",
        ),
        ("dns:a.example.", "ends with a dot: remove it$"),
    ],
)
def test_refusal_of_a_name_has_a_remedy(text: str, remedy: str) -> None:
    """The message says what to send instead."""
    name = x509.DNSName._init_without_validation(text.removeprefix("dns:"))
    with pytest.raises(RejectedIdentifier, match=remedy):
        names.parse_general_name(name, "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example", Identifier(IdentifierKind.DNS, "a.example")),
        ("A.Example", Identifier(IdentifierKind.DNS, "a.example")),
        ("10.0.0.1", Identifier(IdentifierKind.IP, "10.0.0.1")),
        ("2001:db8::1", Identifier(IdentifierKind.IP, "2001:db8::1")),
        ("fe80::1%eth0", None),
        ("localhost", None),
        ("Anna Beispiel", None),
        ("Anna B. Cole", None),
        ("a@b.example", None),
        ("", None),
    ],
)
def test_common_name_is_parsed_as_identifier(text: str, expected: Identifier | None) -> None:
    """A common name is an identifier if it is an IP address, or a DNS name with a dot."""
    assert names.identifier_in_cn(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A.Example.", Identifier(IdentifierKind.DNS, "a.example")),
        ("*.example.org", Identifier(IdentifierKind.DNS, "*.example.org")),
        ("db_1.Example.org", Identifier(IdentifierKind.DNS, "db_1.example.org")),
        ("xn--a.example.org", Identifier(IdentifierKind.DNS, "xn--a.example.org")),
        ("1.0.0.10.in-addr.arpa", Identifier(IdentifierKind.DNS, "1.0.0.10.in-addr.arpa")),
        ("127.1", Identifier(IdentifierKind.DNS, "127.1")),
        ("010.0.0.1", Identifier(IdentifierKind.DNS, "010.0.0.1")),
        ("10.0.0.1", Identifier(IdentifierKind.IP, "10.0.0.1")),
        ("2001:db8::1", Identifier(IdentifierKind.IP, "2001:db8::1")),
        ("Anna@Example.org", Identifier(IdentifierKind.EMAIL, "Anna@example.org")),
        ('"a b"@example.org', Identifier(IdentifierKind.EMAIL, '"a b"@example.org')),
        ("a@b@example.org", Identifier(IdentifierKind.EMAIL, "a@b@example.org")),
        ("Anna B. Cole", None),
        ("Anna @ home", None),
        ("@example.org", None),
        ("localhost", None),
        ("Bücher.example", Identifier(IdentifierKind.DNS, "xn--bcher-kva.example")),
        ("☃.bücher。example", Identifier(IdentifierKind.DNS, "☃.xn--bcher-kva.example")),
        ("Ännchen@Bücher.example", Identifier(IdentifierKind.EMAIL, "Ännchen@xn--bcher-kva.example")),
        ("anna@example.org.", Identifier(IdentifierKind.EMAIL, "anna@example.org")),
        ("D*.example.org", Identifier(IdentifierKind.DNS, "d*.example.org")),
        ("* anna@b", Identifier(IdentifierKind.DNS, "* anna@b")),
        (".", None),
        ("", None),
    ],
)
def test_common_name_implies_identifier(text: str, expected: Identifier | None) -> None:
    """The host, address or mailbox that some programs see in a common name, well formed or not."""
    assert names.identifier_implied_by_cn(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna Beispiel", "Anna Beispiel"),
        ("Straße 山田", "Straße 山田"),
        ("\t Anna\u3000\xa0B\n", "Anna B"),
        ("\uff21\xb2\ufb01", "A2fi"),
        ("a\xad\u200b\u202e\u2066\ufe0f\u034f\x00b", "ab"),
        ("\ue000\ud800\uffff\ufffd\u0378", ""),
        ("e\u0301", "\xe9"),
    ],
)
def test_text_is_prepared(text: str, expected: str) -> None:
    """RFC 4518 2.2 to 2.6, without case folding."""
    assert names.prepare(text) == expected


@given(st.text(max_size=20))
def test_preparation_is_idempotent(text: str) -> None:
    """Prepared text is unchanged by preparation, printable, and equal to the original when folded."""
    prepared = names.prepare(text)
    assert names.prepare(prepared) == unicodedata.normalize("NFKC", prepared) == prepared
    assert prepared.isprintable()
    assert names.fold(prepared) == names.fold(text)


@given(st.text(max_size=80))
def test_any_text_is_refused_or_a_dns_name(text: str) -> None:
    """An accepted DNS name has lower-case LDH labels of 1 to 63 octets."""
    try:
        name = names.dns_name(text, "x")
    except RejectedIdentifier:
        return
    labels = name.removeprefix("*.").split(".")
    assert all(0 < len(label) < 64 for label in labels)
    assert not any(label[2:4] == "--" and not label.startswith("xn--") for label in labels)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.*")


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", max_size=59))
def test_any_label_is_refused_or_an_a_label(text: str) -> None:
    """An accepted label that starts with xn-- is an A-label of IDNA 2008."""
    try:
        name = names.dns_name(f"xn--{text}.example", "x")
    except RejectedIdentifier:
        return
    label = name.partition(".")[0]
    assert idna.encode(idna.decode(label)) == label.encode()


Attributes = list[tuple[x509.ObjectIdentifier, str]]


def subject(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """A distinguished name."""
    return x509.Name([x509.NameAttribute(oid, text, _validate=False) for oid, text in attributes])


CN, ORG = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME
COMPARED = [
    ([(CN, "Anna")], [(CN, "anna")], True),
    ([(CN, "  Anna   Maria ")], [(CN, "anna maria")], True),
    ([(CN, "\uff21\uff22\uff23")], [(CN, "abc")], True),
    ([(CN, "Straße")], [(CN, "STRASSE")], True),
    ([(CN, "caf\u00e9")], [(CN, "cafe\u0301")], True),
    ([(CN, "a\u00ad\u200bb")], [(CN, "AB")], True),
    ([(CN, "Anna")], [(CN, "Anne")], False),
    ([(CN, "Anna")], [(ORG, "Anna")], False),
    ([(CN, "Anna"), (ORG, "x")], [(CN, "Anna")], False),
    ([(CN, "Anna"), (ORG, "x")], [(ORG, "x"), (CN, "Anna")], False),
    ([], [], True),
    ([], [(CN, "Anna")], False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "equal"), COMPARED)
def test_distinguished_names_are_compared_in_canonical_form(
    one: Attributes, other: Attributes, *, equal: bool
) -> None:
    """RFC 5280 7.1: case, spaces and compatibility forms do not count; attributes and their order do."""
    assert (names.canonical_dn(subject(*one)) == names.canonical_dn(subject(*other))) is equal
