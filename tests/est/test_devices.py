"""EST with clients that others wrote, strongSwan's and curl with openssl, against `certlet serve --tls`."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from tests import servers
from tests.est.devices import CURL_RETRY, load_issuer, pem, root_path
from tests.servers import API_KEY, ROOT, Server, run

OWN = "default: peer\n"  # strongSwan 5.9.8 has no --label, and a renewal by TLS needs clientAuth


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with TLS of its own; its CA is in `ca`."""
    directory = tmp_path_factory.mktemp("devices")
    (directory / "own.yaml").write_text(OWN)
    with servers.serving(directory, "--tls", "--no-usage-plan", "--profiles", "own.yaml") as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        yield server


def pki(server: Server, cwd: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """strongSwan's EST client."""
    command = ["pki", "--est", "--url", server.url, "--cacert", str(root_path(server)), "--outform", "pem"]
    return run(*command, *options, cwd=cwd, check=check)


def request(cwd: Path, name: str, cn: str = "device.example.com") -> None:
    """A key and a request, by strongSwan."""
    key = run("pki", "--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem", cwd=cwd)
    (cwd / f"{name}.key").write_text(key.stdout)
    ask = f"pki --req --in {name}.key --type ecdsa --dn CN={cn} --outform pem"
    (cwd / f"{name}.csr").write_text(run(*ask.split(), cwd=cwd).stdout)


def certificate(path: Path) -> x509.Certificate:
    """The certificate that a client wrote down."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_strongswan_gets_the_ca(site: Server, tmp_path: Path) -> None:
    """`pki --estca` gets the root and the intermediate, and finds them trusted."""
    command = ["pki", "--estca", "--url", site.url, "--cacert", str(root_path(site)), "--caout", "ca.pem"]
    run(*command, "--outform", "pem", cwd=tmp_path)
    got = {certificate(each) for each in tmp_path.glob("ca*.pem")}
    assert got == set(load_issuer(site.log.parent / "ca").ca_certificates)


def test_strongswan_enrols_and_renews(site: Server, tmp_path: Path) -> None:
    """`pki --est` enrols with Basic, and renews with the certificate and another key, several times over."""
    request(tmp_path, "first")
    # It judges the issued certificate by the CA certificates that it has: the signing CA is one.
    signing = ("--cacert", str(site.log.parent / "ca" / "signing-ca.crt"))
    first = pki(site, tmp_path, *signing, "--in", "first.csr", "--userpass", f"device:{API_KEY}")
    (tmp_path / "first.crt").write_text(first.stdout)
    assert "Issued certificate is trusted" in first.stderr
    before = "first"
    for again in ("second", "third"):
        request(tmp_path, again)
        renewal = ["--in", f"{again}.csr", "--cert", f"{before}.crt", "--key", f"{before}.key"]
        renewed = pki(site, tmp_path, *signing, *renewal)
        (tmp_path / f"{again}.crt").write_text(renewed.stdout)
        assert "Issued certificate is trusted" in renewed.stderr
        old, new = (certificate(tmp_path / f"{name}.crt") for name in (before, again))
        assert new.subject == old.subject
        assert new.public_key() != old.public_key()
        before = again
    assert site.logged().count("/.well-known/est/simplereenroll") == 2


def test_strongswan_is_told_no(site: Server, tmp_path: Path) -> None:
    """A wrong password is 403, none 401, and changed names 400, in strongSwan's words too."""
    request(tmp_path, "a")
    enrolled = pki(site, tmp_path, "--in", "a.csr", "--userpass", f"device:{API_KEY}")
    (tmp_path / "a.crt").write_text(enrolled.stdout)
    request(tmp_path, "b", "other.example.com")
    refused = {"a.csr --userpass device:wrong": 403, "a.csr": 401, "b.csr --cert a.crt --key a.key": 400}
    for options, status in refused.items():
        told = pki(site, tmp_path, "--in", *options.split(), check=False)
        assert (told.returncode != 0, f"HTTP {status}" in told.stderr) == (True, True), told.stderr


def curl(server: Server, cwd: Path, path: str, *options: str, out: str = "answer") -> tuple[int, bytes]:
    """Status and body of what curl does."""
    command = ["curl", "-sS", "--cacert", str(root_path(server)), "-o", out, "-w", "%{http_code}"]
    done = run(*command, *options, f"{server.url}/.well-known/est{path}", cwd=cwd)
    return int(done.stdout), (cwd / out).read_bytes()


def openssl_request(cwd: Path, name: str, *options: str) -> None:
    """A key and a request by openssl, and the base64 of it that openssl wraps."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    subject = [] if "-subj" in options else ["-subj", "/CN=device.example.com"]
    run("openssl", "req", "-new", *key, *subject, *options, "-outform", "der", "-out", f"{name}.der", cwd=cwd)
    run("openssl", "base64", "-in", f"{name}.der", "-out", f"{name}.b64", cwd=cwd)


def post(name: str) -> list[str]:
    """curl's options that send a request."""
    return ["-H", "Content-Type: application/pkcs10", "--data-binary", f"@{name}.b64"]


def unpack(cwd: Path, name: str) -> None:
    """The certificates of an answer, by openssl."""
    run("openssl", "base64", "-d", "-A", "-in", "answer", "-out", "answer.p7", cwd=cwd)
    printed = ("-print_certs", "-out", f"{name}.crt")
    run("openssl", "pkcs7", "-inform", "der", "-in", "answer.p7", *printed, cwd=cwd)


BASIC = ["-u", f"device:{API_KEY}"]


def test_curl_and_openssl_enrol_and_renew(site: Server, tmp_path: Path) -> None:
    """With a label, Basic, and then the certificate; openssl finds both good for a TLS client."""
    openssl_request(tmp_path, "first")
    assert curl(site, tmp_path, "/client/simpleenroll", *BASIC, *post("first"))[0] == 200
    unpack(tmp_path, "first")
    openssl_request(tmp_path, "second")
    identity = ["--cert", "first.crt", "--key", "first.key"]
    for path in ("/simplereenroll", "/client/simplereenroll"):
        assert curl(site, tmp_path, path, *identity, *post("second"))[0] == 200
        unpack(tmp_path, "second")
    assert curl(site, tmp_path, "/cacerts")[0] == 200
    unpack(tmp_path, "ca")
    for name in ("first", "second"):
        verify = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            str(root_path(site)),
        ]
        run(*verify, "-untrusted", "ca.crt", f"{name}.crt", cwd=tmp_path)
    assert curl(site, tmp_path, "/csrattrs")[0] == 204


