"""ACME clients of other projects: how each one registers, and issues, renews and revokes a certificate.

Each runs in a folder of its own, with `root-ca.crt`. It uses the lines that `certlet acme add` prints for it, if
there are any.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from tests import servers
from tests.servers import Server

HERE = Path(__file__).parent
PRINCIPAL = "ci"


class Host:
    """A folder of a client, which has `root-ca.crt`."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.directory = f"{server.url}/acme/directory"
        self.root = folder / "root-ca.crt"
        self.root.write_bytes((server.log.parent / "ca/root-ca.crt").read_bytes())

    def find(self, pattern: str) -> Path:
        """Return the only file of a pattern in the folder."""
        (path,) = self.folder.glob(pattern)
        return path

    def environ(self, **change: str) -> dict[str, str]:
        """Return the environment of the client, whose commands are in `bin`."""
        path = f"{self.folder}/bin:{os.environ['PATH']}:/usr/sbin"
        return servers.environ(HOME=str(self.folder), PATH=path, **change)

    def run(self, *command: str | Path, check: bool = True, **environ: str) -> str:
        """Run a command in the folder; return its output."""
        env = self.environ(**environ)
        done = servers.run(*command, cwd=self.folder, env=env, timeout=100, check=check)
        return done.stdout + done.stderr

    def add_principal(self, *options: str) -> str:
        """Return what `certlet acme add` prints."""
        command = (*servers.CERTLET, "acme", "add", PRINCIPAL, "--url", self.server.url, *options)
        return servers.run(*command, cwd=self.server.log.parent).stdout

    def external_account(self) -> list[str]:
        """Return the key identifier and the HMAC key."""
        return re.findall(r"^(?:Key ID|HMAC key) +(\S+)$", self.add_principal(), re.MULTILINE)

    def printed(self, client: str, *names: str) -> str:
        """Return the printed lines for a client, with the names of a certificate."""
        lines = self.add_principal("--client", client)
        for option in ("-d ", ""):
            lines = lines.replace(f"{option}my.example.com", " ".join(option + name for name in names))
        return lines


class Client(Host, ABC):
    """A command that requests certificates.

    Attributes:
        has_external_account: whether it can bind an external account; otherwise, the CA lists its thumbprint.
        can_revoke: whether it can revoke a certificate.
    """

    has_external_account: ClassVar = True
    can_revoke: ClassVar = True

    @abstractmethod
    def issue(self, *names: str, check: bool = True) -> str:
        """Register, if there is no account, and request a certificate; return the output."""

    @abstractmethod
    def renew(self) -> object:
        """Request the certificate again, with the same account."""

    def revoke(self) -> object:
        """Revoke the certificate."""
        raise NotImplementedError

    @property
    @abstractmethod
    def chain(self) -> Path:
        """The path of the last certificate, which is followed by those of its issuers."""

    def names(self) -> list[str]:
        """Return the names of the last certificate."""
        text = self.run("openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", self.chain)
        return re.findall(r"DNS:([^,\s]+)", text)


class Certbot(Client):
    """certbot, of the Python Package Index."""

    def certbot(self, *arguments: str, check: bool = True) -> str:
        self.create_command()
        return self.run("certbot", *arguments, check=check, REQUESTS_CA_BUNDLE="root-ca.crt")

    def create_command(self) -> None:
        folders = " ".join(f"--{name}-dir={name}" for name in ("config", "work", "logs"))
        command = f'{Path(sys.executable).with_name("certbot")} "$@" --non-interactive {folders} --server {self.directory}'
        servers.create_script(self.folder / "bin/certbot", f"exec {command}")

    def issue(self, *names: str, check: bool = True) -> str:
        self.create_command()
        script = re.sub(r"-d (?=[0-9.]+\b)", "--ip-address ", self.printed("certbot", *names))
        return self.run("sh", "-ec", script, check=check)

    def renew(self) -> str:
        return self.certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")

    def revoke(self) -> str:
        return self.certbot("revoke", "--cert-path", str(self.chain), "--no-delete-after-revoke")

    @property
    def chain(self) -> Path:
        return self.find("config/live/*/fullchain.pem")


class Lego(Client):
    """lego, whose library Traefik uses."""

    def issue(self, *names: str, check: bool = True) -> str:
        _, _, script = self.printed("lego", *names).partition("# version 4\n")
        return self.run("sh", "-ec", script, check=check)

    def lego(self, *command: str) -> str:
        key_id, hmac_key = self.external_account()
        account = ("--email", "me@example.com", "--eab", "--kid", key_id, f"--hmac={hmac_key}")
        options = ("--server", self.directory, *account, "--http", "--domains", self.chain.stem)
        return self.run("lego", *options, *command, LEGO_CA_CERTIFICATES="root-ca.crt")

    def renew(self) -> str:
        return self.lego("renew", "--days", "90", "--no-random-sleep")

    def revoke(self) -> str:
        return self.lego("revoke", "--keep")

    @property
    def chain(self) -> Path:
        return self.find(".lego/certificates/*[!r].crt")  # not *.issuer.crt


