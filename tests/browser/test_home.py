"""The start page."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import servers
from tests.browser.tabs import APPEARANCES, STATUS_MESSAGE, assert_accessible, assert_still, open_tab
from tests.cli import certlet
from tests.servers import Server

FIXED = ["Get a certificate", "Trust this CA", "Help and files", "Install the root certificate"]


def headings(page: Page) -> list[str]:
    """The headings of the visible parts."""
    return [heading.inner_text() for heading in page.locator("h2").all() if heading.is_visible()]


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_start_page_shows_what_there_is(browser: Browser, server: Server, appearance: str) -> None:
    """Without ACME and EST, it links to everything else; it is accessible, and no part moves."""
    with open_tab(browser, f"{server.url}/", STATUS_MESSAGE, **APPEARANCES[appearance]) as tab:
        expect(tab.page.locator("text=API docs")).to_be_visible()
        assert headings(tab.page) == [*FIXED, "Write a program"]
        tab.page.wait_for_load_state("networkidle")
        assert_still(tab)
        tab.save_screenshot(f"home-{appearance}")
        tab.page.click("summary")
        assert_accessible(tab)
        tab.save_screenshot(f"home-install-{appearance}")


def test_start_page_loads_only_what_it_shows(browser: Browser, server: Server) -> None:
    """It asks for the CA, and whether the service has API docs and ACME; by plain HTTP there is no EST."""
    with open_tab(browser, f"{server.url}/", STATUS_MESSAGE) as tab:
        tab.page.wait_for_load_state("networkidle")
        loaded = [url.removeprefix(server.url) for url in tab.requests if "data:" not in url]
        assert sorted(loaded) == ["/", "/acme/directory", "/ca", "/docs"]


def test_start_page_has_the_fingerprint_of_the_root(browser: Browser, server: Server) -> None:
    """It is that of the file that the link downloads, as openssl prints it."""
    with open_tab(browser, f"{server.url}/", STATUS_MESSAGE, accept_downloads=True) as tab:
        with tab.page.expect_download() as download:
            tab.page.click("main >> text=Download the root certificate")
        assert download.value.suggested_filename == "root.crt"
        command = ("openssl", "x509", "-inform", "der", "-noout", "-fingerprint", "-sha256", "-in")
        printed = servers.run(*command, str(download.value.path())).stdout
        assert tab.page.inner_text("#fingerprint") == printed.strip().partition("=")[2]


def test_start_page_shows_acme_and_est(browser: Browser, tmp_path: Path) -> None:
    """With a client of ACME, and by HTTPS, it shows the URLs that clients and devices need."""
    arguments = ("--tls", "--tls-name", "localhost", "--ledger", "ledger.sqlite", "--no-usage-plan")
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    assert certlet("acme", "add", "web", cwd=tmp_path).returncode == 0
    with (
        servers.certlet_server(tmp_path, *arguments) as server,
        open_tab(browser, f"{server.url}/", ignore_https_errors=True) as tab,
    ):
        expect(tab.page.locator("text=API docs")).to_be_visible()
        assert headings(tab.page) == [
            *FIXED,
            "Renew automatically: ACME",
            "Enroll devices: EST",
            "Write a program",
        ]
        assert tab.page.inner_text("#directory") == f"{server.url}/acme/directory"
        assert tab.page.inner_text("#enrollment") == f"{server.url}/.well-known/est"
        assert_still(tab)
        tab.save_screenshot("home-acme")


def test_start_page_works_with_the_keyboard(browser: Browser, server: Server) -> None:
    """Tab reaches the links in their order; the instructions open, and the form follows, by Enter."""
    with open_tab(browser, f"{server.url}/", STATUS_MESSAGE) as tab:
        expect(tab.page.locator("text=API docs")).to_be_visible()
        names = []
        for _ in range(10):
            tab.page.keyboard.press("Tab")
            names.append(tab.page.evaluate("document.activeElement.textContent.trim()"))
        assert names[4:] == [
            "Get a certificate",
            "Download the root certificate",
            "Problems and remedies",
            "Health",
            "CA chain (PEM)",
            "Revocation list (CRL)",
        ]
        tab.page.keyboard.press("Tab")
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator("text=sudo update-ca-certificates")).to_be_visible()
        for _ in range(6):
            tab.page.keyboard.press("Shift+Tab")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_url(f"{server.url}/sign")


def test_debian_commands_install_the_root(browser: Browser, server: Server, tmp_path: Path) -> None:
    """The first command converts the downloaded file to PEM, which update-ca-certificates requires."""
    (tmp_path / "root.crt").write_bytes(server.request("GET", "/root.crt").body)
    with open_tab(browser, f"{server.url}/", STATUS_MESSAGE) as tab:
        tab.page.click("summary")
        line = tab.page.inner_text("h3:has-text('Debian') + pre").splitlines()[0]
    command = line.removeprefix("sudo ").replace("/usr/local/share/ca-certificates", str(tmp_path))
    servers.run(*command.split(), cwd=tmp_path)
    assert (tmp_path / "certlet-root.crt").read_text().startswith("-----BEGIN CERTIFICATE-----")
