from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import figures, floors, load, peers
from bench.figures import Spread, Target
from bench.load import BenchError, Load, Refused
from bench.peers import Server
from service.keystore import ca_directory
from tests import servers

NAMES = ["cfssl", "POST /sign", "POST /sign.pem", "POST /sign/batch of 20"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def ca(directory: Path) -> Path:
    assert servers.certlet("init", directory / "ca", cwd=directory).returncode == 0
    return directory / "ca"


@pytest.fixture(scope="module")
def ours(directory: Path, ca: Path) -> Iterator[Server]:
    with peers.certlet(directory / "ours", ca) as server:
        yield server


@pytest.fixture(scope="module")
def short(directory: Path) -> Path:
    """What a short run wrote; what it put nowhere else."""
    before = command.FIGURES.read_bytes()
    short_run = (sys.executable, "-m", "bench", "--short", "--output-dir", directory / "out")
    ran = servers.run(*short_run, cwd=servers.ROOT, timeout=1800)
    assert (directory / "out" / "figures.md").read_text() in ran.stdout
    assert command.FIGURES.read_bytes() == before
    return directory / "out"


def is_positive(value: object) -> bool:
    """Whether it is a figure: a finite number above nothing."""
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def test_a_short_run_has_every_figure(short: Path) -> None:
    """Each way of asking, under both CAs, at 1 and 8 connections: rate, ratio, latency, processor time, memory."""
    found = json.loads((short / "bench.json").read_text())["comparison"]
    rows = [(row["ca"], row["connections"], row["name"]) for row in found["served"]]
    assert rows == [(ca, number, name) for ca in peers.KINDS for number in (1, 8) for name in NAMES]
    for row in found["served"]:
        figures = [row["rate"], row["p50"], row["p99"], row["cpu"], row["resident"]]
        if row["name"] != "cfssl":
            figures += [row["ratio"], row["cpu_ratio"]]
        for each in figures:
            assert all(map(is_positive, each.values() if isinstance(each, dict) else [each])), row
        judged = row["connections"] == 8 and row["name"] in (NAMES[1], NAMES[3])
        assert (row["target"] is not None) == judged, row
    assert [share["ca"] for share in found["shares"]] == list(peers.KINDS)
    assert all(is_positive(share["ratio"]["median"]) for share in found["shares"])


def test_a_short_run_has_every_floor(short: Path) -> None:
    """The story, the library and OpenSSL alone, under both CAs."""
    costs = json.loads((short / "bench.json").read_text())["comparison"]["costs"]
    names = [floors.ISSUE, floors.ISSUE_ALL, floors.LOAD, floors.PROVE, floors.SIGN, floors.PEM]
    names += [floors.OPENSSL_SIGN, floors.OPENSSL_VERIFY]
    expected = [(ca, name) for ca in peers.KINDS for name in names]
    assert [(cost["ca"], cost["name"]) for cost in costs] == expected
    assert all(is_positive(cost["microseconds"]["median"]) for cost in costs)


def test_a_short_run_has_the_zip(short: Path) -> None:
    """Size, cold start, warm time, memory."""
    found = json.loads((short / "bench.json").read_text())["zip"]
    values = [found["megabytes"], found["cold"]["median"], found["warm"]["median"], found["resident"]]
    assert all(map(is_positive, values))
    assert [target["bound"] for target in found["targets"]] == [12, 3, 2.5, 100]


def test_a_short_run_tells_them_apart(short: Path) -> None:
    """Ours refuses each bad request, by its own code; what cfssl does with it stands beside it."""
    found = json.loads((short / "bench.json").read_text())["comparison"]["differences"]
    refusals = ["422 badCSR", "422 badPublicKey", "422 badPublicKey", "422 rejectedIdentifier"]
    assert [each["ours"] for each in found] == [*refusals, "403 unauthorized"]
    assert all(each["theirs"] for each in found)


def test_ratios_are_of_medians_with_the_spread_of_rounds() -> None:
    """The medians are divided; least and most are of what was measured one after the other."""
    assert Spread.ratio([2, 4, 9], [1, 4, 3]) == Spread(4 / 3, 1, 3)


def loaded(requests: int, cpu: float = 1) -> Load:
    """Two seconds of load."""
    return Load(requests, 2, 900, 1, 2, cpu, 50)


@pytest.mark.parametrize(("requests", "kept"), [(7, False), (8, True)])
def test_targets_are_judged_by_the_ratio_per_certificate(requests: int, *, kept: bool) -> None:
    """A batch of 10 counts ten times: 8 requests against 100 are 0.8 of cfssl's rate, and 7 are not enough."""
    endpoint = peers.sign_batch(peers.requests()[:10])
    pair = figures.Pair(endpoint, loaded(requests), loaded(100))
    theirs, row = figures.served("p-256", 8, [[pair]])
    assert (theirs.rate.median, theirs.ratio, theirs.target) == (50, None, None)
    assert (row.rate.median, row.target) == (requests * 5, Target(0.8, kept))
    assert figures.served("p-256", 1, [[pair]])[1].target is None


@pytest.mark.parametrize(("microseconds", "kept"), [(1540, True), (1530, False)])
def test_a_batch_is_judged_by_the_bare_loop(microseconds: float, *, kept: bool) -> None:
    """2,000 µs over HTTP are at most 1.3 times the loop, or not."""
    pair = figures.Pair(peers.sign_batch(peers.requests()[:10]), loaded(100), loaded(100))
    share = figures.share("p-256", [pair], [[floors.Floor(floors.ISSUE, microseconds)]])
    assert share.target == Target(1.3, kept, at_most=True)
    assert str(share.target).endswith("kept" if kept else "missed")


def test_refused_answers_do_not_count(ours: Server) -> None:
    """With a wrong API key a server is fast, and nothing is measured; with the right one it is."""
    right = peers.sign(peers.requests())
    wrong = {**right.headers, "x-api-key": "wrong"}
    with pytest.raises(Refused, match=r"'refused': [1-9]"):
        load.run(ours.pid, ours.url + right.path, wrong, right.bodies, 1, 1)
    found = load.run(ours.pid, ours.url + right.path, right.headers, right.bodies, 1, 1)
    assert found.requests > 0
    assert found.cpu > 0


def test_certificates_of_another_ca_do_not_count(ours: Server, directory: Path) -> None:
    """An answer is verified under the CA that was to sign it."""
    endpoint = peers.sign(peers.requests())
    assert peers.verify(ours, endpoint, 7) > 1000
    assert servers.certlet("init", directory / "other", cwd=directory).returncode == 0
    with pytest.raises(BenchError, match="not by the CA"):
        peers.verify(replace(ours, ca=directory / "other"), endpoint, 7)


def test_certificates_for_another_request_do_not_count(ours: Server) -> None:
    """An answer is held against its own request."""
    swapped = peers.sign(peers.requests()[1:])
    with pytest.raises(BenchError, match="another key or name"):
        peers.verify(ours, swapped, 0)


def test_refusals_within_a_batch_do_not_count(ours: Server) -> None:
    """A batch is 200 even if nothing was signed: the answers under load are as long as good ones, or it is seen."""
    good = peers.sign_batch(peers.requests()[:20])
    garbage = json.dumps({"requests": [{"csr": "garbage"}] * 20}).encode()
    assert peers.measure(ours, good, 1, 1).requests > 0
    with pytest.raises(BenchError, match="octets an answer under load"):
        peers.measure(ours, replace(good, bodies=(good.bodies[0], *[garbage] * 9)), 1, 1)


def test_all_of_a_servers_processes_are_measured_on_its_core(ours: Server) -> None:
    """Supervisor, gateway and worker; one that is somewhere else is told."""
    processes = [ours.pid, *servers.descendants(ours.pid)]
    assert len(processes) == 3
    assert {frozenset(os.sched_getaffinity(each)) for each in processes} == {frozenset({load.cores()[0]})}


@pytest.mark.parametrize("start", [peers.certlet, peers.cfssl])
def test_servers_end_with_the_bench(start: Any, tmp_path: Path, ca: Path) -> None:
    """Also when it fails: no process is left."""
    processes: list[int] = []
    with contextlib.suppress(KeyError), start(tmp_path / "server", ca) as server:
        processes = [server.pid, *servers.descendants(server.pid)]
        raise KeyError
    assert processes
    assert not [each for each in processes if Path(f"/proc/{each}").exists()]


def test_cfssl_that_does_not_start_is_told(tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words are in the error; without a CA it does start, and signs nothing, which is told too."""
    (tmp_path / ca_directory.SIGNING_CERTIFICATE).write_bytes(
        (ca / ca_directory.SIGNING_CERTIFICATE).read_bytes()
    )
    with peers.cfssl(tmp_path / "idle", tmp_path) as server, pytest.raises(BenchError, match="/sign: 404"):
        peers.verify(server, peers.cfssl_sign(peers.requests()), 0)
    monkeypatch.setattr(peers, "CFSSL_POLICY", {"signing": {"default": {"expiry": "soon"}}})
    with pytest.raises(BenchError, match=r"does not start: [\s\S]*soon"), peers.cfssl(tmp_path / "other", ca):
        pass


@pytest.mark.parametrize(
    ("error", "is_helped"), [(Refused("u: {'refused': 1}"), True), (BenchError("u: no"), False)]
)
def test_who_is_refused_hears_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, *, is_helped: bool
) -> None:
    """A run that a slow machine ends says how to have another that it does not."""

    def measured(_options: object) -> None:
        raise error

    monkeypatch.setattr(command, "_measure", measured)
    assert command.main(["--short"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"bench: {error}"
    assert [command.SMALLER in line for line in said[1:]] == [True] * is_helped
