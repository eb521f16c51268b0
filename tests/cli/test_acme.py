"""`certlet acme`: which key is printed when, and which accounts a change ends."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest

from service.cli import acme_clients
from service.keystore import acme_principals, ca_directory
from service.keystore.acme_principals import ACME_PRINCIPALS, AcmePrincipal
from service.pki.acme_key import ExternalKeyId
from tests import servers
from tests.cli import certlet
from tests.servers import Response
from tests.web import jws_requests
from tests.web.acme_client import AcmeClient

FIRST, SECOND = "A" * 43, "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"


@pytest.fixture(autouse=True)
def ca(tmp_path: Path) -> Path:
    """A CA in the working directory."""
    assert certlet("init", "ca").returncode == 0
    return tmp_path / "ca"


def run(*arguments: str) -> list[str]:
    """Run a command that succeeds; return the lines that it prints."""
    result = certlet("acme", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode().splitlines()


def credentials(*arguments: str) -> tuple[str, str]:
    """Run a command that prints a key for Caddy; return the key identifier and the key."""
    words = " ".join(run(*arguments, "--client", "caddy")).split()
    return words[words.index("key_id") + 1], words[words.index("mac_key") + 1]


def derive(ca: Path, name: str, generation: int) -> tuple[str, str]:
    """Return a key identifier and the key that the service derives for it."""
    key, key_id = ca_directory.load_acme_key(ca), ExternalKeyId(name, generation)
    assert key
    secret = base64.urlsafe_b64encode(key.external_account_key(key_id))
    return key_id.encode(), secret.decode().rstrip("=")


def test_add_prints_the_key_and_lines_for_each_client(ca: Path) -> None:
    """The first key creates acme.key; notes about that are on stderr, and the key is nowhere else."""
    result = certlet("acme", "add", "web", "--url", "https://ca.example.com/v1/")
    assert result.returncode == 0
    lines = result.stdout.decode().splitlines()
    directory, (key_id, key) = "https://ca.example.com/v1/acme/directory", derive(ca, "web", 1)
    assert lines[:4] == [
        f"Directory  {directory}",
        f"Key ID     {key_id}",
        f"HMAC key   {key}",
        "Root       ca/root-ca.crt (copy it to the client's host)",
    ]
    expected = [""]
    for client in acme_clients.NAMES:
        text = acme_clients.format_configuration(client, directory, key_id, key)
        assert (
            run("add", "web", "--client", client, "--url", "https://ca.example.com/v1") == text.splitlines()
        )
        expected += [f"# {client}", *text.splitlines(), ""]
    assert lines[4:] == expected[:-1]
    assert result.stderr.decode().splitlines() == [
        "note: created ca/acme.key: back it up, since it derives all of these keys"
    ]
    assert (ca / ca_directory.ACME_KEY).stat().st_mode & 0o777 == 0o600
    assert key not in (ca / ACME_PRINCIPALS).read_text()


def test_add_of_an_existing_name_prints_the_same_key(ca: Path) -> None:
    """Only thumbprints are added; a note says that the key stays."""
    first = credentials("add", "web", "--thumbprint", FIRST)
    content = (ca / ACME_PRINCIPALS).read_bytes()
    result = certlet("acme", "add", "web", "--client", "caddy")
    assert first[1] in result.stdout.decode()
    assert result.stderr == b"note: web exists already, so its key stays the same\n"
    assert (ca / ACME_PRINCIPALS).read_bytes() == content
    assert credentials("add", "web", "--thumbprint", SECOND, "--thumbprint", FIRST) == first
    assert acme_principals.load_all(ca) == {"web": AcmePrincipal(1, (FIRST, SECOND))}
    assert credentials("add", "other") == derive(ca, "other", 1) != first


def test_rekey_changes_the_key_and_removes_thumbprints(ca: Path) -> None:
    """Otherwise, a listed account key would get its account again."""
    first = credentials("add", "web", "--thumbprint", FIRST, "--thumbprint", SECOND)
    result = certlet("acme", "rekey", "web", "--thumbprint", SECOND)
    assert result.stderr.decode() == f"note: removed the thumbprints {FIRST}\n"
    assert credentials("add", "web") == derive(ca, "web", 2) != first
    assert acme_principals.load(ca).thumbprints == {SECOND: "web"}
    assert credentials("rekey", "web") == derive(ca, "web", 3)
    assert not acme_principals.load(ca).thumbprints


def test_key_of_a_removed_principal_never_becomes_valid_again(ca: Path) -> None:
    """Nor do its accounts, if the name is added again."""
    credentials("add", "web", "--thumbprint", FIRST)
    assert run("remove", "web") == ["Removed web and its accounts"]
    assert run("list") == []
    assert not acme_principals.load(ca).has(ExternalKeyId("web", 1))
    assert credentials("add", "web") == derive(ca, "web", 2)
    principals = acme_principals.load(ca)
    assert principals.has(ExternalKeyId("web", 2))
    assert not principals.has(ExternalKeyId("web", 1))
    assert not principals.thumbprints


def test_list_shows_key_identifiers_and_thumbprints_but_no_key(ca: Path) -> None:
    for name in ("a b", "web"):
        credentials("add", name, *(("--thumbprint", FIRST) if name == "web" else ()))
    assert run("list") == ["a%20b.1", f"web.1  {FIRST}"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("add", ""), 1, "the name has 1 to 128 printable ASCII characters"),
        (("add", "a\x1b"), 1, "the name has 1 to 128 printable ASCII characters"),
        (("add", "service:x"), 1, "the name cannot begin with service:"),
        (("add", "oidc:x"), 1, "the name cannot begin with oidc:"),
        (
            ("add", "x", "--thumbprint", "a\x1b"),
            2,
            r"'a\x1b' is not a thumbprint: 43 characters of base64url",
        ),
        (("add", "x", "--thumbprint", FIRST), 1, f"the thumbprint '{FIRST}' is already listed for 'web'"),
        (("add", "x", "--client", "x"), 2, "'x' is not one of 'certbot', 'lego'"),
        (("add", "x", "--url", "ca.example.com"), 2, "not an http or https URL"),
        (("add", "x", "--ca", "nowhere"), 1, "no CA in nowhere"),
        (("rekey", "x"), 1, "'x' may not have ACME accounts: certlet acme list shows the names"),
        (("remove", "gone"), 1, "'gone' may not have ACME accounts"),
        (("rekey", "gone"), 1, "'gone' may not have ACME accounts"),
        (("rekey", "last"), 1, "'last' has had 999999 keys, which is the maximum: add another name"),
    ],
)
def test_impossible_change_is_refused(
    ca: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    """The error is one line, and neither the file nor the output has anything of it."""
    ca_directory.create_acme_key(ca)
    existing = {"web": AcmePrincipal(1, (FIRST,)), "gone": AcmePrincipal(1, removed=True)}
    for name, principal in {**existing, "last": AcmePrincipal(999_999)}.items():
        acme_principals.change(ca, name, mock.Mock(return_value=principal))
    content = (ca / ACME_PRINCIPALS).read_bytes()
    result = certlet("acme", *arguments)
    assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (status, b"", 1)
    assert message in result.stderr.decode()
    assert b"\x1b" not in result.stderr
    assert (ca / ACME_PRINCIPALS).read_bytes() == content


@pytest.mark.parametrize("arguments", [("add", "x"), ("rekey", "x"), ("remove", "x"), ("list",)])
def test_malformed_file_is_not_changed(ca: Path, arguments: tuple[str, ...]) -> None:
    (ca / ACME_PRINCIPALS).write_text("x:\n  generations: 1\n")
    result = certlet("acme", *arguments)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"certlet: ca/acme-principals.yaml: line 1: the generation of 'x' is not a number" in result.stderr
    assert b"line 2: unknown key 'generations'" in result.stderr
    assert (ca / ACME_PRINCIPALS).read_text() == "x:\n  generations: 1\n"


def test_malformed_key_is_not_replaced(ca: Path) -> None:
    (ca / ca_directory.ACME_KEY).write_bytes(b"secret")
    result = certlet("acme", "add", "x")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"certlet: ca/acme.key: 6 octets; expected 32\n"
    assert not (ca / ACME_PRINCIPALS).exists()


class Directory:
    """The ACME directory of a server, and clients of it."""

    def __init__(self, server: servers.Server) -> None:
        self.server = server

    def send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        return self.server.request(method, url.removeprefix(self.server.url), body, headers)

    def client(self) -> AcmeClient:
        """A client with a new key, and without an account."""
        key = jws_requests.new_key("ES256")
        return AcmeClient(self.send, f"{self.server.url}/acme/directory", key)

    def register(self, client: AcmeClient, key_id: str, key: str) -> Response:
        """Register with the credentials that a command printed."""
        url, client.account = client.directory["newAccount"], ""
        secret = base64.urlsafe_b64decode(key + "==")
        binding = jws_requests.binding(secret, key_id, jws_requests.jwk(client.key), url=url)
        response = client.post(url, {"externalAccountBinding": binding})
        client.account = response.headers["Location"] or ""
        return response


def problem(response: Response) -> tuple[int, str]:
    """The status and the type of a problem."""
    return response.status, response.json()["type"].rpartition(":")[2]


def test_running_server_follows_the_commands(tmp_path: Path, ca: Path) -> None:
    """A printed key registers; rekey and remove end accounts at once; a malformed file is 503, with a log line."""
    with servers.certlet_server(tmp_path, "--ledger", "ledger.db", "--no-usage-plan") as server:
        directory = Directory(server)
        missing = server.request("GET", "/acme/directory")
        assert missing.status == 404
        assert "certlet acme add" in missing.json()["detail"]
        printed = run("add", "web", "--url", server.url)
        assert printed[0] == f"Directory  {server.url}/acme/directory"
        first, client = credentials("add", "web"), directory.client()
        assert directory.register(client, *first).status == 201
        assert client.issue("dns:a.example.com").count("BEGIN CERTIFICATE") == 2
        assert '"principal":"web"' in server.read_log()
        second = credentials("rekey", "web")
        assert problem(client.order("dns:a.example.com")) == (403, "unauthorized")
        assert problem(directory.register(directory.client(), *first)) == (403, "unauthorized")
        assert directory.register(client, *second).status == 200
        assert client.order("dns:a.example.com").status == 201
        run("remove", "web")
        assert problem(client.order("dns:a.example.com")) == (403, "unauthorized")
        assert problem(directory.register(directory.client(), *second)) == (403, "unauthorized")

        content = (ca / ACME_PRINCIPALS).read_bytes()
        (ca / ACME_PRINCIPALS).write_text('web:\n  "\\e[2J": 1\n')
        unavailable = directory.register(directory.client(), *second)
        assert problem(unavailable) == (503, "serverInternal")
        assert unavailable.json()["detail"] == "the list of ACME principals cannot be loaded"
        assert r"acme-principals.yaml: line 1: the generation of 'web'" in server.read_log()
        assert "\x1b" not in server.read_log()
        (ca / ACME_PRINCIPALS).write_bytes(content)
        assert directory.register(directory.client(), *credentials("add", "web")).status == 201
        for secret in (first[1], second[1]):
            assert secret not in server.read_log()


def test_listed_account_key_registers_without_a_key_of_the_ca(tmp_path: Path) -> None:
    """The refusal before names the thumbprint; rekey ends the account, and another thumbprint admits no one."""
    with servers.certlet_server(tmp_path, "--ledger", "ledger.db", "--no-usage-plan") as server:
        credentials("add", "tiny", "--thumbprint", FIRST)
        directory = Directory(server)
        client = directory.client()
        refused = client.post(client.directory["newAccount"], {})
        assert problem(refused) == (403, "externalAccountRequired")
        thumbprint = client.key.thumbprint()
        assert thumbprint in refused.json()["detail"]
        credentials("add", "tiny", "--thumbprint", thumbprint)
        registered = client.post(client.directory["newAccount"], {})
        assert registered.status == 201
        client.account = registered.headers["Location"] or ""
        assert client.order("dns:a.example.com").status == 201
        credentials("rekey", "tiny")
        assert problem(client.order("dns:a.example.com")) == (403, "unauthorized")
        client.account = ""
        assert problem(client.post(client.directory["newAccount"], {}))[0] == 403


def test_quiet_prints_only_the_key_or_the_lines_for_a_client(ca: Path) -> None:
    assert run("add", "web", "--quiet") == [derive(ca, "web", 1)[1]]
    assert run("add", "web", "--quiet", "--client", "caddy") == run("add", "web", "--client", "caddy")


def test_json_has_the_key_and_the_lines_for_a_client(ca: Path) -> None:
    """`add` and `rekey` print one object, `remove` the identifier of the key that ended."""
    facts = json.loads("".join(run("add", "web", "--json", "--url", "https://ca.example.com")))
    key_id, key = derive(ca, "web", 1)
    assert facts == {
        "principal": "web",
        "directory": "https://ca.example.com/acme/directory",
        "key_id": key_id,
        "hmac_key": key,
        "root_certificate": "ca/root-ca.crt",
    }
    rekeyed = json.loads("".join(run("rekey", "web", "--json", "--client", "caddy")))
    assert (rekeyed["key_id"], rekeyed["hmac_key"]) == derive(ca, "web", 2)
    assert rekeyed["configuration"].splitlines() == run("add", "web", "--client", "caddy")
    removed = json.loads("".join(run("remove", "web", "--json")))
    assert removed == {"principal": "web", "key_id": rekeyed["key_id"]}
