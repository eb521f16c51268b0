from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import acme, base, baselines, comparison, contenders, endpoints, load, results
from bench.contenders import Server
from bench.load import BenchError, Load, Refused
from bench.results import Spread, Target
from service.keystore import ca_directory
from tests import csrs, servers

NAMES = ["cfssl", "POST /sign", "POST /sign.pem", "POST /sign/batch of 20"]


def is_positive(value: object) -> bool:
    """Whether a value is a positive, finite number."""
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def test_short_run_reports_every_figure(short_run: Path) -> None:
    """Each endpoint has rate, ratio, latency, processor time and memory, for both CAs, at 1 and 8 connections."""
    document = json.loads((short_run / "bench.json").read_text())["comparison"]
    rows = [(row["ca"], row["connections"], row["name"]) for row in document["served"]]
    assert rows == [(ca, number, name) for ca in contenders.KEY_TYPES for number in (1, 8) for name in NAMES]
    for row in document["served"]:
        figures = [row["rate"], row["p50"], row["p99"], row["cpu"], row["resident"]]
        if row["name"] != "cfssl":
            figures += [row["ratio"], row["cpu_ratio"]]
        for figure in figures:
            assert all(map(is_positive, figure.values() if isinstance(figure, dict) else [figure])), row
        has_target = row["connections"] == 8 and row["name"] in (NAMES[1], NAMES[3])
        assert (row["target"] is not None) == has_target, row
    assert [share["ca"] for share in document["shares"]] == list(contenders.KEY_TYPES)
    assert all(is_positive(share["ratio"]["median"]) for share in document["shares"])


def test_short_run_reports_every_baseline(short_run: Path) -> None:
    """Issuance, the library and OpenSSL are measured for both CAs."""
    costs = json.loads((short_run / "bench.json").read_text())["comparison"]["costs"]
    names = [
        baselines.ISSUE,
        baselines.ISSUE_ALL,
        baselines.LOAD,
        baselines.VERIFY_CSR,
        baselines.SIGN,
        baselines.PEM,
    ]
    names += [baselines.OPENSSL_SIGN, baselines.OPENSSL_VERIFY]
    expected = [(ca, name) for ca in contenders.KEY_TYPES for name in names]
    assert [(cost["ca"], cost["name"]) for cost in costs] == expected
    assert all(is_positive(cost["microseconds"]["median"]) for cost in costs)


def test_short_run_reports_the_zip(short_run: Path) -> None:
    """The report has the zip's size, cold start, warm time and memory, with their targets."""
    document = json.loads((short_run / "bench.json").read_text())["lambda_zip"]
    values = [
        document["megabytes"],
        document["cold"]["median"],
        document["warm"]["median"],
        document["resident"],
    ]
    assert all(map(is_positive, values))
    assert [target["bound"] for target in document["targets"]] == [12, 3, 2.5, 100]


def test_short_run_compares_with_the_base(short_run: Path) -> None:
    """The base is the last commit here, and has rate, ratio and processor time for single requests and batches."""
    document = json.loads((short_run / "bench.json").read_text())["base"]
    assert [row["name"] for row in document] == [NAMES[1], NAMES[3]]
    for row in document:
        figures = [*row["rates"], row["ratio"], row["cpu_ratio"]]
        assert all(is_positive(value) for figure in figures for value in figure.values()), row


@pytest.mark.parametrize(("requests", "met"), [(114, False), (115, True)])
def test_target_against_the_base_is_a_ratio_of_rates(requests: int, *, met: bool) -> None:
    """15 % more requests than the base, for half of its processor time."""
    row = base.compute("POST /sign", 1, [(measurement(requests, cpu=requests / 200), measurement(100))])
    assert (row.ratio.median, row.target) == (requests / 100, Target(1.15, met))
    assert row.cpu_ratio.median == pytest.approx(2)


def test_short_run_compares_acme_with_pebble(short_run: Path) -> None:
    """pebble's orders need challenges, and its clients ask until the certificate is there."""
    document = json.loads((short_run / "bench.json").read_text())["acme"]
    assert [figures["ca"] for figures in document] == list(contenders.KEY_TYPES)
    for figures in document:
        certlet, pebble = figures["requests"]
        assert (certlet, pebble >= 9) == (3, True)
        assert all(map(is_positive, [*figures["waited"], *figures["ratio"].values()])), figures
        assert figures["target"]["bound"] == 2


