"""Private keys: no failure of a command loses, discloses or abandons one."""

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


def read_files(directory: Path) -> dict[str, bytes]:
    """Path and content of every file below a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def create_pair(*arguments: str) -> Path:
    """Create a certificate and its key in the current directory, and return the certificate's path."""
    run = certlet("new", "a.example.com", *arguments)
    assert run.returncode == 0, run.stderr
    return Path("a.example.com.crt")


def is_pair(path: Path) -> bool:
    """Return whether a certificate matches the key file next to it."""
    key = load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
    return x509.load_pem_x509_certificate(path.read_bytes()).public_key() == key.public_key()


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk have room for the key, but not for the certificate."""
    calls: list[int] = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def stuck_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let renames onto a certificate fail, as if it were immutable."""
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if str(target).endswith(".crt"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)


@pytest.fixture
def mounted_certificate(tmp_path: Path) -> Iterator[Path]:
    """A certificate that is a bind mount, as in containers, which no rename can replace."""
    path, source = create_pair(), tmp_path.with_name(f"{tmp_path.name}-source")
    source.write_bytes(path.read_bytes())
    if subprocess.run(["mount", "--bind", source, path], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("command", [RENEW, FORCE], ids=["renew", "new"])
@pytest.mark.parametrize(("obstacle", "status"), [(full_disk, 1), (stuck_certificate, 4), (None, 0)])
def test_key_is_replaced_with_its_certificate_or_not_at_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    obstacle: Callable[[pytest.MonkeyPatch], None] | None,
    status: int,
) -> None:
    """If the certificate cannot be replaced, the key stays, with one line of error and no temporary file."""
    path = create_pair()
    before = read_files(tmp_path)
    with monkeypatch.context() as patch:
        if obstacle:
            obstacle(patch)
        run = certlet(*command)
    after = read_files(tmp_path)
    assert (run.returncode, run.stderr.count(b"\n")) == (status, int(bool(status))), run.stderr
    assert is_pair(path)
    assert before.keys() == after.keys()
    assert [after[name] == before[name] for name in after] == [obstacle is not None] * 2


