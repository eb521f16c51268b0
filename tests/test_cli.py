"""The command line, as a person uses it: real processes, real files."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import tomllib
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from openapi_spec_validator import validate

from deploy import lint
from service import cli, contract
from service.pki import encoding
from service.signers import file, lists
from tests import authorities, csrs, serving
from tests.serving import API_KEY, Server, certlet

FILES = {"revoked.yaml", "root-ca.crt", "root-ca.key", "serial.key", "signing-ca.crt", "signing-ca.key"}


def test_init_makes_a_hierarchy(tmp_path: Path) -> None:
    """A root (10 years, pathLen 1) and a signing CA (5 years, pathLen 0), backdated a day, keys 0600."""
    made = certlet("init", "ca", "--name", "Acme", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert b"root-ca.key to a safe place" in made.stdout
    assert {path.name for path in (tmp_path / "ca").iterdir()} == FILES
    for name in ("root-ca.key", "signing-ca.key", "serial.key"):
        assert stat.S_IMODE((tmp_path / "ca" / name).stat().st_mode) == 0o600
    issuer = file.load(tmp_path / "ca", None)
    for certificate, years, depth, kind in (
        (issuer.root, 10, 1, "Root"),
        (issuer.certificate, 5, 0, "Signing"),
    ):
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical
        assert basic.value == x509.BasicConstraints(ca=True, path_length=depth)
        length = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert round(length.total_seconds() / 86400 / 365.25) == years
        age = time.time() - certificate.not_valid_before_utc.timestamp()
        assert 86_400 <= age < 86_400 + 120
        assert certificate.subject.rfc4514_string().startswith(f"CN=Acme {kind} CA ")
    assert issuer.root.subject != issuer.certificate.subject


def test_the_longest_name(tmp_path: Path) -> None:
    """--help says how long a name may be; characters are counted, not octets; and such a CA signs and rolls over."""
    assert "at most 46" in " ".join(certlet("init", "--help", cwd=tmp_path).stdout.decode().split())
    name = "ä" * 45 + "東"
    for command in (("init", "ca", "--name", name), ("rollover", "ca", "next", "--new-root")):
        made = certlet(*command, cwd=tmp_path)
        assert (made.returncode, made.stderr) == (0, b"")
    for directory in ("ca", "next"):
        with serving.serving(tmp_path, "--ca", directory) as server:
            pem = server.sign({"csr": csrs.pem(csrs.build()).decode()}).json()["crt_pem"]
            assert server.request("GET", "/ca.crl").status == 200
        assert "UserWarning" not in server.logged()
        shown = certlet("show", "-", cwd=tmp_path, stdin=pem.encode())
        assert shown.stderr == b""
        assert f"CN={name} Signing CA ".encode() in shown.stdout


def test_a_long_name_from_elsewhere_is_cut(tmp_path: Path) -> None:
    """A CA that was not made here, with a common name too long for ours, is rolled over under its beginning."""
    old = [authorities.ca(subject="x" * 60), authorities.root()]
    for name, certificate in zip(("signing-ca.crt", "root-ca.crt"), old, strict=True):
        (tmp_path / name).write_text(encoding.pem([certificate]))
    (tmp_path / "revoked.yaml").touch()
    made = certlet("rollover", ".", "next", "--new-root", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "next" / "revoked.yaml").read_bytes() == lists.HEAD
    subject = file.load(tmp_path / "next", None).certificate.subject.rfc4514_string()
    assert re.fullmatch("CN=x{46} Signing CA [0-9a-f]{6}", subject)


def test_two_cas_of_one_name_differ(tmp_path: Path) -> None:
    """The names end in random digits, so that nobody takes one CA for the other."""
    for name in ("a", "b"):
        assert certlet("init", name, cwd=tmp_path).returncode == 0
    roots = [file.load(tmp_path / name, None).root.subject for name in ("a", "b")]
    assert roots[0] != roots[1]


def test_init_never_overwrites(tmp_path: Path) -> None:
    """Where there is any part of a CA, nothing is changed, and the line says so."""
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "signing-ca.key").write_text("precious")
    made = certlet("init", "ca", cwd=tmp_path)
    assert made.returncode == 1
    assert b"holds a CA already" in made.stderr
    assert [path.name for path in (tmp_path / "ca").iterdir()] == ["signing-ca.key"]
    assert (tmp_path / "ca" / "signing-ca.key").read_text() == "precious"


@pytest.mark.parametrize("new_root", [False, True], ids=["the same root", "a new root"])
def test_rollover(tmp_path: Path, *, new_root: bool) -> None:
    """The new CA signs under the old one's name and constraints; both chains are served; old leaves verify."""
    assert certlet("init", "old", "--permit-dns", "example.com", cwd=tmp_path).returncode == 0
    csr = csrs.pem(csrs.build(sans=["dns:a.example.com"])).decode()
    with serving.serving(tmp_path, "--ca", "old") as server:
        before = server.sign({"csr": csr}).json()
        old = server.request("GET", "/ca").json()
        assert old["previous_pem"] == ""
    assert certlet("key", "add", "ci", "--ca", "old", cwd=tmp_path).returncode == 0
    (tmp_path / "old" / "denied-keys.txt").write_text(f"{'0' * 64}\n")
    made = certlet("rollover", "old", "new", *(["--new-root"] if new_root else []), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "new" / "root-ca.key").exists() == new_root
    assert b"ci" in certlet("key", "list", "--ca", "new", cwd=tmp_path).stdout
    assert (tmp_path / "new" / "denied-keys.txt").read_text() == f"{'0' * 64}\n"
    assert (tmp_path / "new" / "serial.key").read_bytes() != (tmp_path / "old" / "serial.key").read_bytes()
    with serving.serving(tmp_path, "--ca", "new") as server:
        after = server.sign({"csr": csr}).json()
        new = server.request("GET", "/ca").json()
        bundle = server.request("GET", "/ca.pem").body.decode()
        (tmp_path / "all.p7c").write_bytes(server.request("GET", "/ca.p7c").body)
        outside = server.sign({"csr": csrs.pem(csrs.build(sans=["dns:a.example.org"])).decode()})
        assert outside.status == 422
    assert (new["root_pem"] == old["root_pem"]) != new_root
    assert new["ca_pem"] != old["ca_pem"]
    assert new["previous_pem"] == (old["chain_pem"] if new_root else old["ca_pem"])
    assert bundle == new["chain_pem"] + new["previous_pem"]
    (tmp_path / "bundle.pem").write_text(bundle)
    for name, leaf, root in (("before", before, old["root_pem"]), ("after", after, new["root_pem"])):
        (tmp_path / name).write_text(leaf["crt_pem"])
        (tmp_path / "root.pem").write_text(root)
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-CAfile",
            "root.pem",
            "-untrusted",
            "bundle.pem",
            name,
        ]
        judged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stderr
    listed = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-in", "all.p7c", "-print_certs"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert listed.stdout.count("BEGIN CERTIFICATE") == bundle.count("BEGIN CERTIFICATE") == 3 + new_root


