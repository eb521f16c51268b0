"""The contract at `/docs`, in Debian's Chromium: read, and tried with a key."""

from __future__ import annotations

import json
from typing import Any

from cryptography import x509
from playwright.sync_api import Browser, Page, expect

from tests import csrs
from tests.browser.tabs import CHROMIUM_S_ADVICE, REFUSED, SCREENSHOTS, opened
from tests.servers import API_KEY, Server

LOADED = ("/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/start.js", "/openapi.json")
WIDE: Any = {"width": 1200, "height": 1000}
REQUEST = csrs.encode_pem(csrs.build("www.example.com")).decode()


def authorize(page: Page, key: str) -> None:
    page.click(".auth-wrapper .authorize")
    page.fill("#api_key_value", key)
    page.click(".modal-ux [aria-label='Apply credentials']")
    page.click(".modal-ux .btn-done")


def tried(page: Page) -> tuple[str, Any]:
    """Send a request by the operation `sign`, and read what the page says was answered: status and JSON."""
    sign = page.locator("#operations-sign-sign")
    sign.locator(".opblock-summary-control").click()
    sign.locator(".try-out__btn").click()
    sign.locator("textarea").first.fill(json.dumps({"csr": REQUEST, "profile": "peer"}))
    sign.locator(".execute").click()
    answered = sign.locator(".live-responses-table")
    expect(answered).to_be_visible()
    body = answered.locator(".response-col_description .highlight-code").first
    status = answered.locator("tr.response td.response-col_status").inner_text().split()[0]
    return status, json.loads(body.locator("code").first.inner_text())


def test_the_contract_is_shown(browser: Browser, server: Server) -> None:
    """Every operation is there; nothing is loaded from elsewhere, and nothing breaks the page's strict policy."""
    with opened(browser, f"{server.url}/docs", (CHROMIUM_S_ADVICE,)) as tab:
        operations = tab.page.locator(".opblock")
        published = server.request("GET", "/openapi.json").json()
        expect(operations).to_have_count(sum(len(item) for item in published["paths"].values()))
        tab.page.wait_for_load_state("networkidle")
        assert [url for url in tab.requests if "data:" not in url] == [server.url + path for path in LOADED]
        tab.shot("docs")


def test_a_request_is_tried_with_a_key(browser: Browser, server: Server) -> None:
    """With an API key typed in, "try it" signs a request: a certificate for its name and its profile comes back."""
    with opened(browser, f"{server.url}/docs", (CHROMIUM_S_ADVICE,), viewport=WIDE) as tab:
        authorize(tab.page, API_KEY)
        status, signed = tried(tab.page)
        assert (status, signed["profile"]) == ("200", "peer")
        certificate = x509.load_pem_x509_certificate(signed["crt_pem"].encode())
        assert certificate.subject.rfc4514_string() == "CN=www.example.com"
        tab.page.locator(".live-responses-table").scroll_into_view_if_needed()
        tab.page.screenshot(path=str(SCREENSHOTS / "docs-tried.png"))
        asked = {url.partition("?")[0] for url in tab.requests if url.startswith("http")}
        assert asked <= {server.url + path for path in (*LOADED, "/sign")}
        kept = "() => [document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)].join()"
        assert API_KEY not in tab.page.evaluate(kept)


def test_a_wrong_key_is_shown_as_403(browser: Browser, server: Server) -> None:
    """The twin: with a key that nobody has, the page shows the problem, and its code."""
    with opened(browser, f"{server.url}/docs", (*REFUSED, CHROMIUM_S_ADVICE), viewport=WIDE) as tab:
        authorize(tab.page, API_KEY[::-1])
        status, problem = tried(tab.page)
        assert (status, problem["code"]) == ("403", "unauthorized")
