from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from playwright.sync_api import Browser, Dialog, Page, Route, expect

from service.pki import keys
from tests import csrs, input_forms, servers
from tests.browser.tabs import (
    APPEARANCES,
    AUTOCOMPLETE_ADVICE,
    AXE,
    STATUS_MESSAGE,
    Tab,
    assert_accessible,
    open_tab,
)
from tests.servers import API_KEY, Server
from tests.test_csr_cases import CASES, RIGHT_ANSWERS, Signed

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
    expect(page.locator("#result-title")).to_have_text("✓ Certificate issued for www.example.com")
    expect(page.locator("#result-title")).to_be_focused()
    expect(page.locator("#facts")).to_contain_text("DNS www.example.com, IP 10.0.0.1")
    expect(page.locator("#facts")).to_contain_text("7 days")
    expect(page.locator("#notes")).to_have_text("Nothing. The certificate has all that the CSR requests.")
    form.save_screenshot("signed")
    expect(page.locator("#pem")).to_be_hidden()
    page.click("#pem-title")
    x509.load_pem_x509_certificates(page.inner_text("#pem").encode())
    page.click("#text-title")
    assert page.inner_text("#text").startswith("Certificate:")


def test_page_loads_only_the_ca_and_the_profiles(form: Tab, server: Server) -> None:
    """The page is one request, and one for the name of the CA. It loads the profiles once, on the first focus."""
    loaded = [f"{server.url}/sign", f"{server.url}/ca"]
    form.page.wait_for_load_state("networkidle")
    assert form.requests == loaded
    expect(form.page.locator("#ca-name")).to_contain_text("Certlet Signing CA")
    form.page.focus("#csr")
    expect(form.page.locator("#validity option").first).to_have_text("7 days (default)")
    form.page.focus("#key")
    assert [url for url in form.requests if "data:" not in url] == [*loaded, f"{server.url}/profiles"]
    form.page.select_option("#profile", "peer")
    expect(form.page.locator("#profile-hint")).to_contain_text("both TLS server and TLS client")


def test_preview_shows_what_the_ca_changes(form: Tab) -> None:
    """With a CSR and an API key, the page shows the result of a dry run. Nothing is issued."""
    seen = form.page.locator("#csr-seen")
    form.page.fill("#csr", csrs.encode_pem(csrs.build("www.example.com")).decode())
    expect(seen).to_contain_text("Enter an API key")
    form.page.fill("#key", API_KEY)
    expect(seen).to_contain_text("Common name added to the subject alternative names: dns:www.example.com")
    expect(seen).to_contain_text("DNS www.example.com")
    form.page.fill("#csr", CSR.decode())
    expect(seen).to_contain_text("The CA issues all that the CSR requests.")
    assert {url.partition("/sign")[2] for url in form.requests if "/sign" in url} == {"", "?dry_run=true"}
    expect(form.page.locator("#result")).to_be_hidden()


def test_preview_shows_what_the_ca_refuses(refusal_form: Tab) -> None:
    """The reasons of a refusal are at the CSR before it is signed, and disappear with the next change."""
    page = refusal_form.page
    page.fill("#key", API_KEY)
    page.fill("#csr", csrs.encode_pem(csrs.build("localhost", ["dns:a_b.example"])).decode())
    expect(page.locator("#csr-errors")).to_contain_text("profile 'server' permits no underscores")
    expect(page.locator("#csr-seen")).to_have_text("The CA would refuse this request. See the errors.")
    page.fill("#csr", CSR.decode())
    expect(page.locator("#csr-errors li")).to_have_count(0)
    expect(page.locator("#csr-seen")).to_contain_text("issues all")


def test_short_api_key_is_not_sent_for_a_preview(form: Tab) -> None:
    """A key that is still being typed causes no request, which would count as a wrong key."""
    form.page.fill("#csr", CSR.decode())
    form.page.fill("#key", API_KEY[:29])
    form.page.wait_for_timeout(1000)
    assert not any("dry_run" in url for url in form.requests)


