"""Parse, normalise and compare subject alternative names (RFC 5280 4.2.1.6) and distinguished names."""

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
_MAX_LABEL_OCTETS: Final = 63  # RFC 1035 2.3.4
_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")  # RFC 1123 2.1
_LABEL_OR_SERVICE: Final = re.compile(
    r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
)  # RFC 8552: `_sip` names a service, not a host
_NUMBER: Final = re.compile("[0-9]+|0x[0-9a-f]*")
_LIKE_ADDRESS: Final = re.compile("[0-9A-Fa-f:.]+")
# All but ASCII punctuation, space and controls, though with - and _; a positive set takes 5 ms to compile.
_LABEL_LIKE: Final = r"[^\0-,./:-@\[-^`{-\x7f]+"
_HOST_LIKE: Final = re.compile(rf"{_LABEL_LIKE}(\.{_LABEL_LIKE})+")
# Unicode's Default_Ignorable_Code_Points that are letters or marks, two more that RFC 4518 2.2 maps to
# nothing, and the replacement character, which RFC 4518 2.4 prohibits.
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
_URI_REST: Final = re.compile(  # after the scheme: optional authority, path, query, fragment
    rf"(?://(?:\[{_PCHAR}*\](?::[0-9]*)?|{_PCHAR}*)(?=[/?#]|\Z))?(?:{_PCHAR}|/)*(?:\?(?:{_PCHAR}|[/?])*)?(?:\#(?:{_PCHAR}|[/?])*)?"
)
_IP_HINT: Final = "an IP address: with openssl IP: instead of DNS:, with ACME an identifier of type ip"
_AUTHORITY_VIOLATION: Final = (
    "has a malformed authority: write a host name or an IP address, and a port if any"
)
_MAX_URI_OCTETS: Final = 2048  # the limit of the SPIFFE ID standard, and of browsers in practice


DistinguishedName = tuple[tuple[x509.ObjectIdentifier, str], ...]
"""A subject: OID and text of each attribute in order, one per RDN."""


def distinguished_name(attributes: DistinguishedName) -> x509.Name:
    """Convert a distinguished name to the library's class."""
    # Without validation: the library limits octets, but RFC 5280 limits characters (see
    # `check_subject_attribute`).
    return x509.Name([x509.NameAttribute(oid, text, _validate=False) for oid, text in attributes])


def canonical_dn(name: x509.Name) -> list[frozenset[tuple[str, str]]]:
    """Convert a distinguished name to the form that RFC 5280 7.1 compares: each text folded."""
    return [
        frozenset((attribute.oid.dotted_string, fold(str(attribute.value))) for attribute in rdn)
        for rdn in name.rdns
    ]


def prepare(text: str) -> str:
    """Normalise a text by RFC 4518 2 without case folding; certificates contain only normalised texts.

    Invisible and prohibited characters are removed, compatibility forms are replaced (NFKC), and white space
    is collapsed and stripped.
    """
    if not (text.isascii() and text.isprintable()):
        visible = "".join(" " if char.isspace() else char if char.isprintable() else "" for char in text)
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", visible))
    return " ".join(text.split())


def fold(text: str) -> str:
    """Normalise a text and fold its case, for comparison (RFC 4518 2)."""
    text = prepare(text)
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.casefold())


class IdentifierKind(StrEnum):
    """The supported kinds of GeneralName; others are refused."""

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
    """A normalised name: equal names are equal values."""

    kind: IdentifierKind
    value: str

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.value}"

    def general_name(self) -> x509.GeneralName:
        """Convert to a GeneralName."""
        value: Any = ipaddress.ip_address(self.value) if self.kind is IdentifierKind.IP else self.value
        return GENERAL_NAMES[self.kind](value)


def describe(general_name: x509.GeneralName) -> str:
    """Describe a GeneralName by its kind and unchanged value; only by its kind if that is not supported."""
    kind = KINDS.get(type(general_name))
    return f"{kind}:{general_name.value}" if kind else _unsupported_kind(general_name)


def _unsupported_kind(general_name: x509.GeneralName) -> str:
    """The name of a kind in RFC 5280 4.2.1.6: `otherName`, `directoryName` or `registeredID`."""
    name = type(general_name).__name__
    return name[:1].lower() + name[1:]


def parse_general_name(general_name: x509.GeneralName, field: str) -> Identifier:
    """Parse a GeneralName; `field` is its place in the request.

    Raises:
        RejectedIdentifier: the kind is not supported, or the name is malformed.
    """
    kind = KINDS.get(type(general_name))
    if kind is None:
        detail = f"Names of kind {_unsupported_kind(general_name)} are not supported"
        raise RejectedIdentifier(f"{detail}: send names of kind {', '.join(IdentifierKind)}", field)
    return parse_identifier(kind, general_name.value, field)


