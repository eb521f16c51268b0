"""Certificates of every profile, kind of CA key and kind of subject key, judged by what nobody here wrote."""

from __future__ import annotations

import pytest

from tests.judges.cases import PROFILES, TWINS, Exhibits
from tests.judges.gaps import KINDS, OVERSIGHTS, fault, gap
from tests.judges.panel import NAMES, Verdicts


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("judge", NAMES)
def test_what_we_issue_is_accepted(exhibits: Exhibits, verdicts: Verdicts, judge: str, profile: str) -> None:
    """Every judge that knows the keys accepts every certificate, for what its profile is for; the others say that they do not."""
    asked = [case for case in exhibits if case.profile == profile and not case.twin]
    assert asked
    found = {case.folder: fault(judge, case, verdicts[judge, case]) for case in asked}
    assert {folder: text for folder, text in found.items() if text} == {}


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("judge", NAMES)
def test_what_is_wrong_is_refused(exhibits: Exhibits, verdicts: Verdicts, judge: str, twin: str) -> None:
    """The negative twins: each is refused, for the very thing that is wrong; or the judge is known not to look."""
    asked = [case for case in exhibits if case.twin == twin]
    assert asked
    found = {case.folder: fault(judge, case, verdicts[judge, case]) for case in asked}
    assert {folder: text for folder, text in found.items() if text} == {}


def test_no_gap_is_idle(exhibits: Exhibits) -> None:
    """Each gap is the reason of some case, and each judge is left with something to judge."""
    used = {gap(judge, case) for judge in NAMES for case in exhibits}
    assert [each for each in (*KINDS, *OVERSIGHTS) if each not in used] == []
    for judge in NAMES:
        assert any(not case.twin and gap(judge, case) is None for case in exhibits)
