"""Subject alternative names as values (RFC 5280 4.2.1.6): read, normalise, compare."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import unicodedata
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from cryptography import x509

from service.pki.errors import RejectedIdentifier, quote

MAX_NAMES: Final = 100

_MAX_DNS_OCTETS: Final = 253  # RFC 1035 2.3.4, without the root's length octet
_MAX_LABEL_OCTETS: Final = 63  # the same
_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")  # RFC 1123 2.1
_LABEL_OR_SERVICE: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")  # RFC 8552: `_sip` is a name, no host's
_NUMBER: Final = re.compile("[0-9]+|0x[0-9a-f]*")
_LIKE_ADDRESS: Final = re.compile("[0-9A-Fa-f:.]+")
_LABEL_LIKE: Final = r"[A-Za-z0-9_\x80-\U0010ffff-]+"
_HOST_LIKE: Final = re.compile(rf"{_LABEL_LIKE}(\.{_LABEL_LIKE})+")
# Unicode's Default_Ignorable_Code_Points that are letters or marks, two more that RFC 4518 2.2 maps to
# nothing, and the replacement character, which it prohibits.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u1806\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\ufffc\ufffd\U000e0100-\U000e01ef]"
)
_REVERSE: Final = ("in-addr.arpa", "ip6.arpa")
_A_LABEL: Final = "xn--"
_LOCAL_PART: Final = re.compile(
    r"(?=.{1,64}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
)  # RFC 5321 4.1.2, Dot-string
_MAX_MAILBOX_OCTETS: Final = 254  # RFC 5321 4.5.3.1.3, without the path's angle brackets
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")  # RFC 3986 3.1
_PCHAR: Final = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"  # RFC 3986 3.3
_URI_REST: Final = re.compile(  # after the scheme: an authority or none, path, query, fragment
    rf"(?://(?:\[{_PCHAR}*\](?::[0-9]*)?|{_PCHAR}*)(?=[/?#]|\Z))?(?:{_PCHAR}|/)*(?:\?(?:{_PCHAR}|[/?])*)?(?:\#(?:{_PCHAR}|[/?])*)?"
)
_MAX_URI_OCTETS: Final = 2048  # the SPIFFE ID standard's bound, and browsers' in practice


DistinguishedName = tuple[tuple[x509.ObjectIdentifier, str], ...]
"""A subject: OID and text of each attribute, in their order, one to an RDN."""


def distinguished_name(attributes: DistinguishedName) -> x509.Name:
    """The same as the library's value."""
    # RFC 5280 counts characters, as `profile.check_subject_attribute` does; the library counts octets.
    return x509.Name([x509.NameAttribute(oid, text, _validate=False) for oid, text in attributes])


def canonical_dn(name: x509.Name) -> list[frozenset[tuple[str, str]]]:
    """A distinguished name as RFC 5280 7.1 compares it: each text prepared, and without case."""
    return [
        frozenset((attribute.oid.dotted_string, fold(str(attribute.value))) for attribute in rdn)
        for rdn in name.rdns
    ]


def prepare(text: str) -> str:
    """The one spelling of a text that is certified: RFC 4518 2 without case folding, which is for comparison.

    What is invisible or prohibited goes, compatibility forms are replaced (NFKC), and blanks are single
    spaces between other characters.
    """
    if not (text.isascii() and text.isprintable()):
        visible = "".join(" " if each.isspace() else each if each.isprintable() else "" for each in text)
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", visible))
    return " ".join(text.split())


def fold(text: str) -> str:
    """A text for comparison only (RFC 4518 2)."""
    text = prepare(text)
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.casefold())


class IdentifierKind(StrEnum):
    """The kinds of name that can be certified; all other GeneralNames are refused."""

    DNS = "dns"
    IP = "ip"
    EMAIL = "email"
    URI = "uri"


_GeneralName = x509.DNSName | x509.IPAddress | x509.RFC822Name | x509.UniformResourceIdentifier
KINDS: Final[dict[type, IdentifierKind]] = {
    x509.DNSName: IdentifierKind.DNS,
    x509.IPAddress: IdentifierKind.IP,
    x509.RFC822Name: IdentifierKind.EMAIL,
    x509.UniformResourceIdentifier: IdentifierKind.URI,
}
GENERAL_NAMES: Final[dict[IdentifierKind, type[_GeneralName]]] = {kind: cls for cls, kind in KINDS.items()}