class Dehydrated(Client):
    """dehydrated, a shell script."""

    def dehydrated(self, *arguments: str, check: bool = True) -> str:
        key_id, hmac_key = self.external_account()
        settings = {
            "CA": self.directory,
            "EAB_KID": key_id,
            "EAB_HMAC_KEY": hmac_key,
            "ACCOUNT_KEYSIZE": 2048,
            "BASEDIR": self.folder,
            "WELLKNOWN": self.folder,
            "CURL_OPTS": f"--cacert {self.root}",
        }
        lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()]
        (self.folder / "config").write_text("".join(lines))
        return self.run("dehydrated", "--config", "config", *arguments, check=check)

    def issue(self, *names: str, check: bool = True) -> str:
        self.dehydrated("--register", "--accept-terms")
        return self.dehydrated("--cron", "--domain", " ".join(names), check=check)

    def renew(self) -> str:
        return self.dehydrated("--cron", "--force", "--domain", " ".join(self.names()))

    def revoke(self) -> str:
        return self.dehydrated("--revoke", str(self.chain.with_name("cert.pem")))

    @property
    def chain(self) -> Path:
        return self.find("certs/*/fullchain.pem")


class Uacme(Client):
    """uacme, which trusts only the roots of the system: it has a file of its own for them in a mount namespace."""

    def create_command(self) -> None:
        user = "--user --map-root-user" if os.geteuid() else ""
        mount = "mount --bind root-ca.crt /etc/ssl/certs/ca-certificates.crt"
        script = f'{mount} && exec /usr/bin/uacme --confdir conf --verbose "$@"'
        command = f'unshare --mount {user} sh -c {shlex.quote(script)} uacme "$@"'
        servers.create_script(self.folder / "bin/uacme", f"exec {command}")

    def issue(self, *names: str, check: bool = True) -> str:
        self.create_command()
        lines = self.printed("uacme", *names)
        if (self.folder / "conf").exists():
            lines = lines.splitlines()[-1]
        return self.run("sh", "-ec", lines, check=check)

    def uacme(self, *arguments: str) -> str:
        return self.run("uacme", "--acme-url", self.directory, *arguments)

    def renew(self) -> str:
        return self.uacme("--force", "issue", *self.names())

    def revoke(self) -> str:
        return self.uacme("revoke", str(self.chain))

    @property
    def chain(self) -> Path:
        return self.find("conf/*/cert.pem")


class Acmetool(Client):
    """acmetool 0.2.2, without external accounts; `acmetool revoke` sends no request."""

    has_external_account = False
    can_revoke = False

    def acmetool(self, *arguments: str, check: bool = True) -> str:
        options = ("--state", "state", "--hooks", "hooks", "--batch", "--response-file", "responses")
        return self.run("acmetool", *options, *arguments, check=check, SSL_CERT_FILE="root-ca.crt")

    def issue(self, *names: str, check: bool = True) -> str:
        (self.folder / "state/conf").mkdir(parents=True, exist_ok=True)
        (self.folder / "responses").write_text(json.dumps({"acme-enter-email": "me@example.com"}))
        target = {"request": {"provider": self.directory, "key": {"type": "ecdsa"}}}
        (self.folder / "state/conf/target").write_text(json.dumps(target))
        return self.acmetool("want", *names, check=check)

    def renew(self) -> str:
        """Remove the certificate, since acmetool has no option to renew it early."""
        shutil.rmtree(self.chain.parent)
        return self.acmetool()

    @property
    def chain(self) -> Path:
        return self.find("state/live/www.*/fullchain").resolve()


class AcmeTiny(Client):
    """acme-tiny, of the Python Package Index, without external accounts; openssl creates keys and CSR."""

    has_external_account = False
    can_revoke = False

    def issue(self, *names: str, check: bool = True) -> str:
        if not (self.folder / "account.key").exists():
            self.run("openssl", "genrsa", "-out", "account.key", "2048")
        extension = "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)
        options = ("-newkey", "rsa:2048", "-nodes", "-keyout", "site.key", "-subj", "/", "-addext", extension)
        self.run("openssl", "req", "-new", *options, "-out", "site.csr")
        return self.acme_tiny(check=check)

    def acme_tiny(self, *, check: bool = True) -> str:
        options = "--account-key account.key --csr site.csr --acme-dir ."
        command = f"{sys.executable} -m acme_tiny {options} --directory-url {self.directory} >chain.pem"
        return self.run("sh", "-ec", command, check=check, SSL_CERT_FILE="root-ca.crt")

    def renew(self) -> str:
        return self.acme_tiny()

    @property
    def chain(self) -> Path:
        return self.folder / "chain.pem"


class Program(Client):
    """A program of these tests that uses a library: it keeps `account.key`, and writes `chain.pem`."""

    command: ClassVar[tuple[str | Path, ...]]

    def issue(self, *names: str, check: bool = True) -> str:
        command = (*self.command, self.directory, *self.external_account(), *names)
        return self.run(*command, check=check, SSL_CERT_FILE="root-ca.crt", NODE_EXTRA_CA_CERTS="root-ca.crt")

    def renew(self) -> str:
        return self.issue(*self.names())

    def revoke(self) -> str:
        """Run the program without names."""
        return self.issue()

    @property
    def chain(self) -> Path:
        return self.folder / "chain.pem"


class NodeAcmeClient(Program):
    """acme-client, of npm."""

    command = ("node", HERE / "enroll.mjs")


class RubyAcmeClient(Program):
    """ruby-acme-client 2.0.9, without external accounts."""

    has_external_account = False
    command = ("ruby", HERE / "enroll.rb")


class GoAcme(Program):
    """golang.org/x/crypto/acme."""

    command = ("./enroll",)

    def issue(self, *names: str, check: bool = True) -> str:
        if not (self.folder / "enroll").exists():
            command = ("go", "build", "-o", "enroll", HERE / "enroll.go")
            cache = str(self.server.log.parent / "go-cache")  # which tests share
            self.run(*command, GO111MODULE="off", CGO_ENABLED="0", GOPATH="/usr/share/gocode", GOCACHE=cache)
        return super().issue(*names, check=check)
