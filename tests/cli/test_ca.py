"""`certlet init` and `certlet rollover`: the files that they create, and refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service.keystore import ca_directory, revocation_file
from service.pki import encoding
from tests import csrs, factories, servers
from tests.cli import certlet

FILES = {
    *("ca-status.pem", "revoked.yaml", "root-ca.crt", "root-ca.key"),
    *("serial.key", "signing-ca.crt", "signing-ca.key"),
}


def test_init_creates_a_hierarchy(tmp_path: Path) -> None:
    """A root (10 years, pathLen 1) and a signing CA (5 years, pathLen 0), backdated by a day; keys have mode 0600."""
    run = certlet("init", "ca", "--name", "Acme")
    assert run.returncode == 0, run.stderr
    assert b"root-ca.key to a safe place" in run.stdout
    assert run.stderr == b""
    assert {path.name for path in (tmp_path / "ca").iterdir()} == FILES
    for name in ("root-ca.key", "signing-ca.key", "serial.key"):
        assert stat.S_IMODE((tmp_path / "ca" / name).stat().st_mode) == 0o600
    issuer = ca_directory.load_issuer(tmp_path / "ca", None)
    expected = (issuer.root, 10, 1, "Root"), (issuer.certificate, 5, 0, "Signing")
    for certificate, years, depth, kind in expected:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical
        assert basic.value == x509.BasicConstraints(ca=True, path_length=depth)
        length = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert round(length.total_seconds() / 86400 / 365.25) == years
        age = time.time() - certificate.not_valid_before_utc.timestamp()
        assert 86_400 <= age < 86_400 + 120
        assert certificate.subject.rfc4514_string().startswith(f"CN=Acme {kind} CA ")
    assert issuer.root.subject != issuer.certificate.subject


@pytest.mark.parametrize("passphrase", ["", "a passphrase that is long"])
def test_init_prints_what_to_back_up(tmp_path: Path, passphrase: str) -> None:
    """The paths of the keys exist. The passphrase, if there is one, is named, but not printed."""
    run = certlet("init", "the-ca", env={"CERTLET_CA_PASSPHRASE": passphrase} if passphrase else {})
    lines = run.stdout.decode().partition("Back up:\n")[2].splitlines()
    names = [line.split("  ")[1] for line in lines]
    keys = ["the-ca/root-ca.key", "the-ca/signing-ca.key", "the-ca/serial.key"]
    secret = ["$CERTLET_CA_PASSPHRASE"] if passphrase else []
    assert names[:-1] == [*keys, "the-ca", *secret]
    assert all((tmp_path / name).exists() for name in keys)
    for part in (
        "api-keys.json",
        "revoked.yaml",
        "acme.key",
        "acme-principals.yaml",
        "--ledger",
        "--audit-log",
    ):
        assert part in run.stdout.decode()
    assert not passphrase or passphrase not in run.stdout.decode()


@pytest.mark.parametrize(
    ("passphrase", "is_weak"),
    [("abcdefghijklmno", True), ("abcdefghijklmnop", False), ("abcdefg" * 9, True), ("abcdefgh" * 2, False)],
)
def test_weak_passphrase_is_reported(passphrase: str, *, is_weak: bool) -> None:
    """If it has fewer than 16 characters, or 8 different ones: one line, without the passphrase."""
    env = {"CERTLET_CA_PASSPHRASE": passphrase}
    for command in (("init", "ca"), ("rollover", "ca", "next")):
        run = certlet(*command, env=env)
        warning = (
            "warning: CERTLET_CA_PASSPHRASE is weak: use at least 16 characters, 8 of them different, for "
            "example the output of openssl rand -base64 24\n"
        )
        assert (run.returncode, run.stderr.decode()) == (0, warning if is_weak else "")
        assert passphrase.encode() not in run.stdout


def test_longest_ca_name_is_accepted(tmp_path: Path) -> None:
    """The limit in --help counts characters, not bytes; such a CA signs and rolls over."""
    assert "at most 46" in " ".join(certlet("init", "--help").stdout.decode().split())
    name = "ä" * 45 + "東"
    for command in (("init", "ca", "--name", name), ("rollover", "ca", "next", "--new-root")):
        run = certlet(*command)
        assert (run.returncode, run.stderr) == (0, b"")
    for directory in ("ca", "next"):
        with servers.certlet_server(tmp_path, "--ca", directory) as server:
            pem = server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).json()["crt_pem"]
            assert server.request("GET", "/ca.crl").status == 200
        assert "UserWarning" not in server.read_log()
        run = certlet("show", "-", stdin=pem.encode())
        assert run.stderr == b""
        assert f"CN={name} Signing CA ".encode() in run.stdout


def test_rollover_truncates_a_long_foreign_name(tmp_path: Path) -> None:
    """The successor of a CA from elsewhere starts with the first characters of its common name."""
    old = [factories.ca(subject="x" * 60), factories.root()]
    for name, certificate in zip(("signing-ca.crt", "root-ca.crt"), old, strict=True):
        (tmp_path / name).write_text(encoding.encode_pem([certificate]))
    (tmp_path / "revoked.yaml").touch()
    run = certlet("rollover", ".", "next", "--new-root", "--old-key", "none")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "next" / "revoked.yaml").read_bytes() == revocation_file.HEADER
    subject = ca_directory.load_issuer(tmp_path / "next", None).certificate.subject.rfc4514_string()
    assert re.fullmatch("CN=x{46} Signing CA [0-9a-f]{6}", subject)


def test_init_never_overwrites(tmp_path: Path) -> None:
    """If the directory has any file of a CA, nothing is changed, and the error is one line."""
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "signing-ca.key").write_text("precious")
    run = certlet("init", "ca")
    assert run.returncode == 1
    assert b"already contains a CA" in run.stderr
    assert [path.name for path in (tmp_path / "ca").iterdir()] == ["signing-ca.key"]
    assert (tmp_path / "ca" / "signing-ca.key").read_text() == "precious"


@pytest.mark.parametrize("new_root", [False, True], ids=["the same root", "a new root"])
def test_rollover_creates_a_successor(tmp_path: Path, *, new_root: bool) -> None:
    """The successor has the old name and constraints; both chains are served; old certificates verify."""
    assert certlet("init", "old", "--permit-dns", "example.com").returncode == 0
    csr = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()
    with servers.certlet_server(tmp_path, "--ca", "old") as server:
        before = server.sign({"csr": csr}).json()
        old = server.request("GET", "/ca").json()
        assert old["previous_pem"] == ""
    assert certlet("api-key", "add", "ci", "--ca", "old").returncode == 0
    assert certlet("acme", "add", "web", "--ca", "old").returncode == 0
    (tmp_path / "old" / "denied-keys.txt").write_text(f"{'0' * 64}\n")
    run = certlet("rollover", "old", "new", *(["--new-root"] if new_root else []))
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "new" / "root-ca.key").exists() == new_root
    assert b"ci" in certlet("api-key", "list", "--ca", "new").stdout
    for name in ("acme.key", "acme-principals.yaml"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "old" / name).read_bytes()
        assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new" / "denied-keys.txt").read_text() == f"{'0' * 64}\n"
    assert (tmp_path / "new" / "serial.key").read_bytes() != (tmp_path / "old" / "serial.key").read_bytes()
    with servers.certlet_server(tmp_path, "--ca", "new") as server:
        after = server.sign({"csr": csr}).json()
        new = server.request("GET", "/ca").json()
        bundle = server.request("GET", "/ca.pem").body.decode()
        (tmp_path / "all.p7c").write_bytes(server.request("GET", "/ca.p7c").body)
        outside = server.sign({"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.org"])).decode()})
        assert outside.status == 422
    assert (new["root_pem"] == old["root_pem"]) != new_root
    assert new["ca_pem"] != old["ca_pem"]
    assert new["previous_pem"] == (old["chain_pem"] if new_root else old["ca_pem"])
    assert bundle == new["chain_pem"] + new["previous_pem"]
    (tmp_path / "bundle.pem").write_text(bundle)
    for name, leaf, root in (("before", before, old["root_pem"]), ("after", after, new["root_pem"])):
        (tmp_path / name).write_text(leaf["crt_pem"])
        (tmp_path / "root.pem").write_text(root)
        command = "openssl verify -x509_strict -CAfile root.pem -untrusted bundle.pem"
        servers.run(*command.split(), name, cwd=tmp_path)
    command = "openssl pkcs7 -inform DER -in all.p7c -print_certs"
    listed = servers.run(*command.split(), cwd=tmp_path)
    assert listed.stdout.count("BEGIN CERTIFICATE") == bundle.count("BEGIN CERTIFICATE") == 3 + new_root


def test_rollover_without_the_right_root_key_is_refused(tmp_path: Path) -> None:
    """A missing key, that of another root, or an existing CA: the error is one line, and no file is created."""
    for name in ("old", "other"):
        assert certlet("init", name).returncode == 0
    names = [ca_directory.load_issuer(tmp_path / name, None).root.subject for name in ("old", "other")]
    assert names[0] != names[1]  # they end in random digits, so that CAs are not confused
    for arguments, fragment in (
        (("old", "other"), b"already contains a CA"),
        (("old", "new", "--root-key", "other/root-ca.key"), b"does not match the root's certificate"),
        (("old", "new", "--root-key", "gone.key"), b"--new-root"),
    ):
        refused = certlet("rollover", *arguments)
        assert (refused.returncode, refused.stderr.count(b"\n")) == (1, 1)
        assert fragment in refused.stderr
        assert not (tmp_path / "new").exists()


BAD_LISTS = [
    ("old/revoked.yaml", b"- {serial: 10, at: 2026-01-01T00:00:00Z}", b"in quotes"),
    ("old/revoked.yaml", b"\xff", b"not UTF-8"),
    ("old/revoked.yaml", None, b"old/revoked.yaml: "),
    ("old/denied-keys.txt", b"0123", b"denied-keys.txt"),
    ("old/api-keys.json", b"[]", b"not a file of API keys"),
    ("old/acme.key", b"", b"0 octets; expected 32"),
    ("old/acme-principals.yaml", b"[]", b"line 1: not a mapping of principals"),
    ("new/revoked.yaml", b"", b"already exists; nothing was changed"),
    ("new/denied-keys.txt", b"", b"already exists; nothing was changed"),
]


@pytest.mark.parametrize(("name", "content", "fragment"), BAD_LISTS)
def test_malformed_list_stops_a_rollover(
    tmp_path: Path, name: str, content: bytes | None, fragment: bytes
) -> None:
    """If a list of the old CA cannot be copied, the error is one line, and no file is created."""
    assert certlet("init", "old").returncode == 0
    (tmp_path / "old" / "denied-keys.txt").write_text(f"{'0' * 64}\n")
    (tmp_path / "new").mkdir()
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted((tmp_path / "new").iterdir())
    refused = certlet("rollover", "old", "new")
    assert (refused.returncode, refused.stderr.count(b"\n")) == (1, 1)
    assert fragment in refused.stderr
    assert sorted((tmp_path / "new").iterdir()) == before
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "old" / "revoked.yaml").touch()
    assert certlet("rollover", "old", "new").returncode == 0
    assert (tmp_path / "new" / "revoked.yaml").exists()


def test_rollover_of_a_successor_keeps_both_predecessors(tmp_path: Path) -> None:
    """The certificates of all earlier CAs are still served."""
    assert certlet("init", "a").returncode == 0
    for old, new in (("a", "b"), ("b", "c")):
        run = certlet("rollover", old, new, "--root-key", "a/root-ca.key")
        assert run.returncode == 0, run.stderr
    issuer = ca_directory.load_issuer(tmp_path / "c", None)
    before = [ca_directory.load_issuer(tmp_path / name, None).certificate for name in ("b", "a")]
    assert list(issuer.predecessors) == before
    assert [ca.subject for ca in issuer.ca_certificates[1:2]] == [issuer.root.subject]


def test_ca_keys_are_encrypted_with_the_passphrase(tmp_path: Path) -> None:
    """With CERTLET_CA_PASSPHRASE both keys are encrypted, and `serve` needs it."""
    secret = {"CERTLET_CA_PASSPHRASE": "correct horse"}
    assert certlet("init", "ca", env=secret).returncode == 0
    for name in ("root-ca.key", "signing-ca.key"):
        pem = (tmp_path / "ca" / name).read_bytes()
        assert b"ENCRYPTED PRIVATE KEY" in pem
        assert load_pem_private_key(pem, b"correct horse")
    for env, fragment in (({}, b"encrypted"), ({"CERTLET_CA_PASSPHRASE": "wrong"}, b"wrong")):
        refused = servers.certlet("serve", "--port", "0", cwd=tmp_path, env=env)
        assert refused.returncode == 1
        assert fragment in refused.stderr
        assert refused.stderr.splitlines()[-1].startswith(b"certlet: ")
        assert b"Traceback" not in refused.stderr


def test_passphrase_is_read_from_a_file(tmp_path: Path) -> None:
    """`init`, `check` and `serve` read it; the server's processes have no access to the file."""
    file = {"CERTLET_CA_PASSPHRASE_FILE": "passphrase"}
    (tmp_path / "passphrase").write_text("correct horse\n")
    assert certlet("init", "ca", env=file).returncode == 0
    assert load_pem_private_key((tmp_path / "ca" / "signing-ca.key").read_bytes(), b"correct horse")
    assert certlet("rollover", "ca", "next", env=file).returncode == 0
    with servers.certlet_server(tmp_path, env={**file, "CERTLET_API_KEY": servers.API_KEY}) as server:
        (tmp_path / "passphrase").unlink()
        (worker,) = server.pids("worker")
        os.kill(worker, signal.SIGKILL)
        servers.wait_until(lambda: server.pids("worker") not in ([], [worker]))
        request = {"csr": csrs.encode_pem(csrs.build()).decode()}
        servers.wait_until(lambda: server.sign(request).status == 200)