@pytest.mark.parametrize("command", [RENEW, FORCE], ids=["renew", "new"])
def test_key_of_a_mounted_certificate_is_not_replaced(
    mounted_certificate: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A real mount prevents the replacement of both files."""
    before = read_files(tmp_path)
    run = certlet(*command)
    assert (run.returncode, b"Device or resource busy" in run.stderr) == (1, True)
    assert read_files(tmp_path) == before
    assert is_pair(mounted_certificate)


def test_concurrent_renewals_leave_a_matching_pair() -> None:
    """Each renewal waits for the one before, so only the first renews."""
    path = create_pair("--validity", "2h")
    command = [*CERTLET, *RENEW[:2], "--expires-in", "1d", "--new-key"]
    env = servers.environ(**{name: os.environ[name] for name in ("CERTLET_API_KEY", "CERTLET_URL")})
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert "".join(lines).count("Renewed ") == 1
    assert is_pair(path)


@pytest.mark.parametrize("is_attacked", [True, False])
def test_link_that_changes_during_a_renewal_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_attacked: bool
) -> None:
    """The command replaces the link's first target, so root never writes to a later target."""
    create_pair("--out", "real")
    victim, sign = tmp_path / "victim", client.sign
    victim.write_bytes(b"original")
    links = [tmp_path / "a.crt", tmp_path / "a.key"]
    for link in links:
        link.symlink_to(f"real{link.suffix}")

    def attack(*arguments: Any) -> client.Signed:
        for link in links if is_attacked else ():
            link.unlink()
            link.symlink_to(victim)
        return sign(*arguments)

    monkeypatch.setattr(client, "sign", attack)
    before = read_files(tmp_path)
    assert certlet("renew", "a.crt", *RENEW[2:]).returncode == 0
    after = read_files(tmp_path)
    assert (victim.read_bytes(), [link.is_symlink() for link in links]) == (b"original", [True, True])
    assert all(before[name] != after[name] for name in ("real.crt", "real.key"))


def test_error_names_files_of_a_killed_command(tmp_path: Path) -> None:
    """If a kill between two renames left a key that does not match, the error names the temporary file."""
    path = create_pair()
    path.with_suffix(".key").rename(".certlet.0123456789abcdef")
    create_pair("--force", "--out", "b")
    Path("b.key").rename(path.with_suffix(".key"))
    run = certlet(*RENEW)
    temporary = tmp_path / ".certlet.0123456789abcdef"
    expected = f"certlet: {path}: {path.stem}.key does not match the certificate; an interrupted command left {temporary}\n"
    assert run.stderr.decode() == expected
    temporary.unlink()
    assert certlet(*RENEW).stderr.decode() == expected.partition(";")[0] + "\n"


KILL = """
import os, signal, sys
from service import cli
import service.cli.ca
steps = 0
while True:  # each process gets one step further than the one before
    steps += 1
    child = os.fork()
    if not child:
        remaining = steps
        def hook(event, arguments):
            global remaining
            if event in ("open", "os.rename", "os.link", "os.mkdir", "os.chmod", "os.remove") and "new" in str(arguments[:2]):
                remaining -= 1
                if not remaining:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        os._exit(cli.main(sys.argv[1:]))
    status = os.waitpid(child, 0)[1]
    print(int(os.path.exists("new")), len(os.listdir("new")) if os.path.exists("new") else 0, flush=True)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize(
    "command", [("init", "new"), ("rollover", "old", "new", "--new-root")], ids=lambda command: command[0]
)
def test_killed_init_leaves_a_complete_ca_or_none(tmp_path: Path, command: tuple[str, ...]) -> None:
    """SIGKILL before any step leaves either a complete CA or no file."""
    assert certlet("init", "old").returncode == 0
    assert certlet("api-key", "add", "a", "--ca", "old", env={"CERTLET_API_KEY": None}).returncode == 0
    before = read_files(tmp_path)
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
    assert set(read_files(Path("new"))) == file_names(command[0])
    ca_directory.load_issuer(Path("new"), None)
    after = read_files(tmp_path)
    assert {name: data for name, data in after.items() if not name.startswith("new/")} == before


def file_names(command: str) -> set[str]:
    """Names of the files of a CA that `init` or `rollover` creates."""
    names = {"revoked.yaml", "root-ca.crt", "root-ca.key", "serial.key", "signing-ca.crt", "signing-ca.key"}
    names.add("ca-status.pem")
    if command == "rollover":
        old = ca_directory.load_chain(Path("old"))[0]
        names |= {"previous-ca.crt", ca_directory.previous_key_name(old), "api-keys.json"}
    return names


LIMIT = """
import resource, sys
from service import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("directory_exists", [False, True], ids=["new directory", "existing directory"])
@pytest.mark.parametrize("size_limit", [200, 600, 100_000])
def test_init_on_a_full_disk_leaves_a_complete_ca_or_none(
    tmp_path: Path, size_limit: int, *, directory_exists: bool
) -> None:
    """If a file cannot be written completely, the command prints one line and leaves no file."""
    if directory_exists:
        (tmp_path / "new").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", LIMIT, str(size_limit), "init", "new"],
        env=servers.environ(),
        capture_output=True,
        check=False,
    )
    if size_limit == 100_000:
        assert (run.returncode, set(read_files(Path("new")))) == (0, file_names("init"))
    else:
        assert (run.returncode, run.stderr.count(b"\n"), read_files(tmp_path)) == (1, 1, {})
        assert list(tmp_path.rglob("*")) == ([tmp_path / "new"] if directory_exists else [])


