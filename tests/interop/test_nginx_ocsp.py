"""nginx asks by OCSP: about the certificates of clients, and about its own, to staple the response."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from service.pki.keys import encode_private_key
from tests import csrs, servers
from tests.interop.test_ocsp import revoke, write_certificates
from tests.interop.verifiers import run, run_nginx
from tests.servers import Server

SITE = """\
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate bundle.pem; ssl_certificate_key key.pem;
    {directives}
    location / {{ return 200 "$ssl_client_verify"; }}
  }}
"""
STAPLE = "ssl_trusted_certificate issuer-and-root.pem; ssl_stapling on; ssl_stapling_verify on; {source};"


class Site(NamedTuple):
    """The configuration of a site in nginx, and the files of its certificate."""

    server: Server
    folder: Path
    port: int
    certificate: dict[str, str]

    @property
    def url(self) -> str:
        return f"https://a.example.com:{self.port}/"

    def config(self, directives: str) -> str:
        return SITE.format(port=self.port, directives=directives)

    def revoke(self) -> None:
        """Revoke the certificate, before the current five minutes."""
        revoke(self.server, self.certificate)

    def curl(self, *options: str) -> tuple[int, str, str]:
        address = ("--resolve", f"a.example.com:{self.port}:127.0.0.1")
        return run("curl", "-sS", "--cacert", "root.pem", *address, *options, self.url, cwd=self.folder)

    def s_client(self) -> str:
        """Return what `openssl s_client -status` prints."""
        command = (
            "openssl",
            "s_client",
            "-status",
            "-CAfile",
            "root.pem",
            "-connect",
            f"127.0.0.1:{self.port}",
        )
        return servers.run(*command, cwd=self.folder).stdout


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A certificate for client and server, and the server that issued it, whose URL it names."""
    ca_folder, folder = tmp_path / "certlet", tmp_path / "nginx"
    ca_folder.mkdir()
    folder.mkdir()
    (folder / "key.pem").write_bytes(encode_private_key(csrs.private_key("p-256")))
    port = servers.free_port()
    url = ("--port", str(port), "--status-url", f"http://127.0.0.1:{port}")
    with servers.certlet_server(ca_folder, "--no-usage-plan", *url) as server:
        certificate = write_certificates(server, folder, "peer")
        yield Site(server, folder, servers.free_port(), certificate)


def test_nginx_accepts_a_client_until_its_certificate_is_revoked(site: Site) -> None:
    """`ssl_ocsp leaf` refuses with 400 what OCSP, at the URL in the certificate, does not call good."""
    directives = "ssl_client_certificate root.pem; ssl_verify_depth 2; ssl_verify_client on; ssl_ocsp leaf;"
    identity = ("--cert", "bundle.pem", "--key", "key.pem", "-w", "%{http_code}")
    with run_nginx(site.folder, site.config(directives), "error") as log:
        assert site.curl(*identity)[:2] == (0, "SUCCESS200")
        site.revoke()
        code, out, _ = site.curl(*identity)
        assert (code, out[-3:]) == (0, "400"), log.read_text()
        assert "The SSL certificate error" in out


def fetched(site: Site) -> str:
    """nginx fetches the response itself."""
    return f"ssl_stapling_responder {site.server.url}/ocsp"


def from_file(site: Site) -> str:
    """nginx sends the response that openssl fetched, whatever it says."""
    names = ("-issuer", "issuer.pem", "-cert", "leaf.pem", "-no_nonce")
    output = ("-noverify", "-respout", "response.der")
    servers.run("openssl", "ocsp", *names, "-url", f"{site.server.url}/ocsp", *output, cwd=site.folder)
    return "ssl_stapling_file response.der"


def wait_for_response(site: Site, log: Path, source: Callable[[Site], str]) -> None:
    """Connect once, because nginx fetches the response at the first connection, and wait until it has done so."""
    if source is fetched:
        site.s_client()
        servers.wait_until(
            lambda: "OCSP Response Status" in site.s_client() or "OCSP response" in log.read_text()
        )


@pytest.mark.parametrize("source", [fetched, from_file])
def test_stapled_response_is_good_until_the_certificate_is_revoked(
    site: Site, source: Callable[[Site], str]
) -> None:
    """curl requires a good response, and openssl shows it. nginx itself staples no other response that it fetched."""
    with run_nginx(site.folder, site.config(STAPLE.format(source=source(site))), "error") as log:
        wait_for_response(site, log, source)
        assert "Cert Status: good" in site.s_client(), log.read_text()
        assert site.curl("--cert-status")[::2] == (0, "")
    site.revoke()
    with run_nginx(site.folder, site.config(STAPLE.format(source=source(site))), "error") as log:
        wait_for_response(site, log, source)
        code, _, error = site.curl("--cert-status")
        assert code == 91  # an invalid status in the response
        if source is fetched:
            assert 'certificate status "revoked" in the OCSP response' in log.read_text()
            assert "OCSP response: no response sent" in site.s_client()
            assert "No OCSP response received" in error
        else:
            assert "Cert Status: revoked" in site.s_client()
            assert "revocation reason" in error
        assert site.curl()[0] == 0
