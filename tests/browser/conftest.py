"""Fixtures of the browser tests: one Chromium for all tests, and tabs with the form."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests import servers
from tests.browser.tabs import SCREENSHOTS, STATUS_MESSAGE, Tab, open_tab

DISABLED_FEATURES = ("gpu", "quic", "background-networking", "component-update", "sync")
RESOLVER_OPTION = "--host-resolver-rules=MAP plain.example 127.0.0.1"
CHROMIUM = [
    "--no-sandbox",
    "--no-first-run",
    RESOLVER_OPTION,
    *(f"--disable-{feature}" for feature in DISABLED_FEATURES),
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def form(browser: Browser, server: servers.Server) -> Iterator[Tab]:
    """The form; the test fails on any console message."""
    with open_tab(browser, f"{server.url}/sign") as tab:
        yield tab


@pytest.fixture
def refusal_form(browser: Browser, server: servers.Server) -> Iterator[Tab]:
    """The form for refused requests; Chromium logs their status on the console."""
    with open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE) as tab:
        yield tab
