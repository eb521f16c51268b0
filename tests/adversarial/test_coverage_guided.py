from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests import servers
from tests.adversarial import request_strategies
from tests.adversarial.test_generated_requests import plain
from tests.adversarial.third_party_csrs import CASES, read
from tests.servers import ROOT

SECONDS: Final = int(os.environ.get("ADVERSARIAL_GUIDED_SECONDS", "20"))  # `make nightly`: 10 minutes
# As deploy/lock/tests.in has it: Atheris is built for no other.
IS_BUILT: Final = sys.version_info < (3, 14) and sys.platform == "linux" and os.uname().machine == "x86_64"


def fuzz(folder: Path, seconds: int, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a process of its own, from other projects' requests and a few of our own."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, (path, row) in enumerate(CASES):
        (corpus / f"{number}").write_bytes(read(path, row))
    for kind in request_strategies.GOOD_KEYS:
        (corpus / kind).write_bytes(plain(kind, request_strategies.spki(kind)).der)
    command = (sys.executable, "-m", "tests.adversarial.coverage_guided", str(seconds), str(folder))
    return servers.run(*command, cwd=ROOT, env=servers.environ(**environ), timeout=seconds + 400, check=False)


@pytest.mark.skipif(not IS_BUILT, reason="Atheris has wheels for Linux on x86_64 and Python up to 3.13 alone")
def test_nothing_is_found(tmp_path: Path) -> None:
    """Guided by the branches that inputs take, no input makes `csr.parse` raise anything but a refusal."""
    run = fuzz(tmp_path, SECONDS)
    found = sorted(each.name for each in tmp_path.iterdir() if each.name != "corpus")
    assert (run.returncode, found) == (0, []), run.stderr[-4000:]
    done = re.search(r"Done (\d+) runs in (\d+) second", run.stderr)
    assert done, run.stderr[-4000:]
    sys.stdout.write(f"{done.group(0)}; {len(list((tmp_path / 'corpus').iterdir()))} inputs kept\n")
    assert int(done.group(1)) > 10 * SECONDS
