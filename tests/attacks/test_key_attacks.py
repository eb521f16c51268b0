"""Private keys: none is lost, given away or left behind, whatever fails on the way."""

from __future__ import annotations

import errno
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from service import client
from service.hardening import SECRET_ENV_PREFIXES
from service.keystore import ca_directory
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers, trust_output
from tests.cli import certlet, use_service
from tests.cli.test_show import leaf
from tests.servers import CERTLET, Server

RENEW = ("renew", "a.example.com.crt", "--expires-in", "100d", "--new-key")
FORCE = ("new", "a.example.com", "--force")
OWNER = (1234, 4321)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root writes files of others")


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.chdir(tmp_path)
    use_service(server, monkeypatch)


def content(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def made(*arguments: str) -> Path:
    """A certificate with its key beside it, which nobody else has."""
    run = certlet("new", "a.example.com", *arguments)
    assert run.returncode == 0, run.stderr
    return Path("a.example.com.crt")


def is_pair(path: Path) -> bool:
    """Whether a certificate and the key beside it fit."""
    key = load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
    return x509.load_pem_x509_certificate(path.read_bytes()).public_key() == key.public_key()


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the key, and none for the certificate."""
    calls: list[int] = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def stuck_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that no rename replaces, as an immutable one."""
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if str(target).endswith(".crt"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file that containers bring in on its own: a mount, which no rename replaces."""
    path, source = made(), tmp_path.with_name(f"{tmp_path.name}-source")
    source.write_bytes(path.read_bytes())
    if subprocess.run(["mount", "--bind", source, path], check=False, capture_output=True).returncode:
        pytest.skip("no mount is permitted")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("command", [RENEW, FORCE], ids=["renew", "new"])
@pytest.mark.parametrize("obstacle", [full_disk, stuck_certificate, None])
def test_key_is_replaced_with_its_certificate_or_not_at_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    obstacle: Callable[[pytest.MonkeyPatch], None] | None,
) -> None:
    """Where the certificate cannot be replaced, the key is what it was, one line says why, and nothing is left."""
    path = made()
    before = content(tmp_path)
    with monkeypatch.context() as patch:
        if obstacle:
            obstacle(patch)
        run = certlet(*command)
    after = content(tmp_path)
    assert (run.returncode, run.stderr.count(b"\n")) == ((1, 1) if obstacle else (0, 0)), run.stderr
    assert is_pair(path)
    assert before.keys() == after.keys()
    assert [after[name] == before[name] for name in after] == [obstacle is not None] * 2


@pytest.mark.parametrize("command", [RENEW, FORCE], ids=["renew", "new"])
def test_key_of_a_mounted_certificate_is_not_replaced(
    mounted: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The same, of a real mount."""
    before = content(tmp_path)
    run = certlet(*command)
    assert (run.returncode, b"Device or resource busy" in run.stderr) == (1, True)
    assert content(tmp_path) == before
    assert is_pair(mounted)


def test_concurrent_renewals_leave_a_matching_pair() -> None:
    """The second waits for the first, and finds nothing due any more."""
    path = made("--validity", "2h")
    command = [*CERTLET, *RENEW[:2], "--expires-in", "1d", "--new-key"]
    env = servers.environ(**{name: os.environ[name] for name in ("CERTLET_API_KEY", "CERTLET_URL")})
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len("".join(lines).splitlines()) == 1
    assert is_pair(path)


@pytest.mark.parametrize("is_attacked", [True, False])
def test_link_that_changes_during_a_renewal_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_attacked: bool
) -> None:
    """What a link named when it was read is replaced: root writes to no file that the link names later."""
    made("--out", "real.crt")
    precious, sign = tmp_path / "precious", client.sign
    precious.write_bytes(b"precious")
    links = [tmp_path / "a.crt", tmp_path / "a.key"]
    for link in links:
        link.symlink_to(f"real.crt{link.suffix}")

    def attack(*arguments: Any) -> client.Signed:
        for link in links if is_attacked else ():
            link.unlink()
            link.symlink_to(precious)
        return sign(*arguments)

    monkeypatch.setattr(client, "sign", attack)
    before = content(tmp_path)
    assert certlet("renew", "a.crt", *RENEW[2:]).returncode == 0
    after = content(tmp_path)
    assert (precious.read_bytes(), [link.is_symlink() for link in links]) == (b"precious", [True, True])
    assert all(before[name] != after[name] for name in ("real.crt.crt", "real.crt.key"))


def test_files_of_a_killed_command_are_explained(tmp_path: Path) -> None:
    """A key that does not fit, as after a kill between two renames: the line names the files that were left."""
    path = made()
    path.with_suffix(".key").rename(".certlet.0123456789abcdef")
    made("--force", "--out", "b")
    Path("b.key").rename(path.with_suffix(".key"))
    run = certlet(*RENEW)
    left = tmp_path / ".certlet.0123456789abcdef"
    expected = f"certlet: {path}: {path.stem}.key does not match the certificate; an interrupted command left {left}\n"
    assert run.stderr.decode() == expected
    left.unlink()
    assert certlet(*RENEW).stderr.decode() == expected.partition(";")[0] + "\n"


KILL = """
import os, signal, sys
from service import cli
import service.cli.ca
steps = 0
while True:  # one step further each time
    steps += 1
    child = os.fork()
    if not child:
        left = steps
        def hook(event, arguments):
            global left
            if event in ("open", "os.rename", "os.link", "os.mkdir", "os.chmod", "os.remove") and "new" in str(arguments[:2]):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        os._exit(cli.main(sys.argv[1:]))
    status = os.waitpid(child, 0)[1]
    print(int(os.path.exists("new")), len(os.listdir("new")) if os.path.exists("new") else 0, flush=True)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize(
    "command", [("init", "new"), ("rollover", "old", "new", "--new-root")], ids=lambda it: it[0]
)
def test_killed_init_leaves_a_complete_ca_or_none(tmp_path: Path, command: tuple[str, ...]) -> None:
    """kill -9 before each step in turn: no CA is there until a whole one is, and nothing else is left."""
    assert certlet("init", "old").returncode == 0
    assert certlet("api-key", "add", "a", "--ca", "old", env={"CERTLET_API_KEY": None}).returncode == 0
    before = content(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", KILL, *command],
        env=servers.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if line[0].isdigit()]
    complete = len(file_names(command[0]))
    assert len(lines) > 2 * complete
    assert {line for line in lines if line != "0 0"} == {f"1 {complete}"}
    assert set(content(Path("new"))) == file_names(command[0])
    ca_directory.load_issuer(Path("new"), None)
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("new/")} == before


def file_names(command: str) -> set[str]:
    """The files of a new CA."""
    names = {"revoked.yaml", "root-ca.crt", "root-ca.key", "serial.key", "signing-ca.crt", "signing-ca.key"}
    return names | ({"previous-ca.crt", "api-keys.json"} if command == "rollover" else set())


LIMIT = """
import resource, sys
from service import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("existing", [False, True], ids=["new directory", "existing directory"])
@pytest.mark.parametrize("room", [200, 600, 100_000])
def test_init_on_a_full_disk_leaves_a_complete_ca_or_none(
    tmp_path: Path, room: int, *, existing: bool
) -> None:
    """Where a file is cut off, one line says so, and no file is left; where there is room, all are there."""
    if existing:
        (tmp_path / "new").mkdir()

    run = subprocess.run(
        [sys.executable, "-c", LIMIT, str(room), "init", "new"],
        env=servers.environ(),
        capture_output=True,
        check=False,
    )
    if room == 100_000:
        assert (run.returncode, set(content(Path("new")))) == (0, file_names("init"))
    else:
        assert (run.returncode, run.stderr.count(b"\n"), content(tmp_path)) == (1, 1, {})
        assert list(tmp_path.rglob("*")) == ([tmp_path / "new"] if existing else [])


def owners(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Owner, group and mode of every file below a directory."""
    return {
        str(path.relative_to(directory)): (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode))
        for path in directory.rglob("*")
        for now in [path.stat()]
    }


@as_root
@pytest.mark.parametrize(
    "command",
    [
        ("api-key", "add", "b", "--ca", "ca"),
        ("api-key", "remove", "a", "--ca", "ca"),
        ("revoke", "0a1b", "--ca", "ca"),
        RENEW[:-1],
        RENEW,
        FORCE,
        ("sign", "a.csr", "--out", "a.example.com.crt", "--force"),
    ],
    ids=lambda command: "-".join(command[:2]) + command[-1],
)
def test_file_that_root_replaces_keeps_its_owner(tmp_path: Path, command: tuple[str, ...]) -> None:
    """The user of a service reads its files after root's commands as before, whatever their modes."""
    made()
    assert certlet("init", "ca").returncode == 0
    assert certlet("api-key", "add", "a", "--ca", "ca", env={"CERTLET_API_KEY": None}).returncode == 0
    Path("a.csr").write_text(csrs.encode_pem(csrs.build()).decode())
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, *OWNER)
        path.chmod(0o750 if path.is_dir() else 0o640)
    before, old = owners(tmp_path), content(tmp_path)
    run = certlet(*command, env={"CERTLET_API_KEY": None} if command[0] == "api-key" else None)
    assert run.returncode == 0, run.stderr
    assert owners(tmp_path) == before
    assert content(tmp_path) != old


@as_root
@pytest.mark.parametrize("owner", [OWNER, (0, 0)], ids=["another", "root"])
def test_file_that_root_creates_belongs_to_the_owner_of_its_directory(
    tmp_path: Path, owner: tuple[int, int]
) -> None:
    """New files, and a new CA, are the directory's owner's, who has to read them; secrets are 0600 still."""
    made()
    (tmp_path / "shared").write_text("{}")
    for path in (tmp_path, *tmp_path.iterdir()):
        os.chown(path, *owner)
    made("--out", "b")
    assert certlet("init", "ca").returncode == 0
    (tmp_path / "ca" / "api-keys.json").symlink_to(tmp_path / "shared")
    assert certlet("api-key", "add", "a", "--ca", "ca", env={"CERTLET_API_KEY": None}).returncode == 0
    assert certlet("rollover", "ca", "next").returncode == 0
    after = owners(tmp_path)
    assert {value[:2] for value in after.values()} == {owner}
    secrets = {value[2] for name, value in after.items() if name.endswith((".key", ".json"))}
    assert secrets == {0o600}


def bad(fault: str) -> bytes:
    """The certificate in b.crt, whose PEM is well-formed, with one fault."""
    certificate = x509.load_pem_x509_certificate(Path("b.crt").read_bytes())
    if fault == "an extension twice":
        der = certificate.public_bytes(Encoding.DER).replace(b"\x55\x1d\x13", b"\x55\x1d\x11")
        return ssl.DER_cert_to_PEM_cert(der).encode()
    policies = x509.UnrecognizedExtension(x509.CertificatePolicies.oid, b"\x30\x00")
    return leaf(public_key=certificate.public_key(), extra=policies).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("fault", ["an extension twice", "no policy in the list of policies", ""])
def test_bad_certificate_stops_neither_the_others_nor_the_hook(tmp_path: Path, fault: str) -> None:
    """One line for the bad one; those before and after it are renewed, the hook runs, and the exit status is 1."""
    first = made()
    for name in ("b", "c"):
        assert certlet("new", "a.example.com", "--out", name).returncode == 0
    if fault:
        Path("b.crt").write_bytes(bad(fault))
    run = certlet("renew", first, "b.crt", "c.crt", "--expires-in", "100d", "--deploy-hook", "touch hooked")
    assert run.returncode == bool(fault), run.stderr
    renewed = [line.split()[1] for line in run.stdout.decode().splitlines()]
    assert renewed == [f"{first},", *([] if fault else ["b.crt,"]), "c.crt,"]
    assert (run.stderr.count(b"\n"), run.stderr[:15]) == ((1, b"certlet: b.crt:") if fault else (0, b""))
    assert Path("hooked").exists()


@pytest.mark.parametrize(
    ("text", "out", "error"),
    [
        ('{"a": "0b"}', "0b  a\n", ""),
        ('{"\\u001b[2J\\na": "0b"}', "0b  \\x1b[2J\\na\n", ""),
        ("[" * 100_000, "", "certlet: api-keys.json cannot be read as a file of API keys: maximum recursion"),
    ],
    ids=["plain", "control characters", "deep"],
)
def test_names_of_keys_do_not_reach_the_terminal_unescaped(text: str, out: str, error: str) -> None:
    """Root lists what the service's user may have written."""
    Path("api-keys.json").write_text(text)
    Path("root-ca.crt").touch()
    run = certlet("api-key", "list", "--ca", ".")
    assert run.stdout.decode() == out
    assert run.stderr.decode()[: len(error) or None] == error


SECRETS = ("CERTLET_CA_PASSPHRASE", "CERTLET_KEY_PASSPHRASE", "CERTLET_P12_PASSWORD", "AWS_SECRET_ACCESS_KEY")


def test_hook_gets_no_secret(tmp_path: Path) -> None:
    """No variable that may hold a secret is in the hook's environment; the others are."""
    made()
    env = dict.fromkeys(SECRETS, "a secret") | {"OTHER": "other", "CERTLET_KEY_PASSPHRASE": None}
    run = certlet(*RENEW, "--deploy-hook", "sh -c 'env > hooked'", env=env)
    assert run.returncode == 0, run.stderr
    hooked = {line.partition("=")[0] for line in Path("hooked").read_text().splitlines()}
    assert {"OTHER", "CERTLET_RENEWED", "CERTLET_API_KEY", *SECRETS} & hooked == {"OTHER", "CERTLET_RENEWED"}


def test_every_secret_variable_is_known() -> None:
    """Each variable of Certlet that is named like a secret is one of those that are withheld; and no other is."""
    source = "\n".join(path.read_text() for path in (servers.ROOT / "service").rglob("*.py"))
    names = set(re.findall(r"\bCERTLET_[A-Z0-9_]+\b", source))
    secrets = {name for name in names if re.search("PASS|SECRET|TOKEN|API_KEY", name)}
    assert {name for name in names if name.startswith(SECRET_ENV_PREFIXES)} == secrets
    assert len(secrets) > 3 < len(names - secrets)


@pytest.mark.parametrize("proof", [True, False], ids=["--sha256", "no proof"])
def test_commands_for_a_verified_root_contain_it(tmp_path: Path, *, proof: bool) -> None:
    """With its fingerprint the root is in what is printed, whatever the service sends later; else it is fetched."""
    right, other = (factories.root(subject=name, issuer=name) for name in ("right", "other"))
    sends = [other, right]
    digest = right.fingerprint(hashes.SHA256()).hex()

    class Changes(servers.QuietHandler):
        def respond(self) -> None:
            self.reply(200, sends.pop().public_bytes(Encoding.DER))

    with servers.http_server(Changes) as url:
        told = trust_output.run_trust("--url", url, *(["--sha256", digest] if proof else []), cwd=tmp_path)
        run = trust_output.run_in_shell(told["Download the root, and compare its fingerprint"], tmp_path)
    assert run.returncode == 0, run.stderr
    written = x509.load_pem_x509_certificate(Path(f"certlet-{digest[:8]}.crt").read_bytes())
    assert written == (right if proof else other)
    assert sends == ([other] if proof else [])


@pytest.mark.parametrize("where", [("--ephemeral",), ("--ca", "ca")], ids=["ephemeral", "--ca"])
def test_killed_server_leaves_no_usable_key(tmp_path: Path, where: tuple[str, ...]) -> None:
    """Of an ephemeral CA, and of the certificate of HTTPS, each key that SIGKILL leaves is encrypted; `--ca` is kept."""
    (tmp_path / "tmp").mkdir()
    env = {"TMPDIR": str(tmp_path / "tmp"), "CERTLET_API_KEY": servers.API_KEY}
    with servers.certlet_server(tmp_path, *where, "--tls", env=env) as server:
        processes = servers.descendant_pids(server.process.pid)
        server.stop(signal.SIGKILL)
        servers.wait_until(lambda: not any(map(servers.running_module, processes)))
    keys = {Path(name).name: data for name, data in content(tmp_path).items() if b"PRIVATE KEY-" in data}
    usable = {name for name, data in keys.items() if b"BEGIN ENCRYPTED PRIVATE KEY-" not in data}
    assert keys.keys() == {"root-ca.key", "signing-ca.key", "server.key"}
    assert usable == (set() if where == ("--ephemeral",) else {"root-ca.key", "signing-ca.key"})


@pytest.mark.parametrize(("mode", "readers"), [(0o644, "every user"), (0o640, "its group"), (0o600, "")])
def test_key_readable_by_others_causes_a_warning(tmp_path: Path, mode: int, readers: str) -> None:
    """One line for each file, with its remedy, which works; nothing is refused for it."""
    assert certlet("init", "ca").returncode == 0
    path = made()
    secrets = ("root-ca.key", "signing-ca.key", "serial.key", "api-keys.json", "elsewhere.key")
    names = [*(f"ca/{name}" for name in secrets), "tls.key"]
    (tmp_path / "tls.key").write_bytes(path.with_suffix(".key").read_bytes())
    (tmp_path / "ca" / "api-keys.json").write_text("{}")
    (tmp_path / "ca" / "elsewhere.key").write_bytes((tmp_path / "ca" / "signing-ca.key").read_bytes())
    for name in (*names, str(path.with_suffix(".key"))):
        (tmp_path / name).chmod(mode)
    runs = [
        certlet("rollover", "ca", "next"),
        certlet("show", path, "--key-file", path.with_suffix(".key")),
        certlet(*RENEW[:-1]),
    ]
    assert [(run.returncode, run.stderr.count(b"\n")) for run in runs] == [(0, int(bool(readers)))] * 3
    said = [run.stderr.decode().rstrip().removeprefix("certlet: ") for run in runs]
    (tmp_path / "ca" / "root-ca.key").unlink()
    env = {"CERTLET_API_KEY": servers.API_KEY, "CERTLET_CA_KEY": "file:elsewhere.key"}
    with servers.certlet_server(tmp_path, "--tls-cert", path.name, "--tls-key", "tls.key", env=env) as server:
        warned = [line.removeprefix("Warning   ") for line in server.output if line.startswith("Warning ")]
    expected = [f"{name} is readable by {readers}: chmod 600 {name}" for name in names]
    absolute = [line.replace("ca/", f"{tmp_path}/ca/") for line in expected[1:]]
    assert warned == (absolute if readers else [])
    if readers:
        assert said[0] == f"warning: {expected[0]}"
        assert said[1] == said[2] == f"warning: {expected[0].replace(names[0], path.stem + '.key')}"
        for line in warned:
            assert servers.run("sh", "-ec", line.partition(": ")[2], cwd=tmp_path).returncode == 0
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names[1:]}
        assert modes == {0o600}


@pytest.mark.parametrize("serial_number", [1, 0])
@pytest.mark.parametrize("is_identified", [True, False])
def test_rollover_below_an_external_root_works(
    tmp_path: Path, serial_number: int, *, is_identified: bool
) -> None:
    """A root that no verifier links to is refused in one line; nothing of it is printed as a warning of Python."""
    change = {} if is_identified else {"ski": None}
    with mock.patch.object(x509, "random_serial_number", return_value=1):
        root = factories.root(**change).public_bytes(Encoding.DER)
    root = root.replace(b"\x02\x01\x01", bytes([2, 1, serial_number]), 1)
    Path("root-ca.crt").write_text(ssl.DER_cert_to_PEM_cert(root))
    Path("root-ca.key").write_bytes(encode_private_key(factories.ROOT))
    Path("signing-ca.crt").write_bytes(factories.ca().public_bytes(Encoding.PEM))
    Path("revoked.yaml").touch()
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    run = servers.certlet("rollover", ".", "new", cwd=tmp_path)
    told = b"" if is_identified else b"certlet: the CA certificate 'CN=Root' has no subject key identifier\n"
    assert (run.returncode, run.stderr, Path("new").exists()) == (int(not is_identified), told, is_identified)