def parse_identifier(kind: IdentifierKind, value: object, field: str) -> Identifier:
    """Validate and normalise a name; `field` is its place in the request.

    Raises:
        RejectedIdentifier: the name is malformed.
    """
    return Identifier(kind, _PARSERS[kind](value, field))


def identifier_in_cn(text: str) -> Identifier | None:
    """The DNS name or IP address that a common name contains; None if it contains neither.

    Only a text with a dot counts as a DNS name: `localhost` or `Anna` may be anything. The DNS name is not
    validated.
    """
    if _LIKE_ADDRESS.fullmatch(text):  # without a zone (RFC 4007 11)
        with contextlib.suppress(ValueError):
            return Identifier(IdentifierKind.IP, str(ipaddress.ip_address(text)))
    if "." in text and not re.search(r"[\s@:/]", text):
        return Identifier(IdentifierKind.DNS, text.lower() if text.isascii() else text)
    return None


def identifier_implied_by_cn(text: str) -> Identifier | None:
    """The DNS name, IP address or mailbox that programs may take from a common name; None if none.

    The name may be malformed: OpenSSL matches common names such as `db_1.example.org`, `127.1` and
    `d*.example.org` against host names. `text` is a result of `prepare`.
    """
    text = text.replace("\u3002", ".").rstrip(".")  # another dot of IDNA 2003; NFKC maps two more to it
    if text.startswith(".") and _HOST_LIKE.fullmatch(text[1:]):
        text = f"*{text}"  # Squid treats both alike
    if "*" in text:
        return Identifier(IdentifierKind.DNS, _host(text))
    local, _, domain = text.rpartition("@")
    if local and domain and " " not in domain:
        return Identifier(IdentifierKind.EMAIL, f"{local}@{_host(domain)}")
    identifier = identifier_in_cn(text)
    if identifier and identifier.kind is IdentifierKind.IP:
        return identifier
    return Identifier(IdentifierKind.DNS, _host(text)) if _HOST_LIKE.fullmatch(text) else None


def is_another_host_in_idna_2003(text: str) -> bool:
    """Whether a common name is another host in IDNA 2003, which Java uses: `ss` for sharp s (UTS 46, 7)."""
    host = text.rpartition("@")[2]
    return identifier_implied_by_cn(text) is not None and _host(host) != _host(host.casefold())


def _host(text: str) -> str:
    """Convert a host name to the form that is looked up: lower case, and A-labels where possible."""
    return text.lower() if text.isascii() else ".".join(map(_a_label, text.lower().split(".")))


def _a_label(label: str) -> str:
    import idna  # noqa: PLC0415 - as in `_is_a_label`

    try:
        return idna.alabel(label).decode("ascii")
    except UnicodeError:  # programs look it up unchanged, if at all
        return label


def dns_name(text: str, field: str, *, wildcard: bool = True, underscores: bool = False) -> str:
    """Validate a DNS name and convert it to lower case; a wildcard must be the whole left-most label.

    Args:
        text: the name, in A-labels.
        field: the name's place in the request.
        wildcard: whether a wildcard is allowed.
        underscores: whether labels may have underscores, as those of services may (RFC 8552).

    Raises:
        RejectedIdentifier: the name is malformed (RFC 1034 3.5, RFC 1123 2.1, RFC 5891, RFC 9525 6.3), or in
            a reverse zone, which names addresses.
    """
    if not text.isascii():
        host = _host(text) if len(text) <= _MAX_DNS_OCTETS else text
        a_labels = quote(host) if host.isascii() else "xn--…"
        raise RejectedIdentifier(
            f"{quote(text)} is not ASCII; write it in A-labels, {a_labels} (RFC 5890)", field
        )
    name = text.lower()
    labels = name.split(".")
    if wildcard and labels[0] == "*" and len(labels) > 1:
        labels = labels[1:]
    if len(name) > _MAX_DNS_OCTETS:
        raise RejectedIdentifier(f"{quote(text)} is longer than {_MAX_DNS_OCTETS} octets: shorten it", field)
    pattern = _LABEL_OR_SERVICE if underscores else _LABEL
    if not all(map(pattern.fullmatch, labels)):
        raise RejectedIdentifier(_label_violation(text, labels), field)
    if _NUMBER.fullmatch(labels[-1]):  # RFC 1123 2.1; WHATWG and inet_aton read 127.0.0.0x1 as an address
        detail = f"looks like an IP address, not a DNS name: send it as {_IP_HINT}"
        raise RejectedIdentifier(f"{quote(text)} {detail}", field)
    if ".".join(labels[-2:]) in _REVERSE:
        raise RejectedIdentifier(
            f"{quote(text)} is in a reverse zone, which names addresses, not hosts: send it as {_IP_HINT}",
            field,
        )
    for label in labels:
        if label[2:4] == "--" and not _is_a_label(label):
            raise RejectedIdentifier(
                f"{quote(text)}: {label} is not an A-label of IDNA 2008 (RFC 5891): encode the name again",
                field,
            )
    return name