class Identifier(NamedTuple):
    """One name, normalised, so that equal names are equal values."""

    kind: IdentifierKind
    value: str

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.value}"

    def general_name(self) -> x509.GeneralName:
        """The same as a GeneralName, for a certificate."""
        value: Any = ipaddress.ip_address(self.value) if self.kind is IdentifierKind.IP else self.value
        return GENERAL_NAMES[self.kind](value)


def describe(general_name: x509.GeneralName) -> str:
    """A GeneralName as it stands there, with its kind; of kinds that are not certified the kind alone."""
    kind = KINDS.get(type(general_name))
    return f"{kind}:{general_name.value}" if kind else type(general_name).__name__


def parse_general_name(general_name: x509.GeneralName, field: str) -> Identifier:
    """Read one GeneralName.

    Raises:
        RejectedIdentifier: it is of another kind, or not well formed.
    """
    kind = KINDS.get(type(general_name))
    if kind is None:
        raise RejectedIdentifier(f"names of kind {type(general_name).__name__} are not certified", field)
    return parse_identifier(kind, general_name.value, field)


def parse_identifier(kind: IdentifierKind, value: object, field: str) -> Identifier:
    """Normalise one name, of which `field` is the place in the request.

    Raises:
        RejectedIdentifier: it is not well formed.
    """
    return Identifier(kind, _PARSERS[kind](value, field))


def identifier_in_cn(text: str) -> Identifier | None:
    """The DNS name or IP address that a common name spells, if it spells one.

    A DNS name has a dot here: `localhost` or `Anna` may be anything. `parse` says whether it is well formed.
    """
    if _LIKE_ADDRESS.fullmatch(text):  # a zone (RFC 4007 11) is no part of an address
        with contextlib.suppress(ValueError):
            return Identifier(IdentifierKind.IP, str(ipaddress.ip_address(text)))
    if "." in text and not re.search(r"[\s@:/]", text):
        return Identifier(IdentifierKind.DNS, text.lower() if text.isascii() else text)
    return None


def identifier_implied_by_cn(text: str) -> Identifier | None:
    """The name that programs may read a common name as: a host's, an address or a mailbox; None for none.

    OpenSSL compares `db_1.example.org`, `127.1` and `d*.example.org` with any name that it is asked for, so
    it need not be well formed. `text` is as `prepare` returns it.
    """
    text = text.replace("\u3002", ".").rstrip(".")  # IDNA 2003's other dot; NFKC made that of two more
    if text.startswith(".") and _HOST_LIKE.fullmatch(text[1:]):
        text = f"*{text}"  # Squid reads the one as the other
    if "*" in text:
        return Identifier(IdentifierKind.DNS, _host(text))
    local, _, domain = text.rpartition("@")
    if local and domain and " " not in domain:
        return Identifier(IdentifierKind.EMAIL, f"{local}@{_host(domain)}")
    spelt = identifier_in_cn(text)
    if spelt and spelt.kind is IdentifierKind.IP:
        return spelt
    return Identifier(IdentifierKind.DNS, _host(text)) if _HOST_LIKE.fullmatch(text) else None


def is_another_host_in_idna_2003(text: str) -> bool:
    """Whether Java reads another host in a common name than IDNA 2008: `ss` for sharp s (UTS 46, 7)."""
    host = text.rpartition("@")[2]
    return identifier_implied_by_cn(text) is not None and _host(host) != _host(host.casefold())


def _host(text: str) -> str:
    """A host's name as it is looked up: in lower case, and in A-labels where there are such."""
    return text.lower() if text.isascii() else ".".join(map(_a_label, text.lower().split(".")))


def _a_label(label: str) -> str:
    import idna  # noqa: PLC0415 - as in `_is_a_label`

    try:
        return idna.alabel(label).decode("ascii")
    except UnicodeError:  # it is looked up as it is, if at all
        return label


def dns_name(text: str, field: str, *, wildcard: bool = True, underscores: bool = False) -> str:
    """A DNS name in A-labels, lower case; a wildcard only as the whole left-most label.

    Labels of services may have `underscores`, those of hosts not. `field` is the name's place in the request.

    Raises:
        RejectedIdentifier: it is not one (RFC 1034 3.5, RFC 1123 2.1, RFC 5891, RFC 9525 6.3), or it is of
            the reverse zones, which name no hosts.
    """
    if not text.isascii():
        raise RejectedIdentifier(f"{quote(text)} is not in A-labels; write it as xn--… (RFC 5890)", field)
    name = text.lower()
    labels = name.split(".")
    if wildcard and labels[0] == "*" and len(labels) > 1:
        labels = labels[1:]
    if len(name) > _MAX_DNS_OCTETS:
        raise RejectedIdentifier(f"{quote(text)} is longer than {_MAX_DNS_OCTETS} octets", field)
    form = _LABEL_OR_SERVICE if underscores else _LABEL
    if not all(map(form.fullmatch, labels)):
        raise RejectedIdentifier(_label_fault(text, labels), field)
    if _NUMBER.fullmatch(labels[-1]):  # RFC 1123 2.1; WHATWG and inet_aton read 127.0.0.0x1 as an address
        raise RejectedIdentifier(f"{quote(text)} reads as an IP address, not a DNS name", field)
    if ".".join(labels[-2:]) in _REVERSE:
        raise RejectedIdentifier(f"{quote(text)} is of a reverse zone, which names addresses", field)
    for label in labels:
        if label[2:4] == "--" and not _is_a_label(label):
            raise RejectedIdentifier(f"{quote(text)}: {label} is no A-label of IDNA 2008 (RFC 5891)", field)
    return name


