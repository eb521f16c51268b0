"""`certlet serve --create`: what the first start creates, and that nothing else creates it, or stays after a failure."""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.cli import first_start
from service.keystore import ca_directory
from tests import servers
from tests.cli import certlet, with_full_stdout
from tests.token_events import RULE

START = ("serve", "--port", "0")
ALL_FILES = ("--create", "--ca", "new/ca", "--ledger", "ledger.db", "--audit-log", "audit.log")


def files(directory: Path) -> list[str]:
    """The files and directories in a directory."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, without API keys."""
    directory = tmp_path_factory.mktemp("existing") / "ca"
    assert certlet("init", directory).returncode == 0
    return directory


@pytest.mark.parametrize("kind", ["missing", "empty", "not mounted"])
def test_directory_without_a_ca_does_not_get_one(tmp_path: Path, kind: str) -> None:
    """The default directory, too. The error says what to do, and nothing is created."""
    if kind == "empty":
        (tmp_path / "ca").mkdir()
    elif kind == "not mounted":
        (tmp_path / "ca").symlink_to(tmp_path / "mnt" / "ca")
    before = files(tmp_path)
    options = () if kind == "empty" else ("--ca", "ca")
    run = servers.certlet(*START, *options, "--ledger", "ledger.db", "--audit-log", "a.log", cwd=tmp_path)
    error = (
        "certlet: no CA in ca: pass another directory as --ca, or create a CA with certlet init or --create\n"
    )
    assert (run.returncode, run.stdout, run.stderr.decode()) == (1, b"", error)
    assert files(tmp_path) == before


def test_ledger_is_created_only_on_request(tmp_path: Path, ca: Path) -> None:
    """A new ledger knows no revoked certificate. An empty file is a new ledger."""
    options = ("--ca", str(ca), "--ledger", "ledger.db")
    run = servers.certlet(*START, *options, cwd=tmp_path)
    error = (
        "certlet: no ledger at ledger.db: restore a copy, or create one, without revoked certificates, with "
        "--create\n"
    )
    assert (run.returncode, run.stdout, run.stderr.decode()) == (1, b"", error)
    assert files(tmp_path) == []
    (tmp_path / "ledger.db").touch()
    with servers.certlet_server(tmp_path, *options, command=[*servers.CERTLET, *START]) as server:
        assert server.request("GET", "/ca.crl").status == 200
    assert (tmp_path / "ledger.db").stat().st_size


def test_api_key_is_created_only_on_request(tmp_path: Path, ca: Path) -> None:
    """Otherwise the log of a service would contain it. A note says how to create one."""
    command = [*servers.CERTLET, *START, "--ca", str(ca)]
    with servers.certlet_server(tmp_path, command=command, env={}) as server:
        assert not [line for line in server.output if line.startswith("API key")]
        (note,) = [line for line in server.output if line.startswith("Note")]
        assert note == f"Note      there is no API key: create one with certlet api-key add NAME --ca {ca}"
        key = certlet("api-key", "add", "first", "--ca", ca).stdout.decode().strip()
        assert server.request("GET", "/profiles/mine", headers={"x-api-key": key}).status == 200
    with servers.certlet_server(tmp_path, command=command, env={}) as server:
        assert not [line for line in server.output if line.startswith("Note")]


