"""`make bench`: measure everything in one run.

Print the figures, and write them to build/bench.json, build/figures.md and build/plots. A full run also
writes bench/figures.md and docs/explanation/plots.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from bench import acme, base, comparison, endpoints, lambda_zip, latency, load, plots, source, workers
from bench.conditions import conditions
from bench.load import BenchError, Refused
from bench.report import Figures, report
from bench.settings import FULL, SHORT, Settings
from bench.source import Source
from tests import install

ROOT: Final = Path(__file__).parent.parent
FIGURES: Final = ROOT / "bench" / "figures.md"
PLOTS: Final = ROOT / "docs" / "explanation" / "plots"
TOOLS: Final = [
    "cfssl=golang-cfssl",
    "pebble",
    "wrk",
    "openssl",
    "taskset=util-linux",
    "git",
]  # with their Debian packages
SECTIONS: Final = {  # name -> seconds that it takes besides its rounds, and seconds of a round
    "cfssl": (15, 65),
    "base": (10, 10),
    "latency": (10, 20),
    "workers": (10, 12),
    "acme": (10, 15),
    "zip": (150, 0),
}
BATCH_HINT: Final = "the machine is busy or slow: eight batches take over a second; try BENCH='--batch 50'"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write.

    Returns:
        0, even if targets were missed; 1 if a measurement failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if "base" in (options.only or ()) and not options.base:
        parser.error("--only base requires --base REV")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops the servers too
    settings = SHORT if options.short else FULL
    settings = replace(
        settings, rounds=options.rounds or settings.rounds, batch=options.batch or settings.batch
    )
    if install.main(TOOLS):
        return 1
    with ExitStack() as stack:
        try:
            earlier = stack.enter_context(source.checkout(options.base)) if options.base else None
        except BenchError as error:
            sys.stderr.write(f"bench: --base: {error}\n")
            return 1
        figures, has_failed = _measure(settings, options, earlier)
    text = report(figures)
    print(text)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "bench.json").write_text(json.dumps(asdict(figures), indent=1) + "\n")
    outputs = {options.output_dir / FIGURES.name: options.output_dir / PLOTS.name}
    if not (options.short or options.only or has_failed):
        outputs[FIGURES] = PLOTS
    for path, plot_directory in outputs.items():
        path.write_text(text)
        plots.write(figures, plot_directory)
    return int(has_failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure Certlet against cfssl, pebble and its base, and the Lambda zip.",
    )
    parser.add_argument(
        "--short", action="store_true", help="only check that the benchmark runs; the figures mean little"
    )
    parser.add_argument("--base", metavar="REV", help="compare with this commit, too")
    parser.add_argument(
        "--only", action="append", choices=sorted(SECTIONS), help="measure only this section (repeatable)"
    )
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help=f"repeat each comparison N times [{FULL.rounds}]"
    )
    parser.add_argument(
        "--batch",
        type=_count,
        metavar="N",
        help=f"put N certificates in a batch; use fewer on a slow machine [{FULL.batch}]",
    )
    parser.add_argument("--output-dir", type=Path, default=ROOT / "build", metavar="DIR", help="[build/]")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= endpoints.BATCH:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {endpoints.BATCH}")
    return int(text)


def _measure(settings: Settings, options: argparse.Namespace, earlier: Source | None) -> tuple[Figures, bool]:
    """Measure the sections; return the figures, and whether a section failed."""
    names = [name for name in SECTIONS if name in (options.only or SECTIONS) and (name != "base" or earlier)]
    seconds = sum(SECTIONS[name][0] + SECTIONS[name][1] * settings.rounds for name in names)
    if not options.short:
        sys.stderr.write(f"bench: about {seconds / 60:.0f} minutes\n")
    figures = Figures(dict(_conditions(settings, earlier)))
    has_failed = False
    for name in names:
        try:
            with tempfile.TemporaryDirectory(prefix="certlet-bench-") as temporary:
                _measure_section(name, figures, Path(temporary), settings, earlier)
        except Exception as error:  # noqa: BLE001 - the other sections' figures must not be lost
            has_failed = True
            reason = error if isinstance(error, BenchError) else repr(error)
            sys.stderr.write(f"bench: {name}: {reason}\n")
            if isinstance(error, Refused) and name in {"cfssl", "base"}:
                sys.stderr.write(f"bench: failed {load.TRIES} times: {BATCH_HINT}\n")
    return figures, has_failed


def _measure_section(
    name: str, figures: Figures, directory: Path, settings: Settings, earlier: Source | None
) -> None:
    if name == "cfssl":
        figures.comparison = comparison.compare(directory, settings)
    elif name == "base" and earlier:
        figures.base = base.compare(directory, settings, earlier)
    elif name == "latency":
        figures.latency = latency.compare(directory, settings)
    elif name == "workers":
        figures.workers = workers.compare(directory, settings)
    elif name == "acme":
        figures.acme = acme.compare(settings)
    elif name == "zip":
        figures.lambda_zip = lambda_zip.measure(directory, settings, earlier)


def _conditions(settings: Settings, earlier: Source | None) -> Iterator[tuple[str, str]]:
    yield from conditions()
    yield "measured", f"{settings.rounds} rounds of {settings.seconds} s, batches of {settings.batch}"
    if earlier:
        yield "base", earlier.name


if __name__ == "__main__":
    sys.exit(main())
