from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from service.pki.errors import IssuanceError
from service.pki.name_templates import (
    expand_dns_template,
    expand_uri_template,
    parse_dns_template,
    parse_uri_template,
)

_PLACEHOLDER = re.compile(r"\{.*?\}")
KUBERNETES = {"kubernetes.io": {"namespace": "web", "serviceaccount": {"name": "api.v1"}}}
# Values near the limits of what placeholders accept, and templates, of which many are refused.
VALUES = ["".join(value) for length in (1, 2, 3) for value in itertools.product("a-._", repeat=length)]
PARTS = st.lists(st.sampled_from(["{/x}", "{/y}", "-", ".", "_", "/", "a", "b"]), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("template", "claims", "name"),
    [
        ("ci.example.com", {}, "ci.example.com"),
        ("{/environment}.ci.example.com", {"environment": "prod-eu"}, "prod-eu.ci.example.com"),
        (".{/environment}.ci.example.com", {"environment": "prod"}, ".prod.ci.example.com"),
        ("a-{/x}.{/y}.example.com", {"x": "1", "y": "b-c"}, "a-1.b-c.example.com"),
        ("{/x}-{/y}.example.com", {"x": "1", "y": "b"}, "1-b.example.com"),
        ("api.{/kubernetes.io/namespace}.svc.local", KUBERNETES, "api.web.svc.local"),
        ("{/x}.example.com", {"x": "a" * 63}, "a" * 63 + ".example.com"),
    ],
)
def test_dns_template_is_expanded(template: str, claims: dict[str, Any], name: str) -> None:
    """Values are inserted unchanged."""
    assert expand_dns_template(parse_dns_template(template), claims) == name


@pytest.mark.parametrize(
    ("template", "claims", "name"),
    [
        ("spiffe://example.com/ci", {}, "spiffe://example.com/ci"),
        (
            "spiffe://example.com/ns/{/kubernetes.io/namespace}/sa/{/kubernetes.io/serviceaccount/name}",
            KUBERNETES,
            "spiffe://example.com/ns/web/sa/api.v1",
        ),
        ("https://example.com/a-{/x}", {"x": "A_b.c"}, "https://example.com/a-A_b.c"),
    ],
)
def test_uri_template_is_expanded(template: str, claims: dict[str, Any], name: str) -> None:
    """Values are inserted unchanged, in capital letters too."""
    assert expand_uri_template(parse_uri_template(template), claims) == name


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{/x}", "has no fixed domain"),
        ("{/x}.com", "has no fixed domain"),
        ("a.{/x}", "has no fixed domain"),
        ("a{/x}.com", "has no fixed domain"),
        ("example.{/x}.com", "has no fixed domain"),
        ("{/x.example.com", "has unbalanced braces"),
        ("/x}.example.com", "has unbalanced braces"),
        ("{{/x}}.example.com", "has unbalanced braces"),
        ("{x}.example.com", "is not a JSON pointer"),
        ("{}.example.com", "is not a JSON pointer"),
        ("{/x~}.example.com", "is not a JSON pointer"),
        ("{/x}{/y}.example.com", "does not separate two placeholders of a label; put - between"),
        ("{/x}a{/y}.example.com", "does not separate two placeholders"),
        ("{/x}_{/y}.example.com", "does not separate two placeholders"),
        ("{/x}-{/y}{/z}.example.com", "does not separate two placeholders"),
        ("-{/x}.example.com", "is not a DNS name"),
        ("{/x}..example.com", "empty label"),
        ("*.{/x}.example.com", "wildcard"),
        ("{/x}.example.c\u00f6m", "is not ASCII"),
        ("{/x}\0.example.com", "is not ASCII"),
        ("\0.ci.example.com", "is not ASCII"),
        ("{/x}." + "a." * 121 + "example.com", "is longer"),
        ("{/x}.127.1", "looks like an IP address"),
    ],
)
def test_malformed_dns_template_is_refused(template: str, message: str) -> None:
    """A template ends with two labels of the operator, and values stay distinct."""
    with pytest.raises((ValueError, IssuanceError), match=message):
        parse_dns_template(template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{/x}", "may have placeholders only in a path"),
        ("{/x}://example.com/", "may have placeholders only in a path"),
        ("spiffe://{/x}", "may have placeholders only in a path"),
        ("spiffe://{/x}/a", "may have placeholders only in a path"),
        ("spiffe://{/x}.example.com/a", "may have placeholders only in a path"),
        ("https://example.com:{/x}/", "may have placeholders only in a path"),
        ("https://example.com?{/x}", "may have placeholders only in a path"),
        ("https://example.com/?a={/x}", "may have placeholders only in a path"),
        ("https://example.com/#{/x}", "may have placeholders only in a path"),
        ("https://example.com/{/x}?a", "may have placeholders only in a path"),
        ("urn:example:{/x}", "may have placeholders only in a path"),
        ("spiffe://example.com/{/x", "has unbalanced braces"),
        ("spiffe://example.com/{/x}}", "has unbalanced braces"),
        ("spiffe://example.com/{/x}{/y}", "of a segment; put . or _ or - between"),
        ("spiffe://example.com/{/x}a{/y}", "does not separate two placeholders"),
        ("spiffe://example.com/%{/x}", "is not an absolute URI"),
        ("spiffe://example.com/ {/x}", "is not an absolute URI"),
        ("https://user@example.com/{/x}", "remove the user name"),
    ],
)
def test_malformed_uri_template_is_refused(template: str, message: str) -> None:
    """Placeholders are only in the path."""
    with pytest.raises((ValueError, IssuanceError), match=re.escape(message)):
        parse_uri_template(template)


