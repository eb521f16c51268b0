"""The configurations in docs/how-to/systemd.md and nginx.md: the systemd unit, and nginx and Caddy as proxies."""

from __future__ import annotations

import contextlib
import getpass
import grp
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from service.pki import certificate_reader
from service.pki.keys import encode_private_key
from tests import csrs, servers
from tests.est.devices import CURL_RETRY, root_path
from tests.servers import API_KEY, ROOT, Server, run

PEM = {"x-api-key": API_KEY, "Content-Type": "application/pkcs10"}
DOCUMENT = "".join((ROOT / "docs/how-to" / name).read_text() for name in ("systemd.md", "nginx.md"))


def code_block(language: str, number: int = 0) -> str:
    """Return a code block of a language in the documents."""
    return str(re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)[number])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the command of the unit, in a temporary directory and on a free port."""
    directory = tmp_path_factory.mktemp("serving")
    (line,) = re.findall(r"ExecStart=/opt/certlet/.venv/bin/certlet serve (.*)", code_block("ini"))
    with servers.certlet_server(directory, *shlex.split(line)) as started_server:
        yield started_server


def localize(config: str, directory: Path, server: Server, port: int) -> str:
    """Replace directory, server and port in a documented configuration."""
    replacements = {"/etc/ssl": str(directory), "127.0.0.1:8080": server.url.rpartition("/")[2]}
    for old, new in replacements.items():
        assert old in config
        config = config.replace(old, new)
    assert ("listen 443 ssl" in config) ^ config.startswith("ca.example.com {")
    config = config.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    return config.replace("ca.example.com {", f"https://ca.example.com:{port} {{")


def proxy_command(name: str, config: str, directory: Path) -> list[str]:
    """Write the configuration, and return the command that starts the proxy."""
    if name == "caddy":
        options = "{\n  admin off\n  auto_https disable_redirects\n}\n"
        (directory / "Caddyfile").write_text(options + config)
        return ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path t{kind};" for kind in kinds)
    # As root, nginx would otherwise switch to a user that cannot write to the directory.
    user = "user root;" if os.geteuid() == 0 else ""
    main_config = f"daemon off; pid nginx.pid; error_log stderr; {user} events {{}}"
    text = f"{main_config}\nhttp {{ access_log off; {paths}\n{config}}}\n"
    (directory / "nginx.conf").write_text(text)
    path = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    return [path, "-p", f"{directory}/", "-c", "nginx.conf"]


@contextlib.contextmanager
def run_proxy(name: str, directory: Path, server: Server) -> Iterator[str]:
    """Start the proxy with a certificate from the server, and return its URL."""
    (directory / "ca.example.com.key").write_bytes(encode_private_key(csrs.private_key("p-256")))
    signed = server.request("POST", "/sign.pem", csrs.encode_pem(csrs.build("ca.example.com")), PEM)
    (directory / "ca.example.com.crt").write_bytes(signed.body)
    port = servers.free_port()
    config = localize(code_block(name), directory, server, port)
    environ = {**os.environ, "HOME": str(directory)}
    with subprocess.Popen(proxy_command(name, config, directory), cwd=directory, env=environ) as process:
        try:
            yield f"https://ca.example.com:{port}"
        finally:
            process.terminate()


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_server_works_behind_a_proxy(name: str, server: Server, tmp_path: Path) -> None:
    """The proxy forwards certificates, problems and a batch of 3 MB; Certlet refuses EST without TLS."""
    with run_proxy(name, tmp_path, server) as url:

        def send(path: str, body: bytes, *headers: str) -> tuple[int, str]:
            (tmp_path / "body").write_bytes(body)
            header_options = [part for header in headers for part in ("-H", header)]
            address = ("--resolve", f"{url.removeprefix('https://')}:127.0.0.1")
            tls = ("--cacert", str(root_path(server)))
            command = ["curl", "-sS", *address, *tls, *CURL_RETRY, "-w", "\n%{http_code}", *header_options]
            output = run(*command, "--data-binary", "@body", url + path, cwd=tmp_path).stdout
            response_body, _, status = output.rpartition("\n")
            return int(status), response_body

        key = f"x-api-key: {API_KEY}"
        pkcs10_type, json_type = "Content-Type: application/pkcs10", "Content-Type: application/json"
        csr = csrs.encode_pem(csrs.build())
        status, body = send("/sign.pem", csr, key, pkcs10_type)
        assert status == 200
        assert body.startswith("-----BEGIN CERTIFICATE-----")
        status, body = send("/sign.pem", b"garbage", key, pkcs10_type)
        assert (status, json.loads(body)["code"]) == (422, "badCSR")
        assert send("/sign.pem", csr, "x-api-key: wrong", pkcs10_type)[0] == 403
        batch = {"requests": [{"csr": csr.decode() + " " * 29_000} for _ in range(100)]}
        status, body = send("/sign/batch", json.dumps(batch).encode(), key, json_type)
        assert status == 200
        assert len(json.loads(body)["results"]) == 100
        status, body = send("/.well-known/est/simpleenroll", csr, key, pkcs10_type)
        assert (status, json.loads(body)["code"]) == (403, "httpsRequired")


def units() -> dict[str, tuple[str, str]]:
    """Return name -> text of each unit in the documents, and a setting in it."""
    _, service, timer = re.split(r"^# /etc/systemd/system/\S+$", code_block("systemd"), flags=re.MULTILINE)
    return {
        "certlet.service": (code_block("ini"), "WatchdogSec"),
        "certlet-renew.service": (service, "EnvironmentFile"),
        "certlet-renew.timer": (timer, "RandomizedDelaySec"),
    }


@pytest.mark.parametrize("name", units())
def test_systemd_accepts_the_unit(tmp_path: Path, name: str) -> None:
    """systemd accepts each unit, and reports a misspelt line."""
    for other, (text, _) in units().items():
        command = shutil.which("true") or ""
        (tmp_path / other).write_text(text.replace("/opt/certlet/.venv/bin/certlet", command))
    text, setting = (tmp_path / name).read_text(), units()[name][1]
    for content, errors in ((text, 0), (text.replace(setting, f"{setting}x"), 1)):
        (tmp_path / name).write_text(content)
        output = run("systemd-analyze", "verify", "--man=no", f"./{name}", cwd=tmp_path, check=False).stderr
        assert len([line for line in output.splitlines() if name in line]) == errors, output


def test_logrotate_loses_no_record(tmp_path: Path) -> None:
    """The audit log is rotated twice: each record is in one file, and `certlet list` reads them all."""
    (line,) = re.findall(r"ExecStart=/opt/certlet/.venv/bin/certlet serve (.*)", code_block("ini"))
    with servers.certlet_server(tmp_path, *shlex.split(line), "--no-usage-plan") as server:
        config = code_block("text", 1).replace("/var/lib/certlet", str(tmp_path))
        config = config.replace("systemctl reload certlet", f"kill -HUP {server.process.pid}")
        config = config.replace("certlet certlet", f"{getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}")
        (tmp_path / "logrotate.conf").write_text(config.replace("dateext", "dateext\ndateformat -%s"))
        (tmp_path / "logrotate.conf").chmod(0o600)
        logs = []
        for number in range(3):
            csr = csrs.encode_pem(csrs.build(f"n{number}.example.com")).decode()
            assert server.sign({"csr": csr}).status == 200
            logs.append((tmp_path / "audit.log").read_bytes())
            reloads = server.read_log().count("reloaded: audit log")
            run("logrotate", "--force", "--state", "state", "logrotate.conf", cwd=tmp_path)
            servers.wait_until(
                lambda reloads=reloads: server.read_log().count("reloaded: audit log") > reloads
            )
            time.sleep(1)  # the names of the files contain the second
        assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600
    rotated = sorted(tmp_path.glob("audit.log-*"))
    contents = [
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in rotated
    ]
    assert contents == logs
    assert [path.suffix == ".gz" for path in rotated] == [True, True, False]
    output = run(*servers.CERTLET, "list", *rotated, "audit.log", cwd=tmp_path).stdout
    assert [f"n{number}.example.com" in output for number in range(3)] == [True] * 3


def test_nginx_forwards_only_certificate_status_by_plain_http(server: Server, tmp_path: Path) -> None:
    """Verifiers reach CRL, OCSP and issuers. Other paths are 403, so that no API key works without TLS."""
    port = servers.free_port()
    config = code_block("nginx", 1).replace("127.0.0.1:8080", server.url.rpartition("/")[2])
    config = config.replace("listen 80;", f"listen 127.0.0.1:{port};")

    def get_status(path: str) -> str:
        command = ["curl", "-sS", *CURL_RETRY, "-o", "body", "-w", "%{http_code}"]
        return run(*command, f"http://127.0.0.1:{port}{path}", cwd=tmp_path).stdout

    with subprocess.Popen(proxy_command("nginx", config, tmp_path), cwd=tmp_path) as process:
        try:
            key_id = certificate_reader.key_id(
                x509.load_der_x509_certificate(server.request("GET", "/ca.crt").body)
            )
            for path in (
                "/ca.crl",
                "/ca.crt",
                "/ca.p7c",
                f"/crl/{key_id}",
                f"/issuer/{key_id}",
                "/ocsp/a//b%2F+=",
            ):
                assert get_status(path) == "200", path
            for path in ("/sign", "/sign.pem", "/ca.crlx", "/root.crt", "/profiles", "/"):
                assert get_status(path) == "403", path
        finally:
            process.terminate()
