"""The page "A Java keystore", followed as it is written, with a server that requires a client certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests import pages, servers
from tests.servers import API_KEY, Server

PAGE = pages.read("java")


def test_java_uses_and_renews_a_keystore(server: Server, tmp_path: Path) -> None:
    """The server sees the certificate of the page, and then the renewed one; another truststore is of no use."""
    root = server.request("GET", "/root.crt").body
    (tmp_path / "root-ca.crt").write_bytes(ssl.DER_cert_to_PEM_cert(root).encode())
    environ = pages.with_certlet(tmp_path / "bin", CERTLET_URL=server.url, CERTLET_API_KEY=API_KEY)
    servers.create_script(tmp_path / "bin/systemctl", ":")
    servers.create_script(tmp_path / "renew-keystore", pages.block(PAGE, "sh"))
    (tmp_path / "Get.java").write_text(pages.block(PAGE, "java"))
    servers.run(
        str(tmp_path / "bin/certlet"), "new", "127.0.0.1", "--out", "other", cwd=tmp_path, env=environ
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "other.crt", tmp_path / "other.key")
    context.load_verify_locations(tmp_path / "root-ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    seen = []

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            seen.append(self.connection.getpeercert())
            self.reply(200, b"")

    with servers.http_server(Handler, context) as url:
        pages.follow(PAGE, tmp_path, environ, {"https://other.example.com": url})
        first, second = seen
        assert first["subjectAltName"] == second["subjectAltName"] == (("DNS", "app.example.com"),)
        assert first["serialNumber"] != second["serialNumber"]
        text = (tmp_path / "tls.args").read_text()
        (tmp_path / "tls.args").write_text(text.replace("trustStore=trust.p12", "trustStore=app.p12"))
        refused = servers.run("java", "@tls.args", "Get.java", url, cwd=tmp_path, env=environ, check=False)
        assert refused.returncode == 1
        assert "unable to find valid certification path" in refused.stderr
