"""The API docs at `/docs` in Chromium."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography import x509
from playwright.sync_api import Browser, Page, expect

from tests import csrs
from tests.browser.tabs import (
    APPEARANCES,
    AUTOCOMPLETE_ADVICE,
    SCREENSHOTS,
    STATUS_MESSAGE,
    assert_accessible,
    open_tab,
)
from tests.servers import API_KEY, Server

RESOURCES = (
    "/docs",
    "/docs/swagger-ui.css",
    "/docs/docs.css",
    "/docs/swagger-ui-bundle.js",
    "/docs/start.js",
    "/ca",
    "/openapi.json",
)
WIDE_VIEWPORT: Any = {"width": 1200, "height": 1000}
CSR = csrs.encode_pem(csrs.build("www.example.com")).decode()


def authorize(page: Page, key: str) -> None:
    page.click(".auth-wrapper .authorize")
    page.fill("#api_key_value", key)
    page.click(".modal-ux [aria-label='Apply credentials']")
    page.click(".modal-ux .btn-done")


def try_sign(page: Page) -> tuple[str, Any]:
    """Send a request with "Try it out" of the operation `sign`; return the status and JSON of the response."""
    sign = page.locator("#operations-sign-sign")
    sign.locator(".opblock-summary-control").click()
    sign.locator(".try-out__btn").click()
    sign.locator("textarea").first.fill(json.dumps({"csr": CSR, "profile": "peer"}))
    sign.locator(".execute").click()
    responses = sign.locator(".live-responses-table")
    expect(responses).to_be_visible()
    body = responses.locator(".response-col_description .highlight-code").first
    status = responses.locator("tr.response td.response-col_status").inner_text().split()[0]
    return status, json.loads(body.locator("code").first.inner_text())


def test_docs_show_all_operations(browser: Browser, server: Server) -> None:
    """All operations are shown, and nothing is loaded from another host or violates the page's policy."""
    with open_tab(browser, f"{server.url}/docs", (AUTOCOMPLETE_ADVICE,)) as tab:
        operations = tab.page.locator(".opblock")
        document = server.request("GET", "/openapi.json").json()
        expect(operations).to_have_count(sum(len(item) for item in document["paths"].values()))
        tab.page.wait_for_load_state("networkidle")
        loaded = [url for url in tab.requests if "data:" not in url]
        assert sorted(loaded) == sorted(server.url + path for path in RESOURCES)
        tab.save_screenshot("docs")


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_docs_are_accessible_around_the_viewer(browser: Browser, server: Server, appearance: str) -> None:
    """The header is accessible in light and dark; axe-core does not check the elements of Swagger UI."""
    options = APPEARANCES[appearance]
    with open_tab(browser, f"{server.url}/docs", (AUTOCOMPLETE_ADVICE,), **options) as tab:
        expect(tab.page.locator("h1")).to_contain_text("API docs")
        expect(tab.page.locator(".opblock").first).to_be_visible()
        assert_accessible(tab, exclude="#contract")
        tab.page.screenshot(path=str(SCREENSHOTS / f"docs-{appearance}.png"))


def test_viewer_follows_the_color_scheme(browser: Browser, server: Server) -> None:
    """A change of the color scheme changes the viewer at once, and its text has the contrast of WCAG AA."""
    with open_tab(browser, f"{server.url}/docs", (AUTOCOMPLETE_ADVICE,), color_scheme="light") as tab:
        text = tab.page.locator("#operations-sign-sign .opblock-summary-description")
        expect(text).to_have_css("color", "rgb(59, 65, 81)")
        tab.page.emulate_media(color_scheme="dark")
        expect(text).to_have_css("color", "rgb(228, 230, 230)")
        expect(tab.page.locator(".swagger-ui").first).to_have_css("background-color", "rgba(0, 0, 0, 0)")
        tab.page.emulate_media(color_scheme="light")
        expect(text).to_have_css("color", "rgb(59, 65, 81)")


def test_try_it_out_signs_with_api_key(browser: Browser, server: Server) -> None:
    """With an API key, "Try it out" returns a certificate for the name and profile of the CSR."""
    with open_tab(browser, f"{server.url}/docs", (AUTOCOMPLETE_ADVICE,), viewport=WIDE_VIEWPORT) as tab:
        authorize(tab.page, API_KEY)
        status, result = try_sign(tab.page)
        assert (status, result["profile"]) == ("200", "peer")
        certificate = x509.load_pem_x509_certificate(result["crt_pem"].encode())
        assert certificate.subject.rfc4514_string() == "CN=www.example.com"
        tab.page.locator(".live-responses-table").scroll_into_view_if_needed()
        tab.page.screenshot(path=str(SCREENSHOTS / "docs-tried.png"))
        urls = {url.partition("?")[0] for url in tab.requests if url.startswith("http")}
        assert urls <= {server.url + path for path in (*RESOURCES, "/sign")}
        storage = (
            "() => [document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)].join()"
        )
        assert API_KEY not in tab.page.evaluate(storage)


def test_try_it_out_uses_the_origin_of_the_page(browser: Browser, server: Server) -> None:
    """Requests go to the name in the address bar, also if the document has another one of the server."""
    url = server.url.replace("127.0.0.1", "localhost")
    with open_tab(browser, f"{url}/docs", (AUTOCOMPLETE_ADVICE,), viewport=WIDE_VIEWPORT) as tab:
        authorize(tab.page, API_KEY)
        assert try_sign(tab.page)[0] == "200"
        assert not [request for request in tab.requests if request.startswith(server.url)]


def test_try_it_out_omits_optional_parameters(browser: Browser, server: Server) -> None:
    """Parameters are empty at first: their examples are not sent, and some exclude each other."""
    with open_tab(browser, f"{server.url}/docs", (AUTOCOMPLETE_ADVICE,), viewport=WIDE_VIEWPORT) as tab:
        operation = tab.page.locator("#operations-sign-signPem")
        operation.locator(".opblock-summary-control").click()
        operation.locator(".try-out__btn").click()
        fields = operation.locator(".parameters input")
        assert [field.input_value() for field in fields.all()] == ["", "", ""]


def test_wrong_api_key_is_shown_as_403(browser: Browser, server: Server) -> None:
    """With an unknown API key, the page shows the problem and its code."""
    with open_tab(
        browser, f"{server.url}/docs", (*STATUS_MESSAGE, AUTOCOMPLETE_ADVICE), viewport=WIDE_VIEWPORT
    ) as tab:
        authorize(tab.page, API_KEY[::-1])
        status, problem = try_sign(tab.page)
        assert (status, problem["code"]) == ("403", "unauthorized")
