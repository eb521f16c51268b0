"""The header that all web pages share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests import servers
from tests.browser.tabs import AUTOCOMPLETE_ADVICE, STATUS_MESSAGE, open_tab
from tests.servers import Server

PAGES = ("/", "/sign", "/problems", "/docs")
EXPECTED = (*STATUS_MESSAGE, "ERR_FAILED", AUTOCOMPLETE_ADVICE)


def open_page(browser: Browser, url: str, **options: Any) -> Any:
    """Open a page; the start page looks for ACME, which is 404 without a ledger."""
    return open_tab(browser, url, EXPECTED, **options)


@pytest.mark.parametrize("path", PAGES)
def test_header_shows_the_name_of_the_ca(browser: Browser, server: Server, path: str) -> None:
    """It is the common name of the issuing CA."""
    subject = server.request("GET", "/ca").json()["subject"]
    assert subject.startswith("CN=")
    with open_page(browser, server.url + path) as tab:
        expect(tab.page.locator("header #ca-name")).to_have_text(
            subject.removeprefix("CN=").partition(",")[0]
        )
        expect(tab.page.locator("header")).to_have_count(1)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("CN=Web CA,O=Example", "Web CA"),
        ("O=Example,CN=A\\, B\\+C", "A, B+C"),
        ("O=Example", "O=Example"),
        ("CN=<b>x</b><img src=x onerror=document.title='hacked'>", "<b>x</b><img src=x onerror=document.title='hacked'>"),
        ("CN=a\u202eb\x1b[2J\nc", "a\\u202eb\\u001b[2J\\u000ac"),
        (None, ""),
    ],
    ids=["attributes", "escapes", "no-name", "html", "control", "failure"],
)  # fmt: skip
def test_name_of_the_ca_is_text(browser: Browser, server: Server, subject: str | None, name: str) -> None:
    """Markup and control characters of a subject are shown as text; without an answer, there is no name."""
    answer = server.request("GET", "/ca").json()

    def respond(route: Route) -> None:
        if subject is None:
            route.abort()
        else:
            route.fulfill(status=200, body=json.dumps({**answer, "subject": subject}))

    with open_page(browser, "about:blank") as tab:
        tab.page.route("**/ca", respond)
        tab.page.goto(f"{server.url}/problems")
        tab.page.wait_for_load_state("networkidle")
        assert tab.page.locator("#ca-name").inner_text() == name
        assert tab.page.locator("#ca-name *").count() == 0
        assert tab.page.title() == "Certlet: problems and remedies"


@pytest.mark.parametrize("path", PAGES)
def test_page_marks_its_own_link(browser: Browser, server: Server, path: str) -> None:
    """The link to the current page has aria-current; the API docs are not in the header."""
    with open_page(browser, server.url + path) as tab:
        links = tab.page.locator("header [aria-current=page]")
        assert [link.get_attribute("href") for link in links.all()] == ([path] if path != "/docs" else [])


def local_links(page: Page) -> list[str]:
    """The URLs of the links on a page, without fragments of the same page; those that are hidden, too."""
    anchors = (
        "Array.from(document.querySelectorAll('header a, main a:not([href^=\"#\"])'), link => link.href)"
    )
    return sorted(set(page.evaluate(anchors)))


@pytest.mark.parametrize("slash", ["", "/"])
def test_links_work_below_a_stage_and_a_base_path(browser: Browser, tmp_path: Path, slash: str) -> None:
    """With or without a final slash, all links of each page are below the stage, and the server has them.

    A proxy that serves the API below a path, and removes it, adds a base path that only the browser knows.
    """
    with servers.certlet_server(tmp_path, "--ephemeral", "--no-usage-plan", "--stage", "prod") as server:
        origin = server.url.removesuffix("/prod")

        def remove_base_path(route: Route) -> None:
            route.continue_(url=route.request.url.replace("/pki/", "/").replace("/pki", ""))

        for base in ("/prod", "/pki/prod"):
            with open_page(browser, "about:blank") as tab:
                tab.page.route(f"{origin}/pki/**", remove_base_path)
                for path in PAGES:
                    tab.page.goto(f"{origin}{base}{path.removesuffix('/')}{slash}")
                    expect(tab.page.locator("#ca-name")).to_contain_text("CA")
                    if path == "/docs":
                        expect(tab.page.locator(".opblock").first).to_be_visible()
                        continue
                    links = local_links(tab.page)
                    assert len(links) >= 4
                    for link in links:
                        assert link.startswith(f"{origin}{base}/"), link
                        assert server.request("GET", link.removeprefix(origin + base)).status == 200, link
                outside = [
                    url
                    for url in tab.requests
                    if not url.startswith(f"{origin}{base}") and "data:" not in url
                ]
                assert outside == []


def test_links_work_without_scripts(browser: Browser, server: Server) -> None:
    """Without scripts, the links of each page work at its usual address, without a name of the CA."""
    for path in PAGES:
        with open_page(browser, server.url + path, java_script_enabled=False) as tab:
            for link in tab.page.locator("header a").all():
                href = str(link.get_attribute("href"))
                assert href.startswith("./")
                assert server.request("GET", href[1:]).status == 200
            assert tab.page.locator("#ca-name").inner_text() == ""


def test_header_works_with_the_keyboard(browser: Browser, server: Server) -> None:
    """Tab reaches the links from left to right, and Enter follows one."""
    with open_page(browser, f"{server.url}/problems") as tab:
        names = []
        for _ in range(4):
            tab.page.keyboard.press("Tab")
            names.append(tab.page.evaluate("document.activeElement.textContent"))
        assert names == ["Certlet", "Get a certificate", "Problems", "Root certificate"]
        tab.page.keyboard.press("Shift+Tab")
        tab.page.keyboard.press("Shift+Tab")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_url(f"{server.url}/sign")
