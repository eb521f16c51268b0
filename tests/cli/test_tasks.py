"""The tasks in docs/index.md are done by pasting the commands of their sections, and have their outcomes."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509

from service.cli import contexts
from service.pki import encoding
from tests import csrs, factories, servers
from tests.cli import certlet, tls_context, write_site
from tests.servers import QuietHandler, Server
from tests.test_documents import DOCUMENTS, api_key, run_all, run_text, server, transcript

__all__ = ["server"]  # a fixture

TASKS = re.findall(
    r"^\| ([^|]+) \| \[[^]]+\]\(([^)#]+)#([^)]+)\) \|$", DOCUMENTS["docs/index.md"], re.MULTILINE
)
SITE = "www.example.com"  # in the pages; here localhost
CLOCK = ("troubleshoot", "fix-a-wrong-clock")


def section(page: str, anchor: str) -> str:
    """Return the text of a page below a heading, with its subsections."""
    (path,) = [name for name in DOCUMENTS if name.endswith(f"/{page}.md")]
    text = DOCUMENTS[path]
    headings = [*re.finditer(r"^(##+) (.+)\n", text, re.MULTILINE)]
    for number, heading in enumerate(headings):
        if re.sub(r"[^\w -]", "", heading[2]).lower().replace(" ", "-") == anchor:
            ends = (other.start() for other in headings[number + 1 :] if len(other[1]) <= len(heading[1]))
            return text[heading.end() : next(ends, len(text))]
    raise AssertionError(f"{path} has no section {anchor}")


@pytest.fixture(scope="module")
def second(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with the successor of the server's CA, which has another root."""
    directory = tmp_path_factory.mktemp("second")
    ca = server.log.parent / "ca"
    command = ("rollover", ca, directory / "ca", "--new-root")
    certlet(*command).check_returncode()
    with servers.certlet_server(directory, env={}) as running:
        yield running


def issue(server: Server, age: timedelta = timedelta()) -> x509.Certificate:
    """Write `localhost.key`, and `localhost.crt` with the chain; return the certificate."""
    return write_site(server.log.parent / "ca", age=age)


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a TLS server that sends `localhost.crt` of the working directory as it is now."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            self.reply(200, b"")

    directory = Path.cwd()

    def load(connection: ssl.SSLObject, _: str, __: ssl.SSLContext) -> None:
        connection.context = tls_context(directory)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = load
    with servers.http_server(Handler, context) as url:
        yield url.removeprefix("https://").replace("127.0.0.1", "localhost")


def with_site(text: str, address: str = "") -> str:
    """Replace the web server of a page by one on this machine."""
    return text.replace(f"{SITE}:443", address).replace(SITE, "localhost")


def leaf(path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(path).read_bytes())


def is_trusted(file: str, root: Path | str) -> bool:
    """Whether OpenSSL accepts a chain."""
    command = ("openssl", "verify", "-x509_strict", "-CAfile", str(root), "-untrusted", file, file)
    return servers.run(*command, check=False).returncode == 0


def test_sections_of_the_tasks_have_commands() -> None:
    """Each task of the table links to a section with commands."""
    assert len(TASKS) == 13
    for task, path, anchor in TASKS:
        assert transcript(section(Path(path).stem, anchor)), task
    with pytest.raises(AssertionError, match="has no section"):
        section("nginx", "renew")


def test_certificates_that_end_soon_are_found(server: Server, tmp_path: Path) -> None:
    """A certificate of seven days ends within 30 days, and not within a day."""
    records = (server.log.parent / "audit.log").read_text().splitlines(keepends=True)
    Path("audit.log").write_text("".join(records[:2]))  # those of the first certificate
    text = DOCUMENTS["docs/how-to/inventory.md"]
    outputs = run_text(text, server, tmp_path)
    (index,) = [
        at
        for at, (command, _) in enumerate(transcript(text))
        if command.endswith("audit.log --expires-in 30d")
    ]
    assert "dns:a.example.com" in outputs[index]
    for time, status in (("30d", 6), ("1d", 0)):
        run = certlet("list", "audit.log", "--expires-in", time, "--exit-code")
        assert (run.returncode, b"dns:a.example.com" in run.stdout) == (status, bool(status))


