"""Other projects' software verifies certificates of every profile, CA key type and subject key type."""

from __future__ import annotations

import pytest

from tests.interop.certificate_cases import DEFECTS, PROFILES, Chains
from tests.interop.known_deviations import UNCHECKED_DEFECTS, UNSUPPORTED_KEYS, known_deviation, mismatch
from tests.interop.verifiers import NAMES, Results


@pytest.mark.parametrize("profile_or_defect", [*PROFILES, *DEFECTS])
@pytest.mark.parametrize("verifier", NAMES)
def test_valid_certificates_are_accepted_and_defects_refused(
    chains: Chains, results: Results, verifier: str, profile_or_defect: str
) -> None:
    """Verifiers accept valid certificates and report the expected error for defects, except for known deviations."""
    cases = [case for case in chains if (case.defect or case.profile) == profile_or_defect]
    assert cases
    mismatches = {case.folder: mismatch(verifier, case, results[verifier, case]) for case in cases}
    assert {folder: text for folder, text in mismatches.items() if text} == {}


def test_every_known_deviation_has_a_case(chains: Chains) -> None:
    """Every known deviation covers a case, and every verifier accepts some valid certificates."""
    deviations = {known_deviation(verifier, case) for verifier in NAMES for case in chains}
    assert [
        deviation for deviation in (*UNSUPPORTED_KEYS, *UNCHECKED_DEFECTS) if deviation not in deviations
    ] == []
    for verifier in NAMES:
        assert any(not case.defect and known_deviation(verifier, case) is None for case in chains)
