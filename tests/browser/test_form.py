from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from playwright.sync_api import Browser, Page, Route, expect

from service.pki import keys
from tests import csrs, input_forms, servers
from tests.browser.tabs import AUTOCOMPLETE_ADVICE, STATUS_MESSAGE, Tab, open_tab
from tests.servers import API_KEY, Server
from tests.test_csr_cases import CASES, RIGHT_ANSWERS, Signed

AXE = Path(__file__).with_name("node_modules") / "axe-core" / "axe.min.js"
CSR = csrs.encode_pem(csrs.build("www.example.com", ["dns:www.example.com", "ip:10.0.0.1"]))


def test_pasted_csr_is_signed(form: Tab) -> None:
    """A pasted CSR is described and signed, and the result shows the main fields of the certificate."""
    page = form.page
    page.fill("#csr", CSR.decode())
    expect(page.locator("#csr-seen")).to_contain_text("CN=www.example.com")
    expect(page.locator("#csr-seen")).to_contain_text("DNS www.example.com, IP 10.0.0.1")
    expect(page.locator("#csr-seen")).to_contain_text("P-256")
    form.sign(CSR)
    expect(page.locator("#status")).to_have_text("Signed.")
    expect(page.locator("#facts")).to_contain_text("DNS:www.example.com, IP Address:10.0.0.1")
    expect(page.locator("#facts")).to_contain_text("6 days left")
    expect(page.locator("#notes")).to_contain_text("Nothing was omitted")
    assert "BEGIN CERTIFICATE" in page.inner_text("#pem")
    expect(page.locator("#result-title")).to_be_focused()
    x509.load_pem_x509_certificates(page.inner_text("#pem").encode())
    assert page.inner_text("#text").startswith("Certificate:")
    form.save_screenshot("signed")


def test_page_loads_nothing_but_the_profiles(form: Tab, server: Server) -> None:
    """The page is a single request; it loads the profiles once, when the form gets the focus."""
    form.page.wait_for_load_state("networkidle")
    assert form.requests == [f"{server.url}/sign"]
    form.page.focus("#csr")
    expect(form.page.locator("#profile-seen")).to_contain_text("valid for 7 days")
    form.page.focus("#key")
    assert [url for url in form.requests if "data:" not in url] == [
        f"{server.url}/sign",
        f"{server.url}/profiles",
    ]
    form.page.select_option("#profile", "peer")
    expect(form.page.locator("#profile-seen")).to_contain_text("serverAuth, clientAuth")


def test_layout_does_not_shift(form: Tab) -> None:
    """The descriptions of the CSR and of the profile do not move other elements."""
    before = form.page.locator("#send").bounding_box()
    form.page.fill("#csr", CSR.decode())
    expect(form.page.locator("#profile-seen")).to_contain_text("valid for 7 days")
    assert form.page.locator("#send").bounding_box() == before


@pytest.mark.parametrize("stage", ["/prod/sign", "/prod/sign/"])
def test_form_works_below_a_stage(browser: Browser, tmp_path: Path, stage: str) -> None:
    """The page finds its API below a stage, with or without a trailing slash."""
    with servers.certlet_server(tmp_path, "--ephemeral", "--stage", "prod") as server:
        root = server.url.removesuffix("/prod")
        with open_tab(browser, root + stage) as tab:
            tab.sign(CSR, profile="client")
            expect(tab.page.locator("#status")).to_have_text("Signed.")


def test_der_file_can_be_dropped_or_chosen(form: Tab, tmp_path: Path) -> None:
    """The browser reads a DER file that is dropped on the field or chosen."""
    der = csrs.encode_der(csrs.build("der.example.com", key_type="rsa-2048"))
    (tmp_path / "request.der").write_bytes(der)
    page = form.page
    page.set_input_files("#file", str(tmp_path / "request.der"))
    expect(page.locator("#csr-seen")).to_contain_text("RSA-2048")
    page.fill("#csr", "")
    drop_file(page, der)
    expect(page.locator("#csr-seen")).to_contain_text("CN=der.example.com")
    page.fill("#key", API_KEY)
    page.click("#send")
    expect(page.locator("#status")).to_have_text("Signed.")
    expect(page.locator("#notes")).to_contain_text("common name added")


