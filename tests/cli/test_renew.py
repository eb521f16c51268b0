"""`certlet renew`: due certificates are replaced, and other files stay unchanged."""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import stat
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import client
from service.cli import renew
from service.cli.terminal import CommandError
from service.exit_status import ExitStatus
from service.pki import encoding, keys, revocation
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers
from tests.cli import certlet, use_service, write_site
from tests.examples import certificate_id
from tests.servers import QuietHandler, Server

HOOK = """#!/bin/sh
printf '%s|%s|%s' "$1" "$CERTLET_RENEWED" "$CERTLET_API_KEY" >> hooked
"""


def create_certificate(directory: Path, *more: str, name: str = "a.example.com") -> Path:
    """Create a certificate and its key with `certlet new`."""
    run = certlet("new", name, *more)
    assert run.returncode == 0, run.stderr
    return directory / f"{name}.crt"


def create_session(url: str) -> renew._Session:
    return renew._Session(client.Service(url), lambda: client.Credentials("key"), None, new_key=False)


def load_leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_certificate_that_is_not_due_is_untouched(server: Server, tmp_path: Path) -> None:
    """The output says when it is due. The status is 0, without hook or request."""
    path = create_certificate(tmp_path)
    before, leaf = path.read_bytes(), load_leaf(path)
    end = encoding.format_timestamp(leaf.not_valid_after_utc)
    start = encoding.format_timestamp(leaf.not_valid_after_utc - timedelta(hours=12))
    command = ("renew", path.name, "--expires-in", "12h", "--deploy-hook", "false")
    env = {"CERTLET_URL": "http://127.0.0.1:9"}
    run = certlet(*command, env=env)
    line = f"Not due   a.example.com.crt, valid until {end}: is renewed from {start} on\n"
    assert (run.returncode, run.stdout.decode(), run.stderr) == (0, line, b"")
    facts = {"file": path.name, "renewed": False, "due": False, "not_after": end, "renew_after": start}
    assert json.loads(certlet(*command, "--json", env=env).stdout) == facts
    assert certlet(*command, "--quiet", env=env).stdout == b""
    assert path.read_bytes() == before


def test_dry_run_writes_nothing(server: Server, tmp_path: Path) -> None:
    """It asks the service for the certificate that a renewal would return, and reports refusals."""
    path = create_certificate(tmp_path)
    before = path.read_bytes()
    command = ("renew", path.name, "--expires-in", "100d", "--dry-run", "--deploy-hook", "false")
    run = certlet(*command)
    assert (run.returncode, run.stderr) == (0, b"")
    assert re.fullmatch(
        rb"Due       a.example.com.crt: would be valid until \S+Z, profile server\n", run.stdout
    )
    facts = json.loads(certlet(*command, "--json").stdout)
    assert (facts["due"], facts["renewed"], facts["profile"]) == (True, False, "server")
    refused = certlet(*command, "--profile", "none")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"is not one of: server, client, peer" in refused.stderr
    assert path.read_bytes() == before
    together = certlet("renew", path.name, "--dry-run", "--daemon")
    assert (together.returncode, b"not allowed with --dry-run" in together.stderr) == (2, True)


@pytest.mark.parametrize(
    ("due", "failures", "seconds"),
    [
        (timedelta(days=9), 0, 6 * 3600),
        (timedelta(hours=2), 0, 2 * 3600),
        (timedelta(seconds=2), 0, 60),
        (timedelta(days=-1), 0, 60),
        (None, 0, 6 * 3600),
        (timedelta(days=9), 1, 60),
        (None, 2, 120),
        (None, 6, 1920),
        (None, 7, 3600),
        (None, 10_000, 3600),
    ],
)
def test_daemon_waits_until_a_certificate_is_due(
    due: timedelta | None, failures: int, seconds: float
) -> None:
    """It waits at most six hours, for ARI, and after a failure at most one."""
    now = datetime.now(UTC)
    assert renew._delay(now + due if due else None, failures, now) == seconds


def test_daemon_renews_until_sigterm(server: Server, tmp_path: Path) -> None:
    """It goes on after a failure, and SIGTERM ends it with the status 0."""
    path = create_certificate(tmp_path)
    serial_number = load_leaf(path).serial_number
    command = [*servers.CERTLET, "renew", "none.crt", path.name, "--expires-in", "100d", "--daemon"]
    environ = servers.environ(CERTLET_API_KEY=servers.API_KEY, CERTLET_URL=server.url)
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as daemon:
        assert daemon.stdout
        assert daemon.stdout.readline().startswith(b"Renewed   a.example.com.crt, ")
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.wait(0.5)
        daemon.terminate()
        assert daemon.communicate(timeout=20) == (b"", b"certlet: none.crt: No such file or directory\n")
        assert daemon.returncode == 0
    assert load_leaf(path).serial_number != serial_number


