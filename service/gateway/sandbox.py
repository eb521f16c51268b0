"""A sandbox for processes that talk to strangers, by Landlock (Linux 5.13 and newer).

The gateway process can read Python, its packages, the resolver's files and its own TLS key. It cannot access
the CA's directory, `~/.aws` and `/proc`, even as root. Landlock also denies access to the memory and the
descriptors of other processes. Newer kernels deny signals to them, and outgoing TCP connections too: the
metadata service of a cloud would return credentials.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

UNSUPPORTED: Final = "this kernel has no Landlock, so the HTTP process can read all files of this user"

# linux/landlock.h; the numbers of the system calls are the same on all architectures except Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_RULE_NET_PORT: Final = 2
_READ_FILE: Final = 1 << 2
_READ: Final = _READ_FILE | 1 << 3  # files and directories
_FS_RIGHTS: Final = (13, 14, 15, 15, 16)  # number of rights by ABI version, from 1; all are denied
_NET_ABI: Final = 4
_NET_CONNECT_TCP: Final = 2  # from `_NET_ABI`
_SCOPE_ABSTRACT_UNIX_SOCKET_AND_SIGNAL: Final = 3  # from ABI 6
_PR_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h

_RESOLVER: Final = ("hosts", "resolv.conf", "nsswitch.conf", "host.conf", "gai.conf", "services", "localtime")
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")


def is_supported() -> bool:
    """Whether the kernel supports Landlock."""
    return _abi() > 0


def enter(
    secret: Iterable[Path],
    ports: Iterable[int] = (),
    readable: Iterable[Path] = (),
) -> None:
    """Restrict this thread and the threads that it starts, permanently. Without Landlock, do nothing.

    Args:
        secret: directories and files that stay inaccessible, even if a directory of packages contains them.
        ports: the TCP ports to which the process may connect, at any address.
        readable: further files and directories that the process may read, unless they contain a secret.

    Raises:
        OSError: the kernel refuses.
    """
    abi = _abi()
    if abi < 1:
        return
    rights = (1 << _FS_RIGHTS[min(abi, len(_FS_RIGHTS)) - 1]) - 1
    # struct landlock_ruleset_attr
    attribute = struct.pack("=QQQ", rights, _NET_CONNECT_TCP, _SCOPE_ABSTRACT_UNIX_SOCKET_AND_SIGNAL)
    size = 8 if abi < _NET_ABI else 16 if abi < 6 else 24  # noqa: PLR2004 - the members that each ABI has
    ruleset = _syscall(_CREATE_RULESET, attribute, ctypes.c_size_t(size), 0)
    try:
        for path in readable_paths(secret, readable):
            _allow(ruleset, path)
        for port in ports if abi >= _NET_ABI else ():
            # struct landlock_net_port_attr
            _syscall(_ADD_RULE, ruleset, _RULE_NET_PORT, struct.pack("=QQ", _NET_CONNECT_TCP, port), 0)
        if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError("no_new_privs cannot be set")
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def readable_paths(secret: Iterable[Path], others: Iterable[Path] = ()) -> list[Path]:
    """The paths that a serving Python process may need to read, without directories that contain a secret.

    Others are added.
    """
    hidden = [path.resolve() for path in (*secret, Path("~/.aws").expanduser(), Path("/proc"))]
    packages = [Path(path) for path in sys.path if path]
    service = Path(__file__).parents[1]
    paths = [*map(Path, _LIBRARIES), *(Path("/etc", name) for name in _RESOLVER), service, *packages, *others]
    return [path for path in paths if not any(secret.is_relative_to(path.resolve()) for secret in hidden)]


def _allow(ruleset: int, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it does not exist
        return
    try:
        rights = _READ if path.is_dir() else _READ_FILE
        attribute = struct.pack("=Qi", rights, descriptor)  # struct landlock_path_beneath_attr
        _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, attribute, 0)
    finally:
        os.close(descriptor)


def _abi() -> int:
    """The ABI version of Landlock; 0 or less if it is not supported."""
    try:
        return _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
