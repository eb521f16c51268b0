"""The page about problems."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests import factories
from tests.browser.tabs import APPEARANCES, assert_accessible, assert_still, open_tab
from tests.servers import Server

CODES = list(factories.document()["x-problem-types"])


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_problem_type_links_to_its_section(browser: Browser, server: Server, appearance: str) -> None:
    """The `type` of a problem links to its section of an accessible page, which loads only the CA's name."""
    problem = server.sign({"csr": "garbage"}).json()
    with open_tab(browser, server.url + problem["type"], **APPEARANCES[appearance]) as tab:
        expect(tab.page.locator(f"section#{problem['code']} h2")).to_be_in_viewport()
        tab.page.wait_for_load_state("networkidle")
        loaded = [url for url in tab.requests if "data:" not in url]
        assert loaded == [f"{server.url}/problems", f"{server.url}/ca"]
        assert_still(tab)
        tab.page.click("nav a[href='#timeout']")
        expect(tab.page.locator("section#timeout")).to_be_in_viewport()
        tab.save_screenshot(f"problems-{appearance}")
        assert_accessible(tab)


def test_each_section_links_to_itself_and_to_the_form(browser: Browser, server: Server) -> None:
    """The heading of a section is its link, to copy; below its remedy is a link to the form."""
    with open_tab(browser, f"{server.url}/problems") as tab:
        sections = tab.page.locator("section")
        assert [section.get_attribute("id") for section in sections.all()] == CODES
        for code in CODES:
            links = tab.page.locator(f"section#{code} a")
            assert [link.evaluate("link => link.href") for link in links.all()] == [
                f"{server.url}/problems#{code}",
                f"{server.url}/sign",
            ]
        tab.page.click("section#tooLarge h2 a")
        expect(tab.page).to_have_url(f"{server.url}/problems#tooLarge")
        tab.page.click("section#tooLarge >> text=Back to the form")
        expect(tab.page).to_have_url(f"{server.url}/sign")
