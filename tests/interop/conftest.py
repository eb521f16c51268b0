"""Verify all cases once per session, and print the matrix at the end."""

from __future__ import annotations

import pytest

from tests.interop import certificate_cases, matrix, verifiers
from tests.interop.certificate_cases import Chains
from tests.interop.verifiers import Results

_RESULTS = pytest.StashKey[tuple[Results, dict[str, float]]]()


@pytest.fixture(scope="session")
def chains() -> Chains:
    return dict(certificate_cases.positive_cases()) | dict(certificate_cases.negative_cases())


@pytest.fixture(scope="session")
def results(chains: Chains, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Results:
    directory = tmp_path_factory.mktemp("cases")
    certificate_cases.write_cases(directory, chains)
    pytestconfig.stash[_RESULTS] = verifiers.verify_all(directory, chains)
    return pytestconfig.stash[_RESULTS][0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the matrix."""
    if _RESULTS in config.stash:
        terminalreporter.section("certificates verified by other software")
        for line in matrix.format_matrix(*config.stash[_RESULTS]):
            terminalreporter.write_line(line)
