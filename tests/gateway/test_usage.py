from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path

import pytest

from service import files
from service.gateway.routes import GatewayError, UsagePlan
from service.gateway.usage import KeyFile, KeyFileError, Keyring, Meter, digest
from tests import authorities, csrs, serving
from tests.answers import problem
from tests.gateway import running
from tests.serving import API_KEY

PLAN = UsagePlan(rate=2, burst=3, quota=5, period="DAY")


class Clock:
    """A clock that is set by hand."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def taken(meter: Meter, name: str | None, times: int) -> list[str]:
    """What each of several requests met with."""
    met = []
    for _ in range(times):
        try:
            meter.take(name)
            met.append("ok")
        except GatewayError as error:
            met.append(error.kind)
    return met


def test_a_bucket_fills_at_its_rate() -> None:
    """`burst` at once, then `rate` a second, and never more than `burst` saved up."""
    clock = Clock()
    meter = Meter(UsagePlan(rate=2, burst=3, quota=99, period="DAY"), clock, clock)
    assert taken(meter, "a", 4) == ["ok"] * 3 + ["THROTTLED"]
    clock.now += 0.5
    assert taken(meter, "a", 2) == ["ok", "THROTTLED"]
    clock.now += 3600
    assert taken(meter, "a", 4) == ["ok"] * 3 + ["THROTTLED"]


def test_each_key_has_its_own_and_the_public_one() -> None:
    """One key's use is no other's; all public operations share a bucket, which has no quota."""
    clock = Clock()
    meter = Meter(PLAN, clock, clock)
    assert taken(meter, "a", 4)[-1] == "THROTTLED"
    assert taken(meter, "b", 1) == ["ok"]
    assert taken(meter, None, 4) == ["ok"] * 3 + ["THROTTLED"]
    for _ in range(10):
        clock.now += 10
        assert taken(meter, None, 1) == ["ok"]


@pytest.mark.parametrize(("period", "seconds"), [("DAY", 86_400), ("WEEK", 604_800), ("MONTH", 2_592_000)])
def test_a_quota_lasts_a_period(period: str, seconds: int) -> None:
    """After `quota` requests of a key nothing goes until the period ends; refused ones do not count."""
    clock = Clock()
    clock.now = 10.0 * seconds
    meter = Meter(UsagePlan(rate=99, burst=99, quota=5, period=period), clock, clock)
    assert taken(meter, "a", 7) == ["ok"] * 5 + ["QUOTA_EXCEEDED"] * 2
    clock.now += seconds - 1
    assert taken(meter, "a", 1) == ["QUOTA_EXCEEDED"]
    clock.now += 1
    assert taken(meter, "a", 6) == ["ok"] * 5 + ["QUOTA_EXCEEDED"]


def test_a_half_token_is_none_and_a_refused_quota_costs_none() -> None:
    """A request needs a whole token; one that the quota refuses takes none."""
    clock = Clock()
    meter = Meter(UsagePlan(rate=1, burst=1, quota=99, period="DAY"), clock, clock)
    assert taken(meter, "a", 1) == ["ok"]
    clock.now += 0.5
    assert taken(meter, "a", 1) == ["THROTTLED"]
    meter = Meter(UsagePlan(rate=0.000001, burst=3, quota=1, period="DAY"), clock, clock)
    assert taken(meter, "a", 9) == ["ok"] + ["QUOTA_EXCEEDED"] * 8  # never THROTTLED


def test_key_file_details(tmp_path: Path) -> None:
    """The folder is 0700, what a crash left over is no obstacle, names are bounded, and no file is no key."""
    file = KeyFile(tmp_path / "d" / "keys.json")
    file.add("a", "a" * 40)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    (tmp_path / "d" / "keys.json.new").write_text("left over")
    for name in ("", "a", "\u00e9", "x" * 129):
        with pytest.raises(KeyFileError):
            file.add(name, "b" * 40)
    file.add("b", "b" * 40)
    ring = Keyring(file, {})
    assert ring.identify("b" * 40) == "b"
    file.path.unlink()
    assert ring.identify("b" * 40) is None


def test_keys_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    """A keyring knows a key as soon as it is in the file, and forgets it as soon as it is not."""
    file = KeyFile(tmp_path / "keys.json")
    ring = Keyring(file, {"env": digest("e" * 40)})
    assert ring.identify("a" * 40) is None
    file.add("a", "a" * 40)
    assert ring.identify("a" * 40) == "a"
    assert ring.identify("e" * 40) == "env"
    assert ring.identify("") is None
    file.remove("a")
    assert ring.identify("a" * 40) is None


def test_keys_are_added_and_removed_one_after_the_other(tmp_path: Path) -> None:
    """However many do so at once, what one adds is there, and what one removes is gone."""
    keys = KeyFile(tmp_path / "keys.json")
    for number in range(20):
        keys.add(f"old{number}", f"{number:030}")

    def change(number: int) -> None:
        keys.add(f"new{number}", f"{number:040}")
        keys.remove(f"old{number}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(20)))
    assert sorted(keys.read()) == sorted(f"new{number}" for number in range(20))
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]
    assert keys.path.stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_removed_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    """An add waits for whoever is changing the file, and reads what that one left."""
    keys = KeyFile(tmp_path / "keys.json")
    keys.add("stolen", "s" * 30)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with files.locked(tmp_path):
            adding = pool.submit(keys.add, "new", "n" * 30)
            assert not concurrent.futures.wait([adding], 0.2).done
            keys.path.write_text("{}")
        adding.result(5)
    assert sorted(keys.read()) == ["new"]


def test_no_key_is_removed_where_there_is_no_file(tmp_path: Path) -> None:
    """It is told as any other that there is not, and no directory is made."""
    with pytest.raises(KeyFileError, match="no key of the name 'x'"):
        KeyFile(tmp_path / "nowhere" / "keys.json").remove("x")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "\xff"])
def test_a_damaged_key_file_serves_nobody(tmp_path: Path, text: str) -> None:
    """A file of keys that cannot be read is an error each time, never an empty or an old list."""
    path = tmp_path / "keys.json"
    KeyFile(path).add("a", "a" * 40)
    ring = Keyring(KeyFile(path), {})
    assert ring.identify("a" * 40) == "a"
    path.write_bytes(text.encode("latin-1"))
    for _ in range(2):
        with pytest.raises(KeyFileError):
            ring.identify("a" * 40)


def test_throttled_with_two_workers_is_the_documented_429(tmp_path: Path) -> None:
    """One count however many workers serve: burst and no more, then 429 with Retry-After."""
    with serving.serving(tmp_path, "--ephemeral", "--workers", "2") as server:
        order = {"csr": csrs.pem(csrs.build()).decode(), "text": False}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: server.sign(order), range(60)))
        signed = [answer for answer in found if answer.status == 200]
        throttled = [answer for answer in found if answer.status == 429]
        assert len(signed) + len(throttled) == 60
        plan = authorities.document()["x-usage-plan"]
        assert plan["burst"] <= len(signed) <= plan["burst"] + 15
        for answer in throttled:
            problem(answer, 429, "rateLimited")
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["x-amzn-ErrorType"] == "TooManyRequestsException"


def test_a_used_up_quota_is_the_documented_429(tmp_path: Path) -> None:
    """The quota's 429 has its own words, and says to come back later."""
    document = json.loads(json.dumps(authorities.document()))
    document["x-usage-plan"] = {"rate": 100, "burst": 100, "quota": 2, "period": "DAY"}
    with running.gateway(tmp_path, document, unlimited=False) as server:
        statuses = [server.sign({}).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        answer = server.sign({})
        assert "quota" in problem(answer, 429, "rateLimited")["detail"]
        assert int(answer.headers["Retry-After"]) > 60
        assert server.sign({}, API_KEY[::-1]).status == 200
        assert server.request("GET", "/health").status == 200


def test_public_operations_are_throttled_together(tmp_path: Path) -> None:
    """Public operations wake the function too, so they share a bucket."""
    with running.gateway(tmp_path, running.library(), unlimited=False) as server:
        statuses = [server.request("GET", "/books").status for _ in range(8)]
        assert statuses[:4] == [200] * 4
        assert 429 in statuses[4:]


def test_unlimited_says_so(tmp_path: Path) -> None:
    """`--unlimited` turns the usage plan off, with a warning."""
    with serving.serving(tmp_path, "--ephemeral", "--unlimited") as server:
        assert any("usage plan is off" in line for line in server.said)
        assert {server.request("GET", "/profiles").status for _ in range(60)} == {200}
