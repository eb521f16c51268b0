"""The plot for the README: bars in plain SVG, for light pages and for dark ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Final

from bench.figures import CONNECTIONS, THEIRS, Comparison, Served, Spread, Target

_WIDTH: Final = 760
_LABELS: Final = 190  # for the names at the left
_RIGHT: Final = 150  # for the figures at the right
_ROW: Final = 26
_TOP: Final = 64
_HEAD: Final = 34  # above the bars of a CA
_BOTTOM: Final = 46
_TITLES: Final = {"p-256": "P-256 CA", "rsa-2048": "RSA-2048 CA"}

# Its own ground, so that text and ground agree whatever page it stands on.
_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.head { font-weight: 600 }
.small { font-size: 12px; fill: #59636e }
.ground { fill: #ffffff }
.ours { fill: #0969da }
.theirs { fill: #8c959f }
.grid { stroke: #d1d9e0 }
.spread { stroke: #1f2328; stroke-width: 1.5 }
.target { stroke: #bc4c00; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  .ground { fill: #0d1117 }
  .ours { fill: #4493f8 }
  .theirs { fill: #656c76 }
  .grid { stroke: #3d444d }
  .spread { stroke: #f0f6fc }
  .target { stroke: #f0883e }
}
"""


def svg(comparison: Comparison) -> str:
    """Certificates a second against cfssl's, at the most connections, with spread and target.

    Returns:
        a whole SVG document.
    """
    shown = [each for each in comparison.served if each.connections == CONNECTIONS[-1]]
    kinds = list(dict.fromkeys(each.ca for each in shown))
    height = _TOP + len(kinds) * _HEAD + len(shown) * _ROW + _BOTTOM
    reached = [each.ratio.most for each in shown if each.ratio]
    reached += [each.target.bound for each in shown if each.target]
    most = math.ceil(max([1.0, *reached]) * 2) / 2
    title = f"Certificates a second against cfssl's, one core, {CONNECTIONS[-1]} connections"
    note = f"Bars: medians of {comparison.conditions['measured']}; lines: the least and the most; ticks: targets."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="6"/>',
        _text(16, 28, title, "title"),
        _text(16, 48, note, "small"),
        *_grid(most, height),
    ]
    top = _TOP
    for kind in kinds:
        parts.append(_text(16, top + 24, _TITLES.get(kind, kind), "head"))
        top += _HEAD
        for each in (row for row in shown if row.ca == kind):
            parts += _bar(each, most, top)
            top += _ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(value: float, most: float) -> float:
    return round(_LABELS + value / most * (_WIDTH - _LABELS - _RIGHT), 1)


def _grid(most: float, height: int) -> Iterator[str]:
    step = next(each for each in (0.5, 1, 2, 5, 10) if most / each <= 8)  # noqa: PLR2004 - lines that are read
    bottom = height - _BOTTOM + 6
    for number in range(int(most / step) + 1):
        x = _x(number * step, most)
        yield f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>'
        yield _text(x, bottom + 16, f"{number * step:g} x", "small", "middle")


def _bar(row: Served, most: float, top: int) -> Iterator[str]:
    ratio = row.ratio or Spread(1, 1, 1)
    css, middle = "theirs" if row.name == THEIRS else "ours", top + _ROW / 2
    yield _text(_LABELS - 8, middle + 4, row.name, "", "end")
    width = _x(ratio.median, most) - _LABELS
    yield f'<rect class="{css}" x="{_LABELS}" y="{top + 4}" width="{width:.1f}" height="{_ROW - 8}"/>'
    if row.ratio:
        ends = f'x1="{_x(ratio.least, most)}" x2="{_x(ratio.most, most)}"'
        yield f'<line class="spread" {ends} y1="{middle}" y2="{middle}"/>'
    if row.target:
        x = _x(row.target.bound, most)
        yield f'<line class="target" x1="{x}" x2="{x}" y1="{top + 1}" y2="{top + _ROW - 1}"/>'
    yield _text(_WIDTH - _RIGHT + 8, middle + 4, _figure(row, ratio, row.target), "small")


def _figure(row: Served, ratio: Spread, target: Target | None) -> str:
    aim = f", target {target.bound:g}" if target else ""
    return f"{row.rate.median:,.0f}/s" if row.name == THEIRS else f"{ratio.median:.2f} x{aim}"


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'