def test_first_certificate(server: Server, tmp_path: Path) -> None:
    """The certificate is trusted by the root of the CA, and by no other; a wrong API key gets none."""
    text = section("tutorial", "get-a-certificate")
    run_text(text, server, tmp_path)
    assert is_trusted("site.crt", "ca/root-ca.crt")
    assert not is_trusted("site.crt", "ca/signing-ca.crt")
    run = certlet("new", "a.example.com", env={"CERTLET_URL": server.url, "CERTLET_API_KEY": "wrong"})
    assert (run.returncode, Path("a.example.com.crt").exists()) == (4, False)


def test_certificate_is_renewed(server: Server, tmp_path: Path) -> None:
    """Only what is due is renewed, and only then the hook runs; a failed hook does not undo the renewal."""
    text = DOCUMENTS["docs/how-to/nginx.md"]
    keep = {
        "certlet new www": "cp www.example.com.key first.key; cp www.example.com.crt first.crt",
        "certlet renew www.example.com.crt --expires-in": "cp www.example.com.key same.key",
    }
    run_text(text, server, tmp_path, keep)
    hooks = Path("systemctl.log").read_text().splitlines()
    assert hooks == ["reload nginx", "list-timers certlet-renew.timer", "reload nginx"]
    first, same, new = (Path(f"{name}.key").read_bytes() for name in ("first", "same", "www.example.com"))
    assert first == same != new
    assert leaf("first.crt").serial_number != leaf("www.example.com.crt").serial_number
    before = leaf("www.example.com.crt")
    (job,) = re.findall(r"^17 3 \* \* \* (.*/etc/certlet-renew.env.*)$", text, re.MULTILINE)
    Path("renew.env").write_text(f"CERTLET_URL={server.url}\nCERTLET_API_KEY={api_key(server)}\n")
    job = job.replace("/etc/certlet-renew.env", "./renew.env").replace("/etc/ssl/", "--expires-in 90d ")
    assert run_all([job], server, tmp_path, None, CERTLET_URL="", CERTLET_API_KEY="") == [("", 0)]
    renewed = leaf("www.example.com.crt")
    assert renewed != before
    env = {"CERTLET_URL": server.url, "CERTLET_API_KEY": api_key(server)}
    run = certlet("renew", "www.example.com.crt", "--expires-in", "90d", "--deploy-hook", "false", env=env)
    assert (run.returncode, b"so run the hook yourself" in run.stderr) == (1, True)
    assert leaf("www.example.com.crt") != renewed
    assert Path("systemctl.log").read_text().count("reload nginx") == 3


def test_api_key_is_rotated(server: Server, tmp_path: Path) -> None:
    """Both keys are valid until the old one is removed; the log shows who uses it, and `login` replaces it."""
    text = DOCUMENTS["docs/how-to/api-keys.md"]
    use = 'curl -sS -o old.json -H "x-api-key: $OLD" http://127.0.0.1:8080/profiles/mine'
    outputs = run_text(text, server, tmp_path, {"ID=": use, "NEW=": "printf %s $NEW > new"})
    (index,) = [at for at, (command, _) in enumerate(transcript(text)) if command.startswith("journalctl")]
    assert (json.loads(outputs[index])["key"], json.loads(outputs[index])["status"]) == ("ci", 200)
    assert Path("new").read_text() in contexts.path().read_text()