@pytest.mark.parametrize(
    "value",
    [
        *["", " ", "a.b", ".", "-a", "a-", "-", "A", "PROD", "a_b", "*", "a*", "a b", "a\n", "\n", "a\0", "a/b"],
        *["a" * 64, "\u0430", "\u0131", "\u212a", "a\u200d", "a\u3002b", "\uff41", "xn--80ak6aa92e", "ab--c"],
        *["{/x}", "%61", 74, True, 7.0, None, ["a"], {"a": "b"}],
    ],
)  # fmt: skip
def test_value_that_a_label_may_not_have_is_refused(value: object) -> None:
    """Nothing is folded, replaced or removed; the message names the claim, not its value."""
    with pytest.raises(ValueError, match=r"claims? /x ") as refusal:
        expand_dns_template("{/x}.ci.example.com", {"x": value})
    assert len(str(value)) < 3 or str(value) not in str(refusal.value).replace("/x", "")


@pytest.mark.parametrize(
    ("template", "claims"),
    [
        ("a-{/x}.example.com", {"x": "b-c"}),
        ("{/x}-{/y}.example.com", {"x": "a-b", "y": "c"}),
        ("{/x}-{/y}.example.com", {"x": "a", "y": "b-c"}),
        ("{/x}-{/y}.example.com", {"x": "a"}),
        ("x{/x}.example.com", {"x": "n--80ak6aa92e"}),
        ("{/x}-a.example.com", {"x": "a" * 62}),
        (".".join(["{/x}"] * 5) + ".example.com", {"x": "a" * 63}),
        ("{/x}.example.com", {}),
    ],
)
def test_values_that_do_not_fit_a_label_are_refused(template: str, claims: dict[str, Any]) -> None:
    """A separator of the label is in no value; the whole name is valid."""
    with pytest.raises(ValueError, match=r"claims? /x|claim /y"):
        expand_dns_template(parse_dns_template(template), claims)


@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "/", "a b", "%2e", "a%2Fb", "a?b", "a#b", "\u0430", "a\n", "a:b", "a" * 256, 7, True, None])  # fmt: skip
def test_value_that_a_segment_may_not_have_is_refused(value: object) -> None:
    """A value stays in its segment of the path."""
    with pytest.raises(ValueError, match="claim /x "):
        expand_uri_template("spiffe://example.com/ns/{/x}", {"x": value})


@pytest.mark.parametrize("separator", list("._-"))
def test_separator_of_a_segment_is_in_no_value(separator: str) -> None:
    """Other separators remain allowed."""
    template = parse_uri_template(f"spiffe://example.com/{{/x}}{separator}{{/y}}")
    with pytest.raises(ValueError, match="claim /y "):
        expand_uri_template(template, {"x": "a", "y": f"b{separator}c"})
    other = "_" if separator == "." else "."
    assert expand_uri_template(template, {"x": f"a{other}b", "y": "c"}).endswith(f"/a{other}b{separator}c")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
@given(PARTS)
def test_different_claims_never_give_the_same_dns_name(parts: str) -> None:
    """`a-b` and `c` are never `a` and `b-c`; no value adds a label."""
    names = _expand_all(f"{parts}.example.com", parse_dns_template, expand_dns_template)
    labels = _PLACEHOLDER.sub("", parts).count(".") + 3
    assert all(
        name.split(".")[-2:] == ["example", "com"] and len(name.split(".")) == labels for name in names
    )


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
@given(PARTS)
def test_different_claims_never_give_the_same_uri(parts: str) -> None:
    """`a.b` and `c` are never `a` and `b.c`; no value adds a segment or removes one."""
    names = _expand_all(f"spiffe://example.com/{parts}", parse_uri_template, expand_uri_template)
    slashes = _PLACEHOLDER.sub("", parts).count("/") + 3
    assert all(name.startswith("spiffe://example.com/") and name.count("/") == slashes for name in names)
    assert not any(
        {".", ".."} & {*name.split("/")} for name in names if not {".", ".."} & {*parts.split("/")}
    )


def _expand_all(template: str, parse: Callable[[str], str], expand: Callable[..., str]) -> list[str]:
    """Expand a template for all values; verify that no two give the same name."""
    try:
        parse(template)
    except (ValueError, IssuanceError):
        reject()
    used = [name for name in ("x", "y") if f"{{/{name}}}" in template]
    names = []
    for values in itertools.product(VALUES, repeat=len(used)):
        with contextlib.suppress(ValueError):
            names.append(expand(template, dict(zip(used, values, strict=True))))
    assert len(names) == len(set(names))
    return names
