"""Which names may be certified: subtrees, networks, domains, URIs that a profile or a principal is held to.

A kind of name that is not mentioned is not permitted. Subtrees and hosts are written and compared as RFC 5280
4.2.1.10 has it for name constraints.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from service.pki import constraints, names
from service.pki.errors import IssuanceError, quoted
from service.pki.names import Name, NameKind

Path = tuple[str | int, ...]
"""Where in what is stated something stands: `("dns", "permitted", 0)`."""
Report = Callable[[Path, str], None]
"""Takes what is wrong with what is stated, and where."""

_Network = IPv4Network | IPv6Network
_T = TypeVar("_T")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")  # RFC 3986 3.1, in its canonical case
# The SPIFFE ID standard, 2.1 to 2.4: trust domain, then segments, none of them empty, `.` or `..`.
_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}((/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)*)")


@dataclass(frozen=True)
class DnsRules:
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
class IpRules:
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
class EmailRules:
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
class UriRules:
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


_RULES: Final[dict[str, type[DnsRules | IpRules | EmailRules | UriRules]]] = {
    NameKind.DNS: DnsRules,
    NameKind.IP: IpRules,
    NameKind.EMAIL: EmailRules,
    NameKind.URI: UriRules,
}


@dataclass(frozen=True)
class NameRules:
    """The rules for each kind of name; a kind whose rules are None is not permitted."""

    dns: DnsRules | None = None
    ip: IpRules | None = None
    email: EmailRules | None = None
    uri: UriRules | None = None

    @classmethod
    def load(cls, stated: object, report: Report) -> NameRules:
        """Read the rules as the contract states them: `{dns: {permitted: [example.com]}, ip: {}}`.

        Args:
            stated: any JSON.
            report: called with each thing that is wrong; what is returned then is not to be used.
        """
        read: dict[str, Any] = {}
        for kind, value in _members(stated, tuple(_RULES), (), report).items():
            read[kind] = _RULES[kind](**_read(_RULES[kind], value, kind, report))
        return cls(**read)

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
                kinds = ", ".join(kind for kind in _RULES if getattr(self, kind)) or "no names"
                found.append((position, f"{name}: {whose} permits {kinds}"))
                continue
            found += [(position, f"{name}: {whose} {fault}") for fault in rules.faults(name)]
        return found + _spiffe_faults(given)

    def gives(self, name: Name) -> bool:
        """Whether names of this name's kind are permitted at all."""
        return getattr(self, name.kind) is not None

    def of_common_names(self) -> NameRules:
        """The same for what is a name only to whoever takes it for one: underscores are no fault there."""
        return replace(self, dns=replace(self.dns, underscores=True)) if self.dns else self

    def stated(self) -> dict[str, object]:
        """The rules as `load` reads them, without what is as if nothing were said."""
        return {kind: _stated(rules) for kind in _RULES if (rules := getattr(self, kind)) is not None}


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


def _stated(rules: DnsRules | IpRules | EmailRules | UriRules) -> dict[str, object]:
    members = {each.name: getattr(rules, each.name) for each in fields(rules)}
    return {
        name: value if value is True else list(map(str, value)) for name, value in members.items() if value
    }


def _read(
    rules: type[DnsRules | IpRules | EmailRules | UriRules], stated: object, kind: str, report: Report
) -> dict[str, Any]:
    """The members of one kind's rules: lists are read by what they hold, the others are booleans."""
    known = tuple(each.name for each in fields(rules))
    read: dict[str, Any] = {}
    for member, value in _members(stated, known, (kind,), report).items():
        if isinstance(getattr(rules, member), bool):
            read[member] = value
            if not isinstance(value, bool):
                report((kind, member), "it is neither true nor false")
            continue
        reader = _scheme if member == "schemes" else _READERS[kind]
        read[member] = _each(value, reader, (kind, member), report)
    return read


def _members(stated: object, known: tuple[str, ...], path: Path, report: Report) -> Mapping[str, object]:
    if not isinstance(stated, Mapping):
        report(path, f"it is not a mapping of {', '.join(known)}")
        return {}
    for unknown in sorted(str(name) for name in stated if name not in known):
        report((*path, unknown), f"it is none of {', '.join(known)}")
    return {name: stated[name] for name in known if name in stated}


def _each(stated: object, read: Callable[[str], _T], path: Path, report: Report) -> tuple[_T, ...]:
    """A list of one or more; an empty one reads as if it permitted nothing, and would permit all."""
    if not isinstance(stated, list) or not stated:
        report(path, "it is not a list of one or more")
        return ()
    found = []
    for position, value in enumerate(stated):
        try:
            found.append(read(value if isinstance(value, str) else ""))
        except (ValueError, IssuanceError):
            report((*path, position), f"{quoted(str(value))} is not {_WORDS[read]}")
    return tuple(found)


def _domain(text: str) -> str:
    below = "." if text.startswith(".") else ""
    return below + names.dns_name(text.removeprefix("."), "", wildcard=False)


def _subtree(text: str) -> str:
    """A domain, whose labels may hold an underscore, as those of services and trust domains do."""
    below = "." if text.startswith(".") else ""
    return below + names.dns_name(text.removeprefix("."), "", wildcard=False, underscores=True)


def _network(text: str) -> _Network:
    return ipaddress.ip_network(text)


def _scheme(text: str) -> str:
    if not _SCHEME.fullmatch(text):
        raise ValueError(text)
    return text


_READERS: Final[dict[str, Callable[[str], object]]] = {
    NameKind.DNS: _subtree,
    NameKind.IP: _network,
    NameKind.EMAIL: _domain,
    NameKind.URI: _subtree,
}
_WORDS: Final[dict[Callable[[str], object], str]] = {
    _domain: "a DNS name, or one with a leading dot",
    _subtree: "a DNS name, or one with a leading dot",
    _network: "an IP network, as 10.0.0.0/8",
    _scheme: "a URI scheme in lower case",
}