def _is_a_label(label: str) -> bool:
    """Whether a label is an A-label (RFC 5891 5.4, 5.5); others with `--` are reserved (4.2.3.1)."""
    import idna  # noqa: PLC0415 - loading its tables takes 10 ms, and few names need them

    try:
        return label.startswith(_A_LABEL) and idna.alabel(idna.ulabel(label)) == label.encode("ascii")
    except UnicodeError:  # includes the errors of idna
        return False


def _label_violation(text: str, labels: list[str]) -> str:
    if not text:
        return "The DNS name is empty: correct or omit it"
    if text.endswith("."):
        return f"{quote(text)} ends with a dot: remove it"
    if "" in labels:
        return f"{quote(text)} has an empty label: remove the extra dot"
    if any(len(label) > _MAX_LABEL_OCTETS for label in labels):
        return f"{quote(text)} has a label of more than {_MAX_LABEL_OCTETS} octets: shorten it"
    if any("*" in label for label in labels):
        return f"{quote(text)}: a wildcard is allowed only as the whole left-most label, as in *.example.com"
    hint = "; send only a host, not a URL, port, mailbox or address" if re.search("[/:@]", text) else ""
    return f"{quote(text)} is not a DNS name: labels are 1 to 63 letters, digits and inner hyphens{hint}"


def _ip_address(value: object, field: str) -> str:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        raise RejectedIdentifier(f"{value} is a network, not an address: send each address", field)
    return str(value)


def _email(text: str, field: str) -> str:
    local, at, domain = text.rpartition("@")
    if at and not text.isascii():
        detail = (
            f"{quote(text)} is not ASCII: send an ASCII mailbox; SmtpUTF8Mailbox (RFC 9598) is not supported"
        )
        raise RejectedIdentifier(detail, field)
    if not at or len(text) > _MAX_MAILBOX_OCTETS or not _LOCAL_PART.fullmatch(local):
        raise RejectedIdentifier(f"{quote(text)} is not an email address, such as anna@example.com", field)
    return f"{local}@{dns_name(domain, field, wildcard=False)}"


def _uri(text: str, field: str) -> str:
    scheme, colon, rest = text.partition(":")
    is_valid = (
        colon
        and rest.strip("/")
        and len(text) <= _MAX_URI_OCTETS
        and _SCHEME.fullmatch(scheme)
        and _URI_REST.fullmatch(rest)
    )
    if not is_valid:
        raise RejectedIdentifier(
            f"{quote(text)} is not an absolute URI (RFC 3986), such as urn:example:device", field
        )
    if rest.startswith("//"):
        _verify_authority(text, field)
    return f"{scheme.lower()}:{rest}"


def _verify_authority(text: str, field: str) -> None:
    """Verify that the host of a URI is a fully qualified domain name or an IP address (RFC 5280 4.2.1.6)."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise RejectedIdentifier(f"{quote(text)} {_AUTHORITY_VIOLATION}", field) from error
    if parts.username is not None:  # verifiers disagree on where the host begins
        raise RejectedIdentifier(f"{quote(text)} has a malformed authority: remove the user name", field)
    if "%" in host:
        raise RejectedIdentifier(
            f"{quote(text)} has a malformed authority: remove the zone or percent-encoding of the host", field
        )
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if "[" in parts.netloc:  # IPvFuture (RFC 3986 3.2.2)
            raise RejectedIdentifier(f"{quote(text)} {_AUTHORITY_VIOLATION}", field) from None
        # Trust domains may have underscores (SPIFFE ID standard, 2.1); host names may not.
        dns_name(host, field, wildcard=False, underscores=parts.scheme == "spiffe")


_PARSERS: Final[dict[IdentifierKind, Callable[[Any, str], str]]] = {
    IdentifierKind.DNS: partial(dns_name, underscores=True),
    IdentifierKind.IP: _ip_address,
    IdentifierKind.EMAIL: _email,
    IdentifierKind.URI: _uri,
}


def uri_host(name: Identifier) -> str:
    """The host of a URI; '' if it has none."""
    return urlsplit(name.value).hostname or ""
