"""`certlet trust`: the printed commands work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from service.keystore import ca_directory
from service.pki import encoding
from tests import factories, servers
from tests.cli import certlet
from tests.servers import Server
from tests.trust_output import run_in_shell, run_trust


@pytest.mark.parametrize("source", ["--ca", "--url"])
def test_printed_commands_download_the_root(tls_server: Server, tmp_path: Path, source: str) -> None:
    """They write the root to one file, and print its fingerprint, which is the one in the output."""
    ca = tls_server.log.parent / "ca"
    commands = run_trust(source, str(ca) if source == "--ca" else tls_server.url, cwd=tmp_path)
    assert any(line.startswith("Warning") for line in commands[""]) == (source == "--url")
    run = run_in_shell(commands["Download the root, and compare its fingerprint"], tmp_path)
    assert run.returncode == 0, run.stderr
    root = ca_directory.load_chain(ca)[1][-1].fingerprint(hashes.SHA256()).hex()
    assert commands[""][2] == f"SHA-256   {root}"
    assert run.stdout.strip().partition("=")[2].replace(":", "").lower() == root
    (path,) = tmp_path.iterdir()
    assert path.name == f"certlet-{root[:8]}.crt"


@pytest.mark.parametrize("program", ["curl", "ssl", "requests"])
def test_printed_commands_make_a_client_trust_the_root(
    tls_server: Server, tmp_path: Path, program: str
) -> None:
    """A client accepts the server's certificate only with the printed command."""
    commands = run_trust("--ca", str(tls_server.log.parent / "ca"), cwd=tmp_path)
    assert run_in_shell(commands["Download the root, and compare its fingerprint"], tmp_path).returncode == 0
    python, health = f"{servers.CERTLET[0]} -c", f"{tls_server.url}/health"
    without = {
        "curl": f"curl {health}",
        "ssl": f"{python} 'import urllib.request as u; u.urlopen(\"{health}\")'",
        "requests": f"{python} 'import requests; requests.get(\"{health}\")'",
    }[program]
    with_root = [*commands["Python, instead of its own roots"], without]
    if program == "curl":
        with_root = [commands["curl, for one request"][0].replace("https://…", health)]
    trusted, refused = run_in_shell(with_root, tmp_path), run_in_shell([without], tmp_path)
    assert trusted.returncode == 0, trusted.stderr
    assert refused.returncode != 0
    assert "certificate" in refused.stderr


def test_curl_on_windows_does_not_check_revocation(tls_server: Server, tmp_path: Path) -> None:
    """Windows' curl needs --ssl-no-revoke for certificates without a CRL; other programs get no such option."""
    commands = run_trust("--ca", str(tls_server.log.parent / "ca"), cwd=tmp_path)
    options = {heading: "--ssl-no-revoke" in " ".join(lines) for heading, lines in commands.items()}
    windows = "curl on Windows, if it refuses a certificate that names no CRL"
    assert [heading for heading, has_option in options.items() if has_option] == [windows]
    (command,) = commands[windows]  # curl on Linux ignores the option
    assert run_in_shell(commands["Download the root, and compare its fingerprint"], tmp_path).returncode == 0
    command = command.replace("curl.exe", "curl -sS").replace("https://…", f"{tls_server.url}/health")
    assert run_in_shell([command], tmp_path).returncode == 0


def test_fingerprint_is_verified(tls_server: Server, tmp_path: Path) -> None:
    """With --sha256 another root is refused, and the right one is printed without a warning."""
    digest = ca_directory.load_chain(tls_server.log.parent / "ca")[1][-1].fingerprint(hashes.SHA256())
    commands = run_trust("--url", tls_server.url, "--sha256", digest.hex(":").upper(), cwd=tmp_path)
    assert not any(line.startswith("Warning") for line in commands[""])
    for fingerprint, status, fragment in (
        (digest[::-1].hex(), 1, "another fingerprint"),
        ("0", 2, "64 hexadecimal digits"),
    ):
        run = certlet("trust", "--url", tls_server.url, "--sha256", fingerprint)
        assert (run.returncode, run.stdout) == (status, b"")
        assert fragment in run.stderr.decode()


def test_response_that_is_not_a_root_is_refused() -> None:
    """Junk and a CA under a root are refused; control characters in the root's name are escaped."""
    bodies = [b"junk", factories.ca().public_bytes(Encoding.DER)]
    evil = factories.root(subject="\x1b[2Jroot", issuer="\x1b[2Jroot").public_bytes(Encoding.DER)

    class Sends(servers.QuietHandler):
        def respond(self) -> None:
            self.reply(200, (bodies or [evil]).pop(0))

    with servers.http_server(Sends) as url:
        for _ in range(2):
            run = certlet("trust", "--url", url)
            assert (run.returncode, run.stdout) == (1, b"")
            assert b"is not a root certificate" in run.stderr
        run = certlet("trust", "--url", url)
        assert run.returncode == 0, run.stderr
        assert b"\x1b" not in run.stdout
        assert b"CN=\\x1b[2Jroot" in run.stdout


def test_root_is_printed_in_json(tmp_path: Path) -> None:
    """It says whether the root is verified, and has no commands."""
    servers.create_ca(tmp_path / "ca")
    facts = json.loads(certlet("trust", "--ca", "ca", "--json").stdout)
    root = x509.load_pem_x509_certificate((tmp_path / "ca" / "root-ca.crt").read_bytes())
    assert (facts["verified"], facts["root_pem"]) == (True, encoding.encode_pem([root]))
    assert facts["fingerprint_sha256"] == encoding.fingerprint(root)
