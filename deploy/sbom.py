"""Software bill of materials of a Lambda zip: `make sbom`, or `python -m deploy.sbom ZIP…`.

cyclonedx-py reads installed packages, so the zip is unpacked into an empty environment. It does not read the
bills that wheels contain (PEP 770) of what is compiled into them, such as OpenSSL: these are added.
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
_COPIED: Final = ("type", "name", "version", "purl", "licenses")


def sbom(archive: Path) -> str:
    """Return the bill of materials of a zip, CycloneDX 1.6 in JSON; the same for the same zip.

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
        document = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603 - our own words
        components = {each["purl"].partition("@")[0]: each for each in document["components"]}
        for path in sorted(packages.glob("*.dist-info/sboms/*.json")):
            name = path.parent.parent.name.partition("-")[0].lower().replace("_", "-")
            components[f"pkg:pypi/{name}"].setdefault("components", []).extend(
                {member: part[member] for member in _COPIED if member in part}
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