def drop_file(page: Page, data: bytes) -> None:
    """Drop a file on the field of the CSR."""
    drop = """octets => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(octets)], 'request'));
        document.getElementById('csr').dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, list(data))


def enter(page: Page, way: str, data: bytes) -> None:
    """Choose or drop a file, or paste text."""
    page.fill("#csr", "")
    if way == "choose":
        page.set_input_files("#file", {"name": "request", "mimeType": "", "buffer": data})
    elif way == "drop":
        drop_file(page, data)
    else:
        page.fill("#csr", data.decode())


def ways(data: bytes) -> tuple[str, ...]:
    """The ways to enter data in the form; only text without NUL can be pasted."""
    return ("choose", "drop", "paste") if data.isascii() and b"\0" not in data else ("choose", "drop")


REFUSED = {name: data for name, (data, _) in input_forms.OTHER_FORMATS.items()}


def test_form_accepts_what_the_service_accepts(form: Tab) -> None:
    """Every form of a CSR that is read is previewed and signed, as a file and as text."""
    page = form.page
    for name, data in input_forms.ALL.items():
        for way in ways(data):
            enter(page, way, data)
            expect(page.locator("#csr-seen"), f"{way} {name}").to_contain_text("DNS x.example")
            form.send()
            expect(page.locator("#status"), f"{way} {name}").to_have_text("Signed.")
            expect(page.locator("#facts")).to_contain_text("DNS:x.example")


def test_form_refuses_what_the_service_refuses(refusal_form: Tab, server: Server) -> None:
    """Other formats get the refusal of `/sign`."""
    page = refusal_form.page
    for name, data in REFUSED.items():
        refusal = server.sign({"csr": base64.b64encode(data).decode()}).json()
        for way in ways(data):
            enter(page, way, data)
            refusal_form.send()
            expect(page.locator("#csr-faults"), name).to_contain_text(refusal["detail"])
            expect(page.locator("#status"), name).to_contain_text("Not signed.")


@pytest.mark.parametrize("name", RIGHT_ANSWERS)
def test_form_gives_the_right_answer(refusal_form: Tab, name: str) -> None:
    """A CSR that is not DER is signed, or refused with every reason, as by `/sign`."""
    answer = RIGHT_ANSWERS[name]
    page = refusal_form.page
    enter(page, "choose", (CASES / name).read_bytes())
    if isinstance(answer, Signed):
        refusal_form.send(profile=answer.profile)
        expect(page.locator("#status")).to_have_text("Signed.")
        fragments, texts = answer.notes, page.locator("#notes")
    else:
        refusal_form.send()
        expect(page.locator("#status")).to_contain_text("Not signed.")
        fragments, texts = answer.fragments, page.locator("#csr-faults")
    for fragment in fragments:
        expect(texts).to_contain_text(fragment)


def test_private_key_is_never_sent(form: Tab) -> None:
    """A private key is recognised in every form, reported immediately, and not sent."""
    page = form.page
    page.fill("#key", API_KEY)
    for name, data in input_forms.PRIVATE_KEYS.items():
        for way in ways(data):
            enter(page, way, data)
            expect(page.locator("#csr-faults"), name).to_contain_text("private key. It was not sent")
            page.click("#send")
            expect(page.locator("#status"), name).to_have_text("Not sent.")
    assert not any(form.bodies)


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
def test_key_type_of_csr_is_shown(form: Tab, key_type: str) -> None:
    """The page describes the key of a CSR like the service."""
    request = csrs.build(
        "a.example",
        ["dns:*.b.example", "ip:2001:db8::ff", "email:a@b.example", "uri:urn:x:y"],
        key_type=key_type,
    )
    form.page.fill("#csr", csrs.encode_pem(request).decode())
    description = form.page.locator("#csr-seen")
    expect(description).to_contain_text(keys.describe_key(csrs.private_key(key_type).public_key()))
    expect(description).to_contain_text(
        "DNS *.b.example, IP 2001:db8:0:0:0:0:0:ff, email a@b.example, URI urn:x:y"
    )


@pytest.mark.parametrize(
    ("kind", "openssl"), [("P-256", "P-256"), ("2048", "2048 bit"), ("3072", "3072 bit")]
)
def test_created_key_and_csr_work(
    browser: Browser, server: Server, tmp_path: Path, kind: str, openssl: str
) -> None:
    """openssl verifies the created CSR, and a TLS server can use the key with the certificate."""
    names = ["www.example.com", "*.example.com", "bücher.example", "127.0.0.1", "2001:db8::1", "::"]
    names += [f"host-{number}.example.com" for number in range(60)]
    with open_tab(browser, f"{server.url}/sign", accept_downloads=True) as tab:
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
        output = servers.run("openssl", "req", "-in", "a.csr", "-verify", "-noout", "-text", cwd=tmp_path)
        assert "verify OK" in output.stderr
        assert openssl in output.stdout
        for name in (
            "DNS:xn--bcher-kva.example",
            "DNS:*.example.com",
            "IP Address:127.0.0.1",
            "IP Address:2001:DB8:0:0:0:0:0:1",
            "DNS:host-59.example.com",
        ):
            assert name in output.stdout
        page.fill("#key", API_KEY)
        page.click("#send")
        expect(page.locator("#status")).to_have_text("Signed.")
        (tmp_path / "crt.pem").write_text(page.inner_text("#pem") + "\n")
        assert not any("PRIVATE" in body for body in tab.bodies)
    root = ssl.DER_cert_to_PEM_cert(server.request("GET", "/root.crt").body)
    files = ("--tls-cert", "crt.pem", "--tls-key", "key.pem")
    with servers.certlet_server(tmp_path, "--ephemeral", *files) as tls_server:
        client = ssl.create_default_context(cadata=root)
        assert tls_server.request("GET", "/health", context=client).status == 200


@pytest.mark.parametrize("names", ["", "a:b:c", "a/b c", "a..b", "1.2.3.", "b\u00fc/x"])
def test_invalid_name_is_reported(form: Tab, names: str) -> None:
    """Without a valid name, no CSR is created."""
    form.page.click("summary")
    form.page.fill("#names", names)
    form.page.click("#generate")
    expect(form.page.locator("#make-faults")).to_contain_text(re.compile("at least one name|Invalid name"))
    assert form.page.input_value("#csr") == ""


def test_wrong_api_key_is_reported_at_its_field(refusal_form: Tab) -> None:
    """A 403 is reported at the API key field, which gets the focus."""
    refusal_form.sign(CSR, key="x" * 40)
    expect(refusal_form.page.locator("#key-faults")).to_contain_text("Unknown API key")
    expect(refusal_form.page.locator("#key")).to_be_focused()
    expect(refusal_form.page.locator("#key")).to_have_attribute("aria-invalid", "true")
    expect(refusal_form.page.locator("#result")).to_be_hidden()


def test_wrong_api_key_with_est_on_aws_is_reported_at_its_field(refusal_form: Tab) -> None:
    """With EST on AWS, the status of a wrong API key is 401."""
    problem = json.dumps({"code": "unauthorized", "status": 401})
    headers = {"WWW-Authenticate": "Basic"}
    refusal_form.page.route("**/sign", lambda route: route.fulfill(status=401, headers=headers, body=problem))
    refusal_form.sign(CSR, key="x" * 40)
    expect(refusal_form.page.locator("#key-faults")).to_contain_text("Unknown API key")


def test_forbidden_profile_is_reported_at_its_field(browser: Browser, tmp_path: Path) -> None:
    """A 403 for the profile is not reported at the API key field."""
    (tmp_path / "profiles.yaml").write_text("profiles: {client: {principals: [other]}}\n")
    with (
        servers.certlet_server(tmp_path, "--ephemeral", "--profiles", "profiles.yaml") as server,
        open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE) as tab,
    ):
        tab.sign(CSR, profile="client")
        expect(tab.page.locator("#profile-faults")).to_contain_text(
            "Caller 'default' may not use profile 'client'"
        )
        expect(tab.page.locator("#profile")).to_be_focused()
        expect(tab.page.locator("#key-faults li")).to_have_count(0)


def test_refused_names_are_reported_at_the_csr(refusal_form: Tab) -> None:
    """A refusal shows each problem next to its field."""
    refusal_form.sign(csrs.encode_pem(csrs.build("localhost", ["dns:a_b.example", "dns:ok.example"])))
    expect(refusal_form.page.locator("#csr-faults li")).to_have_count(2)
    expect(refusal_form.page.locator("#csr-faults")).to_contain_text(
        "subject_alt_name[0]: dns:a_b.example: profile 'server' permits no underscores"
    )
    expect(refusal_form.page.locator("#csr")).to_be_focused()
    refusal_form.save_screenshot("refused")


def test_rate_limit_and_network_error_are_reported(browser: Browser, tmp_path: Path) -> None:
    """The form has a message for 429 and another for a network error."""
    with servers.certlet_server(tmp_path, "--ephemeral") as server:
        exhausted, reported = threading.Event(), threading.Event()

        def exhaust() -> None:
            while not reported.is_set():  # otherwise the page could use the next permitted request
                if server.sign({}).status == 429:
                    exhausted.set()

        def wait(route: Route) -> None:
            assert exhausted.wait(20)
            route.continue_()

        with open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE) as tab:
            threads = [threading.Thread(target=exhaust) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                tab.page.route("**/sign", wait)
                tab.sign(CSR)
                expect(tab.page.locator("#status")).to_contain_text("too many requests")
            finally:
                reported.set()
                for thread in threads:
                    thread.join()
        with open_tab(browser, f"{server.url}/sign", ("ERR_FAILED",)) as tab:
            tab.page.route("**/sign", lambda route: route.abort())
            tab.sign(CSR)
            expect(tab.page.locator("#status")).to_contain_text("no response from the server")


@pytest.mark.parametrize("text", ["<img src=x onerror=document.title='hacked'>", "</script><b>x"])
def test_html_in_subject_is_text(form: Tab, text: str) -> None:
    """Data from a CSR or certificate is never inserted as HTML."""
    form.sign(csrs.encode_pem(csrs.build(text)), profile="client")
    expect(form.page.locator("#status")).to_have_text("Signed.")
    assert form.page.title() == "Certlet: sign a certificate signing request"
    assert form.page.locator("img, #result b").count() == 0


@pytest.mark.parametrize(
    ("text", "escaped"), [("x\x1b[2J\ny", "\\u001b[2J\\u000ay"), ("a\u202egpj.exe", "a\\u202egpj.exe")]
)
def test_control_characters_are_escaped(refusal_form: Tab, text: str, escaped: str) -> None:
    """A subject with control characters or bidirectional marks is shown escaped, and refused."""
    refusal_form.sign(csrs.encode_pem(csrs.build(text)), profile="client")
    assert escaped in refusal_form.page.inner_text("#csr-seen")
    expect(refusal_form.page.locator("#csr-faults")).to_contain_text("control character")
    assert "\u202e" not in refusal_form.page.inner_text("body")


def test_api_key_is_stored_only_on_request(form: Tab, server: Server) -> None:
    """The page never contains the API key, and stores it only if the user checks the box."""
    assert API_KEY not in server.request("GET", "/sign").body.decode()
    form.sign(CSR)
    assert form.page.evaluate("sessionStorage.length") == 0
    form.page.check("#remember")
    form.page.reload()
    assert form.page.input_value("#key") == API_KEY
    form.page.uncheck("#remember")
    form.page.reload()
    assert form.page.input_value("#key") == ""
    assert form.page.evaluate("localStorage.length") == 0


def test_form_works_with_the_keyboard(browser: Browser, server: Server) -> None:
    """All steps from the first field to the saved bundle work without a mouse."""
    with open_tab(browser, f"{server.url}/sign", accept_downloads=True) as tab:
        page = tab.page
        visited = []

        def tab_to(selector: str) -> None:
            for _ in range(20):
                page.keyboard.press("Tab")
                visited.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
                if page.locator(selector).evaluate("element => element === document.activeElement"):
                    return
            raise AssertionError(f"Tab did not reach {selector}: {visited}")

        tab_to("#csr")
        page.keyboard.insert_text(CSR.decode())
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


def test_copy_button_copies_pem(browser: Browser, server: Server) -> None:
    """The copy buttons put PEM on the clipboard."""
    with open_tab(browser, f"{server.url}/sign", permissions=["clipboard-read", "clipboard-write"]) as tab:
        tab.sign(CSR)
        tab.page.click("text=Copy chain")
        expect(tab.page.locator("#status")).to_have_text("Copied chain.")
        clipboard = tab.page.evaluate("navigator.clipboard.readText()").encode()
        assert len(x509.load_pem_x509_certificates(clipboard)) == 1


def external_address() -> str | None:
    """Return an address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing, only looks up the route
        return str(probe.getsockname()[0])
    return None


