"""`make bench`: everything, in one run.

Prints the figures, and writes them into build/: bench.json, bench.md and bench.svg. A run that is not
short puts them into bench/README.md and docs/bench.svg too.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import compare, lambda_zip, peers, plot, report, results
from bench.load import BenchError, Refused
from bench.results import Results
from tests import install

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "bench" / "README.md"
PLOT: Final = ROOT / "docs" / "bench.svg"
BEGIN: Final = "<!-- make bench: from here -->\n"
END: Final = "<!-- make bench: to here -->\n"
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
        "--short", action="store_true", help="whether it runs at all: the figures mean little"
    )
    parser.add_argument("--rounds", type=_count, metavar="N", help=f"of the comparison, else {WHOLE.rounds}")
    parser.add_argument(
        "--batch",
        type=_count,
        metavar="N",
        help=f"certificates in a batch, else {WHOLE.batch}, of which eight keep "
        "a slow machine busy for so long that some are turned away",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build", metavar="DIR")
    parser.add_argument("--again", type=Path, metavar="JSON", help="only tables and plot, of these results")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the servers are to end too
    if not options.short:
        between_marks(README.read_text(), "")  # before the time is spent
    try:
        found = results.load(options.again.read_text()) if options.again else _measured(options)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        if isinstance(error, Refused):
            sys.stderr.write(f"bench: so {compare.TRIES} times: {SMALLER}\n")
        return 1
    text, drawn = report.report(found.comparison, found.zip), plot.svg(found.comparison)
    print(text)
    for what, target in report.verdicts(found.comparison, found.zip):
        print(f"{target}  {what}")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench.json").write_text(results.encode(found))
    (options.output / "bench.md").write_text(text)
    (options.output / "bench.svg").write_text(drawn)
    if not options.short:
        README.write_text(between_marks(README.read_text(), text))
        PLOT.write_text(drawn)
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= peers.BATCH:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {peers.BATCH}")
    return int(text)


def _measured(options: argparse.Namespace) -> Results:
    if install.main(TOOLS):
        raise BenchError("not without these programs")
    plan = SHORT if options.short else WHOLE
    plan = replace(plan, rounds=options.rounds or plan.rounds, batch=options.batch or plan.batch)
    with tempfile.TemporaryDirectory(prefix="certlet-bench-") as temporary:
        comparison = compare.compare(Path(temporary), plan)
    return Results(comparison, lambda_zip.measure(1 if options.short else ZIP_ROUNDS))


def between_marks(page: str, text: str) -> str:
    """The page with this text where `make bench` puts it.

    Raises:
        ValueError: the page has no such place.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page does not say where the figures go")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
