"""Strict JSON (RFC 8259) for Flask: UTF-8, unique members, no NaN, limited nesting.

A byte order mark at the start is ignored (RFC 8259 8.1).
"""

from __future__ import annotations

import json
from typing import Any, Final

from flask.json.provider import DefaultJSONProvider


class StrictJson(DefaultJSONProvider):
    """Flask's JSON provider, which raises only ValueError, with the problem and its position."""

    @staticmethod
    def loads(s: str | bytes, **_options: object) -> Any:  # noqa: ANN401 - JSON
        """Parse JSON.

        Raises:
            ValueError: the text is not JSON. The message does not quote the text.
        """
        try:
            text = s if isinstance(s, str) else s.decode("utf-8")
            return _decode(text.removeprefix("\ufeff"))
        except UnicodeDecodeError as error:
            raise ValueError(f"octet {error.start + 1} is not UTF-8") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.msg}, at line {error.lineno}, column {error.colno}") from error
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a duplicate member")
    return members


def _reject_nan(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


_decode: Final = json.JSONDecoder(object_pairs_hook=_reject_duplicates, parse_constant=_reject_nan).decode
