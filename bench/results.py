"""The results of a run as JSON, from which tables and plot can be made again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from bench.figures import Comparison
from bench.lambda_zip import ZipFigures


@dataclass(frozen=True)
class Results:
    """All of a run.

    Attributes:
        comparison: of the servers.
        zip: the Lambda zip's.
    """

    comparison: Comparison
    zip: ZipFigures


def encode(results: Results) -> str:
    """The results in JSON."""
    return json.dumps(asdict(results), indent=1) + "\n"


def load(text: str) -> Results:
    """The results that `encode` wrote.

    Raises:
        ValueError, KeyError: it is another version's, or none.
    """
    found: Results = _made(Results, json.loads(text))
    return found


def _made(kind: Any, value: Any) -> Any:  # noqa: ANN401 - any type that figures have
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _made(hint, value[name]) for name, hint in hints.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        inner, *rest = get_args(kind)
        kinds = [inner] * len(value) if rest == [...] else [inner, *rest]
        return tuple(_made(each, item) for each, item in zip(kinds, value, strict=True))
    if get_origin(kind) is UnionType:  # of a type and None
        return None if value is None else _made(get_args(kind)[0], value)
    return value
