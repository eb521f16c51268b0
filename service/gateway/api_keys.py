"""API keys: their file, which stores SHA-256 digests only, and the lookup of a caller's key."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from service import atomic_write, credentials

MIN_KEY_LENGTH: Final = 30  # API Gateway's bounds for a key's value
MAX_KEY_LENGTH: Final = 128
_ID_DIGITS: Final = 12
_SHA256: Final = re.compile("[0-9a-f]{64}")
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"  # RFC 3339, UTC

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


def key_id(sha256: str) -> str:
    """The ID of the key with this SHA-256: its first 12 digits, which anyone who has the key can compute."""
    return sha256[:_ID_DIGITS]


def generate_key() -> str:
    """Generate an API key: 240 random bits, 40 characters."""
    return secrets.token_urlsafe(30)


@dataclass(frozen=True)
class ApiKey:
    """An API key, without its value.

    Attributes:
        name: the principal, which may have several keys.
        sha256: the SHA-256 of the value, in hexadecimal.
        created: the time of creation, UTC; None for a key of an earlier version, or of the environment.
        expires: the time from which on the key is refused, UTC; None for a key without an end.
    """

    name: str
    sha256: str = field(repr=False)
    created: datetime | None = None
    expires: datetime | None = None

    @property
    def key_id(self) -> str:
        """The ID."""
        return key_id(self.sha256)

    def is_expired(self, now: datetime) -> bool:
        """Whether the key has expired."""
        return self.expires is not None and self.expires <= now


def encode_keys(keys: Iterable[ApiKey]) -> bytes:
    """Encode the content of a file of API keys."""
    return json.dumps(to_json(keys), indent=2).encode()


def to_json(keys: Iterable[ApiKey]) -> dict[str, list[dict[str, str]]]:
    """Convert keys to JSON: principal -> its keys."""
    content: dict[str, list[dict[str, str]]] = {}
    for key in keys:
        times = {"created": format_time(key.created), "expires": format_time(key.expires)}
        member = {"sha256": key.sha256, **{name: time for name, time in times.items() if time}}
        content.setdefault(key.name, []).append(member)
    return content


def from_json(content: object) -> list[ApiKey]:
    """Convert JSON to keys: what `to_json` returns, or name -> SHA-256 as in earlier versions.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(content, dict):
        raise ValueError("not an object")  # noqa: TRY004 - an invalid file, not an invalid argument
    keys = []
    for name, members in content.items():
        try:
            keys += [
                _create_key(name, **member)
                for member in ([{"sha256": members}] if isinstance(members, str) else members)
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(f"the entry {name!r} is malformed") from error
    return keys


def _create_key(name: str, *, sha256: str, created: str | None = None, expires: str | None = None) -> ApiKey:
    if not _SHA256.fullmatch(sha256):
        raise ValueError("not a SHA-256")
    return ApiKey(name, sha256, _parse_time(created), _parse_time(expires))


def format_time(time: datetime | None) -> str | None:
    """Format a time, UTC, by RFC 3339 in whole seconds; None if there is none."""
    return time.strftime(_TIME_FORMAT) if time else None


def _parse_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)


class KeyFile:
    """The file of API keys, of mode 0600: names, SHA-256 digests and times, never the keys themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[ApiKey]:
        """Read the keys, those of a principal in the order of their creation; [] if the file does not exist.

        Raises:
            KeyFileError: the file cannot be read, or is not what `encode_keys` returns.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, FileNotFoundError) and not self.path.is_symlink():
                return []
            raise KeyFileError(f"{self.path} cannot be read as a file of API keys: {error}") from error
        try:
            return from_json(content)
        except ValueError as error:
            raise KeyFileError(f"{self.path} is not a file of API keys: {error}") from error

    def add(self, name: str, value: str, created: datetime, expires: datetime | None = None) -> list[ApiKey]:
        """Add a key, and return all keys of the principal, the new one last.

        Raises:
            KeyFileError: the value is already used, or the name or the value is not acceptable.
        """
        try:
            credentials.verify_name(name)
        except ValueError as error:
            raise KeyFileError(f"a key's name {error}") from error
        new = ApiKey(name, hash_key(value), created, expires)
        with self._lock():
            keys = self.read()
            if other := next((key for key in keys if key.key_id == new.key_id), None):
                raise KeyFileError(
                    f"this key is already registered as {other.name!r}: a key has only one name"
                )
            keys.append(new)
            self._write(keys)
        return [key for key in keys if key.name == name]

    def remove(self, key_id_or_name: str) -> tuple[ApiKey, list[ApiKey]]:
        """Remove a key by its ID, or by the name of its principal if that has no other key.

        Returns:
            The key, and the other keys of its principal.

        Raises:
            KeyFileError: no key has this ID or name, or several have the name.
        """
        unknown = KeyFileError(
            f"no key has the ID or name {key_id_or_name!r}: certlet api-key list shows all"
        )
        if not self.path.exists():  # its directory, which the lock needs, may not exist either
            raise unknown
        with self._lock():
            keys = self.read()
            matches = [key for key in keys if key.key_id == key_id_or_name]
            matches = matches or [key for key in keys if key.name == key_id_or_name]
            if not matches:
                raise unknown
            if len(matches) > 1:
                ids = " or ".join(key.key_id for key in matches)
                raise KeyFileError(f"{key_id_or_name!r} has {len(matches)} keys: pass the ID of one: {ids}")
            (removed,) = matches
            keys.remove(removed)
            self._write(keys)
        return removed, [key for key in keys if key.name == removed.name]

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        """Allow one command at a time: otherwise, one would undo the change of another."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return atomic_write.locked_directory(self.path.parent)

    def _write(self, keys: Iterable[ApiKey]) -> None:
        """Replace the file atomically, so that a running gateway never reads a partial file."""
        atomic_write.write_atomically(self.path, encode_keys(keys), 0o600)


class ApiKeys:
    """The keys: those of the file, which is read again after a change, and of the environment.

    A key of the environment replaces all keys of its name in the file.
    """

    def __init__(self, file: KeyFile, env_keys: Mapping[str, str]) -> None:
        """Read no file yet.

        Args:
            file: the file.
            env_keys: name -> SHA-256 of the keys of the environment, which do not expire.
        """
        self._file = file
        self._env_keys = [ApiKey(name, sha256) for name, sha256 in env_keys.items()]
        self._version: tuple[int, ...] | None = None
        self._keys: list[ApiKey] = []

    def identify(self, value: str) -> ApiKey | None:
        """The key with this value, which may have expired, or None. Compares in constant time."""
        self._refresh()
        value_digest = hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256.encode(), value_digest.encode()):
                match = key
        return match

    def _refresh(self) -> None:
        version = atomic_write.file_version(self._file.path)
        if version != self._version:
            env_names = {key.name for key in self._env_keys}
            self._keys = [key for key in self._file.read() if key.name not in env_names] + self._env_keys
            self._version = version
            _log.info("%d API keys are loaded", len(self._keys))
