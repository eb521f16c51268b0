"""`certlet trust`, as transcripts: what is printed works when it is pasted."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from service.keystore import ca_directory
from tests import factories, servers
from tests.cli import certlet
from tests.servers import Server
from tests.trust_output import run_in_shell, run_trust


@pytest.mark.parametrize("source", ["--ca", "--url"])
def test_the_printed_commands_get_the_root(tls_server: Server, tmp_path: Path, source: str) -> None:
    """What is under Get it, pasted, gets the root into one file, and prints the fingerprint that was told."""
    ca = tls_server.log.parent / "ca"
    told = run_trust(source, str(ca) if source == "--ca" else tls_server.url, cwd=tmp_path)
    assert any(line.startswith("Warning") for line in told[""]) == (source == "--url")
    run = run_in_shell(told["Get it, and compare"], tmp_path)
    assert run.returncode == 0, run.stderr
    root = ca_directory.load_chain(ca)[1][-1].fingerprint(hashes.SHA256()).hex()
    assert told[""][2] == f"SHA-256   {root}"
    assert run.stdout.strip().partition("=")[2].replace(":", "").lower() == root
    (got,) = tmp_path.iterdir()
    assert got.name == f"certlet-{root[:8]}.crt"


@pytest.mark.parametrize("program", ["curl", "ssl", "requests"])
def test_the_printed_commands_trust_it(tls_server: Server, tmp_path: Path, program: str) -> None:
    """With what is printed a client takes the certificate that the CA signed; without, it does not."""
    told = run_trust("--ca", str(tls_server.log.parent / "ca"), cwd=tmp_path)
    assert run_in_shell(told["Get it, and compare"], tmp_path).returncode == 0
    python, health = f"{servers.CERTLET[0]} -c", f"{tls_server.url}/health"
    without = {
        "curl": f"curl {health}",
        "ssl": f"{python} 'import urllib.request as u; u.urlopen(\"{health}\")'",
        "requests": f"{python} 'import requests; requests.get(\"{health}\")'",
    }[program]
    with_it = [*told["Python, in place of its own"], without]
    if program == "curl":
        with_it = [told["curl, for one request"][0].replace("https://…", health)]
    taken, refused = run_in_shell(with_it, tmp_path), run_in_shell([without], tmp_path)
    assert taken.returncode == 0, taken.stderr
    assert refused.returncode != 0
    assert "certificate" in refused.stderr


def test_a_fingerprint_is_proof(tls_server: Server, tmp_path: Path) -> None:
    """Where the fingerprint is known, another root is refused, and its own is told without a warning."""
    digest = ca_directory.load_chain(tls_server.log.parent / "ca")[1][-1].fingerprint(hashes.SHA256())
    told = run_trust("--url", tls_server.url, "--sha256", digest.hex(":").upper(), cwd=tmp_path)
    assert not any(line.startswith("Warning") for line in told[""])
    for given, status, word in ((digest[::-1].hex(), 1, "another one"), ("0", 2, "64 hexadecimal digits")):
        run = certlet("trust", "--url", tls_server.url, "--sha256", given)
        assert (run.returncode, run.stdout) == (status, b"")
        assert word in run.stderr.decode()


def test_what_is_no_root_is_refused() -> None:
    """Neither junk nor a CA beneath a root is a root; a name's control characters are escaped."""
    bodies = [b"junk", factories.ca().public_bytes(Encoding.DER)]
    evil = factories.root(subject="\x1b[2Jroot", issuer="\x1b[2Jroot").public_bytes(Encoding.DER)

    class Sends(servers.QuietHandler):
        def respond(self) -> None:
            self.reply(200, (bodies or [evil]).pop(0))

    with servers.http_server(Sends) as url:
        for _ in range(2):
            run = certlet("trust", "--url", url)
            assert (run.returncode, run.stdout) == (1, b"")
            assert b"is no root certificate" in run.stderr
        shown = certlet("trust", "--url", url)
        assert shown.returncode == 0, shown.stderr
        assert b"\x1b" not in shown.stdout
        assert b"CN=\\x1b[2Jroot" in shown.stdout
