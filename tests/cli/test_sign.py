"""`certlet sign`, with a service that signs, refuses, or does not respond."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from service.cli import inspection
from service.pki import encoding
from service.pki.keys import encode_private_key
from tests import csrs, factories, input_forms, servers
from tests.cli import certlet, tls_context, write_site
from tests.servers import API_KEY, Server


def test_sign_reads_files_and_stdin(server: Server, tmp_path: Path) -> None:
    """A CSR is PEM or DER; the output is the certificate with its chain, and notes are on stderr."""
    request = csrs.build("a.example.com")
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(request))
    (tmp_path / "a.der").write_bytes(csrs.encode_der(request))
    for arguments, stdin in ((("a.csr",), b""), (("a.der",), b""), (("-",), csrs.encode_pem(request))):
        signed = certlet("sign", *arguments, stdin=stdin)
        assert signed.returncode == 0, signed.stderr
        assert len(x509.load_pem_x509_certificates(signed.stdout)) == 2
        assert signed.stderr.startswith(b"note: common name added")
    run = certlet("sign", "a.csr", "--out", "a.crt", "--profile", "peer")
    leaf, _ = x509.load_pem_x509_certificates((tmp_path / "a.crt").read_bytes())
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(usages)) == 2
    assert (
        run.stdout.decode() == f"Signed    a.crt, valid until {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}\n"
    )


def test_csr_in_every_form_is_signed(server: Server, tmp_path: Path) -> None:
    """`certlet sign` sends text and octets such that the service reads the same forms as in `/sign.pem`."""
    for name, data in input_forms.ALL.items():
        (tmp_path / f"{name}.csr").write_bytes(data)
    run = certlet("sign", *(f"{name}.csr" for name in input_forms.ALL))
    assert (run.returncode, run.stdout) == (0, b"%d signed, 0 skipped, 0 failed\n" % len(input_forms.ALL)), (
        run
    )
    run = certlet("sign", "UTF-16.csr", "--dry-run")
    assert b"Names     dns:x.example\n" in run.stdout


def test_out_overwrites_nothing_but_a_certificate(server: Server, tmp_path: Path) -> None:
    """--out overwrites a certificate only with --force, and a key or a CSR never; a refusal comes before signing."""
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com")))
    key = encode_private_key(csrs.private_key("p-256"))
    assert certlet("sign", "a.csr", "--out", "a.crt").returncode == 0
    first = (tmp_path / "a.crt").read_bytes()
    (tmp_path / "a.key").write_bytes(key)
    (tmp_path / "both.pem").write_bytes(first + key)
    before = server.read_log().count('"event":"intent"')
    cases = ("a.crt", False), ("a.key", True), ("both.pem", True), ("a.csr", True), ("a.csr", False)
    for out, force in cases:
        content = (tmp_path / out).read_bytes()
        refused = certlet("sign", "a.csr", "--out", out, *["--force"] * force)
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert b"not overwritten" in refused.stderr
        assert (tmp_path / out).read_bytes() == content
    assert server.read_log().count('"event":"intent"') == before
    assert certlet("sign", "a.csr", "--out", "a.crt", "--force").returncode == 0
    assert (tmp_path / "a.crt").read_bytes() != first
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    piped = servers.certlet("sign", "a.csr", "--out", "/dev/stdout", cwd=tmp_path, env=env)
    assert piped.stdout.startswith(b"-----BEGIN CERTIFICATE-----")


def test_unwritable_output_is_refused_before_signing(server: Server, tmp_path: Path) -> None:
    """A missing directory, or a directory instead of a file, is an error before any request is sent."""
    env = {"CERTLET_P12_PASSWORD": "x"}
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com")))
    (tmp_path / "dir.crt").mkdir()
    (tmp_path / "dir.csr").write_bytes(csrs.encode_pem(csrs.build("dir.example.com")))
    before = server.read_log().count('"event":"intent"')
    for arguments, message in (
        (("sign", "a.csr", "--out", "nodir/x.crt"), "nodir/x.crt: No such file or directory"),
        (("sign", "a.csr", "--out", "dir.crt"), "dir.crt: Is a directory"),
        (("sign", "dir.csr", "--output-dir=."), "dir.crt: Is a directory"),
        (("new", "b.example.com", "--p12", "nodir/b.p12"), "nodir/b.p12: No such file or directory"),
    ):
        refused = certlet(*arguments, env=env)
        assert (refused.returncode, message in refused.stderr.decode()) == (1, True), refused.stderr
    assert server.read_log().count('"event":"intent"') == before
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize("arguments", [("a.csr", "--out", "a.crt"), ("a.csr", "--output-dir=.")])
def test_certificate_is_printed_if_it_cannot_be_written(
    server: Server, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """If the disk is full after signing, the certificate is on stdout, and the exit status is 1."""
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com")))
    command = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *servers.CERTLET, "sign", *arguments]
    env = servers.environ(CERTLET_API_KEY=API_KEY, CERTLET_URL=server.url)
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert run.returncode == 1
    assert b"the certificate was issued and printed on stdout" in run.stderr
    assert len(x509.load_pem_x509_certificates(run.stdout[: run.stdout.rindex(b"-----") + 6])) == 2
    assert not (tmp_path / "a.crt").exists()


def test_dry_run_of_several_csrs_reports_each(server: Server, tmp_path: Path) -> None:
    """Each result has its file; a refusal does not stop the others, and makes the exit status 1."""
    for name in ("a", "c"):
        (tmp_path / f"{name}.csr").write_bytes(csrs.encode_pem(csrs.build(f"{name}.example.com")))
    (tmp_path / "b.csr").write_bytes(b"junk!")
    run = certlet("sign", "a.csr", "b.csr", "none.csr", "c.csr", "--dry-run")
    assert run.returncode == 1
    assert re.findall("^File +(.*)|^Subject +(.*)", run.stdout.decode(), re.MULTILINE) == [
        ("a.csr", ""), ("", "CN=a.example.com"), ("c.csr", ""), ("", "CN=c.example.com"),
    ]  # fmt: skip
    errors = run.stderr.decode().splitlines()
    assert errors[0].startswith("b.csr: Certificate signing request not accepted: ")
    assert errors[-1] == "none.csr: No such file or directory"
    assert certlet("sign", "a.csr", "c.csr", "--dry-run").returncode == 0


def test_no_private_key_is_sent(tmp_path: Path) -> None:
    """A file with a private key, with or without a CSR, is refused before any request is sent."""
    env = {"CERTLET_API_KEY": API_KEY}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        env["CERTLET_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for content in input_forms.PRIVATE_KEYS.values():
            (tmp_path / "my.key").write_bytes(content)
            for option in ("--out=my.crt", "--dry-run"):
                run = certlet("sign", "my.key", option, env=env)
                message = b"certlet: my.key contains a private key and was not sent: pass a file with only the CSR\n"
                assert (run.returncode, run.stderr) == (1, message)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_connection_error_has_a_hint(server: Server, tmp_path: Path) -> None:
    """The hints for HTTPS to an HTTP server, HTTP to an HTTPS server, an untrusted root and a wrong base URL."""
    env = {"CERTLET_API_KEY": API_KEY}
    request = csrs.encode_pem(csrs.build())

    def sign(url: str, **more: str) -> tuple[int, str]:
        run = certlet("sign", "-", "--url", url, env=env | more, stdin=request)
        return run.returncode, run.stderr.decode()

    https = server.url.replace("http", "https", 1)
    message = f"certlet: request to {https} failed: the server does not use TLS: try {server.url}\n"
    assert sign(https) == (5, message)
    status, message = sign(f"{server.url}/sign")
    assert status == 1
    assert message.endswith(
        f" (check that {server.url}/sign is the service's base URL, including the stage)\n"
    )
    assert "base URL" not in sign(server.url, CERTLET_API_KEY="x")[1]
    with servers.certlet_server(tmp_path, "--tls") as secure:
        plain = secure.url.replace("https", "http", 1)
        assert sign(plain)[1].endswith(f": try {secure.url}\n")
        status, message = sign(secure.url)
        assert status == 5
        assert message.endswith(
            " (certlet login trusts the root of a service; or set $SSL_CERT_FILE to it)\n"
        )
        assert sign(secure.url, SSL_CERT_FILE=str(tmp_path / "ca" / "root-ca.crt"))[0] == 0


@pytest.mark.parametrize("age", [timedelta(days=1), timedelta(days=-1)])
def test_wrong_clock_has_a_hint(ca_server: Server, tmp_path: Path, age: timedelta) -> None:
    """The server's certificate has ended, or is not valid yet: the clock may be wrong."""
    ca = ca_server.log.parent / "ca"
    (tmp_path / "my.csr").write_bytes(csrs.encode_pem(csrs.build()))
    write_site(ca, age=age, validity="PT1H")
    with servers.http_server(servers.QuietHandler, tls_context()) as url:
        env = {"SSL_CERT_FILE": str(ca / "root-ca.crt"), "CERTLET_API_KEY": API_KEY}
        run = certlet("sign", "my.csr", "--url", url.replace("127.0.0.1", "localhost"), env=env)
    assert (run.returncode, run.stdout) == (5, b"")
    assert b" (certlet doctor compares the clocks; if they agree, the server needs a new" in run.stderr