def test_key_of_the_ca_is_rotated(server: Server, second: Server, tmp_path: Path) -> None:
    """The root is that of before, unless it is replaced, too."""
    run_text(DOCUMENTS["docs/how-to/rollover.md"], server, tmp_path)
    assert leaf("ca/signing-ca.crt").public_key() != leaf("ca-2027/signing-ca.crt").public_key()
    new = factories.issue(tmp_path / "ca-2027", csrs.encode_pem(csrs.build()))
    Path("new.crt").write_text(encoding.encode_pem([new, leaf("ca-2027/signing-ca.crt")]))
    assert is_trusted("new.crt", "ca/root-ca.crt")
    assert not is_trusted("new.crt", second.log.parent / "ca" / "root-ca.crt")


def test_two_services_are_used(server: Server, second: Server, tmp_path: Path) -> None:
    """The context decides which CA issues; a renewal by the other CA is noted."""
    added = certlet("api-key", "add", "test", "--ca", second.log.parent / "ca")  # only of that service
    keys = {"KEY": api_key(server), "TEST_KEY": added.stdout.decode().strip()}
    keys |= {"CERTLET_URL": "", "CERTLET_API_KEY": ""}
    for name, running in (("root-ca.crt", server), ("test-root-ca.crt", second)):
        Path(name).write_bytes((running.log.parent / "ca" / "root-ca.crt").read_bytes())
    text = section("cli", "log-in-to-a-service") + section("cli", "use-several-services")
    text = text.replace("https://ca.example.com", server.url).replace("https://ca.test.example", second.url)
    run_text(
        text.replace("ca.example.com", server.url.removeprefix("http://")), server, tmp_path, None, **keys
    )
    for name in ("www", "a", "b"):
        assert is_trusted(f"{name}.example.com.crt", "root-ca.crt")
        assert not is_trusted(f"{name}.example.com.crt", "test-root-ca.crt")
    run = certlet("renew", "a.example.com.crt", "--context", "test", "--expires-in", "90d")
    assert (run.returncode, b"note: a.example.com.crt: the issuer is now " in run.stderr) == (0, True)
    assert is_trusted("a.example.com.crt", "test-root-ca.crt")


