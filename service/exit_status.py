"""The exit statuses of `certlet`, which say to scripts why a command failed."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum


class ExitStatus(IntEnum):
    """What a command says to its caller; `certlet list --exit-code` has one more."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    TRY_LATER = 3
    NOT_PERMITTED = 4
    UNREACHABLE = 5


def of_error(error: BaseException) -> ExitStatus:
    """Return the exit status for an error: its own, or that of a missing permission, or 1."""
    if isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError):
        return ExitStatus.NOT_PERMITTED
    return getattr(error, "exit_status", ExitStatus.REFUSED)


def of_all(failures: Collection[ExitStatus]) -> ExitStatus:
    """Return the exit status for several files: 0 without failures, the status of all, or else 1."""
    if not failures:
        return ExitStatus.DONE
    return next(iter(failures)) if len(set(failures)) == 1 else ExitStatus.REFUSED
