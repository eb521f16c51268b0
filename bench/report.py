"""Format the figures as Markdown tables, for the terminal and for bench/figures.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench import imports
from bench.acme import AcmeFigures
from bench.base import AgainstBase
from bench.imports import Imports
from bench.lambda_zip import ZipFigures
from bench.latency import Latency
from bench.results import Comparison, Cost, Served, Share, Spread
from bench.workers import Scaling

_COLUMNS: Final = ("CA", "connections", "endpoint")
PACKAGES: Final = 10  # whose imports are listed


@dataclass
class Figures:
    """The figures of a run; those of a section that was left out, or failed, are None.

    Attributes:
        conditions: the machine, the programs and the settings.
        comparison: Certlet and cfssl.
        base: Certlet and an earlier commit.
        latency: single requests next to others, and without others.
        workers: one worker and two.
        acme: Certlet and pebble.
        lambda_zip: the zip.
    """

    conditions: Mapping[str, str]
    comparison: Comparison | None = None
    base: Sequence[AgainstBase] | None = None
    latency: Sequence[Latency] | None = None
    workers: Sequence[Scaling] | None = None
    acme: Sequence[AcmeFigures] | None = None
    lambda_zip: ZipFigures | None = None


def report(figures: Figures) -> str:
    """Return all tables."""
    parts = ["# Figures", "; ".join(f"{name}: {value}" for name, value in figures.conditions.items()) + "."]
    if figures.comparison:
        parts += _comparison(figures.comparison)
    if figures.base:
        parts += _base(figures.base)
    if figures.latency:
        parts += _latency(figures.latency)
    if figures.workers:
        parts += _workers(figures.workers)
    if figures.acme:
        parts += _acme(figures.acme)
    if figures.lambda_zip:
        parts += _zip(figures.lambda_zip)
    return "\n\n".join(parts) + "\n"


def _comparison(comparison: Comparison) -> Iterator[str]:
    if comparison.repeated:
        yield f"{comparison.repeated} measurements were repeated because a request failed."
    yield "## Against cfssl"
    yield _table(
        [*_COLUMNS, "certificates/s", "x cfssl", "target", "x by CPU time"],
        map(_rates, comparison.served),
    )
    yield "Milliseconds are per request; for a batch, also per certificate:"
    yield _table([*_COLUMNS, "p50 ms", "p99 ms", "CPU µs", "RSS MB"], map(_resources, comparison.served))
    yield "Responses to bad requests:"
    yield _table(
        ["request", "cfssl", "Certlet"],
        ([item.request, item.cfssl, item.certlet] for item in comparison.differences),
    )
    yield "## Baselines"
    yield _table(
        ["µs per certificate", *(f"{share.ca} CA" for share in comparison.shares)],
        [*_costs(comparison.costs), *_shares(comparison.shares)],
    )


def _rates(row: Served) -> list[str]:
    return [
        row.ca,
        str(row.connections),
        row.name,
        format_spread(row.rate, 0),
        format_spread(row.ratio) if row.ratio else "1",
        str(row.target or ""),
        format_spread(row.cpu_ratio) if row.cpu_ratio else "1",
    ]


def _resources(row: Served) -> list[str]:
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
        yield [name, *(format_spread(cost.microseconds, 1) for cost in costs if cost.name == name)]


def _shares(shares: Sequence[Share]) -> Iterator[list[str]]:
    yield [
        "batch over HTTP, x `authority.issue`",
        *(f"{format_spread(share.ratio)}, {share.target}" for share in shares),
    ]


def _base(rows: Sequence[AgainstBase]) -> Iterator[str]:
    yield "## Against the base"
    yield _table(
        ["endpoint", "certificates/s", "base", "x base", "target", "x by CPU time"],
        (
            [
                row.name,
                *(format_spread(rate, 0) for rate in row.rates),
                format_spread(row.ratio),
                str(row.target),
                format_spread(row.cpu_ratio),
            ]
            for row in rows
        ),
    )


def _latency(rows: Sequence[Latency]) -> Iterator[str]:
    yield "## Latency of POST /sign"
    header = ["CA", "at the same time", "requests/s", "p50 ms", "p99 ms", "target", "p99 / p50", "target"]
    yield _table(header, map(_latencies, rows))


def _latencies(row: Latency) -> list[str]:
    return [
        row.ca,
        row.in_flight or "nothing; at half of the saturating rate",
        format_spread(row.rate, 0),
        format_spread(row.p50, 1),
        format_spread(row.p99, 1),
        str(row.p99_target or ""),
        format_spread(row.ratio),
        str(row.ratio_target or ""),
    ]


def _workers(rows: Sequence[Scaling]) -> Iterator[str]:
    yield "## Two workers"
    header = ["batches through", "one worker, certificates/s", "two workers", "two / one", "target"]
    yield _table(
        header,
        (
            [
                row.name,
                *(format_spread(rate, 0) for rate in row.rates),
                format_spread(row.ratio),
                str(row.target or ""),
            ]
            for row in rows
        ),
    )


def _acme(figures: Sequence[AcmeFigures]) -> Iterator[str]:
    yield "## ACME against pebble"
    header = ["CA", "server", "requests", "ms waited", "CPU µs", "x pebble's", "target"]
    yield _table(header, [row for item in figures for row in _issuances(item)])


def _issuances(figures: AcmeFigures) -> Iterator[list[str]]:
    columns = zip(figures.requests, figures.waited, figures.cpu, strict=True)
    certlet, pebble = ([f"{number:g}", f"{ms:.1f}", format_spread(cpu, 0)] for number, ms, cpu in columns)
    yield ["rsa-2048", "pebble", *pebble, "1", ""]
    yield [figures.ca, "Certlet", *certlet, format_spread(figures.ratio), str(figures.target)]


def _zip(figures: ZipFigures) -> Iterator[str]:
    yield "## The Lambda zip"
    rows = [
        ["size, MB", f"{figures.megabytes:.1f}", str(figures.megabytes_target)],
        [
            "warm handler, without text, x `authority.issue`",
            format_spread(figures.warm),
            str(figures.warm_target),
        ],
    ]
    for cold in figures.cold_starts:
        name = f"python{cold.python}: cold start, to the first signed certificate"
        rows.append([f"{name}, ms", format_spread(cold.milliseconds, 0), ""])
        rows.append([f"{name}, x a minimal handler", format_spread(cold.ratio), str(cold.target)])
        if cold.base_ratio:
            rows.append([f"{name}, x base", format_spread(cold.base_ratio), str(cold.base_target)])
        memory = f"{cold.resident:.0f}", str(cold.resident_target)
        rows.append([f"python{cold.python}: memory at the first response, MB", *memory])
    yield _table(["figure", "measured", "target"], rows)
    for version in figures.missing:
        yield f"python{version} is not on this machine."
    yield f"Imports of the handler, ms of each package's own modules; the {PACKAGES} that take longest:"
    yield _table(
        ["package", *(f"python{item.python}" for item in figures.imports)], _imports(figures.imports)
    )


def _imports(versions: Sequence[Imports]) -> Iterator[list[str]]:
    for name in imports.longest(versions, PACKAGES):
        yield [
            name,
            *(format_spread(item.packages[name], 1) if name in item.packages else "" for item in versions),
        ]
    yield ["all", *(format_spread(item.total, 1) for item in versions)]


def format_spread(spread: Spread, digits: int = 2) -> str:
    """Format the median, and the lowest and the highest value in brackets."""
    least, most = f"{spread.least:.{digits}f}", f"{spread.most:.{digits}f}"
    return f"{spread.median:.{digits}f} ({least} to {most})"


def _milliseconds(value: float, batch: int) -> str:
    return f"{value:.2f}" if batch == 1 else f"{value:.1f} ({value / batch:.2f} each)"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
