"""The layout of the web form in each of its states: no element moves, nothing is too wide, all is accessible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from playwright.sync_api import Browser, Page, expect

from tests import csrs, servers
from tests.browser.tabs import AXE, STATUS_MESSAGE, Tab, assert_accessible, open_tab
from tests.servers import API_KEY, Server

CSR = csrs.encode_pem(csrs.build("www.example.com", ["dns:www.example.com"])).decode()
SUBJECT = x509.Name(
    [
        x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Ltd"),
    ]
)
CHANGED_CSR = csrs.encode_pem(csrs.build(None, [], [x509.OCSPNoCheck()], SUBJECT)).decode()
REFUSED_CSR = csrs.encode_pem(csrs.build("localhost", ["dns:a_b.example", "dns:ok.example"])).decode()
THROTTLED: Any = {
    "status": 429,
    "headers": {"Retry-After": "30"},
    "json": {"code": "rateLimited", "detail": "The rate limit is exceeded: try again in a moment"},
}

VIEWPORTS = {"wide": {"width": 1280, "height": 800}, "narrow": {"width": 360, "height": 740}}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
ACCESSIBLE_STATES = ("empty", "preview", "refused", "menu", "created", "created-refused", "plain-http")
"""The states in which axe-core runs, since it takes time."""

CONSOLE = (*STATUS_MESSAGE, "ERR_FAILED")

RECORD_SHIFTS = """
window.shifts = [];
window.recordShifts = entries => entries.forEach(entry => entry.sources.forEach(({node, previousRect, currentRect}) =>
  shifts.push((node && (node.id || node.textContent) || '?') + ': ' + [previousRect.x, previousRect.y, currentRect.x, currentRect.y])));
window.observer = new PerformanceObserver(list => recordShifts(list.getEntries()));
observer.observe({type: 'layout-shift', buffered: true});
"""
READ_SHIFTS = """() => new Promise(done => requestAnimationFrame(() => setTimeout(() => {
    recordShifts(observer.takeRecords());
    done(shifts.splice(0));
})))"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def csr_states(page: Page) -> Iterator[str]:  # noqa: PLR0915 - a list of states
    """Bring the form into each state of its first tab, and yield the name of the state."""
    seen, status = page.locator("#csr-seen"), page.locator("#status")
    yield "empty"
    page.click("#csr")
    page.keyboard.insert_text(CSR)
    expect(page.locator("#profile option")).to_have_count(3)
    yield "pasted"
    page.fill("#csr", CHANGED_CSR)
    page.fill("#key", API_KEY)
    expect(seen).to_contain_text("change or leave out")
    yield "preview"
    page.fill("#csr", REFUSED_CSR)
    expect(seen).to_contain_text("would refuse")
    yield "preview-refused"
    page.click("#send")
    expect(status).to_contain_text("Not signed")
    yield "refused"
    page.fill("#csr", CSR)
    page.fill("#key", API_KEY[::-1])
    page.click("#send")
    expect(status).to_contain_text("Not signed")
    yield "wrong-key"
    page.fill("#key", API_KEY)
    page.route("**/sign", lambda route: route.fulfill(**THROTTLED))
    page.click("#send")
    expect(status).to_contain_text("Too many requests")
    yield "throttled"
    page.route("**/sign", lambda route: route.abort())
    page.click("#send")
    expect(status).to_contain_text("does not respond")
    yield "no-network"
    page.unroute_all()
    page.select_option("#profile", "client")
    page.click("#send")
    expect(page.locator("#profile-hint")).to_contain_text("may not use profile 'client'")
    yield "wrong-profile"
    page.select_option("#profile", "server")
    page.select_option("#validity", "days")
    page.fill("#days", "8")
    page.click("#send")
    expect(page.locator("#validity-hint")).to_contain_text("from 1 to 7")
    yield "wrong-days"
    page.select_option("#validity", "PT1H")
    page.fill("#csr", CHANGED_CSR)
    page.click("#send")
    expect(page.locator("#result")).to_be_visible()
    yield "result"
    page.click("#more summary")
    yield "menu"
    page.click("text=Copy chain")
    expect(page.locator("#saves")).to_contain_text("Copied")
    yield "copied"


