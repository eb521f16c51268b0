"""Browser tabs that record requests and console messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests import servers
from tests.servers import API_KEY

AXE = Path(__file__).with_name("node_modules") / "axe-core" / "axe.min.js"
APPEARANCES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 320, "height": 640}},
    "phone": {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
}
SCREENSHOTS = servers.ROOT / "build" / "screenshots"


class Tab:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.bodies: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", self._record_request)

    def _record_request(self, request: Any) -> None:
        self.requests.append(request.url)
        self.bodies.append(request.post_data or "")

    def sign(self, csr: bytes, key: str = API_KEY, profile: str = "") -> None:
        """Fill in and send the form."""
        self.page.fill("#csr", csr.decode())
        self.send(key, profile)

    def send(self, key: str = API_KEY, profile: str = "") -> None:
        """Fill in the fields after the CSR, send the form, and wait for the response."""
        self.page.fill("#key", key)
        # wait_for_function would evaluate a string, which the page's Content-Security-Policy forbids.
        expect(self.page.locator("#profile option").nth(1)).to_be_attached()
        if profile:
            self.page.select_option("#profile", profile)
        self.page.click("#send")
        expect(self.page.locator("#send")).to_be_enabled()
        expect(self.page.locator("#status")).not_to_have_text("Signing…")

    def save_screenshot(self, name: str) -> None:
        """Save a screenshot of the whole page."""
        self.page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=True)


@contextlib.contextmanager
def open_tab(browser: Browser, url: str, expected: tuple[str, ...] = (), **options: Any) -> Iterator[Tab]:
    """Open a page in a new context, and fail on unexpected console messages."""
    context = browser.new_context(**options)
    tab = Tab(context.new_page())
    tab.page.goto(url)
    try:
        yield tab
    finally:
        context.close()
    unexpected = [message for message in tab.messages if not any(text in message for text in expected)]
    assert unexpected == []


def assert_accessible(tab: Tab, exclude: str = "#none") -> None:
    """Run axe-core on all but `exclude`, and verify that it checked the page and found no violation."""
    run = (
        "exclude => axe.run({exclude: [exclude]}, "
        "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    tab.page.evaluate(AXE.read_text())
    result = tab.page.evaluate(run, exclude)
    violations = result["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in violations] == []
    assert len(result["passes"]) > 20


def assert_still(tab: Tab) -> None:
    """Verify that nothing moved while the page loaded, and that it needs no sideways scrolling."""
    shifts = """() => {
        const observer = new PerformanceObserver(() => {});
        observer.observe({type: 'layout-shift', buffered: true});
        return observer.takeRecords().map(entry => [entry.value, ...entry.sources.map(({node}) => String(node && (node.outerHTML || node.data)))]);
    }"""
    assert tab.page.evaluate(shifts) == []
    root = "document.documentElement"
    assert tab.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


AUTOCOMPLETE_ADVICE = (
    "Input elements should have autocomplete attributes"  # of Chromium, for the API key dialog of /docs
)
STATUS_MESSAGE = ("the server responded with a status of",)  # of Chromium, for each 4xx
