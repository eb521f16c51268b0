"""`certlet renew`, as transcripts: what is due is replaced, and nothing else is touched."""

from __future__ import annotations

import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import client
from service.cli import renew
from service.cli.terminal import CommandError
from service.pki import encoding, revocation
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers
from tests.cli import ask, certlet
from tests.servers import Server

HOOK = """#!/bin/sh
printf '%s|%s|%s' "$1" "$CERTLET_RENEWED" "$CERTLET_API_KEY" >> hooked
"""


def made(directory: Path, *more: str, name: str = "a.example.com") -> Path:
    """A certificate with its key beside it."""
    run = certlet("new", name, *more)
    assert run.returncode == 0, run.stderr
    return directory / f"{name}.crt"


def leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_nothing_due_is_quiet(server: Server, tmp_path: Path) -> None:
    """What ends later stays octet for octet; no word, no hook, exit 0, and no service is asked."""
    path = made(tmp_path)
    before = path.read_bytes()
    run = certlet("renew", path.name, "--deploy-hook", "false", env={"CERTLET_URL": "http://127.0.0.1:9"})
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    assert path.read_bytes() == before


@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "new key"])
def test_what_is_due_is_replaced(server: Server, tmp_path: Path, *, new_key: bool) -> None:
    """The same subject, names and profile; the same mode; the hook runs once for all, without the API key."""
    first = made(tmp_path, "10.0.0.1", "--profile", "peer")
    second = made(tmp_path, name="b.example.com")
    first.chmod(0o640)
    (tmp_path / "hook").write_text(HOOK)
    (tmp_path / "hook").chmod(0o755)
    (tmp_path / "link.crt").symlink_to(second)
    (tmp_path / "link.key").symlink_to(second.with_suffix(".key"))
    before = {path: leaf(path) for path in (first, second)}
    old_keys = {path: path.with_suffix(".key").read_bytes() for path in before}
    arguments = ["--expires-in=100d", "--deploy-hook=./hook 'two words'", *["--new-key"] * new_key]
    run = certlet("renew", first.name, "link.crt", *arguments)
    assert run.returncode == 0, run.stderr
    assert [line.split()[1] for line in run.stdout.splitlines()] == [b"a.example.com.crt,", b"link.crt,"]
    assert (tmp_path / "hooked").read_text() == f"two words|{first}\n{tmp_path / 'link.crt'}|"
    assert (tmp_path / "link.crt").is_symlink()
    for path, old in before.items():
        new, key_path = leaf(path), path.with_suffix(".key")
        assert new.serial_number != old.serial_number
        assert new.subject == old.subject
        for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage, x509.CertificatePolicies):
            mine, theirs = (each.extensions.get_extension_for_class(kind).value for each in (new, old))
            assert mine == theirs
        assert (key_path.read_bytes() != old_keys[path]) == new_key
        assert load_pem_private_key(key_path.read_bytes(), None).public_key() == new.public_key()
        assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.stat().st_mode) == 0o640
    assert len(list(tmp_path.iterdir())) == 8  # no draft is left


def test_what_has_ended_is_renewed(server: Server, tmp_path: Path) -> None:
    """A certificate that ended days ago is renewed, with a key file of another name."""
    order = factories.issuance_request(csrs.encode_pem(csrs.build()), validity="P1D")
    old = factories.authority(now=factories.NOW - timedelta(days=9)).issue(order)
    (tmp_path / "a.pem").write_text(encoding.encode_pem([old.certificate]))
    (tmp_path / "k.pem").write_bytes(encode_private_key(csrs.private_key("p-256")))
    run = certlet("renew", "a.pem", "--key-file", "k.pem")
    assert run.returncode == 0, run.stderr
    assert leaf(tmp_path / "a.pem").not_valid_after_utc > old.certificate.not_valid_after_utc


