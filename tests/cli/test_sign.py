"""`certlet sign`, with a service that answers, refuses, or does neither."""

from __future__ import annotations

import re
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from service.pki.keys import encode_private_key
from tests import csrs, servers
from tests.cli import certlet
from tests.servers import API_KEY, Server


def test_sign_is_a_client(server: Server, tmp_path: Path) -> None:
    """`certlet sign` reads PEM, DER or stdin, writes the bundle, and notes on stderr."""
    request = csrs.build("a.example.com")
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(request))
    (tmp_path / "a.der").write_bytes(csrs.encode_der(request))
    for arguments, stdin in ((("a.csr",), b""), (("a.der",), b""), (("-",), csrs.encode_pem(request))):
        signed = certlet("sign", *arguments, stdin=stdin)
        assert signed.returncode == 0, signed.stderr
        assert len(x509.load_pem_x509_certificates(signed.stdout)) == 2
        assert signed.stderr.startswith(b"note: common name added")
    kept = certlet("sign", "a.csr", "--out", "a.crt", "--profile", "peer")
    leaf, _ = x509.load_pem_x509_certificates((tmp_path / "a.crt").read_bytes())
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(usages)) == 2
    assert kept.stdout.decode() == f"Signed    a.crt, until {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}\n"


def test_a_certificate_takes_the_place_of_another_alone(server: Server, tmp_path: Path) -> None:
    """--out replaces a certificate if --force says so, and never a key or a request; then nothing is signed."""
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com")))
    key = encode_private_key(csrs.private_key("p-256"))
    assert certlet("sign", "a.csr", "--out", "a.crt").returncode == 0
    first = (tmp_path / "a.crt").read_bytes()
    (tmp_path / "a.key").write_bytes(key)
    (tmp_path / "both.pem").write_bytes(first + key)
    before = server.read_log().count('"event":"intent"')
    cases = ("a.crt", False), ("a.key", True), ("both.pem", True), ("a.csr", True), ("a.csr", False)
    for out, force in cases:
        held = (tmp_path / out).read_bytes()
        refused = certlet("sign", "a.csr", "--out", out, *["--force"] * force)
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert b"nothing was changed" in refused.stderr
        assert (tmp_path / out).read_bytes() == held
    assert server.read_log().count('"event":"intent"') == before
    assert certlet("sign", "a.csr", "--out", "a.crt", "--force").returncode == 0
    assert (tmp_path / "a.crt").read_bytes() != first
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    piped = servers.certlet("sign", "a.csr", "--out", "/dev/stdout", cwd=tmp_path, env=env)
    assert piped.stdout.startswith(b"-----BEGIN CERTIFICATE-----")