@pytest.mark.parametrize(
    ("content", "variable", "error"),
    [
        (
            "correct horse",
            "correct horse",
            "CERTLET_CA_PASSPHRASE and CERTLET_CA_PASSPHRASE_FILE are both set",
        ),
        (None, None, "CERTLET_CA_PASSPHRASE_FILE: 'passphrase': No such file or directory"),
        ("", None, "'passphrase' does not contain one line, the passphrase"),
        ("\n", None, "'passphrase' does not contain one line, the passphrase"),
        ("correct\nhorse\n", None, "'passphrase' does not contain one line, the passphrase"),
        ("correct\0horse", None, "'passphrase' does not contain one line, the passphrase"),
    ],
)
def test_unusable_passphrase_file_is_refused(
    tmp_path: Path, content: str | None, variable: str | None, error: str
) -> None:
    """By `init` and `serve`, which create nothing."""
    if content is not None:
        (tmp_path / "passphrase").write_text(content)
    env = {"CERTLET_CA_PASSPHRASE_FILE": "passphrase", "CERTLET_CA_PASSPHRASE": variable}
    for command in (("init", "ca"), ("serve", "--port", "0")):
        result = certlet(*command, env=env)
        assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
        assert error in result.stderr.decode()
        assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize("key_type", ["rsa-2048", "p-384", "ed25519"])
