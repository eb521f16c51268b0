"""Documents, help, the contract and the code do not use words that a newcomer must translate."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy import reference
from service import openapi
from tests.servers import ROOT

Texts = Iterator[tuple[str, str]]

WORDS = re.compile(
    r"\b(alone|anew|anybody|beneath|beside|certification requests?|heeds?|judges?d?|midst|nobody|stands?(?!-)|tells?|told"
    r"|thereof|whoever|(?<!there )is no(?! (longer|more|later))|(?<!there )(is|are) none|(to be|is|are) had|be it|as it stands"
    r"|takes? it for|bring along|brought|of ours|of one's own|what is (no|none))\b",
    re.IGNORECASE,
)
# Exceptions: where the text is, and the word -> the reason.
ALLOWED: dict[tuple[str, str], str] = {}


def documents() -> Texts:
    """The documents, without code."""
    names = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")
    for path in (*(ROOT / name for name in names), *(ROOT / "docs").rglob("*.md")):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
        yield path.relative_to(ROOT).as_posix(), " ".join(text.split())


def helps() -> Texts:
    """The help of each command."""
    for name, context in reference.commands():
        yield f"{name} --help", " ".join(context.get_help().split())


def contract() -> Texts:
    """The texts of openapi.yaml for readers."""

    def walk(node: Any, path: str) -> Texts:
        if isinstance(node, dict):
            for key, value in node.items():
                is_text = key in {"description", "summary", "title", "detail", "meaning", "remedy"}
                if is_text and isinstance(value, str):
                    yield f"{path}/{key}", value
                yield from walk(value, f"{path}/{key}")
        elif isinstance(node, list):
            for index, value in enumerate(node):
                yield from walk(value, f"{path}/{index}")

    yield from walk(openapi.load(), "openapi.yaml")


def code() -> Texts:
    """Docstrings, comments and other texts of several words in service/ and deploy/."""
    for path in sorted((*(ROOT / "service").rglob("*.py"), *(ROOT / "deploy").rglob("*.py"))):
        source, name = path.read_text(), path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield f"{name}:{node.lineno}", " ".join(node.value.split())
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield f"{name}:{token.start[0]}", token.string


@pytest.mark.parametrize("texts", [documents, helps, contract, code])
def test_texts_use_plain_words(texts: Callable[[], Texts]) -> None:
    """No text contains one of the words without an exception, and each exception still occurs."""
    matches = [
        (location, match[0].lower(), text) for location, text in texts() for match in WORDS.finditer(text)
    ]
    assert [entry for entry in matches if entry[:2] not in ALLOWED] == []
    locations = {location for location, _ in texts()}
    assert {entry for entry in ALLOWED if entry[0] in locations} <= {entry[:2] for entry in matches}
