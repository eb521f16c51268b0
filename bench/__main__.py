"""`make bench`: measure everything in one run.

Prints the figures, and writes them into build/: bench.json and figures.md. A run that is not short
writes bench/figures.md too.
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

from bench import compare, lambda_zip, peers, report
from bench.figures import Comparison
from bench.lambda_zip import ZipFigures
from bench.load import BenchError, Refused
from tests import install

ROOT: Final = Path(__file__).parent.parent
FIGURES: Final = ROOT / "bench" / "figures.md"
TOOLS: Final = ["cfssl=golang-cfssl", "wrk", "openssl", "taskset=util-linux"]  # and their Debian packages
WHOLE: Final = compare.Plan(rounds=7, seconds=2, floor_seconds=0.3, batch=peers.BATCH)
# Small batches: eight of them at once must not keep a slow machine's worker for a second.
SHORT: Final = compare.Plan(rounds=1, seconds=1, floor_seconds=0.05, batch=20)
ZIP_ROUNDS: Final = 15
SMALLER: Final = (
    "the machine is busy, or slow: eight batches take over a second; BENCH='--batch 50' makes them smaller"
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write.

    Returns:
        0, whether or not targets were kept; 1 if something was not measured.
    """
    parser = argparse.ArgumentParser(prog="make bench", description="Figures, as ratios of one run.")
    parser.add_argument(
        "--short", action="store_true", help="only see whether it runs: the figures mean little"
    )
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help=f"rounds of the comparison [{WHOLE.rounds}]"
    )
    parser.add_argument(
        "--batch",
        type=_count,
        metavar="N",
        help=f"certificates in a batch; a slow machine refuses some of eight large ones [{WHOLE.batch}]",
    )
    parser.add_argument("--output-dir", type=Path, default=ROOT / "build", metavar="DIR")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the servers are to end too
    try:
        comparison, zip_figures = _measure(options)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        if isinstance(error, Refused):
            sys.stderr.write(f"bench: so {compare.TRIES} times: {SMALLER}\n")
        return 1
    text = report.report(comparison, zip_figures)
    print(text)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    document = {"comparison": asdict(comparison), "zip": asdict(zip_figures)}
    (options.output_dir / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    for path in [options.output_dir / FIGURES.name, *([] if options.short else [FIGURES])]:
        path.write_text(text)
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= peers.BATCH:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {peers.BATCH}")
    return int(text)


def _measure(options: argparse.Namespace) -> tuple[Comparison, ZipFigures]:
    if install.main(TOOLS):
        raise BenchError("not without these programs")
    plan = SHORT if options.short else WHOLE
    plan = replace(plan, rounds=options.rounds or plan.rounds, batch=options.batch or plan.batch)
    with tempfile.TemporaryDirectory(prefix="certlet-bench-") as temporary:
        comparison = compare.compare(Path(temporary), plan)
    return comparison, lambda_zip.measure(1 if options.short else ZIP_ROUNDS)


if __name__ == "__main__":
    sys.exit(main())
