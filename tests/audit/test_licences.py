"""What ships and runs is under permissive licences, by each package's own word."""

from __future__ import annotations

import re
from email.message import Message
from importlib import metadata

import pytest

from deploy import licences
from deploy.licences import LicenceError
from tests.serving import ROOT

LOCKED = sorted(
    {
        found
        for lock in ("service.txt", "function.txt")
        for found in re.findall(
            r"^([a-z0-9-]+)==([^ ;\\]+)(.*)", (ROOT / "deploy" / "lock" / lock).read_text(), re.MULTILINE
        )
    }
)


def package(name: str = "x", **headers: str) -> Message:
    """A package's metadata."""
    made = Message()
    made["Name"] = name
    for header, value in headers.items():
        made[header.replace("_", "-")] = value
    return made


def test_everything_in_the_locks_is_permissive() -> None:
    """Each package of the locks is here, in the locked version, under a licence of the table."""
    assert len(LOCKED) > 35
    for name, version, _ in LOCKED:
        found = metadata.distribution(name)
        assert found.version == version, name
        licences.verify(found.metadata)  # type: ignore[arg-type]  # it is a Message


@pytest.mark.parametrize(
    ("headers", "stated"),
    [
        ({"License_Expression": "MIT"}, "MIT"),
        ({"License_Expression": "GPL-3.0-only OR MIT"}, "GPL-3.0-only OR MIT"),
        ({"License_Expression": "Apache-2.0 AND (MIT OR MPL-2.0)"}, "Apache-2.0 AND (MIT OR MPL-2.0)"),
        ({"License": "Apache-2.0"}, "Apache-2.0"),
        (
            {"License": "The whole text", "Classifier": "License :: OSI Approved :: BSD License"},
            "BSD-3-Clause",
        ),
    ],
)
def test_licences_that_are_allowed(headers: dict[str, str], stated: str) -> None:
    """An SPDX expression, old metadata that is one, or a classifier; of a choice one is enough."""
    assert licences.expression(package(**headers)) == stated
    licences.verify(package(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"License": "mine"},
        {"License_Expression": "GPL-3.0-only"},
        {"License_Expression": "MIT AND GPL-3.0-only"},
        {"License_Expression": "MPL-2.0"},
        {"License_Expression": "LicenseRef-Mine"},
        {"Classifier": "License :: OSI Approved :: GNU General Public License (GPL)"},
        {"License": "x", "Classifier": "License :: Other/Proprietary License"},
    ],
)
def test_licences_that_are_not(headers: dict[str, str]) -> None:
    """Copyleft, unknown and unstated ones fail; the exception is for one package alone."""
    with pytest.raises(LicenceError, match="x "):
        licences.verify(package(**headers))
    licences.verify(package("certifi", License_Expression="MPL-2.0"))