def test_rollover_says_why_not(tmp_path: Path) -> None:
    """Without the root's key, with another root's, or over a CA: one line, and nothing is made."""
    for name in ("old", "other"):
        assert certlet("init", name, cwd=tmp_path).returncode == 0
    for arguments, word in (
        (("old", "other"), b"holds a CA already"),
        (("none", "new"), b"there is no CA in none: say where with OLD, or make one (certlet init)"),
        (("old", "new", "--root-key", "other/root-ca.key"), b"not the one in the root's certificate"),
        (("old", "new", "--root-key", "gone.key"), b"--new-root"),
    ):
        refused = certlet("rollover", *arguments, cwd=tmp_path)
        assert refused.returncode == 1
        assert word in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert not (tmp_path / "new").exists()


BAD_LISTS = [
    ("old/revoked.yaml", b"- {serial: 10, at: 2026-01-01T00:00:00Z}", b"between quotes"),
    ("old/revoked.yaml", b"\xff", b"not UTF-8"),
    ("old/revoked.yaml", None, b"old/revoked.yaml: "),
    ("old/denied-keys.txt", b"0123", b"denied-keys.txt"),
    ("old/api-keys.json", b"[]", b"not a file of API keys"),
    ("new/revoked.yaml", b"", b"it is there already; nothing was changed"),
    ("new/denied-keys.txt", b"", b"it is there already; nothing was changed"),
]


@pytest.mark.parametrize(("name", "content", "word"), BAD_LISTS)
def test_a_list_that_cannot_be_taken_over_stops_a_rollover(
    tmp_path: Path, name: str, content: bytes | None, word: bytes
) -> None:
    """A CA is made with the lists of the one before, or not at all: one line, and no file of it is there."""
    assert certlet("init", "old", cwd=tmp_path).returncode == 0
    (tmp_path / "old" / "denied-keys.txt").write_text(f"{'0' * 64}\n")
    (tmp_path / "new").mkdir()
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    there = sorted((tmp_path / "new").iterdir())
    refused = certlet("rollover", "old", "new", cwd=tmp_path)
    assert refused.returncode == 1
    assert word in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted((tmp_path / "new").iterdir()) == there
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "old" / "revoked.yaml").touch()
    assert certlet("rollover", "old", "new", cwd=tmp_path).returncode == 0
    assert (tmp_path / "new" / "revoked.yaml").exists()


