"""Puts the web form into the contract: `make form` after a change of `deploy/form.html`.

The page is edited as HTML, and stands in `openapi.yaml`, where API Gateway serves it from. Its
Content-Security-Policy allows the one script and the one style of the page by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "deploy" / "form.html"
CONTRACT: Final = ROOT / "openapi.yaml"
MAX_BYTES: Final = 40 * 1024

_BLOCK: Final = re.compile(r"(?P<indent> +)text/html: \|-?\n(?P<page>(?:(?P=indent)  .*\n|\n)+)")
_POLICY: Final = re.compile(r"(method\.response\.header\.Content-Security-Policy: ).*\n")


def policy(page: str) -> str:
    """The Content-Security-Policy of a page; it ends with `;`, for some would eat a final quote."""
    parts = [
        "default-src 'none'",
        f"script-src {_hash(page, 'script')}",
        f"style-src {_hash(page, 'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join(parts) + ";"


def insert(contract: str, page: str) -> str:
    """The contract's text with this page, and its policy, in it.

    Without the last newline, which LocalStack takes off a template, and AWS may.
    """

    def block(match: re.Match[str]) -> str:
        indent = match["indent"]
        lines = (f"{indent}  {line}".rstrip() for line in page.rstrip("\n").split("\n"))
        return f"{indent}text/html: |-\n" + "\n".join(lines) + "\n\n"

    found = _BLOCK.sub(block, contract, count=1)
    return _POLICY.sub(lambda match: f"{match[1]}\"'{policy(page)}'\"\n", found, count=1)


def _hash(page: str, tag: str) -> str:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def main() -> int:
    """Write the contract, or with `--check` say whether it holds the page."""
    page, contract = SOURCE.read_text(encoding="utf-8"), CONTRACT.read_text(encoding="utf-8")
    wanted = insert(contract, page)
    if "--check" in sys.argv[1:]:
        if wanted != contract:
            sys.stderr.write("openapi.yaml does not hold deploy/form.html: run `make form`\n")
        return int(wanted != contract)
    CONTRACT.write_text(wanted, encoding="utf-8")
    sys.stdout.write(f"{len(page.encode())} bytes of page, {MAX_BYTES} allowed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
