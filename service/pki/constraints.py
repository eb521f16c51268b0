"""Name constraints (RFC 5280 4.2.1.10): what a CA certificate lets its issuer name.

They are checked before signing, for no linter and no signature check notices a violation: only the
relying party does, when the certificate is already in use.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from service.pki import names
from service.pki.names import Name, NameKind

_KINDS: Final = {
    NameKind.DNS: x509.DNSName,
    NameKind.IP: x509.IPAddress,
    NameKind.EMAIL: x509.RFC822Name,
    NameKind.URI: x509.UniformResourceIdentifier,
}


def violations(constraints: x509.NameConstraints, subject: x509.Name, sans: Iterable[Name]) -> list[str]:
    """What a certificate with this subject and these names would violate, in sentences."""
    found = [
        f"{name} is outside what the CA is constrained to"
        for name in constrained(subject, sans)
        if not _allowed(constraints, _KINDS[name.kind], partial(_within, name))
    ]
    if subject.rdns and not _allowed(constraints, x509.DirectoryName, partial(_subject_within, subject)):
        found.append("the subject is outside what the CA is constrained to")
    return found


def constrained(subject: x509.Name, sans: Iterable[Name]) -> list[Name]:
    """The names that a verifier holds against the constraints.

    OpenSSL takes a common name that looks like a host name for a DNS name where there is no DNS
    name beside it, so that counts too.
    """
    listed = list(sans)
    if any(name.kind is NameKind.DNS for name in listed):
        return listed
    spelt = (
        names.from_common_name(str(attribute.value))
        for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    )
    return listed + [name for name in spelt if name and name.kind is NameKind.DNS]


def _allowed(
    constraints: x509.NameConstraints, kind: type, within: Callable[[x509.GeneralName], bool]
) -> bool:
    permitted = [base for base in constraints.permitted_subtrees or () if isinstance(base, kind)]
    excluded = [base for base in constraints.excluded_subtrees or () if isinstance(base, kind)]
    return (not permitted or any(map(within, permitted))) and not any(map(within, excluded))


def _within(name: Name, base: x509.GeneralName) -> bool:
    match base:
        case x509.IPAddress():
            return isinstance(base.value, ipaddress.IPv4Network | ipaddress.IPv6Network) and (
                ipaddress.ip_address(name.value) in base.value
            )
        case x509.DNSName():
            return _under(name.value.removeprefix("*."), base.value.lower().removeprefix("."))
        case x509.RFC822Name():
            return _mailbox_within(name.value, base.value)
        case x509.UniformResourceIdentifier():
            return _host_within(names.uri_host(name), base.value.lower())
    return False


def _under(host: str, subtree: str) -> bool:
    return not subtree or host == subtree or host.endswith("." + subtree)


def _host_within(host: str, subtree: str) -> bool:
    if subtree.startswith("."):
        return host.endswith(subtree)
    return host == subtree


def _mailbox_within(mailbox: str, base: str) -> bool:
    if "@" in base:
        local, _, domain = base.rpartition("@")
        return mailbox == f"{local}@{domain.lower()}"
    return _host_within(mailbox.rpartition("@")[2], base.lower())


def _subject_within(subject: x509.Name, base: x509.GeneralName) -> bool:
    return isinstance(base, x509.DirectoryName) and (subject.rdns[: len(base.value.rdns)] == base.value.rdns)
