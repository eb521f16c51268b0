"""A process that holds secrets keeps its memory to itself: no core file, no debugger of the same user.

Workers hold the CA's key, the supervisor the passphrase, the gateway API keys as they come in.
A core file of any of them would hold these too, in a directory that nobody guards.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

SECRET_ENV_PREFIXES: Final = (
    "CERTLET_CA_PASSPHRASE",
    "CERTLET_KEY_PASSPHRASE",
    "CERTLET_P12_PASSWORD",
    "CERTLET_API_KEY",
    "AWS_",
)
"""How the names of variables begin that may hold a secret: only processes that need them get them."""

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def disable_core_dumps_and_ptrace() -> None:
    """From now on this process leaves no core file, and nobody but root reads its memory.

    RLIMIT_CORE is 0, for its children too; where cores are piped to a program the kernel heeds no limit, so
    on Linux the process is not dumpable either (prctl(2), PR_SET_DUMPABLE). That ends at the next
    `execve`, so each process seals itself. It also closes /proc/PID/mem and /proc/PID/environ to others
    of the same user: what got hold of the gateway's process cannot read a worker's.

    Raises:
        OSError: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
