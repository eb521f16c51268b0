"""The whole command line: errors, the version, and imports."""

from __future__ import annotations

import errno
import importlib
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final
from unittest.mock import Mock

import click
import pytest

from deploy import reference
from service import cli
from service.exit_status import ExitStatus
from tests import servers
from tests.cli import certlet, read_to_end, with_full_stdout

CLI: Final = Path(cli.__file__).parent
NO_HOST = "certlet: host {} not found: set --host to an address of this machine"


@pytest.mark.parametrize(
    ("arguments", "status", "fragment"),
    [
        (("nonsense",), 2, "certlet: no such command 'nonsense' (see certlet --help)"),
        (("init",), 2, "DIR"),
        (("init", "ca", "--key-type", "dsa"), 2, "'dsa' is not one of"),
        (("init", "ca", "--permit-dns", "*.x"), 2, "wildcard"),
        (("init", "ca", "--permit-ip", "10.0.0.1/8"), 2, "is an address in a network: pass 10.0.0.0/8 ("),
        (("init", "ca", "--permit-ip", "10.0.0/8"), 2, "is not a network such as 10.0.0.0/8 or fd00::/8 ("),
        (
            ("init", "ca", "--name", "x" * 47),
            1,
            "certlet: the name has 47 characters; at most 46 are accepted",
        ),
        (("init", "ca", "--name", " "), 1, "certlet: the name of the CA is empty"),
        (
            ("init", "ca", "--name", "x\x1b[31m"),
            1,
            r"certlet: the name 'x\x1b[31m' has white space or characters",
        ),
        (("init", "ca", "--name", "\x1b"), 1, "certlet: the name of the CA is empty"),
        (("init", "ca", "--name", " x"), 1, "or read differently: pass 'x'"),
        (("init", "/dev/null/ca"), 1, "Not a directory"),
        (("serve", "--port", "99999"), 2, "port"),
        (("serve", "--workers", "0"), 2, "1<=x<=64"),
        (("serve", "--host", "192.0.2.1"), 1, "not loopback"),
        (("serve", "--ephemeral", "--host", "203.0.113.9", "--insecure-http"), 1, "9 is not an address"),
        (("serve", "--ephemeral", "--host", "a.invalid", "--insecure-http"), 1, NO_HOST.format("a.invalid")),
        (("serve", "--ephemeral", "--host", "a..b", "--insecure-http"), 1, NO_HOST.format("a..b")),
        (("serve", "--audit-log", "none/a"), 1, "certlet: --audit-log none/a: No such file or directory"),
        (("serve", "--audit-log", "."), 1, "certlet: --audit-log .: Is a directory"),
        (("serve", "--ca", "x", "--ephemeral"), 2, "not allowed"),
        (("serve", "--ca", "/dev/null/ca"), 1, "no CA in /dev/null/ca: pass another directory as --ca"),
        (("sign", "missing.csr", "--api-key", "x"), 1, "missing.csr"),
        (("sign", "-"), 1, "no API key: run certlet login URL, set $CERTLET_API_KEY or pass"),
        (("sign", "-", "--validity", "30"), 2, "12h, 30d or 4w"),
        (("sign", "-", "--validity", "P1Y"), 2, "PT12H or P30D"),
        (("sign", "-", "--not-after", "tomorrow"), 2, "2030-12-31T23:59:59Z"),
        (("sign", "-", "--not-after", "2027-02-30T12:00:00Z"), 2, "a time in UTC"),
        (("sign", "-", "--not-after", "2027-2-3T12:00:00Z"), 2, "a time in UTC"),
        (("sign", "-", "--api-key", "x", "--url", "ftp://x"), 2, "http or https"),
        (
            ("sign", "-", "--api-key", "x", "--url", "http://127.0.0.1:9"),
            5,
            "127.0.0.1:9 failed: connection refused",
        ),
        (("openapi", "--region", "x", "--account", "1", "--function", "f"), 2, "12 digits"),
        (("sign", "a.csr", "b.csr", "--out", "x", "--api-key", "x"), 2, "--out accepts only one CSR"),
        (("sign", "a.csr", "-", "--api-key", "x"), 2, "its certificate would be"),
        (("sign", "a.csr", "a.pem", "--api-key", "x"), 2, "a.pem: its certificate would be"),
        (("sign", "a.csr", "b.crt", "--api-key", "x"), 2, "b.crt: its certificate would be"),
        (("sign", "a", "--dry-run", "--out", "x", "--api-key", "x"), 2, "--dry-run writes no file"),
        (("sign", "a", "--dry-run", "--output-dir=.", "--api-key", "x"), 2, "--dry-run writes no file"),
        (("sign", "a", "--output-dir=.", "--out", "x"), 2, "--output-dir is not allowed with --out"),
        (("sign", "a", "--not-after", "2030-01-01T00:00:00Z", "--validity", "1d"), 2, "not allowed"),
        (("renew", "a.crt", "b.crt", "--key-file", "k"), 2, "--key-file accepts only one certificate"),
        (("openapi", "--region", "x"), 2, "requires --region, --account and --function"),
        (("openapi",), 2, "requires --region, --account and --function"),
        (("openapi", "--format", "cloudformation", "--region", "x"), 2, "other formats do not"),
        (("openapi", "--format", "plain"), 2, "'plain' is not one of"),
    ],
)
def test_error_is_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, fragment: str
) -> None:
    """The last line of stderr is the error; there is no traceback."""
    run = servers.certlet(*arguments, cwd=tmp_path) if arguments[0] == "serve" else certlet(*arguments)
    assert run.returncode == status
    assert arguments[0] == "serve" or not run.stdout
    assert fragment in run.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in run.stderr
    assert b"Errno" not in run.stderr


