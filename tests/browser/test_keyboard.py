"""The web form without a mouse: after the page is open, tests only press keys, type and paste."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from playwright.sync_api import Browser, Download, expect

from tests import csrs
from tests.browser.tabs import STATUS_MESSAGE, Tab, open_tab
from tests.servers import API_KEY, Server

CSR = csrs.encode_pem(csrs.build("www.example.com", ["dns:www.example.com"])).decode()
REFUSED_CSR = csrs.encode_pem(csrs.build(None, ["dns:a_b.example"])).decode()
REFUSAL = "profile 'server' permits no underscores"
MOST_STOPS = 40
"""More than the page has."""

NAME = "const name = element => element === document.body ? 'body' : element.id || element.textContent;"
FOCUS = f"""() => {{
    {NAME}
    const element = document.activeElement;
    const {{outlineStyle, outlineWidth}} = getComputedStyle(element);
    const {{top, bottom}} = element.getBoundingClientRect();
    return {{
        name: name(element),
        isVisible: top < innerHeight && bottom > 0 && outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2
    }};
}}"""
FOCUSABLE = f"""() => {{
    {NAME}
    const elements = document.querySelectorAll('a, button, input, select, textarea, summary, [tabindex]');
    return Array.from(elements).filter(element => element.tabIndex >= 0 && !element.disabled && element.checkVisibility()).map(name);
}}"""


class Keyboard:
    """The keyboard of a tab. Each stop of the Tab key has to show the focus."""

    def __init__(self, tab: Tab) -> None:
        self.page = tab.page
        self.press, self.paste = tab.page.keyboard.press, tab.page.keyboard.insert_text
        self.type = tab.page.keyboard.type

    def stop(self, key: str = "Tab") -> str:
        """Press Tab. Return the id or the text of the element with the focus, or `body` after the last one."""
        self.press(key)
        focus = self.page.evaluate(FOCUS)
        assert focus["isVisible"] or focus["name"] == "body", focus
        return str(focus["name"])

    def go(self, selector: str, key: str = "Tab") -> None:
        """Press Tab until an element has the focus."""
        stops = []
        for _ in range(MOST_STOPS):
            stops.append(self.stop(key))
            if self.page.locator(selector).evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"{key} does not reach {selector}: {stops}")

    def download(self) -> Download:
        """Press Enter on a button, and return the file that it downloads."""
        with self.page.expect_download() as download:
            self.press("Enter")
        return download.value

    def expect_error(self, field: str, reason: str) -> None:
        """The field in error has the focus, is marked, and is described by the reason."""
        element = self.page.locator(field)
        expect(element).to_have_accessible_description(re.compile(re.escape(reason)))
        expect(element).to_have_attribute("aria-invalid", "true")
        expect(element).to_be_focused()


@pytest.fixture
def keyboard(form: Tab) -> Keyboard:
    return Keyboard(form)


@pytest.fixture
def refusal_keyboard(refusal_form: Tab) -> Keyboard:
    return Keyboard(refusal_form)


def test_csr_is_pasted_signed_and_downloaded(keyboard: Keyboard) -> None:
    """From the first key to the bundle, with another profile and another number of days."""
    page = keyboard.page
    keyboard.go("#csr")
    keyboard.paste(CSR)
    keyboard.go("#profile")
    expect(page.locator("#profile option")).to_have_count(3)
    keyboard.press("p")
    keyboard.go("#validity")
    keyboard.press("o")
    keyboard.go("#days")
    keyboard.type("3")
    keyboard.go("#key")
    keyboard.paste(API_KEY)
    expect(page.locator("#csr-seen")).to_contain_text("The CA issues all")
    keyboard.press("Enter")
    expect(page.locator("#result-title")).to_be_focused()
    expect(page.locator("#facts")).to_contain_text("3 days")
    expect(page.locator("#facts")).to_contain_text("peer")
    keyboard.go("#save-bundle")
    bundle = keyboard.download()
    assert bundle.suggested_filename == "www.example.com.pem"
    assert len(x509.load_pem_x509_certificates(Path(bundle.path()).read_bytes())) == 2
    keyboard.go("#text-title")
    keyboard.press("Enter")
    assert keyboard.stop() == "text"
    expect(page.locator("#text")).to_contain_text("Version: 3")
    keyboard.go("#pem-title")
    keyboard.press("Space")
    assert keyboard.stop() == "pem"


def test_key_is_created_downloaded_and_used(keyboard: Keyboard) -> None:
    """The arrow keys switch the tabs. The downloaded key is encrypted, and is the one of the certificate."""
    page = keyboard.page
    keyboard.go("#paste-tab")
    keyboard.press("ArrowRight")
    expect(page.locator("#create-tab")).to_be_focused()
    expect(page.locator("#create")).to_be_visible()
    keyboard.go("#names")
    keyboard.type("https://www.example.com:8443/path")
    keyboard.go("#use-host")
    keyboard.press("Enter")
    assert page.input_value("#names") == "www.example.com"
    expect(page.locator("#generate")).to_be_focused()
    keyboard.go("#kind", "Shift+Tab")
    keyboard.press("e")
    keyboard.go("#reveal")
    keyboard.press("Space")
    keyboard.go("#password")
    keyboard.type("correct horse")
    expect(page.locator("#password")).to_have_attribute("type", "text")
    keyboard.go("#reveal", "Shift+Tab")
    keyboard.press("Space")
    expect(page.locator("#password")).to_have_attribute("type", "password")
    keyboard.go("#generate")
    keyboard.press("Enter")
    expect(page.locator("#save-key")).to_be_focused()
    key_file = keyboard.download()
    assert key_file.suggested_filename == "www.example.com.key"
    keyboard.go("#key")
    keyboard.paste(API_KEY)
    keyboard.go("#remember")
    keyboard.press("Space")
    keyboard.go("#send")
    keyboard.press("Space")
    expect(page.locator("#result-title")).to_be_focused()
    keyboard.go("#save-bundle")
    bundle = keyboard.download()
    key = load_pem_private_key(Path(key_file.path()).read_bytes(), b"correct horse")
    certificates = x509.load_pem_x509_certificates(Path(bundle.path()).read_bytes())
    assert certificates[0].public_key() == key.public_key()


@pytest.mark.parametrize(
    ("key", "tab"), [("ArrowLeft", "#create-tab"), ("End", "#create-tab"), ("Home", "#paste-tab")]
)
def test_other_keys_switch_the_tabs(keyboard: Keyboard, key: str, tab: str) -> None:
    """Only the selected tab is a stop of the Tab key."""
    keyboard.go("#paste-tab")
    keyboard.press(key)
    expect(keyboard.page.locator(tab)).to_be_focused()
    expect(keyboard.page.locator(tab)).to_have_attribute("aria-selected", "true")
    assert keyboard.stop() == ("names" if tab == "#create-tab" else "csr")


def test_menu_opens_copies_and_closes(keyboard: Keyboard) -> None:
    """Escape closes the menu from each of its buttons, and the focus returns to the menu."""
    page = keyboard.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    keyboard.go("#csr")
    keyboard.paste(CSR)
    keyboard.go("#key")
    keyboard.paste(API_KEY)
    keyboard.press("Enter")
    expect(page.locator("#result-title")).to_be_focused()
    keyboard.go("#more summary")
    keyboard.press("Enter")
    assert keyboard.stop() == "Download certificate"
    keyboard.go("text='Copy chain'")
    keyboard.press("Enter")
    expect(page.locator("#saves button:focus")).to_have_text("Copied")
    clipboard = page.evaluate("() => navigator.clipboard.readText()")
    assert len(x509.load_pem_x509_certificates(clipboard.encode())) == 1
    keyboard.press("Escape")
    expect(page.locator("#saves")).to_be_hidden()
    expect(page.locator("#more summary")).to_be_focused()


def test_errors_of_a_pasted_csr_can_be_corrected(refusal_keyboard: Keyboard) -> None:
    """Each refusal moves the focus to its field. After the corrections, the CSR is signed."""
    keyboard, page = refusal_keyboard, refusal_keyboard.page
    keyboard.go("#send")
    keyboard.press("Enter")
    keyboard.expect_error("#csr", "Paste a certificate signing request first")
    keyboard.paste(REFUSED_CSR)
    keyboard.go("#key")
    keyboard.press("Enter")
    keyboard.expect_error("#key", "Enter an API key")
    keyboard.paste(API_KEY[::-1])
    keyboard.press("Enter")
    keyboard.expect_error("#key", "The CA does not accept this API key")
    assert keyboard.stop() == "Read more"
    keyboard.go("#key", "Shift+Tab")
    keyboard.press("Control+a")
    keyboard.paste(API_KEY)
    keyboard.press("Enter")
    keyboard.expect_error("#csr", REFUSAL)
    keyboard.press("Control+a")
    keyboard.paste(CSR)
    keyboard.go("#validity")
    keyboard.press("o")
    keyboard.go("#days")
    keyboard.press("Enter")
    keyboard.expect_error("#days", "Enter a number of days from 1 to 7")
    keyboard.type("7")
    keyboard.press("Enter")
    expect(page.locator("#result-title")).to_be_focused()


def test_errors_of_names_can_be_corrected(refusal_keyboard: Keyboard) -> None:
    """A refusal of a created CSR moves the focus to its names."""
    keyboard, page = refusal_keyboard, refusal_keyboard.page
    page.on("dialog", lambda dialog: dialog.accept())
    keyboard.go("#paste-tab")
    keyboard.press("ArrowRight")
    keyboard.go("#generate")
    keyboard.press("Enter")
    expect(page.locator("#names")).to_be_focused()
    expect(page.locator("#names")).to_have_accessible_description(re.compile("Enter at least one name"))
    keyboard.type("a_b.example")
    keyboard.go("#generate")
    keyboard.press("Enter")
    expect(page.locator("#save-key")).to_be_focused()
    keyboard.go("#key")
    keyboard.paste(API_KEY)
    keyboard.press("Enter")
    keyboard.expect_error("#names", REFUSAL)
    keyboard.press("Control+a")
    keyboard.type("www.example.com")
    keyboard.go("#generate")
    keyboard.press("Enter")
    expect(page.locator("#save-key")).to_be_focused()
    keyboard.go("#send")
    keyboard.press("Enter")
    expect(page.locator("#result-title")).to_be_focused()


def test_arrow_keys_do_not_move_the_focus(keyboard: Keyboard) -> None:
    """The choice of another number of days shows its field, and leaves the focus (WCAG 2.2 3.2.2)."""
    keyboard.go("#validity")
    expect(keyboard.page.locator("#validity option")).to_have_count(4)
    for _ in range(4):
        keyboard.press("ArrowDown")
    expect(keyboard.page.locator("#days")).to_be_visible()
    expect(keyboard.page.locator("#validity")).to_be_focused()


@pytest.mark.parametrize("width", [1280, 360])
def test_tab_key_reaches_everything_in_both_directions(browser: Browser, server: Server, width: int) -> None:
    """Nothing traps the focus: Tab visits each element once, and Shift+Tab the same ones in reverse."""
    options = {"viewport": {"width": width, "height": 740}}
    with open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE, **options) as tab:
        keyboard = Keyboard(tab)
        assert_no_trap(keyboard)
        keyboard.go("#csr")
        keyboard.paste(CSR)
        keyboard.go("#key")
        keyboard.paste(API_KEY)
        keyboard.press("Enter")
        expect(tab.page.locator("#result-title")).to_be_focused()
        keyboard.go("#more summary")
        keyboard.press("Enter")
        assert_no_trap(keyboard)


def assert_no_trap(keyboard: Keyboard) -> None:
    """Visit all elements from the first one, until the focus returns there."""
    names = keyboard.page.evaluate(FOCUSABLE)
    keyboard.go(".brand")
    for key, expected in (("Tab", [*names[1:], names[0]]), ("Shift+Tab", names[::-1])):
        stops = [keyboard.stop(key) for _ in range(len(names) + 1)]
        stops = [stop for stop in stops if stop != "body"]
        assert stops[: len(names)] == expected
