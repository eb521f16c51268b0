"""Software bill of materials of a Lambda zip: `make sbom`, or `python -m deploy.sbom ZIP…`.

cyclonedx-py reads installed packages, so the zip is unpacked into an empty environment. It ignores the SBOMs
inside wheels (PEP 770), which list bundled libraries such as OpenSSL: their components are added here.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Final

PYPROJECT: Final = Path(__file__).parent.parent / "pyproject.toml"
_COPIED_FIELDS: Final = ("type", "name", "version", "purl", "licenses")


def sbom(archive: Path) -> str:
    """Return a zip's bill of materials, CycloneDX 1.6 JSON; the same for the same zip.

    Raises:
        CalledProcessError: cyclonedx-py fails.
        OSError, BadZipFile: the zip cannot be read.
    """
    with tempfile.TemporaryDirectory() as environment:
        venv.create(environment)
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": environment}))
        zipfile.ZipFile(archive).extractall(packages)
        options = ["--output-reproducible", "--spec-version=1.6", f"--pyproject={PYPROJECT}"]
        command = [sys.executable, "-m", "cyclonedx_py", "environment", *options, environment]
        document = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603 - a fixed command
        components = {part["purl"].partition("@")[0]: part for part in document["components"]}
        for path in sorted(packages.glob("*.dist-info/sboms/*.json")):
            package = path.parent.parent.name.partition("-")[0].lower().replace("_", "-")
            components[f"pkg:pypi/{package}"].setdefault("components", []).extend(
                {name: part[name] for name in _COPIED_FIELDS if name in part}
                for part in json.loads(path.read_text())["components"]
            )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    document["metadata"]["component"]["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        output = Path(name).with_suffix(".cdx.json")
        output.write_text(sbom(Path(name)), encoding="utf-8")
        sys.stdout.write(f"{output}\n")