def test_short_run_compares_responses_to_bad_requests(short_run: Path) -> None:
    """The report shows Certlet's problem code and cfssl's response for each bad request."""
    document = json.loads((short_run / "bench.json").read_text())["comparison"]["differences"]
    refusals = ["422 badCSR", "422 badPublicKey", "422 badPublicKey", "422 rejectedIdentifier"]
    assert [difference["certlet"] for difference in document] == [*refusals, "403 unauthorized"]
    assert all(difference["cfssl"] for difference in document)


def test_ratio_divides_medians_and_spreads_over_rounds() -> None:
    """The median is the ratio of the medians; the extremes are ratios of consecutive measurements."""
    assert Spread.ratio([2, 4, 9], [1, 4, 3]) == Spread(4 / 3, 1, 3)


def measurement(requests: int, cpu: float = 1) -> Load:
    """A measurement over two seconds."""
    return Load(requests, 2, 900, 1, 2, cpu, 50)


@pytest.mark.parametrize(("requests", "met"), [(9, False), (10, True)])
def test_target_of_a_batch_counts_certificates(requests: int, *, met: bool) -> None:
    """A batch of 10 counts as 10: 10 batches to 100 requests are cfssl's rate; 9 miss the target."""
    endpoint = endpoints.sign_batch(endpoints.requests()[:10])
    pair = results.Pair(endpoint, measurement(requests), measurement(100))
    cfssl, row = results.served("p-256", 8, [[pair]])
    assert (cfssl.rate.median, cfssl.ratio, cfssl.target) == (50, None, None)
    assert (row.rate.median, row.target) == (requests * 5, Target(1.0, met))
    assert results.served("p-256", 1, [[pair]])[1].target is None


@pytest.mark.parametrize(("microseconds", "met"), [(1540, True), (1530, False)])
def test_batch_over_http_has_a_target_relative_to_issuance(microseconds: float, *, met: bool) -> None:
    """2,000 µs over HTTP are at most 1.3 times 1,540 µs, but more than 1.3 times 1,530 µs."""
    pair = results.Pair(endpoints.sign_batch(endpoints.requests()[:10]), measurement(100), measurement(100))
    share = results.share("p-256", [pair], [[baselines.Baseline(baselines.ISSUE, microseconds)]])
    assert share.target == Target(1.3, met, at_most=True)
    assert str(share.target).endswith("met" if met else "missed")


def test_failed_requests_invalidate_a_measurement(certlet: Server) -> None:
    """With a wrong API key the measurement fails; with the right one it succeeds."""
    endpoint = endpoints.sign(endpoints.requests())
    wrong_key = {**endpoint.headers, "x-api-key": "wrong"}
    with pytest.raises(Refused, match=r"'refused': [1-9]"):
        load.run(certlet.pid, certlet.url + endpoint.path, wrong_key, endpoint.bodies, 1, 1)
    result = load.run(certlet.pid, certlet.url + endpoint.path, endpoint.headers, endpoint.bodies, 1, 1)
    assert result.requests > 0
    assert result.cpu > 0


def test_certificates_of_another_ca_invalidate_a_measurement(certlet: Server, directory: Path) -> None:
    """Each certificate must be issued by the server's CA."""
    endpoint = endpoints.sign(endpoints.requests())
    assert contenders.verify(certlet, endpoint, 7) > 1000
    assert servers.certlet("init", directory / "other", cwd=directory).returncode == 0
    with pytest.raises(BenchError, match="another issuer than the CA"):
        contenders.verify(replace(certlet, ca=directory / "other"), endpoint, 7)


def test_certificates_for_another_request_invalidate_a_measurement(certlet: Server) -> None:
    """Each certificate must have the key and name of its request."""
    endpoint = endpoints.sign(endpoints.requests())
    with pytest.raises(BenchError, match="another key or name"):
        contenders.verify(certlet, replace(endpoint, csrs=endpoint.csrs[1:]), 0)


def test_failures_within_a_batch_invalidate_a_measurement(certlet: Server) -> None:
    """A batch is 200 even if nothing was signed; the size of the responses shows this."""
    endpoint = endpoints.sign_batch(endpoints.requests()[:20])
    garbage = json.dumps({"requests": [{"csr": "garbage"}] * 20}).encode()
    assert contenders.measure(certlet, endpoint, 1, 1).requests > 0
    with pytest.raises(BenchError, match="bytes per response under load"):
        contenders.measure(certlet, replace(endpoint, bodies=(endpoint.bodies[0], *[garbage] * 9)), 1, 1)


def test_all_processes_of_a_server_run_on_its_core(certlet: Server) -> None:
    """Supervisor, gateway and worker run only on the server's core."""
    processes = [certlet.pid, *servers.descendant_pids(certlet.pid)]
    assert len(processes) == 3
    assert {frozenset(os.sched_getaffinity(pid)) for pid in processes} == {frozenset({load.cores()[0]})}


