"""Parse JSON of the issuance policy strictly: objects, lists and name policies, with all violations."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from service.pki import names
from service.pki.errors import IssuanceError, escape_controls, quote
from service.pki.name_policy import DnsPolicy, EmailPolicy, IpPolicy, NamePolicy, UriPolicy
from service.pki.names import IdentifierKind

JSONPath = tuple[str | int, ...]
"""A path in JSON: `("profiles", "server", "validity")`."""
Parse = Callable[[Any], Any]
"""Parses JSON of the right type; raises ValueError or IssuanceError, or ProfileError about nested values."""
Fields = Mapping[Any, tuple[type, Parse]]
"""The allowed members of a JSON object: the JSON type of each value, and its parser."""
Check = Callable[[dict[Any, Any]], Iterable["ProfileViolation"]]
"""Yields violations that involve several members of a parsed object."""


@dataclass(frozen=True)
class ProfileViolation:
    """A violation in the profiles, with its path."""

    path: JSONPath
    detail: str

    def __str__(self) -> str:
        location = escape_controls(".".join(map(str, self.path)))
        return f"{location}: {self.detail}" if location else self.detail


class ProfileError(ValueError):
    """The profiles are invalid; the message and `violations` list all violations."""

    def __init__(self, violations: Iterable[ProfileViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(map(str, self.violations)))


def parse_object(data: dict[Any, Any], fields: Fields, check: Check = lambda _: ()) -> dict[Any, Any]:
    """Parse each member of an object.

    Raises:
        ProfileError: a member is unknown or invalid, or `check` yields violations; lists all violations.
    """
    parsed: dict[Any, Any] = {}
    violations: list[ProfileViolation] = []
    for key, value in data.items():
        if key not in fields:
            violations.append(ProfileViolation((key,), f"unknown key; known: {', '.join(fields)}"))
        elif not isinstance(value, kind := fields[key][0]):
            violations.append(
                ProfileViolation((key,), f"{quote(str(value))} is not of the type {kind.__name__}")
            )
        else:
            try:
                parsed[key] = fields[key][1](value)
            except ProfileError as error:
                violations += [
                    ProfileViolation((key, *violation.path), violation.detail)
                    for violation in error.violations
                ]
            except (ValueError, IssuanceError) as error:
                violations.append(ProfileViolation((key,), str(error)))
    violations += check(parsed)
    if violations:
        raise ProfileError(violations)
    return parsed


def members_of(
    kind: type, parse: Callable[[str, Any], Any], check: Check = lambda _: ()
) -> tuple[type, Parse]:
    """An object with any member names; `parse` gets the name and the value, of the type `kind`."""
    return dict, lambda data: parse_object(data, {name: (kind, partial(parse, name)) for name in data}, check)


def list_of(parse: Parse, identity: Parse | None = None, *, min_items: int = 0) -> tuple[type, Parse]:
    """A list of strings; no two values may have the same `identity`."""

    def parse_list(data: list[Any]) -> tuple[Any, ...]:
        if len(data) < min_items:
            raise ValueError("the list is empty")
        values = parse_object(dict(enumerate(data)), dict.fromkeys(range(len(data)), (str, parse)))
        identities = [identity(value) for value in values.values()] if identity else []
        for index, value in enumerate(identities):
            if value in identities[:index]:
                raise ValueError(f"{quote(data[index])} is listed twice")
        return tuple(values.values())

    return list, parse_list


def parse_domain(text: str) -> str:
    """Parse a domain; a leading dot means only what is below it."""
    return _domain(text, underscores=False)


def parse_subtree(text: str) -> str:
    """Parse a domain as `parse_domain`; labels of services and trust domains may have underscores."""
    return _domain(text, underscores=True)


def _domain(text: str, *, underscores: bool) -> str:
    leading_dot = "." if text.startswith(".") else ""
    return leading_dot + names.dns_name(text.removeprefix("."), "", wildcard=False, underscores=underscores)


def parse_uri(text: str) -> str:
    """Parse an absolute URI."""
    return names.parse_identifier(IdentifierKind.URI, text, "").value


def name_policy_fields(dns: Parse = parse_subtree, uri: Parse = parse_uri) -> Fields:
    """The members of a name policy; `dns` and `uri` parse the permitted DNS names and URIs."""
    domains, subtrees, networks = (
        list_of(parse, min_items=1) for parse in (parse_domain, parse_subtree, ipaddress.ip_network)
    )
    flags = dict.fromkeys(("wildcards", "single_label", "underscores"), (bool, bool))
    return {
        "dns": _policy(DnsPolicy, {"permitted": list_of(dns, min_items=1), "excluded": subtrees, **flags}),
        "ip": _policy(IpPolicy, {"permitted": networks, "excluded": networks}),
        "email": _policy(EmailPolicy, {"permitted": domains, "excluded": domains}),
        "uri": _policy(
            UriPolicy,
            {
                "permitted": list_of(uri, min_items=1),
                "schemes": list_of(str, min_items=1),
                "hosts": subtrees,
            },
        ),
    }


def _policy(policy: type, fields: Fields) -> tuple[type, Parse]:
    return dict, lambda data: policy(**parse_object(data, fields))


NAME_POLICY: Final = name_policy_fields()
"""The members of the name policy of a profile or a principal."""


def parse_name_policy(data: dict[str, Any]) -> NamePolicy:
    """Parse a name policy: `{dns: {permitted: [example.com]}, ip: {}}`.

    Raises:
        ProfileError: the policy is invalid; lists all violations.
    """
    return NamePolicy(**parse_object(data, NAME_POLICY))