@pytest.mark.parametrize("directory", ["nowhere", "empty", "empty/file"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("api-key", "add", "x", "--ca"), "--ca"),
        (("api-key", "list", "--ca"), "--ca"),
        (("api-key", "remove", "x", "--ca"), "--ca"),
        (("trust", "--ca"), "--ca"),
        (("revoke", "0a", "--ca"), "--ca"),
        (("rollover",), "OLD"),
    ],
)
def test_missing_ca_is_the_same_error_everywhere(
    tmp_path: Path, command: tuple[str, ...], option: str, directory: str
) -> None:
    """Every command that needs a CA names the option; no file is created."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").touch()
    more = ["new"] if command == ("rollover",) else []
    run = certlet(*command, directory, *more)
    message = f"certlet: no CA in {directory}: pass another directory as {option}, or create a CA with certlet init\n"
    assert (run.returncode, run.stdout, run.stderr.decode()) == (1, b"", message)
    assert {path.name for path in tmp_path.rglob("*")} == {"empty", "file"}


def test_missing_file_of_a_ca_is_named(tmp_path: Path) -> None:
    """The error names the file, and distinguishes a missing file from an unreadable directory."""
    assert certlet("init", "ca").returncode == 0
    (tmp_path / "ca" / "signing-ca.crt").unlink()
    run = certlet("trust", "--ca", "ca")
    assert run.stderr == b"certlet: ca/signing-ca.crt: No such file or directory\n"
    if os.geteuid() != 0:  # root sees everything
        (tmp_path / "ca").chmod(0o600)
        run = certlet("api-key", "list")
        assert run.stderr == b"certlet: ca/root-ca.crt: Permission denied\n"
        (tmp_path / "ca").chmod(0o700)


def test_version_is_that_of_the_package() -> None:
    """`certlet --version` prints it; commands have no such option."""
    version = tomllib.loads((servers.ROOT / "pyproject.toml").read_text())["project"]["version"]
    run = certlet("--version")
    assert (run.returncode, run.stdout.decode(), run.stderr) == (0, f"certlet {version}\n", b"")
    assert certlet("sign", "--version").returncode == 2


@pytest.mark.parametrize("arguments", [("openapi", "--format", "public"), ("--version",)])
def test_closed_pipe_ends_a_command_silently(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The exit status is that of SIGPIPE, as for `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*servers.CERTLET, *arguments],
            cwd=tmp_path, env=servers.environ(), stdout=closed, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("arguments", [("openapi", "--format", "public"), ("--version",), ("--help",)])
def test_full_disk_of_stdout_is_an_error(arguments: tuple[str, ...]) -> None:
    run = servers.run(*with_full_stdout(*arguments), check=False)
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert run.stderr.endswith("No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_stream_is_that_of_dev_null(tmp_path: Path, closed: str) -> None:
    """What is written to it is lost, and nothing else changes."""
    command = shlex.join([*servers.CERTLET, "show", "-"])
    null = closed.replace("<&-", "< /dev/null").replace(">&-", "> /dev/null")
    runs = [
        servers.run(servers.create_script(tmp_path / "run", f"exec {command} {redirections}"), check=False)
        for redirections in (closed, null)
    ]
    first, second = ((run.returncode, run.stdout, run.stderr) for run in runs)
    assert first == second


@pytest.mark.parametrize("number", ["TERM", "HUP"])
@pytest.mark.parametrize("is_ignored", [False, True])
def test_signal_leaves_no_temporary_file(tmp_path: Path, number: str, *, is_ignored: bool) -> None:
    """The private key is in a temporary file while a request waits. An ignored signal changes nothing."""
    action = "ignore" if is_ignored else "default"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [
            "env",
            f"--{action}-signal={number}",
            *servers.CERTLET,
            "new",
            "a.example.com",
            "--url",
            url,
        ]
        environ = servers.environ(CERTLET_API_KEY=servers.API_KEY)
        with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            assert list(tmp_path.iterdir())
            process.send_signal(signal.Signals[f"SIG{number}"])
            if is_ignored:
                silent.close()
                connection.close()
            _, error = process.communicate(timeout=20)
            connection.close()
    status = ExitStatus.UNREACHABLE if is_ignored else 128 + signal.Signals[f"SIG{number}"]
    assert (process.returncode, bool(error)) == (status, is_ignored)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["new", "api-key add"])
def test_error_of_a_missing_value_refers_to_the_help_of_the_command(command: str) -> None:
    option = {"new": "--out", "api-key add": "--ca"}[command]
    run = certlet(*command.split(), "x", option)
    message = f"certlet: option '{option}' requires an argument (see certlet {command} --help)\n"
    assert (run.returncode, run.stderr.decode()) == (2, message)


SERVER: Final = {"aiohttp", "connexion", "flask", "jsonschema", "yaml", "boto3"}
CLIENT: Final = SERVER | {
    "OpenSSL",
    "idna",
    "urllib3",
    "logging",
    "service.settings",
    "service.pki.csr",
    "email.policy",
}


@pytest.mark.parametrize(
    ("arguments", "needed", "slow"),
    [
        (("--help",), "click", CLIENT | {"cryptography", "json", "pathlib"}),
        (("show", str(servers.ROOT / "tests/ca_from_before/root-ca.crt")), "cryptography.x509", CLIENT),
        (("sign", "--help"), "service.client", SERVER),
    ],
)
def test_slow_modules_are_imported_only_by_commands_that_need_them(
    arguments: tuple[str, ...], needed: str, slow: set[str]
) -> None:
    """Imports are most of the time that --help and show take."""
    program = """
