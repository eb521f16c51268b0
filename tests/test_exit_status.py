"""The exit status of errors, for one file and for several."""

from __future__ import annotations

import pytest

from service import exit_status
from service.client import ClientError
from service.exit_status import ExitStatus


def caused_by(cause: BaseException) -> BaseException:
    error = RuntimeError("wrapped")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClientError("busy", ExitStatus.TRY_LATER), 3),
        (ClientError("refused"), 1),
        (PermissionError(), 4),
        (FileNotFoundError(), 1),
        (caused_by(PermissionError()), 4),
        (caused_by(FileNotFoundError()), 1),
    ],
)
def test_error_has_its_exit_status(error: BaseException, status: int) -> None:
    """A missing permission counts if it is the cause, too."""
    assert exit_status.of_error(error) == status


@pytest.mark.parametrize(("failures", "status"), [((), 0), ((3, 3), 3), ((5,), 5), ((3, 5), 1), ((1, 4), 1)])
def test_failures_of_several_files_have_one_exit_status(failures: tuple[int, ...], status: int) -> None:
    """It is theirs if all are alike, otherwise 1."""
    assert exit_status.of_all([ExitStatus(failure) for failure in failures]) == status
