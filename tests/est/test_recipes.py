"""The recipes for nginx, Caddy and PostgreSQL with client certificates, followed as they are written."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from tests import pages, servers
from tests.est.devices import root_path
from tests.est.test_proxies import proxy_command
from tests.servers import API_KEY, Server

POSTGRESQL = pages.read("postgresql")
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
MUTUAL_TLS = pages.section(pages.read("nginx"), "Require client certificates")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.certlet_server(tmp_path_factory.mktemp("ca"), "--no-usage-plan") as server:
        yield server


def prepare(server: Server, directory: Path, **change: str) -> dict[str, str]:
    """Copy the root's certificate to a directory, and return an environment for its commands."""
    shutil.copy(root_path(server), directory)
    return pages.with_certlet(directory / "bin", CERTLET_URL=server.url, CERTLET_API_KEY=API_KEY, **change)


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_web_server_requires_a_client_certificate(server: Server, tmp_path: Path, name: str) -> None:
    """It passes on the subject. A client without a certificate, or with that of a server, is refused."""
    environ = prepare(server, tmp_path) | {"HOME": str(tmp_path), "CURL_HOME": str(tmp_path)}
    for arguments in ("www.example.com", "server.example.com --out server"):
        servers.run(str(tmp_path / "bin/certlet"), "new", *arguments.split(), cwd=tmp_path, env=environ)

    class Echo(servers.QuietHandler):
        def respond(self) -> None:
            self.reply(200, (self.headers["X-Client-Subject"] or "").encode())

    port = servers.free_port()
    with servers.http_server(Echo) as url:
        config = pages.block(MUTUAL_TLS, name).replace("/etc/ssl", str(tmp_path))
        config = config.replace("127.0.0.1:3000", url.removeprefix("http://"))
        config = config.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        config = config.replace("www.example.com {", f"https://www.example.com:{port} {{")
        retry = "retry = 20\nretry-connrefused\nretry-delay = 1\n"
        (tmp_path / ".curlrc").write_text(f"{retry}connect-to = www.example.com:443:127.0.0.1:{port}\n")
        with subprocess.Popen(proxy_command(name, config, tmp_path), cwd=tmp_path, env=environ) as process:
            try:
                *_, output = pages.follow(MUTUAL_TLS, tmp_path, environ)
                assert output == "CN=app.example.com"
                (request,) = pages.commands(MUTUAL_TLS, "curl")
                for change in ("", "--cert server.crt --key server.key"):
                    refused = request.replace("--cert app.crt --key app.key", change)
                    command = [*shlex.split(refused), "-w", "%{http_code}", "-H", "X-Client-Subject: CN=app"]
                    result = servers.run(*command, cwd=tmp_path, env=environ, check=False)
                    assert result.returncode or "400" in result.stdout, result
                    assert "CN=app" not in result.stdout
            finally:
                process.terminate()


@dataclass
class Database:
    """A server of PostgreSQL with the configuration of the page, which user `postgres` runs.

    Attributes:
        directory: that of its data and of the files of TLS.
        port: its port.
        environ: the environment of the commands.
    """

    directory: Path
    port: int
    environ: dict[str, str]

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return a command of PostgreSQL, as its user: it refuses to run as root."""
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        return [*user, str(PROGRAMS[-1] / program), *arguments]

    def control(self, action: str) -> None:
        """Start, reload or stop the server; as by Debian, its output is in a file."""
        options = ("-D", str(self.directory / "data"), "-w", "-l", str(self.directory / "log"), "-s")
        log = self.directory / "output"
        with log.open("w") as output:
            subprocess.run(
                self.command("pg_ctl", *options, action), check=True, stdout=output, stderr=output, timeout=60
            )

    def query(self, statement: str) -> str:
        """Run a statement as the administrator."""
        options = ("-h", str(self.directory), "-p", str(self.port), "-d", "postgres", "-At", "-c", statement)
        return servers.run(*self.command("psql", *options)).stdout

    def own(self, paths: Sequence[Path]) -> None:
        """Give files to the server's user."""
        if os.geteuid() == 0:
            for path in paths:
                shutil.chown(path, "postgres")


