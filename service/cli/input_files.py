"""Files and servers that arguments name, private keys and passphrases.

`show` needs all of these, and none of what the other options import.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import stat
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from service.cli.terminal import CommandError, warn
from service.gateway.listening import bracket_host

if TYPE_CHECKING:  # slow to import, and most commands do not need it
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

KEY_PASSPHRASE: Final = "CERTLET_KEY_PASSPHRASE"  # noqa: S105 - the variable's name, not its value
FILE_SUFFIX: Final = "_FILE"  # of the variables that name a file with a passphrase
MIN_PASSPHRASE: Final = 16  # characters
MIN_DIFFERENT: Final = 8  # characters
MAX_PASSPHRASE: Final = 1023  # bytes: OpenSSL encrypts no private key with more
_EMPTY_PATH: Final = "the path is empty"
_HTTPS_PORT: Final = 443


class _Path(click.Path):
    """A path, which is not empty: `Path("")` would be the current directory.

    A missing or unreadable file is an error of the command (exit status 1), not of its arguments (2).
    """

    def __init__(self, name: str) -> None:
        super().__init__(path_type=Path, readable=False)
        self.name = name

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 - as in click
        """Convert an argument to a Path."""
        if value == "":
            self.fail(_EMPTY_PATH, param, ctx)
        return super().convert(value, param, ctx)


FILE: Final = _Path("file")
DIRECTORY: Final = _Path("dir")


class Address(NamedTuple):
    """A host, which is a DNS name in ASCII or an IP address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `HOST:PORT`, as in a URL."""
        return f"{bracket_host(self.host)}:{self.port}"


def parse_address(text: str) -> Address | None:
    """Parse `https://HOST[:PORT]` or `HOST:PORT`; None for other texts, such as the name of a file."""
    is_url = text.lower().startswith("https://")
    if not is_url and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]]+):[0-9]{1,5}", text):
        return None
    try:
        parts = urllib.parse.urlsplit(text if is_url else f"https://{text}")
        host, port = parts.hostname or "", _HTTPS_PORT if parts.port is None else parts.port
        if not host.isascii():
            import idna  # noqa: PLC0415 - loading its tables takes 10 ms, and few hosts need them

            host = idna.encode(host, uts46=True).decode("ascii")
    except ValueError:  # includes idna.IDNAError
        return None
    return Address(host, port) if host and port else None


def find_address(file: str) -> Address | None:
    """Return the address that a FILE argument is; None for an existing file and for `-`.

    Raises:
        CommandError: there is no such file, and it is not an address.
        click.UsageError: the argument is empty.
    """
    if not file:
        raise click.UsageError(_EMPTY_PATH)
    if file == "-" or Path(file).exists():
        return None
    if address := parse_address(file):
        return address
    hint = "the address of a server is HOST:PORT or https://HOST"
    raise CommandError(f"{file}: {os.strerror(errno.ENOENT)} ({hint})")


def read_secret(variable: str) -> bytes | None:
    """Read a passphrase from an environment variable, or from the file that VARIABLE_FILE names.

    Returns:
        the passphrase, without the newline at the end of the file; None if neither variable is set.

    Raises:
        CommandError: both are set; or the passphrase is empty, unreadable or more than a line.
    """
    value, path = os.environ.get(variable), os.environ.get(f"{variable}{FILE_SUFFIX}")
    if path is None:
        if value == "":
            raise CommandError(f"{variable} is set but empty")
        return os.fsencode(value) if value else None
    if value is not None:
        raise CommandError(f"{variable} and {variable}{FILE_SUFFIX} are both set: set only one")
    try:
        secret = Path(path).read_bytes().removesuffix(b"\n")
    except OSError as error:
        raise CommandError(f"{variable}{FILE_SUFFIX}: {path!r}: {error.strerror}") from error
    if not secret or b"\n" in secret or b"\0" in secret:
        raise CommandError(f"{variable}{FILE_SUFFIX}: {path!r} does not contain one line, the passphrase")
    return secret


def read_new_secret(variable: str) -> bytes | None:
    """Return a passphrase that is to encrypt a file, as `read_secret` does; warn if it is weak.

    Raises:
        CommandError: as `read_secret`; or the passphrase is too long.
    """
    passphrase = read_secret(variable)
    if passphrase is not None:
        if len(passphrase) > MAX_PASSPHRASE:
            raise CommandError(f"{variable} has more than {MAX_PASSPHRASE} bytes: choose a shorter one")
        warn_if_weak(variable, passphrase.decode(errors="replace"))
    return passphrase


def warn_if_weak(name: str, passphrase: str) -> None:
    """Warn if a passphrase has few characters, or few different ones; `name` is that of the passphrase."""
    if len(passphrase) < MIN_PASSPHRASE or len(set(passphrase)) < MIN_DIFFERENT:
        warn(
            f"warning: {name} is weak: use at least {MIN_PASSPHRASE} characters, {MIN_DIFFERENT} of them "
            "different, for example the output of openssl rand -base64 24"
        )


def load_private_key(path: Path, variable: str = KEY_PASSPHRASE) -> CertificateIssuerPrivateKeyTypes:
    """Load a private key with the passphrase in an environment variable; CAError if that fails.

    Prints a warning if other users can read the file.
    """
    from service.keystore import ca_directory  # noqa: PLC0415 - slow to import

    key = ca_directory.load_private_key(path, read_secret(variable), variable)
    for warning in exposure_warnings([path]):
        warn(f"warning: {warning}")
    return key


def exposure_warnings(paths: Iterable[Path]) -> Iterator[str]:
    """Warn of each of these files that its group or every user can read; see `find_exposed`."""
    return (f"{text}: {remedy}" for text, remedy in find_exposed(paths))


def find_exposed(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield a text and a remedy for each of these files that its group or every user can read.

    Files need not exist. A file of another user has to be readable by a group of this one, as a Secret in a
    Kubernetes pod is.
    """
    user = os.geteuid()
    for path in paths:
        with contextlib.suppress(OSError):  # reported where the file is opened
            status = path.stat()
            mode = status.st_mode
            unexpected = stat.S_IROTH | (stat.S_IRGRP if user in (0, status.st_uid) else 0)
            if stat.S_ISREG(mode) and mode & unexpected:
                readers = "every user" if mode & stat.S_IROTH else "its group"
                yield f"{path} is readable by {readers}", f"chmod 600 {shlex.quote(str(path))}"