def test_a_rolled_over_ca_is_rolled_over_again(tmp_path: Path) -> None:
    """What the CA before the one before it issued is still served, until it has ended."""
    assert certlet("init", "a", cwd=tmp_path).returncode == 0
    for old, new in (("a", "b"), ("b", "c")):
        made = certlet("rollover", old, new, "--root-key", "a/root-ca.key", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    issuer = file.load(tmp_path / "c", None)
    before = [file.load(tmp_path / name, None).certificate for name in ("b", "a")]
    assert list(issuer.previous) == before
    assert [each.subject for each in issuer.authorities[1:2]] == [issuer.root.subject]


def test_keys_are_encrypted_under_the_passphrase(tmp_path: Path) -> None:
    """With CERTLET_CA_PASSPHRASE both keys are encrypted, and open under it alone."""
    secret = {"CERTLET_CA_PASSPHRASE": "correct horse"}
    assert certlet("init", "ca", cwd=tmp_path, env=secret).returncode == 0
    for name in ("root-ca.key", "signing-ca.key"):
        pem = (tmp_path / "ca" / name).read_bytes()
        assert b"ENCRYPTED PRIVATE KEY" in pem
        assert load_pem_private_key(pem, b"correct horse")
    for env, word in (({}, b"encrypted"), ({"CERTLET_CA_PASSPHRASE": "wrong"}, b"wrong")):
        refused = certlet("serve", "--port", "0", cwd=tmp_path, env=env)
        assert refused.returncode == 1
        assert word in refused.stderr
        assert refused.stderr.splitlines()[-1].startswith(b"certlet: ")
        assert b"Traceback" not in refused.stderr


@pytest.mark.parametrize("kind", ["rsa-2048", "p-384", "ed25519", "ml-dsa-44"])
def test_init_takes_every_kind_of_key(tmp_path: Path, kind: str) -> None:
    """A CA of another kind of key is made, and served."""
    assert certlet("init", "ca", "--key", kind, cwd=tmp_path).returncode == 0
    with serving.serving(tmp_path) as server:
        assert server.sign({"csr": csrs.pem(csrs.build()).decode()}).status == 200


def test_permits_become_critical_name_constraints(tmp_path: Path) -> None:
    """--permit-dns and --permit-ip bind the signing CA, and the server refuses what they exclude."""
    arguments = ("--permit-dns", "example.com", "--permit-ip", "10.0.0.0/8")
    assert certlet("init", "ca", *arguments, cwd=tmp_path).returncode == 0
    signing = file.load(tmp_path / "ca", None).certificate
    constraints = signing.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    with serving.serving(tmp_path) as server:
        assert server.sign({"csr": csrs.pem(csrs.build("a.example.com")).decode()}).status == 200
        refused = server.sign({"csr": csrs.pem(csrs.build("a.example.org")).decode()})
        assert (refused.status, refused.json()["code"]) == (422, "rejectedIdentifier")


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("nonsense",), 2, "invalid choice"),
        (("init",), 2, "DIR"),
        (("init", "ca", "--key", "dsa"), 2, "invalid choice"),
        (("init", "ca", "--permit-dns", "*.x"), 2, "wildcard"),
        (("init", "ca", "--permit-ip", "10.0.0.1/8"), 2, "host bits"),
        (("init", "ca", "--name", "x" * 47), 1, "certlet: the name has 47 characters; 46 are accepted"),
        (("init", "ca", "--name", " "), 1, "certlet: a CA needs a name"),
        (("init", "/dev/null/ca"), 1, "Not a directory"),
        (("serve", "--port", "99999"), 2, "port"),
        (("serve", "--workers", "0"), 2, "1 to 64"),
        (("serve", "--host", "192.0.2.1"), 1, "not loopback"),
        (
            ("serve", "--ephemeral", "--host", "203.0.113.9", "--insecure-http"),
            1,
            "certlet: 203.0.113.9 is no address of this machine: give another --host",
        ),
        (
            ("serve", "--ephemeral", "--host", "nohost.invalid", "--insecure-http"),
            1,
            "certlet: the host nohost.invalid is not found: give --host an address of this machine",
        ),
        (("serve", "--ephemeral", "--host", "a..b", "--insecure-http"), 1, "the host a..b is not found"),
        (
            ("serve", "--audit-log", "none/a"),
            1,
            "certlet: --audit-log none/a: No such file or directory",
        ),
        (("serve", "--audit-log", "."), 1, "certlet: --audit-log .: Is a directory"),
        (("serve", "--ca", "x", "--ephemeral"), 2, "not allowed"),
        (("serve", "--ca", "/dev/null/ca"), 1, "Not a directory"),
        (("sign", "missing.csr", "--api-key", "x"), 1, "missing.csr"),
        (("sign", "-"), 1, "API key is needed: --api-key, or $CERTLET_API_KEY (certlet key add"),
        (("sign", "-", "--validity", "30"), 2, "12h, 30d, 4w"),
        (("sign", "-", "--not-after", "tomorrow"), 2, "2027-01-31T12:00:00Z"),
        (("sign", "-", "--not-after", "2027-02-30T12:00:00Z"), 2, "a time in UTC"),
        (("sign", "-", "--api-key", "x", "--url", "ftp://x"), 1, "http or https"),
        (
            ("sign", "-", "--api-key", "x", "--url", "http://127.0.0.1:9"),
            1,
            "no Certlet answers at http://127.0.0.1:9: nothing listens",
        ),
        (("openapi", "--region", "x", "--account", "1", "--function", "f"), 2, "12 digits"),
        (("openapi", "--region", "x"), 2, "together"),
        (("openapi",), 2, "together"),
        (("openapi", "--template", "--region", "x"), 2, "alone"),
        (("openapi", "--template", "--plain"), 2, "alone"),
    ],
)
def test_errors_are_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, word: str
) -> None:
    """Whatever is wrong, the last line says what, the exit is not zero, and there is no traceback."""
    run = certlet(*arguments, cwd=tmp_path)
    assert run.returncode == status
    assert word in run.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in run.stderr
    assert b"Errno" not in run.stderr


def test_an_audit_log_that_the_environment_names(tmp_path: Path) -> None:
    """What CERTLET_AUDIT_LOG names, and cannot be opened, is told by its name, and not by a number."""
    log = tmp_path / "none" / "a"
    run = certlet("serve", "--ephemeral", "--port", "0", cwd=tmp_path, env={"CERTLET_AUDIT_LOG": str(log)})
    assert run.stderr.decode() == f"certlet: {log}: No such file or directory\n"


