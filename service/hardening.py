"""Protection of a process's memory: no core file, and no debugger of the same user.

Workers have the CA's key in memory, the supervisor has the passphrase, the gateway has API keys. A core file
of any of them would contain these secrets, in a directory without protection.
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
    "CERTLET_ID_TOKEN",
    "CERTLET_TOKEN_USAGE_KEY",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "AWS_",
)
"""Prefixes of environment variables that may contain secrets; only processes that need them get them."""

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def disable_core_dumps_and_ptrace() -> None:
    """Disable core dumps of this process, and access to its memory by anyone but root.

    This sets RLIMIT_CORE to 0, which children inherit. The kernel ignores that limit if it pipes cores to a
    program, so on Linux this also clears PR_SET_DUMPABLE (prctl(2)). `execve` resets that flag, so each
    process has to call this function. Without the flag, other processes of the same user cannot read
    /proc/PID/mem and /proc/PID/environ: an attacker in the gateway cannot read a worker's memory.

    Raises:
        OSError: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
