from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import imports, lambda_zip
from bench.imports import Imports
from bench.lambda_zip import Function
from bench.load import BenchError
from bench.results import Spread, Target
from bench.settings import SHORT

OUTPUT = """import time: self [us] | cumulative | imported package
import time:       300 |        300 |     _json
import time:       200 |        500 |   json
import time:      1000 |       1000 |     connexion.apis
import time:      2500 |       3500 |   connexion
import time:     10000 |      14000 | function
something else that the handler prints
"""


@pytest.fixture(scope="module")
def section(run_section: Callable[[str], Any]) -> Any:
    return run_section("zip")


def test_short_run_reports_the_zip(section: Any) -> None:
    """The report has the zip's size, cold start (also relative to the base), warm time, memory, and targets."""
    assert section["megabytes"] > 5
    assert section["warm"]["median"] > 0
    (cold,) = section["cold_starts"]
    assert cold["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert all(cold[name]["median"] > 0 for name in ("milliseconds", "ratio", "base_ratio"))
    assert cold["resident"] > 30
    targets = [section["megabytes_target"], section["warm_target"]]
    targets += [cold["target"], cold["base_target"], cold["resident_target"]]
    assert [target["bound"] for target in targets] == [12, 2.5, 3, 0.85, 100]


def test_short_run_reports_imports(section: Any) -> None:
    """The handler imports Connexion and cryptography, and its init phase takes time."""
    (row,) = section["imports"]
    packages = row["packages"]
    assert {"connexion", "cryptography", "service", imports.STANDARD_LIBRARY, imports.INIT} <= set(packages)
    assert sum(spread["median"] for spread in packages.values()) == pytest.approx(row["total"]["median"])


def test_import_time_is_that_of_a_package_itself() -> None:
    """What a module imports does not count for it; the standard library is one package."""
    times = {imports.STANDARD_LIBRARY: 0.5, "connexion": 3.5, imports.INIT: 10}
    assert imports.parse(OUTPUT) == times


def test_longest_imports_are_those_with_any_version() -> None:
    versions = [
        Imports("3.11", Spread.of([9]), {"a": Spread.of([1]), "b": Spread.of([8])}),
        Imports("3.13", Spread.of([9]), {"c": Spread.of([5]), "b": Spread.of([2])}),
    ]
    assert imports.longest(versions, 2) == ["b", "c"]


def test_import_failure_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text("import json")
    interpreter = Path(sys.executable)
    assert imports.measure(tmp_path, "3.11", interpreter, {}, 2).packages[imports.STANDARD_LIBRARY].median > 0
    (tmp_path / "function.py").write_text("import missing_package")
    with pytest.raises(BenchError, match=r"import of the zip's handler: .*missing_package"):
        imports.measure(tmp_path, "3.11", interpreter, {}, 1)


def respond(monkeypatch: pytest.MonkeyPatch, *milliseconds: float) -> None:
    """Have each function respond after these times, in turn."""
    times = iter(milliseconds)
    monkeypatch.setattr(Function, "first_response", lambda _: (next(times), 50.0))


@pytest.mark.parametrize(("base", "met"), [(100, True), (99, False)])
def test_cold_start_is_compared_in_the_same_round(
    monkeypatch: pytest.MonkeyPatch, base: float, *, met: bool
) -> None:
    """The first responses, which fill caches, do not count."""
    function = Function(*[Path()] * 4)
    respond(monkeypatch, 500, 500, 500, 85, 50, base)
    row = lambda_zip.compare([function] * 3, "3.11", 1)
    assert (row.milliseconds.median, row.ratio.median) == (85, 1.7)
    assert row.base_target == Target(0.85, met, at_most=True)
    respond(monkeypatch, 500, 500, 85, 50)
    row = lambda_zip.compare([function] * 2, "3.11", 1)
    assert (row.base_ratio, row.base_target) == (None, None)


@pytest.mark.parametrize(("status", "is_success"), [(200, True), (422, False)])
def test_cold_start_without_a_certificate_is_an_error(
    tmp_path: Path, status: int, *, is_success: bool
) -> None:
    """The runtime client is a program that responds to one event."""
    client = f"""
import json, os, time, urllib.request
api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
with urllib.request.urlopen(api + "next") as event:
    request = event.headers["Lambda-Runtime-Aws-Request-Id"]
response = json.dumps({{"statusCode": {status}}}).encode()
urllib.request.urlopen(api + request + "/response", response).close()
time.sleep(60)  # until it is killed
"""
    (tmp_path / "awslambdaric.py").write_text(client)
    function = Function(tmp_path, Path(sys.executable), tmp_path, tmp_path / "log")
    with contextlib.nullcontext() if is_success else pytest.raises(BenchError, match="'statusCode': 422"):
        assert function.first_response()[0] > 0


def test_missing_pythons_are_reported(tmp_path: Path) -> None:
    """A Python that is not on this machine is left out; without any, there are no figures."""
    with pytest.raises(BenchError, match=r"none of the Pythons 2\.6 is on this machine"):
        lambda_zip.measure(tmp_path, replace(SHORT, pythons=("2.6",)), None)
