from __future__ import annotations

import concurrent.futures
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service import atomic_write
from service.gateway.api_keys import ApiKey, ApiKeys, KeyFile, KeyFileError, hash_key, key_id
from tests.assertions import assert_problem
from tests.est.devices import basic_auth
from tests.gateway import second_api
from tests.servers import Response

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
A, B, C = "a" * 40, "b" * 40, "c" * 40
FROM_BEFORE = json.dumps({"ci": hash_key(A), "ops": hash_key(B)}, indent=2)  # as earlier versions wrote it


def test_key_file_permissions_and_name_limits(tmp_path: Path) -> None:
    """The directory has mode 0700; leftovers of a crash are ignored; without the file, no key is valid."""
    file = KeyFile(tmp_path / "d" / "keys.json")
    file.add("a", A, NOW)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    (tmp_path / "d" / "keys.json.new").write_text("left over")
    for name in ("", "\u00e9", "x" * 129):
        with pytest.raises(KeyFileError):
            file.add(name, B, NOW)
    file.add("b", B, NOW)
    api_keys = ApiKeys(file, {})
    assert api_keys.identify(B) == ApiKey("b", hash_key(B), NOW)
    file.path.unlink()
    assert api_keys.identify(B) is None


def test_api_keys_follow_changes_of_the_file(tmp_path: Path) -> None:
    """A key is valid as soon as the file contains it, and invalid as soon as it does not."""
    file = KeyFile(tmp_path / "keys.json")
    api_keys = ApiKeys(file, {"env": hash_key(C)})
    assert api_keys.identify(A) is None
    file.add("a", A, NOW)
    assert api_keys.identify(A) == ApiKey("a", hash_key(A), NOW)
    assert api_keys.identify(C) == ApiKey("env", hash_key(C))
    assert api_keys.identify("") is None
    file.remove("a")
    assert api_keys.identify(A) is None


def test_key_of_the_environment_replaces_those_of_its_name(tmp_path: Path) -> None:
    """The keys of another name stay valid."""
    file = KeyFile(tmp_path / "keys.json")
    file.add("default", A, NOW)
    file.add("ci", B, NOW)
    api_keys = ApiKeys(file, {"default": hash_key(C)})
    assert [key and key.name for key in map(api_keys.identify, (A, B, C))] == [None, "ci", "default"]


def test_principal_has_several_keys_with_ids(tmp_path: Path) -> None:
    """The name stops being enough to remove a key; an ID precedes a name; times are those of `add`."""
    file, end = KeyFile(tmp_path / "keys.json"), NOW + timedelta(days=90)
    first = ApiKey("ci", hash_key(A), NOW)
    second = ApiKey("ci", hash_key(B), NOW, end)
    assert file.add("ci", A, NOW) == [first]
    assert file.add("ci", B, NOW, end) == [first, second]
    (third,) = file.add(first.key_id, C, NOW)
    assert file.read() == [first, second, third]
    with pytest.raises(KeyFileError, match=f"'ci' has 2 keys.*{first.key_id} or {second.key_id}"):
        file.remove("ci")
    with pytest.raises(KeyFileError, match="no key has the ID or name 'nobody'"):
        file.remove("nobody")
    with pytest.raises(KeyFileError, match="already registered as 'ci'"):
        file.add("other", B, NOW)
    assert file.read() == [first, second, third]
    assert file.remove(first.key_id) == (first, [second])
    assert file.remove("ci") == (second, [])
    assert file.remove(first.key_id) == (third, [])
    assert file.read() == []


def test_key_expires_at_its_time() -> None:
    """A key without an end does not expire."""
    key = ApiKey("ci", hash_key(A), NOW, NOW + timedelta(days=1))
    expired = [key.is_expired(NOW + timedelta(seconds=seconds)) for seconds in (0, 86_399, 86_400, 86_401)]
    assert expired == [False, False, True, True]
    assert not ApiKey("ci", hash_key(A), NOW).is_expired(datetime.max.replace(tzinfo=UTC))


def test_key_file_of_an_earlier_version_is_valid(tmp_path: Path) -> None:
    """Reading does not change it; its keys have no times, also after a key was added."""
    path = tmp_path / "keys.json"
    path.write_text(FROM_BEFORE)
    file, old = KeyFile(path), [ApiKey("ci", hash_key(A)), ApiKey("ops", hash_key(B))]
    assert file.read() == old
    assert ApiKeys(file, {}).identify(A) == old[0]
    assert path.read_text() == FROM_BEFORE
    assert file.add("ci", C, NOW) == [old[0], ApiKey("ci", hash_key(C), NOW)]
    assert file.remove(key_id(hash_key(A)))[0] == old[0]
    assert file.read() == [ApiKey("ci", hash_key(C), NOW), old[1]]