def test_daemon_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay doubles with each failure in a row, and varies by a tenth, so that machines spread."""
    delays: list[float] = []
    statuses = iter([1, 3, 0, 5, 0])

    def sigtimedwait(_: object, seconds: float) -> bool:
        delays.append(seconds)
        return len(delays) == 5

    monkeypatch.setattr(signal, "sigtimedwait", sigtimedwait)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert renew._run_daemon(lambda: (ExitStatus(next(statuses)), None)) == 0
    for delay, expected in zip(delays, (60, 120, 21_600, 60, 21_600), strict=True):
        assert 0.9 * expected <= delay <= 1.1 * expected
        assert delay != expected


@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "new key"])
def test_due_certificate_is_replaced(server: Server, tmp_path: Path, *, new_key: bool) -> None:
    """Subject, names, profile and mode stay the same; the hook runs once, without the API key."""
    first = create_certificate(tmp_path, "10.0.0.1", "--profile", "peer")
    second = create_certificate(tmp_path, name="b.example.com")
    first.chmod(0o640)
    (tmp_path / "hook").write_text(HOOK)
    (tmp_path / "hook").chmod(0o755)
    (tmp_path / "link.crt").symlink_to(second)
    (tmp_path / "link.key").symlink_to(second.with_suffix(".key"))
    before = {path: load_leaf(path) for path in (first, second)}
    old_keys = {path: path.with_suffix(".key").read_bytes() for path in before}
    arguments = ["--expires-in=100d", "--deploy-hook=./hook 'two words'", *["--new-key"] * new_key]
    run = certlet("renew", first.name, "link.crt", *arguments)
    assert run.returncode == 0, run.stderr
    assert [line.split()[1] for line in run.stdout.splitlines()] == [b"a.example.com.crt,", b"link.crt,"]
    assert (tmp_path / "hooked").read_text() == f"two words|{first}\n{tmp_path / 'link.crt'}|"
    assert (tmp_path / "link.crt").is_symlink()
    for path, old in before.items():
        new, key_path = load_leaf(path), path.with_suffix(".key")
        assert new.serial_number != old.serial_number
        assert new.subject == old.subject
        for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage, x509.CertificatePolicies):
            values = [cert.extensions.get_extension_for_class(kind).value for cert in (new, old)]
            assert values[0] == values[1]
        assert (key_path.read_bytes() != old_keys[path]) == new_key
        assert load_pem_private_key(key_path.read_bytes(), None).public_key() == new.public_key()
        assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.stat().st_mode) == 0o640
    assert len(list(tmp_path.iterdir())) == 8  # no temporary file is left


def test_expired_certificate_is_renewed(server: Server, tmp_path: Path) -> None:
    """It expired days ago; its key is in a file of another name."""
    request = factories.issuance_request(csrs.encode_pem(csrs.build()), validity="P1D")
    old = factories.authority(now=factories.NOW - timedelta(days=9)).issue(request)
    (tmp_path / "a.pem").write_text(encoding.encode_pem([old.certificate]))
    (tmp_path / "k.pem").write_bytes(encode_private_key(csrs.private_key("p-256")))
    run = certlet("renew", "a.pem", "--key-file", "k.pem")
    assert run.returncode == 0, run.stderr
    assert load_leaf(tmp_path / "a.pem").not_valid_after_utc > old.certificate.not_valid_after_utc


def test_revoked_certificate_is_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked certificate is refused; while there is no CRL, every certificate is."""
    assert certlet("init", "ca").returncode == 0
    for name in ("a.example.com", "b.example.com"):
        write_site(tmp_path / "ca", name=name, age=timedelta(hours=12))
    revoked = (tmp_path / "a.example.com.crt").read_bytes()
    assert certlet("revoke", "--yes", "a.example.com.crt", "--ca", "ca").returncode == 0
    listed = tmp_path / "ca" / "revoked.yaml"  # new entries are in the CRL only after five minutes
    listed.write_text(re.sub('"at": "[^"]*"', '"at": "2026-01-01T00:00:00Z"', listed.read_text()))
    command = ("renew", "a.example.com.crt", "b.example.com.crt", "--expires-in", "99d")
    with servers.certlet_server(tmp_path) as server:
        use_service(server, monkeypatch)
        run = certlet(*command)
        assert (run.returncode, run.stdout[:27]) == (1, b"Renewed   b.example.com.crt")
        assert (
            b"a.example.com.crt: the certificate was revoked: create a new key with --new-key" in run.stderr
        )
        assert (tmp_path / "a.example.com.crt").read_bytes() == revoked
        listed.write_text("nonsense")
        servers.wait_until(lambda: server.request("GET", "/ca.crl").status == 503)  # not from the cache
        run = certlet(*command)
        assert (run.returncode, run.stdout) == (3, b"")
        assert run.stderr.count(b"503") == 2


