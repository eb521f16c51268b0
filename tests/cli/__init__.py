"""Tests of the command line; most commands run in this process, by `certlet` below."""

from __future__ import annotations

import contextlib
import os
import pty
import ssl
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from io import RawIOBase
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from cryptography import x509

from service import cli
from service.keystore import ca_directory
from service.pki import encoding
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers
from tests.servers import API_KEY, CERTLET, HttpService


def certlet(
    *arguments: str | Path,
    cwd: Path | str = ".",
    stdin: bytes = b"",
    env: Mapping[str, str | None] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in this process, without hardening the process: later tests must be able to inspect it."""
    with (
        contextlib.chdir(cwd),
        mock.patch("service.hardening.disable_core_dumps_and_ptrace"),
        CliRunner().isolation(stdin, env) as (stdout, stderr, _),
    ):
        status = cli.main(list(map(str, arguments)))
        sys.stdout.flush()
        sys.stderr.flush()
        return subprocess.CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())


def with_full_stdout(*arguments: str) -> tuple[str, ...]:
    """The command that runs `certlet` with these arguments and a full disk behind stdout."""
    return ("sh", "-c", 'exec "$@" > /dev/full', "sh", *CERTLET, *arguments)


def type_at_terminal(text: bytes, *arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process with a terminal as stdin, at which someone types this."""
    terminal, inside = pty.openpty()
    try:
        os.write(terminal, text)
        return subprocess.run(
            [*CERTLET, *arguments], env=servers.environ(**environ), stdin=inside, capture_output=True, check=False
        )  # fmt: skip
    finally:
        os.close(inside)
        os.close(terminal)


def write_site(
    ca: Path,
    directory: Path | str = ".",
    name: str = "localhost",
    age: timedelta = timedelta(),
    validity: str | None = None,
) -> x509.Certificate:
    """Write `NAME.key`, and `NAME.crt` with the chain of a certificate that the CA issued; return it."""
    leaf = factories.issue(ca, csrs.encode_pem(csrs.build(name, [f"dns:{name}"])), age, validity=validity)
    signing, _ = ca_directory.load_chain(ca)
    stem = Path(directory) / name
    Path(f"{stem}.crt").write_text(encoding.encode_pem([leaf, signing]))
    Path(f"{stem}.key").write_bytes(encode_private_key(csrs.private_key("p-256")))
    Path(f"{stem}.key").chmod(0o600)
    return leaf


def tls_context(directory: Path | str = ".", name: str = "localhost") -> ssl.SSLContext:
    """The context of a TLS server with the files of `write_site`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(directory) / f"{name}.crt", Path(directory) / f"{name}.key")
    return context


def read_to_end(terminal: RawIOBase) -> bytes:
    """Read from a terminal until no process has it open, which Linux reports as an error."""
    output = b""
    with contextlib.suppress(OSError):
        while data := terminal.read(65536):
            output += data
    return output


def use_service(site: HttpService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment variables of the service that commands use."""
    monkeypatch.setenv("CERTLET_API_KEY", API_KEY)
    monkeypatch.setenv("CERTLET_URL", site.url)