def test_sign_requests_a_validity(server: Server) -> None:
    """The certificate has the validity of `--validity`; a `--not-after` that is too late is refused."""
    request = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
    for validity, hours in (
        ("P1D", 24),
        ("12h", 12),
        ("90m", 1.5),
        ("PT36H", 36),
        ("2d", 48),
        ("1w", 168),
        ("36h", 36),
    ):
        signed = certlet("sign", "-", "--validity", validity, stdin=request)
        leaf = x509.load_pem_x509_certificate(signed.stdout)
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(hours=hours, seconds=-1)
    refused = certlet("sign", "-", "--not-after", "2099-01-01T00:00:00Z", stdin=request)
    assert b"allows up to P7D" in refused.stderr


def test_dry_run_describes_the_certificate(server: Server) -> None:
    """`--dry-run` prints names, times and notes, but no certificate; a refusal is an error."""
    run = certlet("sign", "-", "--dry-run", stdin=csrs.encode_pem(csrs.build()))
    lines = run.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["Subject", "Names", "Valid", "Profile", "Note"]
    assert lines[1] == "Names     dns:a.example.com"
    bad = certlet("sign", "-", "--dry-run", stdin=csrs.encode_pem(csrs.build("localhost")))
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert b"rejectedIdentifier" in bad.stderr


