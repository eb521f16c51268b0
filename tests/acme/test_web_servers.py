"""Caddy and Apache get certificates from `certlet serve --tls --ledger`, serve them and renew them."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.acme.test_clients import FORBIDDEN, NAMES, REFUSAL
from tests.acme.web_servers import Apache, Caddy, Traefik, WebServer
from tests.servers import ROOT, Server, wait_until

WEB_SERVERS = [Caddy, Apache, Traefik]
# In a namespace with its own ports and hosts. curl waits until Caddy has the certificate.
DOCUMENTED = """\
set -e
ip link set lo up
echo 127.0.0.1 ca.example.com my.example.com localhost > hosts
mount --bind hosts /etc/hosts
{ca} &
curl="curl -sS --retry 60 --retry-delay 1 --retry-all-errors"
$curl -o directory --cacert ca/root-ca.crt https://ca.example.com:8080/acme/directory
cp ca/root-ca.crt .
{web_server} &
$curl --cacert root-ca.crt https://my.example.com
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that Apache's user can read, unlike pytest's."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.parametrize("kind", WEB_SERVERS)
def test_site_is_served_and_its_certificate_renewed(
    acme_server: Server, folder: Path, kind: type[WebServer]
) -> None:
    """A stranger verifies both names before and after the renewal."""
    web_server = kind(acme_server, folder)
    with web_server.serve(*NAMES) as process:

        def served() -> set[str]:
            web_server.activate(process)
            time.sleep(0.5)
            return {web_server.serial_number(name) for name in NAMES} - {""}

        wait_until(served)
        before = served()
        wait_until(lambda: served().isdisjoint(before), 120)
        assert "" not in {web_server.serial_number(name) for name in NAMES}


@pytest.mark.parametrize("kind", WEB_SERVERS)
def test_web_server_logs_why_a_name_is_refused(
    acme_server: Server, folder: Path, kind: type[WebServer]
) -> None:
    web_server = kind(acme_server, folder)
    with web_server.serve(NAMES[0], FORBIDDEN):
        wait_until(lambda: REFUSAL in web_server.log.read_text())


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/acme.md"])
def test_documented_commands_serve_a_site_with_caddy(tmp_path: Path, page: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)\n```", (ROOT / page).read_text(), re.DOTALL)
    ca, web_server = (block for block in blocks if "--client caddy" in block or "caddy run" in block)
    servers.create_script(tmp_path / "bin/certlet")
    script = DOCUMENTED.format(ca=ca, web_server=web_server)
    user = ("--user", "--map-root-user") if os.geteuid() else ()
    namespace = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", *user)
    environ = servers.environ(HOME=str(tmp_path), PATH=f"{tmp_path}/bin:{os.environ['PATH']}:/usr/sbin")
    assert servers.run(*namespace, "sh", "-c", script, cwd=tmp_path, env=environ).stdout.endswith("Hello")
