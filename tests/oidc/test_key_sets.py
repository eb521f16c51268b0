from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from joserfc import jws

from service.oidc.key_sets import FileKeySet, KeySet, RemoteKeySet, create_key_sets
from service.pki.token_identity import KeysUnavailableError
from tests import oidc_issuer
from tests.oidc.signed_tokens import rule
from tests.oidc_issuer import Fault, Issuer

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
SECOND = timedelta(seconds=1)
EMPTY = b'{"keys": []}'


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    with oidc_issuer.running(tmp_path) as running:
        yield running


@pytest.fixture
def remote(issuer: Issuer, clock: Clock) -> RemoteKeySet:
    return RemoteKeySet("deploy", issuer.jwks_url, issuer.ca_file, clock)


@pytest.fixture
def path(issuer: Issuer, tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.jwk_set())
    return path


@pytest.fixture
def file(path: Path, clock: Clock) -> FileKeySet:
    return FileKeySet("deploy", path, clock)


def has(key_set: KeySet, key_id: str, algorithm: str = "RS256") -> bool:
    return key_set.find(key_id, algorithm) is not None


def unavailable(key_set: KeySet) -> str:
    with pytest.raises(KeysUnavailableError) as caught:
        key_set.find("RS256-1", "RS256")
    return str(caught.value)


def test_every_key_of_an_issuer_is_found_by_id_and_algorithm(issuer: Issuer, remote: RemoteKeySet) -> None:
    for key_id, (algorithm, key) in issuer.keys.items():
        public = remote.find(key_id, algorithm)
        assert public
        assert public.thumbprint() == key.thumbprint()
        assert not public.is_private
    assert issuer.fetches == 1


def test_key_of_another_algorithm_is_not_found(remote: RemoteKeySet) -> None:
    assert has(remote, "RS256-1")
    for algorithm in ("PS256", "RS384", "ES256", "HS256", "none", ""):
        assert not has(remote, "RS256-1", algorithm)


def test_nothing_is_downloaded_before_a_token_needs_it(issuer: Issuer, remote: RemoteKeySet) -> None:
    assert issuer.fetches == 0
    assert has(remote, "RS256-1")
    assert issuer.fetches == 1


def test_set_is_refreshed_after_an_hour(issuer: Issuer, remote: RemoteKeySet, clock: Clock) -> None:
    assert has(remote, "RS256-1")
    clock.now += HOUR - SECOND
    assert has(remote, "RS256-1")
    assert issuer.fetches == 1
    clock.now += SECOND
    assert has(remote, "RS256-1")
    assert issuer.fetches == 2


def test_removed_key_is_dropped_at_the_next_refresh(
    issuer: Issuer, remote: RemoteKeySet, clock: Clock
) -> None:
    assert has(remote, "RS256-1")
    issuer.rotate()
    clock.now += HOUR - SECOND
    assert has(remote, "RS256-1")
    clock.now += SECOND
    assert not has(remote, "RS256-1")
    assert has(remote, "RS256-2")


def test_added_key_is_found_at_once(issuer: Issuer, remote: RemoteKeySet, clock: Clock) -> None:
    assert has(remote, "RS256-1")
    issuer.rotate(keep=True)
    clock.now += MINUTE
    assert has(remote, "RS256-2")
    assert has(remote, "RS256-1")
    assert issuer.fetches == 2


def test_unknown_key_ids_cost_one_download_a_minute(
    issuer: Issuer, remote: RemoteKeySet, clock: Clock
) -> None:
    for number in range(100):
        assert not has(remote, f"unknown-{number}")
    assert issuer.fetches == 1
    clock.now += MINUTE - SECOND
    assert not has(remote, "unknown")
    assert issuer.fetches == 1
    clock.now += SECOND
    for number in range(100):
        assert not has(remote, f"unknown-{number}")
    assert issuer.fetches == 2
    assert has(remote, "RS256-1")


