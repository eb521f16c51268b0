"""The context in which an authorizer sends the identity of a token."""

from __future__ import annotations

from typing import Any

import pytest

from service.pki.name_policy import DnsPolicy, NamePolicy, UriPolicy
from service.pki.token_identity import CONTEXT_MEMBERS, TokenIdentity
from tests.token_events import TOKEN, context


@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        TOKEN._replace(is_once=True, subject="", token_id=""),
        TOKEN._replace(subject='a"\\\u00e9\U0001f600', names=NamePolicy()),
        TOKEN._replace(names=NamePolicy(dns=DnsPolicy(), uri=UriPolicy(permitted=("spiffe://a/b",)))),
        TOKEN._replace(names=NamePolicy(dns=DnsPolicy((".a.example",), ("b.a.example",), wildcards=True))),
    ],
)
def test_identity_survives_the_context_of_an_authorizer(token: TokenIdentity) -> None:
    """The values are strings, as API Gateway makes all of them; other members are ignored."""
    assert token.to_context().keys() == CONTEXT_MEMBERS
    assert {type(value) for value in token.to_context().values()} == {str}
    assert TokenIdentity.from_context(context(token)) == token


MALFORMED: list[dict[str, Any]] = [
    *({name: None} for name in sorted(CONTEXT_MEMBERS)),
    *({name: ["x"]} for name in sorted(CONTEXT_MEMBERS)),
    {"rule": ""},
    {"expiresAt": 1_800_000_000},
    {"expiresAt": True},
    *(
        {"expiresAt": value}
        for value in (
            "",
            " 1800000000",
            "1_800_000_000",
            "1e9",
            "-1",
            "1.5",
            "\u0661",
            "9" * 12,
            "9" * 13,
            "9" * 5000,
            "NaN",
        )
    ),
    {"isOnce": True},
    {"isOnce": 0},
    *({"isOnce": value} for value in ("", "False", "TRUE", "0", "false ")),
    {"names": {}},
    *({"names": value} for value in ("", "null", "[]", '"dns"', "{", "[" * 100_000, '{"dns":[]}')),
    *({"names": value} for value in ('{"dns":{"permitted":[]}}', '{"dns":{},"dns":{}}', '{"other":{}}')),
    {"names": '{"dns":{"permitted":["a..b"]}}'},
]


@pytest.mark.parametrize("change", MALFORMED, ids=lambda change: repr(change)[:60])
def test_malformed_context_is_refused(change: dict[str, Any]) -> None:
    """A value of another type, also a number or a boolean, is not from our authorizer."""
    with pytest.raises(ValueError):  # noqa: PT011 - any
        TokenIdentity.from_context(context(**change))


@pytest.mark.parametrize("name", sorted(CONTEXT_MEMBERS))
def test_incomplete_context_is_refused(name: str) -> None:
    members = context()
    del members[name]
    with pytest.raises(ValueError, match="a member is missing"):
        TokenIdentity.from_context(members)
