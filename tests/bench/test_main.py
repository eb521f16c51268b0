from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import acme, comparison
from bench.load import BenchError, Refused


@pytest.mark.parametrize(
    ("error", "line", "has_hint"),
    [
        (Refused("u: {'refused': 1}"), "u: {'refused': 1}", True),
        (BenchError("u: no"), "u: no", False),
        (TimeoutError("u"), "TimeoutError('u')", False),
    ],
)
def test_failed_section_is_reported_and_has_no_figures(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: Exception,
    line: str,
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
    first, *others = capsys.readouterr().err.splitlines()
    assert first == f"bench: cfssl: {line}"
    assert [command.BATCH_HINT in other for other in others] == [True] * has_hint
    document = json.loads((tmp_path / "bench.json").read_text())
    assert (document["comparison"], document["acme"]) == (None, [])


def test_partial_run_leaves_the_committed_figures_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run with --only or --short writes only to the output folder; a complete one writes both."""
    monkeypatch.setattr(command, "FIGURES", tmp_path / "figures.md")
    monkeypatch.setattr(command, "PLOTS", tmp_path / "plots")
    monkeypatch.setattr(command, "SECTIONS", {"acme": (0, 0)})
    monkeypatch.setattr(acme, "compare", lambda _settings: [])
    for arguments in (["--only", "acme"], ["--short"]):
        assert command.main([*arguments, "--output-dir", str(tmp_path / "out")]) == 0
        assert not command.FIGURES.exists()
        assert not command.PLOTS.exists()
    assert command.main(["--output-dir", str(tmp_path / "out")]) == 0
    assert command.FIGURES.read_text() == (tmp_path / "out" / "figures.md").read_text()
    assert command.PLOTS.is_dir()


def test_unknown_base_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["--base", "unknown", "--output-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("bench: --base: unknown is not a commit: ")
    assert not list(tmp_path.iterdir())


def test_section_of_the_base_requires_a_base(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "base"])
    assert "--only base requires --base REV" in capsys.readouterr().err