def test_an_audit_log_may_be_a_pipe(tmp_path: Path) -> None:
    """A reader of a pipe gets every line: it is not told of an end before the first of them."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE) as reader:
        with serving.serving(tmp_path, "--audit-log", "pipe") as server:
            assert server.sign({"csr": csrs.pem(csrs.build()).decode()}).status == 200
        read, _ = reader.communicate(timeout=30)
    assert [json.loads(line)["event"] for line in read.splitlines()] == ["intent", "result"]


def test_keys_of_the_local_gateway(tmp_path: Path) -> None:
    """A key is shown once and kept as its SHA-256, 0600; adding and removing works while serving."""
    with serving.serving(tmp_path, "--unlimited") as server:
        order = {"csr": csrs.pem(csrs.build()).decode()}
        added = certlet("key", "add", "ci", cwd=tmp_path)
        value = added.stdout.decode().strip()
        assert 30 <= len(value) <= 128
        kept = tmp_path / "ca" / "api-keys.json"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert value not in kept.read_text()
        assert certlet("key", "list", cwd=tmp_path).stdout.decode().split()[1::2] == ["ci"]
        assert certlet("key", "add", "ci", cwd=tmp_path).returncode == 1
        assert server.sign(order, value).status == 200
        assert '"principal":"ci"' in server.logged()
        assert certlet("key", "remove", "ci", cwd=tmp_path).returncode == 0
        assert server.sign(order, value).status == 403
        assert server.sign(order).status == 200


def test_keys_have_names(tmp_path: Path) -> None:
    """A name that no key has, and one that cannot be printed, are refused."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    for arguments, word in ((("remove", "nobody"), b"no key of the name"), (("add", "x\n"), b"printable")):
        run = certlet("key", *arguments, cwd=tmp_path)
        assert (run.returncode, run.stderr.count(b"\n")) == (1, 1)
        assert word in run.stderr


@pytest.mark.parametrize("directory", ["nowhere", "empty", "empty/file"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("key", "add", "x", "--ca"), "--ca"),
        (("key", "list", "--ca"), "--ca"),
        (("key", "remove", "x", "--ca"), "--ca"),
        (("trust", "--ca"), "--ca"),
        (("revoke", "0a", "--ca"), "--ca"),
        (("rollover",), "OLD"),
    ],
)
def test_what_is_no_ca_is_told_alike(
    tmp_path: Path, command: tuple[str, ...], option: str, directory: str
) -> None:
    """Whatever wants a CA says that there is none, and where one is named; nothing is made there."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").touch()
    rest = ["new"] if command == ("rollover",) else []
    run = certlet(*command, directory, *rest, cwd=tmp_path)
    told = f"certlet: there is no CA in {directory}: say where with {option}, or make one (certlet init)\n"
    assert (run.returncode, run.stdout, run.stderr.decode()) == (1, b"", told)
    assert {path.name for path in tmp_path.rglob("*")} == {"empty", "file"}


def test_a_ca_that_lacks_a_part_is_told_by_the_part(tmp_path: Path) -> None:
    """Where there is a part of a CA, what is missing is named; what nobody lets us see is not said to be gone."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "ca" / "signing-ca.crt").unlink()
    run = certlet("trust", "--ca", "ca", cwd=tmp_path)
    assert run.stderr == b"certlet: ca/signing-ca.crt: No such file or directory\n"
    if os.geteuid() != 0:  # root sees everything
        (tmp_path / "ca").chmod(0o600)
        run = certlet("key", "list", cwd=tmp_path)
        assert run.stderr == b"certlet: ca/root-ca.crt: Permission denied\n"
        (tmp_path / "ca").chmod(0o700)


@pytest.mark.parametrize("value", ["x" * 29, "x" * 129, "x" * 20 + " " + "x" * 20, "é" * 40])
def test_key_values_have_api_gateway_s_bounds(tmp_path: Path, value: str) -> None:
    """30 to 128 visible characters, for `key add` and for the environment of `serve`."""
    assert certlet("init", ".", cwd=tmp_path).returncode == 0
    for arguments in (("key", "add", "x", "--ca", "."), ("serve", "--ephemeral", "--port", "0")):
        run = certlet(*arguments, cwd=tmp_path, env={"CERTLET_API_KEY": value})
        assert run.returncode == 1
        assert b"30 to 128" in run.stderr
        assert value.encode() not in run.stderr


def test_a_key_from_the_environment_is_said_and_has_one_name(tmp_path: Path) -> None:
    """`key add` keeps $CERTLET_API_KEY where it is set, says so, and gives no key a second name."""
    assert certlet("init", ".", cwd=tmp_path).returncode == 0
    env = {"CERTLET_API_KEY": API_KEY}
    added = certlet("key", "add", "a", "--ca", ".", cwd=tmp_path, env=env)
    assert (added.returncode, added.stdout) == (0, b"")
    assert added.stderr == b"note: the key is the one in $CERTLET_API_KEY\n"
    again = certlet("key", "add", "b", "--ca", ".", cwd=tmp_path, env=env)
    assert (again.returncode, again.stdout) == (1, b"")
    assert b"it is the key of the name 'a' already" in again.stderr
    assert b"unset that" in again.stderr
    another = certlet("key", "add", "b", "--ca", ".", cwd=tmp_path)
    assert (another.returncode, another.stderr) == (0, b"")


def test_sign_is_a_client(server: Server, tmp_path: Path) -> None:
    """`certlet sign` reads PEM, DER or stdin, writes the bundle, and notes on stderr."""
    request = csrs.build("a.example.com")
    (tmp_path / "a.csr").write_bytes(csrs.pem(request))
    (tmp_path / "a.der").write_bytes(csrs.der(request))
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    for arguments, stdin in ((("a.csr",), b""), (("a.der",), b""), (("-",), csrs.pem(request))):
        signed = certlet("sign", *arguments, cwd=tmp_path, env=env, stdin=stdin)
        assert signed.returncode == 0, signed.stderr
        assert len(x509.load_pem_x509_certificates(signed.stdout)) == 2
        assert signed.stderr.startswith(b"note: common name added")
    kept = certlet("sign", "a.csr", "--out", "a.crt", "--profile", "peer", cwd=tmp_path, env=env)
    leaf, _ = x509.load_pem_x509_certificates((tmp_path / "a.crt").read_bytes())
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(usages)) == 2
    assert kept.stdout.decode() == f"Signed    a.crt, until {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}\n"


