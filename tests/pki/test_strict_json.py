from __future__ import annotations

from typing import Any

import pytest

from service.pki.strict_json import parse_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": [1, 2.5, true, null, "\\u00e9"]}', {"a": [1, 2.5, True, None, "é"]}),
        ("[" * 20 + "]" * 20, None),
        ("9" * 100, int("9" * 100)),
    ],
)
def test_json_is_parsed(text: str | bytes, value: Any) -> None:
    """RFC 8259, with or without a byte order mark, up to the limits."""
    parsed = parse_json(text)
    assert value is None or parsed == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 1}', "duplicate member"),
        ('{"a": {"b": 1, "\\u0062": 2}}', "duplicate member"),
        ("NaN", "NaN is not allowed"),
        ("-Infinity", "Infinity is not allowed"),
        ("[" * 21 + "]" * 21, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 101, "101 digits"),
        (b'"\xff"', "octet 2 is not UTF-8"),
        ("{} {}", "line 1, column 4"),
        ("", "line 1, column 1"),
    ],
)
def test_json_that_parsers_read_differently_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
