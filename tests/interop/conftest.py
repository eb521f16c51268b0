"""All cases and all verdicts, made once; and the matrix, printed at the end."""

from __future__ import annotations

import pytest

from tests.interop import certificate_cases, matrix, verifiers
from tests.interop.certificate_cases import Exhibits
from tests.interop.verifiers import Verdicts

_JUDGED = pytest.StashKey[tuple[Verdicts, dict[str, float]]]()


@pytest.fixture(scope="session")
def exhibits() -> Exhibits:
    return dict(certificate_cases.positives()) | dict(certificate_cases.twins())


@pytest.fixture(scope="session")
def verdicts(
    exhibits: Exhibits, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Verdicts:
    directory = tmp_path_factory.mktemp("judged")
    certificate_cases.write(directory, exhibits)
    pytestconfig.stash[_JUDGED] = verifiers.judge(directory, exhibits)
    return pytestconfig.stash[_JUDGED][0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The matrix."""
    if _JUDGED in config.stash:
        terminalreporter.section("certificates judged by others")
        for line in matrix.lines(*config.stash[_JUDGED]):
            terminalreporter.write_line(line)
