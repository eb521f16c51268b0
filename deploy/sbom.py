"""The bill of materials of a Lambda zip, CycloneDX 1.6 in JSON: `make sbom`, or `python -m deploy.sbom ZIP…`.

It is read from the zip itself, from the metadata that each wheel left in it, and held against the lock; what
is compiled into a wheel is taken from the wheel's own bills (PEP 770), which the zip leaves out. Written
twice it is the same, octet for octet.
"""

from __future__ import annotations

import argparse
import email
import hashlib
import json
import re
import sys
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Final

from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from deploy import build, licences

_PINNED: Final = re.compile(r"^([a-z0-9-]+)==([^ ;\\]+)", re.MULTILINE)
_A_ZIP_S_DATE: Final = datetime(1980, 1, 1, tzinfo=UTC)  # as in the zip: it says nothing of when
_SERIAL: Final = uuid.UUID("8f0f4a0e-6c0b-5f0e-9a53-6f4d1b7f2f4e")  # a namespace, drawn once


class BillError(Exception):
    """The zip is not what the lock says; the message says where, in one line."""


def bill(archive: Path) -> str:
    """The bill of materials of a zip, in JSON, which is valid by CycloneDX's schema.

    Raises:
        BillError: the zip holds a package that is not in the lock, in another version, or not at all.
        LicenceError: a package's licence is not known.
        OSError: the zip cannot be read.
    """
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    found = sorted(_packages(archive), key=lambda each: each["Name"].lower())
    _compare({_normalized(each["Name"]): each["Version"] for each in found})
    whole = Component(
        name="certlet",
        type=ComponentType.APPLICATION,
        version=metadata.version("certlet") if _is_installed("certlet") else None,
        bom_ref="certlet",
        licenses=[LicenseExpression("Apache-2.0")],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        properties=[Property(name="certlet:zip", value=archive.name)],
    )
    components = [_component(each) for each in found]
    bom = Bom(components=components, serial_number=uuid.uuid5(_SERIAL, digest))
    bom.metadata.timestamp = _A_ZIP_S_DATE
    bom.metadata.component = whole
    bom.metadata.tools.components.add(this_component())
    bom.register_dependency(whole, components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise BillError(f"the bill is not valid: {fault}")
    return text + "\n"


def _packages(archive: Path) -> Iterator[Message]:
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
                yield email.message_from_bytes(opened.read(name))


def _compare(found: dict[str, str]) -> None:
    locked = {name: version.strip() for name, version in _PINNED.findall(build.LOCK.read_text())}
    if found != locked:
        differing = sorted(dict(found.items() ^ locked.items()))
        raise BillError(f"not what {build.LOCK.name} says: {', '.join(differing)}")


def _component(package: Message) -> Component:
    name, version = _normalized(package["Name"]), package["Version"]
    return Component(
        name=name,
        version=version,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", None, name, version),
        licenses=[LicenseExpression(licences.expression(package))],
        components=list(_compiled_in(name, version)),
    )


def _compiled_in(name: str, version: str) -> Iterator[Component]:
    """What the package's wheel says of what is compiled into it, such as OpenSSL."""
    distribution = metadata.distribution(name)
    if distribution.version != version:
        raise BillError(f"{name} {distribution.version} is here, and {version} in the zip")
    for file in distribution.files or []:
        if file.parent.name == "sboms" and file.suffix == ".json":
            for each in json.loads(file.read_text())["components"]:
                yield Component(
                    name=each["name"],
                    version=each.get("version"),
                    bom_ref=f"{name}=={version}#{each['name']}@{each.get('version')}",
                    purl=PackageURL.from_string(each["purl"]) if "purl" in each else None,
                )


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_installed(name: str) -> bool:
    return any(True for _ in metadata.distributions(name=name))


def main() -> int:
    """Write a bill beside each zip."""
    parser = argparse.ArgumentParser(prog="make sbom", description="Write what is in a zip beside it.")
    parser.add_argument("zips", nargs="+", type=Path, metavar="ZIP")
    for archive in parser.parse_args().zips:
        try:
            archive.with_suffix(".cdx.json").write_text(bill(archive), encoding="utf-8")
        except (BillError, licences.LicenceError, OSError) as error:
            sys.stderr.write(f"sbom: {archive}: {error}\n")
            return 1
        sys.stdout.write(f"{archive.with_suffix('.cdx.json')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