def test_expired_key_is_refused_without_a_restart(tmp_path: Path) -> None:
    """Only its owner learns that it has expired; the access log names it; it shares the rate of wrong keys."""
    file = KeyFile(tmp_path / "keys.json")
    file.add("ci", A, NOW, datetime.now(UTC))
    document = second_api.document()
    document["paths"]["/books"]["post"]["security"] = [{"apiKey": []}, {"basic": []}]
    with second_api.gateway_server(tmp_path, document, no_usage_plan=False) as server:

        def send(key: str) -> Response:
            return server.request("POST", "/books", b"{}", {"x-api-key": key})

        end = datetime.now(UTC) + timedelta(seconds=5)
        file.add("ci", B, NOW, end)
        assert send(B).status == 200
        expired, wrong = (assert_problem(send(key), 403, "unauthorized") for key in (A, C))
        assert "expired" in expired["detail"]
        assert "expired" not in wrong["detail"]
        records = [json.loads(line) for line in server.read_log().splitlines()[-3:]]
        assert [(record["key"], record["key_id"], record["status"]) for record in records] == [
            ("ci", key_id(hash_key(B)), 200),
            ("ci", key_id(hash_key(A)), 403),
            (None, None, 403),
        ]
        password = server.request("POST", "/books", b"{}", {"Authorization": basic_auth(A)})
        assert assert_problem(password, 403, "unauthorized")["detail"] == expired["detail"]
        assert {send(A).status for _ in range(10)} == {403, 429}
        time.sleep(max(0, (end - datetime.now(UTC)).total_seconds()))
        assert assert_problem(send(B), 403, "unauthorized") | {"instance": ""} == expired | {"instance": ""}


def test_each_key_of_a_principal_has_its_own_usage_plan(tmp_path: Path) -> None:
    """The function gets the principal, not the key."""
    file, now = KeyFile(tmp_path / "keys.json"), datetime.now(UTC)
    for value in (A, B):
        file.add("ci", value, now)
    with second_api.gateway_server(tmp_path, second_api.document(), no_usage_plan=False) as server:
        for value in (A, B):
            responses = [server.request("POST", "/books", b"{}", {"x-api-key": value}) for _ in range(6)]
            assert [response.status for response in responses[:4]] == [200] * 4
            assert responses[-1].status == 429
            assert responses[0].json()["event"]["requestContext"]["identity"]["apiKeyId"] == "ci"


def test_concurrent_key_changes_are_serialised(tmp_path: Path) -> None:
    """No concurrent change undoes another."""
    keys = KeyFile(tmp_path / "keys.json")
    for number in range(20):
        keys.add(f"old{number}", f"{number:030}", NOW)

    def change(number: int) -> None:
        keys.add(f"new{number}", f"{number:040}", NOW)
        keys.remove(f"old{number}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(20)))
    assert sorted(key.name for key in keys.read()) == sorted(f"new{number}" for number in range(20))
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]
    assert keys.path.stat().st_mode & 0o777 == 0o600


def test_concurrent_add_keeps_a_removal(tmp_path: Path) -> None:
    """`add` waits until another change is complete, and reads its result."""
    keys = KeyFile(tmp_path / "keys.json")
    keys.add("stolen", "s" * 30, NOW)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with atomic_write.locked_directory(tmp_path):
            adding = pool.submit(keys.add, "new", "n" * 30, NOW)
            assert not concurrent.futures.wait([adding], 0.2).done
            keys.path.write_text("{}")
        adding.result(5)
    assert [key.name for key in keys.read()] == ["new"]


def test_key_removal_without_a_file_creates_no_directory(tmp_path: Path) -> None:
    """The error is the usual one for an unknown name."""
    with pytest.raises(KeyFileError, match="no key has the ID or name 'x'"):
        KeyFile(tmp_path / "nowhere" / "keys.json").remove("x")
    assert not (tmp_path / "nowhere").exists()


def entry(**members: object) -> str:
    """A file with one key, with these members."""
    return json.dumps({"a": [{"sha256": hash_key(A), **members}]})


@pytest.mark.parametrize(
    "text",
    [
        *(
            "{",
            "[]",
            '{"a": 1}',
            '{"a": null}',
            '{"a": {"sha256": ""}}',
            '{"a": "0b"}',
            "\xff",
            "[" * 100_000,
            "",
        ),
        json.dumps({"a": [{}]}),
        *(entry(sha256=value) for value in (None, 1, hash_key(A).upper(), hash_key(A) + "\n")),
        *(
            entry(expires=value)
            for value in (0, "", "2026-07-01", "2026-07-01T12:00:00", "2026-13-01T12:00:00Z")
        ),
        *(entry(created=False), entry(name="b"), entry(expire="2026-07-01T12:00:00Z")),
    ],
)
def test_damaged_key_file_raises_on_every_lookup(tmp_path: Path, text: str) -> None:
    """An unreadable file or a dangling link is an error at each lookup, never an empty or a stale list."""
    path = tmp_path / "keys.json"
    KeyFile(path).add("a", A, NOW)
    api_keys = ApiKeys(KeyFile(path), {})
    assert api_keys.identify(A)
    path.write_bytes(text.encode("latin-1"))
    if not text:
        path.unlink()
        path.symlink_to("nothing")
    for _ in range(2):
        with pytest.raises(KeyFileError):
            api_keys.identify(A)


def test_key_file_with_times_is_valid(tmp_path: Path) -> None:
    """The twin of the damaged files."""
    path, text = tmp_path / "keys.json", "2026-07-01T12:00:00Z"
    path.write_text(entry(created=text, expires=text))
    assert KeyFile(path).read() == [ApiKey("a", hash_key(A), NOW, NOW)]
