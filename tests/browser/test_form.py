from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.sync_api import Browser, Route, expect

from deploy import embed_pages
from service.pki import keys
from tests import csrs, servers
from tests.browser.tabs import CHROMIUM_S_ADVICE, REFUSED, Tab, opened
from tests.servers import API_KEY, Server

AXE = Path(__file__).with_name("node_modules") / "axe-core" / "axe.min.js"


GOOD = csrs.encode_pem(csrs.build("www.example.com", ["dns:www.example.com", "ip:10.0.0.1"]))


def test_paste_and_sign(form: Tab) -> None:
    """A pasted request is shown for what it is, signed, and the answer shows first what matters."""
    page = form.page
    page.fill("#csr", GOOD.decode())
    expect(page.locator("#csr-seen")).to_contain_text("CN=www.example.com")
    expect(page.locator("#csr-seen")).to_contain_text("DNS www.example.com, IP 10.0.0.1")
    expect(page.locator("#csr-seen")).to_contain_text("P-256")
    form.sign(GOOD)
    expect(page.locator("#status")).to_have_text("Signed.")
    expect(page.locator("#facts")).to_contain_text("DNS:www.example.com, IP Address:10.0.0.1")
    expect(page.locator("#facts")).to_contain_text("89 days left")
    expect(page.locator("#notes")).to_contain_text("Nothing was omitted")
    assert "BEGIN CERTIFICATE" in page.inner_text("#pem")
    expect(page.locator("#result-title")).to_be_focused()
    x509.load_pem_x509_certificates(page.inner_text("#pem").encode())
    assert page.inner_text("#text").startswith("Certificate:")
    form.shot("signed")


def test_nothing_is_loaded_from_anywhere(form: Tab, server: Server) -> None:
    """The page is one request; the profiles are asked for when somebody begins, and once."""
    form.page.wait_for_load_state("networkidle")
    assert form.requests == [f"{server.url}/sign"]
    form.page.focus("#csr")
    expect(form.page.locator("#profile-seen")).to_contain_text("valid for 90 days")
    form.page.focus("#key")
    assert [url for url in form.requests if "data:" not in url] == [
        f"{server.url}/sign",
        f"{server.url}/profiles",
    ]
    form.page.select_option("#profile", "peer")
    expect(form.page.locator("#profile-seen")).to_contain_text("serverAuth, clientAuth")


def test_nothing_moves(form: Tab) -> None:
    """What the page shows of a request and of a profile does not push the rest about."""
    before = form.page.locator("#send").bounding_box()
    form.page.fill("#csr", GOOD.decode())
    expect(form.page.locator("#profile-seen")).to_contain_text("valid for 90 days")
    assert form.page.locator("#send").bounding_box() == before


@pytest.mark.parametrize("stage", ["/prod/sign", "/prod/sign/"])
def test_any_stage(browser: Browser, tmp_path: Path, stage: str) -> None:
    """The page finds its API below any stage, with a slash at its end or without."""
    with servers.serving(tmp_path, "--ephemeral", "--stage", "prod") as server:
        root = server.url.removesuffix("/prod")
        with opened(browser, root + stage) as tab:
            tab.sign(GOOD, profile="client")
            expect(tab.page.locator("#status")).to_have_text("Signed.")


