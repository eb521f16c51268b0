"""Typical mistakes: each error is one line that says what to do, and has an exit status for scripts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.gateway.api_keys import KeyFile
from service.pki.keys import encode_private_key
from tests import csrs, servers
from tests.cli import certlet
from tests.servers import API_KEY, Server

EXPIRED_KEY = "expired-0123456789-0123456789-012345"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose CA is only for example.com, with an expired API key."""
    directory = tmp_path_factory.mktemp("mistakes")
    permitted = ("--permit-dns", "example.com", "--permit-dns", "localhost", "--permit-ip", "127.0.0.0/8")
    assert certlet("init", "ca", *permitted, "--permit-ip", "::1/128", cwd=directory).returncode == 0
    now = datetime.now(UTC)
    keys = KeyFile(directory / "ca" / "api-keys.json")
    keys.add("old", EXPIRED_KEY, now - timedelta(days=2), now - timedelta(days=1))
    keys.add("default", API_KEY, now)
    with servers.certlet_server(directory, "--tls", "--status-port", "0", env={}) as server:
        yield server


@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        ("new", 2, "missing argument 'NAME...' (see certlet new --help)"),
        ("nwe a.example.com", 2, "no such command 'nwe'. Did you mean 'new'? (see certlet --help)"),
        ("new a.example.com --profil server", 2, "no such option '--profil'. (Did you mean"),
        ("sign my.key", 1, "my.key contains a private key and was not sent: pass a file with only the CSR"),
        ("sign my.crt", 1, "is a certificate"),
        ("sign nothing.csr", 1, "nothing.csr: No such file or directory"),
        ("renew my.csr", 1, "my.csr: "),
        ("renew ''", 2, "invalid value for 'FILE...': the path is empty (see certlet renew --help)"),
        ("init ''", 2, "invalid value for 'DIR': the path is empty"),
        ("show ''", 2, "the path is empty (see certlet show --help)"),
        ("verify ''", 2, "the path is empty (see certlet verify --help)"),
        ("revoke 0a --ca ''", 2, "invalid value for '--ca': the path is empty"),
        ("show my.key", 1, "pass the key in PEM as --key-file, together with its CSR or certificate"),
        ("verify my.key", 1, "my.key contains a private key: pass a file with certificates only\n"),
        (
            "login {https} --root my.key",
            1,
            "my.key contains a private key: pass a file with certificates only\n",
        ),
        ("verify my.csr", 1, "my.csr contains no certificate"),
        (
            "new a.example.com --url http://127.0.0.1:9",
            5,
            "connection refused (start the server with certlet",
        ),
        ("new a.example.com --url {http}", 5, "try {https}"),
        ("new a.example.com --url https://a.invalid", 5, " (check the host in the URL)"),
        ("verify a.invalid:443", 5, ": check the host and the port"),
        ("new a.example.com --url https://{status}", 5, "the server does not use TLS: try http://{status}"),
        ("new a.example.com --url {https}/prod", 1, "check that {https}/prod is the service's base URL"),
        ("new a.example.com --url ca.example.com", 2, "'ca.example.com' is not an http or https URL"),
        ("show {status}", 5, "the server does not use TLS"),
        (
            "new a.example.com --api-key wrong",
            4,
            "required (403 unauthorized) (check --api-key, $CERTLET_API_KEY",
        ),
        (f"new a.example.com --api-key {EXPIRED_KEY}", 4, "This API key has expired: request a new one"),
        ("new a.example.com --profile none", 1, "is not one of: server, client, peer"),
        ("new a.example.org", 1, "example.com"),
        ("new https://a.example.com --profile server", 1, "a.example.com"),
        ("renew my.crt --key-file my.csr --expires-in 9999d", 1, "my.csr"),
        (
            "revoke 0a --ca nowhere",
            1,
            "no CA in nowhere: pass another directory as --ca, or create a CA with",
        ),
        ("init {ca}", 1, "already contains a CA; nothing was changed"),
        ("serve --ca nowhere", 1, "--create"),
        ("api-key add ci --ca nowhere", 1, "create a CA with certlet init"),
    ],
)
def test_mistake_has_one_line_with_a_remedy(
    site: Server, tmp_path: Path, command: str, status: int, error: str
) -> None:
    """Nothing is printed on stdout, and no file is created."""
    (status_line,) = [line for line in site.output if line.startswith("Status")]
    texts = {
        "{https}": site.url,
        "{http}": site.url.replace("https", "http"),
        "{status}": re.findall(r"http://(\S+?)/? ", f"{status_line} ")[0],
        "{ca}": str(site.log.parent / "ca"),
    }
    key = csrs.private_key("p-256")
    (tmp_path / "my.key").write_bytes(encode_private_key(key))
    (tmp_path / "my.csr").write_bytes(csrs.encode_pem(csrs.build()))
    (tmp_path / "my.crt").write_bytes((site.log.parent / "ca" / "signing-ca.crt").read_bytes())
    before = sorted(tmp_path.iterdir())

    def fill(text: str) -> str:
        for name, value in texts.items():
            text = text.replace(name, value)
        return text

    env = {
        "CERTLET_API_KEY": API_KEY,
        "CERTLET_URL": site.url,
        "SSL_CERT_FILE": str(site.log.parent / "ca" / "root-ca.crt"),
    }
    run = certlet(*(fill(word) for word in shlex.split(command)), env=env)
    assert (run.returncode, run.stdout) == (status, b""), run
    assert fill(error) in run.stderr.decode(), run.stderr
    assert b"Traceback" not in run.stderr
    assert sorted(tmp_path.iterdir()) == before
