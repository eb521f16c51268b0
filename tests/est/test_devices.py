"""EST with other clients (strongSwan, and curl with openssl) against `certlet serve --tls`."""

from __future__ import annotations

import base64
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

PROFILES = "default: peer\n"  # strongSwan 5.9.8 has no --label, and a renewal by TLS needs clientAuth


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with TLS. Its CA is in `ca`."""
    directory = tmp_path_factory.mktemp("devices")
    (directory / "profiles.yaml").write_text(PROFILES)
    with servers.certlet_server(
        directory, "--tls", "--no-usage-plan", "--profiles", "profiles.yaml"
    ) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        yield server


def pki(server: Server, cwd: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the EST client of strongSwan."""
    command = ["pki", "--est", "--url", server.url, "--cacert", str(root_path(server)), "--outform", "pem"]
    return run(*command, *options, cwd=cwd, check=check)


def create_csr(cwd: Path, name: str, cn: str = "device.example.com") -> None:
    """Create a key and a CSR with strongSwan."""
    key = run("pki", "--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem", cwd=cwd)
    (cwd / f"{name}.key").write_text(key.stdout)
    command = f"pki --req --in {name}.key --type ecdsa --dn CN={cn} --outform pem"
    (cwd / f"{name}.csr").write_text(run(*command.split(), cwd=cwd).stdout)


def load_certificate(path: Path) -> x509.Certificate:
    """Load the certificate that a client wrote."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_strongswan_trusts_the_ca_certificates(tls_server: Server, tmp_path: Path) -> None:
    """`pki --estca` gets the root and the intermediate, and verifies them."""
    command = [
        "pki",
        "--estca",
        "--url",
        tls_server.url,
        "--cacert",
        str(root_path(tls_server)),
        "--caout",
        "ca.pem",
    ]
    run(*command, "--outform", "pem", cwd=tmp_path)
    certificates = {load_certificate(path) for path in tmp_path.glob("ca*.pem")}
    assert certificates == set(load_issuer(tls_server.log.parent / "ca").ca_certificates)


def test_strongswan_enrols_and_renews(tls_server: Server, tmp_path: Path) -> None:
    """`pki --est` enrols with Basic, and renews with the certificate and a new key, several times."""
    create_csr(tmp_path, "first")
    # strongSwan verifies the issued certificate with the certificates of --cacert only, so it needs the signing CA.
    signing = ("--cacert", str(tls_server.log.parent / "ca" / "signing-ca.crt"))
    first = pki(tls_server, tmp_path, *signing, "--in", "first.csr", "--userpass", f"device:{API_KEY}")
    (tmp_path / "first.crt").write_text(first.stdout)
    assert "Issued certificate is trusted" in first.stderr
    old_name = "first"
    for new_name in ("second", "third"):
        create_csr(tmp_path, new_name)
        renewal = ["--in", f"{new_name}.csr", "--cert", f"{old_name}.crt", "--key", f"{old_name}.key"]
        renewed = pki(tls_server, tmp_path, *signing, *renewal)
        (tmp_path / f"{new_name}.crt").write_text(renewed.stdout)
        assert "Issued certificate is trusted" in renewed.stderr
        old, new = (load_certificate(tmp_path / f"{name}.crt") for name in (old_name, new_name))
        assert new.subject == old.subject
        assert new.public_key() != old.public_key()
        old_name = new_name
    assert tls_server.read_log().count("/.well-known/est/simplereenroll") == 2


def test_strongswan_reports_refusals(tls_server: Server, tmp_path: Path) -> None:
    """strongSwan reports 401 for a wrong password and for none, and 400 for changed names."""
    create_csr(tmp_path, "a")
    enrolled = pki(tls_server, tmp_path, "--in", "a.csr", "--userpass", f"device:{API_KEY}")
    (tmp_path / "a.crt").write_text(enrolled.stdout)
    create_csr(tmp_path, "b", "other.example.com")
    statuses = {"a.csr --userpass device:wrong": 401, "a.csr": 401, "b.csr --cert a.crt --key a.key": 400}
    for options, status in statuses.items():
        result = pki(tls_server, tmp_path, "--in", *options.split(), check=False)
        assert (result.returncode != 0, f"HTTP {status}" in result.stderr) == (True, True), result.stderr


@pytest.fixture(scope="module")
def wrapping_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with TLS, whose EST responses have lines of 64 characters."""
    directory = tmp_path_factory.mktemp("lines")
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_EST_LINE_LENGTH": "64"}
    with servers.certlet_server(directory, "--tls", env=env) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        yield server


