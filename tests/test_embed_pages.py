from __future__ import annotations

import re

import pytest

from deploy import embed_pages
from tests import factories

CONTRACT = embed_pages.CONTRACT.read_text()
SOURCES = embed_pages.read_sources()
TYPES = factories.document()["x-problem-types"]


def test_contract_contains_the_pages() -> None:
    """openapi.yaml contains the current pages; a change of a source, or of the problem types, changes it."""
    assert embed_pages.embed(CONTRACT, SOURCES) == CONTRACT
    for name, source in SOURCES.items():
        changed = source.replace("Certlet", "X") if name.endswith(".html") else f"{source}/* */"
        assert embed_pages.embed(CONTRACT, {**SOURCES, name: changed}) != CONTRACT, name
    changed = embed_pages.embed(CONTRACT.replace("    remedy: ", "    remedy: Again, "), SOURCES)
    assert changed.count("Again, ") == 2 * CONTRACT.count("    remedy: ") > 0


@pytest.mark.parametrize("operation", embed_pages.PAGES)
def test_page_has_the_shared_parts(operation: str) -> None:
    """Each page has the style, the script of the header, and the header with a mark at its own link."""
    page = embed_pages.build_page(operation, SOURCES, TYPES)
    for name in ("style.css", "header.js"):
        assert page.count(SOURCES[name].strip()) == 1
    assert re.findall('href="./([^"]*)" aria-current="page"', page) == [embed_pages.PAGES[operation]]
    # The script subtracts this path from that of the page, to get the stage or base path.
    (path,) = re.findall('<html lang="en" data-path="([^"]*)">', page)
    assert path.removeprefix("/") == embed_pages.PAGES[operation]
    assert not re.search(r"<!--|[ \t]+$|\n\Z", page, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("form.html", "<!-- style -->", "", "form.html: not exactly one <!-- style -->"),
        ("form.html", "<main>", "<!-- header -->\n<main>", "form.html: not exactly one <!-- header -->"),
        ("header.html", 'href="./sign"', "", 'header.html: not exactly one href="./sign"'),
        ("style.css", ":root", "x" * embed_pages.MAX_BYTES, r"form.html: \d+ bytes \(limit: 49152\)"),
    ],
)
def test_incomplete_or_large_page_is_an_error(name: str, old: str, new: str, message: str) -> None:
    """A page without a shared part, or with one twice, or over the limit is an error."""
    sources = {**SOURCES, name: SOURCES[name].replace(old, new, 1)}
    with pytest.raises(ValueError, match=message):
        embed_pages.build_page("form", sources, TYPES)


def test_policy_allows_each_script_and_style_by_its_hash() -> None:
    """The policy has a hash of each script and style, in their order."""
    policy = embed_pages.csp("<style>a</style><script>b</script><script>c</script>")
    hashes = re.findall("'sha256-([^']*)'", policy)
    assert [value[:6] for value in hashes] == ["PiPoFg", "Ln0sA6", "ypeBEs"]
    assert re.search(r"script-src 'sha256-PiPoFg\S* 'sha256-Ln0sA6\S*; style-src 'sha256-ypeBEs\S*;", policy)