def test_other_issuer_is_noted(server: Server, ca_server: Server) -> None:
    """The service may be that of another CA; a certificate that would end earlier is not replaced."""
    write_site(ca_server.log.parent / "ca", name="a.example.com", age=timedelta(hours=12))
    for url, is_noted in ((ca_server.url, False), (server.url, True)):
        run = certlet("renew", "a.example.com.crt", "--expires-in", "99d", env={"CERTLET_URL": url})
        assert (run.returncode, run.stdout[:27]) == (0, b"Renewed   a.example.com.crt")
        text = rb"note: a.example.com.crt: the issuer is now CN=.+, not CN=.+: clients must trust its root\n"
        assert bool(re.search(text, run.stderr)) == is_noted == (b"note: " in run.stderr)
    write_site(ca_server.log.parent / "ca", name="a.example.com", age=timedelta(hours=-1))
    before = Path("a.example.com.crt").read_bytes()
    run = certlet("renew", "a.example.com.crt", "--expires-in", "99d")
    assert (run.returncode, run.stdout) == (1, b"")
    assert (
        b"would end earlier; nothing was replaced (check --context and --url; certlet new --force"
        in run.stderr
    )
    assert Path("a.example.com.crt").read_bytes() == before


def test_fleet_is_renewed_early(ca_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All certificates from before --renew-before are replaced once, also by shorter ones; no other is."""
    ca = ca_server.log.parent / "ca"
    (tmp_path / "short.yaml").write_text("profiles: {server: {validity: P5D}}")
    names = ("a.example.com", "b.example.com")
    for name in names:
        write_site(ca, name=name, age=timedelta(hours=12))
    files = [f"{name}.crt" for name in names]
    before = [load_leaf(tmp_path / file) for file in files]
    use_service(ca_server, monkeypatch)
    create_certificate(tmp_path, name="c.example.com")
    run = certlet("renew", *files, "c.example.com.crt")
    assert (run.returncode, b"Renewed" in run.stdout, run.stderr) == (0, False, b"")
    renew_before = (datetime.now(UTC) - timedelta(hours=6)).isoformat()
    order = ("--renew-before", renew_before, "--renew-over", "PT1H", "--profiles", "short.yaml")
    with servers.certlet_server(tmp_path, "--ca", str(ca), *order) as server:
        use_service(server, monkeypatch)
        run = certlet("renew", *files, "c.example.com.crt")
        assert run.returncode == 0, run.stderr
        *lines, last = run.stdout.decode().splitlines()
        assert last.startswith("Not due   c.example.com.crt, ")
        assert [line.split()[1] for line in lines] == [f"{file}," for file in files]
        assert all(line.endswith(" (early: the service asked for it)") for line in lines)
        assert b"Renewed" not in certlet("renew", *files, "c.example.com.crt").stdout
    for file, old in zip(files, before, strict=True):
        new = load_leaf(tmp_path / file)
        assert new.serial_number != old.serial_number
        assert new.not_valid_after_utc < old.not_valid_after_utc


def test_revoked_certificate_gets_a_new_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is renewed long before its end, but only with --new-key; another certificate stays."""
    with servers.certlet_server(tmp_path) as server:
        use_service(server, monkeypatch)
        path, other = (create_certificate(tmp_path, name=f"{name}.example.com") for name in "ab")
        key, untouched = path.with_suffix(".key").read_bytes(), other.read_bytes()
        serial_number = load_leaf(path).serial_number
        assert certlet("revoke", "--yes", path.name, "--ca", "ca").returncode == 0
        run = certlet("renew", path.name, other.name, "--new-key")
        assert run.returncode == 0, run.stderr
        assert re.findall(rb"^(\S.*?)  +(\S+),", run.stdout, re.MULTILINE) == [
            (b"Renewed", b"a.example.com.crt"), (b"Not due", b"b.example.com.crt"),
        ]  # fmt: skip
        assert b"Renewed" not in certlet("renew", path.name, other.name, "--new-key").stdout
    assert load_leaf(path).serial_number != serial_number
    assert path.with_suffix(".key").read_bytes() != key
    assert other.read_bytes() == untouched


@pytest.mark.parametrize(
    ("start", "end", "is_wanted"),
    [
        (-7200, -3600, True),
        (3600, 7200, False),
        (-10, 100_000_000, False),  # a random time in it
        (-100_000_000, 10, True),
        (-3600, -7200, False),
    ],
)
def test_random_time_in_the_window_decides(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, start: int, end: int, *, is_wanted: bool
) -> None:
    """The window is that of the service; one that ends before it starts is ignored."""
    certificate = load_leaf(create_certificate(tmp_path))
    now = datetime.now(UTC)
    window = {
        "start": (now + timedelta(seconds=start)).isoformat(),
        "end": (now + timedelta(seconds=end)).isoformat(),
    }
    paths = []

    class Handler(QuietHandler):
        def respond(self) -> None:
            paths.append(self.path)
            self.reply(200, json.dumps({"suggestedWindow": window}).encode())

    monkeypatch.setattr(random, "random", lambda: 0.5)
    with servers.http_server(Handler) as url:
        assert create_session(url).is_wanted_now(certificate) == is_wanted
    assert paths == [f"/renewal-info/{certificate_id(certificate)}"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"{}"),
        (200, b"junk"),
        (200, b"[]"),
        (200, b'{"suggestedWindow": {"start": "2020-01-01", "end": 1}}'),
        (200, b'{"suggestedWindow": {"start": "2020-01-01T00:00:00", "end": "2020-01-02T00:00:00Z"}}'),
        (None, b""),  # no response
    ],
)
def test_service_without_windows_changes_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, status: int | None, body: bytes
) -> None:
    """A certificate that is not due stays, without an error and within the time-out."""
    path = create_certificate(tmp_path)
    before, released = path.read_bytes(), threading.Event()

    class Handler(QuietHandler):
        def respond(self) -> None:
            if status is None:
                released.wait(30)
            else:
                self.reply(status, body)

    monkeypatch.setattr(client, "_RENEWAL_INFO_TIMEOUT", 0.5)
    with servers.http_server(Handler) as url:
        start = time.monotonic()
        run = certlet("renew", path.name, env={"CERTLET_URL": url})
        elapsed = time.monotonic() - start
        released.set()
    assert (run.returncode, run.stdout[:7], run.stderr) == (0, b"Not due", b"")
    assert elapsed < 10
    assert path.read_bytes() == before


