"""Caddy and Apache get certificates from `certlet serve --tls --ledger`, serve them and renew them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acme.test_clients import FORBIDDEN, NAMES, REFUSAL
from tests.acme.web_servers import Apache, Caddy, WebServer
from tests.servers import Server, wait_until

WEB_SERVERS = [Caddy, Apache]


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