def decode_by_line(cwd: Path) -> bytes:
    """Decode a response as libest does, with OpenSSL's base64 filter, which needs short lines."""
    decoded = subprocess.run(
        ["openssl", "base64", "-d", "-in", "response"], cwd=cwd, capture_output=True, check=False
    )
    return decoded.stdout


def test_reader_that_needs_lines_enrols_with_wrapped_responses(
    wrapping_server: Server, tls_server: Server, tmp_path: Path
) -> None:
    """libest 3.2 and OpenSSL's base64 filter read lines of 64 characters, but not one long line."""
    create_openssl_csr(tmp_path, "device")
    for path, options in (("/cacerts", []), ("/simpleenroll", [*BASIC, *post_options("device")])):
        status, body = curl(wrapping_server, tmp_path, path, *options)
        assert status == 200
        assert {len(line) for line in body.splitlines()[:-1]} == {64}
        assert body.endswith(b"\n")
        assert decode_by_line(tmp_path) == base64.b64decode(body)
        status, body = curl(tls_server, tmp_path, path, *options)
        assert (status, body.count(b"\n")) == (200, 0)
        assert decode_by_line(tmp_path) != base64.b64decode(body)


def test_strongswan_needs_the_default(wrapping_server: Server, tmp_path: Path) -> None:
    """strongSwan 5.9 does not read lines, so that one line is the default."""
    options = ("--url", wrapping_server.url, "--cacert", str(root_path(wrapping_server)), "--outform", "pem")
    assert run("pki", "--estca", *options, cwd=tmp_path, check=False).returncode != 0


def curl(server: Server, cwd: Path, path: str, *options: str, out: str = "response") -> tuple[int, bytes]:
    """Run curl, and return status and body of the response."""
    command = ["curl", "-sS", "--cacert", str(root_path(server)), "-o", out, "-w", "%{http_code}"]
    result = run(*command, *options, f"{server.url}/.well-known/est{path}", cwd=cwd)
    return int(result.stdout), (cwd / out).read_bytes()


