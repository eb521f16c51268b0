"""The worker that verifies tokens, locally: what the authorizer does on AWS.

It fetches the keys of issuers, so it needs the network, which the gateway process does not have, and may
wait for it, which would delay the workers. It gets no secret, and cannot access the CA's directory.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from service import log_level, openapi
from service.gateway import sandbox
from service.oidc.tokens import TokenVerifier, create_verifier
from service.pki.identity_rules import IdentityRule
from service.pki.token_identity import KeysUnavailableError
from service.settings import CA, LEDGER, PROFILES, identity_directory
from service.web import authorizer

_HTTPS_PORT: Final = 443
_DNS_PORT: Final = 53
# The certificates of the system, of which its directory has links to others.
_CERTIFICATES: Final = ("/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/pki")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Handle the event of a REQUEST authorizer.

    Returns:
        the authorizer's policy; empty if the keys of the token's issuer are not available.
    """
    try:
        return authorizer.authorize(event, _verifier().verify)
    except KeysUnavailableError:  # the key set logs the cause, at most once a minute
        return {}


def init() -> None:
    """Load the rules, then enter the sandbox.

    Raises:
        OverridesError, ProfileError, OSError: as `openapi.load` and `sandbox.enter`.
    """
    log_level.configure(os.environ.get(log_level.VARIABLE, ""))
    _verifier()
    rules, directory = _rules(), identity_directory(_profiles())
    files = [directory / name for rule in rules for name in (rule.jwks_file, rule.ca_file) if name]
    ports = {urlsplit(rule.jwks_url).port or _HTTPS_PORT for rule in rules if rule.jwks_url}
    sandbox.enter(_secrets(os.environ), ports=(*ports, _DNS_PORT), readable=_readable(files))


@functools.cache
def _rules() -> Sequence[IdentityRule]:
    return openapi.parse_policy(openapi.load(_profiles())).identities


@functools.cache
def _verifier() -> TokenVerifier:
    return create_verifier(_rules(), identity_directory(_profiles()), lambda: datetime.now(UTC))


def _profiles() -> Path | None:
    return Path(path) if (path := os.environ.get(PROFILES)) else None


def _secrets(environ: Mapping[str, str]) -> list[Path]:
    ledger = environ.get(LEDGER)
    return [Path(environ[CA]), *([Path(ledger).parent] if ledger else [])]


def _readable(files: Sequence[Path]) -> Iterator[Path]:
    """Yield files and directories to read: a file that is replaced is another one to the sandbox."""
    yield from files
    yield from (file.parent for file in files)
    yield from map(Path, _CERTIFICATES)
    paths = ssl.get_default_verify_paths()
    yield from (Path(path) for path in (paths.cafile, paths.capath) if path)