def test_failure_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    """Each failure is reported with its file, which stays unchanged; the others are renewed."""
    good = create_certificate(tmp_path)
    other = create_certificate(tmp_path, name="b.example.com")
    other.with_suffix(".key").write_bytes(good.with_suffix(".key").read_bytes())
    keyless = create_certificate(tmp_path, name="c.example.com")
    keyless.with_suffix(".key").unlink()
    (tmp_path / "both.crt").write_bytes(good.read_bytes() + good.with_suffix(".key").read_bytes())
    (tmp_path / "junk.crt").write_bytes(b"junk")
    (tmp_path / "der.crt").write_bytes(encoding.encode_der(load_leaf(good)))
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build()))
    bad = ["b.example.com.crt", "c.example.com.crt", "both.crt", "junk.crt", "der.crt", "a.csr"]
    before = {name: (tmp_path / name).read_bytes() for name in bad}
    run = certlet("renew", "no.crt", *bad, ".", "/", good.name, "--expires-in", "100d")
    assert run.returncode == 1
    assert run.stdout.startswith(b"Renewed   a.example.com.crt, valid until ")
    lines = run.stderr.decode().splitlines()
    assert lines[0] == "certlet: no.crt: No such file or directory"
    fragments = (
        "No such file",
        "does not match the certificate",
        "c.example.com.key: No such file or directory (--key-file names another file)",
        "also contains a private key",
        "not PEM",
        "DER: convert it to PEM with openssl x509 -inform der -in der.crt -out der.pem",
        "a.csr: this is a CSR, not a certificate: certlet sign gets a certificate for it",
        "certlet: .: Is a directory",
        "certlet: /: Is a directory",
    )
    assert all(fragment in line for line, fragment in zip(lines, fragments, strict=True))
    assert {name: (tmp_path / name).read_bytes() for name in bad} == before


