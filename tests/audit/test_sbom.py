"""The bill of materials says what is in the zip, and is made from the zip itself."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy import build, sbom
from tests import servers


def test_sbom_lists_every_package(archive: Path) -> None:
    """Each package of the lock with version, licence and purl; OpenSSL in cryptography; the same twice."""
    text = sbom.sbom(archive)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    components = {component["purl"]: component for component in document["components"]}
    locked = re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", build.LOCK.read_text(), re.MULTILINE)
    assert sorted(components) == sorted(f"pkg:pypi/{name}@{version}" for name, version in locked)
    assert all(component["licenses"] for component in components.values())
    (cryptography,) = (each for purl, each in components.items() if purl.startswith("pkg:pypi/cryptography@"))
    bundled = {part["name"]: part for part in cryptography["components"]}
    assert bundled["openssl"]["version"]
    assert bundled["pyo3"]["licenses"]
    assert document["metadata"]["component"]["hashes"][0]["alg"] == "SHA-256"
    assert sbom.sbom(archive) == text


def test_sbom_lists_a_package_that_is_not_locked(archive: Path, tmp_path: Path) -> None:
    """The zip counts, not the lock; the command writes the bill next to the zip."""
    path = tmp_path / "changed.zip"
    shutil.copy(archive, path)
    with zipfile.ZipFile(path, "a") as changed:
        changed.writestr("evil-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    run = servers.run(sys.executable, "-m", "deploy.sbom", path, cwd=servers.ROOT)
    output = path.with_suffix(".cdx.json")
    assert run.stdout == f"{output}\n"
    assert "pkg:pypi/evil@1" in output.read_text()