def test_validity_can_be_chosen_within_the_limits(form: Tab) -> None:
    """The choices end at the maximum of the profile, and the certificate has the chosen validity."""
    page = form.page
    page.focus("#csr")
    options = page.locator("#validity option")
    expect(options).to_have_text(["7 days (default)", "1 hour", "1 day", "Other number of days"])
    page.select_option("#validity", "PT1H")
    form.sign(CSR)
    expect(page.locator("#facts")).to_contain_text("1 hour")
    page.select_option("#validity", "days")
    page.fill("#days", "3")
    form.send()
    expect(page.locator("#facts")).to_contain_text("3 days")
    expect(page.locator("#days")).to_have_attribute("max", "7")


def test_too_long_validity_is_reported_at_its_field(refusal_form: Tab) -> None:
    """The page knows the limit, and otherwise shows the reason of the CA there."""
    page = refusal_form.page
    page.focus("#csr")
    expect(page.locator("#validity option")).to_have_count(4)
    page.select_option("#validity", "days")
    page.fill("#days", "8")
    refusal_form.sign(CSR)
    expect(page.locator("#validity-hint")).to_have_text("Enter a number of days from 1 to 7.")
    expect(page.locator("#days")).to_be_focused()
    assert not any(refusal_form.bodies)
    page.evaluate("document.getElementById('days').max = 8")
    refusal_form.send()
    expect(page.locator("#validity-hint")).to_contain_text("allows up to 7 days")
    expect(page.locator("#validity")).to_be_focused()


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
    expect(page.locator("#notes")).to_contain_text("Common name added")


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
            expect(page.locator("#facts")).to_contain_text("DNS x.example")


def test_form_refuses_what_the_service_refuses(refusal_form: Tab, server: Server) -> None:
    """Other formats get the refusal of `/sign`."""
    page = refusal_form.page
    for name, data in REFUSED.items():
        refusal = server.sign({"csr": base64.b64encode(data).decode()}).json()
        for way in ways(data):
            enter(page, way, data)
            refusal_form.send()
            expect(page.locator("#csr-errors"), name).to_contain_text(refusal["detail"], ignore_case=True)
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
        fragments, texts = answer.fragments, page.locator("#csr-errors")
    for fragment in fragments:
        expect(texts).to_contain_text(fragment, ignore_case=True)


def test_private_key_is_never_sent(form: Tab) -> None:
    """A private key is recognised in every form, reported immediately, and not sent."""
    page = form.page
    page.fill("#key", API_KEY)
    for name, data in input_forms.PRIVATE_KEYS.items():
        for way in ways(data):
            enter(page, way, data)
            expect(page.locator("#csr-errors"), name).to_contain_text("private key. It was not sent")
            page.click("#send")
            expect(page.locator("#status"), name).to_have_text("Nothing was sent.")
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
    ("kind", "openssl", "password"),
    [
        ("P-256", "P-256", ""),
        ("P-384", "P-384", "a password with ä"),
        ("Ed25519", "ED25519", ""),
        ("RSA-2048", "2048 bit", "p"),
        ("RSA-3072", "3072 bit", ""),
    ],
)
def test_created_key_and_csr_work(
    browser: Browser, server: Server, tmp_path: Path, kind: str, openssl: str, password: str
) -> None:
    """openssl verifies the created CSR, and a TLS server can use the key with the certificate."""
    names = ["www.example.com", "*.example.com", "bücher.example", "127.0.0.1", "2001:db8::1", "::"]
    names += [f"host-{number}.example.com" for number in range(60)]
    with open_tab(browser, f"{server.url}/sign", accept_downloads=True) as tab:
        page = tab.page
        page.click("#create-tab")
        page.fill("#names", "\n".join(names))
        page.select_option("#kind", kind)
        page.click("#generate")
        expect(page.locator("#create-status")).to_contain_text("Created.", timeout=60_000)
        page.fill("#password", password)
        with page.expect_download() as download:
            page.click("#save-key")
        assert download.value.suggested_filename == "www.example.com.key"
        key_file = Path(download.value.path()).read_bytes()
        assert (b"ENCRYPTED" in key_file) == bool(password)
        key = serialization.load_pem_private_key(key_file, password.encode() or None)
        pkcs8 = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *pkcs8))
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
        (tmp_path / "crt.pem").write_text(page.locator("#pem").text_content() or "")
        assert not any("PRIVATE" in body for body in tab.bodies)
    root = ssl.DER_cert_to_PEM_cert(server.request("GET", "/root.crt").body)
    files = ("--tls-cert", "crt.pem", "--tls-key", "key.pem")
    with servers.certlet_server(tmp_path, "--ephemeral", *files) as tls_server:
        client = ssl.create_default_context(cadata=root)
        assert tls_server.request("GET", "/health", context=client).status == 200