def test_where_nothing_can_be_written_nothing_is_signed(server: Server, tmp_path: Path) -> None:
    """A place that is not there, or is a directory, is told before anybody is asked; also for a PKCS#12."""
    env = {"CERTLET_P12_PASSWORD": "x"}
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com")))
    (tmp_path / "dir.crt").mkdir()
    (tmp_path / "dir.csr").write_bytes(csrs.encode_pem(csrs.build("dir.example.com")))
    before = server.read_log().count('"event":"intent"')
    for arguments, told in (
        (("sign", "a.csr", "--out", "nodir/x.crt"), "nodir/x.crt: No such file or directory"),
        (("sign", "a.csr", "--out", "dir.crt"), "dir.crt: Is a directory"),
        (("sign", "dir.csr", "--output-dir=."), "dir.crt: Is a directory"),
        (("new", "b.example.com", "--p12", "nodir/b.p12"), "nodir/b.p12: No such file or directory"),
    ):
        refused = certlet(*arguments, env=env)
        assert (refused.returncode, told in refused.stderr.decode()) == (1, True), refused.stderr
    assert server.read_log().count('"event":"intent"') == before
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize("arguments", [("a.csr", "--out", "a.crt"), ("a.csr", "--output-dir=.")])
def test_a_certificate_is_not_lost(server: Server, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Where the disk is full all the same it is on stdout, and the exit status says that something is wrong."""
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com")))
    full = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *servers.CERTLET, "sign", *arguments]
    env = servers.environ(CERTLET_API_KEY=API_KEY, CERTLET_URL=server.url)
    ran = subprocess.run(full, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert ran.returncode == 1
    assert b"the certificate was signed, and is on stdout" in ran.stderr
    assert len(x509.load_pem_x509_certificates(ran.stdout[: ran.stdout.rindex(b"-----") + 6])) == 2
    assert not (tmp_path / "a.crt").exists()


def test_a_dry_run_of_several_looks_at_each(server: Server, tmp_path: Path) -> None:
    """Each is told with its name, one that is refused stops no other, and the exit status tells of it."""
    for name in ("a", "c"):
        (tmp_path / f"{name}.csr").write_bytes(csrs.encode_pem(csrs.build(f"{name}.example.com")))
    (tmp_path / "b.csr").write_bytes(b"junk!")
    ran = certlet("sign", "a.csr", "b.csr", "none.csr", "c.csr", "--dry-run")
    assert ran.returncode == 1
    assert re.findall("^File +(.*)|^Subject +(.*)", ran.stdout.decode(), re.MULTILINE) == [
        ("a.csr", ""), ("", "CN=a.example.com"), ("c.csr", ""), ("", "CN=c.example.com"),
    ]  # fmt: skip
    told = ran.stderr.decode().splitlines()
    assert told[0].startswith("b.csr: Certificate signing request not accepted: ")
    assert told[-1] == "none.csr: No such file or directory"
    assert certlet("sign", "a.csr", "c.csr", "--dry-run").returncode == 0


def test_no_private_key_is_sent(tmp_path: Path) -> None:
    """A file that holds a private key, alone or beside its request, is refused before anybody is asked."""
    env = {"CERTLET_API_KEY": API_KEY}
    key = encode_private_key(csrs.private_key("p-256"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        env["CERTLET_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for content in (key, csrs.encode_pem(csrs.build()) + key):
            (tmp_path / "my.key").write_bytes(content)
            for option in ("--out=my.crt", "--dry-run"):
                done = certlet("sign", "my.key", option, env=env)
                told = b"certlet: my.key: it holds a private key, so nothing of it was sent: give the request alone\n"
                assert (done.returncode, done.stderr) == (1, told)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_what_does_not_answer_is_told_with_what_to_do(server: Server, tmp_path: Path) -> None:
    """HTTPS asked of HTTP, HTTP of HTTPS, a root that is not trusted, a path that is none: each has its hint."""
    env = {"CERTLET_API_KEY": API_KEY}
    request = csrs.encode_pem(csrs.build())

    def told(url: str, **more: str) -> tuple[int, str]:
        done = certlet("sign", "-", "--url", url, env=env | more, stdin=request)
        return done.returncode, done.stderr.decode()

    https = server.url.replace("http", "https", 1)
    why = f"certlet: no Certlet answers at {https}: it speaks no TLS; perhaps plain {server.url}\n"
    assert told(https) == (1, why)
    status, why = told(f"{server.url}/sign")
    assert status == 1
    assert why.endswith(f"\n  is {server.url}/sign the service's base URL, with its stage if it has one?\n")
    assert "base URL" not in told(server.url, CERTLET_API_KEY="x")[1]
    with servers.certlet_server(tmp_path, "--tls") as secure:
        plain = secure.url.replace("https", "http", 1)
        assert told(plain)[1].endswith(f"perhaps it is {secure.url}\n")
        status, why = told(secure.url)
        assert status == 1
        assert why.endswith(" ($SSL_CERT_FILE names the root to be trusted: certlet trust)\n")
        assert told(secure.url, SSL_CERT_FILE=str(tmp_path / "ca" / "root-ca.crt"))[0] == 0


def test_sign_asks_for_less(server: Server) -> None:
    """`--validity` and `--not-after` reach the certificate; too much of either is told."""
    request = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
    for validity, hours in (("P1D", 24), ("12h", 12), ("2d", 48), ("1w", 168), ("36h", 36)):
        signed = certlet("sign", "-", "--validity", validity, stdin=request)
        leaf = x509.load_pem_x509_certificate(signed.stdout)
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(hours=hours, seconds=-1)
    refused = certlet("sign", "-", "--not-after", "2099-01-01T00:00:00Z", stdin=request)
    assert b"allows up to P90D" in refused.stderr


def test_a_dry_run_says_what_would_be_signed(server: Server) -> None:
    """`--dry-run` prints names, times and notes, and no certificate; a refusal is told as ever."""
    told = certlet("sign", "-", "--dry-run", stdin=csrs.encode_pem(csrs.build()))
    lines = told.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["Subject", "Names", "Valid", "Profile", "Note"]
    assert lines[1] == "Names     dns:a.example.com"
    bad = certlet("sign", "-", "--dry-run", stdin=csrs.encode_pem(csrs.build("localhost")))
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert b"rejectedIdentifier" in bad.stderr
