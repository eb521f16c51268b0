"""`certlet list` of logs with many certificates, none of which has expired: the memory does not grow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.inventory.test_inventory import record

COUNTS = (10_000, 50_000)
MAX_GROWTH = 4 * 1024  # KiB
_LIST = """
import sys
from service.cli import main
status = main(["list", *sys.argv[1:]])
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """For each count, an audit log with so many certificates of two names."""
    directory = tmp_path_factory.mktemp("logs")
    for count in COUNTS:
        with (directory / f"{count}.log").open("wb") as file:
            for number in range(1, count + 1):
                names = (f"dns:{number}.example.com", f"dns:www.{number}.example.com")
                for event in ("intent", "result"):
                    file.write(record(number, event, names=names, not_after="2999-01-01T00:00:00Z"))
    return [directory / f"{count}.log" for count in COUNTS]


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--csv"]])
def test_memory_does_not_grow_with_the_certificates(
    logs: list[Path], report_figures: Callable[[str], None], arguments: list[str]
) -> None:
    """50,000 certificates need no more memory than 10,000; each had 1 KB when all were in memory."""
    peaks = []
    for count, log in zip(COUNTS, logs, strict=True):
        command = [sys.executable, "-c", _LIST, str(log), *arguments]
        run = subprocess.run(command, env=servers.environ(), capture_output=True, check=True)
        assert run.stdout.count(b"\n") == count + (arguments != ["--json"])
        peaks.append(int(run.stderr.split()[-1]))  # after the note on the status
    report_figures(f"peak resident KiB for {COUNTS} certificates: {peaks}")
    assert peaks[1] - peaks[0] < MAX_GROWTH


def test_full_disk_is_an_error(logs: list[Path]) -> None:
    """No file may be larger than 1 MB: the list, which does not fit in the cache, would be incomplete."""
    command = f'ulimit -f 1024; {" ".join(servers.CERTLET)} list --json "$1"'
    run = subprocess.run(
        ["sh", "-c", command, "sh", logs[1]], env=servers.environ(), capture_output=True, check=False
    )
    message = "certlet: a temporary file cannot be written: set $TMPDIR to a directory with free space\n"
    assert (run.returncode, run.stdout, run.stderr.decode()) == (1, b"", message)
