from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import source
from bench.load import BenchError
from tests import servers


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose only module is a command line with the option of earlier commits."""
    cli = tmp_path / "service" / "cli.py"
    cli.parent.mkdir()
    cli.write_text("print('--unlimited')")
    commit(tmp_path)
    monkeypatch.setattr(servers, "ROOT", tmp_path)
    return tmp_path


def commit(directory: Path) -> None:
    """Commit all files."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "test")):
        subprocess.run(["git", "-C", directory, *arguments], check=True)


def test_checkout_runs_the_code_of_the_commit(repository: Path) -> None:
    """Later changes are not in the copy, which is deleted afterwards."""
    (repository / "service" / "cli.py").write_text("raise SystemExit('changed')")
    with source.checkout("HEAD") as earlier:
        assert earlier.no_usage_plan == "--unlimited"
        assert earlier.run("service.cli", cwd=repository) == "--unlimited\n"
    assert not earlier.root.exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import missing_package",
            r"[0-9a-f]{7} does not run with the installed packages: .*'missing_package'",
        ),
        ("print('--port')", r"`certlet serve` of [0-9a-f]{7} has none of --no-usage-plan, --unlimited"),
    ],
)
def test_commit_that_cannot_be_measured_is_reported(repository: Path, code: str, message: str) -> None:
    (repository / "service" / "cli.py").write_text(code)
    commit(repository)
    with pytest.raises(BenchError, match=message), source.checkout("HEAD"):
        pass


@pytest.mark.parametrize("revision", ["unknown", "--help"])
def test_unknown_commit_is_reported(repository: Path, revision: str) -> None:
    with pytest.raises(BenchError, match="Needed a single revision"), source.checkout(revision):
        pass
