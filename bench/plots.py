"""Draw figures as bars with whiskers, in SVG that is readable in light and dark, for docs/explanation/performance.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Final

from bench import imports
from bench.report import PACKAGES, Figures, format_spread
from bench.results import CONNECTIONS, Spread

_STYLE: Final = """text { fill: #1b2733; font: 14px system-ui, sans-serif } path { stroke: #1b2733; fill: none } .bar { fill: #5b87b2 }
.page { fill: #ffffff } .reference { stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
text { fill: #e3ebf2 } path { stroke: #e3ebf2 } .bar { fill: #4a739d } .page { fill: #16202a } }"""
_LABELS, _BARS, _VALUES, _ROW = 300, 300, 190, 24  # widths, and a row's height, in pixels


def write(figures: Figures, directory: Path) -> None:
    """Write a plot for each section that has one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, svg in _plots(figures):
        (directory / f"{name}.svg").write_text(svg)


def _plots(figures: Figures) -> Iterator[tuple[str, str]]:
    if figures.comparison:
        served = [row for row in figures.comparison.served if row.connections == CONNECTIONS]
        ratios = {f"{row.name}, {row.ca} CA": row.ratio for row in served if row.ratio}
        yield (
            "rates",
            draw("Certificates per second, relative to cfssl (dashed line)", ratios, 2, reference=1),
        )
    if figures.latency:
        percentiles = {
            f"{name}, {row.ca} CA, {'next to others' if row.in_flight else 'half load'}": spread
            for row in figures.latency
            for name, spread in (("p50", row.p50), ("p99", row.p99))
        }
        yield "latency", draw("Latency of POST /sign with two workers, ms", percentiles, 1)
    if figures.lambda_zip:
        versions = figures.lambda_zip.imports
        times = {
            f"{package}, python{item.python}": item.packages[package]
            for package in imports.longest(versions, PACKAGES)
            for item in versions
            if package in item.packages
        }
        yield "imports", draw("Imports of the Lambda handler, ms", times, 1)


def draw(title: str, rows: Mapping[str, Spread], digits: int, reference: float | None = None) -> str:
    """Return an SVG document with a bar for each median, and a whisker from the lowest to the highest value.

    Args:
        title: the title.
        rows: label -> value.
        digits: after the decimal point.
        reference: the value of a vertical line, if there is one.
    """
    scale = _BARS / max([row.most for row in rows.values()] + [reference or 0])
    values = {label: format_spread(row, digits) for label, row in rows.items()}
    width, height = _LABELS + _BARS + _VALUES, (len(rows) + 2) * _ROW
    description = "; ".join(f"{label}: {value}" for label, value in values.items())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc><style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text x="12" y="{_ROW}" style="font-weight: 600">{escape(title)}</text>',
    ]
    for number, (label, row) in enumerate(rows.items()):
        y = (number + 1.5) * _ROW + 4
        median, least, most = (_LABELS + value * scale for value in (row.median, row.least, row.most))
        lines += [
            f'<text x="{_LABELS - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="bar" x="{_LABELS}" y="{y}" width="{median - _LABELS:.1f}" height="{_ROW - 8}"/>',
            f'<path d="M{least:.1f} {y + 8}H{most:.1f}M{least:.1f} {y + 4}v8M{most:.1f} {y + 4}v8"/>',
            f'<text x="{_LABELS + _BARS + 10}" y="{y + 13}">{values[label]}</text>',
        ]
    if reference is not None:
        x = _LABELS + reference * scale
        lines.append(f'<path class="reference" d="M{x:.1f} {_ROW * 1.5}V{height - _ROW / 4}"/>')
    return "\n".join([*lines, "</svg>\n"])
