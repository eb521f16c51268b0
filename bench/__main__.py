"""`make bench`: everything, in one run.

Prints the figures, and writes them into build/: bench.json, bench.md and bench.svg. A run that is not
short puts them into bench/README.md and docs/bench.svg too.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench import compare, lambda_zip, peers, plot, report
from bench.load import BenchError
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


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write.

    Returns:
        0, whether or not targets were kept; 1 if something was not measured.
    """
    parser = argparse.ArgumentParser(prog="make bench", description="Figures, as ratios of one run.")
    parser.add_argument(
        "--short", action="store_true", help="whether it runs at all: the figures mean little"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"of the comparison, else {WHOLE.rounds}")
    parser.add_argument("--output", type=Path, default=ROOT / "build", metavar="DIR")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the servers are to end too
    plan = SHORT if options.short else WHOLE
    if options.rounds:
        plan = compare.Plan(options.rounds, plan.seconds, plan.floor_seconds, plan.batch)
    if not options.short:
        between_marks(README.read_text(), "")  # before the time is spent
    if install.main(TOOLS):
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="certlet-bench-") as temporary:
            comparison = compare.compare(Path(temporary), plan)
        zipped = lambda_zip.measure(1 if options.short else ZIP_ROUNDS)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    text, drawn = report.report(comparison, zipped), plot.svg(comparison)
    print(text)
    for what, target in report.verdicts(comparison, zipped):
        print(f"{target}  {what}")
    options.output.mkdir(parents=True, exist_ok=True)
    figures = {"comparison": asdict(comparison), "zip": asdict(zipped)}
    (options.output / "bench.json").write_text(json.dumps(figures, indent=1))
    (options.output / "bench.md").write_text(text)
    (options.output / "bench.svg").write_text(drawn)
    if not options.short:
        README.write_text(between_marks(README.read_text(), text))
        PLOT.write_text(drawn)
    return 0


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
