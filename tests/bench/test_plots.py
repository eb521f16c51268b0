from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from bench import lambda_zip, plots
from bench.imports import Imports
from bench.report import Figures
from bench.results import Spread, Target

SVG = "{http://www.w3.org/2000/svg}"
ROWS = {"a & b": Spread(50, 25, 100), "c": Spread(10, 10, 10)}


def widths(svg: str) -> list[float]:
    """The lengths of the bars."""
    return [float(item.get("width", "")) for item in ET.fromstring(svg).iter(f"{SVG}rect")][1:]  # noqa: S314 - our own document


def test_bars_are_proportional_to_medians() -> None:
    """The highest value of all rows takes the whole width."""
    assert widths(plots.draw("Title", ROWS, 1)) == [150, 30]


def test_whiskers_reach_the_extremes() -> None:
    paths = re.findall(r'<path d="M([\d.]+) [\d.]+H([\d.]+)', plots.draw("Title", ROWS, 1))
    assert paths == [("375.0", "600.0"), ("330.0", "330.0")]


def test_reference_line_fits_into_the_plot() -> None:
    """A reference above all values sets the scale."""
    svg = plots.draw("Title", ROWS, 1, reference=200)
    assert widths(svg) == [75, 15]
    assert 'class="reference" d="M600.0 ' in svg
    assert 'class="reference"' not in plots.draw("Title", ROWS, 1)


def test_every_value_is_in_the_text_alternative() -> None:
    """So are the labels, escaped; the colours depend on the theme, also that of the background."""
    svg = plots.draw("Title", ROWS, 1)
    root = ET.fromstring(svg)  # noqa: S314 - our own document
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}desc") == "a & b: 50.0 (25.0 to 100.0); c: 10.0 (10.0 to 10.0)"
    assert [text.text for text in root.iter(f"{SVG}text")][:3] == ["Title", "a & b", "50.0 (25.0 to 100.0)"]
    light, dark = (root.findtext(f"{SVG}style") or "").split("@media (prefers-color-scheme: dark)")
    for selector in ("text", "path", ".bar", ".page"):
        assert f"{selector} {{" in light
        assert f"{selector} {{" in dark


def test_plots_are_of_the_sections_that_were_measured(tmp_path: Path) -> None:
    """The imports of two Python versions are in one plot."""
    plots.write(Figures({}), tmp_path)
    assert not list(tmp_path.iterdir())
    imports = tuple(
        Imports(version, Spread.of([9]), {"flask": Spread.of([9])}) for version in ("3.11", "3.13")
    )
    target = Target.maximum(12, 9)
    figures = lambda_zip.ZipFigures(9, target, Spread.of([1]), target, (), imports, ())
    plots.write(Figures({}, lambda_zip=figures), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["imports.svg"]
    labels = re.findall(r'"end">(.*?)<', (tmp_path / "imports.svg").read_text())
    assert labels == ["flask, python3.11", "flask, python3.13"]
