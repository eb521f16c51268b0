"""`certlet new`: its output and its files."""

from __future__ import annotations

import json
import stat
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service.cli import new
from tests import servers
from tests.cli import certlet
from tests.servers import API_KEY, Server


def test_new_creates_key_certificate_and_pkcs12(server: Server, tmp_path: Path) -> None:
    """Kinds of names are guessed; key and PKCS#12 have mode 0600; OpenSSL opens the PKCS#12, with the chain."""
    names = ["www.example.com", "*.Example.com", "192.0.2.1", "2001:db8::1", "bücher.example"]
    secrets = {"CERTLET_P12_PASSWORD": "correct horse", "CERTLET_KEY_PASSPHRASE": "battery staple"}
    run = certlet("new", *names, "--key-type", "p256", "--p12", "w.p12", env=secrets)
    assert run.returncode == 0, run.stderr
    assert [line.split()[:2] for line in run.stdout.decode().splitlines()] == [
        ["Key", "www.example.com.key"],
        ["Signed", "www.example.com.crt,"],
        ["PKCS#12", "w.p12"],
    ]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"www.example.com.key": 0o600, "www.example.com.crt": 0o644, "w.p12": 0o600}
    leaf, *chain = x509.load_pem_x509_certificates((tmp_path / "www.example.com.crt").read_bytes())
    sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    values = [str(san.value) for san in sans]
    assert values == ["www.example.com", "*.example.com", *names[2:4], "xn--bcher-kva.example"]
    assert leaf.subject.rfc4514_string() == "CN=www.example.com"
    assert len(chain) == 1
    pem = (tmp_path / "www.example.com.key").read_bytes()
    assert load_pem_private_key(pem, b"battery staple").public_key() == leaf.public_key()
    command = ["openssl", "pkcs12", "-in", "w.p12", "-noenc", "-passin", "pass:correct horse"]
    opened = servers.run(*command, cwd=tmp_path).stdout
    assert (opened.count("BEGIN CERTIFICATE"), opened.count("BEGIN PRIVATE KEY")) == (2, 1)


@pytest.mark.parametrize(
    ("options", "algorithms"),
    [
        ((), ["PBES2, PBKDF2, AES-256-CBC", "hmacWithSHA256", "MAC: sha256"]),
        (("--p12-legacy",), ["pbeWithSHA1And3-KeyTripleDES-CBC", "MAC: sha1"]),
    ],
)
def test_pkcs12_has_the_encryption_of_its_option(
    server: Server, tmp_path: Path, options: tuple[str, ...], algorithms: list[str]
) -> None:
    """Key and certificates have the same algorithm, never the other one; OpenSSL 3 reads both without -legacy."""
    secret = {"CERTLET_P12_PASSWORD": "correct horse"}
    run = certlet("new", "a.example.com", "--out", "a", "--p12", "a.p12", *options, env=secret)
    assert run.returncode == 0, run.stderr
    command = ["openssl", "pkcs12", "-in", "a.p12", "-info", "-noenc", "-passin", "pass:correct horse"]
    opened = servers.run(*command, cwd=tmp_path)
    assert (opened.stdout.count("BEGIN CERTIFICATE"), opened.stdout.count("BEGIN PRIVATE KEY")) == (2, 1)
    for algorithm in algorithms:
        assert algorithm in opened.stderr
    assert opened.stderr.count(algorithms[0]) == 2
    assert ("TripleDES" in opened.stderr, "sha1," in opened.stderr.lower()) == (bool(options), bool(options))
    wrong = [*command[:-1], "pass:wrong"]
    assert servers.run(*wrong, cwd=tmp_path, check=False).returncode != 0


def test_new_accepts_email_and_uri(server: Server, tmp_path: Path) -> None:
    """The certificate has no common name; --out is a path without suffix, or a directory."""
    (tmp_path / "in").mkdir()
    for value, out, path, kind in (
        ("anna@example.com", "a.b", "a.b.crt", x509.RFC822Name),
        ("spiffe://example.com/a", "in", "in/spiffe___example.com_a.crt", x509.UniformResourceIdentifier),
    ):
        run = certlet("new", value, "--profile", "client", "--out", out)
        assert run.returncode == 0, run.stderr
        leaf = x509.load_pem_x509_certificate((tmp_path / path).read_bytes())
        sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(sans) == [kind(value)]
        assert leaf.subject == x509.Name([])


@pytest.mark.parametrize(
    ("arguments", "status", "fragment"),
    [
        (("_.example.com", "--profile", "server"), 1, "permits no underscores"),
        (("a.example.com", "--profile", "none"), 1, "is not one of: server, client, peer"),
        (("a.example.com", "--api-key", "x"), 4, "403 unauthorized"),
        (("a.example.com", "--url", "http://127.0.0.1:9"), 5, "127.0.0.1:9 failed: connection refused"),
        (("a.example.com", "--p12", "a.p12"), 1, "CERTLET_P12_PASSWORD"),
        (("a.example.com", "--p12", "a.p12", "--key-type", "ml-dsa-44"), 1, "ML-DSA"),
        (("a.example.com", "--out", "none/a"), 1, "none/a.key: No such file or directory"),
        (("a.example.com", "--out", "there"), 1, "there.crt exists; not overwritten"),
        (("a.example.com", "--out", "there", "--force", "--api-key", "x"), 4, "403 unauthorized"),
        (
            ("a.example.com", "--p12", "/proc/self/cwd/a.example.com.key"),
            1,
            "is the same file as the key or certificate",
        ),
        (("a.example.com", "--p12-legacy"), 2, "--p12-legacy requires --p12"),
        (("a..example.com",), 2, "empty label"),
        (("300.1.1.1",), 2, "'300.1.1.1' is not a valid name of the kind ip"),
        (("a.example.com", "--out", "www.crt"), 2, "--out www writes www.key and www.crt"),
        (("a.example.com", "--p12", ""), 2, "invalid value for '--p12': the path is empty"),
        (("ip:a",), 2, "not a valid name of the kind ip"),
        (("a.example.com", "--key-type", "dsa"), 2, "'dsa' is not one of"),
    ],
)
@pytest.mark.usefixtures("server")
def test_failed_new_leaves_no_file(
    tmp_path: Path, arguments: tuple[str, ...], status: int, fragment: str
) -> None:
    """Existing files stay unchanged, and neither key, certificate nor PKCS#12 is created."""
    (tmp_path / "there.crt").write_text("precious")
    run = certlet("new", *arguments)
    assert run.returncode == status
    assert fragment in run.stderr.decode()
    assert b"Traceback" not in run.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there.crt": "precious"}