@pytest.mark.parametrize("names", ["", "a:b:c", "a/b c", "a..b", "1.2.3.", "b\u00fc/x"])
def test_invalid_name_is_reported(form: Tab, names: str) -> None:
    """Without a valid name, no CSR is created."""
    form.page.click("#create-tab")
    form.page.fill("#names", names)
    form.page.click("#generate")
    expect(form.page.locator("#create-status")).to_contain_text(re.compile("at least one name|Invalid name"))
    assert form.page.input_value("#csr") == ""


def test_url_offers_its_host(form: Tab) -> None:
    """A name that is a URL is not a host name: the page offers the host."""
    form.page.click("#create-tab")
    form.page.fill("#names", "https://www.example.com:8443/path\nexample.com")
    expect(form.page.locator("#create-status")).to_contain_text("A URL is not a host name.")
    form.page.click("text=Use www.example.com")
    assert form.page.input_value("#names") == "www.example.com\nexample.com"
    expect(form.page.locator("#use-host")).to_be_hidden()


def test_changed_names_need_another_key_and_csr(form: Tab) -> None:
    """The CSR of a created key is not sent if the names were changed after it was created."""
    page = form.page
    page.fill("#key", API_KEY)
    page.click("#create-tab")
    page.fill("#names", "a.example")
    page.click("#send")
    expect(page.locator("#create-status")).to_have_text("Create the key and CSR first.")
    page.click("#generate")
    expect(page.locator("#save-key")).to_be_focused()
    page.fill("#names", "b.example")
    page.click("#send")
    expect(page.locator("#create-status")).to_contain_text("The names have changed")
    expect(page.locator("#status")).to_have_text("Nothing was sent.")


@pytest.mark.parametrize("is_saved", [False, True])
def test_leaving_with_an_unsaved_key_warns(form: Tab, *, is_saved: bool) -> None:
    """The browser asks before it leaves a page with a key that was not downloaded."""
    page = form.page
    dialogs: list[str] = []

    def accept(dialog: Dialog) -> None:
        dialogs.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    page.click("#create-tab")
    page.fill("#names", "a.example")
    page.click("#generate")
    expect(page.locator("#save-key")).to_be_focused()
    if is_saved:
        page.click("#save-key")
        expect(page.locator("#create-status")).to_contain_text("Downloaded a.example.key.")
    page.reload()
    assert dialogs == ([] if is_saved else ["beforeunload"])


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_creating_another_key_asks_before_it_discards_one(form: Tab, *, is_confirmed: bool) -> None:
    """An unsaved key is replaced only if the user confirms it."""
    page = form.page
    page.on("dialog", lambda dialog: dialog.accept() if is_confirmed else dialog.dismiss())
    page.click("#create-tab")
    page.fill("#names", "a.example")
    page.click("#generate")
    expect(page.locator("#save-key")).to_be_focused()
    first = page.input_value("#csr")
    page.click("#generate")
    expect(page.locator("#save-key" if is_confirmed else "#generate")).to_be_focused()
    assert (page.input_value("#csr") == first) != is_confirmed


def test_wrong_api_key_is_reported_at_its_field(refusal_form: Tab) -> None:
    """A 403 is reported at the API key field, which gets the focus."""
    refusal_form.sign(CSR, key="x" * 40)
    expect(refusal_form.page.locator("#key-hint")).to_contain_text("The CA does not accept this API key")
    expect(refusal_form.page.locator("#key")).to_be_focused()
    expect(refusal_form.page.locator("#key")).to_have_attribute("aria-invalid", "true")
    expect(refusal_form.page.locator("#result")).to_be_hidden()