def test_result_is_json_or_nothing(server: Server) -> None:
    """With --json each result is one object; with --quiet only the certificate and errors are printed."""
    Path("a.csr").write_bytes(csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])))
    Path("b.csr").write_bytes(csrs.encode_pem(csrs.build(sans=["dns:b.example.com"])))
    signed = json.loads(certlet("sign", "a.csr", "--json").stdout)
    leaf = x509.load_pem_x509_certificate(signed.pop("crt_pem").encode())
    assert signed.pop("chain_pem").startswith("-----BEGIN CERTIFICATE-----")
    assert signed == {**inspection.certificate_facts(leaf), "notes": signed["notes"]}
    written = json.loads(certlet("sign", "a.csr", "--out", "a.crt", "--json").stdout)
    leaf = x509.load_pem_x509_certificate(Path("a.crt").read_bytes())
    assert written == {"certificate": "a.crt", **inspection.certificate_facts(leaf), "notes": signed["notes"]}
    dry = [
        json.loads(line)
        for line in certlet("sign", "a.csr", "b.csr", "--dry-run", "--json").stdout.splitlines()
    ]
    assert [(result["file"], result["names"][0]) for result in dry] == [
        ("a.csr", "dns:a.example.com"), ("b.csr", "dns:b.example.com"),
    ]  # fmt: skip
    assert json.loads(certlet("sign", "a.csr", "b.csr", "--json").stdout) == {
        "signed": 1,
        "skipped": 1,
        "failed": 0,
    }
    assert json.loads(certlet("sign", "a.csr", "--json", "-q").stdout)["crt_pem"]
    quiet = certlet("sign", "a.csr", "-q")
    assert (quiet.stdout[:27], quiet.stderr) == (b"-----BEGIN CERTIFICATE-----", b"")
    quiet = certlet("sign", "a.csr", "b.csr", "--validity", "1h", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")


def test_certificate_for_another_key_is_refused() -> None:
    """So is a malformed one; nothing is printed or written. One for the key of the CSR is printed."""
    request = csrs.encode_pem(csrs.build())
    issued = factories.authority().issue(factories.issuance_request(request))
    malformed = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    body = {"chain_pem": "", "notes": [], "not_after": "2030-01-01T00:00:00Z"}

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            self.body()
            self.reply(200, json.dumps(body).encode())

    Path("a.csr").write_bytes(request)
    Path("b.csr").write_bytes(csrs.encode_pem(csrs.build(key_type="p-384")))
    with servers.http_server(Handler) as url:
        env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": url}
        for pem, path, error in (
            (encoding.encode_pem([issued.certificate]), "a.csr", ""),
            (encoding.encode_pem([issued.certificate]), "b.csr", "a certificate for another key\n"),
            (malformed, "a.csr", "a malformed certificate: "),
        ):
            body["crt_pem"] = pem
            run = certlet("sign", path, env=env)
            assert (run.returncode, run.stdout.decode()) == ((1, "") if error else (0, pem))
            assert run.stderr.decode().startswith(f"certlet: the service returned {error}" if error else "")
            if error:
                assert certlet("sign", path, "--json", "--out", "a.crt", env=env).returncode == 1
    assert not Path("a.crt").exists()