def owners(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Path, and owner, group and mode, of every file below a directory."""
    return {
        str(path.relative_to(directory)): (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        for path in directory.rglob("*")
        for status in [path.stat()]
    }


@as_root
@pytest.mark.parametrize(
    "command",
    [
        ("api-key", "add", "b", "--ca", "ca"),
        ("api-key", "remove", "a", "--ca", "ca"),
        ("revoke", "0a1b", "--yes", "--ca", "ca"),
        RENEW[:-1],
        RENEW,
        FORCE,
        ("sign", "a.csr", "--out", "a.example.com.crt", "--force"),
    ],
    ids=lambda command: "-".join(command[:2]) + command[-1],
)
def test_file_that_root_replaces_keeps_its_owner(tmp_path: Path, command: tuple[str, ...]) -> None:
    """The service's user can still read its files after root's commands."""
    create_pair()
    assert certlet("init", "ca").returncode == 0
    Path("ca/serial.key").unlink()  # of a CA with it, only an issued certificate is revoked
    assert certlet("api-key", "add", "a", "--ca", "ca", env={"CERTLET_API_KEY": None}).returncode == 0
    Path("a.csr").write_text(csrs.encode_pem(csrs.build()).decode())
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, *OWNER)
        path.chmod(0o750 if path.is_dir() else 0o640)
    owners_before, files_before = owners(tmp_path), read_files(tmp_path)
    run = certlet(*command, env={"CERTLET_API_KEY": None} if command[0] == "api-key" else None)
    assert run.returncode == 0, run.stderr
    assert owners(tmp_path) == owners_before
    assert read_files(tmp_path) != files_before


@as_root
@pytest.mark.parametrize("owner", [OWNER, (0, 0)], ids=["other user", "root"])
def test_file_that_root_creates_belongs_to_the_owner_of_its_directory(
    tmp_path: Path, owner: tuple[int, int]
) -> None:
    """The directory's owner, who has to read them, owns new files and CAs; secrets still have mode 0600."""
    create_pair()
    (tmp_path / "shared").write_text("{}")
    for path in (tmp_path, *tmp_path.iterdir()):
        os.chown(path, *owner)
    create_pair("--out", "b")
    assert certlet("init", "ca").returncode == 0
    (tmp_path / "ca" / "api-keys.json").symlink_to(tmp_path / "shared")
    assert certlet("api-key", "add", "a", "--ca", "ca", env={"CERTLET_API_KEY": None}).returncode == 0
    assert certlet("rollover", "ca", "next").returncode == 0
    after = owners(tmp_path)
    assert {(user, group) for user, group, _ in after.values()} == {owner}
    secret_modes = {mode for name, (_, _, mode) in after.items() if name.endswith((".key", ".json"))}
    assert secret_modes == {0o600}


def bad_certificate(fault: str) -> bytes:
    """The certificate in b.crt with one fault, in well-formed PEM."""
    certificate = x509.load_pem_x509_certificate(Path("b.crt").read_bytes())
    if fault == "duplicate extension":
        der = certificate.public_bytes(Encoding.DER).replace(b"\x55\x1d\x13", b"\x55\x1d\x11")
        return ssl.DER_cert_to_PEM_cert(der).encode()
    policies = x509.UnrecognizedExtension(x509.CertificatePolicies.oid, b"\x30\x00")
    return leaf(public_key=certificate.public_key(), extra=policies).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("fault", ["duplicate extension", "empty certificatePolicies", ""])
def test_bad_certificate_does_not_stop_other_renewals(tmp_path: Path, fault: str) -> None:
    """The command renews the others, runs the hook, prints one line for the bad one, and exits with 1."""
    first = create_pair()
    for name in ("b", "c"):
        assert certlet("new", "a.example.com", "--out", name).returncode == 0
    if fault:
        Path("b.crt").write_bytes(bad_certificate(fault))
    run = certlet("renew", first, "b.crt", "c.crt", "--expires-in", "100d", "--deploy-hook", "touch hooked")
    assert run.returncode == bool(fault), run.stderr
    renewed = [line.split()[1] for line in run.stdout.decode().splitlines()]
    assert renewed == [f"{first},", *([] if fault else ["b.crt,"]), "c.crt,"]
    assert (run.stderr.count(b"\n"), run.stderr[:15]) == ((1, b"certlet: b.crt:") if fault else (0, b""))
    assert Path("hooked").exists()


@pytest.mark.parametrize(
    ("text", "out", "error"),
    [
        (f'{{"a": "{"0" * 64}"}}', "a", ""),
        (f'{{"\\u001b[2J\\na": "{"0" * 64}"}}', "\\x1b[2J\\na", ""),
        ("[" * 100_000, "", "certlet: api-keys.json cannot be read as a file of API keys: maximum recursion"),
    ],
    ids=["plain", "control characters", "deep"],
)
def test_names_of_api_keys_are_escaped(text: str, out: str, error: str) -> None:
    """Root lists names that the service's user may have written."""
    Path("api-keys.json").write_text(text)
    Path("root-ca.crt").touch()
    run = certlet("api-key", "list", "--ca", ".")
    assert [line.split()[1] for line in run.stdout.decode().splitlines()[1:]] == ([out] if out else [])
    assert run.stderr.decode()[: len(error) or None] == error


SECRET_VARIABLES = (
    "CERTLET_CA_PASSPHRASE",
    "CERTLET_KEY_PASSPHRASE",
    "CERTLET_P12_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
)


def test_hook_environment_contains_no_secret(tmp_path: Path) -> None:
    """The hook gets all variables except those that may contain a secret."""
    create_pair()
    env = dict.fromkeys(SECRET_VARIABLES, "a secret") | {"OTHER": "other", "CERTLET_KEY_PASSPHRASE": None}
    run = certlet(*RENEW, "--deploy-hook", "sh -c 'env > hooked'", env=env)
    assert run.returncode == 0, run.stderr
    variables = {line.partition("=")[0] for line in Path("hooked").read_text().splitlines()}
    assert {"OTHER", "CERTLET_RENEWED", "CERTLET_API_KEY", *SECRET_VARIABLES} & variables == {
        "OTHER",
        "CERTLET_RENEWED",
    }


def test_secret_prefixes_match_every_secret_variable() -> None:
    """SECRET_ENV_PREFIXES match exactly the variables of Certlet whose names suggest a secret."""
    source = "\n".join(path.read_text() for path in (servers.ROOT / "service").rglob("*.py"))
    names = set(re.findall(r"\bCERTLET_[A-Z0-9_]+\b", source))
    secrets = {name for name in names if re.search("PASS|SECRET|TOKEN(?!_FILE)|API_KEY", name)}
    assert {name for name in names if name.startswith(SECRET_ENV_PREFIXES)} == secrets
    assert len(secrets) > 3 < len(names - secrets)


@pytest.mark.parametrize("has_fingerprint", [True, False], ids=["--sha256", "no fingerprint"])
def test_trust_commands_contain_a_verified_root(tmp_path: Path, *, has_fingerprint: bool) -> None:
    """With --sha256, the printed commands contain the root; otherwise they download it again."""
    root, other_root = (factories.root(subject=name, issuer=name) for name in ("root", "other"))
    downloads = [other_root, root]
    digest = root.fingerprint(hashes.SHA256()).hex()

    class ChangingRoot(servers.QuietHandler):
        def respond(self) -> None:
            self.reply(200, downloads.pop().public_bytes(Encoding.DER))

    with servers.http_server(ChangingRoot) as url:
        sections = trust_output.run_trust(
            "--url", url, *(["--sha256", digest] if has_fingerprint else []), cwd=tmp_path
        )
        run = trust_output.run_in_shell(sections["Download the root, and compare its fingerprint"], tmp_path)
    assert run.returncode == 0, run.stderr
    saved_root = x509.load_pem_x509_certificate(Path(f"certlet-{digest[:8]}.crt").read_bytes())
    assert saved_root == (root if has_fingerprint else other_root)
    assert downloads == ([other_root] if has_fingerprint else [])


@pytest.mark.parametrize("ca_options", [("--ephemeral",), ("--ca", "ca")], ids=["ephemeral", "--ca"])
def test_killed_server_leaves_no_usable_key(tmp_path: Path, ca_options: tuple[str, ...]) -> None:
    """SIGKILL leaves no unencrypted key of an ephemeral CA or of the HTTPS certificate."""
    (tmp_path / "tmp").mkdir()
    env = {"TMPDIR": str(tmp_path / "tmp"), "CERTLET_API_KEY": servers.API_KEY}
    with servers.certlet_server(tmp_path, *ca_options, "--tls", env=env) as server:
        processes = servers.descendant_pids(server.process.pid)
        server.stop(signal.SIGKILL)
        servers.wait_until(lambda: not any(map(servers.running_module, processes)))
    keys = {Path(name).name: data for name, data in read_files(tmp_path).items() if b"PRIVATE KEY-" in data}
    usable = {name for name, data in keys.items() if b"BEGIN ENCRYPTED PRIVATE KEY-" not in data}
    assert keys.keys() == {"root-ca.key", "signing-ca.key", "server.key"}
    assert usable == (set() if ca_options == ("--ephemeral",) else {"root-ca.key", "signing-ca.key"})


@pytest.mark.parametrize(("mode", "readers"), [(0o644, "every user"), (0o640, "its group"), (0o600, "")])
def test_key_readable_by_others_causes_a_warning(tmp_path: Path, mode: int, readers: str) -> None:
    """Each file gets one line with a working remedy, and the command succeeds."""
    assert certlet("init", "ca").returncode == 0
    path = create_pair()
    ca_secrets = ("root-ca.key", "signing-ca.key", "serial.key", "api-keys.json", "elsewhere.key")
    names = [*(f"ca/{name}" for name in ca_secrets), "tls.key"]
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
    errors = [run.stderr.decode().rstrip().removeprefix("certlet: ") for run in runs]
    (tmp_path / "ca" / "root-ca.key").unlink()
    env = {"CERTLET_API_KEY": servers.API_KEY, "CERTLET_CA_KEY": "file:elsewhere.key"}
    with servers.certlet_server(tmp_path, "--tls-cert", path.name, "--tls-key", "tls.key", env=env) as server:
        warnings = [line.removeprefix("Warning   ") for line in server.output if line.startswith("Warning ")]
    expected = [f"{name} is readable by {readers}: chmod 600 {name}" for name in names]
    absolute = [line.replace("ca/", f"{tmp_path}/ca/") for line in expected[1:]]
    assert warnings == (absolute if readers else [])
    if readers:
        assert errors[0] == f"warning: {expected[0]}"
        assert errors[1] == errors[2] == f"warning: {expected[0].replace(names[0], path.stem + '.key')}"
        for line in warnings:
            assert servers.run("sh", "-ec", line.partition(": ")[2], cwd=tmp_path).returncode == 0
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names[1:]}
        assert modes == {0o600}