def test_wrong_api_key_with_est_on_aws_is_reported_at_its_field(refusal_form: Tab) -> None:
    """With EST on AWS, the status of a wrong API key is 401."""
    problem = json.dumps({"code": "unauthorized", "status": 401})
    headers = {"WWW-Authenticate": "Basic"}
    refusal_form.page.route("**/sign", lambda route: route.fulfill(status=401, headers=headers, body=problem))
    refusal_form.sign(CSR, key="x" * 40)
    expect(refusal_form.page.locator("#key-hint")).to_contain_text("The CA does not accept this API key")


def test_forbidden_profile_is_reported_at_its_field(browser: Browser, tmp_path: Path) -> None:
    """A 403 for the profile is not reported at the API key field."""
    (tmp_path / "profiles.yaml").write_text("profiles: {client: {principals: [other]}}\n")
    with (
        servers.certlet_server(tmp_path, "--ephemeral", "--profiles", "profiles.yaml") as server,
        open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE) as tab,
    ):
        tab.sign(CSR, profile="client")
        expect(tab.page.locator("#profile-hint")).to_contain_text(
            "Caller 'default' may not use profile 'client'"
        )
        expect(tab.page.locator("#profile")).to_be_focused()
        expect(tab.page.locator("#key-hint")).to_have_text("Your CA administrator issues API keys.")


def test_refused_names_are_reported_at_the_csr(refusal_form: Tab) -> None:
    """A refusal shows each problem next to its field."""
    refusal_form.sign(csrs.encode_pem(csrs.build("localhost", ["dns:a_b.example", "dns:ok.example"])))
    expect(refusal_form.page.locator("#csr-errors li")).to_have_count(2)
    expect(refusal_form.page.locator("#csr-errors")).to_contain_text(
        "dns:a_b.example: profile 'server' permits no underscores"
    )
    expect(refusal_form.page.locator("#csr")).to_be_focused()
    refusal_form.save_screenshot("refused")