@pytest.mark.parametrize(
    "fault", [fault for fault in Fault if fault not in {Fault.NONE, Fault.SILENT, Fault.SLOW_HEADER}]
)
def test_failed_refresh_keeps_the_last_good_set(
    issuer: Issuer, remote: RemoteKeySet, clock: Clock, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    assert has(remote, "RS256-1")
    issuer.fault = fault
    clock.now += HOUR
    for key_id in ("RS256-1", "PS512-1"):
        assert has(remote, key_id, key_id[:5])
    assert not has(remote, "unknown")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"rule deploy: the keys from {issuer.jwks_url}: ")
    issuer.fault = Fault.NONE
    issuer.rotate()
    clock.now += MINUTE
    assert has(remote, "RS256-2")
    assert not has(remote, "RS256-1")


def test_dead_issuer_costs_one_attempt_a_minute(
    issuer: Issuer, remote: RemoteKeySet, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.fault = Fault.ERROR
    for minute in range(3):
        for _ in range(10):
            expected = (
                f"rule deploy: the keys from {issuer.jwks_url} are not available: "
                "the server answered with status 500"
            )
            assert unavailable(remote) == expected
            clock.now += 5 * SECOND
        assert issuer.fetches == len(caplog.records) == minute + 1
        clock.now += 10 * SECOND


def test_last_good_set_ends_after_a_day(issuer: Issuer, remote: RemoteKeySet, clock: Clock) -> None:
    assert has(remote, "RS256-1")
    issuer.fault = Fault.ERROR
    clock.now += DAY
    assert has(remote, "RS256-1")
    clock.now += SECOND
    assert "status 500" in unavailable(remote)
    issuer.fault = Fault.NONE
    assert "status 500" in unavailable(remote)
    clock.now += MINUTE
    assert has(remote, "RS256-1")


def test_set_without_usable_keys_withdraws_the_earlier_ones(
    issuer: Issuer, remote: RemoteKeySet, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert has(remote, "RS256-1")
    issuer.body = EMPTY
    clock.now += HOUR
    assert unavailable(remote).endswith("are not available: no key can verify tokens")
    assert len(caplog.records) == 1
    issuer.body = None
    clock.now += MINUTE - SECOND
    assert "no key" in unavailable(remote)
    clock.now += SECOND
    assert has(remote, "RS256-1")


def test_private_keys_are_logged(
    issuer: Issuer, remote: RemoteKeySet, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = issuer.keys["ES256-1"]
    private = {**key.as_dict(private=True), "kid": "private"}
    issuer.body = json.dumps({"keys": [*json.loads(issuer.jwk_set())["keys"], private]}).encode()
    assert has(remote, "ES256-1", "ES256")
    assert not has(remote, "private", "ES256")
    (record,) = caplog.records
    assert record.getMessage().endswith("the issuer published 1 private or symmetric keys; ignored")
    assert str(private["d"]) not in caplog.text


def test_clock_that_is_set_back_neither_drops_the_set_nor_stops_refreshing(
    issuer: Issuer, remote: RemoteKeySet, clock: Clock
) -> None:
    assert has(remote, "RS256-1")
    clock.now -= 30 * DAY
    assert has(remote, "RS256-1")
    assert issuer.fetches == 1
    issuer.rotate()
    clock.now += HOUR
    assert not has(remote, "RS256-1")
    assert issuer.fetches == 2


def test_threads_share_one_download(issuer: Issuer, remote: RemoteKeySet) -> None:
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(has(remote, "RS256-1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, issuer.fetches) == ([True] * 8, 1)


def test_url_that_is_not_https_is_refused(clock: Clock) -> None:
    for url in ("http://issuer.example/jwks", "file:///etc/passwd", "HTTPS://issuer.example", ""):
        with pytest.raises(ValueError, match="rule deploy: the URL of the keys does not start with https"):
            RemoteKeySet("deploy", url, None, clock)


def test_control_characters_of_a_url_are_escaped(clock: Clock) -> None:
    message = unavailable(RemoteKeySet("deploy", "https://127.0.0.1:1/\n\x1b[31m", None, clock))
    assert message.isprintable()


def test_keys_in_a_file_are_found(file: FileKeySet) -> None:
    assert has(file, "RS256-1")
    assert has(file, "EdDSA-1", "EdDSA")
    assert not has(file, "RS256-1", "PS256")
    assert not has(file, "unknown")


def test_file_is_read_again_when_it_changes(
    issuer: Issuer, file: FileKeySet, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert has(file, "RS256-1")
    issuer.rotate()
    path.write_bytes(issuer.jwk_set())
    assert not has(file, "RS256-1")
    assert has(file, "RS256-2")
    with monkeypatch.context() as context:
        context.setattr(Path, "open", None)  # it is not read again
        assert has(file, "RS256-2")


def test_good_file_stays_in_use(file: FileKeySet, clock: Clock) -> None:
    assert has(file, "RS256-1")
    clock.now += 100 * DAY
    assert has(file, "RS256-1")


@pytest.mark.parametrize("damage", ["missing", "garbage", "huge", "directory"])
def test_damaged_file_keeps_the_last_good_set_for_a_day(
    issuer: Issuer,
    file: FileKeySet,
    path: Path,
    clock: Clock,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert has(file, "RS256-1")
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(b"<" if damage == "garbage" else issuer.jwk_set().ljust(65537))
    assert has(file, "RS256-1")
    clock.now += MINUTE - SECOND
    assert has(file, "RS256-1")
    assert len(caplog.records) == 1
    clock.now += DAY - MINUTE + SECOND
    assert has(file, "RS256-1")
    assert len(caplog.records) == 2
    clock.now += SECOND
    assert unavailable(file).startswith(f"rule deploy: the keys from {path} are not available: ")
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    path.write_bytes(issuer.jwk_set())
    assert has(file, "RS256-1")


def test_file_that_changes_often_logs_one_line_a_minute(
    file: FileKeySet, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        path.write_bytes(b"{" * (number + 1))
        unavailable(file)
    assert len(caplog.records) == 1


def test_file_that_cannot_be_read_for_a_moment_is_read_again(
    file: FileKeySet, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:

        def fail(*_: object) -> None:
            raise OSError(24, os.strerror(24))

        context.setattr(Path, "open", fail)
        assert unavailable(file).endswith("are not available: Too many open files")
    clock.now += MINUTE
    assert has(file, "RS256-1")


def test_file_without_usable_keys_withdraws_the_earlier_ones(file: FileKeySet, path: Path) -> None:
    assert has(file, "RS256-1")
    path.write_bytes(EMPTY)
    assert "no key can verify tokens" in unavailable(file)


def test_rules_with_the_same_source_share_a_key_set(issuer: Issuer, path: Path, clock: Clock) -> None:
    by_url = rule("a", jwks_url=issuer.jwks_url, ca_file=issuer.ca_file.name)
    by_file = rule("b", jwks_url="", jwks_file=path.name)
    without_ca = replace(by_url, name="c", ca_file="")
    same = replace(by_url, name="d", audience="https://other.example"), replace(by_file, name="e")
    key_sets = create_key_sets([by_url, by_file, without_ca, *same], path.parent, clock)
    assert list(key_sets) == ["a", "b", "c", "d", "e"]
    assert key_sets["a"] is key_sets["d"]
    assert key_sets["b"] is key_sets["e"]
    assert len({id(key_set) for key_set in key_sets.values()}) == 3
    assert [has(key_sets[name], "RS256-1") for name in "abde"] == [True] * 4
    assert issuer.fetches == 1
    assert "rule c: " in unavailable(key_sets["c"])


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n"])
def test_rule_with_an_unusable_ca_file_is_refused(
    tmp_path: Path, clock: Clock, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "corp.pem").write_bytes(content)
    message = f"rule deploy: {tmp_path}/corp.pem cannot be read, or contains no certificate"
    with pytest.raises(ValueError, match=message):
        create_key_sets([rule(ca_file="corp.pem")], tmp_path, clock)


def test_token_of_the_issuer_is_verified_by_its_published_keys(issuer: Issuer, remote: RemoteKeySet) -> None:
    for key_id, (algorithm, _) in issuer.keys.items():
        key = remote.find(key_id, algorithm)
        assert key
        assert jws.deserialize_compact(issuer.token(key=algorithm), key, algorithms=[algorithm])
