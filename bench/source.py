"""Certlet's source code: the present one, or that of a commit."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.load import BenchError
from tests import servers

_NO_USAGE_PLAN: Final = ("--no-usage-plan", "--unlimited")  # of `serve`: its name, and its name before


@dataclass(frozen=True)
class Source:
    """Source code, which runs with this interpreter and its packages.

    Attributes:
        name: the commit.
        root: the directory that contains `service` and `deploy`.
        no_usage_plan: the option of `serve` that disables the usage plan.
    """

    name: str
    root: Path
    no_usage_plan: str = _NO_USAGE_PLAN[0]

    def environ(self, **change: str) -> dict[str, str]:
        """The environment for its processes."""
        return servers.environ(**change, PYTHONPATH=str(self.root))

    def run(self, module: str, *arguments: str | Path, cwd: Path, **environ: str) -> str:
        """Run a module, and return its output.

        Args:
            module: the module.
            arguments: the arguments.
            cwd: the working directory.
            environ: environment variables.

        Raises:
            BenchError: it failed; the message is the last line of its errors.
        """
        command = (sys.executable, "-P", "-m", module, *arguments)
        process = servers.run(*command, cwd=cwd, env=self.environ(**environ), check=False)
        if process.returncode:
            lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
            raise BenchError(f"{module} {' '.join(map(str, arguments))}: {lines[-1]}")
        return process.stdout


PRESENT: Final = Source("present", servers.ROOT)


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Source]:
    """Extract a commit into a temporary directory; the repository stays unchanged.

    Raises:
        BenchError: there is no such commit, or its command line does not run with the installed packages.
    """
    with tempfile.TemporaryDirectory(prefix="certlet-bench-") as temporary:
        archive, root = Path(temporary) / "source.tar", Path(temporary) / "source"
        root.mkdir()
        git = ("git", "-C", str(servers.ROOT))
        try:
            verify = ("rev-parse", "--short", "--verify")
            commit = _run(*git, *verify, f"{revision}^{{commit}}")
        except BenchError as error:
            raise BenchError(f"{revision} is not a commit: {error}") from None
        _run(*git, "archive", "--output", str(archive), commit)
        _run("tar", "-xf", str(archive), "-C", str(root))
        source = Source(commit, root)
        try:
            help_text = source.run("service.cli", "serve", "--help", cwd=root)
        except BenchError as error:
            raise BenchError(f"{commit} does not run with the installed packages: {error}") from None
        options = [option for option in _NO_USAGE_PLAN if option in help_text]
        if not options:
            raise BenchError(f"`certlet serve` of {commit} has none of {', '.join(_NO_USAGE_PLAN)}")
        yield Source(commit, root, options[0])


def _run(*command: str) -> str:
    process = servers.run(*command, check=False)
    if process.returncode:
        raise BenchError(f"{command[0]}: {process.stderr.strip()}")
    return process.stdout.strip()