def _is_a_label(label: str) -> bool:
    """Whether a label encodes to the very same (RFC 5891 5.4, 5.5); without xn it is reserved (4.2.3.1)."""
    import idna  # noqa: PLC0415 - its tables take 10 ms, and few names are internationalized

    try:
        return label.startswith(_A_LABEL) and idna.alabel(idna.ulabel(label)) == label.encode("ascii")
    except UnicodeError:  # of which idna's own errors are a kind
        return False


def _label_fault(text: str, labels: list[str]) -> str:
    if not text:
        return "an empty DNS name"
    if text.endswith("."):
        return f"{quote(text)} ends with a dot"
    if "" in labels:
        return f"{quote(text)} has an empty label"
    if any(len(label) > _MAX_LABEL_OCTETS for label in labels):
        return f"{quote(text)} has a label of more than {_MAX_LABEL_OCTETS} octets"
    if any("*" in label for label in labels):
        return f"{quote(text)}: a wildcard is allowed only as the whole left-most label"
    return f"{quote(text)} is not a DNS name: labels are 1 to 63 letters, digits and inner hyphens"


def _ip_address(value: object, field: str) -> str:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        raise RejectedIdentifier(f"{value} is a network, not an address", field)
    return str(value)


def _email(text: str, field: str) -> str:
    local, at, domain = text.rpartition("@")
    if at and not text.isascii():
        detail = f"{quote(text)} is not ASCII: mailboxes of RFC 9598 (SmtpUTF8Mailbox) are not certified"
        raise RejectedIdentifier(detail, field)
    if not at or len(text) > _MAX_MAILBOX_OCTETS or not _LOCAL_PART.fullmatch(local):
        raise RejectedIdentifier(f"{quote(text)} is not an email address", field)
    return f"{local}@{dns_name(domain, field, wildcard=False)}"


def _uri(text: str, field: str) -> str:
    scheme, colon, rest = text.partition(":")
    well_formed = (
        colon
        and rest.strip("/")
        and len(text) <= _MAX_URI_OCTETS
        and _SCHEME.fullmatch(scheme)
        and _URI_REST.fullmatch(rest)
    )
    if not well_formed:
        raise RejectedIdentifier(f"{quote(text)} is not an absolute URI (RFC 3986)", field)
    if rest.startswith("//"):
        _verify_authority(text, field)
    return f"{scheme.lower()}:{rest}"


def _verify_authority(text: str, field: str) -> None:
    """RFC 5280 4.2.1.6: the host of a URI is a fully qualified domain name or an IP address."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise RejectedIdentifier(f"{quote(text)} has a malformed authority", field) from error
    if parts.username is not None:  # verifiers disagree on where the host begins
        raise RejectedIdentifier(f"{quote(text)} has a malformed authority: it names a user", field)
    if "%" in host:
        raise RejectedIdentifier(f"{quote(text)}: its host has a zone, or is encoded", field)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if "[" in parts.netloc:  # of an address that is yet to come (RFC 3986 3.2.2, IPvFuture)
            raise RejectedIdentifier(f"{quote(text)} has a malformed authority", field) from None
        # Names of hosts have none, but trust domains may (the SPIFFE ID standard, 2.1).
        dns_name(host, field, wildcard=False, underscores=parts.scheme == "spiffe")


_PARSERS: Final[dict[IdentifierKind, Callable[[Any, str], str]]] = {
    IdentifierKind.DNS: partial(dns_name, underscores=True),
    IdentifierKind.IP: _ip_address,
    IdentifierKind.EMAIL: _email,
    IdentifierKind.URI: _uri,
}


def uri_host(name: Identifier) -> str:
    """The host of a URI name; '' if it has none."""
    return urlsplit(name.value).hostname or ""
