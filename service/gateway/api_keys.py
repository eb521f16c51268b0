"""API keys: their file, which stores SHA-256 digests only, and the lookup of a caller's key."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from service import atomic_write, credentials

MIN_KEY_LENGTH: Final = 30  # API Gateway's bounds for a key's value
MAX_KEY_LENGTH: Final = 128

_log = logging.getLogger(__name__)


class KeyFileError(ValueError):
    """The file of API keys is unusable, or the name or value of a key is not acceptable."""


def hash_key(value: str) -> str:
    """The SHA-256 of an API key, in hexadecimal.

    Raises:
        KeyFileError: the value does not consist of 30 to 128 visible ASCII characters.
    """
    visible = value.isascii() and value.isprintable() and " " not in value
    if not visible or not MIN_KEY_LENGTH <= len(value) <= MAX_KEY_LENGTH:
        raise KeyFileError(f"an API key has {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} visible ASCII characters")
    return hashlib.sha256(value.encode()).hexdigest()


def generate_key() -> str:
    """Generate an API key: 240 random bits, 40 characters."""
    return secrets.token_urlsafe(30)


def encode_keys(keys: Mapping[str, str]) -> bytes:
    """Encode the content of a file of API keys.

    Args:
        keys: name -> SHA-256.
    """
    return json.dumps(keys, indent=2).encode()


class KeyFile:
    """The file of API keys, of mode 0600: names and SHA-256 digests, never the keys themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Read name -> SHA-256; empty if the file does not exist.

        Raises:
            KeyFileError: the file cannot be read, or is not what `encode_keys` returns.
        """
        try:
            keys = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, FileNotFoundError) and not self.path.is_symlink():
                return {}
            raise KeyFileError(f"{self.path} cannot be read as a file of API keys: {error}") from error
        if not isinstance(keys, dict) or not all(isinstance(digest, str) for digest in keys.values()):
            raise KeyFileError(f"{self.path} is not a file of API keys")
        return keys

    def add(self, name: str, value: str) -> None:
        """Add a key.

        Raises:
            KeyFileError: the name or the value is already used, or is not acceptable.
        """
        try:
            credentials.verify_name(name)
        except ValueError as error:
            raise KeyFileError(f"a key's name {error}") from error
        key_digest = hash_key(value)
        with self._lock():
            keys = self.read()
            if name in keys:
                raise KeyFileError(f"a key named {name!r} already exists: choose another name")
            if other := next((other for other, digest in keys.items() if digest == key_digest), None):
                raise KeyFileError(f"this key is already registered as {other!r}: a key has only one name")
            self._write({**keys, name: key_digest})

    def remove(self, name: str) -> None:
        """Remove a key.

        Raises:
            KeyFileError: no key has this name.
        """
        if not self.path.exists():  # its directory, which the lock needs, may not exist either
            raise KeyFileError(f"no key is named {name!r}")
        with self._lock():
            keys = self.read()
            if name not in keys:
                raise KeyFileError(f"no key is named {name!r}")
            del keys[name]
            self._write(keys)

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        """Allow one command at a time: otherwise, one would undo the change of another."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return atomic_write.locked_directory(self.path.parent)

    def _write(self, keys: Mapping[str, str]) -> None:
        """Replace the file atomically, so that a running gateway never reads a partial file."""
        atomic_write.write_atomically(self.path, encode_keys(keys), 0o600)


class ApiKeys:
    """The valid keys: those of the file, which is read again after a change, and of the environment."""

    def __init__(self, file: KeyFile, env_keys: Mapping[str, str]) -> None:
        self._file = file
        self._env_keys = env_keys
        self._version: tuple[int, ...] | None = None
        self._keys: dict[str, str] = {}

    def identify(self, value: str) -> str | None:
        """The name of the key with this value; None if no key has it. Compares in constant time."""
        self._refresh()
        value_digest = hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
        match = None
        for name, digest in self._keys.items():
            if hmac.compare_digest(digest.encode(), value_digest.encode()):
                match = name
        return match

    def _refresh(self) -> None:
        version = atomic_write.file_version(self._file.path)
        if version != self._version:
            self._keys = {**self._file.read(), **self._env_keys}
            self._version = version
            _log.info("%d API keys are loaded", len(self._keys))
