"""A fixture that shows measurements while the tests run."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def report_figures(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a line without waiting for the end of the test."""

    def print_line(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", end="", flush=True)  # noqa: T201 - the purpose of the fixture

    return print_line
