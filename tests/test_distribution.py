"""`make dist`: the wheel and the source distribution, and an installation of the wheel elsewhere."""

from __future__ import annotations

import contextlib
import email
import re
import shutil
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy import man_pages, reference
from tests import csrs, servers
from tests.servers import API_KEY, ROOT

NAME = "certlet-0.1.0"
# What a working copy may have, and a distribution must not.
STRAY = {
    "ca/signing-ca.key": "stray",
    "my.key": "stray",
    ".venv/lib/stray.py": "stray",
    "build/lib/service/stray.py": "stray",  # setuptools adds it to a wheel of the working copy
    "certlet.egg-info/SOURCES.txt": "my.key\n",  # setuptools adds what it lists
    "service/__pycache__/stray.cpython-311.pyc": "stray",
    "service/stray.txt": "stray",
    "tests/test_stray.py": "stray",
    "man/certlet-stray.1": "stray",
}
PAGES = man_pages.create_pages("2026-01-31")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working copy with stray files, after `make dist`; its .venv is this environment."""
    copy = tmp_path_factory.mktemp("source")
    listing = servers.run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in listing.stdout.rstrip("\0").split("\0"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # deleted, but not yet in a commit
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    for name, text in STRAY.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    servers.create_script(copy / ".venv/bin/python", f'exec {sys.executable} "$@"')
    (copy / ".venv/bin/certlet").touch()  # make setup has nothing to do
    servers.run("make", "dist", cwd=copy, env=servers.environ(PYTHONPATH=""))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return source / f"build/dist/{NAME}-py3-none-any.whl"


def read_wheel(path: Path) -> dict[str, bytes]:
    """The files in a wheel."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def package_files() -> set[str]:
    """The files of the package in the repository."""
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "service").rglob("*.py")}
    return modules | {"service/openapi.yaml", "service/profiles.schema.json"}


def test_wheel_has_the_package_its_metadata_and_man_pages(wheel: Path) -> None:
    """It has the contract, not a link to it, and no other file."""
    files = read_wheel(wheel)
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    expected = {f"{NAME}.dist-info/{name}" for name in metadata}
    expected |= {f"{NAME}.data/data/share/man/man1/{name}" for name in PAGES}
    assert files.keys() == package_files() | expected
    assert files["service/openapi.yaml"] == (ROOT / "openapi.yaml").read_bytes()


def test_source_distribution_has_only_what_a_build_needs(source: Path, wheel: Path) -> None:
    """It has no link. The wheel built from it is the same as one of the working copy."""
    with tarfile.open(source / f"build/dist/{NAME}.tar.gz") as archive:
        members = [member for member in archive if not member.isdir()]
    assert all(member.isreg() for member in members)
    files = {member.name.removeprefix(f"{NAME}/") for member in members}
    files = {name for name in files if not name.startswith("certlet.egg-info/")}
    others = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    assert files == package_files() | others | {f"man/{name}" for name in PAGES}
    shutil.rmtree(source / "build/lib")
    build = "from setuptools.build_meta import build_wheel; build_wheel('direct')"
    servers.run(sys.executable, "-c", build, cwd=source)
    assert read_wheel(wheel) == read_wheel(source / "direct" / wheel.name)


def test_metadata_is_that_of_the_project(wheel: Path) -> None:
    """The README is the description; the licence, the dependencies and the command are declared."""
    files = read_wheel(wheel)
    metadata = email.message_from_string(files[f"{NAME}.dist-info/METADATA"].decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [metadata[name] for name in ("Name", "Version", "Summary", "License-Expression")] == [
        project[name] for name in ("name", "version", "description", "license")
    ]
    assert metadata.get_all("Classifier") == project["classifiers"]
    requirements = metadata.get_all("Requires-Dist") or []
    names = [re.split("[<>=]", requirement)[0] for requirement in (*requirements, *project["dependencies"])]
    assert names[: len(requirements)] == names[len(requirements) :]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
    entry_points = files[f"{NAME}.dist-info/entry_points.txt"].decode()
    assert entry_points == "[console_scripts]\ncertlet = service.cli:main\n"


def test_installed_wheel_serves_and_signs(tmp_path: Path, wheel: Path) -> None:
    """It is complete in another environment and directory, with the pages, the viewer of /docs and man pages."""
    environment, home = tmp_path / "environment", tmp_path / "home"
    servers.run(sys.executable, "-m", "venv", "--without-pip", environment)
    pip = (sys.executable, "-m", "pip", "--python", environment, "install")
    servers.run(*pip, "--quiet", "--no-deps", "--no-index", wheel)
    home.mkdir()
    command = str(environment / "bin/certlet")
    # The dependencies are those of this environment, which does not have Certlet itself.
    env = {"PYTHONPATH": sysconfig.get_path("purelib"), "CERTLET_API_KEY": API_KEY}

    def certlet(*arguments: str) -> str:
        return servers.run(command, *arguments, cwd=home, env=servers.environ(**env)).stdout

    assert certlet("--version") == "certlet 0.1.0\n"
    assert "Created a CA in ca" in certlet("init", "ca")
    (home / "my.csr").write_bytes(csrs.encode_pem(csrs.build()))
    with servers.certlet_server(home, command=(command, "serve", "--port", "0"), env=env) as server:
        certlet("sign", "my.csr", "--out", "my.crt", "--url", server.url)
        for path in (
            "/sign",
            "/problems",
            "/docs",
            "/docs/swagger-ui-bundle.js",
            "/openapi.json",
            "/profiles",
        ):
            assert server.request("GET", path).status == 200, path
    assert "-----BEGIN CERTIFICATE-----" in (home / "my.crt").read_text()
    assert {path.name for path in (environment / "share/man/man1").iterdir()} == PAGES.keys()


def test_command_has_a_man_page_with_its_options() -> None:
    """The sections are in the order of man-pages(7); each page refers to its group and its subcommands."""
    assert PAGES.keys() == {f"{name.replace(' ', '-')}.1" for name, _ in reference.commands()}
    for name, context in reference.commands():
        page = PAGES[f"{name.replace(' ', '-')}.1"]
        sections = re.findall(r"^\.SH (.*)", page, re.MULTILINE)
        order = ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT"]
        order += ["EXAMPLES", "SEE ALSO"]
        assert sections == [section for section in order if section in sections], name
        assert {"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"} <= set(sections)
        for option in context.command.params:
            for flag in (flag for flag in option.opts if flag.startswith("--")):
                assert man_pages.escape(flag) in page, (name, flag)
    assert "\\fBcertlet\\-api\\-key\\-add\\fR(1)" in PAGES["certlet-api-key.1"]
    assert "\\fBcertlet\\-api\\-key\\fR(1)" in PAGES["certlet-api-key-add.1"]
    assert "CERTLET_URL" in PAGES["certlet-renew.1"].partition(".SH ENVIRONMENT")[2]
    assert "every due certificate" in PAGES["certlet-renew.1"].partition(".SH EXIT STATUS")[2]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (".key of a\n   file", "\\&.key of a file"),
        ("'x' -y", "\\(aqx\\(aq \\-y"),
        ("a\\n", "a\\en"),
        ('"$x" `~^', "\\(dq$x\\(dq \\(ga\\(ti\\(ha"),
        ("a…é", "a\\[u2026]\\[u00E9]"),
    ],
)
def test_text_is_escaped_for_troff(text: str, escaped: str) -> None:
    """Commands and options can be pasted from a page, and no text is a request."""
    assert man_pages.escape(text) == escaped
