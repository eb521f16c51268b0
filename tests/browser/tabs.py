"""Pages in a browser, and all that they complain of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests import servers
from tests.servers import API_KEY

SCREENSHOTS = servers.ROOT / "build" / "screenshots"


class Tab:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.bodies: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._sent)

    def _sent(self, request: Any) -> None:
        self.requests.append(request.url)
        self.bodies.append(request.post_data or "")

    def sign(self, csr: bytes, key: str = API_KEY, profile: str = "") -> None:
        """Fill the form in, and send it."""
        self.page.fill("#csr", csr.decode())
        self.page.fill("#key", key)
        # Not wait_for_function: its polling evaluates a string, which the page's policy forbids.
        expect(self.page.locator("#profile option").nth(1)).to_be_attached()
        if profile:
            self.page.select_option("#profile", profile)
        self.page.click("#send")
        expect(self.page.locator("#send")).to_be_enabled()
        expect(self.page.locator("#status")).not_to_have_text("Signing…")

    def shot(self, name: str) -> None:
        """A screenshot, for people."""
        self.page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=True)


@contextlib.contextmanager
def opened(browser: Browser, url: str, expected: tuple[str, ...] = (), **options: Any) -> Iterator[Tab]:
    """A page in a context of its own, which must not complain of anything but what is expected."""
    context = browser.new_context(**options)
    tab = Tab(context.new_page())
    tab.page.goto(url)
    try:
        yield tab
    finally:
        context.close()
    unexpected = [line for line in tab.complaints if not any(word in line for word in expected)]
    assert unexpected == []


CHROMIUM_S_ADVICE = "Input elements should have autocomplete attributes"  # of the dialog for keys of /docs
REFUSED = ("the server responded with a status of",)  # what Chromium says of every 4xx
