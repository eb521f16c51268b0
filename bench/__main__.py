"""`make bench`: measure everything in one run.

Print the figures, and write them to build/bench.json and build/figures.md. A full run also writes
bench/figures.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from bench import acme, comparison, contenders, lambda_zip, report
from bench.acme import AcmeFigures
from bench.lambda_zip import ZipFigures
from bench.load import BenchError, Refused
from bench.results import Comparison
from tests import install

ROOT: Final = Path(__file__).parent.parent
FIGURES: Final = ROOT / "bench" / "figures.md"
TOOLS: Final = [
    "cfssl=golang-cfssl",
    "pebble",
    "wrk",
    "openssl",
    "taskset=util-linux",
]  # with their Debian packages
FULL: Final = comparison.Settings(rounds=7, seconds=2, baseline_seconds=0.3, batch=contenders.BATCH)
# Small batches: on a slow machine, eight of them at once must not occupy the worker for a second.
SHORT: Final = comparison.Settings(rounds=1, seconds=1, baseline_seconds=0.05, batch=20)
ZIP_ROUNDS: Final = 15
ACME_ISSUANCES: Final = (100, 5)  # in a measurement; of a full and of a short run
BATCH_HINT: Final = "the machine is busy or slow: eight batches take over a second; try BENCH='--batch 50'"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write.

    Returns:
        0, even if targets were missed; 1 if a measurement failed.
    """
    parser = argparse.ArgumentParser(
        prog="make bench", description="Measure Certlet against cfssl and pebble, and the Lambda zip."
    )
    parser.add_argument(
        "--short", action="store_true", help="only check that the benchmark runs; the figures mean little"
    )
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help=f"repeat the comparison N times [{FULL.rounds}]"
    )
    parser.add_argument(
        "--batch",
        type=_count,
        metavar="N",
        help=f"put N certificates in a batch; use fewer on a slow machine [{FULL.batch}]",
    )
    parser.add_argument("--output-dir", type=Path, default=ROOT / "build", metavar="DIR", help="[build/]")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops the servers too
    try:
        server_figures, acme_figures, zip_figures = _measure(options)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        if isinstance(error, Refused):
            sys.stderr.write(f"bench: failed {comparison.TRIES} times: {BATCH_HINT}\n")
        return 1
    text = report.report(server_figures, acme_figures, zip_figures)
    print(text)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    document = {
        "comparison": asdict(server_figures),
        "acme": [asdict(figures) for figures in acme_figures],
        "zip": asdict(zip_figures),
    }
    (options.output_dir / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    for path in [options.output_dir / FIGURES.name, *([] if options.short else [FIGURES])]:
        path.write_text(text)
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= contenders.BATCH:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {contenders.BATCH}")
    return int(text)


def _measure(options: argparse.Namespace) -> tuple[Comparison, list[AcmeFigures], ZipFigures]:
    if install.main(TOOLS):
        raise BenchError("required programs are missing")
    settings = SHORT if options.short else FULL
    settings = replace(
        settings, rounds=options.rounds or settings.rounds, batch=options.batch or settings.batch
    )
    with tempfile.TemporaryDirectory(prefix="certlet-bench-") as temporary:
        server_figures = comparison.compare(Path(temporary), settings)
    acme_figures = acme.compare(settings.rounds, ACME_ISSUANCES[options.short])
    return server_figures, acme_figures, lambda_zip.measure(1 if options.short else ZIP_ROUNDS)


if __name__ == "__main__":
    sys.exit(main())
