"""Fixtures of the browser tests: one Chromium for all tests, and tabs with the form."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests import servers
from tests.browser.tabs import SCREENSHOTS, STATUS_MESSAGE, Tab, open_tab

DISABLED = ("gpu", "quic", "background-networking", "component-update", "sync")
RESOLVER = "--host-resolver-rules=MAP plain.example 127.0.0.1"
CHROMIUM = ["--no-sandbox", "--no-first-run", RESOLVER, *(f"--disable-{feature}" for feature in DISABLED)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def form(browser: Browser, server: servers.Server) -> Iterator[Tab]:
    """The form, without console messages."""
    with open_tab(browser, f"{server.url}/sign") as tab:
        yield tab


@pytest.fixture
def refusing(browser: Browser, server: servers.Server) -> Iterator[Tab]:
    """The form, for requests that are refused, which Chromium logs."""
    with open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE) as tab:
        yield tab
