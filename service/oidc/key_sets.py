"""The keys of issuers: JWK Sets (RFC 7517 5), from a URL or a file.

The last good set stays in use for a day while the source is damaged or not available. A well-formed set
replaces the earlier one even if it has no usable key, since the issuer has withdrawn the others.

Times are those of the clock and not monotonic ones, which do not count while a function or machine is
suspended.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from joserfc.jwk import Key

from service.atomic_write import file_version
from service.oidc import download
from service.oidc.jwk_set import JwkSet, parse_jwk_set
from service.pki.errors import escape_controls
from service.pki.identity_rules import IdentityRule
from service.pki.token_identity import KeysUnavailableError

REFRESH_INTERVAL: Final = timedelta(hours=1)
RETRY_INTERVAL: Final = timedelta(minutes=1)  # after a failure, or for a key that is not in the set
MAX_AGE: Final = timedelta(hours=24)  # of a set whose source is damaged or not available
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


class KeySet(Protocol):
    """The current keys of an issuer."""

    def find(self, key_id: str, algorithm: str) -> Key | None:
        """Return the key with this `kid` if it can verify this algorithm; None if there is none.

        Raises:
            KeysUnavailableError: the set was never loaded, or too long ago; or it has no usable key.
        """


class _LoadedKeySet(ABC):
    """The last good set of a source. One thread at a time reads the source; others wait."""

    def __init__(self, rule_name: str, source: str, clock: Clock) -> None:
        self._label = f"rule {rule_name}: the keys from {escape_controls(source)}"
        self._clock = clock
        self._lock = threading.Lock()
        self._jwk_set = JwkSet({}, 0)
        self._good_at = self._attempted_at = self._logged_at = _NEVER
        self._problem = ""

    def find(self, key_id: str, algorithm: str) -> Key | None:
        """Implement `KeySet`."""
        with self._lock:
            now = self._clock()
            times = self._good_at, self._attempted_at, self._logged_at  # the clock may have been set back
            self._good_at, self._attempted_at, self._logged_at = (min(time, now) for time in times)
            return self._find(key_id, algorithm, now)

    @abstractmethod
    def _find(self, key_id: str, algorithm: str, now: datetime) -> Key | None:
        """Find a key, after reading the source if necessary."""

    @abstractmethod
    def _read(self) -> bytes:
        """Read the source."""

    def _get(self, key_id: str, algorithm: str, now: datetime) -> Key | None:
        if now - self._good_at > MAX_AGE:
            self._jwk_set = JwkSet({}, 0)
        if not self._jwk_set.keys:
            raise KeysUnavailableError(f"{self._label} are not available: {self._problem}")
        return self._jwk_set.keys.get((key_id, algorithm))

    def _refresh(self, now: datetime) -> bool:
        """Read the set; keep the earlier one if that fails. Return whether there is a usable new one."""
        self._attempted_at = now
        try:
            jwk_set = parse_jwk_set(self._read())
        except download.DownloadError as error:
            self._report(str(error), now)
            return False
        except OSError as error:
            self._report(error.strerror or "cannot be read", now)
            return False
        except ValueError as error:
            self._report(f"not a JWK Set: {error}", now)
            return False
        self._jwk_set = jwk_set
        self._good_at = now if jwk_set.keys else _NEVER
        _log.info("%s were read: %d are usable", self._label, len(jwk_set.keys))
        if not jwk_set.keys:
            self._report("no key can verify tokens", now)
        elif jwk_set.secrets:
            self._report(f"the issuer published {jwk_set.secrets} private or symmetric keys; ignored", now)
        return bool(jwk_set.keys)

    def _report(self, problem: str, now: datetime) -> None:
        self._problem = escape_controls(problem)
        if now - self._logged_at >= RETRY_INTERVAL:
            self._logged_at = now
            _log.warning("%s: %s", self._label, self._problem)


class RemoteKeySet(_LoadedKeySet):
    """A set that a server publishes by https.

    It is downloaded when the first token needs it, and again after an hour, or for a key that is not in it;
    at most once a minute, whatever the result was.
    """

    def __init__(self, rule_name: str, url: str, ca_file: Path | None, clock: Clock) -> None:
        """Prepare to download.

        Args:
            rule_name: the name of a rule, for messages.
            url: an https URL.
            ca_file: PEM certificates that verify the server; None for those of the system.
            clock: returns the current time, UTC.

        Raises:
            ValueError: the URL is not https, or the file contains no certificate or cannot be read.
        """
        super().__init__(rule_name, url, clock)
        if not url.startswith("https://"):
            raise ValueError(f"rule {rule_name}: the URL of the keys does not start with https://")
        self._url, self._ca_file = url, ca_file
        if ca_file:
            try:
                download.create_tls_context(ca_file)
            except OSError as error:
                message = f"rule {rule_name}: {ca_file} cannot be read, or contains no certificate"
                raise ValueError(message) from error

    def _find(self, key_id: str, algorithm: str, now: datetime) -> Key | None:
        may_refresh = now - self._attempted_at >= RETRY_INTERVAL
        if may_refresh and now - self._good_at >= REFRESH_INTERVAL:
            self._refresh(now)
            may_refresh = False
        key = self._get(key_id, algorithm, now)
        if key is None and may_refresh:
            self._refresh(now)
            key = self._get(key_id, algorithm, now)
        return key

    def _read(self) -> bytes:
        # The certificates of the system take some 20 ms, and may change.
        return download.download(self._url, download.create_tls_context(self._ca_file))


class FileKeySet(_LoadedKeySet):
    """A set in a file, which is read again when it changes."""

    def __init__(self, rule_name: str, path: Path, clock: Clock) -> None:
        """Prepare to read.

        Args:
            rule_name: the name of a rule, for messages.
            path: the file.
            clock: returns the current time, UTC.
        """
        super().__init__(rule_name, str(path), clock)
        self._path = path
        self._version: tuple[int, ...] = ()
        self._is_good = False

    def _find(self, key_id: str, algorithm: str, now: datetime) -> Key | None:
        version = file_version(self._path)
        is_due = not self._is_good and now - self._attempted_at >= RETRY_INTERVAL
        if version != self._version or is_due:
            self._version = version
            self._is_good = self._refresh(now)
        elif self._is_good:
            self._good_at = now
        return self._get(key_id, algorithm, now)

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            data = file.read(download.MAX_BODY + 1)
        if len(data) > download.MAX_BODY:
            raise ValueError(f"more than {download.MAX_BODY} octets")
        return data


def create_key_sets(rules: Sequence[IdentityRule], directory: Path, clock: Clock) -> Mapping[str, KeySet]:
    """Create the key sets of rules; those with the same source share one.

    Args:
        rules: the rules.
        directory: where their files are.
        clock: returns the current time, UTC.

    Returns:
        name of a rule -> its key set.

    Raises:
        ValueError: as `RemoteKeySet` does; the message names the rule.
    """
    sources: dict[tuple[str, str, str], KeySet] = {}
    for rule in rules:
        source = _source(rule)
        if source in sources:
            continue
        if rule.jwks_file:
            sources[source] = FileKeySet(rule.name, directory / rule.jwks_file, clock)
        else:
            ca_file = directory / rule.ca_file if rule.ca_file else None
            sources[source] = RemoteKeySet(rule.name, rule.jwks_url, ca_file, clock)
    return {rule.name: sources[_source(rule)] for rule in rules}


def _source(rule: IdentityRule) -> tuple[str, str, str]:
    return rule.jwks_url, rule.ca_file, rule.jwks_file