import sys
before = set(sys.modules)  # of the interpreter and of hooks in its site-packages
from service import cli
cli.main(sys.argv[1:])
print(*set(sys.modules) - before)
"""
    run = servers.run(sys.executable, "-c", program, *arguments)
    imported = set(run.stdout.splitlines()[-1].split())
    assert needed in imported
    assert not imported & slow


def test_output_has_no_escape_sequences(tmp_path: Path) -> None:
    """On a terminal, whatever the variables say that force colors."""
    assert certlet("init", "ca").returncode == 0
    commands = (
        ["--help"],
        ["sign", "--help"],
        ["show", "ca/root-ca.crt"],
        ["check"],
        ["trust", "--ca", "ca"],
        ["sing"],
    )
    program = f"from service import cli; print([cli.main(command) for command in {commands}])"
    parent_end, child_end = pty.openpty()
    with os.fdopen(parent_end, "rb", 0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=servers.environ(FORCE_COLOR="1", CLICOLOR_FORCE="1", TERM="xterm-256color"),
            cwd=tmp_path, stdin=child_end, stdout=child_end, stderr=child_end,
        )  # fmt: skip
        os.close(child_end)
        output = read_to_end(terminal)
        assert process.wait(30) == 0
    assert b"no such command 'sing'" in output
    assert b"[0, 0, 0, 0, 0, 2]" in output
    assert b"\x1b" not in output


def test_help_of_every_command_is_complete() -> None:
    """It has a line with the purpose, an example, and what each exit status means."""
    contexts = dict(reference.commands())
    modules = [importlib.import_module(f"service.cli.{path.stem}") for path in CLI.glob("[!_]*.py")]
    defined = {
        value for module in modules for value in vars(module).values() if isinstance(value, click.Command)
    }
    assert {context.command for context in contexts.values()} == {cli.certlet, *defined}
    assert len(defined) > len(cli.certlet.commands)  # subcommands, too
    for name, context in contexts.items():
        purpose, *_ = str(context.command.help).splitlines()
        assert re.fullmatch(r"[A-Z][^.]{10,80}\.", purpose), name
        stub = cli.certlet.commands.get(name.removeprefix("certlet "))
        assert stub is None or stub.short_help == purpose, name
        text = context.command.get_help(context)
        _, _, statuses = " ".join(text.split()).partition(" Exit status: ")
        assert re.match(r"0 .+; 1 .+; 2 .+", statuses), name
        example = re.search(r"^  Examples?:\s+(certlet [a-z-]+.*)", text, re.MULTILINE)
        assert example, name
        assert name == "certlet" or f"{example[1]} ".startswith(f"{name} "), name
    assert [status.name for status in ExitStatus] == [
        "DONE", "REFUSED", "USAGE", "TRY_LATER", "NOT_PERMITTED", "UNREACHABLE"
    ]  # fmt: skip


def test_permission_error_has_its_own_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 4, and the error names the file; root, as which tests may run, may read every file."""
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "my.csr")
    monkeypatch.setattr(click, "open_file", Mock(side_effect=error))
    Path("my.csr").touch()
    for arguments in (("sign", "my.csr", "--api-key", "x"), ("show", "my.csr")):
        run = certlet(*arguments)
        assert (run.returncode, run.stderr) == (4, b"certlet: my.csr: Permission denied\n")
