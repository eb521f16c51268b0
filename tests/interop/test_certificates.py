"""Certificates of every profile, kind of CA key and kind of subject key, judged by what nobody here wrote."""

from __future__ import annotations

import pytest

from tests.interop.certificate_cases import PROFILES, TWINS, Exhibits
from tests.interop.known_deviations import KINDS, OVERSIGHTS, fault, gap
from tests.interop.verifiers import NAMES, Verdicts


@pytest.mark.parametrize("kind", [*PROFILES, *TWINS])
@pytest.mark.parametrize("judge", NAMES)
def test_certificate_is_accepted_and_its_twin_refused(
    exhibits: Exhibits, verdicts: Verdicts, judge: str, kind: str
) -> None:
    """Every judge that knows the keys accepts every certificate of a profile, for what the profile is for, and
    refuses each negative twin for the very thing that is wrong; or it is known not to know, or not to look.
    """
    asked = [case for case in exhibits if (case.twin or case.profile) == kind]
    assert asked
    found = {case.folder: fault(judge, case, verdicts[judge, case]) for case in asked}
    assert {folder: text for folder, text in found.items() if text} == {}


def test_no_gap_is_idle(exhibits: Exhibits) -> None:
    """Each gap is the reason of some case, and each judge is left with something to judge."""
    used = {gap(judge, case) for judge in NAMES for case in exhibits}
    assert [each for each in (*KINDS, *OVERSIGHTS) if each not in used] == []
    for judge in NAMES:
        assert any(not case.twin and gap(judge, case) is None for case in exhibits)