def test_curl_s_refusals(site: Server, tmp_path: Path) -> None:
    """Each refusal that a device may meet, by its status."""
    openssl_request(tmp_path, "a")
    (tmp_path / "empty.b64").write_bytes(b"")
    (tmp_path / "large.b64").write_bytes(b"A" * 1_048_576)
    (tmp_path / "der.b64").write_bytes((tmp_path / "a.der").read_bytes())
    openssl_request(tmp_path, "b", "-addext", "subjectAltName=DNS:more.example.com")
    assert curl(site, tmp_path, "/peer/simpleenroll", *BASIC, *post("a"))[0] == 200
    unpack(tmp_path, "a")
    identity = ["--cert", "a.crt", "--key", "a.key"]
    for path, caller, name, status in (
        ("/simpleenroll", [], "a", 401),
        ("/simpleenroll", ["-u", "device:x"], "a", 403),
        ("/simpleenroll", BASIC, "der", 400),
        ("/simpleenroll", BASIC, "empty", 400),
        ("/simpleenroll", BASIC, "large", 413),
        ("/nope/simpleenroll", BASIC, "a", 404),
        ("/simplereenroll", BASIC, "a", 403),
        ("/simplereenroll", identity, "b", 400),  # other names
        ("/client/simplereenroll", identity, "a", 403),
    ):
        assert curl(site, tmp_path, path, *caller, *post(name))[0] == status, (path, caller, name)
    assert servers.certlet("revoke", tmp_path / "a.crt", cwd=site.log.parent).returncode == 0
    assert curl(site, tmp_path, "/simplereenroll", *identity, *post("a"))[0] == 403


