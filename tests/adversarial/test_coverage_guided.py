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
from tests.adversarial.test_generated_requests import csr_for_key
from tests.adversarial.third_party_csrs import CASES, read_csr
from tests.servers import ROOT

SECONDS: Final = int(os.environ.get("ADVERSARIAL_GUIDED_SECONDS", "20"))  # `make nightly`: 10 minutes
# The platforms with an Atheris wheel, as in deploy/lock/tests.in.
HAS_ATHERIS: Final = sys.version_info < (3, 14) and sys.platform == "linux" and os.uname().machine == "x86_64"


def fuzz(folder: Path, seconds: int, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a separate process; its corpus starts with third-party CSRs and one for each key type."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, (path, row) in enumerate(CASES):
        (corpus / f"{number}").write_bytes(read_csr(path, row))
    for key_type in request_strategies.SUPPORTED_KEYS:
        (corpus / key_type).write_bytes(csr_for_key(key_type, request_strategies.spki(key_type)).der)
    command = (sys.executable, "-m", "tests.adversarial.coverage_guided", str(seconds), str(folder))
    return servers.run(*command, cwd=ROOT, env=servers.environ(**environ), timeout=seconds + 400, check=False)


@pytest.mark.skipif(
    not HAS_ATHERIS, reason="Atheris has wheels only for Linux on x86_64 and Python up to 3.13"
)
def test_csr_parser_survives_coverage_guided_fuzzing(tmp_path: Path) -> None:
    """`csr.parse` raises only RequestError for any input."""
    process = fuzz(tmp_path, SECONDS)
    failures = sorted(path.name for path in tmp_path.iterdir() if path.name != "corpus")
    assert (process.returncode, failures) == (0, []), process.stderr[-4000:]
    match = re.search(r"Done (\d+) runs in (\d+) second", process.stderr)
    assert match, process.stderr[-4000:]
    sys.stdout.write(f"{match.group(0)}; {len(list((tmp_path / 'corpus').iterdir()))} inputs in the corpus\n")
    assert int(match.group(1)) > 10 * SECONDS
