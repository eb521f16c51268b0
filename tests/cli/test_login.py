"""`certlet login`, and what other commands do with its contexts, with a server that has its own root."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli import contexts
from tests import servers
from tests.cli import certlet, type_at_terminal, write_site
from tests.servers import API_KEY, Server

KEY = {"CERTLET_API_KEY": API_KEY}


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("login")
    with servers.certlet_server(directory, "--tls", "--no-status-port") as server:
        yield server


def root_file(server: Server) -> Path:
    return server.log.parent / "ca" / "root-ca.crt"


def test_root_is_confirmed_at_a_terminal(tls_server: Server) -> None:
    """Its fingerprint is shown first. Then commands need no option, variable or trusted root."""
    name = tls_server.url.removeprefix("https://")
    run = type_at_terminal(b"y\n", "login", f"{tls_server.url}/", **KEY)
    digest = servers.run("openssl", "x509", "-in", root_file(tls_server), "-noout", "-fingerprint", "-sha256")
    fingerprint = digest.stdout.partition("=")[2].strip().replace(":", "").lower()
    root, sha256, question = run.stderr.decode().splitlines()
    assert root.startswith("Root      CN=Certlet Root CA ")
    assert sha256 == f"SHA-256   {fingerprint}"
    assert question.startswith("Is this the fingerprint from your CA administrator? [y/N]: ")
    assert run.stdout.decode() == f"Logged in to {name}, with the profiles server, client, peer\n"
    assert run.returncode == 0
    assert stat.S_IMODE(contexts.path().stat().st_mode) == 0o600
    assert stat.S_IMODE(contexts.path().parent.stat().st_mode) == 0o700
    for command in (("new", "a.example.com"), ("renew", "a.example.com.crt", "--expires-in", "100d")):
        run = certlet(*command)
        assert (run.returncode, run.stderr) == (0, b"")
    assert b"unverified" not in certlet("trust").stdout
    assert b"unverified" in certlet("trust", "--url", tls_server.url.replace("127.0.0.1", "localhost")).stdout


@pytest.mark.parametrize("text", [b"n\n", b"\n"])
def test_root_that_is_not_confirmed_is_not_stored(tls_server: Server, text: bytes) -> None:
    """Anything but yes stores nothing."""
    run = type_at_terminal(text, "login", tls_server.url, **KEY)
    assert run.returncode == 1
    assert b"certlet: the root is not trusted; nothing was stored\n" in run.stderr
    assert not contexts.path().exists()


def test_fingerprint_replaces_the_question(tls_server: Server) -> None:
    """A script passes it; another fingerprint, a wrong key and a missing terminal store nothing."""
    facts = json.loads(certlet("show", root_file(tls_server), "--json").stdout)
    digest = facts["fingerprint_sha256"]
    for arguments, key, status, message in (
        (("--sha256", digest[::-1]), API_KEY, 1, f"certlet: the root has another fingerprint: {digest}"),
        ((), API_KEY, 1, "no terminal to confirm the root: pass its fingerprint as --sha256, or --root FILE"),
        (("--sha256", digest), None, 1, "no terminal to prompt for the API key: set $CERTLET_API_KEY"),
        (("--sha256", digest), "wrong", 4, "403 unauthorized"),
        (("--sha256", "x"), API_KEY, 2, "is not a SHA-256 fingerprint"),
        (("--sha256", digest, "--root", "x"), API_KEY, 2, "--sha256 is not allowed with --root"),
        (("--root", "none"), API_KEY, 1, "certlet: none: No such file or directory"),
    ):
        run = certlet("login", tls_server.url, *arguments, env={"CERTLET_API_KEY": key})
        assert (run.returncode, message in run.stderr.decode()) == (status, True), run.stderr
        assert not contexts.path().exists()
    run = certlet("login", tls_server.url, "--sha256", digest, "--name", "ca", "--json", env=KEY)
    assert json.loads(run.stdout) == {
        "name": "ca",
        "url": tls_server.url,
        "root_fingerprint_sha256": digest,
        "profiles": ["server", "client", "peer"],
    }


def test_another_root_is_not_trusted(tls_server: Server) -> None:
    """The connection with the key is verified, so that the key goes to no other server."""
    assert certlet("init", "other").returncode == 0
    run = certlet("login", tls_server.url, "--root", "other/root-ca.crt", env=KEY)
    assert run.returncode == 5
    assert run.stderr.endswith(b" (the certificate of the service is not issued under other/root-ca.crt)\n")
    write_site(Path("other"))
    for file, reason in (
        ("other/signing-ca.crt", "other/signing-ca.crt is not a root certificate"),
        ("localhost.crt", "localhost.crt is not a root certificate"),
    ):
        run = certlet("login", tls_server.url.replace("https", "http"), "--root", file, env=KEY)
        assert (run.returncode, run.stderr.decode()) == (1, f"certlet: {reason}\n")
    assert not contexts.path().exists()


def test_file_of_roots_that_cannot_be_read_is_named(tls_server: Server) -> None:
    """A file with another root is not the problem."""
    assert certlet("init", "other").returncode == 0
    Path("empty").touch()
    for file, remedy in (
        ("none", "$SSL_CERT_FILE names none: No such file or directory"),
        ("empty", "$SSL_CERT_FILE names empty, which contains no certificate"),
        ("other/root-ca.crt", "certlet login trusts the root of a service; or set $SSL_CERT_FILE to it"),
    ):
        env = {**KEY, "CERTLET_URL": tls_server.url, "SSL_CERT_FILE": file}
        run = certlet("new", "a.example.com", env=env)
        assert (run.returncode, run.stderr.decode().endswith(f" ({remedy})\n")) == (5, True), run.stderr


def test_password_in_a_url_is_refused(tls_server: Server) -> None:
    """It would be shown by context list, and is not in the error."""
    url = tls_server.url.replace("//", "//user:secret@")
    run = certlet("login", url, "--root", root_file(tls_server), env=KEY)
    assert (run.returncode, b"the URL contains a user name or a password: remove it" in run.stderr) == (
        2,
        True,
    )
    assert b"secret" not in run.stderr
    assert not contexts.path().exists()


def test_context_is_chosen(tls_server: Server) -> None:
    """By its name, or by its URL; by default it is that of the last login. No other server gets its key."""
    by_name, by_address = tls_server.url, tls_server.url.replace("localhost", "127.0.0.1")
    for url, name in ((by_address, "address"), (by_name, "name")):
        run = certlet("login", url, "--root", root_file(tls_server), "--name", name, env=KEY)
        assert (run.returncode, run.stderr) == (0, b"")
    assert certlet("context", "list").stdout.decode().splitlines() == [
        f"  address  {by_address}", f"* name  {by_name}"
    ]  # fmt: skip
    for number, arguments in enumerate(
        ((), ("--context", "address"), ("--url", by_name), ("--url", by_address))
    ):
        run = certlet("new", f"{number}.example.com", *arguments)
        assert (run.returncode, run.stderr) == (0, b"")
    variables = {"CERTLET_URL": "http://127.0.0.1:9", "CERTLET_API_KEY": "wrong"}
    for arguments, status in (
        ((), 5),
        (("--context", "name"), 0),
        (("--context", "name", "--api-key", "x"), 4),
    ):
        run = certlet("new", "v.example.com", "--force", *arguments, env=variables)
        assert run.returncode == status, run.stderr
    assert certlet("context", "use", "address").returncode == 0
    listed = [json.loads(line) for line in certlet("context", "list", "--json").stdout.splitlines()]
    assert [(item["name"], item["current"]) for item in listed] == [("address", True), ("name", False)]
    assert API_KEY.encode() not in certlet("context", "list", "--json").stdout
    for arguments, status, message in (
        (("new", "x.example.com", "--url", "http://127.0.0.1:9"), 1, "no API key"),
        (("new", "x.example.com", "--context", "none"), 1, "there is no context none: certlet context list"),
        (
            ("new", "x.example.com", "--context", "name", "--url", by_name),
            2,
            "--context is not allowed with",
        ),
        (("context", "use", "none"), 1, "there is no context none"),
        (("logout", "none"), 1, "there is no context none"),
    ):
        run = certlet(*arguments)
        assert (run.returncode, message in run.stderr.decode()) == (status, True), run.stderr
    run = certlet("logout")
    assert run.stderr == b"note: there is no current context now: certlet context use NAME chooses one\n"
    assert list(contexts.load().by_name) == ["name"]
    for arguments, message in (
        ((), "no API key and no current context: choose one with certlet context use NAME"),
        (("--url", "http://127.0.0.1:9"), "no API key: run certlet login URL"),
    ):
        run = certlet("new", "x.example.com", *arguments)
        assert (run.returncode, message in run.stderr.decode()) == (1, True), run.stderr
    assert (
        certlet("logout").stderr
        == b"certlet: there is no current context: pass NAME of certlet context list\n"
    )
    assert certlet("logout", "name").returncode == 0
    assert API_KEY not in contexts.path().read_text()


def test_damaged_file_is_an_error() -> None:
    """It is named, and what to do with it."""
    contexts.path().parent.mkdir(parents=True)
    damaged_root = '{"current": "a", "contexts": {"a": {"url": "https://a", "root_pem": "x"}}}'
    number = '{"current": "a", "contexts": {"a": {"url": "https://a", "api_key": 12}}}'
    missing = '{"current": "b", "contexts": {"a": {"url": "https://a"}}}'
    members = '{"current": "", "contexts": {"a": {}}}'
    for content in ("{", "[]", members, '{"contexts": {}}', damaged_root, number, missing):
        contexts.path().write_text(content)
        run = certlet("context", "list")
        message = f"certlet: {contexts.path()} is damaged: delete it, and log in again\n"
        assert (run.returncode, run.stderr.decode()) == (1, message)
    contexts.path().write_text(missing.replace('"b"', '"a"'))
    assert certlet("context", "list").stdout == b"* a  https://a\n"
