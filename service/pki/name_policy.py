"""Which names may be certified: subtrees, networks, domains, URIs that a profile or a principal is held to.

A kind of name that is not mentioned is not permitted. Subtrees and hosts are written and compared as RFC 5280
4.2.1.10 has it for name constraints.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from service.pki import constraints, names
from service.pki.names import Name, NameKind

_Network = IPv4Network | IPv6Network
# The SPIFFE ID standard, 2.1 to 2.4: trust domain, then segments, none of them empty, `.` or `..`.
_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}((/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)*)")


@dataclass(frozen=True)
class DnsPolicy:
    """DNS names; a subtree is a name and all beneath it, or with a leading dot those beneath alone.

    Attributes:
        permitted: the subtrees; empty for all.
        excluded: subtrees that no name is in, and that no wildcard stands for.
        wildcards: whether the left-most label may be `*`; never just above a top-level domain.
        single_label: whether names without a dot are permitted.
        underscores: whether labels may hold one, which no host name does (RFC 1123 2.1).
    """

    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    wildcards: bool = False
    single_label: bool = False
    underscores: bool = False

    def faults(self, name: Name) -> Iterator[str]:
        """What is not permitted about a name, after "the profile …"."""
        labels = name.value.split(".")
        if labels[0] == "*":
            if not self.wildcards:
                yield "permits no wildcards"
            elif len(labels) == 2:  # noqa: PLR2004
                yield "permits no wildcard of a whole top-level domain"
        if len(labels) == 1 and not self.single_label:
            yield "permits no names of a single label"
        if "_" in name.value and not self.underscores:
            yield "permits no underscores"
        if self.permitted and not any(constraints.is_under(name, each) for each in self.permitted):
            yield f"permits names in {', '.join(self.permitted)}"
        for each in self.excluded:
            if constraints.is_touching(name, each):
                yield f"excludes names in {each}"


@dataclass(frozen=True)
class IpPolicy:
    """IP addresses; an IPv4-mapped IPv6 address is held to the rules of both.

    Attributes:
        permitted: the networks; empty for all.
        excluded: networks that no address is in.
    """

    permitted: tuple[_Network, ...] = ()
    excluded: tuple[_Network, ...] = ()

    def faults(self, name: Name) -> Iterator[str]:
        """What is not permitted about a name, after "the profile …"."""
        address = ipaddress.ip_address(name.value)
        mapped = getattr(address, "ipv4_mapped", None)
        forms = [address] if mapped is None else [mapped, address]
        if self.permitted and not any(forms[0] in each for each in self.permitted):
            yield f"permits addresses in {', '.join(map(str, self.permitted))}"
        for each in self.excluded:
            if any(form in each for form in forms):
                yield f"excludes addresses in {each}"


@dataclass(frozen=True)
class EmailPolicy:
    """Mailboxes; a domain is that one alone, or with a leading dot those beneath it.

    Attributes:
        permitted: the domains; empty for all.
        excluded: domains that no mailbox is of.
    """

    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def faults(self, name: Name) -> Iterator[str]:
        """What is not permitted about a name, after "the profile …"."""
        domain = name.value.rpartition("@")[2]
        if self.permitted and not any(constraints.is_host_within(domain, each) for each in self.permitted):
            yield f"permits mailboxes of {', '.join(self.permitted)}"
        for each in self.excluded:
            if constraints.is_host_within(domain, each):
                yield f"excludes mailboxes of {each}"


@dataclass(frozen=True)
class UriPolicy:
    """URIs. A SPIFFE ID has the standard's form, whatever is permitted.

    Attributes:
        schemes: those permitted, lower case; empty for all.
        hosts: the hosts, or with a leading dot those beneath one; empty for all, and for URIs without one.
    """

    schemes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def faults(self, name: Name) -> Iterator[str]:
        """What is not permitted about a name, after "the profile …"."""
        scheme, host = urlsplit(name.value).scheme, names.uri_host(name)
        if self.schemes and scheme not in self.schemes:
            yield f"permits URIs of {', '.join(self.schemes)}"
        if self.hosts and not any(host and constraints.is_host_within(host, each) for each in self.hosts):
            yield f"permits URIs at {', '.join(self.hosts)}"


@dataclass(frozen=True)
class NamePolicy:
    """The rules for each kind of name; a kind whose rules are None is not permitted."""

    dns: DnsPolicy | None = None
    ip: IpPolicy | None = None
    email: EmailPolicy | None = None
    uri: UriPolicy | None = None

    def faults(self, given: Sequence[Name], whose: str) -> list[tuple[int | None, str]]:
        """What is not permitted, as the position of the name and a sentence; the position of none is None.

        Args:
            given: the names of one certificate.
            whose: whose rules these are: "the profile server".
        """
        found: list[tuple[int | None, str]] = []
        for position, name in enumerate(given):
            rules = getattr(self, name.kind)
            if rules is None:
                kinds = ", ".join(kind for kind in NameKind if getattr(self, kind)) or "no names"
                found.append((position, f"{name}: {whose} permits {kinds}"))
                continue
            found += [(position, f"{name}: {whose} {fault}") for fault in rules.faults(name)]
        return found + _spiffe_faults(given)

    def permits_kind(self, name: Name) -> bool:
        """Whether names of this name's kind are permitted at all."""
        return getattr(self, name.kind) is not None

    def for_common_name(self) -> NamePolicy:
        """The same for what is a name only to whoever takes it for one: underscores are no fault there."""
        return replace(self, dns=replace(self.dns, underscores=True)) if self.dns else self

    def to_dict(self) -> dict[str, object]:
        """JSON, as `profile_loader.parse_name_policy` takes it, without defaults."""
        return {kind: _to_dict(rules) for kind in NameKind if (rules := getattr(self, kind)) is not None}


def _spiffe_faults(given: Sequence[Name]) -> list[tuple[int | None, str]]:
    """The SPIFFE standard's X.509-SVID, 2: one URI, and that a SPIFFE ID of at most 2,048 octets."""
    uris = [(position, name) for position, name in enumerate(given) if name.kind is NameKind.URI]
    found: list[tuple[int | None, str]] = [
        (position, f"{name}: this is not the form of a SPIFFE ID")
        for position, name in uris
        if name.value.startswith("spiffe:") and not _SPIFFE_ID.fullmatch(name.value)
    ]
    if len(uris) > 1 and any(name.value.startswith("spiffe:") for _, name in uris):
        found.append((None, "a SPIFFE ID is the only URI of its certificate"))
    return found


def _to_dict(rules: DnsPolicy | IpPolicy | EmailPolicy | UriPolicy) -> dict[str, object]:
    members = {each.name: getattr(rules, each.name) for each in fields(rules)}
    return {
        name: value if value is True else list(map(str, value)) for name, value in members.items() if value
    }