def test_a_certificate_takes_the_place_of_another_alone(server: Server, tmp_path: Path) -> None:
    """--out replaces a certificate if --force says so, and never a key or a request; then nothing is signed."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    (tmp_path / "a.csr").write_bytes(csrs.pem(csrs.build("a.example.com")))
    key = csrs.key("p-256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert certlet("sign", "a.csr", "--out", "a.crt", cwd=tmp_path, env=env).returncode == 0
    first = (tmp_path / "a.crt").read_bytes()
    (tmp_path / "a.key").write_bytes(key)
    (tmp_path / "both.pem").write_bytes(first + key)
    before = server.logged().count('"event":"intent"')
    for out, force in (
        ("a.crt", False),
        ("a.key", True),
        ("both.pem", True),
        ("a.csr", True),
        ("a.csr", False),
    ):
        held = (tmp_path / out).read_bytes()
        refused = certlet("sign", "a.csr", "--out", out, *["--force"] * force, cwd=tmp_path, env=env)
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert b"nothing was changed" in refused.stderr
        assert (tmp_path / out).read_bytes() == held
    assert server.logged().count('"event":"intent"') == before
    assert certlet("sign", "a.csr", "--out", "a.crt", "--force", cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / "a.crt").read_bytes() != first
    piped = certlet("sign", "a.csr", "--out", "/dev/stdout", cwd=tmp_path, env=env)
    assert piped.stdout.startswith(b"-----BEGIN CERTIFICATE-----")


def test_where_nothing_can_be_written_nothing_is_signed(server: Server, tmp_path: Path) -> None:
    """A place that is not there, or is a directory, is told before anybody is asked; also for a PKCS#12."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url, "CERTLET_P12_PASSWORD": "x"}
    (tmp_path / "a.csr").write_bytes(csrs.pem(csrs.build("a.example.com")))
    (tmp_path / "dir.crt").mkdir()
    (tmp_path / "dir.csr").write_bytes(csrs.pem(csrs.build("dir.example.com")))
    before = server.logged().count('"event":"intent"')
    for arguments, told in (
        (("sign", "a.csr", "--out", "nodir/x.crt"), "nodir/x.crt: No such file or directory"),
        (("sign", "a.csr", "--out", "dir.crt"), "dir.crt: Is a directory"),
        (("sign", "dir.csr", "--beside"), "dir.crt: Is a directory"),
        (("new", "b.example.com", "--p12", "nodir/b.p12"), "nodir/b.p12: No such file or directory"),
    ):
        refused = certlet(*arguments, cwd=tmp_path, env=env)
        assert (refused.returncode, told in refused.stderr.decode()) == (1, True), refused.stderr
    assert server.logged().count('"event":"intent"') == before
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize("arguments", [("a.csr", "--out", "a.crt"), ("a.csr", "--beside")])
def test_a_certificate_that_cannot_be_written_is_not_lost(
    server: Server, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Where the disk is full all the same it is on stdout, and the exit status says that something is wrong."""
    (tmp_path / "a.csr").write_bytes(csrs.pem(csrs.build("a.example.com")))
    full = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *serving.CERTLET, "sign", *arguments]
    env = serving.environ(CERTLET_API_KEY=API_KEY, CERTLET_URL=server.url)
    ran = subprocess.run(full, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert ran.returncode == 1
    assert b"the certificate was signed, and is on stdout" in ran.stderr
    assert len(x509.load_pem_x509_certificates(ran.stdout[: ran.stdout.rindex(b"-----") + 6])) == 2
    assert not (tmp_path / "a.crt").exists()


def test_a_dry_run_of_several_looks_at_each(server: Server, tmp_path: Path) -> None:
    """Each is told with its name, one that is refused stops no other, and the exit status tells of it."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    for name in ("a", "c"):
        (tmp_path / f"{name}.csr").write_bytes(csrs.pem(csrs.build(f"{name}.example.com")))
    (tmp_path / "b.csr").write_bytes(b"junk!")
    ran = certlet("sign", "a.csr", "b.csr", "none.csr", "c.csr", "--dry-run", cwd=tmp_path, env=env)
    assert ran.returncode == 1
    assert re.findall("^File +(.*)|^Subject +(.*)", ran.stdout.decode(), re.MULTILINE) == [
        ("a.csr", ""), ("", "CN=a.example.com"), ("c.csr", ""), ("", "CN=c.example.com"),
    ]  # fmt: skip
    told = ran.stderr.decode().splitlines()
    assert told[0].startswith("b.csr: The certification request is not acceptable.")
    assert told[-1] == "none.csr: No such file or directory"
    assert certlet("sign", "a.csr", "c.csr", "--dry-run", cwd=tmp_path, env=env).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("sign", "a.csr", "b.csr", "--out", "x"),
        ("sign", "a.csr", "--dry-run", "--out", "x"),
        ("sign", "a.csr", "--dry-run", "--beside"),
        ("sign", "a.csr", "--validity", "1d", "--not-after", "2030-01-01T00:00:00Z"),
        ("renew", "a.crt", "b.crt", "--key-file", "k"),
        ("openapi",),
    ],
)
def test_arguments_that_make_no_sense_are_told_as_such(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit status 2, as `--help` has it, and nobody is asked."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": "http://127.0.0.1:1"}
    ran = certlet(*arguments, cwd=tmp_path, env=env)
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr
    assert b"127.0.0.1" not in ran.stderr


