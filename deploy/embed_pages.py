"""Puts two pages into the contract: `make form` after a change of `deploy/form.html` or of the problem types.

The form is edited as HTML, and the page about problems is made of `x-problem-types`. Both stand in
`openapi.yaml`, where API Gateway serves them from. The Content-Security-Policy of each allows its one style,
and the form's one script, by their hashes.
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

_BLOCK: Final = re.compile(r"(?P<indent> +)text/html: \|-?\n(?P<page>(?:(?P=indent)  .*\n|\n)+)")
_POLICY: Final = re.compile(r"(method\.response\.header\.Content-Security-Policy: ).*\n")

_PROBLEMS: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Certlet: what each problem means</title>
<link rel="icon" href="data:,">
{style}
</head>
<body>
<main>
<h1>What each problem means</h1>
<p>Whatever is not done is answered with a problem document (RFC 9457). Its code is one of these, its type
leads here, and its instance is the request, as logs name it.</p>
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
    """The page about problems, in the form's own style.

    Args:
        types: `x-problem-types`.
        form: the form's page.
    """
    (style,) = re.findall("<style>.*?</style>", form, re.DOTALL)
    sections = [
        _SECTION.format(
            code=escape(code),
            statuses=" or ".join(map(str, each["statuses"])),
            meaning=escape(each["meaning"]),
            remedy=escape(each["remedy"]),
        )
        for code, each in types.items()
    ]
    links = [f'<li><a href="#{escape(code)}">{escape(code)}</a></li>' for code in types]
    return _PROBLEMS.format(style=style, links="\n".join(links), sections="\n".join(sections))


def csp(page: str) -> str:
    """The Content-Security-Policy of a page; it ends with `;`, for some would eat a final quote."""
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
    """The contract's text with this page, and its policy, in this operation.

    Without the last newline, which LocalStack takes off a template, and AWS may.
    """

    def block(match: re.Match[str]) -> str:
        indent = match["indent"]
        lines = (f"{indent}  {line}".rstrip() for line in page.rstrip("\n").split("\n"))
        return f"{indent}text/html: |-\n" + "\n".join(lines) + "\n\n"

    before, name, after = contract.partition(f"operationId: {operation}\n")
    found = _BLOCK.sub(block, after, count=1)
    return before + name + _POLICY.sub(lambda match: f"{match[1]}\"'{csp(page)}'\"\n", found, count=1)


def embed(contract: str, form: str) -> str:
    """The contract's text with both pages in it."""
    types = yaml.safe_load(contract)["x-problem-types"]
    return replace_page(replace_page(contract, "form", form), "problems", problems_page(types, form))


def _csp_hash(page: str, tag: str) -> str:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def main() -> int:
    """Write the contract, or with `--check` say whether it holds the pages."""
    page, contract = SOURCE.read_text(encoding="utf-8"), CONTRACT.read_text(encoding="utf-8")
    wanted = embed(contract, page)
    if "--check" in sys.argv[1:]:
        if wanted != contract:
            sys.stderr.write("openapi.yaml does not hold both pages as they are now: run `make form`\n")
        return int(wanted != contract)
    CONTRACT.write_text(wanted, encoding="utf-8")
    sys.stdout.write(f"{len(page.encode())} bytes of form, {MAX_BYTES} allowed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
