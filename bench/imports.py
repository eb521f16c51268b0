"""Measure what the imports of the zip's handler take, per package."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.load import BenchError
from bench.results import Spread

STANDARD_LIBRARY: Final = "standard library"
INIT: Final = "init phase, without imports"
_LINE: Final = re.compile(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)$", re.MULTILINE)
_TIMEOUT: Final = 60  # seconds for a process


@dataclass(frozen=True)
class Imports:
    """The time of imports with one Python version.

    Attributes:
        python: the version.
        total: milliseconds of all packages.
        packages: package -> milliseconds of its own modules.
    """

    python: str
    total: Spread
    packages: Mapping[str, Spread]


def measure(task: Path, python: str, interpreter: Path, environ: Mapping[str, str], runs: int) -> Imports:
    """Import the handler of the zip that is unpacked in `task`, as often as `runs`, each in a new process.

    Raises:
        BenchError: the import failed.
    """
    command = [str(interpreter), "-S", "-X", "importtime", "-c", "import function"]
    times = []
    for _ in range(runs):
        process = subprocess.run(  # noqa: S603 - an interpreter, with fixed arguments
            command,
            cwd=task,
            env={"PYTHONPATH": str(task), **environ},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        if process.returncode:
            raise BenchError(f"import of the zip's handler: {process.stderr.splitlines()[-1]}")
        times.append(parse(process.stderr))
    packages = sorted({package for run in times for package in run})
    return Imports(
        python,
        Spread.of([sum(run.values()) for run in times]),
        {package: Spread.of([run.get(package, 0) for run in times]) for package in packages},
    )


def parse(output: str) -> dict[str, float]:
    """Sum what `python -X importtime` prints: package -> milliseconds of its own modules.

    Code that a module runs counts as its own time: for the handler's module, the init phase.
    """
    times: Counter[str] = Counter()
    for microseconds, module in _LINE.findall(output):
        package = module.partition(".")[0]
        if package == "function":
            package = INIT
        elif package in sys.stdlib_module_names:
            package = STANDARD_LIBRARY
        times[package] += int(microseconds)
    return {package: time / 1e3 for package, time in times.items()}


def longest(versions: Sequence[Imports], count: int) -> list[str]:
    """The packages that take the longest with any version, the longest first."""
    times: dict[str, float] = {}
    for item in versions:
        for package, spread in item.packages.items():
            times[package] = max(times.get(package, 0), spread.median)
    return sorted(times, key=lambda package: -times[package])[:count]
