"""`pip-licenses`, as pyproject.toml configures it, accepts permissive licences and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.servers import ROOT

LOCKS = ROOT / "deploy" / "lock"


def test_shipped_packages_are_installed() -> None:
    """`tox -e audit` checks installed packages, so each one must have the version of its lock."""
    installed = set(re.findall(r"^\S+==[^ ;\\]+", (LOCKS / "audit.txt").read_text(), re.MULTILINE))
    for lock in ("service.txt", "function.txt"):
        locked = set(re.findall(r"^\S+==[^ ;\\]+", (LOCKS / lock).read_text(), re.MULTILINE))
        assert len(locked) > 15
        assert locked <= installed


@pytest.mark.parametrize(
    ("name", "headers", "code"),
    [
        ("x", "License-Expression: MIT", 0),
        ("x", "License: The whole text\nClassifier: License :: OSI Approved :: BSD License", 0),
        ("certifi", "License-Expression: MPL-2.0", 0),
        ("x", "License-Expression: MPL-2.0", 1),
        ("x", "License-Expression: GPL-3.0-only", 1),
        ("x", "License-Expression: MIT AND GPL-3.0-only", 1),
        ("x", "License-Expression: LicenseRef-Mine", 1),
        ("x", "License: mine", 1),
        ("x", "Classifier: License :: OSI Approved :: GNU General Public License (GPL)", 1),
        ("x", "License: MIT\nClassifier: License :: Other/Proprietary License", 1),
        ("x", "Summary: without a licence", 1),
    ],
)
def test_package_with_other_licence_is_rejected(tmp_path: Path, name: str, headers: str, code: int) -> None:
    venv.create(tmp_path)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    (packages / f"{name}-1.dist-info").mkdir()
    text = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\n{headers}\n"
    (packages / f"{name}-1.dist-info" / "METADATA").write_text(text)
    command = [sys.executable, "-m", "piplicenses", "--python", str(tmp_path / "bin" / "python")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == code, run.stdout
    assert (f"{name}:1" in run.stderr) == bool(code), run.stderr
