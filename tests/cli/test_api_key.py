"""`certlet api-key`: keys are shown once, kept as digests, and have one name each."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests import csrs, servers
from tests.cli import certlet
from tests.servers import API_KEY


def test_keys_of_the_local_gateway(tmp_path: Path) -> None:
    """A key is shown once and kept as its SHA-256, 0600; adding and removing works while serving."""
    with servers.certlet_server(tmp_path, "--no-usage-plan") as server:
        order = {"csr": csrs.encode_pem(csrs.build()).decode()}
        added = certlet("api-key", "add", "ci")
        value = added.stdout.decode().strip()
        assert 30 <= len(value) <= 128
        kept = tmp_path / "ca" / "api-keys.json"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert value not in kept.read_text()
        assert certlet("api-key", "list").stdout.decode().split()[1::2] == ["ci"]
        assert certlet("api-key", "add", "ci").returncode == 1
        assert server.sign(order, value).status == 200
        assert '"principal":"ci"' in server.read_log()
        assert certlet("api-key", "remove", "ci").returncode == 0
        assert server.sign(order, value).status == 403
        assert server.sign(order).status == 200


def test_keys_have_names() -> None:
    """A name that no key has, and one that cannot be printed, are refused."""
    assert certlet("init", "ca").returncode == 0
    for arguments, word in ((("remove", "nobody"), b"no key of the name"), (("add", "x\n"), b"printable")):
        run = certlet("api-key", *arguments)
        assert (run.returncode, run.stderr.count(b"\n")) == (1, 1)
        assert word in run.stderr


@pytest.mark.parametrize("value", ["x" * 29, "x" * 129, "x" * 20 + " " + "x" * 20, "é" * 40])
def test_key_values_have_api_gateway_s_bounds(tmp_path: Path, value: str) -> None:
    """30 to 128 visible characters, for `api-key add` and for the environment of `serve`."""
    assert certlet("init", ".").returncode == 0
    env = {"CERTLET_API_KEY": value}
    for run in (
        certlet("api-key", "add", "x", "--ca", ".", env=env),
        servers.certlet("serve", "--ephemeral", "--port", "0", cwd=tmp_path, env=env),
    ):
        assert run.returncode == 1
        assert b"30 to 128" in run.stderr
        assert value.encode() not in run.stderr


def test_a_key_from_the_environment_is_said_and_has_one_name() -> None:
    """`api-key add` keeps $CERTLET_API_KEY where it is set, says so, and gives no key a second name."""
    assert certlet("init", ".").returncode == 0
    env = {"CERTLET_API_KEY": API_KEY}
    added = certlet("api-key", "add", "a", "--ca", ".", env=env)
    assert (added.returncode, added.stdout) == (0, b"")
    assert added.stderr == b"note: the key is the one in $CERTLET_API_KEY\n"
    again = certlet("api-key", "add", "b", "--ca", ".", env=env)
    assert (again.returncode, again.stdout) == (1, b"")
    assert b"it is the key of the name 'a' already" in again.stderr
    assert b"unset that" in again.stderr
    another = certlet("api-key", "add", "b", "--ca", ".")
    assert (another.returncode, another.stderr) == (0, b"")
