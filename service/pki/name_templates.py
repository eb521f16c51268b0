"""DNS names and URIs with placeholders for claims: `{/environment}.ci.example.com`.

Two lists of claims never give the same name: a value has no delimiter of labels or segments, and no separator
that its label or segment contains. Values are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from service.pki.errors import IssuanceError, quote
from service.pki.json_pointer import parse_pointer, resolve_pointer
from service.pki.policy_parser import Parse, parse_subtree, parse_uri

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_MARK: Final = "\0"  # in place of a placeholder
_MIN_FIXED_LABELS: Final = 2
_URI_START: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\0]+/[^?#]*")


class _Kind(NamedTuple):
    """A kind of name.

    Attributes:
        part, delimiter: what a name consists of, and what is between them.
        separators: what may be between placeholders in a part.
        value: the values of a placeholder.
        expanded: the parts that contain values.
        parse: parses a name.
    """

    part: str
    delimiter: str
    separators: str
    value: re.Pattern[str]
    expanded: re.Pattern[str]
    parse: Parse


_DNS: Final = _Kind(
    part="label",
    delimiter=".",
    separators="-",
    value=re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)"),
    expanded=re.compile(r"(?!..--).*"),  # no A-label, nor what RFC 5891 4.2.3.1 reserves
    parse=parse_subtree,
)
_URI: Final = _Kind(
    part="segment",
    delimiter="/",
    separators="._-",
    value=re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,255}"),
    expanded=re.compile(r".*"),
    parse=parse_uri,
)


def parse_dns_template(text: str) -> str:
    """Parse a permitted domain, which may have placeholders left of its last two labels.

    Raises:
        ValueError, RejectedIdentifier: it is malformed, or two lists of claims could give the same name.
    """
    marked, pointers = _split(text)
    if not pointers:
        return parse_subtree(text)
    if _MARK in "".join(marked.split(".")[-_MIN_FIXED_LABELS:]):
        raise ValueError(
            f"{quote(text)} has no fixed domain: end it with at least two labels, as in {{/ref}}.example.com"
        )
    _verify(text, _DNS)
    return text


def parse_uri_template(text: str) -> str:
    """Parse a permitted URI, which may have placeholders in its path; raise as `parse_dns_template`."""
    marked, pointers = _split(text)
    if not pointers:
        return parse_uri(text)
    if not _URI_START.fullmatch(marked):
        detail = "may have placeholders only in a path after scheme and host, and then no query or fragment"
        raise ValueError(f"{quote(text)} {detail}, as in spiffe://example.com/{{/ref}}")
    _verify(text, _URI)
    return text


def expand_dns_template(template: str, claims: Mapping[str, Any]) -> str:
    """Return the domain that a template gives for these claims.

    Raises:
        ValueError: a claim is missing, or has characters that its place does not allow; the message names the
            claim, not its value.
    """
    return _expand(template, claims, _DNS)


def expand_uri_template(template: str, claims: Mapping[str, Any]) -> str:
    """Return the URI that a template gives for these claims; raise as `expand_dns_template`."""
    return _expand(template, claims, _URI)


def _split(text: str) -> tuple[str, list[str]]:
    """Return the text with a mark for each placeholder, and the pointers of the placeholders."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"{quote(text)} is not ASCII; write a domain in A-labels (RFC 5890)")
    marked = _PLACEHOLDER.sub(_MARK, text)
    if "{" in marked or "}" in marked:
        raise ValueError(f"{quote(text)} has unbalanced braces; write a placeholder as {{/claim}}")
    return marked, _PLACEHOLDER.findall(text)


def _verify(text: str, kind: _Kind) -> None:
    """Verify that different claims give different names, and that an example is a valid name."""
    marked, pointers = _split(text)
    for pointer in pointers:
        parse_pointer(pointer)
    for part in marked.split(kind.delimiter):
        if any(set(kind.separators).isdisjoint(between) for between in part.split(_MARK)[1:-1]):
            expected = " or ".join(kind.separators)
            raise ValueError(
                f"{quote(text)} does not separate two placeholders of a {kind.part}; put {expected} between"
            )
    kind.parse(marked.replace(_MARK, "a"))


def _expand(template: str, claims: Mapping[str, Any], kind: _Kind) -> str:
    marked, pointers = _split(template)
    if not pointers:
        return template
    remaining = iter(pointers)
    parts = []
    for part in marked.split(kind.delimiter):
        first, *others = part.split(_MARK)
        forbidden = set(kind.separators).intersection(part)
        expanded = first + "".join(_value(next(remaining), claims, kind, forbidden) + text for text in others)
        if others and not kind.expanded.fullmatch(expanded):
            raise ValueError(f"the claims {', '.join(pointers)} give an invalid {kind.part}")
        parts.append(expanded)
    try:
        return str(kind.parse(kind.delimiter.join(parts)))
    except IssuanceError as error:
        raise ValueError(f"the claims {', '.join(pointers)} give an invalid name") from error


def _value(pointer: str, claims: Mapping[str, Any], kind: _Kind, forbidden: set[str]) -> str:
    value = resolve_pointer(pointer, claims)
    if value is None:
        raise ValueError(f"the claim {pointer} is missing, but names contain it")
    if not (isinstance(value, str) and kind.value.fullmatch(value) and forbidden.isdisjoint(value)):
        raise ValueError(f"the claim {pointer} has characters, a length or a type that names may not have")
    return value