def key_states(page: Page) -> Iterator[str]:
    """Bring the form into each state of its second tab, and yield the name of the state."""
    page.click("#create-tab")
    yield "create"
    page.click("#names")
    page.keyboard.insert_text("https://www.example.com/path")
    yield "url"
    page.click("#use-host")
    page.fill("#key", API_KEY)
    page.click("#generate")
    expect(page.locator("#csr-seen")).to_contain_text("The CA issues all")
    yield "created"
    page.fill("#password", "correct horse")
    with page.expect_download():
        page.click("#save-key")
    expect(page.locator("#create-status")).to_contain_text("Downloaded")
    yield "key-saved"
    page.click("#send")
    expect(page.locator("#result")).to_be_visible()
    page.click("#more summary")
    yield "created-result"
    page.fill("#names", "localhost\na_b.example")
    page.click("#generate")
    expect(page.locator("#csr-seen")).to_contain_text("would refuse")
    page.click("#send")
    expect(page.locator("#names")).to_be_focused()
    yield "created-refused"


def plain_http_states(page: Page) -> Iterator[str]:
    """Yield the names of the form's states without a secure context."""
    yield "plain-http"
    page.click("#create-tab")
    yield "plain-http-create"


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that allows the profile `client` only to another API key."""
    directory = tmp_path_factory.mktemp("strict")
    (directory / "profiles.yaml").write_text("profiles: {client: {principals: [other]}}\n")
    options = ("--ephemeral", "--no-usage-plan", "--profiles", "profiles.yaml")
    with servers.certlet_server(directory, *options) as server:
        yield server


@pytest.mark.parametrize("viewport", VIEWPORTS.values(), ids=VIEWPORTS)
@pytest.mark.parametrize(
    ("states", "host"),
    [(csr_states, "127.0.0.1"), (key_states, "127.0.0.1"), (plain_http_states, "plain.example")],
    ids=["csr", "key", "plain-http"],
)
def test_states_are_stable_narrow_and_accessible(
    browser: Browser, strict_server: Server, viewport: Any, states: Callable[[Page], Iterator[str]], host: str
) -> None:
    """No element moves, not even after a click or a key; nothing scrolls sideways; axe-core finds nothing."""
    url = strict_server.url.replace("127.0.0.1", host)
    with open_tab(browser, f"{url}/sign", CONSOLE, viewport=viewport) as tab:
        page = tab.page
        page.evaluate(RECORD_SHIFTS)
        page.evaluate(AXE.read_text())
        page.wait_for_load_state("networkidle")
        for state in states(page):
            assert page.evaluate(READ_SHIFTS) == [], state
            assert page.evaluate(OVERFLOW) <= 0, state
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                tab.save_screenshot(f"{state}-{scheme}-{viewport['width']}")
                if state in ACCESSIBLE_STATES:
                    assert_accessible(tab)
            page.evaluate(READ_SHIFTS)  # of the screenshots, which are higher than the viewport


def test_moved_and_wide_elements_are_reported(form: Tab) -> None:
    """The checks of the layout find an element that moves, and one that is too wide."""
    form.page.evaluate(RECORD_SHIFTS)
    assert form.page.evaluate(READ_SHIFTS) == []
    assert form.page.evaluate(OVERFLOW) <= 0
    form.page.evaluate(
        "() => { document.getElementById('options').style = 'margin-top: 9px; width: 200vw'; }"
    )
    assert "options" in form.page.evaluate(READ_SHIFTS)[0]
    assert form.page.evaluate(OVERFLOW) > 0


@pytest.mark.parametrize("tab", ["paste", "create"])
def test_usual_case_is_above_the_fold(form: Tab, tab: str) -> None:
    """At 1280 x 800, nothing has to be scrolled from the first field to the download of the bundle."""
    page = form.page
    page.set_viewport_size({"width": 1280, "height": 800})
    page.click(f"#{tab}-tab")
    for card in ("#request", "#options"):
        expect(page.locator(card)).to_be_in_viewport(ratio=1)
    if tab == "create":
        page.fill("#names", "www.example.com")
        page.click("#generate")
    else:
        page.fill("#csr", CSR)
    page.fill("#key", API_KEY)
    expect(page.locator("#csr-seen")).to_contain_text("The CA issues all")
    expect(page.locator("#send")).to_be_in_viewport(ratio=1)
    assert page.evaluate("() => scrollY") == 0
    page.click("#send")
    expect(page.locator("#result-title")).to_be_focused()
    expect(page.locator("#save-bundle")).to_be_in_viewport(ratio=1)
