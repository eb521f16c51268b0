"""`certlet acme`: which key is printed when, and which accounts a change ends."""

from __future__ import annotations

import base64
from pathlib import Path
from unittest import mock

import pytest

from service.cli import acme_clients
from service.keystore import acme_principals, ca_directory
from service.keystore.acme_principals import ACME_PRINCIPALS, AcmePrincipal
from service.pki.acme_key import ExternalKeyId
from tests.cli import certlet

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
    assert run("remove", "web") == []
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
