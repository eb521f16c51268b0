from __future__ import annotations

import pytest

from service.pki.json_pointer import parse_pointer, resolve_pointer

CLAIMS = {
    "kubernetes.io": {"namespace": "web", "a/b": {"~": 1, "~1": 2}},
    "list": ["x"],
    "text": "y",
    "none": None,
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/kubernetes.io/namespace", "web"),
        ("/kubernetes.io/a~1b/~0", 1),
        ("/kubernetes.io/a~1b/~01", 2),
        ("/kubernetes.io/pod", None),
        ("/list/0", None),
        ("/text/0", None),
        ("/none", None),
        ("/Text", None),
    ],
)
def test_pointer_refers_to_a_member(pointer: str, value: object) -> None:
    """A pointer refers to a nested member, exactly; items of lists have no pointers."""
    assert resolve_pointer(parse_pointer(pointer), CLAIMS) == value


@pytest.mark.parametrize("pointer", ["", "/", "sub", "/a//b", "/a/", "/a~", "/a~2", "/{a}", '/"', "/'", "/\\", "/é", "/a\n", "/\0"])  # fmt: skip
def test_malformed_pointer_is_refused(pointer: str) -> None:
    """Quotes, braces and control characters are refused, since responses contain pointers."""
    with pytest.raises(ValueError, match="is not a JSON pointer"):
        parse_pointer(pointer)
