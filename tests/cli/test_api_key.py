"""`certlet api-key`: a key is printed once, stored as a digest, and has one name; a name may have several keys."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import csrs, servers
from tests.cli import certlet, with_full_stdout
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
        assert [record["principal"] for record in list_keys()] == ["ci"]
        assert server.sign(request, value).status == 200
        assert '"principal":"ci"' in server.read_log()
        assert certlet("api-key", "remove", "ci").returncode == 0
        assert server.sign(request, value).status == 403
        assert server.sign(request).status == 200


def test_key_that_cannot_be_printed_is_removed(tmp_path: Path) -> None:
    """No one would know it. A key that the caller has stays."""
    servers.create_ca(tmp_path / "ca")
    full = with_full_stdout("api-key", "add", "ci")
    run = servers.run(*full, cwd=tmp_path, check=False)
    error = "certlet: stdout: No space left on device, so the key was removed again\n"
    assert (run.returncode, run.stderr) == (1, error)
    assert list_keys() == []
    run = servers.run(*full, "--from-stdin", "--json", cwd=tmp_path, check=False, stdin=API_KEY)
    assert (run.returncode, [key["principal"] for key in list_keys()]) == (1, ["ci"])


def list_keys() -> list[dict[str, Any]]:
    """The records of `certlet api-key list --json`."""
    return [json.loads(line) for line in certlet("api-key", "list", "--json").stdout.splitlines()]


def key_id(value: bytes) -> str:
    """The ID of a key, as documented: the first 12 digits of its SHA-256."""
    return hashlib.sha256(value.strip()).hexdigest()[:12]


def test_key_is_rotated_with_two_keys_of_one_name() -> None:
    """A note names the old key; the name of two keys does not select one; `remove` says what remains."""
    assert certlet("init", "ca").returncode == 0
    first = certlet("api-key", "add", "ci", "--expires", "90d")
    second = certlet("api-key", "add", "ci")
    old, new = key_id(first.stdout), key_id(second.stdout)
    assert (first.returncode, first.stderr, second.returncode) == (0, b"", 0)
    note = f"note: ci has 2 keys now; remove the old one when it is no longer used: {old}\n"
    assert second.stderr.decode() == note
    assert [record["id"] for record in list_keys()] == [old, new]
    ambiguous = certlet("api-key", "remove", "ci")
    assert (ambiguous.returncode, ambiguous.stdout) == (1, b"")
    assert ambiguous.stderr.decode() == f"certlet: 'ci' has 2 keys: pass the ID of one: {old} or {new}\n"
    removed = certlet("api-key", "remove", old)
    assert removed.stdout.decode() == f"Removed {old} of ci: it still has {new}\n"
    again = certlet("api-key", "remove", old)
    assert (again.returncode, again.stdout) == (1, b"")
    assert again.stderr.decode().startswith(f"certlet: no key has the ID or name '{old}': ")
    assert certlet("api-key", "remove", "ci").stdout.decode() == f"Removed {new} of ci: it has no other key\n"
    assert certlet("api-key", "list").stdout == b""


def test_list_shows_creation_and_end() -> None:
    """A key of an earlier version has neither; the table counts the days, and JSON has the status."""
    assert certlet("init", "ca").returncode == 0
    digests = [f"{number:064}" for number in range(4)]
    now = datetime.now(UTC)
    expires = [now + timedelta(minutes=1), now + timedelta(days=1, minutes=1), now]
    times = [time.strftime("%Y-%m-%dT%H:%M:%SZ") for time in (*expires, now)]
    members = [
        {"sha256": digest, "created": times[3], "expires": end}
        for digest, end in zip(digests[1:], times, strict=False)
    ]
    Path("ca/api-keys.json").write_text(json.dumps({"old": digests[0], "ci": members}))
    heading, *rows = [
        re.split("  +", line) for line in certlet("api-key", "list").stdout.decode().splitlines()
    ]
    assert heading == ["ID", "Principal", "Created", "Expires"]
    assert rows == [
        ["000000000000", "old", "unknown", "never"],
        ["000000000000", "ci", times[3], f"{times[0]} (1 day left)"],
        ["000000000000", "ci", times[3], f"{times[1]} (2 days left)"],
        ["000000000000", "ci", times[3], f"{times[2]} (expired)"],
    ]
    assert list_keys()[0] == {
        "id": "000000000000",
        "principal": "old",
        "created": None,
        "expires": None,
        "status": "valid",
    }
    assert [record["status"] for record in list_keys()] == ["valid", "valid", "valid", "expired"]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("90m", timedelta(minutes=90)),
        ("P30D", timedelta(days=30)),
        ("4w", timedelta(weeks=4)),
        ("9999-12-31", "9999-12-31T00:00:00Z"),
        ("2999-12-31T12:00:00Z", "2999-12-31T12:00:00Z"),
        ("2999-12-31t12:00:00.5+02:00", "2999-12-31T10:00:00Z"),
    ],
)
def test_end_of_a_key_is_a_duration_date_or_time(text: str, end: timedelta | str) -> None:
    """A date begins at 00:00 UTC; a time may have any zone."""
    assert certlet("init", "ca").returncode == 0
    before = datetime.now(UTC).replace(microsecond=0)
    assert certlet("api-key", "add", "ci", "--expires", text).returncode == 0
    (record,) = list_keys()
    created, expires = record["created"], record["expires"]
    assert before <= datetime.fromisoformat(created) <= datetime.now(UTC)
    if isinstance(end, timedelta):
        assert timedelta() <= datetime.fromisoformat(expires) - before - end <= timedelta(seconds=10)
    else:
        assert expires == end


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("0d", "not in the future"),
        ("2020-01-01", "not in the future"),
        ("2020-01-01T00:00:00Z", "not in the future"),
        ("99999999w", "after the year 9999"),
        ("2999-02-30", "not a duration such as 90d"),
        ("2999-12-31T12:00:00", "not a duration such as 90d"),
        ("90", "not a duration such as 90d"),
        ("", "not a duration such as 90d"),
        ("-1d", "not a duration such as 90d"),
    ],
)
def test_malformed_end_of_a_key_is_refused(text: str, fragment: str) -> None:
    """The error is one line, and no key is created."""
    assert certlet("init", "ca").returncode == 0
    run = certlet("api-key", "add", "ci", f"--expires={text}")
    assert (run.returncode, run.stdout, run.stderr.count(b"\n")) == (2, b"", 1)
    assert fragment in run.stderr.decode()
    assert list_keys() == []


def test_api_key_name_that_is_unknown_or_unprintable_is_refused() -> None:
    """The error is one line."""
    assert certlet("init", "ca").returncode == 0
    for arguments, fragment in (
        (("remove", "nobody"), b"no key has the ID or name"),
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
        certlet("api-key", "add", "x", "--from-env", "--ca", ".", env=env),
        certlet("api-key", "add", "x", "--from-stdin", "--ca", ".", stdin=value.encode()),
        servers.certlet("serve", "--ephemeral", "--port", "0", cwd=tmp_path, env=env),
    ):
        assert run.returncode == 1
        assert b"30 to 128" in run.stderr
        assert value.encode() not in run.stderr


def test_existing_api_key_is_registered_on_request() -> None:
    """--from-env and --from-stdin register a key, and refuse a second name for it; a client's key is not."""
    assert certlet("init", ".").returncode == 0
    env = {"CERTLET_API_KEY": API_KEY}
    added = certlet("api-key", "add", "a", "--from-env", "--ca", ".", env=env)
    assert (added.returncode, added.stdout) == (0, b"")
    assert added.stderr == b"note: added the key in $CERTLET_API_KEY\n"
    again = certlet("api-key", "add", "b", "--from-stdin", "--ca", ".", stdin=API_KEY.encode() + b"\n")
    assert (again.returncode, again.stdout) == (1, b"")
    assert b"this key is already registered as 'a'" in again.stderr
    another = certlet("api-key", "add", "b", "--ca", ".", env=env)
    assert (another.returncode, another.stderr) == (0, b"")
    assert another.stdout.decode().strip() not in ("", API_KEY)
    piped = certlet("api-key", "add", "c", "--from-stdin", "--ca", ".", stdin=b"x" * 40 + b"\n")
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, b"", b"note: added the key on stdin\n")
    for option, status, message in (
        (("--from-env",), 1, b"certlet: $CERTLET_API_KEY is not set\n"),
        (("--from-stdin",), 1, b"certlet: there is no key on stdin\n"),
        (("--from-env", "--from-stdin"), 2, b"--from-stdin is not allowed with --from-env"),
    ):
        run = certlet("api-key", "add", "d", *option, "--ca", ".")
        assert (run.returncode, run.stdout, message in run.stderr) == (status, b"", True)


def test_created_key_is_in_the_json_even_with_quiet() -> None:
    """A key that was registered is not printed."""
    assert certlet("init", ".").returncode == 0
    run = certlet("api-key", "add", "ci", "--ca", ".", "--json", "--quiet", "--expires", "2999-12-31")
    facts = json.loads(run.stdout)
    assert facts.keys() == {"id", "principal", "created", "expires", "status", "key"}
    assert (facts["principal"], facts["expires"]) == ("ci", "2999-12-31T00:00:00Z")
    assert facts["id"] == hashlib.sha256(facts["key"].encode()).hexdigest()[:12]
    registered = ("api-key", "add", "b", "--from-stdin", "--ca", ".", "--json")
    assert json.loads(certlet(*registered, stdin=b"x" * 40).stdout)["key"] is None
    assert certlet(*registered, "--quiet", stdin=b"y" * 40).stdout == b""