def test_a_der_file_is_dropped_or_chosen(form: Tab, tmp_path: Path) -> None:
    """A DER file is read in the browser, dropped on the field or chosen."""
    der = csrs.encode_der(csrs.build("der.example.com", key_type="rsa-2048"))
    (tmp_path / "request.der").write_bytes(der)
    page = form.page
    page.set_input_files("#file", str(tmp_path / "request.der"))
    expect(page.locator("#csr-seen")).to_contain_text("RSA-2048")
    page.fill("#csr", "")
    drop = """octets => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(octets)], 'request.der'));
        document.getElementById('csr').dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, list(der))
    expect(page.locator("#csr-seen")).to_contain_text("CN=der.example.com")
    page.fill("#key", API_KEY)
    page.click("#send")
    expect(page.locator("#status")).to_have_text("Signed.")
    expect(page.locator("#notes")).to_contain_text("common name added")


PRIVATE = csrs.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PRIVATE, "private key"),
        (PRIVATE + GOOD, "private key"),
        (CERTIFICATE, "This is a certificate, not"),
        (b"garbage!", "not a certificate signing request (PEM or base64)"),
        (GOOD.replace(b"-----END", b"----END"), "(PEM or base64)"),
        (GOOD.replace(b"\nMI", b"\nMA"), "not a valid certificate signing request"),
    ],
)
def test_what_is_no_request_is_said_and_not_sent(form: Tab, text: bytes, said: str) -> None:
    """A private key, a certificate or garbage is named at once, and never leaves the browser."""
    form.page.fill("#csr", text.decode())
    form.page.fill("#key", API_KEY)
    expect(form.page.locator("#csr-faults")).to_contain_text(said)
    form.page.click("#send")
    expect(form.page.locator("#status")).to_have_text("Not sent.")
    assert not any(form.bodies)


def test_a_private_key_file_is_named_in_der_too(form: Tab, server: Server, tmp_path: Path) -> None:
    """A private key or a certificate in DER is recognised by its structure."""
    key = csrs.private_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.der").write_bytes(key)
    (tmp_path / "ca.der").write_bytes(server.request("GET", "/ca.crt").body)
    form.page.set_input_files("#file", str(tmp_path / "key.der"))
    expect(form.page.locator("#csr-faults")).to_contain_text("private key")
    form.page.set_input_files("#file", str(tmp_path / "ca.der"))
    expect(form.page.locator("#csr-faults")).to_contain_text("a certificate, not")
    assert not any(form.bodies)


@pytest.mark.parametrize("kind", csrs.KEY_TYPES)
def test_every_kind_of_key_is_named(form: Tab, kind: str) -> None:
    """What the page says of a request is what the core says of it."""
    request = csrs.build(
        "a.example", ["dns:*.b.example", "ip:2001:db8::ff", "email:a@b.example", "uri:urn:x:y"], key_type=kind
    )
    form.page.fill("#csr", csrs.encode_pem(request).decode())
    seen = form.page.locator("#csr-seen")
    expect(seen).to_contain_text(keys.describe_key(csrs.private_key(kind).public_key()))
    expect(seen).to_contain_text("DNS *.b.example, IP 2001:db8:0:0:0:0:0:ff, email a@b.example, URI urn:x:y")


@pytest.mark.parametrize(
    ("kind", "openssl"), [("P-256", "P-256"), ("2048", "2048 bit"), ("3072", "3072 bit")]
)
def test_a_key_and_a_request_are_made_here(
    browser: Browser, server: Server, tmp_path: Path, kind: str, openssl: str
) -> None:
    """The page makes a key and a request that openssl verifies; signed, they do a TLS handshake."""
    names = ["www.example.com", "*.example.com", "bücher.example", "127.0.0.1", "2001:db8::1", "::"]
    names += [f"host-{number}.example.com" for number in range(60)]
    with opened(browser, f"{server.url}/sign", accept_downloads=True) as tab:
        page = tab.page
        page.click("summary")
        page.fill("#names", "\n".join(names))
        page.select_option("#kind", kind)
        page.click("#generate")
        expect(page.locator("#make-faults")).to_contain_text("Created.", timeout=60_000)
        with page.expect_download() as download:
            page.click("#save-key")
        download.value.save_as(tmp_path / "key.pem")
        (tmp_path / "a.csr").write_text(page.input_value("#csr"))
        shown = servers.run("openssl", "req", "-in", "a.csr", "-verify", "-noout", "-text", cwd=tmp_path)
        assert "verify OK" in shown.stderr
        assert openssl in shown.stdout
        for name in (
            "DNS:xn--bcher-kva.example",
            "DNS:*.example.com",
            "IP Address:127.0.0.1",
            "IP Address:2001:DB8:0:0:0:0:0:1",
            "DNS:host-59.example.com",
        ):
            assert name in shown.stdout
        page.fill("#key", API_KEY)
        page.click("#send")
        expect(page.locator("#status")).to_have_text("Signed.")
        (tmp_path / "crt.pem").write_text(page.inner_text("#pem") + "\n")
        assert not any("PRIVATE" in body for body in tab.bodies)
    root = ssl.DER_cert_to_PEM_cert(server.request("GET", "/root.crt").body)
    files = ("--tls-cert", "crt.pem", "--tls-key", "key.pem")
    with servers.serving(tmp_path, "--ephemeral", *files) as shaking_hands:
        client = ssl.create_default_context(cadata=root)
        assert shaking_hands.request("GET", "/health", context=client).status == 200


@pytest.mark.parametrize("names", ["", "a:b:c", "a/b c", "a..b", "1.2.3.", "b\u00fc/x"])
def test_a_name_that_cannot_be_written_is_said(form: Tab, names: str) -> None:
    """No name, or one that is none, makes no request."""
    form.page.click("summary")
    form.page.fill("#names", names)
    form.page.click("#generate")
    expect(form.page.locator("#make-faults")).to_contain_text(re.compile("at least one name|Invalid name"))
    assert form.page.input_value("#csr") == ""


def test_a_wrong_key_is_said_at_the_key(refusing: Tab) -> None:
    """403 has its own words, at the field that it is about, which has the focus."""
    refusing.sign(GOOD, key="x" * 40)
    expect(refusing.page.locator("#key-faults")).to_contain_text("Unknown API key")
    expect(refusing.page.locator("#key")).to_be_focused()
    expect(refusing.page.locator("#key")).to_have_attribute("aria-invalid", "true")
    expect(refusing.page.locator("#result")).to_be_hidden()


def test_a_profile_that_is_for_others_is_said_at_the_profile(browser: Browser, tmp_path: Path) -> None:
    """A 403 that is not about the key does not blame the key."""
    (tmp_path / "profiles.yaml").write_text("profiles: {client: {principals: [nobody]}}\n")
    with (
        servers.serving(tmp_path, "--ephemeral", "--profiles", "profiles.yaml") as server,
        opened(browser, f"{server.url}/sign", REFUSED) as tab,
    ):
        tab.sign(GOOD, profile="client")
        expect(tab.page.locator("#profile-faults")).to_contain_text(
            "The profile client is not for this caller."
        )
        expect(tab.page.locator("#profile")).to_be_focused()
        expect(tab.page.locator("#key-faults li")).to_have_count(0)


def test_a_refused_name_is_said_at_the_request(refusing: Tab) -> None:
    """A refusal shows every reason next to what it is about."""
    refusing.sign(csrs.encode_pem(csrs.build("localhost", ["dns:a_b.example", "dns:ok.example"])))
    expect(refusing.page.locator("#csr-faults li")).to_have_count(2)
    expect(refusing.page.locator("#csr-faults")).to_contain_text(
        "subject_alt_name[0]: dns:a_b.example: the profile server permits no underscores"
    )
    expect(refusing.page.locator("#csr")).to_be_focused()
    refusing.shot("refused")


def test_throttled_and_cut_off(browser: Browser, tmp_path: Path) -> None:
    """429 and "no network" each have their own words."""
    with servers.serving(tmp_path, "--ephemeral") as server:
        used_up, shown = threading.Event(), threading.Event()

        def use_up() -> None:
            while not shown.is_set():  # for what comes back in a tenth of a second would be the page's
                if server.sign({}).status == 429:
                    used_up.set()

        def wait(route: Route) -> None:
            assert used_up.wait(20)
            route.continue_()

        with opened(browser, f"{server.url}/sign", REFUSED) as tab:
            using = threading.Thread(target=use_up)
            using.start()
            try:
                tab.page.route("**/sign", wait)
                tab.sign(GOOD)
                expect(tab.page.locator("#status")).to_contain_text("too many requests")
            finally:
                shown.set()
                using.join()
        with opened(browser, f"{server.url}/sign", ("ERR_FAILED",)) as tab:
            tab.page.route("**/sign", lambda route: route.abort())
            tab.sign(GOOD)
            expect(tab.page.locator("#status")).to_contain_text("no response from the server")


@pytest.mark.parametrize("text", ["<img src=x onerror=document.title='hacked'>", "</script><b>x"])
def test_a_hostile_subject_is_text(form: Tab, text: str) -> None:
    """Nothing from a request or a certificate is put in as HTML."""
    form.sign(csrs.encode_pem(csrs.build(text)), profile="client")
    expect(form.page.locator("#status")).to_have_text("Signed.")
    assert form.page.title() == "Certlet: sign a certificate signing request"
    assert form.page.locator("img, #result b").count() == 0


@pytest.mark.parametrize(
    ("text", "shown"), [("x\x1b[2J\ny", "\\u001b[2J\\u000ay"), ("a\u202egpj.exe", "a\\u202egpj.exe")]
)
def test_control_characters_are_shown_escaped(refusing: Tab, text: str, shown: str) -> None:
    """A subject with characters that control a terminal, or the direction of text, is refused."""
    refusing.sign(csrs.encode_pem(csrs.build(text)), profile="client")
    assert shown in refusing.page.inner_text("#csr-seen")
    expect(refusing.page.locator("#csr-faults")).to_contain_text("control character")
    assert "\u202e" not in refusing.page.inner_text("body")


def test_the_key_is_remembered_on_request_alone(form: Tab, server: Server) -> None:
    """The API key is in no source, and in the form's storage only if somebody says so."""
    assert API_KEY not in server.request("GET", "/sign").body.decode()
    form.sign(GOOD)
    assert form.page.evaluate("sessionStorage.length") == 0
    form.page.check("#remember")
    form.page.reload()
    assert form.page.input_value("#key") == API_KEY
    form.page.uncheck("#remember")
    form.page.reload()
    assert form.page.input_value("#key") == ""
    assert form.page.evaluate("localStorage.length") == 0


