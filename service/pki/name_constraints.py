"""Name constraints (RFC 5280 4.2.1.10) of a CA, checked before signing: after it, only relying parties do."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from service.pki import names
from service.pki.errors import quote
from service.pki.names import Identifier, IdentifierKind


def violations(
    constraints: x509.NameConstraints, subject: x509.Name, sans: Iterable[Identifier]
) -> list[str]:
    """What a certificate with this subject and these names would violate, in sentences."""
    sentences = []
    for name in constrained(subject, sans):
        is_within, overlaps = partial(_is_within, name), partial(_overlaps_excluded, name)
        if not _is_permitted(constraints, names.GENERAL_NAMES[name.kind], is_within, overlaps):
            sentences.append(f"{name} is outside what the CA is constrained to{_openssl_host_hint(name)}")
    if not is_subject_permitted(constraints, subject):
        sentences.append("the subject is outside what the CA is constrained to")
    return sentences


def is_subject_permitted(constraints: x509.NameConstraints, subject: x509.Name) -> bool:
    """Whether a subject, as a whole, is empty or within the directoryName subtrees."""
    is_within = partial(_is_subject_within, subject)
    return not subject.rdns or _is_permitted(constraints, x509.DirectoryName, is_within, is_within)


def constrained(subject: x509.Name, sans: Iterable[Identifier]) -> list[Identifier]:
    """The names that are compared with the constraints: also those that programs read in a common name.

    OpenSSL takes a common name that is an IPv4 address for a DNS name if there is no other DNS name.
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


def _is_within(name: Identifier, base: Any) -> bool:  # noqa: ANN401 - text, or a network
    match name.kind:
        case IdentifierKind.IP:  # an IPv4-mapped address is one of IPv4
            address = ipaddress.ip_address(name.value)
            return (getattr(address, "ipv4_mapped", None) or address) in base
        case IdentifierKind.DNS:
            return in_dns_subtree(name, base.lower())
        case IdentifierKind.EMAIL:
            return _is_mailbox_within(name.value, base)
        case IdentifierKind.URI:
            return all(in_host_subtree(host, base.lower()) for host in _hosts(name))


def _overlaps_excluded(name: Identifier, base: Any) -> bool:  # noqa: ANN401 - text, or a network
    """Whether a name is within an excluded subtree, or is a wildcard that stands for one that is."""
    if name.kind is IdentifierKind.DNS:
        return overlaps_subtree(name, base.lower().removeprefix("."))
    if name.kind is IdentifierKind.URI:  # a verifier refuses one without a host (RFC 5280 4.2.1.10)
        hosts = _hosts(name)
        return not hosts[0] or any(in_host_subtree(host, base.lower()) for host in hosts)
    if name.kind is IdentifierKind.EMAIL:  # mail servers take local parts for the same without regard to case
        return _is_mailbox_within(name.value.lower(), base.lower())
    return _is_within(name, base) or ipaddress.ip_address(name.value) in base


def _hosts(name: Identifier) -> tuple[str, str]:
    """The host of a URI, and what OpenSSL takes for it: all before a colon, or else before a slash."""
    after = name.value.partition("://")[2].lower()
    return names.uri_host(name), after.partition(":" if ":" in after else "/")[0]


def _openssl_host_hint(name: Identifier) -> str:
    """For a URI that is outside: that OpenSSL takes more of it for its host."""
    if name.kind is not IdentifierKind.URI:
        return ""
    host, read = _hosts(name)
    return "" if read.startswith("[") or read == host else f"; OpenSSL takes {quote(read)} for its host"


def in_dns_subtree(name: Identifier, subtree: str) -> bool:
    """Whether a DNS name is in a subtree; a leading dot asks for one more label, as OpenSSL has it."""
    if subtree.startswith("."):
        return name.value.endswith(subtree)
    host = name.value.removeprefix("*.")
    return not subtree or host == subtree or host.endswith("." + subtree)


def overlaps_subtree(name: Identifier, subtree: str) -> bool:
    """Whether a DNS name is in a subtree, or is a wildcard that stands for the name at its top."""
    stands_for_it = name.value.startswith("*.") and subtree.partition(".")[2] == name.value[2:]
    return stands_for_it or in_dns_subtree(name, subtree)


def in_host_subtree(host: str, subtree: str) -> bool:
    """Whether a host is that one, or beneath the one after a leading dot."""
    return host.endswith(subtree) if subtree.startswith(".") else host == subtree


def _is_mailbox_within(mailbox: str, base: str) -> bool:
    if "@" in base:
        local, _, domain = base.rpartition("@")
        return mailbox == f"{local}@{domain.lower()}"
    return in_host_subtree(mailbox.rpartition("@")[2], base.lower())


def _is_subject_within(subject: x509.Name, base: x509.Name) -> bool:
    limit = names.canonical_dn(base)
    return names.canonical_dn(subject)[: len(limit)] == limit