def test_form_works_without_a_secure_context(browser: Browser, tmp_path: Path) -> None:
    """Over plain HTTP from another host, the page hides and explains missing features, and still signs."""
    address = external_address()
    host = ("--host", address, "--insecure-http") if address else ()
    with servers.certlet_server(tmp_path, "--ephemeral", *host) as server:
        # Without an external address, use a name that browsers do not treat as loopback.
        url = server.url if address else server.url.replace("127.0.0.1", "plain.example")
        with open_tab(browser, f"{url}/sign") as tab:
            assert not tab.page.evaluate("window.isSecureContext")
            tab.page.click("summary")
            expect(tab.page.locator("#maker")).to_be_hidden()
            expect(tab.page.locator("#make-hint")).to_contain_text("plain HTTP")
            tab.sign(CSR)
            expect(tab.page.locator("#status")).to_have_text("Signed.")
            expect(tab.page.locator("text=Copy chain")).to_be_hidden()
            expect(tab.page.locator("text=Save chain")).to_be_visible()


APPEARANCES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 320, "height": 640}},
}


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_form_is_accessible(browser: Browser, server: Server, appearance: str) -> None:
    """axe-core finds no violation of WCAG 2.2 AA in the empty form, after a refusal, or after signing."""
    with open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE, **APPEARANCES[appearance]) as tab:
        tab.page.evaluate(AXE.read_text())
        tab.page.click("summary")
        assert_accessible(tab)
        tab.save_screenshot(appearance)
        tab.sign(csrs.encode_pem(csrs.build("localhost")))
        assert_accessible(tab)
        tab.sign(CSR)
        assert_accessible(tab)
        width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.page.evaluate(width)