FAULTS: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "address": (("--host", "203.0.113.9", "--insecure-http"), {}, "not an address of this machine"),
    "port": (("--port", "USED"), {}, "is in use"),
    "port of metrics": (("--metrics", "USED"), {}, "choose another --metrics"),
    "address of metrics": (("--metrics", "203.0.113.9:0"), {}, "machine: choose another --metrics"),
    "status port": (("--tls", "--status-port", "USED"), {}, "choose another --status-port"),
    "profiles": (("--profiles", "none.yaml"), {}, "none.yaml"),
    "profile of --tls": (("--tls", "--tls-profile", "none"), {}, "Profile 'none' does not exist"),
    "certificate": (("--tls-cert", "none.crt", "--tls-key", "none.key"), {}, "none.crt"),
    "file of a rule": (("--profiles", "PROFILES"), {}, "none.pem cannot be read"),
    "audit log": (("--audit-log", "none/audit.log"), {}, "--audit-log none/audit.log"),
    "ledger": (("--ledger", "none/ledger.db"), {}, "--ledger: none/ledger.db"),
    "API key": ((), {"CERTLET_API_KEY": "short"}, "CERTLET_API_KEY: an API key has 30 to 128"),
    "quota": ((), {"CERTLET_ORDER_QUOTA": "many"}, "CERTLET_ORDER_QUOTA"),
    "directory": (("--ca", "/dev/null/ca"), {}, "Not a directory"),
    # Only a worker finds these faults, so there are files to remove.
    "name of --tls": (
        ("--profiles", "PROFILES", "--tls", "--tls-name", "a.example.org"),
        {},
        "subject_alt_name[0]",
    ),
    "key": ((), {"CERTLET_CA_KEY": "file:none.key"}, "none.key"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failed_start_leaves_nothing_behind(tmp_path: Path, fault: str) -> None:
    """No CA, no API key, no ledger and no log; the printed error is the only line."""
    options, environ, fragment = FAULTS[fault]
    directory, other = tmp_path / "start", tmp_path / "profiles.yaml"
    directory.mkdir()
    rule = {name: value for name, value in RULE.items() if name != "jwks_file"}
    rule |= {"jwks_url": "https://a.example/jwks", "ca_file": "none.pem"}
    policy = {"principals": {"certlet-serve": {"dns": {"permitted": ["example.com"]}}}}
    other.write_text(json.dumps({"identities": {"deploy": rule}} if fault == "file of a rule" else policy))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        values = {"USED": str(listener.getsockname()[1]), "PROFILES": str(other)}
        arguments = [*START, *ALL_FILES, *(values.get(option, option) for option in options)]
        environ = {"TMPDIR": str(directory), **environ}
        run = servers.certlet(*arguments, cwd=directory, env=environ)
    (error,) = [line for line in run.stderr.decode().splitlines() if not line.startswith("{")]
    assert run.returncode == 1, error
    assert error.startswith("certlet: ")
    assert fragment in error
    assert b"API key" not in run.stdout
    assert files(directory) == []


def test_start_that_cannot_print_the_api_key_leaves_nothing_behind(tmp_path: Path) -> None:
    """No one would know the key."""
    full = with_full_stdout(*START, *ALL_FILES)
    environ = servers.environ(TMPDIR=str(tmp_path))
    run = servers.run(*full, cwd=tmp_path, env=environ, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "certlet: stdout: No space left on device"
    assert files(tmp_path) == []


@pytest.mark.parametrize(("directory", "limit"), [("new/ca", 500), ("mounted", 500), ("new/ca", 4096)])
def test_full_disk_leaves_nothing_behind(tmp_path: Path, directory: str, limit: int) -> None:
    """The CA's certificates are longer than 500 bytes, and a ledger is longer than 4096; the error is one line."""
    (tmp_path / "mounted").mkdir()
    options = ("--create", "--ca", directory, "--ledger", "ledger.db")
    command = ("prlimit", f"--fsize={limit}", *servers.CERTLET, *START, *options)
    run = servers.run(*command, cwd=tmp_path, env=servers.environ(), check=False)
    assert (run.returncode, run.stdout) == (1, "")
    error = "--ledger: ledger.db: disk I/O error" if limit > 500 else "a CA in .*: File too large"
    assert re.fullmatch(f"certlet: .*{error}.*\n", run.stderr)
    assert files(tmp_path) == ["mounted"]


@pytest.mark.parametrize("has_ca", [True, False])
def test_failed_start_removes_only_what_it_created(tmp_path: Path, *, has_ca: bool) -> None:
    """The CA, API keys and records of an earlier start stay, and so do other files."""
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "notes.txt").touch()
    if has_ca:
        assert certlet("init", tmp_path / "ca").returncode == 0
        assert certlet("api-key", "add", "mine", "--ca", tmp_path / "ca").returncode == 0
    (tmp_path / "audit.log").write_text("{}\n")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path) if name != "ca"}
    options = ("--create", "--ledger", "ledger.db", "--audit-log", "audit.log")
    env = {"CERTLET_CA_KEY": "file:none.key"}
    assert servers.certlet(*START, *options, cwd=tmp_path, env=env).returncode == 1
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path) if name != "ca"} == before


def test_server_creates_nothing_that_exists(tmp_path: Path) -> None:
    """--create uses the existing CA, ledger and API key."""
    with servers.certlet_server(tmp_path, "--ca", "ca", "--ledger", "ledger.db", env={}) as server:
        assert [line.split()[0] for line in server.output][:1] == ["New"]
    certificate = (tmp_path / "ca" / ca_directory.SIGNING_CERTIFICATE).read_bytes()
    with servers.certlet_server(tmp_path, "--ca", "ca", "--ledger", "ledger.db", env={}) as server:
        assert not [line for line in server.output if line.startswith(("New", "API key", "Note"))]
    assert (tmp_path / "ca" / ca_directory.SIGNING_CERTIFICATE).read_bytes() == certificate


def test_read_only_directory_gets_no_api_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, in which --create creates only the ledger."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to every directory
    assert certlet("init", tmp_path / "ca").returncode == 0
    before = files(tmp_path / "ca")
    settings = SimpleNamespace(create=True, ephemeral=False, ledger=tmp_path / "ledger.db")
    with ExitStack() as rollback:
        created = first_start.create_missing(settings, tmp_path / "ca", {}, rollback)
        assert created == (False, "")
        assert files(tmp_path / "ca") == before
        assert settings.ledger.exists()
    assert not settings.ledger.exists()


def test_weak_passphrase_of_a_new_ca_is_reported(tmp_path: Path) -> None:
    """`serve --create` passes on the warning of the process that creates the CA."""
    env = {"CERTLET_CA_PASSPHRASE": "secret", "CERTLET_API_KEY": servers.API_KEY}
    with servers.certlet_server(tmp_path, "--ca", "ca", env=env) as server:
        (warning,) = [line for line in server.read_log().splitlines() if line.startswith("warning")]
    assert warning.startswith("warning: CERTLET_CA_PASSPHRASE is weak: use at least 16 characters")
    assert "secret" not in warning