def test_no_private_key_is_sent(tmp_path: Path) -> None:
    """A file that holds a private key, alone or beside its request, is refused before anybody is asked."""
    env = {"CERTLET_API_KEY": API_KEY}
    key = csrs.key("p-256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        env["CERTLET_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for content in (key, csrs.pem(csrs.build()) + key):
            (tmp_path / "my.key").write_bytes(content)
            for option in ("--out=my.crt", "--dry-run"):
                done = certlet("sign", "my.key", option, cwd=tmp_path, env=env)
                told = b"certlet: my.key: it holds a private key, so nothing of it was sent: give the request alone\n"
                assert (done.returncode, done.stderr) == (1, told)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_what_does_not_answer_is_told_with_what_to_do(server: Server, tmp_path: Path) -> None:
    """HTTPS asked of HTTP, HTTP of HTTPS, a root that is not trusted, a path that is none: each has its hint."""
    env = {"CERTLET_API_KEY": API_KEY}
    request = csrs.pem(csrs.build())

    def told(url: str, **more: str) -> tuple[int, str]:
        done = certlet("sign", "-", "--url", url, cwd=tmp_path, env=env | more, stdin=request)
        return done.returncode, done.stderr.decode()

    https = server.url.replace("http", "https", 1)
    assert told(https) == (
        1,
        f"certlet: no Certlet answers at {https}: it speaks no TLS; perhaps plain {server.url}\n",
    )
    status, why = told(f"{server.url}/sign")
    assert status == 1
    assert why.endswith(f"\n  is {server.url}/sign the service's base URL, with its stage if it has one?\n")
    assert "base URL" not in told(server.url, CERTLET_API_KEY="x")[1]
    with serving.serving(tmp_path, "--tls") as secure:
        plain = secure.url.replace("https", "http", 1)
        assert told(plain)[1].endswith(f"perhaps it is {secure.url}\n")
        status, why = told(secure.url)
        assert status == 1
        assert why.endswith(" ($SSL_CERT_FILE names the root to be trusted: certlet trust)\n")
        assert told(secure.url, SSL_CERT_FILE=str(tmp_path / "ca" / "root-ca.crt"))[0] == 0


def test_the_version_is_one(tmp_path: Path) -> None:
    """`certlet --version` says the package's version, which the contract has too; a command's name is not needed."""
    stated = tomllib.loads((serving.ROOT / "pyproject.toml").read_text())["project"]["version"]
    said = certlet("--version", cwd=tmp_path)
    assert (said.returncode, said.stdout.decode(), said.stderr) == (0, f"certlet {stated}\n", b"")
    assert certlet("sign", "--version", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("arguments", [("openapi", "--plain"), ("--version",)])
def test_a_reader_that_has_enough_is_no_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A closed pipe, as `| head` leaves it, ends the command without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*serving.CERTLET, *arguments],
            cwd=tmp_path, env=serving.environ(), stdout=closed, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_sign_asks_for_less(server: Server, tmp_path: Path) -> None:
    """`--validity` and `--not-after` reach the certificate; too much of either is told."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    request = csrs.pem(csrs.build(sans=["dns:a.example.com"]))
    signed = certlet("sign", "-", "--validity", "P1D", cwd=tmp_path, env=env, stdin=request)
    leaf = x509.load_pem_x509_certificates(signed.stdout)[0]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=1, seconds=-1)
    for said, hours in (("12h", 12), ("2d", 48), ("1w", 168), ("36h", 36)):
        signed = certlet("sign", "-", "--validity", said, cwd=tmp_path, env=env, stdin=request)
        leaf = x509.load_pem_x509_certificates(signed.stdout)[0]
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(hours=hours, seconds=-1)
    refused = certlet(
        "sign", "-", "--not-after", "2099-01-01T00:00:00Z", cwd=tmp_path, env=env, stdin=request
    )
    assert b"P90D at most" in refused.stderr


def test_a_dry_run_says_what_would_be_signed(server: Server, tmp_path: Path) -> None:
    """`--dry-run` prints names, times and notes, and no certificate; a refusal is told as ever."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    told = certlet("sign", "-", "--dry-run", cwd=tmp_path, env=env, stdin=csrs.pem(csrs.build()))
    lines = told.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["Subject", "Names", "Valid", "Profile", "Note"]
    assert lines[1] == "Names     dns:a.example.com"
    bad = certlet("sign", "-", "--dry-run", cwd=tmp_path, env=env, stdin=csrs.pem(csrs.build("localhost")))
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert b"rejectedIdentifier" in bad.stderr


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_lost_answer_is_asked_for_again(server: Server, tmp_path: Path, losses: int) -> None:
    """Where the connection ends after the request, `sign` retries, and gets the certificate that was signed."""
    target = urlsplit(server.url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        passed = threading.Thread(target=lossy, args=(listener, (target.hostname, target.port), losses))
        passed.start()
        env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        before = server.logged().count('"result"')
        done = certlet("sign", "-", cwd=tmp_path, env=env, stdin=csrs.pem(csrs.build()))
        passed.join(30)
    results = [json.loads(line) for line in server.logged().splitlines() if '"result"' in line][before:]
    assert len({each["serial_number"] for each in results}) == 1
    if losses == 3:
        assert done.returncode == 1
        assert b"no Certlet answers" in done.stderr
        return
    assert len(results) == losses + 1
    leaf = x509.load_pem_x509_certificates(done.stdout)[0]
    assert f"{leaf.serial_number:x}" == results[0]["serial_number"].lstrip("0")


def lossy(listener: socket.socket, target: tuple[str, int], losses: int) -> None:
    """Passes requests on; of the first few it keeps the answers."""
    for attempt in range(3):
        connection, _ = listener.accept()
        with connection, socket.create_connection(target) as onward:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65_536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line)[15:])
            while len(body) < length:
                body += connection.recv(65_536)
            onward.sendall(head + b"\r\n\r\n" + body)
            answer = b""
            while part := onward.recv(65_536):  # urllib asks for the connection to be closed
                answer += part
            if attempt >= losses:
                connection.sendall(answer)
                return