@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "new key"])
def test_full_disk_is_found_before_signing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, new_key: bool
) -> None:
    """The error names the file, no certificate is issued, and key and certificate stay unchanged."""
    path = create_certificate(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    intents = server.read_log().count('"event":"intent"')
    if new_key:  # only it is larger than the disk
        monkeypatch.setattr(keys, "encode_private_key", lambda *_: bytes(200_000))
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if new_key else 0, hard))
    try:
        run = certlet("renew", path.name, "--expires-in", "100d", *["--new-key"] * new_key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    file = "a.example.com.crt: a.example.com.key" if new_key else "a.example.com.crt"
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: {file}: File too large\n")
    assert server.read_log().count('"event":"intent"') == intents
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "status", "fragment"),
    [
        (("--profile", "client"), 0, ""),
        (("--profile", "none", "--new-key"), 1, "is not one of: server, client, peer"),
        (("--deploy-hook", "echo out"), 0, ""),
        (
            ("--deploy-hook", "sh -c 'echo out; kill -9 $$'"),
            1,
            "hook sh was ended by signal 9 (Killed) (the certificates are renewed, so",
        ),
        (("--api-key", "x"), 4, "403"),
        (
            ("--deploy-hook", "./none"),
            1,
            "hook ./none: No such file or directory (the certificates are renewed, so",
        ),
        (
            ("--deploy-hook", "false"),
            1,
            "hook false failed with exit status 1 (the certificates are renewed, so",
        ),
        (("--deploy-hook", "'"), 2, "No closing quotation"),
        (("--deploy-hook", " "), 2, "the command is empty"),
        (("--expires-in", "30"), 2, "30d"),
    ],
)
@pytest.mark.usefixtures("server")
def test_refusal_and_failed_hook_are_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, fragment: str
) -> None:
    """The exit status is 1 for a refusal or a failed hook, and 2 for invalid arguments.

    The output of a hook is on stderr. A key is replaced only together with its certificate.
    """
    path = create_certificate(tmp_path)
    key = path.with_suffix(".key").read_bytes()
    run = certlet("renew", path.name, "--expires-in", "100d", *arguments)
    assert (run.returncode, fragment in run.stderr.decode()) == (status, True)
    assert b"Traceback" not in run.stderr
    assert tuple(capfd.readouterr()) == ("", "out\n" if "echo out" in arguments[-1] else "")
    assert path.with_suffix(".key").read_bytes() == key
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("encrypted_with", "passphrase", "message"),
    [
        ("abc", None, "a.example.com.key is encrypted, and CERTLET_KEY_PASSPHRASE is not set"),
        ("abc", "bad", "a.example.com.key is not a PEM private key, or CERTLET_KEY_PASSPHRASE is wrong"),
        ("abc", "", "CERTLET_KEY_PASSPHRASE is set but empty"),
        ("abc", "abc", ""),
        (None, "abc", "a.example.com.key is not encrypted, but CERTLET_KEY_PASSPHRASE is set"),
    ],
)
def test_passphrase_error_names_its_variable(
    server: Server, tmp_path: Path, encrypted_with: str | None, passphrase: str | None, message: str
) -> None:
    """`show` and `renew` decrypt a key with the passphrase of `new`; errors name the right variable."""
    path, key = tmp_path / "a.example.com.crt", "a.example.com.key"
    run = certlet("new", path.stem, env={"CERTLET_KEY_PASSPHRASE": encrypted_with})
    assert run.returncode == 0, run.stderr
    for command in (("show", path.name, "--key-file", key), ("renew", path.name, "--expires-in", "200d")):
        run = certlet(*command, env={"CERTLET_KEY_PASSPHRASE": passphrase})
        assert run.returncode == int(bool(message))
        assert run.stderr.decode().endswith(f"{message}\n" if message else "")
        assert b"CERTLET_CA_PASSPHRASE" not in run.stderr


@pytest.mark.parametrize("command", ["new", "renew", "show"])
def test_help_names_the_passphrase_variable(command: str) -> None:
    """The commands that read or write a private key name the variable in --help."""
    assert b"$CERTLET_KEY_PASSPHRASE" in certlet(command, "--help").stdout
    assert b"CERTLET_KEY_PASSPHRASE" not in certlet("sign", "--help").stdout


def test_crl_of_unknown_version_is_a_command_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library raises InvalidVersion, which is not a ValueError."""
    crl = factories.create_issuer().sign_crl(revocation.crl_builder([], 1, factories.NOW + timedelta(days=9)))
    data = encoding.encode_der(crl)
    monkeypatch.setattr(client, "fetch_crl", lambda _: data.replace(b"\x02\x01\x01", b"\x02\x01\x05", 1))
    with pytest.raises(CommandError, match=r"http://x/ca.crl did not return a valid CRL"):
        _ = create_session("http://x")._revoked
    monkeypatch.setattr(client, "fetch_crl", lambda _: data)
    assert not create_session("http://x")._revoked
