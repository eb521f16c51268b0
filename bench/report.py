"""The figures as Markdown tables, for the terminal and for bench/figures.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from bench.figures import Comparison, Cost, Served, Share, Spread
from bench.lambda_zip import ZipFigures

_WHAT: Final = ("CA", "connections", "asked")


def report(comparison: Comparison, lambda_zip: ZipFigures) -> str:
    """All tables, in the order in which they are read."""
    return "\n\n".join(["# Figures", *_comparison(comparison), *_zip(lambda_zip)]) + "\n"


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield "; ".join(f"{name}: {value}" for name, value in comparison.conditions.items()) + "."
    if comparison.dropped:
        yield f"{comparison.dropped} measurements were repeated, because some answers were no success."
    yield "## Against cfssl"
    yield _table(
        [*_WHAT, "certificates/s", "x cfssl", "target", "x by CPU time"],
        map(_rates, comparison.served),
    )
    yield "Milliseconds are a request's, and of a batch each certificate's share too:"
    yield _table([*_WHAT, "p50 ms", "p99 ms", "CPU µs", "RSS MB"], map(_costly, comparison.served))
    yield "What the two make of what nobody should get:"
    yield _table(
        ["request", "cfssl", "Certlet"],
        ([each.asked, each.theirs, each.ours] for each in comparison.differences),
    )
    yield "## Floors"
    yield _table(
        ["µs for a certificate", *(f"{share.ca} CA" for share in comparison.shares)],
        [*_costs(comparison.costs), *_shares(comparison.shares)],
    )


def _rates(row: Served) -> list[str]:
    return [
        row.ca,
        str(row.connections),
        row.name,
        _spread(row.rate, 0),
        _spread(row.ratio) if row.ratio else "1",
        str(row.target or ""),
        _spread(row.cpu_ratio) if row.cpu_ratio else "1",
    ]


def _costly(row: Served) -> list[str]:
    return [
        row.ca,
        str(row.connections),
        row.name,
        _milliseconds(row.p50, row.batch),
        _milliseconds(row.p99, row.batch),
        f"{row.cpu:.0f}",
        f"{row.resident:.0f}",
    ]


def _costs(costs: Sequence[Cost]) -> Iterator[list[str]]:
    for name in dict.fromkeys(cost.name for cost in costs):
        yield [name, *(_spread(cost.microseconds, 1) for cost in costs if cost.name == name)]


def _shares(shares: Sequence[Share]) -> Iterator[list[str]]:
    yield [
        "batch over HTTP, x `authority.issue`",
        *(f"{_spread(each.ratio)}, {each.target}" for each in shares),
    ]


def _zip(found: ZipFigures) -> Iterator[str]:
    yield "## The Lambda zip"
    values = (
        ("size, MB", f"{found.megabytes:.1f}"),
        ("cold start, to the first signed certificate, x cryptography alone", _spread(found.cold)),
        ("warm handler, without text, x `authority.issue`", _spread(found.warm)),
        ("memory at the first answer, MB", f"{found.resident:.0f}"),
    )
    rows = ([*value, str(target)] for value, target in zip(values, found.targets, strict=True))
    yield _table(["figure", "measured", "target"], rows)


def _spread(spread: Spread, digits: int = 2) -> str:
    least, most = f"{spread.least:.{digits}f}", f"{spread.most:.{digits}f}"
    return f"{spread.median:.{digits}f} ({least} to {most})"


def _milliseconds(value: float, batch: int) -> str:
    return f"{value:.2f}" if batch == 1 else f"{value:.1f} ({value / batch:.2f} each)"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