def create_openssl_csr(cwd: Path, name: str, *options: str) -> None:
    """Create a key, a CSR, and its base64 with line breaks, with openssl."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    subject = [] if "-subj" in options else ["-subj", "/CN=device.example.com"]
    run("openssl", "req", "-new", *key, *subject, *options, "-outform", "der", "-out", f"{name}.der", cwd=cwd)
    run("openssl", "base64", "-in", f"{name}.der", "-out", f"{name}.b64", cwd=cwd)


def post_options(name: str) -> list[str]:
    """Return the options of curl that send a CSR."""
    return ["-H", "Content-Type: application/pkcs10", "--data-binary", f"@{name}.b64"]


def unpack(cwd: Path, name: str) -> None:
    """Extract the certificates of a response with openssl."""
    run("openssl", "base64", "-d", "-A", "-in", "response", "-out", "response.p7", cwd=cwd)
    print_options = ("-print_certs", "-out", f"{name}.crt")
    run("openssl", "pkcs7", "-inform", "der", "-in", "response.p7", *print_options, cwd=cwd)


BASIC = ["-u", f"device:{API_KEY}"]


def test_curl_and_openssl_enrol_and_renew(tls_server: Server, tmp_path: Path) -> None:
    """curl enrols with Basic and a label, then renews. openssl accepts both certificates for a TLS client."""
    create_openssl_csr(tmp_path, "first")
    assert curl(tls_server, tmp_path, "/client/simpleenroll", *BASIC, *post_options("first"))[0] == 200
    unpack(tmp_path, "first")
    create_openssl_csr(tmp_path, "second")
    identity = ["--cert", "first.crt", "--key", "first.key"]
    for path in ("/simplereenroll", "/client/simplereenroll"):
        assert curl(tls_server, tmp_path, path, *identity, *post_options("second"))[0] == 200
        unpack(tmp_path, "second")
    assert curl(tls_server, tmp_path, "/cacerts")[0] == 200
    unpack(tmp_path, "ca")
    for name in ("first", "second"):
        verify = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            str(root_path(tls_server)),
        ]
        run(*verify, "-untrusted", "ca.crt", f"{name}.crt", cwd=tmp_path)
    assert curl(tls_server, tmp_path, "/csrattrs")[0] == 204


def test_curl_receives_the_status_of_each_refusal(tls_server: Server, tmp_path: Path) -> None:
    """Each kind of refusal has its own status."""
    create_openssl_csr(tmp_path, "a")
    (tmp_path / "empty.b64").write_bytes(b"")
    (tmp_path / "large.b64").write_bytes(b"A" * 1_048_576)
    (tmp_path / "der.b64").write_bytes((tmp_path / "a.der").read_bytes())
    create_openssl_csr(tmp_path, "b", "-addext", "subjectAltName=DNS:more.example.com")
    assert curl(tls_server, tmp_path, "/peer/simpleenroll", *BASIC, *post_options("a"))[0] == 200
    unpack(tmp_path, "a")
    identity = ["--cert", "a.crt", "--key", "a.key"]
    for path, caller, name, status in (
        ("/simpleenroll", [], "a", 401),
        ("/simpleenroll", ["-u", "device:x"], "a", 401),
        ("/simpleenroll", BASIC, "der", 400),
        ("/simpleenroll", BASIC, "empty", 400),
        ("/simpleenroll", BASIC, "large", 413),
        ("/unknown/simpleenroll", BASIC, "a", 404),
        ("/simplereenroll", BASIC, "a", 403),
        ("/simplereenroll", identity, "b", 400),  # other names
        ("/client/simplereenroll", identity, "a", 403),
    ):
        assert curl(tls_server, tmp_path, path, *caller, *post_options(name))[0] == status, (
            path,
            caller,
            name,
        )
    assert servers.certlet("revoke", "--yes", tmp_path / "a.crt", cwd=tls_server.log.parent).returncode == 0
    assert curl(tls_server, tmp_path, "/simplereenroll", *identity, *post_options("a"))[0] == 403


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


def test_enrolled_certificates_work_for_mutual_tls(tls_server: Server, tmp_path: Path) -> None:
    """nginx with an enrolled server certificate accepts only an enrolled client certificate."""
    create_openssl_csr(
        tmp_path, "server", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"
    )
    create_openssl_csr(tmp_path, "device")
    create_openssl_csr(tmp_path, "wrong")
    for name, label in (("server", "server"), ("device", "client"), ("wrong", "server")):
        assert curl(tls_server, tmp_path, f"/{label}/simpleenroll", *BASIC, *post_options(name))[0] == 200
        unpack(tmp_path, name)
    ca = load_issuer(tls_server.log.parent / "ca")
    (tmp_path / "server.pem").write_text((tmp_path / "server.crt").read_text() + pem(ca.certificate))
    (tmp_path / "ca.pem").write_text("".join(map(pem, ca.ca_certificates)))
    port = servers.free_port()
    (tmp_path / "nginx.conf").write_text(NGINX.format(port=port))
    command = ["nginx", "-p", f"{tmp_path}/", "-c", "nginx.conf"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as nginx:
        try:
            command = ["curl", "-sS", "--cacert", str(root_path(tls_server)), *CURL_RETRY]
            url = f"https://localhost:{port}/"
            accepted = run(*command, "--cert", "device.crt", "--key", "device.key", url, cwd=tmp_path)
            assert accepted.stdout == "CN=device.example.com\n"
            for options in (["--cert", "wrong.crt", "--key", "wrong.key"], []):
                refused = run(*command, *options, url, cwd=tmp_path, check=False)
                assert "CN=" not in refused.stdout
                assert refused.returncode != 0 or "400 " in refused.stdout
        finally:
            nginx.terminate()


def test_documented_renewal_script_works(tls_server: Server, tmp_path: Path) -> None:
    """The script in docs/how-to/devices.md replaces a certificate, and keeps the old one after a refusal."""
    (script,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/how-to/devices.md").read_text(), re.DOTALL)
    assert script.count("\n") == 5
    create_openssl_csr(tmp_path, "device")
    assert curl(tls_server, tmp_path, "/peer/simpleenroll", *BASIC, *post_options("device"))[0] == 200
    unpack(tmp_path, "device")
    (tmp_path / "root-ca.crt").write_bytes(root_path(tls_server).read_bytes())
    host = urlsplit(tls_server.url).netloc
    script = script.replace("est.example.com", host)
    script = script.replace("cd /etc/device", f"cd {shlex.quote(str(tmp_path))}")
    assert host in script
    device = tmp_path / "device.crt"
    before = load_certificate(device)
    run("sh", "-c", script, cwd=tmp_path)  # the certificate is valid for more than two days
    assert load_certificate(device) == before
    assert "172800" in script
    script = script.replace("172800", "99999999")
    run("sh", "-c", script, cwd=tmp_path)
    after = load_certificate(device)
    assert after.serial_number != before.serial_number
    assert after.subject == before.subject
    assert servers.certlet("revoke", "--yes", device, cwd=tls_server.log.parent).returncode == 0
    assert run("sh", "-c", script, cwd=tmp_path, check=False).returncode != 0
    assert load_certificate(device) == after
