"""The pages about backup, upgrades and two servers, followed as they are written."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
import shutil
import sqlite3
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import moto
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.keystore import ca_directory
from tests import csrs, pages, servers
from tests.assertions import uuid7
from tests.cli import certlet
from tests.ledger.conftest import create_table
from tests.servers import Response, Server
from tests.test_documents import pattern, transcript
from tests.web.acme_client import AcmeClient

PASSPHRASE = "a passphrase of the site"  # noqa: S105 - of a CA that the test creates
PROFILES = "principals: {ops: {role: operator}}\n"
CHECKED = "note: checked the profiles and the CA in ca\n"
OPTIONS = ("--profiles", "profiles.yaml", "--ledger", "ledger.db", "--audit-log", "audit.log")


@functools.cache
def create_csr(name: str) -> str:
    """Create a certificate signing request, the same for each call."""
    return csrs.encode_pem(csrs.build(name)).decode()


@dataclass
class Site:
    """A server with a CA, a ledger, profiles and an audit log in a directory.

    Attributes:
        directory: the directory.
        port: the port of HTTPS.
        api_key: the API key of the operator.
        code: the directory of the service's code.
        log: the file of the server's messages.
        server: the running server.
    """

    directory: Path
    port: int = field(default_factory=servers.free_port)
    api_key: str = ""
    code: Path = servers.ROOT
    log: str = "server.log"
    server: Server | None = None

    def create(self) -> None:
        """Create the CA, an API key, a principal of ACME, the profiles and an empty ledger."""
        (self.directory / "ledger.db").touch(0o600)
        (self.directory / "profiles.yaml").write_text(PROFILES)
        for command in ("init ca", "api-key add ops", "acme add web"):
            run = certlet if self.code == servers.ROOT else servers.certlet
            result = run(*command.split(), cwd=self.directory, env=self.environ)
            assert result.returncode == 0, result.stderr
            if "api-key" in command:
                self.api_key = result.stdout.decode().strip()

    @property
    def environ(self) -> dict[str, str]:
        return {"CERTLET_CA_PASSPHRASE": PASSPHRASE, "PYTHONPATH": str(self.code)}

    @contextlib.contextmanager
    def serve(self, *options: str, **env: str) -> Iterator[Server]:
        """Run the server."""
        command = (*servers.CERTLET, "serve", "--port", str(self.port), "--tls", "--status-port", "0")
        with servers.certlet_server(
            self.directory, *options, command=command, env=self.environ | env, log=self.log
        ) as self.server:
            yield self.server

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Response:
        """Send a request with the API key."""
        assert self.server
        fields = {"Content-Type": "application/json", "x-api-key": self.api_key, **headers}
        context = ssl.create_default_context(cafile=self.directory / "ca/root-ca.crt")
        data = None if body is None else json.dumps(body).encode()
        return self.server.request(method, path, data, fields, context)

    def sign(self, name: str, **headers: str) -> x509.Certificate:
        """Get a certificate."""
        response = self.request("POST", "/sign", {"csr": create_csr(name)}, **headers)
        assert response.status == 200, response.body
        return x509.load_pem_x509_certificate(response.json()["crt_pem"].encode())

    def revoke(self, certificate: x509.Certificate) -> None:
        """Revoke a certificate in the ledger."""
        response = self.request("POST", "/revoke", {"serial_number": f"{certificate.serial_number:x}"})
        assert response.status == 200, response.body

    def status(self, certificate: x509.Certificate) -> str:
        """Ask for the status of a certificate, with `openssl ocsp`, which sends a nonce."""
        assert self.server
        url = next(line.split()[1] for line in self.server.output if line.startswith("Status "))
        names = ("-issuer", "ca/signing-ca.crt", "-CAfile", "ca/root-ca.crt", "-url", f"{url}/ocsp")
        serial = f"0x{certificate.serial_number:x}"
        command = ("openssl", "ocsp", *names, "-serial", serial)
        output = servers.run(*command, cwd=self.directory, check=False).stdout
        return (output.partition(f"{serial}: ")[2] or output).partition("\n")[0]

    def acme_client(self) -> AcmeClient:
        """Create a client of ACME, without an account."""

        def send(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
            assert self.server
            context = ssl.create_default_context(cafile=self.directory / "ca/root-ca.crt")
            return self.server.request(method, url.removeprefix(self.server.url), body, headers, context)

        return AcmeClient(send, f"https://127.0.0.1:{self.port}/acme/directory")

    def register(self, client: AcmeClient) -> None:
        """Register a client of ACME as the principal `web`."""
        key = ca_directory.load_acme_key(self.directory / "ca")
        assert key
        assert client.register(key, "web").status == 201


def test_backup_is_restored_on_an_empty_machine(tmp_path: Path) -> None:
    """Serial numbers, revocations, API keys and accounts are as before; later revocations are lost, as documented."""
    page, old = pages.read("backup"), Site(tmp_path / "old")
    old.directory.mkdir()
    old.create()
    with old.serve(*OPTIONS):
        kept, revoked = old.sign("kept.example.com"), old.sign("revoked.example.com")
        old.revoke(revoked)
        client = old.acme_client()
        old.register(client)
        environ = pages.with_certlet(tmp_path / "bin", **old.environ)
        pages.follow(pages.section(page, "Back up"), old.directory, environ)
        late, lost = old.sign("late.example.com"), old.sign("lost.example.com")
        old.revoke(lost)
        assert [old.status(certificate) for certificate in (kept, revoked, lost)] == [
            "good",
            "revoked",
            "revoked",
        ]
    new = Site(tmp_path / "new", old.port, old.api_key)
    new.directory.mkdir()
    (old.directory / "backup.tar.gz").rename(new.directory / "backup.tar.gz")
    restore = pages.section(page, "Restore on an empty machine")
    outputs = pages.follow(restore, new.directory, environ, without="certlet serve")
    lines = {line.split()[-1].removeprefix("dns:"): line.split()[1] for line in outputs[-1].splitlines()}
    assert (lines["kept.example.com"], lines["revoked.example.com"]) == ("valid", "revoked")
    assert outputs[2] == CHECKED
    (serve,) = pages.commands(restore, "certlet serve")
    assert new.directory.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o077 for path in new.directory.glob("ca/*.key")} == {0}
    with new.serve(*shlex.split(serve)[2:]):
        statuses = [new.status(certificate) for certificate in (kept, revoked, late, lost)]
        assert statuses == ["good", "revoked", "good", "good"]
        new.revoke(lost)
        assert new.status(lost) == "revoked"
        client = new.acme_client()
        assert client.post(client.directory["newAccount"], {"onlyReturnExisting": True}).status == 200
        assert new.sign("new.example.com").issuer == kept.issuer


@pytest.fixture
def previous_commit(tmp_path: Path) -> Path:
    """The code of the previous commit."""
    if servers.run("git", "rev-parse", "--verify", "HEAD~1", cwd=servers.ROOT, check=False).returncode:
        pytest.skip("this clone has no previous commit")
    code = tmp_path / "previous"
    code.mkdir()
    archive = ("archive", f"--output={code}/code.tar", "HEAD~1", "service", "openapi.yaml")
    servers.run("git", *archive, cwd=servers.ROOT)
    servers.run("tar", "-xf", "code.tar", cwd=code)
    return code


def test_upgrade_from_the_previous_commit_and_back(tmp_path: Path, previous_commit: Path) -> None:
    """Settings, revocations and accounts stay; the ledger of a newer version is refused until the copy is restored."""
    page, site = pages.read("upgrade"), Site(tmp_path / "site", code=previous_commit)
    site.directory.mkdir()
    site.create()
    setting = {"CERTLET_STATUS_URL": "http://status.example.com"}
    with site.serve(*OPTIONS, **setting):
        kept, revoked = site.sign("kept.example.com"), site.sign("revoked.example.com")
        site.revoke(revoked)
        site.register(site.acme_client())
    for name, code in (("certlet", previous_commit), ("certlet-new", servers.ROOT)):
        script = f'PYTHONPATH={code} exec {shlex.join(servers.CERTLET)} "$@"'
        servers.create_script(tmp_path / name / ".venv/bin/certlet", script)
    environ, opt = servers.environ(**site.environ), {"/opt": str(tmp_path)}
    check = pages.section(page, "Try the new version first")
    outputs = pages.follow(check, site.directory, environ, opt, without="sudo")
    assert outputs[1:] == [CHECKED, "", ""]
    assert json.loads((site.directory / "certlet-new.json").read_text())["info"]["title"]

    def verify() -> None:
        with site.serve(*OPTIONS, **setting):
            assert [site.status(certificate) for certificate in (kept, revoked)] == ["good", "revoked"]
            client = site.acme_client()
            assert client.post(client.directory["newAccount"], {"onlyReturnExisting": True}).status == 200
            assert urls(site.sign("new.example.com")) == urls(kept)
            (health,) = [output for command, output in transcript(page) if "/health" in command]
            body = site.request("GET", "/health").body.decode()
            assert re.fullmatch(pattern(health), body + "\n"), body

    def urls(certificate: x509.Certificate) -> set[str]:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        return {description.access_location.value for description in access}

    assert "http://status.example.com/ocsp" in urls(kept)
    for site.code in (servers.ROOT, previous_commit):
        verify()
    with contextlib.closing(sqlite3.connect(site.directory / "ledger.db")) as ledger:
        ledger.execute("PRAGMA user_version = 99")
    with (
        pytest.raises(AssertionError, match=r"ledger\.db was written by a newer version"),
        site.serve(*OPTIONS),
    ):
        pass
    pages.follow(pages.section(page, "Go back"), site.directory, environ)
    with site.serve(*OPTIONS):
        assert site.status(revoked) == "revoked"


def test_two_servers_share_a_ca_but_no_file_of_a_ledger(tmp_path: Path) -> None:
    """Copied files are enough for CRL, OCSP and retries. Two servers of one machine share the file of a ledger."""
    page, first, second = pages.read("two-servers"), Site(tmp_path / "a"), Site(tmp_path / "b")
    for site in (first, second):
        site.directory.mkdir()
    first.create()
    environ = pages.with_certlet(tmp_path / "bin", **first.environ)
    servers.create_script(tmp_path / "bin/ssh", 'exec sh -c "$2"')
    there = {"/var/lib/certlet": str(second.directory)}
    pages.follow(pages.section(page, "Copy the CA"), first.directory, environ, there)
    second.api_key = first.api_key
    (second.directory / "ledger.db").touch(0o600)
    neighbour = Site(first.directory, api_key=first.api_key, log="neighbour.log")
    with first.serve(*OPTIONS), neighbour.serve(*OPTIONS), second.serve(*OPTIONS):
        retry = {"Idempotency-Key": uuid7()}
        old = first.sign("old.example.com", **retry)
        assert second.sign("old.example.com", **retry) == old
        assert second.sign("old.example.com") != old
        assert first.request("GET", "/ca.crl").body == second.request("GET", "/ca.crl").body
        revoked = second.sign("revoked.example.com")
        first.revoke(revoked)
        assert [site.status(revoked) for site in (neighbour, second)] == ["revoked", "good"]
        (first.directory / "old.crt").write_bytes(old.public_bytes(Encoding.PEM))
        change, replace = transcript(pages.section(page, "Change a list"))
        pages.follow(as_page(change), first.directory, environ)
        assert [site.status(old) for site in (first, second)] == ["revoked", "good"]
        pages.follow(as_page(replace), first.directory, environ, there)
        assert second.status(old) == "revoked"
    logs = (first.directory / "audit.log", second.directory / "audit.log")
    listed = certlet("list", *logs, cwd=first.directory).stdout.decode()
    assert listed.count("dns:old.example.com") == 2  # the retry is the same certificate
    assert listed.count("dns:revoked.example.com") == 1


def as_page(*steps: tuple[str, str]) -> str:
    """Return the text of a page with these commands."""
    return "".join(f"```console\n$ {command}\n{output}```\n" for command, output in steps)


def test_two_servers_share_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation and an account of one server are known to the other, which has another machine's files."""
    page, first, second = pages.read("two-servers"), Site(tmp_path / "a"), Site(tmp_path / "b")
    first.directory.mkdir()
    first.create()
    shutil.copytree(first.directory, second.directory)
    second.api_key = first.api_key
    export, serve = pages.commands(pages.section(page, "Share a ledger"))
    name, _, table = export.removeprefix("export ").partition("=")
    options = shlex.split(serve)[2:]
    with dynamodb_server(table, monkeypatch) as url:
        aws = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "test"}
        env = {**aws, "AWS_SECRET_ACCESS_KEY": "test", name: table}
        with first.serve(*options, **env), second.serve(*options, **env):
            certificate = first.sign("a.example.com")
            assert second.status(certificate) == "good"
            first.revoke(certificate)
            assert second.status(certificate) == "revoked"
            first.register(first.acme_client())
            client = second.acme_client()
            assert client.post(client.directory["newAccount"], {"onlyReturnExisting": True}).status == 200


@contextlib.contextmanager
def dynamodb_server(table: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a simulated DynamoDB with one empty table by HTTP."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    with moto.mock_aws():
        client = boto3.client("dynamodb", region_name="eu-central-1")
        create_table(client, table)

        class Handler(servers.QuietHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                operation = xform_name(self.headers["X-Amz-Target"].partition(".")[2])
                try:
                    result = getattr(client, operation)(**json.loads(self.body()))
                    status = 200
                except ClientError as error:
                    reasons = error.response.get("CancellationReasons")
                    result = {"__type": error.response["Error"]["Code"], "CancellationReasons": reasons}
                    status = 400
                result.pop("ResponseMetadata", None)
                self.reply(status, json.dumps(result).encode())

        with servers.http_server(Handler) as url:
            yield url
