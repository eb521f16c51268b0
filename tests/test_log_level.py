"""Which messages the levels of the log include."""

from __future__ import annotations

import sys

import pytest

from tests import servers

PROGRAM = """
import logging, sys
from service import log_level
log_level.configure(sys.argv[1])
for name in ("service.x", "__main__", "botocore.parsers"):
    for level in log_level.LEVELS:
        getattr(logging.getLogger(name), level)("message")
"""


@pytest.mark.parametrize(
    ("level", "ours", "others"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]),
        ("warning", ["WARNING", "ERROR"], ["WARNING", "ERROR"]),
        ("", ["WARNING", "ERROR"], ["WARNING", "ERROR"]),
        ("error", ["ERROR"], ["ERROR"]),
    ],
)
def test_level_selects_messages(level: str, ours: list[str], others: list[str]) -> None:
    """Other packages log no secrets of AWS's responses, whatever the level is."""
    lines = servers.run(sys.executable, "-c", PROGRAM, level).stderr.splitlines()
    assert lines == [
        f"{name}:{logger}:message"
        for logger, names in (("service.x", ours), ("__main__", ours), ("botocore.parsers", others))
        for name in names
    ]
