"""Build the web pages and embed them in the contract: `make pages`.

Run it after a change of `deploy/pages`, or of `x-problem-types`, which the page about problems lists. Each
page is HTML with lines such as `<!-- style -->`, for which this module inserts what the pages share.
API Gateway serves the pages from `openapi.yaml`. The Content-Security-Policy of each page allows its styles
and scripts by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parent.parent
SOURCES: Final = ROOT / "deploy" / "pages"
CONTRACT: Final = ROOT / "openapi.yaml"
MAX_BYTES: Final = 48 * 1024
PAGES: Final = {"home": "", "form": "sign", "problems": "problems"}
"""operationId of each page -> its link in the header."""

_PAGE_BLOCK: Final = re.compile(r"(?P<indent> +)text/html: \|-?\n(?:(?P=indent)  .*\n|\n)+")
_CSP_HEADER: Final = re.compile(r"(method\.response\.header\.Content-Security-Policy: ).*\n")

_SECTION: Final = """\
<section class="card" id="{code}" aria-labelledby="{code}-title">
<h2 id="{code}-title"><a href="#{code}">{code}</a> <small>{statuses}</small></h2>
<p>{meaning}</p>
<p><strong>What to do:</strong> {remedy}</p>
<a href="./sign">Back to the form</a>
</section>"""


def read_sources() -> dict[str, str]:
    """Return the text of each file in `deploy/pages` by its name."""
    return {path.name: path.read_text(encoding="utf-8") for path in SOURCES.iterdir()}


def build_page(operation: str, sources: Mapping[str, str], types: Mapping[str, Any]) -> str:
    """Build a page. No line ends with a space, and the page has no final newline.

    Args:
        operation: operationId of the page.
        sources: the text of each file in `deploy/pages`.
        types: `x-problem-types`.

    Raises:
        ValueError: the page or its header lacks a part, or the page is larger than `MAX_BYTES`.
    """
    link = f'href="./{PAGES[operation]}"'
    header = sources["header.html"].strip()
    if header.count(link) != 1:
        raise ValueError(f"header.html: not exactly one {link}")
    page = sources[f"{operation}.html"]
    parts = {
        "<!-- style -->": f"<style>\n{sources['style.css'].strip()}\n</style>",
        "<!-- header -->": header.replace(link, f'{link} aria-current="page"'),
        "<!-- header script -->": f"<script>\n{sources['header.js'].strip()}\n</script>",
    }
    if operation == "problems":
        parts |= _problem_parts(types)
    for marker, part in parts.items():
        if page.count(f"{marker}\n") != 1:
            raise ValueError(f"{operation}.html: not exactly one {marker}")
        page = page.replace(marker, part)
    page = "\n".join(line.rstrip() for line in page.rstrip().split("\n"))
    if len(page.encode()) > MAX_BYTES:
        raise ValueError(f"{operation}.html: {len(page.encode())} bytes (limit: {MAX_BYTES})")
    return page


def _problem_parts(types: Mapping[str, Any]) -> dict[str, str]:
    sections = [
        _SECTION.format(
            code=escape(code),
            statuses=" or ".join(map(str, problem["statuses"])),
            meaning=escape(problem["meaning"]),
            remedy=escape(problem["remedy"]),
        )
        for code, problem in types.items()
    ]
    links = [f'<li><a href="#{escape(code)}">{escape(code)}</a></li>' for code in types]
    return {"<!-- problem links -->": "\n".join(links), "<!-- problems -->": "\n".join(sections)}


def csp(page: str) -> str:
    """Build the Content-Security-Policy of a page. It ends with `;`, since some drop a final quote."""
    scripts, styles = _csp_hashes(page, "script"), _csp_hashes(page, "style")
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    )


def _csp_hashes(page: str, tag: str) -> str:
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{value}'" for value in hashes)


def replace_page(contract: str, operation: str, page: str) -> str:
    """Return the contract's text with the page and its policy in an operation.

    The page has no final newline: LocalStack removes it from templates, and AWS may do so.

    Args:
        contract: text of `openapi.yaml`.
        operation: operationId of the page.
        page: HTML.
    """

    def block(match: re.Match[str]) -> str:
        indent = match["indent"]
        lines = (f"{indent}  {line}".rstrip() for line in page.split("\n"))
        return f"{indent}text/html: |-\n" + "\n".join(lines) + "\n\n"

    before, marker, after = contract.partition(f"operationId: {operation}\n")
    after = _PAGE_BLOCK.sub(block, after, count=1)
    return before + marker + _CSP_HEADER.sub(lambda match: f"{match[1]}\"'{csp(page)}'\"\n", after, count=1)


def embed(contract: str, sources: Mapping[str, str]) -> str:
    """Return the contract's text with all pages, built from the sources."""
    types = yaml.load(contract, yaml.CSafeLoader)["x-problem-types"]
    for operation in PAGES:
        contract = replace_page(contract, operation, build_page(operation, sources, types))
    return contract


def main() -> int:
    """Write the contract, or with `--check` return 1 if its pages are out of date."""
    sources, contract = read_sources(), CONTRACT.read_text(encoding="utf-8")
    expected = embed(contract, sources)
    if "--check" in sys.argv[1:]:
        if expected != contract:
            sys.stderr.write("the pages in openapi.yaml are out of date: run `make pages`\n")
        return int(expected != contract)
    CONTRACT.write_text(expected, encoding="utf-8")
    types = yaml.load(contract, yaml.CSafeLoader)["x-problem-types"]
    for operation in PAGES:
        size = len(build_page(operation, sources, types).encode())
        sys.stdout.write(f"{operation}: {size} bytes (limit: {MAX_BYTES})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