def test_sign_says_why_not(server: Server, tmp_path: Path) -> None:
    """A refusal is told with every reason; a wrong key, and another server, each in their words."""
    env = {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": server.url}
    bad = csrs.pem(csrs.build("localhost", ["dns:_"]))
    refused = certlet("sign", "-", cwd=tmp_path, env=env, stdin=bad)
    assert refused.returncode == 1
    assert b"subject_alt_name[0]: dns:_: the profile server permits no underscores" in refused.stderr
    assert b"subject.common_name: 'localhost'" in refused.stderr
    wrong = certlet("sign", "-", "--api-key", "x", cwd=tmp_path, env=env, stdin=bad)
    assert b"403 unauthorized" in wrong.stderr


def test_openapi_prints_what_anybody_reads(tmp_path: Path) -> None:
    """`certlet openapi --plain` prints valid OpenAPI 3.0 of the same operations, without a vendor extension."""
    (tmp_path / "own.yaml").write_text("profiles: {peer: null}")
    printed = certlet("openapi", "--plain", "--profiles", "own.yaml", cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    document = json.loads(printed.stdout)
    validate(document)
    assert not re.findall(rb'"x-[^"]*":', printed.stdout)
    assert set(contract.operations(document)) == set(contract.operations(contract.load()))
    assert document["components"]["schemas"]["ProfileName"]["enum"] == ["server", "client"]


def test_openapi_prints_what_can_be_imported(tmp_path: Path) -> None:
    """`certlet openapi` prints JSON that keeps every rule of the import."""
    arguments = ("--region", "eu-west-1", "--account", "123456789012", "--function", "certlet")
    printed = certlet("openapi", *arguments, cwd=tmp_path)
    assert lint.faults(json.loads(printed.stdout)) == []


def test_the_first_start_makes_everything(tmp_path: Path) -> None:
    """With no CA, one is made in ./ca, and said; the key is shown once; later starts point at it."""
    with serving.serving(tmp_path, env={}) as server:
        said = "\n".join(server.said)
        assert f"New CA    {tmp_path}/ca" in said
        key = next(line.split()[2] for line in server.said if line.startswith("API key"))
        assert server.sign({"csr": csrs.pem(csrs.build()).decode()}, key).status == 200
    first = {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()}
    assert not any(key.encode() in data for data in first.values())
    with serving.serving(tmp_path, env={}) as server:
        assert "New CA" not in "\n".join(server.said)
        assert key not in "\n".join(server.said)
        assert "$CERTLET_API_KEY" in server.said[-1]
        assert server.sign({"csr": csrs.pem(csrs.build()).decode()}, key).status == 200
    assert {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()} == first


def test_a_key_that_was_not_shown_is_not_kept(tmp_path: Path) -> None:
    """Where the first start fails, its key was never seen: the next one shows another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failed = certlet("serve", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert (failed.returncode, b"API key" in failed.stdout) == (1, False)
    assert certlet("key", "list", cwd=tmp_path).stdout == b""
    for shows in (True, False):
        with serving.serving(tmp_path, env={}) as server:
            assert any(line.startswith("API key") for line in server.said) == shows
    assert certlet("key", "list", cwd=tmp_path).stdout.endswith(b"  default\n")


def test_the_printed_commands_work_when_pasted(tmp_path: Path) -> None:
    """The openssl and curl lines that the server prints make a request, and a certificate."""
    with serving.serving(tmp_path, env={}) as server:
        start = next(i for i, line in enumerate(server.said) if line.startswith("Sign one"))
        script = "\n".join(line[10:] for line in server.said[start:])
        pasted = subprocess.run(
            ["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert len(x509.load_pem_x509_certificates(pasted.stdout.encode())) == 2, pasted.stderr


def test_issuing_never_opens_the_root_key(tmp_path: Path) -> None:
    """With root-ca.key moved away the server starts and signs."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "ca" / "root-ca.key").unlink()
    with serving.serving(tmp_path) as server:
        assert server.sign({"csr": csrs.pem(csrs.build()).decode()}).status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT end all processes, with exit 0, and an ephemeral CA is gone."""
    with serving.serving(tmp_path, "--ephemeral", "--workers", "2") as server:
        directory = Path(next(line.split()[2] for line in server.said if line.startswith("New CA")))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        children = _descendants(server.process.pid)
        assert len(children) == 3
        assert server.stop(number) == 0
    assert not directory.exists()
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert "Traceback" not in server.logged()


WAITING = """
import pathlib, sys, time
began = pathlib.Path("began")
if "service.gateway.function" in sys.orig_argv:
    with began.open("a") as file:
        file.write("x")
until = time.monotonic() + 20
while "service.gateway.server" in sys.orig_argv and not (began.exists() and began.read_text() == "xx"):
    if time.monotonic() > until:
        sys.exit("nobody began")
    time.sleep(0.01)
"""


def test_the_function_starts_beside_the_gateway(tmp_path: Path) -> None:
    """Its processes do not wait for the gateway to import: here it does so only once they are there."""
    (tmp_path / "sitecustomize.py").write_text(WAITING)
    with serving.serving(
        tmp_path, "--workers", "2", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{serving.ROOT}"}
    ) as server:
        assert server.request("GET", "/health").status == 200
        assert server.stop() == 0
    assert (tmp_path / "began").read_text() == "xx"  # and no others


@pytest.mark.parametrize("victim", ["foreman", "gateway"])
def test_no_process_outlives_the_others(tmp_path: Path, victim: str) -> None:
    """When the foreman or the gateway is killed, the rest ends by itself."""
    with serving.serving(tmp_path, "--workers", "2") as server:
        children = _descendants(server.process.pid)
        gateway = next(pid for pid in children if "gateway.server" in _command(pid))
        os.kill(server.process.pid if victim == "foreman" else gateway, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any("service." in _command(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any("service." in _command(pid) for pid in children)


def test_a_killed_worker_is_replaced_by_one_of_the_same_ca(tmp_path: Path) -> None:
    """A worker that is killed is replaced, and signs under the same CA; ephemeral or not."""
    with serving.serving(tmp_path, "--ephemeral") as server:
        before = server.request("GET", "/ca").json()
        (worker,) = (pid for pid in _descendants(server.process.pid) if "gateway.function" in _command(pid))
        os.kill(worker, signal.SIGKILL)
        statuses = {server.request("GET", "/ca").status for _ in range(3)}
        assert statuses <= {200, 502, 503}
        deadline = time.monotonic() + 20
        while (after := server.request("GET", "/ca")).status != 200:
            assert time.monotonic() < deadline
        assert after.json() == before


def test_the_http_process_has_neither_key_nor_passphrase(tmp_path: Path) -> None:
    """Neither the passphrase, AWS's credentials nor the CA's private scalar is in the gateway's memory.

    Root alone can look: the processes are sealed, and another process of the same user gets nothing.
    """
    secret = "a passphrase that stands nowhere else"  # noqa: S105
    credential = "an AWS credential that stands nowhere else"
    env = {"CERTLET_CA_PASSPHRASE": secret, "CERTLET_API_KEY": API_KEY, "AWS_SECRET_ACCESS_KEY": credential}
    with serving.serving(tmp_path, env=env) as server:
        assert server.sign({"csr": csrs.pem(csrs.build()).decode()}).status == 200
        pem = (tmp_path / "ca" / "signing-ca.key").read_bytes()
        numbers = load_pem_private_key(pem, secret.encode()).private_numbers()  # type: ignore[union-attr]
        scalar = numbers.private_value.to_bytes(32, "big")  # type: ignore[union-attr]
        needles = [
            secret.encode(),
            credential.encode(),
            scalar,
            scalar[::-1],
            base64.b64encode(scalar),
        ]
        found = {}
        if os.geteuid() != 0:
            for pid in (server.process.pid, *_descendants(server.process.pid)):
                with pytest.raises(PermissionError):
                    _memory(pid)
            return
        for pid in _descendants(server.process.pid):
            memory = _memory(pid)
            found[_command(pid).split()[3]] = [needle in memory for needle in needles]
        assert not any(found["service.gateway.server"])
        # The twin: the function's process holds them, so the search can find them.
        assert all(found["service.gateway.function"][:2])
        assert any(found["service.gateway.function"][2:4])


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *_descendants(child))]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _memory(pid: int) -> bytes:
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                parts.append(memory.read(end - start))
            except (OSError, ValueError, OverflowError):  # a page that cannot be read holds nothing
                continue
    return b"".join(parts)


def test_the_command_line_loads_no_server() -> None:
    """What most commands do without, and would wait for, is loaded by those that need it."""
    program = "import sys; from service import cli; cli.parser(); print(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=serving.environ()
    )
    assert not {"aiohttp", "connexion", "flask", "jsonschema", "yaml", "boto3"} & set(run.stdout.split())
    assert "service.client" in run.stdout.split()


ANNOUNCED = [
    ("--insecure-http --host 0.0.0.0", "http://localhost:", False),
    ("--tls --host 0.0.0.0", "https://localhost:", True),
    ("--tls --host ::1", "https://[::1]:", False),
    ("--tls --host 0.0.0.0 --tls-name 127.0.0.2", "https://127.0.0.2:", False),
    ("--tls --tls-name localhost --tls-name 127.0.0.1", "https://127.0.0.1:", False),
    ("--insecure-http --host ::", "http://localhost:", False),
    ("--insecure-http --host 127.0.0.2", "http://127.0.0.2:", False),
    ("--tls --host 127.0.0.2", "https://127.0.0.2:", False),
    ("--tls --tls-name localhost --tls-name b.test", "https://localhost:", False),
]


@pytest.mark.parametrize(("arguments", "url", "warned"), ANNOUNCED)
def test_what_is_announced(arguments: str, url: str, *, warned: bool) -> None:
    """The host of the address is one that the certificate names, or says where nobody can be reached by it."""
    options = cli.parser().parse_args(["serve", *arguments.split()])
    assert cli.serving._address(options) == url.partition("//")[2].removesuffix(":")
    assert any("clients elsewhere refuse it" in each for each in cli.serving._warnings(options)) == warned


@pytest.mark.parametrize(("arguments", "url", "warned"), ANNOUNCED[:5])
def test_what_is_announced_can_be_reached(tmp_path: Path, arguments: str, url: str, *, warned: bool) -> None:
    """The address that is printed is one that the certificate names; the printed curl command gets a certificate."""
    with serving.serving(tmp_path, *arguments.split(), env={}) as server:
        assert server.url.startswith(url)
        said = "\n".join(server.said)
        assert ("its certificate is for localhost, and clients elsewhere refuse it" in said) == warned
        pasted = subprocess.run(
            ["sh", "-ec", "\n".join(line[10:] for line in server.said[-3:])],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert len(x509.load_pem_x509_certificates(pasted.stdout.encode())) == 2, pasted.stderr
