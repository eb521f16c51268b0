"""Web servers of other projects that are ACME clients, with the lines that `certlet acme add` prints for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from tests import servers
from tests.acme.clients import Host
from tests.servers import Server

MODULES = ("mpm_event", "authz_core", "socache_shmcb", "ssl", "md")
APACHE = """\
ServerRoot {folder}
PidFile httpd.pid
DefaultRuntimeDir .
Mutex file:{folder}
ErrorLog /dev/stderr
LogLevel warn md:notice
{user}
Listen 127.0.0.1:{port}
Protocols http/1.1 acme-tls/1
ServerName {name}
<VirtualHost 127.0.0.1:{port}>
  ServerName {name}
  ServerAlias {aliases}
  SSLEngine on
</VirtualHost>
MDPortMap http:- https:{port}
MDContactEmail me@example.com
MDCheckInterval 1s
MDRenewWindow 90%
"""
CADDY = """\
    admin off
    http_port {http_port}
    https_port {port}
    renew_interval 1s
"""
TRAEFIK = """\
log: {{level: INFO}}
entryPoints:
  websecure: {{address: "127.0.0.1:{port}"}}
providers:
  file: {{filename: sites.yaml}}
"""
TRAEFIK_SITES = """\
http:
  routers:
    site:
      rule: {rule}
      service: site
      entryPoints: [websecure]
      tls: {{certResolver: certlet, domains: [{{main: {name}, sans: [{aliases}]}}]}}
  services:
    site: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{port}"}}]}}}}
"""


class WebServer(Host, ABC):
    """A web server that requests the certificates of its sites, and renews them."""

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self.port = servers.free_port()
        self.log = folder / "log"

    @abstractmethod
    def configure(self, *names: str) -> list[str]:
        """Write the configuration of a site with these names; return the command that serves it."""

    def activate(self, process: subprocess.Popen[bytes]) -> None:
        """Make the process serve the certificate that it requested, if it does not by itself."""

    @contextlib.contextmanager
    def serve(self, *names: str) -> Iterator[subprocess.Popen[bytes]]:
        """Serve the site until the end of the block."""
        command = self.configure(*names)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environ(), stdout=log, stderr=subprocess.STDOUT
            )
            with process:
                try:
                    yield process
                finally:
                    process.terminate()

    def serial_number(self, name: str) -> str:
        """Return the serial number of the certificate for a name; '' if OpenSSL refuses it."""
        verify = ("-CAfile", "root-ca.crt", "-verify_return_error", "-verify_hostname", name)
        address = ("-connect", f"127.0.0.1:{self.port}", "-servername", name)
        output = self.run("openssl", "s_client", *verify, *address, check=False)
        if "Verify return code: 0 (ok)" not in output or "BEGIN CERTIFICATE" not in output:
            return ""
        (self.folder / "served.pem").write_text(output)
        return self.run("openssl", "x509", "-noout", "-serial", "-in", "served.pem")


class Caddy(WebServer):
    """Caddy."""

    def configure(self, *names: str) -> list[str]:
        options = CADDY.format(http_port=servers.free_port(), port=self.port)
        site = f"{', '.join(names)} {{\n    bind 127.0.0.1\n    respond hello\n}}\n"
        lines = self.printed("caddy").replace("{\n", f"{{\n{options}", 1)
        (self.folder / "Caddyfile").write_text(lines + site)
        return ["caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"]


class Traefik(WebServer):
    """Traefik, of the Python Package Index. With a duration of an hour, it renews 20 minutes before the end."""

    def configure(self, *names: str) -> list[str]:
        lines = self.printed("traefik").replace("eab:", "certificatesDuration: 1\n      eab:")
        (self.folder / "traefik.yaml").write_text(TRAEFIK.format(port=self.port) + lines)
        rule = " || ".join(f"Host(`{name}`)" for name in names)
        sites = TRAEFIK_SITES.format(rule=rule, name=names[0], aliases=", ".join(names[1:]), port=self.port)
        (self.folder / "sites.yaml").write_text(sites)
        return [str(Path(sys.executable).with_name("traefik")), "--configFile=traefik.yaml"]


class Apache(WebServer):
    """Apache with mod_md, which serves a new certificate after the next graceful restart."""

    def configure(self, *names: str) -> list[str]:
        modules = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in MODULES]
        user = "" if os.geteuid() else "User www-data\nGroup www-data"
        config = APACHE.format(
            folder=self.folder, user=user, port=self.port, name=names[0], aliases=" ".join(names[1:])
        )
        path = self.folder / "httpd.conf"
        path.write_text("".join(modules) + config + self.printed("mod_md", *names))
        return ["apache2", "-f", str(path), "-D", "FOREGROUND"]

    def activate(self, process: subprocess.Popen[bytes]) -> None:
        text = self.log.read_text()
        if text.rfind("activated on next (graceful)") > text.rfind("Doing graceful restart"):
            process.send_signal(signal.SIGUSR1)