@pytest.fixture(scope="module")
def acme_certlet(directory: Path) -> Iterator[tuple[Server, acme.Client]]:
    with acme.certlet(directory / "acme", contenders.create_ca(directory, "p-256")) as pair:
        yield pair


def test_acme_processor_time_is_of_each_issuance(acme_certlet: tuple[Server, acme.Client]) -> None:
    """An issuance is three requests on one connection."""
    result = acme.measure(*acme_certlet, itertools.count(), 10)
    assert (result.count, result.requests) == (10, 30)
    assert 0 < result.cpu < 10
    assert result.waited > 0


def test_acme_refusal_invalidates_a_measurement(acme_certlet: tuple[Server, acme.Client]) -> None:
    """The error contains the server's problem."""
    _, client = acme_certlet
    with pytest.raises(BenchError, match=r"403 .*rejectedIdentifier"):
        client.get_certificate("not a name")
    assert len(client.get_certificate("a.example.com")) == 2


def test_acme_certificate_for_another_request_invalidates_a_measurement(
    acme_certlet: tuple[Server, acme.Client],
) -> None:
    chain = acme_certlet[1].get_certificate("a.example.com")
    with pytest.raises(BenchError, match="another key or name"):
        acme.verify(chain, csrs.build(None, ["dns:b.example.com"]))
    with pytest.raises(BenchError, match="another issuer"):
        acme.verify(chain[::-1], csrs.build(None, ["dns:a.example.com"]))


@pytest.mark.parametrize("start", [contenders.certlet, contenders.cfssl])
def test_servers_stop_after_a_failure(start: Any, tmp_path: Path, ca: Path) -> None:
    """No process is left when the benchmark fails."""
    processes: list[int] = []
    with contextlib.suppress(KeyError), start(tmp_path / "server", ca) as server:
        processes = [server.pid, *servers.descendant_pids(server.pid)]
        raise KeyError
    assert processes
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_cfssl_start_failure_is_reported(tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains cfssl's message; a cfssl that starts without a CA and cannot sign is an error too."""
    (tmp_path / ca_directory.SIGNING_CERTIFICATE).write_bytes(
        (ca / ca_directory.SIGNING_CERTIFICATE).read_bytes()
    )
    with (
        contenders.cfssl(tmp_path / "idle", tmp_path) as server,
        pytest.raises(BenchError, match="/sign: 404"),
    ):
        contenders.verify(server, endpoints.cfssl_sign(endpoints.requests()), 0)
    monkeypatch.setattr(contenders, "CFSSL_POLICY", {"signing": {"default": {"expiry": "soon"}}})
    with (
        pytest.raises(BenchError, match=r"did not start: [\s\S]*soon"),
        contenders.cfssl(tmp_path / "other", ca),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "has_hint"), [(Refused("u: {'refused': 1}"), True), (BenchError("u: no"), False)]
)
def test_failed_section_is_reported_and_has_no_figures(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: Exception,
    *,
    has_hint: bool,
) -> None:
    """The other sections are measured. If requests failed, the error suggests smaller batches."""

    def fail(_directory: object, _settings: object) -> None:
        raise error

    monkeypatch.setattr(comparison, "compare", fail)
    monkeypatch.setattr(acme, "compare", lambda _settings: [])
    arguments = ["--short", "--only", "cfssl", "--only", "acme", "--output-dir", str(tmp_path)]
    assert command.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"bench: cfssl: {error}"
    assert [command.BATCH_HINT in line for line in lines[1:]] == [True] * has_hint
    document = json.loads((tmp_path / "bench.json").read_text())
    assert (document["comparison"], document["acme"]) == (None, [])


def test_partial_run_leaves_the_committed_figures_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run with --only or --short writes only to the output folder; a complete one writes both."""
    monkeypatch.setattr(command, "FIGURES", tmp_path / "figures.md")
    monkeypatch.setattr(command, "SECTIONS", {"acme": (0, 0)})
    monkeypatch.setattr(acme, "compare", lambda _settings: [])
    for arguments in (["--only", "acme"], ["--short"]):
        assert command.main([*arguments, "--output-dir", str(tmp_path / "out")]) == 0
        assert not command.FIGURES.exists()
    assert command.main(["--output-dir", str(tmp_path / "out")]) == 0
    assert command.FIGURES.read_text() == (tmp_path / "out" / "figures.md").read_text()


def test_unknown_base_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["--base", "unknown", "--output-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("bench: --base: git: fatal: not a valid object name")
    assert not list(tmp_path.iterdir())