def test_script_uses_json_and_statuses(server: Server, tmp_path: Path) -> None:
    """It prints the serial number; a wrong API key and a service that does not respond have statuses of their own."""
    text = section("cli", "scripts")
    run_text(text, server, tmp_path)
    (script,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    servers.create_script(Path("issue.sh"), script)
    ((output, status),) = run_all(["./issue.sh a.example.com"], server, tmp_path)
    serial, end = output.splitlines()
    assert (int(serial, 16), status) == (leaf("a.example.com.crt").serial_number, 0)
    assert end == encoding.format_timestamp(leaf("a.example.com.crt").not_valid_after_utc)
    for change, status in (({"CERTLET_API_KEY": "wrong"}, 77), ({"CERTLET_URL": "http://127.0.0.1:9"}, 69)):
        assert run_all(["./issue.sh b.example.com"], server, tmp_path, None, **change)[0][1] == status
    assert not Path("b.example.com.crt").exists()


def test_documented_facts_are_those_of_json(server: Server) -> None:
    """The fields of new, sign and renew."""
    (names,) = re.findall(
        r"^`new`, `sign` and `renew` print.*?\n\n", section("cli", "scripts"), re.DOTALL | re.MULTILINE
    )
    env = {"CERTLET_URL": server.url, "CERTLET_API_KEY": api_key(server)}
    Path("my.csr").write_bytes(csrs.encode_pem(csrs.build()))
    fields = set()
    for command in (
        "new a.example.com",
        "sign my.csr",
        "sign my.csr --out my.crt",
        "renew a.example.com.crt",
        "renew a.example.com.crt --expires-in 90d",
    ):
        fields |= set(json.loads(certlet(*command.split(), "--json", env=env).stdout))
    fields -= {"renew_after"}
    assert fields == set(re.findall("`([a-z_0-9]+)`", names)) - {"new", "sign", "renew"}


def test_server_is_inspected(server: Server, site: str, tmp_path: Path) -> None:
    """Another host and a port without a server have their exit statuses."""
    issue(server)
    run_text(with_site(section("troubleshoot", "inspect-a-server"), site), server, tmp_path)
    port = site.rpartition(":")[2]
    for address, status, reason in (
        (f"127.0.0.1:{port}", 1, "is not for 127.0.0.1"),
        ("127.0.0.1:9", 5, "refused"),
    ):
        run = certlet("verify", address, "--root", "root-ca.crt")
        assert (run.returncode, reason in run.stderr.decode()) == (status, True)


def test_chain_is_fixed(server: Server, second: Server, site: str, tmp_path: Path) -> None:
    """A server that sends no intermediate, and a client with the root from before a rollover."""
    certificate = issue(server)
    Path("localhost.crt").write_text(encoding.encode_pem([certificate]))
    for name, running in (("root-ca.crt", server), ("old-root-ca.crt", server)):
        Path(name).write_bytes((running.log.parent / "ca" / "root-ca.crt").read_bytes())
    run_text(with_site(section("troubleshoot", "the-server-sends-no-intermediate"), site), server, tmp_path)
    issue(second)
    text = section("troubleshoot", "the-client-has-an-old-root").replace("http://127.0.0.1:8080", second.url)
    run_text(with_site(text, site), server, tmp_path)


@pytest.fixture
def clock(server: Server) -> Iterator[Server]:
    """The server with a clock that is two hours behind, as its responses say."""

    class Proxy(QuietHandler):
        def respond(self) -> None:
            names = ("x-api-key", "Content-Type", "Idempotency-Key")
            headers = {name: self.headers[name] for name in names if name in self.headers}
            response = server.request(self.command, self.path, self.body() or None, headers)
            self.reply(response.status, response.body)

        def date_time_string(self, _: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)

    with servers.http_server(Proxy) as url:
        yield Server(url, server.process, server.output, server.log)


def test_wrong_clock_is_found(server: Server, clock: Server, tmp_path: Path) -> None:
    """`doctor` says which clock is ahead; certificates from the future are replaced only by new ones."""
    issue(server, timedelta(hours=2))
    introduction = DOCUMENTS["docs/how-to/troubleshoot.md"].partition("\n## ")[0]
    assert "Error" not in "".join(run_text(introduction, server, tmp_path))
    text = with_site(section(*CLOCK))
    outputs = run_text(text.replace("http://127.0.0.1:8080", clock.url), clock, tmp_path)
    assert f" is 2 hours ahead of that of {clock.url} (" in outputs[0]
    issue(server, timedelta(hours=-2))
    env = {"CERTLET_URL": server.url, "CERTLET_API_KEY": api_key(server)}
    run = certlet("renew", "localhost.crt", "--expires-in", "90d", env=env)
    assert (run.returncode, b"would end earlier; nothing was replaced" in run.stderr) == (1, True)
    assert b"not yet valid" in certlet("verify", "localhost.crt", "--root", "ca/root-ca.crt").stderr
    certlet("new", "localhost", "--force", env=env).check_returncode()
    assert certlet("verify", "localhost.crt", "--root", "ca/root-ca.crt").returncode == 0


def test_revocation_is_visible(server: Server, tmp_path: Path) -> None:
    """OCSP and the CRL have the revoked certificate, and no other one."""
    # As if minutes had passed; the gateway caches a CRL for a second.
    earlier = """sed -i 's/"at": "[^"]*"/"at": "2026-01-01T00:00:00Z"/' ca/revoked.yaml; sleep 1"""
    revoked = server.log.parent / "ca" / "revoked.yaml"
    before = revoked.read_text()
    run_text(DOCUMENTS["docs/how-to/revoke.md"], server, tmp_path, {"certlet revoke old.crt": earlier})
    issue(server)
    text = section("revoke", "see-the-revocation").replace("old.crt", "localhost.crt")
    (good, _), _, _, listed, verified = run_all(
        [command for command, _ in transcript(text)], server, tmp_path
    )
    assert "localhost.crt: good" in good
    assert (listed, verified) == (("", 1), ("localhost.crt: OK\n", 0))
    revoked.write_text(before)  # for the other tests
