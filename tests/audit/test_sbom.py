"""The bill of materials says what is in the zip, and is made from the zip itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from deploy import sbom
from tests import serving


def test_the_bill_names_what_is_in_the_zip(archive: Path) -> None:
    """Each package of the lock with version, licence and purl; OpenSSL within cryptography; twice the same."""
    made = json.loads(sbom.bill(archive))
    found = {each["name"]: each for each in made["components"]}
    with zipfile.ZipFile(archive) as opened:
        shipped = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
    assert len(found) == len(shipped) > 15
    assert not found.keys() & {"requests", "certifi", "aiohttp", "jinja2"}  # not in the zip
    for name, each in found.items():
        assert each["purl"] == f"pkg:pypi/{name}@{each['version']}"
        assert each["licenses"][0]["expression"]
    within = {each["name"] for each in found["cryptography"]["components"]}
    assert {"openssl", "pyo3"} <= within
    assert made["metadata"]["component"]["hashes"][0]["alg"] == "SHA-256"
    assert json.loads(sbom.bill(archive)) == made


def test_a_zip_that_is_not_the_lock_s_is_refused(archive: Path, tmp_path: Path) -> None:
    """A package that is not in the lock, or in another version, is told by its name, in one line."""
    for name, text, word in (
        ("evil-1.dist-info/METADATA", "Name: evil\nVersion: 1\nLicense: MIT\n", "evil"),
        ("x-1.dist-info/METADATA", "Name: Flask\nVersion: 0\nLicense: MIT\n", "flask"),
    ):
        path = tmp_path / "changed.zip"
        shutil.copy(archive, path)
        with zipfile.ZipFile(path, "a") as opened:
            opened.writestr(name, text)
        run = subprocess.run(
            [sys.executable, "-m", "deploy.sbom", str(path)],
            cwd=serving.ROOT,
            env=serving.environ(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert run.stderr.startswith("sbom: ")
        assert word in run.stderr
        assert not path.with_suffix(".cdx.json").exists()