@pytest.mark.parametrize(
    ("variable", "secret", "error"),
    [
        ("CERTLET_KEY_PASSPHRASE", "0123456789" * 102 + "abc", ""),
        ("CERTLET_KEY_PASSPHRASE", "0123456789" * 102 + "abcd", "has more than 1023 bytes"),
        ("CERTLET_P12_PASSWORD", "0123456789-pässword", ""),
        ("CERTLET_P12_PASSWORD", "0123456789-p\udcffssword", "PKCS#12 cannot be encrypted: password must be"),
    ],
)
def test_secret_that_cannot_encrypt_is_refused_before_signing(
    server: Server, tmp_path: Path, variable: str, secret: str, error: str
) -> None:
    """One with 1,023 bytes, or in UTF-8, encrypts key and PKCS#12."""
    intents = server.read_log().count('"event":"intent"')
    env = {"CERTLET_P12_PASSWORD": "correct horse battery", variable: secret}
    run = certlet("new", "a.example.com", "--p12", "a.p12", env=env)
    assert (run.returncode, error in run.stderr.decode()) == (int(bool(error)), True), run.stderr
    assert run.stderr.count(b"\n") == int(bool(error))
    assert server.read_log().count('"event":"intent"') == intents + (not error)
    assert len(list(tmp_path.iterdir())) == (0 if error else 3)


@pytest.mark.parametrize(
    ("offset", "problem"),
    [
        (timedelta(), ""),
        (timedelta(hours=-4), "not yet valid: the validity starts in 3 hours"),
        (timedelta(days=200), "expired "),
    ],
)
@pytest.mark.usefixtures("server")
def test_certificate_that_is_not_valid_here_has_a_warning(
    monkeypatch: pytest.MonkeyPatch, offset: timedelta, problem: str
) -> None:
    """The clock of this machine or of the service is wrong."""
    monkeypatch.setattr(new, "datetime", mock.Mock(now=lambda zone: datetime.now(zone) + offset))
    run = certlet("new", "a.example.com")
    assert run.returncode == 0
    assert run.stderr.startswith(f"warning: new certificate: {problem}".encode()) == bool(problem)
    assert (b"certlet doctor compares the clock" in run.stderr) == bool(problem) == bool(run.stderr)


def test_force_overwrites_key_and_certificate(server: Server, tmp_path: Path) -> None:
    """The new files match, and the key has mode 0600, whatever the old mode was."""
    (tmp_path / "a.key").write_text("precious")
    (tmp_path / "a.key").chmod(0o644)
    (tmp_path / "a.crt").write_text("precious")
    run = certlet("new", "a.example.com", "--out", "a", "--force")
    assert run.returncode == 0, run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a.key", "a.crt"}
    leaf = x509.load_pem_x509_certificates((tmp_path / "a.crt").read_bytes())[0]
    key = load_pem_private_key((tmp_path / "a.key").read_bytes(), None)
    assert key.public_key() == leaf.public_key()
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, rb'{"title": "\u001b[2J", "detail": "a\ncertlet: b", "status": 422, "code": "x", "errors": [{"field": "\u009b", "detail": "\u202e"}]}'),
        (200, rb'{"crt_pem": "\u001b[2J", "chain_pem": "", "notes": [], "not_after": ""}'),
    ],
)  # fmt: skip
def test_response_is_escaped_for_the_terminal(tmp_path: Path, status: int, body: bytes) -> None:
    """No control character of a response is printed, and no line that the server forged."""

    class Hostile(servers.QuietHandler):
        def respond(self) -> None:
            self.body()
            self.reply(status, body)

    for command in (("new", "a.example.com"), ("sign", "-")):
        with servers.http_server(Hostile) as url:
            run = certlet(*command, env={"CERTLET_API_KEY": API_KEY, "CERTLET_URL": url})
        assert run.returncode == 1
        output = (run.stdout + run.stderr).decode()
        assert all(map(str.isprintable, output.split("\n"))), output
        assert sum(line.startswith("certlet: ") for line in output.split("\n")) == 1
        assert list(tmp_path.iterdir()) == []


def test_result_is_json_or_nothing(server: Server) -> None:
    """With --json it is one object that names the files and describes the certificate."""
    facts = json.loads(certlet("new", "a.example.com", "192.0.2.1", "--json").stdout)
    certificate = x509.load_pem_x509_certificate(Path("a.example.com.crt").read_bytes())
    assert (facts["key"], facts["certificate"]) == ("a.example.com.key", "a.example.com.crt")
    assert facts["names"] == ["dns:a.example.com", "ip:192.0.2.1"]
    assert facts["fingerprint_sha256"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert int(facts["serial_number"], 16) == certificate.serial_number
    quiet = certlet("new", "b.example.com", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")
    assert Path("b.example.com.key").exists()