def test_what_was_revoked_is_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that may be in other hands gets no new certificate; nor does any while nobody can tell."""
    with servers.certlet_server(tmp_path, "--ca", "ca") as server:
        ask(server, monkeypatch)
        for name in ("a", "b"):
            made(tmp_path, name=f"{name}.example.com")
        held = (tmp_path / "a.example.com.crt").read_bytes()
        assert certlet("revoke", "a.example.com.crt", "--ca", "ca").returncode == 0
    listed = tmp_path / "ca" / "revoked.yaml"  # what is new in it is in the CRL five minutes later
    listed.write_text(re.sub('"at": "[^"]*"', '"at": "2026-01-01T00:00:00Z"', listed.read_text()))
    asked = ("renew", "a.example.com.crt", "b.example.com.crt", "--expires-in", "99d")
    with servers.certlet_server(tmp_path, "--ca", "ca") as server:  # which signs the list anew
        ask(server, monkeypatch)
        ran = certlet(*asked)
        assert (ran.returncode, ran.stdout[:27]) == (1, b"Renewed   b.example.com.crt")
        assert b"a.example.com.crt: it was revoked: make another key" in ran.stderr
        assert (tmp_path / "a.example.com.crt").read_bytes() == held
    listed.write_text("nonsense")
    with servers.certlet_server(tmp_path, "--ca", "ca") as server:
        ask(server, monkeypatch)
        ran = certlet(*asked)
        assert (ran.returncode, ran.stdout) == (1, b"")
        assert ran.stderr.count(b"503") == 2


def test_one_failure_stops_no_other(server: Server, tmp_path: Path) -> None:
    """Each failure is told by its file, nothing of it changes, exit 1; the others are renewed."""
    good = made(tmp_path)
    other = made(tmp_path, name="b.example.com")
    other.with_suffix(".key").write_bytes(good.with_suffix(".key").read_bytes())
    keyless = made(tmp_path, name="c.example.com")
    keyless.with_suffix(".key").unlink()
    (tmp_path / "both.crt").write_bytes(good.read_bytes() + good.with_suffix(".key").read_bytes())
    (tmp_path / "junk.crt").write_bytes(b"junk")
    bad = ["b.example.com.crt", "c.example.com.crt", "both.crt", "junk.crt"]
    before = {name: (tmp_path / name).read_bytes() for name in bad}
    run = certlet("renew", "no.crt", *bad, good.name, "--expires-in", "100d")
    assert run.returncode == 1
    assert run.stdout.startswith(b"Renewed   a.example.com.crt, until ")
    lines = run.stderr.decode().splitlines()
    assert lines[0] == "certlet: no.crt: No such file or directory"
    words = ("No such file", "is not its key", "c.example.com.key", "private key too", "not in PEM")
    assert all(word in line for line, word in zip(lines, words, strict=True))
    assert {name: (tmp_path / name).read_bytes() for name in bad} == before


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("--profile", "client"), 0, ""),
        (("--api-key", "x"), 1, "403"),
        (("--deploy-hook", "./none"), 1, "the hook ./none: No such file"),
        (("--deploy-hook", "false"), 1, "the hook false ended with 1"),
        (("--deploy-hook", "'"), 2, "No closing quotation"),
        (("--deploy-hook", " "), 2, "a command is needed"),
        (("--expires-in", "30"), 2, "30d"),
    ],
)
@pytest.mark.usefixtures("server")
def test_renew_says_why_not(tmp_path: Path, arguments: tuple[str, ...], status: int, word: str) -> None:
    """A refusal, a hook that fails, and arguments that make no sense are told, and are no success."""
    path = made(tmp_path)
    run = certlet("renew", path.name, "--expires-in", "100d", *arguments)
    assert (run.returncode, word in run.stderr.decode()) == (status, True)
    assert b"Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("old", "secret", "word"),
    [
        ("abc", None, "a.example.com.key is encrypted, and CERTLET_KEY_PASSPHRASE is not set"),
        ("abc", "bad", "a.example.com.key is not a PEM private key, or CERTLET_KEY_PASSPHRASE is wrong"),
        ("abc", "", "CERTLET_KEY_PASSPHRASE is set but empty"),
        ("abc", "abc", ""),
        (None, "abc", "a.example.com.key is not encrypted, but CERTLET_KEY_PASSPHRASE is set"),
    ],
)
def test_the_passphrase_s_variable_is_named(
    server: Server, tmp_path: Path, old: str | None, secret: str | None, word: str
) -> None:
    """What `new` encrypted a key under opens it for `show` and `renew`; else they name the variable that they read."""
    path, key = tmp_path / "a.example.com.crt", "a.example.com.key"
    run = certlet("new", path.stem, env={"CERTLET_KEY_PASSPHRASE": old})
    assert run.returncode == 0, run.stderr
    for command in (("show", path.name, "--key-file", key), ("renew", path.name, "--expires-in", "200d")):
        run = certlet(*command, env={"CERTLET_KEY_PASSPHRASE": secret})
        assert run.returncode == int(bool(word))
        assert run.stderr.decode().endswith(f"{word}\n" if word else "")
        assert b"CERTLET_CA_PASSPHRASE" not in run.stderr


@pytest.mark.parametrize("command", ["new", "renew", "show"])
def test_help_names_the_passphrase_s_variable(command: str) -> None:
    """--help of what writes or reads a certificate's key says where its passphrase comes from."""
    assert b"$CERTLET_KEY_PASSPHRASE" in certlet(command, "--help").stdout
    assert b"CERTLET_KEY_PASSPHRASE" not in certlet("sign", "--help").stdout


def test_list_of_another_version_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library raises a class of its own for that, as for a certificate's."""
    crl = factories.create_issuer().sign_crl(revocation.crl_builder([], 1, factories.NOW + timedelta(days=9)))
    data = encoding.encode_der(crl)
    monkeypatch.setattr(client, "fetch_crl", lambda _: data.replace(b"\x02\x01\x01", b"\x02\x01\x05", 1))
    with pytest.raises(CommandError, match=r"http://x/ca.crl is no list of what was revoked"):
        renew._revoked("http://x")
    monkeypatch.setattr(client, "fetch_crl", lambda _: data)
    assert not renew._revoked("http://x")