def test_init_accepts_every_key_type(tmp_path: Path, key_type: str) -> None:
    """A CA with this key type is created, and served without the root's key; tests/test_post_quantum.py has ML-DSA."""
    assert certlet("init", "ca", "--key-type", key_type).returncode == 0
    (tmp_path / "ca" / "root-ca.key").unlink()
    with servers.certlet_server(tmp_path) as server:
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).status == 200


def test_permit_options_become_critical_name_constraints(tmp_path: Path) -> None:
    """The signing CA has the constraints, and the server refuses names outside of them."""
    arguments = ("--permit-dns", "example.com", "--permit-ip", "10.0.0.0/8")
    assert certlet("init", "ca", *arguments).returncode == 0
    signing = ca_directory.load_issuer(tmp_path / "ca", None).certificate
    constraints = signing.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    with servers.certlet_server(tmp_path) as server:
        assert server.sign({"csr": csrs.encode_pem(csrs.build("a.example.com")).decode()}).status == 200
        refused = server.sign({"csr": csrs.encode_pem(csrs.build("a.example.org")).decode()})
        assert (refused.status, refused.json()["code"]) == (422, "rejectedIdentifier")


@pytest.mark.parametrize("command", [("init", "ca"), ("rollover", "old", "new")])
def test_error_of_aws_is_shown(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Of the key of a new CA, and of the old one's; nothing is created."""
    servers.create_ca(tmp_path / "old")
    env = {"AWS_DEFAULT_REGION": None, "AWS_REGION": None, "AWS_CONFIG_FILE": "/dev/null"}
    option, source = ("--kms", "x") if command[0] == "init" else ("--old-key", "kms:x")
    run = certlet(*command, option, source, env=env)
    assert (run.returncode, run.stdout, run.stderr.count(b"\n")) == (1, b"", 1)
    assert b"kms is unavailable: You must specify a region" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_new_ca_is_described_in_json(tmp_path: Path) -> None:
    """`init` and `rollover` name the directory, the signing CA and the root."""
    created = json.loads(certlet("init", "ca", "--json").stdout)
    root = x509.load_pem_x509_certificate((tmp_path / "ca" / "root-ca.crt").read_bytes())
    assert created["directory"] == "ca"
    assert created["root"]["fingerprint_sha256"] == root.fingerprint(hashes.SHA256()).hex()
    successor = json.loads(certlet("rollover", "ca", "new", "--json").stdout)
    assert successor["root"] == created["root"]
    assert successor["signing_ca"]["serial_number"] != created["signing_ca"]["serial_number"]
    assert certlet("init", "quiet", "--quiet").stdout == b""


def test_changed_files_of_a_ca_are_described_in_json() -> None:
    """`rotate-serial-key` counts the keys; `sign-ca-status` lists the responses that it signed."""
    assert certlet("init", "ca").returncode == 0
    assert json.loads(certlet("rotate-serial-key", "--json").stdout) == {"file": "ca/serial.key", "keys": 2}
    for revoke, status in (((), "good"), (("--revoke", "ca/signing-ca.crt"), "revoked")):
        signed = json.loads(certlet("sign-ca-status", "--json", *revoke).stdout)
        (response,) = signed.pop("responses")
        assert signed == {"file": "ca/ca-status.pem"}
        assert response["status"] == status
        assert datetime.fromisoformat(response["next_update"]) > datetime.now(UTC)
        assert certlet("sign-ca-status").stdout.decode().startswith(f"{response['subject']}: {status} until ")