def test_rate_limit_and_network_error_are_reported(browser: Browser, tmp_path: Path) -> None:
    """The form has a message for 429 and another for a network error."""
    with servers.certlet_server(tmp_path, "--ephemeral") as server:
        reported = threading.Event()

        def exhaust() -> None:
            while not reported.is_set():
                server.sign({})

        def repeat(route: Route) -> None:
            responses = (route.fetch() for _ in range(100))
            route.fulfill(response=next(response for response in responses if response.status == 429))

        with open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE) as tab:
            threads = [threading.Thread(target=exhaust) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                tab.page.route("**/sign", repeat)
                tab.sign(CSR)
                expect(tab.page.locator("#status")).to_contain_text("Too many requests with this API key")
            finally:
                reported.set()
                for thread in threads:
                    thread.join()
        with open_tab(browser, f"{server.url}/sign", ("ERR_FAILED",)) as tab:
            tab.page.route("**/sign", lambda route: route.abort())
            tab.sign(CSR)
            expect(tab.page.locator("#status")).to_contain_text(
                "The server does not respond. Check the network"
            )


@pytest.mark.parametrize("text", ["<img src=x onerror=document.title='hacked'>", "</script><b>x"])
def test_html_in_subject_is_text(form: Tab, text: str) -> None:
    """Data from a CSR or certificate is never inserted as HTML."""
    form.sign(csrs.encode_pem(csrs.build(text)), profile="client")
    expect(form.page.locator("#status")).to_have_text("Signed.")
    assert form.page.title() == "Certlet: get a certificate"
    assert form.page.locator("img, #result b").count() == 0


@pytest.mark.parametrize(
    ("text", "escaped"), [("x\x1b[2J\ny", "\\u001b[2J\\u000ay"), ("a\u202egpj.exe", "a\\u202egpj.exe")]
)
def test_control_characters_are_escaped(refusal_form: Tab, text: str, escaped: str) -> None:
    """A subject with control characters or bidirectional marks is shown escaped, and refused."""
    refusal_form.sign(csrs.encode_pem(csrs.build(text)), profile="client")
    assert escaped in refusal_form.page.inner_text("#csr-seen")
    expect(refusal_form.page.locator("#csr-errors")).to_contain_text("control character")
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


def test_copied_is_shown_on_the_button(browser: Browser, server: Server) -> None:
    """A button of the menu copies PEM, and says so for a moment. Escape closes the menu."""
    with open_tab(browser, f"{server.url}/sign", permissions=["clipboard-read", "clipboard-write"]) as tab:
        tab.sign(CSR)
        tab.page.click("text=More actions")
        tab.page.click("#saves >> text=Copy chain")
        expect(tab.page.locator("#saves button:focus")).to_have_text("Copied")
        clipboard = tab.page.evaluate("navigator.clipboard.readText()").encode()
        assert len(x509.load_pem_x509_certificates(clipboard)) == 1
        expect(tab.page.locator("#saves")).to_contain_text("Copy chain")
        tab.page.keyboard.press("Escape")
        expect(tab.page.locator("#saves")).to_be_hidden()
        expect(tab.page.locator("#more summary")).to_be_focused()


def test_downloads_are_named_after_the_host(browser: Browser, server: Server, tmp_path: Path) -> None:
    """Bundle, certificate, chain and root are files that openssl verifies together."""
    csr = csrs.encode_pem(csrs.build("*.example.com", ["dns:*.example.com"]))
    with open_tab(browser, f"{server.url}/sign", accept_downloads=True) as tab:
        tab.sign(csr)
        for button in ("Download _wildcard", "Download certificate", "Download chain", "Download root"):
            if button != "Download _wildcard":
                tab.page.locator("#more").evaluate("menu => menu.open = true")
            with tab.page.expect_download() as download:
                tab.page.click(f"text={button}")
            download.value.save_as(tmp_path / download.value.suggested_filename)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"_wildcard.example.com{end}" for end in (".pem", ".crt", "-chain.pem")} | {"root.pem"}
    name = "_wildcard.example.com"
    assert (tmp_path / f"{name}.pem").read_text() == "".join(
        (tmp_path / (name + end)).read_text() for end in (".crt", "-chain.pem")
    )
    command = ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", f"{name}-chain.pem", f"{name}.crt"]
    assert "OK" in servers.run(*command, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("profile", "steps"), [("server", ["nginx", "Caddy", "Java", "curl"]), ("client", ["Java", "curl"])]
)
def test_next_steps_are_filled_in(form: Tab, server: Server, profile: str, steps: list[str]) -> None:
    """The lines have the names of the files and of the host; the fingerprint is that of the root."""
    form.sign(CSR, profile=profile)
    expect(form.page.locator("#next p")).to_have_text(steps)
    expect(form.page.locator("#next")).to_contain_text("www.example.com.key")
    fingerprint = server.request("GET", "/ca").json()["root_fingerprint_sha256"]
    assert form.page.inner_text("#root-fingerprint").replace(":", "").lower() == fingerprint


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
            expect(tab.page.locator("text=others on the network can read")).to_be_visible()
            tab.page.click("#create-tab")
            expect(tab.page.locator("#generate")).to_be_disabled()
            expect(tab.page.locator("#create-hint")).to_contain_text("plain HTTP")
            tab.page.click("#paste-tab")
            tab.sign(CSR)
            expect(tab.page.locator("#status")).to_have_text("Signed.")
            tab.page.click("text=More actions")
            expect(tab.page.locator("text=Download chain")).to_be_visible()
            expect(tab.page.locator("text=Copy chain")).to_have_count(0)


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_form_is_accessible(browser: Browser, server: Server, appearance: str) -> None:
    """axe-core finds no violation of WCAG 2.2 AA in the empty form, after a refusal, or after signing."""
    with open_tab(browser, f"{server.url}/sign", STATUS_MESSAGE, **APPEARANCES[appearance]) as tab:
        assert_accessible(tab)
        tab.save_screenshot(appearance)
        tab.page.click("#create-tab")
        assert_accessible(tab)
        tab.page.click("#paste-tab")
        tab.sign(csrs.encode_pem(csrs.build("localhost")))
        assert_accessible(tab)
        tab.sign(CSR)
        tab.page.click("text=More actions")
        assert_accessible(tab)
        width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.page.evaluate(width)


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
                tab.page.click(".errors a, .bad a")
            expect(popup.value.locator(f"section#{code} h2")).to_be_in_viewport()
            assert popup.value.url == f"{server.url}/problems#{code}"
        tab.sign(CSR)
        expect(tab.page.locator("form a")).to_have_count(0)
