"""Parse strict JSON (RFC 8259): UTF-8, unique members, no NaN, limited nesting.

A byte order mark at the start is ignored (RFC 8259 8.1).
"""

from __future__ import annotations

import json
from typing import Any, Final

_MAX_DEPTH: Final = 20  # of arrays and objects
_TOO_DEEP: Final = f"nested too deeply: at most {_MAX_DEPTH} levels are accepted"
_MAX_DIGITS: Final = 100  # of an integer; Python itself refuses more than 4,300


def parse_json(data: str | bytes) -> Any:  # noqa: ANN401 - JSON
    """Parse JSON.

    Raises:
        ValueError: it is not JSON. The message says what is wrong and where, and does not quote the text.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = _decode(text.removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise ValueError(f"octet {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _verify_depth(value)
    return value


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a duplicate member")
    return members


def _reject_nan(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _verify_depth(value: Any) -> None:  # noqa: ANN401 - JSON
    """Limit the depth, so that no function that visits the value recursively fails."""
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    raise ValueError(_TOO_DEEP)


def _parse_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits; at most {_MAX_DIGITS} are accepted")
    return int(digits)


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_reject_duplicates, parse_constant=_reject_nan, parse_int=_parse_integer
).decode
