"""The names that a profile or a principal permits, similar to name constraints (RFC 5280 4.2.1.10)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeVar
from urllib.parse import urlsplit

from service.pki import names
from service.pki.errors import list_some, shorten
from service.pki.name_constraints import in_dns_subtree, in_host_subtree, overlaps_subtree
from service.pki.names import Identifier, IdentifierKind

_Network = IPv4Network | IPv6Network
_Subtree = TypeVar("_Subtree", str, _Network)
# SPIFFE ID standard, 2.1 to 2.4: a trust domain, then segments that are not empty, `.` or `..`.
_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}((/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)*)")


def _subtree_violations(
    label: str,
    permitted: Sequence[_Subtree],
    excluded: Sequence[_Subtree],
    is_within: Callable[[_Subtree], bool],
    overlaps: Callable[[_Subtree], bool],
) -> Iterator[str]:
    if permitted and not any(map(is_within, permitted)):
        yield f"permits only {label} {list_some([*map(str, permitted)])}"
    for subtree in filter(overlaps, excluded):
        yield f"excludes {label} {subtree}"


@dataclass(frozen=True)
class DnsPolicy:
    """The policy for DNS names. A subtree is a name and those below it; with a leading dot, only the latter.

    Attributes:
        permitted: the permitted subtrees; empty for all names.
        excluded: subtrees that may not contain a name, and in which a wildcard may not match a name.
        wildcards: whether the left-most label may be `*`; never directly below the root.
        single_label: whether names without a dot are permitted.
        underscores: whether labels may have underscores, which host names may not (RFC 1123 2.1).
    """

    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    wildcards: bool = False
    single_label: bool = False
    underscores: bool = False

    def violations(self, name: Identifier) -> Iterator[str]:
        """Reasons why a name is not permitted, each a predicate for "profile 'server'"."""
        labels = name.value.split(".")
        if "*" in name.value:
            if not self.wildcards:
                yield "permits no wildcards: list each name"
            elif labels[0] != "*" or name.value.count("*") > 1:  # in a common name, which OpenSSL matches
                yield "permits a wildcard only as the whole left-most label"
            elif len(labels) <= 2:  # noqa: PLR2004
                yield "permits no wildcard of a whole top-level domain: add a label, as in *.example.com"
        if len(labels) == 1 and not self.single_label:
            yield "permits no names of a single label: use the full name, as in host.example.com"
        if "_" in name.value and not self.underscores:
            yield "permits no underscores: use a name of letters, digits and hyphens"
        is_within, overlaps = partial(in_dns_subtree, name), partial(overlaps_subtree, name)
        yield from _subtree_violations("names in", self.permitted, self.excluded, is_within, overlaps)


@dataclass(frozen=True)
class IpPolicy:
    """The policy for IP addresses: permitted (empty for all) and excluded networks.

    An IPv4-mapped IPv6 address must be permitted as IPv4 and excluded neither as IPv4 nor as IPv6.
    """

    permitted: tuple[_Network, ...] = ()
    excluded: tuple[_Network, ...] = ()

    def violations(self, name: Identifier) -> Iterator[str]:
        """Reasons why a name is not permitted, each a predicate for "profile 'server'"."""
        address = ipaddress.ip_address(name.value)
        mapped = getattr(address, "ipv4_mapped", None) or address
        return _subtree_violations(
            "addresses in",
            self.permitted,
            self.excluded,
            lambda network: mapped in network,
            lambda network: mapped in network or address in network,
        )


@dataclass(frozen=True)
class EmailPolicy:
    """The policy for mailboxes: permitted (empty for all) and excluded domains.

    A domain does not include its subdomains; with a leading dot, it is only its subdomains.
    """

    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def violations(self, name: Identifier) -> Iterator[str]:
        """Reasons why a name is not permitted, each a predicate for "profile 'server'"."""
        is_within = partial(in_host_subtree, name.value.rpartition("@")[2])
        return _subtree_violations("mailboxes of", self.permitted, self.excluded, is_within, is_within)


@dataclass(frozen=True)
class UriPolicy:
    """The policy for URIs.

    Attributes:
        schemes: the permitted schemes, lower case; empty for all.
        hosts: the permitted hosts, or with a leading dot the hosts below a domain; empty for all, including
            none.
        permitted: the permitted URIs; empty for all.
    """

    schemes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()

    def violations(self, name: Identifier) -> Iterator[str]:
        """Reasons why a name is not permitted, each a predicate for "profile 'server'"."""
        scheme, host = urlsplit(name.value).scheme, names.uri_host(name)
        if self.schemes and scheme not in self.schemes:
            yield f"permits only URIs with scheme {list_some(self.schemes, ' or ')}"
        if self.hosts and not any(host and in_host_subtree(host, base) for base in self.hosts):
            yield f"permits only URIs with host {list_some(self.hosts, ' or ')}"
        if self.permitted and name.value not in self.permitted:
            yield f"permits only {list_some([*map(shorten, self.permitted)], ' or ')}"


_KindPolicy = DnsPolicy | IpPolicy | EmailPolicy | UriPolicy


@dataclass(frozen=True)
class NamePolicy:
    """The policy for each kind of name; a kind without a policy is not permitted."""

    dns: DnsPolicy | None = None
    ip: IpPolicy | None = None
    email: EmailPolicy | None = None
    uri: UriPolicy | None = None

    def violations(
        self, names: Sequence[Identifier], label: str, suggest: Callable[[Identifier], str] = lambda _: ""
    ) -> list[tuple[int | None, str]]:
        """The position of each name that is not permitted (None for all names), and a message.

        Args:
            names: the names.
            label: the owner of the policy in the message: "profile 'server'".
            suggest: a remedy for a name whose kind is not permitted, or ''.
        """
        violations: list[tuple[int | None, str]] = []
        for position, name in enumerate(names):
            policy = self._of(name.kind)
            details = policy.violations(name) if policy else [self._kind_violation(suggest(name))]
            violations += [(position, f"{shorten(str(name))}: {label} {detail}") for detail in details]
        return violations + _spiffe_violations(names)

    def _kind_violation(self, remedy: str) -> str:
        kinds = ", ".join(self.to_dict())
        detail = f"permits only names of kind {kinds}" if kinds else "permits no names"
        return f"{detail}; {remedy or 'omit the name'}"

    def _of(self, kind: IdentifierKind) -> _KindPolicy | None:
        return getattr(self, kind)  # type: ignore[no-any-return]  # the fields are named after the kinds

    def permits_kind(self, kind: IdentifierKind) -> bool:
        """Whether any names of this kind are permitted."""
        return self._of(kind) is not None

    def for_common_name(self) -> NamePolicy:
        """The same policy for common names, which may contain underscores."""
        return replace(self, dns=replace(self.dns, underscores=True)) if self.dns else self

    def to_dict(self) -> dict[str, object]:
        """Convert to the JSON that `profile_loader.parse_name_policy` parses, without defaults."""
        return {kind.value: _to_dict(policy) for kind in IdentifierKind if (policy := self._of(kind))}


def _spiffe_violations(names: Sequence[Identifier]) -> list[tuple[int | None, str]]:
    """Violations of X.509-SVID, 2 (SPIFFE): a certificate with a SPIFFE ID has no other URI."""
    uris = [(position, name) for position, name in enumerate(names) if name.kind is IdentifierKind.URI]
    violations: list[tuple[int | None, str]] = [
        (
            position,
            f"{shorten(str(name))} is not a SPIFFE ID: write spiffe://, a domain in lower case, and a path",
        )
        for position, name in uris
        if name.value.startswith("spiffe:") and not _SPIFFE_ID.fullmatch(name.value)
    ]
    if len(uris) > 1 and any(name.value.startswith("spiffe:") for _, name in uris):
        violations.append(
            (None, "A certificate with a SPIFFE ID may not have another URI: remove the others")
        )
    return violations


def _to_dict(policy: _KindPolicy) -> dict[str, object]:
    return {
        name: value if value is True else list(map(str, value))
        for name, value in vars(policy).items()
        if value
    }