NGINX = """
daemon off; pid nginx.pid; error_log stderr; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate server.pem; ssl_certificate_key server.key;
    ssl_client_certificate ca.pem; ssl_verify_client on; ssl_verify_depth 2;
    location / {{ return 200 "$ssl_client_s_dn\\n"; }}
  }}
}}
"""


def test_what_was_enrolled_does_mutual_tls(site: Server, tmp_path: Path) -> None:
    """nginx with an enrolled server certificate takes an enrolled client's, and not a server's."""
    openssl_request(tmp_path, "server", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    openssl_request(tmp_path, "device")
    openssl_request(tmp_path, "wrong")
    for name, label in (("server", "server"), ("device", "client"), ("wrong", "server")):
        assert curl(site, tmp_path, f"/{label}/simpleenroll", *BASIC, *post(name))[0] == 200
        unpack(tmp_path, name)
    ca = load_issuer(site.log.parent / "ca")
    (tmp_path / "server.pem").write_text((tmp_path / "server.crt").read_text() + pem(ca.certificate))
    (tmp_path / "ca.pem").write_text("".join(map(pem, ca.ca_certificates)))
    port = servers.free_port()
    (tmp_path / "nginx.conf").write_text(NGINX.format(port=port))
    command = ["nginx", "-p", f"{tmp_path}/", "-c", "nginx.conf"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as nginx:
        try:
            there = ["curl", "-sS", "--cacert", str(root_path(site)), *CURL_RETRY]
            url = f"https://localhost:{port}/"
            seen = run(*there, "--cert", "device.crt", "--key", "device.key", url, cwd=tmp_path)
            assert seen.stdout == "CN=device.example.com\n"
            for bad in (["--cert", "wrong.crt", "--key", "wrong.key"], []):
                refused = run(*there, *bad, url, cwd=tmp_path, check=False)
                assert "CN=" not in refused.stdout
                assert refused.returncode != 0 or "400 " in refused.stdout
        finally:
            nginx.terminate()


def test_the_readme_s_renewal_runs(site: Server, tmp_path: Path) -> None:
    """The five lines of docs/how-to/devices.md renew a certificate, put it in its place, and leave the old one if refused."""
    (script,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/how-to/devices.md").read_text(), re.DOTALL)
    assert script.count("\n") == 5
    openssl_request(tmp_path, "device")
    assert curl(site, tmp_path, "/peer/simpleenroll", *BASIC, *post("device"))[0] == 200
    unpack(tmp_path, "device")
    (tmp_path / "root-ca.crt").write_bytes(root_path(site).read_bytes())
    host = urlsplit(site.url).netloc
    script = script.replace("est.example.com", host)
    script = script.replace("cd /etc/device", f"cd {shlex.quote(str(tmp_path))}")
    assert host in script
    device = tmp_path / "device.crt"
    before = certificate(device)
    run("sh", "-c", script, cwd=tmp_path)  # thirty days before its end, and not before
    assert certificate(device) == before
    assert "2592000" in script
    script = script.replace("2592000", "99999999")
    run("sh", "-c", script, cwd=tmp_path)
    after = certificate(device)
    assert after.serial_number != before.serial_number
    assert after.subject == before.subject
    assert servers.certlet("revoke", device, cwd=site.log.parent).returncode == 0
    assert run("sh", "-c", script, cwd=tmp_path, check=False).returncode != 0
    assert certificate(device) == after
