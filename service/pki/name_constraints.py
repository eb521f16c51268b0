"""Check the name constraints of a CA (RFC 5280 4.2.1.10) before it signs."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from service.pki import names
from service.pki.errors import list_some, quote, shorten
from service.pki.names import Identifier, IdentifierKind


def violations(
    constraints: x509.NameConstraints, subject: x509.Name, sans: Sequence[Identifier]
) -> list[tuple[int | None, str]]:
    """The position of each name that violates name constraints (None for the subject), and a message."""
    messages: list[tuple[int | None, str]] = []
    for index, name in enumerate(constrained(subject, sans)):
        is_within, overlaps = partial(_is_within, name), partial(_overlaps_excluded, name)
        if not _is_permitted(constraints, names.GENERAL_NAMES[name.kind], is_within, overlaps):
            subtrees = _describe_subtrees(constraints, names.GENERAL_NAMES[name.kind])
            hint = _openssl_host_hint(name)
            detail = f"{shorten(str(name))} is outside the CA's name constraints{subtrees}{hint}"
            messages.append((index if index < len(sans) else None, detail))
    if not is_subject_permitted(constraints, subject):
        subtrees = _describe_subtrees(constraints, x509.DirectoryName)
        messages.append((None, f"The subject is outside the CA's name constraints{subtrees}"))
    return messages


def _describe_subtrees(constraints: x509.NameConstraints, kind: type) -> str:
    """Describe the subtrees of a kind: `, which permit example.com, and exclude a.example.com`."""
    subtrees = {"permit": constraints.permitted_subtrees, "exclude": constraints.excluded_subtrees}
    clauses = [
        f"{verb} {list_some([*map(_describe_base, bases)])}"
        for verb, all_bases in subtrees.items()
        if (bases := [base.value for base in all_bases or () if isinstance(base, kind)])
    ]
    return f", which {' and '.join(clauses)}" if clauses else ""


def _describe_base(base: Any) -> str:  # noqa: ANN401 - text, a network or a name
    return quote(base.rfc4514_string() if isinstance(base, x509.Name) else str(base), 60)


def is_subject_permitted(constraints: x509.NameConstraints, subject: x509.Name) -> bool:
    """Whether a subject is empty, or within the directoryName subtrees."""
    is_within = partial(_is_subject_within, subject)
    return not subject.rdns or _is_permitted(constraints, x509.DirectoryName, is_within, is_within)


def constrained(subject: x509.Name, sans: Iterable[Identifier]) -> list[Identifier]:
    """The names to compare with the constraints, then those that programs take from a common name.

    OpenSSL treats a common name that is an IPv4 address as a DNS name if there is no other DNS name.
    """
    listed = list(sans)
    has_dns = any(name.kind is IdentifierKind.DNS for name in listed)
    for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        name = names.identifier_implied_by_cn(str(attribute.value))
        if name and name not in listed:
            listed.append(name)
        if name and name.kind is IdentifierKind.IP and ":" not in name.value and not has_dns:
            listed.append(Identifier(IdentifierKind.DNS, name.value))
    return listed


def _is_permitted(
    constraints: x509.NameConstraints,
    kind: type,
    is_within: Callable[[Any], bool],
    overlaps: Callable[[Any], bool],
) -> bool:
    permitted = [base.value for base in constraints.permitted_subtrees or () if isinstance(base, kind)]
    excluded = [base.value for base in constraints.excluded_subtrees or () if isinstance(base, kind)]
    return (not permitted or any(map(is_within, permitted))) and not any(map(overlaps, excluded))


def _is_within(name: Identifier, base: Any) -> bool:  # noqa: ANN401 - text or a network
    match name.kind:
        case IdentifierKind.IP:  # an IPv4-mapped address counts as IPv4
            address = ipaddress.ip_address(name.value)
            return (getattr(address, "ipv4_mapped", None) or address) in base
        case IdentifierKind.DNS:
            return in_dns_subtree(name, base.lower())
        case IdentifierKind.EMAIL:
            return _is_mailbox_within(name.value, base)
        case IdentifierKind.URI:
            return all(in_host_subtree(host, base.lower()) for host in _hosts(name))


def _overlaps_excluded(name: Identifier, base: Any) -> bool:  # noqa: ANN401 - text or a network
    """Whether a name is in an excluded subtree, or is a wildcard that matches a name in it."""
    if name.kind is IdentifierKind.DNS:
        return overlaps_subtree(name, base.lower().removeprefix("."))
    if name.kind is IdentifierKind.URI:  # verifiers reject a URI without a host (RFC 5280 4.2.1.10)
        hosts = _hosts(name)
        return not hosts[0] or any(in_host_subtree(host, base.lower()) for host in hosts)
    if name.kind is IdentifierKind.EMAIL:  # mail servers ignore the case of local parts
        return _is_mailbox_within(name.value.lower(), base.lower())
    return _is_within(name, base) or ipaddress.ip_address(name.value) in base


def _hosts(name: Identifier) -> tuple[str, str]:
    """The host of a URI, and OpenSSL's reading of it: all before a colon, or without one before a slash."""
    after = name.value.partition("://")[2].lower()
    return names.uri_host(name), after.partition(":" if ":" in after else "/")[0]


def _openssl_host_hint(name: Identifier) -> str:
    """A hint if OpenSSL reads another host from a URI."""
    if name.kind is not IdentifierKind.URI:
        return ""
    host, openssl_host = _hosts(name)
    if openssl_host.startswith("[") or openssl_host == host:
        return ""
    return f"; OpenSSL reads {quote(openssl_host)} as its host"


def in_dns_subtree(name: Identifier, subtree: str) -> bool:
    """Whether a DNS name is in a subtree; a leading dot requires another label, as in OpenSSL."""
    if subtree.startswith("."):
        return name.value.endswith(subtree)
    host = name.value.removeprefix("*.")
    return not subtree or host == subtree or host.endswith("." + subtree)


def overlaps_subtree(name: Identifier, subtree: str) -> bool:
    """Whether a DNS name is in a subtree, or is a wildcard that matches the name at its top."""
    matches_top = name.value.startswith("*.") and subtree.partition(".")[2] == name.value[2:]
    return matches_top or in_dns_subtree(name, subtree)


def in_host_subtree(host: str, subtree: str) -> bool:
    """Whether a host equals a subtree, or is below it if it has a leading dot."""
    return host.endswith(subtree) if subtree.startswith(".") else host == subtree


def _is_mailbox_within(mailbox: str, base: str) -> bool:
    if "@" in base:
        local, _, domain = base.rpartition("@")
        return mailbox == f"{local}@{domain.lower()}"
    return in_host_subtree(mailbox.rpartition("@")[2], base.lower())


def _is_subject_within(subject: x509.Name, base: x509.Name) -> bool:
    prefix = names.canonical_dn(base)
    return names.canonical_dn(subject)[: len(prefix)] == prefix