def test_the_keyboard_suffices(browser: Browser, server: Server) -> None:
    """From the first field to the saved bundle without a mouse."""
    with opened(browser, f"{server.url}/sign", accept_downloads=True) as tab:
        page = tab.page
        visited = []

        def tab_to(selector: str) -> None:
            for _ in range(20):
                page.keyboard.press("Tab")
                visited.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
                if page.locator(selector).evaluate("element => element === document.activeElement"):
                    return
            raise AssertionError(f"{selector} is not reached: {visited}")

        tab_to("#csr")
        page.keyboard.insert_text(GOOD.decode())
        tab_to("#profile")
        expect(page.locator("#profile option")).to_have_count(3)
        page.keyboard.press("p")
        tab_to("#key")
        page.keyboard.type(API_KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_have_text("Signed.")
        expect(page.locator("#facts")).to_contain_text("peer")
        tab_to("#saves button:last-of-type")
        page.keyboard.press("Shift+Tab")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert download.value.suggested_filename == "bundle.pem"
        assert len(x509.load_pem_x509_certificates(Path(download.value.path()).read_bytes())) == 2


def test_copying(browser: Browser, server: Server) -> None:
    """The copy buttons put PEM on the clipboard."""
    with opened(browser, f"{server.url}/sign", permissions=["clipboard-read", "clipboard-write"]) as tab:
        tab.sign(GOOD)
        tab.page.click("text=Copy chain")
        expect(tab.page.locator("#status")).to_have_text("Copied chain.")
        copied = tab.page.evaluate("navigator.clipboard.readText()").encode()
        assert len(x509.load_pem_x509_certificates(copied)) == 1


def own_address() -> str | None:
    """An address of this machine's own that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: it asks the routing table
        return str(probe.getsockname()[0])
    return None


def test_without_a_secure_context(browser: Browser, tmp_path: Path) -> None:
    """Over plain HTTP from elsewhere the page hides key making and copying, says why, and still signs."""
    address = own_address()
    host = ("--host", address, "--insecure-http") if address else ()
    with servers.serving(tmp_path, "--ephemeral", *host) as server:
        # A machine without such an address has a name that browsers do not take for loopback.
        url = server.url if address else server.url.replace("127.0.0.1", "plain.example")
        with opened(browser, f"{url}/sign") as tab:
            assert not tab.page.evaluate("window.isSecureContext")
            tab.page.click("summary")
            expect(tab.page.locator("#maker")).to_be_hidden()
            expect(tab.page.locator("#make-hint")).to_contain_text("plain HTTP")
            tab.sign(GOOD)
            expect(tab.page.locator("#status")).to_have_text("Signed.")
            expect(tab.page.locator("text=Copy chain")).to_be_hidden()
            expect(tab.page.locator("text=Save chain")).to_be_visible()


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 320, "height": 640}},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(browser: Browser, server: Server, look: str) -> None:
    """axe-core finds nothing against WCAG 2.2 AA: empty, refused and signed; light, dark and narrow."""
    with opened(browser, f"{server.url}/sign", REFUSED, **LOOKS[look]) as tab:
        tab.page.evaluate(AXE.read_text())
        tab.page.click("summary")
        judge(tab)
        tab.shot(look)
        tab.sign(csrs.encode_pem(csrs.build("localhost")))
        judge(tab)
        tab.sign(GOOD)
        judge(tab)
        width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.page.evaluate(width)


def judge(tab: Tab) -> None:
    """No violation, and the judge did look."""
    run = (
        "() => axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    found = tab.page.evaluate(run)
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_axe_would_find_something(form: Tab) -> None:
    """The twin: a label taken away is found."""
    form.page.evaluate(AXE.read_text())
    form.page.evaluate("document.querySelector('label[for=key]').remove()")
    found = form.page.evaluate("() => axe.run()")
    assert "label" in [each["id"] for each in found["violations"]]


@pytest.mark.parametrize("page", ["/sign", "/docs"])
def test_the_policy_stops_what_is_not_the_page_s(browser: Browser, server: Server, page: str) -> None:
    """An inline script, and a request to elsewhere, are stopped by the Content-Security-Policy."""
    expected = ("Content Security Policy", "CompoundError", "blocked", CHROMIUM_S_ADVICE)
    with opened(browser, server.url + page, expected) as tab:
        tab.page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'document.title = 1';"
            " document.body.append(s); }"
        )
        assert tab.page.title() != "1"
        stopped = tab.page.evaluate("() => fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'stopped')")
        assert stopped == "stopped"
        assert any("Content Security Policy" in line for line in tab.complaints)


def test_the_contract_holds_the_page() -> None:
    """openapi.yaml holds deploy/form.html, its hashes are the policy's, and it is small."""
    page, text = embed_pages.SOURCE.read_text(), embed_pages.CONTRACT.read_text()
    assert embed_pages.embed(text, page) == text
    assert embed_pages.embed(text, page.replace("Sign a", "Sign the")) != text
    assert embed_pages.embed(text.replace("    remedy: ", "    remedy: Again, "), page).count("Again, ") == 38
    assert len(page.encode()) < embed_pages.MAX_BYTES


@pytest.mark.parametrize("stage", ["", "prod"])
def test_a_refusal_is_explained(browser: Browser, tmp_path: Path, stage: str) -> None:
    """Whatever is refused, the form has a link to the place that explains it, in a tab of its own, below any stage."""
    options = ["--stage", stage] if stage else []
    with (
        servers.serving(tmp_path, "--ephemeral", *options) as server,
        opened(browser, f"{server.url}/sign", REFUSED) as tab,
    ):
        for csr, key, code in (
            (csrs.build("localhost."), API_KEY, "rejectedIdentifier"),
            (csrs.build(), API_KEY[::-1], "unauthorized"),
        ):
            tab.sign(csrs.encode_pem(csr), key)
            with tab.page.expect_popup() as opening:
                tab.page.click("#status a")
            expect(opening.value.locator(f"section#{code} h2")).to_be_in_viewport()
            assert opening.value.url == f"{server.url}/problems#{code}"
        tab.sign(GOOD)
        expect(tab.page.locator("#status a")).to_have_count(0)


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_about_problems(browser: Browser, server: Server, look: str) -> None:
    """A problem's type leads to its place on the page, which is one request, and axe-core finds nothing."""
    problem = server.sign({"csr": "garbage"}).json()
    with opened(browser, server.url + problem["type"], **LOOKS[look]) as tab:
        expect(tab.page.locator(f"section#{problem['code']} h2")).to_be_in_viewport()
        assert [url for url in tab.requests if "data:" not in url] == [f"{server.url}/problems"]
        tab.page.click("nav a[href='#timeout']")
        expect(tab.page.locator("section#timeout")).to_be_in_viewport()
        tab.shot(f"problems-{look}")
        tab.page.evaluate(AXE.read_text())
        judge(tab)
