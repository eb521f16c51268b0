"""Reloads of `certlet serve`, after SIGHUP. Each prints one line: what changed, or why nothing did."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Final

from service import atomic_write
from service.cli.options import KEY_FILE
from service.cli.terminal import CommandError, describe_os_error, warn
from service.gateway.api_keys import KeyFile
from service.keystore import acme_principals, ca_directory, revocation_file
from service.pki import encoding
from service.pki.errors import escape_controls
from service.settings import AUDIT_LOG, CA_KEY, CA_PASSPHRASE
from service.supervisor import Apply, Setup

_FILES: Final = (
    ca_directory.PREVIOUS_CERTIFICATES,
    ca_directory.CA_STATUS,
    ca_directory.SERIAL_KEY,
    ca_directory.STATUS_URL,
    ca_directory.ACME_KEY,
    acme_principals.ACME_PRINCIPALS,
    revocation_file.REVOKED,
    revocation_file.DENY_LIST,
)
_PROFILES: Final = "profiles"
_API_KEYS: Final = "API keys"
_CA: Final = "CA"
_TLS: Final = "TLS certificate"
_AUDIT_LOG: Final = "audit log"

_log = logging.getLogger(__name__)

_State = dict[str, object]
"""The name of a part that a reload can change -> a value that changes with it."""


class Reloads:
    """Reloads a server, and compares each reload with the one before."""

    def __init__(self, settings: SimpleNamespace, load: Callable[[], Setup]) -> None:
        """Prepare to reload.

        Args:
            settings: the options of the server; `ca` is absolute.
            load: verifies and loads everything again; its errors say why not.
        """
        self._settings = settings
        self._load = load
        self._state: _State = {}

    def remember(self, setup: Setup) -> None:
        """Remember the state after the start, with which the first reload is compared."""
        self._state = self._read_state(setup)

    def reload(self, apply: Apply) -> str:
        """Load and apply everything, and print what changed; or change nothing, and print why.

        Returns:
            the line, without the name of the program.
        """
        try:
            line = f"reloaded: {self._reload(apply)}"
        except OSError as error:
            line = f"not reloaded: {describe_os_error(error)}"
        except Exception as error:  # noqa: BLE001 - the server goes on after any error
            if not type(error).__module__.startswith("service."):  # not one of our own
                _log.exception("the reload failed")
            line = f"not reloaded: {error}"
        line = escape_controls(" ".join(line.split()))
        warn(f"certlet: {line}")
        return line

    def _reload(self, apply: Apply) -> str:
        setup = self._load()
        state = self._read_state(setup)
        if state[_TLS] != self._state[_TLS]:
            setup = self._with_tls_files(setup)
        apply(setup)
        state[_AUDIT_LOG] = _find_file(setup.environ.get(AUDIT_LOG))  # the new workers may have created it
        before, self._state = self._state, state
        return ", ".join(_describe(before, state)) or "nothing changed"

    def _read_state(self, setup: Setup) -> _State:
        ca, settings = self._settings.ca, self._settings
        signing, _ = ca_directory.load_chain(ca)
        key_name = setup.environ.get(CA_KEY, "").removeprefix("file:") or ca_directory.SIGNING_KEY
        ca_files = (ca_directory.SIGNING_CERTIFICATE, ca_directory.ROOT_CERTIFICATE, key_name)
        document = json.dumps(setup.configuration.document).encode()
        return {
            _PROFILES: hashlib.sha256(document).digest(),
            _API_KEYS: frozenset(KeyFile(ca / KEY_FILE).read()),
            _CA: (encoding.fingerprint(signing), *_versions(ca / name for name in ca_files)),
            "passphrase": setup.environ.get(CA_PASSPHRASE),
            **{name: atomic_write.file_version(ca / name) for name in _FILES},
            _TLS: _versions(path for path in (settings.tls_cert, settings.tls_key) if path),
            _AUDIT_LOG: _find_file(setup.environ.get(AUDIT_LOG)),
        }

    def _with_tls_files(self, setup: Setup) -> Setup:
        """Return the set-up with the content of the operator's TLS files, which the gateway cannot read."""
        paths = self._settings.tls_cert, self._settings.tls_key
        certificate, key = (path.read_text("ascii", "replace") for path in paths)
        if "ENCRYPTED" in key:  # in the label (RFC 7468 11) or the header (RFC 1421) of the key
            raise CommandError(f"--tls-key {paths[1]} is encrypted: restart the server to use another one")
        configuration = replace(setup.configuration, tls_certificate_pem=certificate, tls_key_pem=key)
        return replace(setup, configuration=configuration)


def _versions(paths: Iterator[Path]) -> tuple[object, ...]:
    return tuple(atomic_write.file_version(path) for path in paths)


def _find_file(path: str | None) -> tuple[int, ...]:
    """Return what changes if a file is replaced, but not if it is written; () if there is none."""
    return atomic_write.file_version(path)[:2] if path else ()


def _describe(before: _State, after: _State) -> Iterator[str]:
    """Yield the parts that changed, with details of some."""
    for name in [name for name, value in after.items() if value != before[name]]:
        old, new = before[name], after[name]
        if name == _API_KEYS and isinstance(old, frozenset) and isinstance(new, frozenset):
            counts = {"added": len(new - old), "removed": len(old - new)}
            yield f"{name} ({', '.join(f'{count} {verb}' for verb, count in counts.items() if count)})"
        elif name == _CA and isinstance(old, tuple) and isinstance(new, tuple) and old[0] != new[0]:
            yield f"{name} (the signing CA has the fingerprint {new[0]})"
        else:
            yield name