@pytest.mark.parametrize("serial_number", [1, 0])
@pytest.mark.parametrize("has_identifier", [True, False])
def test_rollover_requires_a_subject_key_identifier_of_the_root(
    tmp_path: Path, serial_number: int, *, has_identifier: bool
) -> None:
    """A root without one is refused in one line; Python prints no warning about its serial number."""
    change = {} if has_identifier else {"ski": None}
    with mock.patch.object(x509, "random_serial_number", return_value=1):
        root = factories.root(**change).public_bytes(Encoding.DER)
    root = root.replace(b"\x02\x01\x01", bytes([2, 1, serial_number]), 1)
    Path("root-ca.crt").write_text(ssl.DER_cert_to_PEM_cert(root))
    Path("root-ca.key").write_bytes(encode_private_key(factories.ROOT))
    Path("signing-ca.crt").write_bytes(factories.ca().public_bytes(Encoding.PEM))
    Path("revoked.yaml").touch()
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    run = servers.certlet("rollover", ".", "new", "--old-key", "none", cwd=tmp_path)
    error = (
        b"" if has_identifier else b"certlet: the CA certificate 'CN=Root' has no subject key identifier\n"
    )
    assert (run.returncode, run.stderr, Path("new").exists()) == (
        int(not has_identifier),
        error,
        has_identifier,
    )
