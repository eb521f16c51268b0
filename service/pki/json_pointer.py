"""JSON pointers to claims (RFC 6901): `/kubernetes.io/namespace`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from service.pki.errors import quote

# Printable ASCII without quotes, backslashes and braces: pointers are in responses and in templates of names.
_POINTER: Final = re.compile(r"(/([ !#-&(-.0-\[\]-z|]|~[01])+)+")


def parse_pointer(text: str) -> str:
    """Return a pointer unchanged.

    Raises:
        ValueError: it is not a JSON pointer to a member.
    """
    if not _POINTER.fullmatch(text):
        detail = "is not a JSON pointer (RFC 6901), such as /repository_id; write / in a name as ~1, ~ as ~0"
        raise ValueError(f"{quote(text)} {detail}")
    return text


def resolve_pointer(pointer: str, document: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the value that a pointer refers to; None if there is none. Items of lists have no pointers."""
    value: Any = document
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
