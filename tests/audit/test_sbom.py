"""The SBOM lists the contents of the zip, and is created from the zip itself."""

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
    """It lists each locked package with version, licence and purl, and OpenSSL; it is reproducible."""
    text = sbom.sbom(archive)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    components = {component["purl"]: component for component in document["components"]}
    locked = re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", build.LOCK.read_text(), re.MULTILINE)
    assert sorted(components) == sorted(f"pkg:pypi/{name}@{version}" for name, version in locked)
    assert all(component["licenses"] for component in components.values())
    (cryptography,) = (
        component for purl, component in components.items() if purl.startswith("pkg:pypi/cryptography@")
    )
    bundled = {component["name"]: component for component in cryptography["components"]}
    assert bundled["openssl"]["version"]
    assert bundled["pyo3"]["licenses"]
    assert document["metadata"]["component"]["hashes"][0]["alg"] == "SHA-256"
    assert sbom.sbom(archive) == text


def test_sbom_lists_an_unlocked_package(archive: Path, tmp_path: Path) -> None:
    """The command reads the zip, not the lock, and writes the SBOM next to the zip."""
    path = tmp_path / "changed.zip"
    shutil.copy(archive, path)
    with zipfile.ZipFile(path, "a") as zip_file:
        zip_file.writestr("evil-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    run = servers.run(sys.executable, "-m", "deploy.sbom", path, cwd=servers.ROOT)
    output = path.with_suffix(".cdx.json")
    assert run.stdout == f"{output}\n"
    assert "pkg:pypi/evil@1" in output.read_text()
