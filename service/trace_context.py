"""The trace of a request: from `traceparent` (W3C Trace Context), or from AWS's `X-Amzn-Trace-Id`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# W3C Trace Context 3.2.2. Version 00 ends after the flags; a later version may add fields after a hyphen.
_FIELDS: Final = r"(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_VERSION_00: Final = re.compile(f"00-{_FIELDS}")
_LATER_VERSION: Final = re.compile(f"(?!00|ff)[0-9a-f]{{2}}-{_FIELDS}(-.*)?")
_ROOT: Final = re.compile(r"Root=1-(?P<time>[0-9a-f]{8})-(?P<random>[0-9a-f]{24})")


def find_trace_id(headers: Iterable[tuple[str, str]]) -> str:
    """Find the ID of the trace that a request belongs to, as 32 hexadecimal digits; '' if it has none.

    The caller chose it, so that it may repeat. A malformed or repeated header is ignored (4.3).

    Args:
        headers: the name and value of each header of the request.
    """
    parents, roots = [], []
    for name, value in headers:
        match name.lower():
            case "traceparent":
                parents.append(value.strip(" \t"))
            case "x-amzn-trace-id":
                roots.append(value)
    if len(parents) == 1 and (
        match := _VERSION_00.fullmatch(parents[0]) or _LATER_VERSION.fullmatch(parents[0])
    ):
        return match["trace_id"]
    fields = roots[0].split(";") if len(roots) == 1 else []
    matches = filter(None, (_ROOT.fullmatch(field.strip(" \t")) for field in fields))
    return next((match["time"] + match["random"] for match in matches), "")
