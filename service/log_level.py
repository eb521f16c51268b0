"""The log: lines on stderr about what a process does, next to the audit log and the access log."""

from __future__ import annotations

import logging
import sys
from typing import Final

VARIABLE: Final = "CERTLET_LOG_LEVEL"
LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULT: Final = "warning"


def configure(level: str) -> None:
    """Log from this level on; '' for the default.

    Other packages log only warnings and errors: at `debug`, botocore logs the secrets that AWS returns.
    """
    number = getattr(logging, (level or DEFAULT).upper())
    logging.basicConfig(stream=sys.stderr)
    logging.getLogger().setLevel(max(number, logging.WARNING))
    for name in ("service", "__main__"):  # the latter is the module of a process
        logging.getLogger(name).setLevel(number)