def assert_accessible(tab: Tab) -> None:
    """Run axe-core, and verify that it checked the page and found no violation."""
    run = (
        "() => axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    result = tab.page.evaluate(run)
    violations = result["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in violations] == []
    assert len(result["passes"]) > 20


def test_axe_reports_a_missing_label(form: Tab) -> None:
    """axe-core reports a removed label."""
    form.page.evaluate(AXE.read_text())
    form.page.evaluate("document.querySelector('label[for=key]').remove()")
    result = form.page.evaluate("() => axe.run()")
    assert "label" in [violation["id"] for violation in result["violations"]]


@pytest.mark.parametrize("page", ["/sign", "/docs"])
def test_csp_blocks_inline_scripts_and_other_hosts(browser: Browser, server: Server, page: str) -> None:
    """The Content-Security-Policy blocks an inline script, and a request to another host."""
    expected = ("Content Security Policy", "blocked", AUTOCOMPLETE_ADVICE)
    with open_tab(browser, server.url + page, expected) as tab:
        tab.page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'document.title = 1';"
            " document.body.append(s); }"
        )
        assert tab.page.title() != "1"
        result = tab.page.evaluate("() => fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'blocked')")
        assert result == "blocked"
        assert any("Content Security Policy" in line for line in tab.messages)


@pytest.mark.parametrize("stage", ["", "prod"])
def test_refusal_links_to_its_problem(browser: Browser, tmp_path: Path, stage: str) -> None:
    """After a refusal, the form has a link to the section of the problem, which opens a new tab."""
    options = ["--stage", stage] if stage else []
    with (
        servers.certlet_server(tmp_path, "--ephemeral", *options) as server,
        open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE) as tab,
    ):
        for csr, key, code in (
            (csrs.build("localhost."), API_KEY, "rejectedIdentifier"),
            (csrs.build(), API_KEY[::-1], "unauthorized"),
        ):
            tab.sign(csrs.encode_pem(csr), key)
            with tab.page.expect_popup() as popup:
                tab.page.click("#status a")
            expect(popup.value.locator(f"section#{code} h2")).to_be_in_viewport()
            assert popup.value.url == f"{server.url}/problems#{code}"
        tab.sign(CSR)
        expect(tab.page.locator("#status a")).to_have_count(0)


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_problem_type_links_to_its_section(browser: Browser, server: Server, appearance: str) -> None:
    """The `type` of a problem links to its section of an accessible page, which is a single request."""
    problem = server.sign({"csr": "garbage"}).json()
    with open_tab(browser, server.url + problem["type"], **APPEARANCES[appearance]) as tab:
        expect(tab.page.locator(f"section#{problem['code']} h2")).to_be_in_viewport()
        assert [url for url in tab.requests if "data:" not in url] == [f"{server.url}/problems"]
        tab.page.click("nav a[href='#timeout']")
        expect(tab.page.locator("section#timeout")).to_be_in_viewport()
        tab.save_screenshot(f"problems-{appearance}")
        tab.page.evaluate(AXE.read_text())
        assert_accessible(tab)