@pytest.fixture
def database(server: Server, tmp_path: Path) -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as temporary:  # other users cannot reach the directories of pytest
        directory = Path(temporary)
        directory.chmod(0o755)
        environ = prepare(server, tmp_path)
        database = Database(directory, servers.free_port(), environ)
        database.own([directory])
        servers.run(
            *database.command("initdb", "-A", "trust", "-U", "postgres", "-D", f"{directory}/data", "-N")
        )
        server_page = pages.section(POSTGRESQL, "The server")
        pages.follow(server_page, tmp_path, environ)
        tls = directory / "tls"
        tls.mkdir()
        for name in ("server.crt", "server.key", "root-ca.crt"):
            database.own([Path(shutil.copy(tmp_path / name, tls))])
        config = pages.block(server_page, "ini").replace("/etc/postgresql/tls", str(tls))
        config += f"port = {database.port}\nunix_socket_directories = '{directory}'\nfsync = off\n"
        with (directory / "data/postgresql.conf").open("a") as file:
            file.write(config)
        (directory / "data/pg_ident.conf").write_text(pages.block(server_page, "text"))
        hba = pages.block(server_page, "text", 1)
        if os.geteuid():  # otherwise this user is postgres
            hba = hba.replace("peer", "trust")
        (directory / "data/pg_hba.conf").write_text(hba)
        database.control("start")
        try:
            for user in ("app", "other"):
                database.query(f"CREATE ROLE {user} LOGIN")
            yield database
        finally:
            database.control("stop")


def test_postgresql_authenticates_users_by_certificates(database: Database, tmp_path: Path) -> None:
    """Those of other users, of servers, with a bare name and of other CAs are refused; a reload reads a new certificate."""
    address = {"host=db.example.com": f"host=db.example.com hostaddr=127.0.0.1 port={database.port}"}
    client = pages.section(POSTGRESQL, "A client")
    pages.follow(client, tmp_path, database.environ, address)
    (login,) = pages.commands(client, "psql")
    login = login.replace(*next(iter(address.items())))
    for arguments in (
        "other.users.example.com --profile client --out other",
        "app.users.example.com --profile server --out server-only",
        "app --profile client --out bare",
        "app.users.example.com.attacker.example --profile client --out longer",
    ):
        certlet = tmp_path / "bin/certlet"
        servers.run(str(certlet), "new", *arguments.split(), cwd=tmp_path, env=database.environ)
    create = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=app.users.example.com"
    servers.run("openssl", *create.split(), "-keyout", "foreign.key", "-out", "foreign.crt", cwd=tmp_path)

    def log_in(name: str, user: str = "app") -> subprocess.CompletedProcess[str]:
        command = login.replace("=app.crt", f"={name}.crt").replace("=app.key", f"={name}.key")
        command = command.replace("user=app", f"user={user}")
        return servers.run("bash", "-c", command, cwd=tmp_path, env=database.environ, check=False)

    assert log_in("other", "other").stdout == "other|t\n"
    for name in ("other", "server-only", "bare", "longer", "foreign", "missing"):
        assert log_in(name).returncode == 2, name
    servers.create_script(tmp_path / "bin/systemctl", "touch reloaded")
    (tmp_path / "before.crt").write_bytes((tmp_path / "server.crt").read_bytes())
    pages.follow(pages.section(POSTGRESQL, "Renew"), tmp_path, database.environ)
    assert (tmp_path / "reloaded").exists()
    assert shown_certificate(database) == load(tmp_path / "before.crt")
    (database.directory / "tls/server.crt").write_bytes((tmp_path / "server.crt").read_bytes())
    database.control("reload")
    servers.wait_until(lambda: shown_certificate(database) == load(tmp_path / "server.crt"))
    assert log_in("app").stdout == "app|t\n"


def test_postgresql_requires_a_crl_of_the_root(database: Database, server: Server, tmp_path: Path) -> None:
    """So that the page is right about ssl_crl_file."""
    client = pages.section(POSTGRESQL, "A client")
    address = {"host=db.example.com": f"host=db.example.com hostaddr=127.0.0.1 port={database.port}"}
    pages.follow(client, tmp_path, database.environ, address)
    crl = database.directory / "tls/ca.crl"
    (tmp_path / "ca.crl").write_bytes(server.request("GET", "/ca.crl").body)
    servers.run("openssl", "crl", "-in", "ca.crl", "-out", str(crl), cwd=tmp_path)
    crl.chmod(0o644)
    database.query(f"ALTER SYSTEM SET ssl_crl_file = '{crl}'")
    database.control("reload")
    (login,) = pages.commands(client, "psql")
    login = login.replace(*next(iter(address.items())))
    servers.wait_until(
        lambda: (
            servers.run("bash", "-c", login, cwd=tmp_path, env=database.environ, check=False).returncode == 2
        )
    )
    assert "certificate verify failed" in (database.directory / "log").read_text()


def shown_certificate(database: Database) -> x509.Certificate:
    """Return the certificate that the server shows."""
    connect = ("openssl", "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{database.port}")
    output = servers.run(*connect, check=False).stdout
    return x509.load_pem_x509_certificate(output.encode())


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
