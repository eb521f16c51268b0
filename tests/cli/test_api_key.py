"""`certlet api-key`: a key is printed once, stored as a digest, and has one name."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests import csrs, servers
from tests.cli import certlet
from tests.servers import API_KEY


def test_api_key_is_printed_once_and_stored_as_a_digest(tmp_path: Path) -> None:
    """The key file has mode 0600; a running server accepts added keys and refuses removed ones."""
    with servers.certlet_server(tmp_path, "--no-usage-plan") as server:
        request = {"csr": csrs.encode_pem(csrs.build()).decode()}
        added = certlet("api-key", "add", "ci")
        value = added.stdout.decode().strip()
        assert 30 <= len(value) <= 128
        key_file = tmp_path / "ca" / "api-keys.json"
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        assert value not in key_file.read_text()
        assert certlet("api-key", "list").stdout.decode().split()[1::2] == ["ci"]
        assert certlet("api-key", "add", "ci").returncode == 1
        assert server.sign(request, value).status == 200
        assert '"principal":"ci"' in server.read_log()
        assert certlet("api-key", "remove", "ci").returncode == 0
        assert server.sign(request, value).status == 403
        assert server.sign(request).status == 200


def test_api_key_name_that_is_unknown_or_unprintable_is_refused() -> None:
    """The error is one line."""
    assert certlet("init", "ca").returncode == 0
    for arguments, fragment in (
        (("remove", "nobody"), b"no key is named"),
        (("add", "x\n"), b"printable"),
    ):
        run = certlet("api-key", *arguments)
        assert (run.returncode, run.stderr.count(b"\n")) == (1, 1)
        assert fragment in run.stderr


@pytest.mark.parametrize("value", ["x" * 29, "x" * 129, "x" * 20 + " " + "x" * 20, "é" * 40])
def test_malformed_api_key_is_refused(tmp_path: Path, value: str) -> None:
    """API Gateway's limits, 30 to 128 visible characters, apply to `api-key add` and `serve`."""
    assert certlet("init", ".").returncode == 0
    env = {"CERTLET_API_KEY": value}
    for run in (
        certlet("api-key", "add", "x", "--ca", ".", env=env),
        servers.certlet("serve", "--ephemeral", "--port", "0", cwd=tmp_path, env=env),
    ):
        assert run.returncode == 1
        assert b"30 to 128" in run.stderr
        assert value.encode() not in run.stderr


def test_api_key_from_the_environment_has_one_name() -> None:
    """`api-key add` adds $CERTLET_API_KEY if set, prints a note, and refuses a second name for it."""
    assert certlet("init", ".").returncode == 0
    env = {"CERTLET_API_KEY": API_KEY}
    added = certlet("api-key", "add", "a", "--ca", ".", env=env)
    assert (added.returncode, added.stdout) == (0, b"")
    assert added.stderr == b"note: added the key in $CERTLET_API_KEY\n"
    again = certlet("api-key", "add", "b", "--ca", ".", env=env)
    assert (again.returncode, again.stdout) == (1, b"")
    assert b"this key is already registered as 'a'" in again.stderr
    assert b"unset it" in again.stderr
    another = certlet("api-key", "add", "b", "--ca", ".")
    assert (another.returncode, another.stderr) == (0, b"")
