"""Embed the form and the page about problems in the contract: `make form`.

Run it after a change of `deploy/form.html`, which contains the form, or of `x-problem-types`, from which this
module builds the page about problems. API Gateway serves both pages from `openapi.yaml`. The
Content-Security-Policy of each page allows its style and script by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html import escape
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "deploy" / "form.html"
CONTRACT: Final = ROOT / "openapi.yaml"
MAX_BYTES: Final = 40 * 1024

_PAGE_BLOCK: Final = re.compile(r"(?P<indent> +)text/html: \|-?\n(?:(?P=indent)  .*\n|\n)+")
_CSP_HEADER: Final = re.compile(r"(method\.response\.header\.Content-Security-Policy: ).*\n")

_PROBLEMS_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Certlet: problems and remedies</title>
<link rel="icon" href="data:,">
{style}
</head>
<body>
<main>
<h1>Problems and remedies</h1>
<p>Errors are RFC 9457 problem documents. <code>code</code> is one of those below,
<code>type</code> links to its section, and <code>instance</code> is the request ID in the logs.</p>
<nav aria-label="Problems">
<ul>
{links}
</ul>
</nav>
{sections}
</main>
</body>
</html>
"""
_SECTION: Final = """\
<section id="{code}" aria-labelledby="{code}-title">
<h2 id="{code}-title">{code} <small>{statuses}</small></h2>
<p>{meaning}</p>
<p><strong>What to do:</strong> {remedy}</p>
</section>"""


def problems_page(types: dict[str, Any], form: str) -> str:
    """Build the page about problems, with the style of the form.

    Args:
        types: `x-problem-types`.
        form: HTML of the form.
    """
    (style,) = re.findall("<style>.*?</style>", form, re.DOTALL)
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
    return _PROBLEMS_PAGE.format(style=style, links="\n".join(links), sections="\n".join(sections))


def csp(page: str) -> str:
    """Build the Content-Security-Policy of a page. It ends with `;`, since some drop a final quote."""
    is_scripted = "<script>" in page
    parts = [
        "default-src 'none'",
        *([f"script-src {_csp_hash(page, 'script')}"] if is_scripted else []),
        f"style-src {_csp_hash(page, 'style')}",
        *(["connect-src 'self'"] if is_scripted else []),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join(parts) + ";"


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
        lines = (f"{indent}  {line}".rstrip() for line in page.rstrip("\n").split("\n"))
        return f"{indent}text/html: |-\n" + "\n".join(lines) + "\n\n"

    before, marker, after = contract.partition(f"operationId: {operation}\n")
    after = _PAGE_BLOCK.sub(block, after, count=1)
    return before + marker + _CSP_HEADER.sub(lambda match: f"{match[1]}\"'{csp(page)}'\"\n", after, count=1)


def embed(contract: str, form: str) -> str:
    """Return the contract's text with both pages."""
    types = yaml.safe_load(contract)["x-problem-types"]
    return replace_page(replace_page(contract, "form", form), "problems", problems_page(types, form))


def _csp_hash(page: str, tag: str) -> str:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def main() -> int:
    """Write the contract, or with `--check` return 1 if its pages are out of date."""
    page, contract = SOURCE.read_text(encoding="utf-8"), CONTRACT.read_text(encoding="utf-8")
    expected = embed(contract, page)
    if "--check" in sys.argv[1:]:
        if expected != contract:
            sys.stderr.write("the pages in openapi.yaml are out of date: run `make form`\n")
        return int(expected != contract)
    CONTRACT.write_text(expected, encoding="utf-8")
    sys.stdout.write(f"the form has {len(page.encode())} bytes (limit: {MAX_BYTES})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
